"""Under which name the context set of a segment is kept."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

_ATTRIBUTE = "ScribbleSegment.Task."
_IDENTITY = "ScribbleSegment.Identity"

# What Slicer calls a segment that nobody has named.
_UNNAMED = re.compile(r"Segment(_\d+)?")


@dataclass(frozen=True)
class ContextTask:
    """Where a context set belongs.

    Attributes:
        name: As the user sees it.
        key: Equal for the same set. For a set that is kept, its name without regard to case.
        kept: Whether the set outlives the session. Those of segments that nobody has named do not: tomorrow's
            "Segment_1" is another structure.
    """

    name: str
    key: str
    kept: bool


def task_of(segmentation_node: Any, segment_id: str) -> ContextTask | None:
    """The task of a segment: the one that was chosen for it, else that of its name; None where there is no segment."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        return None
    chosen = segmentation_node.GetAttribute(_ATTRIBUTE + segment_id)
    if chosen and chosen.strip():
        return kept_task(chosen)
    name = (segment.GetName() or "").strip()
    if not name or _UNNAMED.fullmatch(name):
        return ContextTask(name or segment_id, f"\n{_identity(segmentation_node)}\n{segment_id}", kept=False)
    return kept_task(name)


def kept_task(name: str) -> ContextTask:
    """The task of a name."""
    return ContextTask(name.strip(), name.strip().casefold(), kept=True)


def choose_task(segmentation_node: Any, segment_id: str, name: str) -> None:
    """Choose a task for a segment; a blank name takes the choice back. It is saved with the scene."""
    attribute = _ATTRIBUTE + segment_id
    if name.strip():
        segmentation_node.SetAttribute(attribute, name.strip())
    else:
        segmentation_node.RemoveAttribute(attribute)


def _identity(segmentation_node: Any) -> str:
    """What tells segmentations apart: the scene gives the name and the ID of one that has gone to the next."""
    identity = segmentation_node.GetAttribute(_IDENTITY)
    if not identity:
        identity = uuid.uuid4().hex
        segmentation_node.SetAttribute(_IDENTITY, identity)
    return str(identity)
