"""When a slice counts as accepted, and who is told.

Slices are accepted along the axes of the volume:
- by the result of a prompt, as soon as it is written to the segment. It belongs to the same undo step as the prompt;
- by the user saying so, as an undo step of its own. That is the way for slices that were segmented by other means.

Whoever keeps examples is told of an accepted slice when the user has left it, and not before, since corrections may
follow; or at once when the user says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scribblesegment.exceptions import FileFormatError, GeometryError
from scribblesegment.mrml.accepted_slices import AcceptedSlices, read_accepted, write_accepted
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.slice_plane import SlicePlane


class SliceAcceptance:
    """Keeps the list of accepted slices of segments, and tells of slices that are finished."""

    def __init__(
        self,
        *,
        save_state: Callable[[], object],
        on_finished: Callable[[EditTarget, SlicePlane], object] = lambda target, plane: None,
    ) -> None:
        """Begin with nothing left open.

        Args:
            save_state: Saves Slicer's undo state.
            on_finished: Told of an accepted slice along an axis when it is finished.
        """
        self._save_state = save_state
        self._on_finished = on_finished
        self._open: tuple[EditTarget, SlicePlane] | None = None

    def is_accepted(self, target: EditTarget, plane: SlicePlane) -> bool:
        """Whether a slice is accepted; a list that cannot be read holds none."""
        return plane.voxel_slice is not None and _readable(target).holds(*plane.voxel_slice)

    def written(self, target: EditTarget, plane: SlicePlane) -> None:
        """The result of a prompt was written, in an undo step that was begun before."""
        if plane.voxel_slice is None:
            return
        if self._open is not None and not _same(self._open, (target, plane)):
            self._finish()
        write_accepted(target.segment, _readable(target).added(plane.voxel_slice[0], plane.voxel_slice[1]))
        self._open = (target, plane)

    def accept(self, target: EditTarget, plane: SlicePlane) -> None:
        """The user accepts a slice as it is.

        Raises:
            GeometryError: The plane is oblique.
        """
        if plane.voxel_slice is None:
            raise GeometryError(
                "Only slices along the axes of the volume can be accepted, and this view is oblique. Press 'Align "
                "view', or add the slice to the context."
            )
        if not self.is_accepted(target, plane):
            self._save_state()
            self.written(target, plane)
        self._open = (target, plane)
        self._finish()

    def take_back(self, target: EditTarget, plane: SlicePlane) -> bool:
        """The slice is no longer accepted; the segment stays as it is. Returns whether it was."""
        if plane.voxel_slice is None or not self.is_accepted(target, plane):
            return False
        self._save_state()
        write_accepted(target.segment, _readable(target).removed(*plane.voxel_slice))
        if self._open is not None and _same(self._open, (target, plane)):
            self._open = None
        return True

    def looked_at(self, target: EditTarget | None = None, plane: SlicePlane | None = None) -> None:
        """The user looks at a slice now, or at none; one that was left for it is finished."""
        if self._open is None:
            return
        if target is None or plane is None or not _same(self._open, (target, plane)):
            self._finish()

    def forget(self) -> None:
        """Let go of what is open, as when the scene closes."""
        self._open = None

    def _finish(self) -> None:
        left, self._open = self._open, None
        # It may have been undone meanwhile.
        if left is not None and left[0].exists and self.is_accepted(*left):
            self._on_finished(*left)


def _readable(target: EditTarget) -> AcceptedSlices:
    """The list, or a new one where it cannot be read."""
    try:
        return read_accepted(target.segment, target.reference.grid)
    except FileFormatError:
        return AcceptedSlices(target.reference.grid)


def _same(one: tuple[EditTarget, SlicePlane], other: tuple[Any, Any]) -> bool:
    return one[0].same_segment(other[0]) and one[1].matches(other[1])
