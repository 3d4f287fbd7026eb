"""The user's context sets, by the names of tasks, in the user's data folder.

Each task is a folder as `scribblesegment.context.files` writes it, with a task.json that holds the task's name. The
folders' own names only resemble the tasks', so that any name will do on any operating system.

Programs that save at the same time wait for each other, and what is read meanwhile is the old set or the new one, never
a mixture. If two change the same task, the later one wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scribblesegment.context.context_set import ContextSet, checked_name
from scribblesegment.context.files import (
    holds_other_files,
    read_context,
    read_context_summary,
    read_plain_file,
    remove_context_folder,
    write_context_file,
    write_context_folder,
)
from scribblesegment.errors import ContextError, FileFormatError
from scribblesegment.io.fields import Fields, parse_json
from scribblesegment.io.storage import PathLike, atomic_file, file_lock, system_errors, user_folder

FOLDER_VARIABLE = "SCRIBBLESEGMENT_CONTEXTS_DIR"

_TASK = "task.json"
_LOCK = ".lock"
_LONGEST_FOLDER = 40  # a path has 260 characters in older Windows programs, and the pictures' names take 70
_TASK_BYTES = 1 << 16


@dataclass(frozen=True)
class TaskInfo:
    """One task of a store."""

    name: str
    folder: Path
    label_name: str = ""  # name of the structure
    entries: int = 0
    problem: str = ""  # why the set cannot be read, as far as can be told without the pictures


class ContextStore:
    """Context sets on this computer, by the names of tasks.

    Names are compared without regard to case and to spaces around them; the spelling of the first save is shown. Every
    method raises ContextError for a name that is not usable or a task that does not exist (or does, where it must not),
    and FileFormatError for damaged files and where the operating system refuses.

    Args:
        folder: where the sets lie, if given; else the environment variable SCRIBBLESEGMENT_CONTEXTS_DIR, else the
            user's data folder of the operating system. It is created by the first save.
    """

    def __init__(self, folder: PathLike | None = None) -> None:
        self.folder = user_folder("contexts", FOLDER_VARIABLE, folder)

    def __contains__(self, task: object) -> bool:
        if not isinstance(task, str) or not task.strip():
            return False
        try:
            return self._find(task) is not None
        except ContextError:  # no task can be called that, but a file can
            return False

    def list_tasks(self) -> list[TaskInfo]:
        """List all tasks by name, with their numbers of entries; no picture is read."""
        found = []
        for name, folder in self._tasks():
            try:
                found.append(TaskInfo(name, folder, *read_context_summary(folder)))
            except FileFormatError as problem:  # the others can be used all the same
                found.append(TaskInfo(name, folder, problem=str(problem)))
        return sorted(found, key=lambda info: _folded(info.name))

    def load(self, task: str) -> ContextSet:
        """Read the set of a task."""
        return read_context(self._existing(task))

    def save(self, task: str, context: ContextSet, *, since: ContextSet | None = None) -> None:
        """Keep a set under the name of a task, in place of the former one.

        The former set is intact until the new one is complete. Entries that were there before are not written again.

        Args:
            task: Name.
            context: What to keep.
            since: What was read or saved last, if entries that another program has added since are to stay.
        """
        name = checked_name(task, "name of the task")
        with self._locked():
            if since is not None and (folder := self._find(name)) is not None:
                known = {entry.identifier for entry in (*since, *context)}
                for entry in read_context(folder):  # what another program added meanwhile stays
                    if entry.identifier not in known and not any(entry.same_slice(one) for one in context):
                        context = context.add(entry)
            self._write(name, context)

    def rename(self, task: str, new_name: str) -> None:
        """Give a task another name."""
        name = checked_name(new_name, "name of the task")
        with self._locked():
            folder = self._existing(task)
            if self._find(name) not in (None, folder):  # the same folder: only the spelling changes
                raise ContextError(f"There is a task {name!r} already; give another name.")
            _write_name(folder, name)

    def delete(self, task: str) -> None:
        """Delete a task with its pictures. Other files in its folder stay, and so does the folder then."""
        with self._locked():
            folder = self._existing(task)
            with system_errors(f"Cannot delete the task {task!r} in {folder}", "Check its permissions."):
                (folder / _TASK).unlink()  # first: without it there is no task
            remove_context_folder(folder)

    def import_file(self, path: PathLike, task: str | None = None) -> str:
        """Take over a set that was exported, after all of it has been read and checked.

        Args:
            path: a .context.zip file, or a folder.
            task: its name here; the name of its structure by default.

        Returns:
            The name of the task.
        """
        context = read_context(path)
        name = checked_name(context.label_name if task is None else task, "name of the task")
        with self._locked():
            if self._find(name) is not None:
                raise ContextError(f"There is a task {name!r} already; import {path} under another name.")
            self._write(name, context)
        return name

    def export_file(self, task: str, path: PathLike) -> None:
        """Write the set of a task to one file (.context.zip), which `import_file` takes on any computer."""
        write_context_file(path, self.load(task))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        remedy = f"Check its permissions, or name another one by the environment variable {FOLDER_VARIABLE}."
        with system_errors(f"Cannot create the folder {self.folder}", remedy):
            self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / _LOCK):
            yield

    def _write(self, name: str, context: ContextSet) -> None:
        known = self._find(name)
        folder = known or self._new_folder(name)
        write_context_folder(folder, context)
        if known is None:  # last: before that the task does not exist
            _write_name(folder, name)

    def _tasks(self) -> Iterator[tuple[str, Path]]:
        with system_errors(f"Cannot read the folder {self.folder}", "Check its permissions."):
            folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for folder in folders:
            with contextlib.suppress(OSError, ContextError):  # other files and folders of others are no tasks
                fields = Fields(parse_json(read_plain_file(folder, _TASK, _TASK_BYTES), str(folder)), str(folder))
                yield checked_name(fields.text("name"), "name of the task"), folder

    def _find(self, task: str) -> Path | None:
        wanted = _folded(checked_name(task, "name of the task"))
        return next((folder for name, folder in self._tasks() if _folded(name) == wanted), None)

    def _existing(self, task: str) -> Path:
        folder = self._find(task)
        if folder is None:
            known = ", ".join(repr(name) for name, _ in self._tasks()) or "none"
            raise ContextError(f"There is no task {task!r} in {self.folder}. Known are: {known}.")
        return folder

    def _new_folder(self, name: str) -> Path:
        """Return a folder for a new task: a new one, or one in which creating this task was interrupted."""
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        readable = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST_FOLDER].strip("-") or "task"
        # The digest keeps names apart that look alike so, and readable names from being those of Windows devices.
        stem = f"{readable}-{hashlib.sha256(_folded(name).encode()).hexdigest()[:8]}"
        folders = (self.folder / f"{stem}{end}" for end in itertools.chain([""], map("-{}".format, itertools.count(2))))
        return next(f for f in folders if not f.exists() or (f.is_dir() and not holds_other_files(f)))


def _folded(name: str) -> str:
    """Return the same text for all spellings of a name that count as equal (Unicode Standard, section 3.13)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name.strip()).casefold())


def _write_name(folder: Path, name: str) -> None:
    with atomic_file(folder / _TASK, ".json", follow_link=False) as temporary:
        temporary.write_text(json.dumps({"name": name}, ensure_ascii=False) + "\n", encoding="utf-8")
