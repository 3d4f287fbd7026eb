"""Propagations of this session, so that after a correction only the slices near it are made anew.

Which of them a segment shows is a tag of the segment: after undo it is another one, or none, like the voxels. Nothing
is lost with this memory but time: without it, everything is propagated anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.segment_tags import read_tag, write_tag
from scribblesegment.mrml.segments import segment_on_plane, segments_on_plane
from scribblesegment.mrml.volume_axes import grid_slice

if TYPE_CHECKING:
    from scribblesegment.propagation import Propagation

TAG = "ScribbleSegment.Propagation"

# Those of 300 slices of 512 x 512 pixels take 20 MB.
_MOST_RUNS = 8


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a propagation left in one segment.

    Attributes:
        run_id: Of the propagation.
        segment_id: Of the segment.
        made_from: What must be equal for its slices to be used again: image, grid, network, settings.
        result: Its slices and what they were made from.
        content: The segment on each slice that it wrote, packed, by index; see `packed_content`.
    """

    run_id: str
    segment_id: str
    made_from: Hashable
    result: Propagation
    content: Mapping[int, NDArray[np.uint8]]

    def as_previous(self, label: int) -> Propagation:
        """Its result under a label, with only the slices that are in the segment."""
        slices = {
            index: dataclasses.replace(found, label=label)
            for index, found in self.result.slices.items()
            if index in self.content
        }
        return dataclasses.replace(self.result, label=label, slices=slices)

    def edited_by_hand(self, target: EditTarget) -> list[int]:
        """Slices that the user has changed since by other means; what other segments have taken does not count."""
        edited = []
        for index, before in self.content.items():
            plane = grid_slice(target.reference.grid, self.result.axis, index)
            now = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
            if np.array_equal(np.packbits(now), before):
                continue
            then = np.unpackbits(before, count=now.size).reshape(now.shape).astype(bool)
            others = [
                other
                for other in target.segmentation_node.GetSegmentation().GetSegmentIDs()
                if other != target.segment_id
            ]
            taken = segments_on_plane(target.segmentation_node, others, target.reference, plane)
            if (now & ~then).any() or (then & ~now & ~taken).any():
                edited.append(index)
        return edited


class PropagationHistory:
    """The newest propagations."""

    def __init__(self) -> None:
        self._runs: list[FinishedRun] = []

    def add(self, run: FinishedRun) -> None:
        """Remember one; the oldest beyond the limit are forgotten."""
        self._runs = [*self._runs[-(_MOST_RUNS - 1) :], run]

    def of(self, target: EditTarget, axis: int, made_from: Hashable) -> FinishedRun | None:
        """The one whose slices a segment shows, if it was made along the axis and from the same."""
        run_id = run_of(target.segment)
        return next(
            (
                run
                for run in self._runs
                if (run.run_id, run.segment_id, run.result.axis, run.made_from)
                == (run_id, target.segment_id, axis, made_from)
            ),
            None,
        )

    def forget(self) -> None:
        """Let go of all, as when the scene closes."""
        self._runs.clear()


def packed_content(target: EditTarget, axis: int, index: int) -> NDArray[np.uint8]:
    """The segment on a slice of its grid, eight pixels a byte."""
    plane = grid_slice(target.reference.grid, axis, index)
    return np.packbits(segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane))


def run_of(segment: Any) -> str:
    """Identifier of the propagation that a vtkSegment shows; empty for none."""
    return read_tag(segment, TAG)


def note_run(segment: Any, run_id: str) -> None:
    """Store with a vtkSegment which propagation it shows."""
    write_tag(segment, TAG, run_id)
