"""Which context set a command line means: a file, a folder, or a task of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.files import read_context
from scribblesegment.context.store import ContextStore
from scribblesegment.data.volume import Segment
from scribblesegment.errors import ContextError


def open_context(file_or_task: str) -> ContextSet:
    """Read a context set: that of a task, or else a file or folder.

    Raises:
        ContextError: There is neither such a task nor such a file.
        FileFormatError: The file is damaged.
    """
    store = ContextStore()
    if file_or_task in store:
        return store.load(file_or_task)
    if Path(file_or_task).exists():
        return read_context(file_or_task)
    tasks = ", ".join(repr(task.name) for task in store.list_tasks()) or "none"
    raise ContextError(
        f"{file_or_task!r} is neither a file or folder nor a task with a context set; tasks are: {tasks}."
    )


def contexts_by_label(contexts: Sequence[ContextSet], segments: Sequence[Segment]) -> dict[int, ContextSet]:
    """Find the segment that each context set is for, by its name; a single segment takes any set.

    Raises:
        ContextError: A set that fits none or several segments, or two for one segment.
    """
    found: dict[int, ContextSet] = {}
    for context in contexts:
        wanted = context.label_name.casefold()
        fitting = [one for one in segments if one.name.strip().casefold() == wanted]
        if not fitting and len(segments) == 1:
            fitting = list(segments)
        if len(fitting) != 1:
            names = ", ".join(repr(one.name) for one in segments)
            raise ContextError(
                f"The context set is for {context.label_name!r}, but {len(fitting)} segments have that name; there are "
                f"{names}. Name one of them as the set is named."
            )
        if fitting[0].label in found:
            raise ContextError(f"Two context sets are for the segment {fitting[0].name!r}. Give one.")
        found[fitting[0].label] = context
    return found
