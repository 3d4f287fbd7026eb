"""How radiologists expect to see a slice: which way it is turned, and what lies on its four sides.

Axial slices show the patient's right on the left and the front on top, coronal ones the right on the left and the head
on top, sagittal ones the front on the left and the head on top; as 3D Slicer does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By the RAS axis closest to the slice's normal: name, and RAS directions of screen right and screen down.
_PLANES = (
    ("sagittal", (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    ("coronal", (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ("axial", (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
)
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))

# A direction gets a second letter from this cosine on: 20 degrees, as on the edges of DICOM viewers.
_OBLIQUE = float(np.sin(np.deg2rad(20.0)))


@dataclass(frozen=True)
class SliceDisplay:
    """How to turn a slice (H, W) for display: first transposed, then flipped.

    Attributes:
        plane: "axial", "coronal" or "sagittal", whichever is closest.
        transpose: Whether rows and columns change places.
        flip_rows: Whether the rows of the result run from last to first.
        flip_columns: Whether the columns of the result run from last to first.
        left: Letters of the patient's side (R, L, A, P, S, I) on the left of the picture; one, or two when oblique.
        right: On the right.
        top: On top.
        bottom: At the bottom.
    """

    plane: str
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    left: str
    right: str
    top: str
    bottom: str

    @classmethod
    def radiological(cls, ijk_to_ras: NDArray[np.float64], axis: int) -> SliceDisplay:
        """Find the customary display of a volume's slices.

        Args:
            ijk_to_ras: (4, 4) matrix of the volume, invertible.
            axis: Axis of the array (0 = K, 1 = J, 2 = I) the slices are cut along.
        """
        rows, columns = (_direction(ijk_to_ras, other) for other in range(3) if other != axis)
        plane, right, down = _PLANES[int(np.argmax(np.abs(np.cross(rows, columns))))]
        straight = abs(columns @ right) + abs(rows @ down)
        transpose = bool(abs(rows @ right) + abs(columns @ down) > straight)
        if transpose:
            rows, columns = columns, rows
        flip_rows, flip_columns = bool(rows @ down < 0), bool(columns @ right < 0)
        to_bottom = -rows if flip_rows else rows
        to_right = -columns if flip_columns else columns
        sides = (_letters(direction) for direction in (-to_right, to_right, -to_bottom, to_bottom))
        return cls(plane, transpose, flip_rows, flip_columns, *sides)

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a slice (H, W, ...) as it is displayed."""
        turned = array.swapaxes(0, 1) if self.transpose else array
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def turned_pair(self, pair: tuple[float, float]) -> tuple[float, float]:
        """Return a (row, column) pair of sizes or spacings as displayed."""
        return (pair[1], pair[0]) if self.transpose else pair

    def turned_point(self, point: tuple[float, float], shape: tuple[int, int]) -> tuple[float, float]:
        """Return a position (row, column) of a slice of `shape` (H, W), pixel centres at integers, as displayed."""
        row, column = self.turned_pair(point)
        height, width = self.turned_pair(shape)
        return (height - 1 - row if self.flip_rows else row), (width - 1 - column if self.flip_columns else column)


def has_known_orientation(ijk_to_ras: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether a volume says how it lies in the patient.

    PNG, JPEG, TIFF and many ultrasound or X-ray files do not: they come as one slice with the matrix every reader makes
    up, and a letter "R" on them could be wrong.
    """
    directions = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    made_up = np.allclose(directions, np.diag((-1.0, -1.0, 1.0))) and not ijk_to_ras[:3, 3].any()
    return shape[0] > 1 or not made_up


def _direction(ijk_to_ras: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    column: NDArray[np.float64] = ijk_to_ras[:3, 2 - axis]  # array axes run K, J, I, the matrix's columns i, j, k
    return column / np.linalg.norm(column)


def _letters(direction: NDArray[np.float64]) -> str:
    order = np.argsort(-np.abs(direction))
    chosen = [axis for rank, axis in enumerate(order[:2]) if rank == 0 or abs(direction[axis]) > _OBLIQUE]
    return "".join(_LETTERS[axis][0 if direction[axis] > 0 else 1] for axis in chosen)
