"""What was drawn for a segment, and which of its slices the user has accepted, kept in tags of the segment itself.

A slice is accepted along an axis of the grid that the segmentation is edited on. What is accepted is the segment as it
is there, so only places are kept. Undo, saving and copying take them along with the voxels.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vtkmodules.vtkCommonCore import mutable

from scribblesegment.data.drawing import Drawing
from scribblesegment.data.geometry import Grid
from scribblesegment.errors import FileFormatError, GeometryError
from scribblesegment.mrml.geometry import slice_normals


def read_tag(segment: Any, tag: str) -> str:
    """What is stored under a name; empty for nothing, and for None instead of a segment."""
    value = mutable("")
    return str(value) if segment is not None and segment.GetTag(tag, value) else ""


def write_tag(segment: Any, tag: str, text: str) -> None:
    """Store a text under a name; an empty one removes it.

    Nothing happens when that is what is stored already: any change of a segment ends the possibility to redo.
    """
    if text == read_tag(segment, tag):
        return
    if text:
        segment.SetTag(tag, text)
    else:
        segment.RemoveTag(tag)


TAG = "ScribbleSegment.Prompts"


def read_drawing(segment: Any) -> Drawing:
    """What was drawn for a vtkSegment; nothing for None, or a segment that was never drawn in.

    Raises:
        FileFormatError: The tag is damaged, or was written by a newer version.
    """
    text = read_tag(segment, TAG)
    if not text:
        return Drawing()
    try:
        return _decoded(text)
    except FileFormatError as cause:
        raise FileFormatError(
            f"The strokes stored with the segment {segment.GetName()!r} cannot be read: {cause} The segment itself is "
            "intact; remove all its strokes to start over."
        ) from cause


@lru_cache(maxsize=8)
def _decoded(text: str) -> Drawing:
    return Drawing.from_text(text)


def write_drawing(segment: Any, gestures: Drawing) -> None:
    """Store what was drawn with a vtkSegment."""
    write_tag(segment, TAG, gestures.to_text())


ACCEPTED_TAG = "ScribbleSegment.Accepted"

_VERSION, _MAX_BYTES = "1", 1 << 22

# Another grid's slice is the same slice if it is no more than this part of a voxel away, and as parallel as this.
_SAME_PLACE, _PARALLEL = 0.1, 0.9999

Indices = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class AcceptedSlices:
    """Places of accepted slices; frozen, every change returns a new object."""

    grid: Grid  # what the indices count on
    indices: Indices = ((), (), ())  # ascending, of slices along each axis of the array (K, J, I)

    @property
    def is_empty(self) -> bool:
        """Whether no slice is accepted."""
        return not any(self.indices)

    def holds(self, axis: int, index: int) -> bool:
        """Whether a slice is accepted."""
        return index in self.indices[axis]

    def contain(self, kji: NDArray[np.int64], *, but: int | None = None) -> NDArray[np.bool_]:
        """Which voxels, int64 (N, 3) of the grid, lie in accepted slices; those along the axis `but` do not count."""
        found = np.zeros(len(kji), bool)
        for axis, indices in enumerate(self.indices):
            if indices and axis != but:
                found |= np.isin(kji[:, axis], indices)
        return found

    def added(self, axis: int, *indices: int) -> AcceptedSlices:
        """Accept slices along an axis."""
        return self._with(axis, set(self.indices[axis]) | set(indices))

    def removed(self, axis: int, index: int) -> AcceptedSlices:
        """Take back the acceptance of a slice."""
        return self._with(axis, set(self.indices[axis]) - {index})

    def on(self, grid: Grid) -> AcceptedSlices:
        """Find the same slices on another grid; those that are none there are left out."""
        if grid.same_as(self.grid):
            return AcceptedSlices(grid, self.indices)
        moved: list[set[int]] = [set(), set(), set()]
        for axis, indices in enumerate(self.indices):
            other = _same_axis(self.grid, grid, axis)
            if other is None:
                continue
            for index in indices:
                centre = (np.array(self.grid.shape) - 1) / 2.0
                centre[axis] = index
                position = float(grid.to_kji(self.grid.to_mm(centre))[other])
                nearest = round(position)
                if 0 <= nearest < grid.shape[other] and abs(position - nearest) <= _SAME_PLACE:
                    moved[other].add(nearest)
        k, j, i = (tuple(sorted(one)) for one in moved)
        return AcceptedSlices(grid, (k, j, i))

    def to_text(self) -> str:
        """Write all as one line of the characters A-Z, a-z, 0-9, - and _; empty when nothing is accepted."""
        if self.is_empty:
            return ""
        content = {
            "shape": list(self.grid.shape),
            "ijk_to_mm": self.grid.ijk_to_mm.ravel().tolist(),
            "slices": [list(one) for one in self.indices],
        }
        packed = zlib.compress(json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii"))
        return _VERSION + base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")

    @staticmethod
    def from_text(text: str) -> AcceptedSlices:
        """Read what `to_text` wrote for at least one slice.

        Raises:
            FileFormatError: Damaged, or of a newer version.
        """
        if text[:1] != _VERSION:
            raise FileFormatError(f"The list of accepted slices is of format {text[:1]!r}, expected {_VERSION!r}.")
        try:
            payload = base64.b64decode(text[1:] + "=" * (-(len(text) - 1) % 4), altchars=b"-_", validate=True)
            stream = zlib.decompressobj()
            fields = json.loads(stream.decompress(payload, _MAX_BYTES))
            shape, matrix = tuple(fields["shape"]), np.array(fields["ijk_to_mm"], float).reshape(4, 4)
            grid = Grid(shape, matrix)
            k, j, i = (
                tuple(sorted({_index(value, side) for value in one}))
                for one, side in zip(fields["slices"], grid.shape, strict=True)
            )
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as cause:  # GeometryError is a ValueError
            raise FileFormatError(f"The list of accepted slices is damaged ({cause}).") from cause
        return AcceptedSlices(grid, (k, j, i))

    def _with(self, axis: int, indices: set[int]) -> AcceptedSlices:
        bad = [index for index in indices if not 0 <= index < self.grid.shape[axis]]
        if bad:
            raise GeometryError(
                f"Slice {bad[0]} along axis {axis} is outside the grid; choose from 0 to {self.grid.shape[axis] - 1}."
            )
        changed = list(self.indices)
        changed[axis] = tuple(sorted(indices))
        k, j, i = changed
        return dataclasses.replace(self, indices=(k, j, i))


def read_accepted(segment: Any, grid: Grid) -> AcceptedSlices:
    """Which slices of a vtkSegment are accepted, on the grid it is edited on now.

    Raises:
        FileFormatError: The tag is damaged, or was written by a newer version.
    """
    text = accepted_text(segment)
    if not text:
        return AcceptedSlices(grid)
    try:
        return AcceptedSlices.from_text(text).on(grid)
    except FileFormatError as cause:
        raise FileFormatError(
            f"{cause} The segment {segment.GetName()!r} itself is intact; accept its slices again, which starts a new "
            "list."
        ) from cause


def write_accepted(segment: Any, accepted: AcceptedSlices) -> None:
    """Store which slices of a vtkSegment are accepted."""
    write_tag(segment, ACCEPTED_TAG, accepted.to_text())


def accepted_text(segment: Any) -> str:
    """What is stored with a vtkSegment, empty for nothing; equal texts are equal lists."""
    return read_tag(segment, ACCEPTED_TAG)


def _index(value: Any, side: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < side:
        raise ValueError(f"{value!r} is not a slice of {side}")
    return value


def _same_axis(old: Grid, new: Grid, axis: int) -> int | None:
    """The axis of another grid whose slices are parallel to those of an axis of the old one."""
    alike = abs(slice_normals(new.steps_kji_mm) @ slice_normals(old.steps_kji_mm)[axis]) > _PARALLEL
    return int(np.argmax(alike)) if alike.any() else None
