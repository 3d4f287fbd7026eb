"""A lattice of voxels in space, apart from the values on it.

*mm* is any Cartesian frame in millimetres, as long as all that is used together shares it; in 3D Slicer it is the local
frame of the segmentation node. Indices are in array order from 0, and voxels have their centres at whole numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment import checks
from scribblesegment.exceptions import GeometryError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Positions this close to the middle between two voxels count as the middle: the frame's arithmetic leaves such errors,
# and a plane between two slices must not fall to the one or the other voxel by voxel.
TIE = 1e-6


def nearest_index(positions: ArrayLike) -> IntArray:
    """Round continuous indices to the voxel or pixel that holds them; a tie goes to the lower index."""
    return np.ceil(np.asarray(positions, np.float64) - (0.5 + TIE)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """A lattice of voxels in space, without values.

    Attributes:
        shape: number of voxels along (K, J, I), each 1 or above.
        ijk_to_mm: (4, 4) float64, voxel index (i, j, k, 1) to millimetres; rotated, flipped and sheared grids too.

    Raises:
        GeometryError: an unusable shape, or a matrix that is not finite and invertible.
    """

    shape: tuple[int, int, int]
    ijk_to_mm: FloatArray

    def __post_init__(self) -> None:
        k, j, i = lattice_shape(self.shape, 3, "grid")
        matrix = checks.affine_matrix(self.ijk_to_mm, name="ijk_to_mm")
        matrix.flags.writeable = False
        object.__setattr__(self, "shape", (k, j, i))
        object.__setattr__(self, "ijk_to_mm", matrix)

    @cached_property
    def steps_kji_mm(self) -> FloatArray:
        """(3, 3) step to the next voxel along each axis of the array: row 0 is the step along K, 1 along J, 2 along I.

        It maps differences of indices: ``difference_kji @ steps_kji_mm`` is a vector in millimetres.
        """
        return read_only(self.ijk_to_mm[:3, 2::-1].T)

    @cached_property
    def mm_to_kji(self) -> FloatArray:
        """(3, 3) inverse of `steps_kji_mm`: ``vector_mm @ mm_to_kji`` is a difference of indices."""
        return read_only(np.linalg.inv(self.steps_kji_mm))

    @property
    def origin_mm(self) -> FloatArray:
        """(3,) centre of voxel (0, 0, 0)."""
        return self.ijk_to_mm[:3, 3]

    @property
    def spacing_kji_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (K, J, I)."""
        k, j, i = np.linalg.norm(self.steps_kji_mm, axis=1).tolist()
        return k, j, i

    def to_mm(self, kji: ArrayLike) -> FloatArray:
        """Map continuous voxel indices (..., 3) in array order to millimetres (..., 3)."""
        return np.asarray(kji, np.float64) @ self.steps_kji_mm + self.origin_mm

    def to_kji(self, mm: ArrayLike) -> FloatArray:
        """Map millimetres (..., 3) to continuous voxel indices (..., 3) in array order, also outside the grid."""
        return (np.asarray(mm, np.float64) - self.origin_mm) @ self.mm_to_kji

    def same_as(self, other: VoxelGrid, tolerance: float = 1e-2) -> bool:
        """Whether both have the same voxels at the same places.

        Args:
            other: grid to compare with.
            tolerance: largest distance between corresponding voxel centres, as a fraction of the smallest spacing.
        """
        if self.shape != other.shape:
            return False
        # The distance is a convex function of the index, so the largest one occurs at a corner.
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)
        distance_mm = np.linalg.norm(self.to_mm(corners) - other.to_mm(corners), axis=1).max()
        return bool(distance_mm <= tolerance * min(self.spacing_kji_mm))

    def corners_mm(self) -> FloatArray:
        """(8, 3) corners of the box that the voxels fill, half a voxel beyond the outermost centres."""
        return self.to_mm(np.array(list(np.ndindex(2, 2, 2))) * self.shape - 0.5)


def read_only(array: ArrayLike) -> FloatArray:
    """Copy numbers into a float64 array that cannot be changed."""
    copy = np.array(array, np.float64, order="C")
    copy.flags.writeable = False
    return copy


def three_numbers(value: ArrayLike, name: str) -> FloatArray:
    """Return a point or direction as float64 (3,).

    Raises:
        GeometryError: not three finite numbers.
    """
    vector = checks.finite_array(value, name=name)
    if vector.shape != (3,):
        raise GeometryError(f"{name} has shape {vector.shape}, expected three numbers.")
    return vector


def unit_vector(value: ArrayLike, name: str) -> FloatArray:
    """Scale a direction (3,) to length one.

    Raises:
        GeometryError: not three finite numbers, or all of them zero.
    """
    vector = three_numbers(value, name)
    largest = float(np.abs(vector).max())
    if largest == 0:
        raise GeometryError(f"{name} is {vector.tolist()}; give a direction that is not zero.")
    scaled = vector / largest  # first to order one: the square of a tiny or huge number is 0 or infinite
    unit: FloatArray = scaled / np.linalg.norm(scaled)
    return unit


def whole_numbers(value: Sequence[int], count: int, name: str) -> list[int]:
    """Return `count` whole numbers.

    Raises:
        GeometryError: fractions, or another number of them.
    """
    try:
        numbers = [operator.index(number) for number in value]
    except TypeError as cause:
        raise GeometryError(f"{name} is {value!r}; give {count} whole numbers.") from cause
    if len(numbers) != count:
        raise GeometryError(f"{name} is {value!r}; give {count} whole numbers.")
    return numbers


def lattice_shape(value: Sequence[int], count: int, what: str) -> list[int]:
    """Return the `count` sides of a grid or raster.

    Raises:
        GeometryError: another number of sides, fractions, or a side below 1.
    """
    sides = whole_numbers(value, count, f"shape of the {what}")
    if min(sides) < 1:
        raise GeometryError(f"The {what} has the shape {tuple(sides)}; every side needs at least 1.")
    return sides
