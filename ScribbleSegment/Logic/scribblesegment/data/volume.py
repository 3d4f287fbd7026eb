"""Images and label maps together with their place in the patient.

Arrays are indexed (K, J, I), slowest axis first, as numpy and SimpleITK hand them out. `ijk_to_ras` maps the
homogeneous voxel index (i, j, k, 1), in the reversed order, to millimetres in the right-anterior-superior frame of 3D
Slicer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.geometry import Grid
from scribblesegment.errors import GeometryError, ImageError

_AXES = {"k": 0, "j": 1, "i": 2}

AnyVolume = TypeVar("AnyVolume", bound="Volume")


@dataclass(frozen=True, eq=False)
class SliceImage:
    """One slice of a volume, along one of its axes."""

    image: NDArray[Any]  # (H, W) view into the volume's voxels; rows follow the slower of the two remaining axes
    spacing_mm: tuple[float, float]  # distance of neighbouring (rows, columns)
    axis: int  # of the array (0 = K, 1 = J, 2 = I), along which the slice was cut
    index: int  # position on that axis


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with the matrix that places them in the patient.

    Raises:
        ImageError: `array` is not 3D, empty, or not numeric.
        GeometryError: `ijk_to_ras` is not an invertible, finite 4x4 matrix.
    """

    array: NDArray[Any]  # (K, J, I) real numbers; a read-only view: never changed in place, and never copied
    ijk_to_ras: NDArray[np.float64]  # (4, 4), voxel index (i, j, k, 1) to RAS millimetres; oblique, sheared grids too

    def __post_init__(self) -> None:
        array = validation.image_array(self.array, ndim=(3,), name="volume").view()
        array.flags.writeable = False
        matrix = validation.affine_matrix(self.ijk_to_ras)
        matrix.flags.writeable = False
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @cached_property
    def grid(self) -> Grid:
        """Where the voxels are."""
        return Grid(self.shape, self.ijk_to_ras)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (K, J, I)."""
        k, j, i = self.array.shape
        return k, j, i

    @property
    def spacing_ijk_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (I, J, K), in millimetres: the lengths of the matrix columns."""
        k, j, i = self.grid.spacing_kji_mm
        return i, j, k

    @property
    def spacing_kji_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along the array's axes (K, J, I), in millimetres."""
        return self.grid.spacing_kji_mm

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors in RAS; columns are the directions of increasing i, j and k."""
        return self.ijk_to_ras[:3, :3] / np.asarray(self.spacing_ijk_mm)

    @property
    def origin_ras(self) -> NDArray[np.float64]:
        """(3,) position of the centre of voxel (0, 0, 0) in RAS millimetres."""
        return self.grid.origin_mm.copy()

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not at right angles, as in a CT with tilted gantry."""
        return self.grid.is_sheared

    def slice(self, axis: int | str, index: int) -> SliceImage:
        """Cut one slice, without copying.

        Args:
            axis: Axis of the array, 0, 1, 2 or "k", "j", "i".
            index: Position on that axis, from 0.

        Raises:
            GeometryError: No such axis, or a position outside the volume.
        """
        number = _AXES.get(axis.lower(), axis) if isinstance(axis, str) else axis
        if number not in (0, 1, 2):
            raise GeometryError(f"{axis!r} is not an axis of a volume. Choose 0, 1, 2 or 'k', 'j', 'i'.")
        number, position = int(number), validation.whole_number(index, name="The index of the slice")
        size = self.shape[number]
        if not 0 <= position < size:
            raise GeometryError(
                f"Slice {position} along axis {'kji'[number]!r} is outside the volume; choose from 0 to {size - 1}."
            )
        row, column = (spacing for other, spacing in enumerate(self.spacing_kji_mm) if other != number)
        return SliceImage(np.moveaxis(self.array, number, 0)[position], (row, column), number, position)

    def with_array(self: AnyVolume, array: ArrayLike) -> AnyVolume:
        """Return other voxels on the same grid; a GeometryError where their shape is another."""
        other = validation.image_array(array, ndim=(3,), name="array")
        validation.same_shape(other.shape, self.shape, name="array", reference="the volume")
        return dataclasses.replace(self, array=other)

    def same_grid(self, other: Volume, tolerance: float = 1e-2) -> bool:
        """Whether both volumes have the same voxels at the same places.

        Args:
            other: Volume to compare with.
            tolerance: Largest distance between corresponding voxel centres, as a fraction of the smallest spacing. The
                default lets pass what float32 headers (NIfTI) make of a matrix.
        """
        return self.grid.same_as(other.grid, tolerance)


@dataclass(frozen=True)
class Segment:
    """Name and colour of one label.

    Raises:
        ImageError: A label below 1, an empty name, or a colour outside [0, 1].
    """

    label: int  # value of its voxels, from 1; 0 is the background
    name: str  # as shown to the user; any text
    color_rgb: tuple[float, float, float]  # in [0, 1]

    def __post_init__(self) -> None:
        label = validation.whole_number(self.label, name="The label of a segment", error=ImageError)
        if label < 1:
            raise ImageError(f"Segment label {label} is below 1. 0 is the background; number segments from 1.")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ImageError(f"Segment {label} has the name {self.name!r}. Give it a text that is not blank.")
        color = validation.finite_array(self.color_rgb, name=f"color of segment {self.name!r}", error=ImageError)
        if color.shape != (3,) or (color < 0).any() or (color > 1).any():
            raise ImageError(
                f"Segment {self.name!r} has the colour {self.color_rgb}, expected red, green and blue from 0 to 1. "
                "Divide values up to 255 by 255."
            )
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "color_rgb", tuple(color.tolist()))


@dataclass(frozen=True, eq=False)
class LabelVolume(Volume):
    """A volume of labels, bool or integers: 0 is background, every other number one segment.

    Raises:
        ImageError: Fractions or negative numbers, or two segments with one label.
    """

    segments: tuple[Segment, ...] = ()  # names and colours of the labels, where the file had them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.array.dtype.kind not in "bui":
            raise ImageError(f"A label volume holds integers, not {self.array.dtype}. Threshold it: (array > 0.5).")
        if self.array.dtype.kind == "i" and self.array.min() < 0:
            raise ImageError(f"A label volume has labels from {self.array.min()}. Number segments from 1 upwards.")
        object.__setattr__(self, "segments", tuple(self.segments))
        labels = [segment.label for segment in self.segments]
        if len(set(labels)) < len(labels):
            raise ImageError(f"Two segments share one label: {labels}. Give every segment a label of its own.")

    def labels_present(self) -> tuple[int, ...]:
        """Labels other than 0 that occur among the voxels, in ascending order."""
        found: set[int] = set()
        for plane in self.array:  # plane by plane: counting in a whole volume would need several times its memory
            if not plane.any():
                continue
            if plane.dtype.itemsize > 2:
                found.update(np.unique(plane).tolist())
            else:  # five times faster than sorting
                found.update(np.flatnonzero(np.bincount(plane.ravel())).tolist())
        return tuple(sorted(int(label) for label in found if label))
