"""Images and label maps together with their place in the patient.

Arrays are indexed (K, J, I), slowest axis first, as numpy and SimpleITK hand them out. `ijk_to_ras` maps the
homogeneous voxel index (i, j, k, 1), in the reversed order, to millimetres in the right-anterior-superior frame of 3D
Slicer.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import GeometryError, ImageError

_AXES = {"k": 0, "j": 1, "i": 2}

# Cosine between two axes from which they count as sheared: below it lies what float32 file headers and text headers
# leave behind, and the error across 512 voxels stays under a twentieth of a voxel.
_SHEAR_TOLERANCE = 1e-4

AnyVolume = TypeVar("AnyVolume", bound="Volume")


@dataclass(frozen=True, eq=False)
class SliceImage:
    """One slice of a volume, along one of its axes.

    Attributes:
        image: (H, W) view into the volume's voxels; rows follow the slower of the two remaining axes.
        spacing_mm: distance between neighbouring (rows, columns) in millimetres.
        axis: axis of the array (0 = K, 1 = J, 2 = I) the slice was cut along.
        index: position on that axis.
    """

    image: NDArray[Any]
    spacing_mm: tuple[float, float]
    axis: int
    index: int


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with the matrix that places them in the patient.

    Attributes:
        array: (K, J, I) real numbers. It is a read-only view: a volume is never changed in place, and never copied.
        ijk_to_ras: (4, 4) float64, voxel index (i, j, k, 1) to RAS millimetres; oblique, flipped and sheared grids are
            all represented.

    Raises:
        ImageError: `array` is not 3D, empty, or not numeric.
        GeometryError: `ijk_to_ras` is not an invertible, finite 4x4 matrix.
    """

    array: NDArray[Any]
    ijk_to_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        array = validation.image_array(self.array, ndim=(3,), name="volume").view()
        array.flags.writeable = False
        matrix = validation.affine_matrix(self.ijk_to_ras)
        matrix.flags.writeable = False
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (K, J, I)."""
        k, j, i = self.array.shape
        return k, j, i

    @property
    def spacing_ijk_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (I, J, K), in millimetres: the lengths of the matrix columns."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def spacing_kji_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along the array's axes (K, J, I), in millimetres."""
        i, j, k = self.spacing_ijk_mm
        return k, j, i

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors in RAS; columns are the directions of increasing i, j and k."""
        return self.ijk_to_ras[:3, :3] / np.asarray(self.spacing_ijk_mm)

    @property
    def origin_ras(self) -> NDArray[np.float64]:
        """(3,) position of the centre of voxel (0, 0, 0) in RAS millimetres."""
        return self.ijk_to_ras[:3, 3].copy()

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not at right angles, as in a CT with tilted gantry."""
        cosines = self.directions.T @ self.directions
        return bool(np.abs(cosines - np.eye(3)).max() > _SHEAR_TOLERANCE)

    def slice(self, axis: int | str, index: int) -> SliceImage:
        """Cut one slice, without copying.

        Args:
            axis: axis of the array, 0, 1, 2 or "k", "j", "i".
            index: position on that axis, from 0.

        Raises:
            GeometryError: no such axis, or a position outside the volume.
        """
        number = _AXES.get(axis.lower(), axis) if isinstance(axis, str) else axis
        if number not in (0, 1, 2):
            raise GeometryError(f"{axis!r} is no axis of a volume. Choose 0, 1, 2 or 'k', 'j', 'i'.")
        number = int(number)
        try:
            position = operator.index(index)
        except TypeError as cause:
            raise GeometryError(f"Slice index {index!r} is not an integer.") from cause
        size = self.shape[number]
        if not 0 <= position < size:
            raise GeometryError(
                f"Slice {position} along axis {'kji'[number]!r} is outside the volume; choose from 0 to {size - 1}."
            )
        row, column = (spacing for other, spacing in enumerate(self.spacing_kji_mm) if other != number)
        view = np.moveaxis(self.array, number, 0)[position]
        return SliceImage(view, (row, column), number, position)

    def with_array(self: AnyVolume, array: ArrayLike) -> AnyVolume:
        """Return other voxels on the same grid.

        Raises:
            GeometryError: `array` has another shape.
        """
        other = validation.image_array(array, ndim=(3,), name="array")
        validation.same_shape(other.shape, self.shape, name="array", reference="the volume")
        return dataclasses.replace(self, array=other)

    def same_grid(self, other: Volume, tolerance: float = 1e-2) -> bool:
        """Whether both volumes have the same voxels at the same places.

        Args:
            other: volume to compare with.
            tolerance: largest distance between corresponding voxel centres, as a fraction of the smallest spacing. The
                default lets pass what float32 headers (NIfTI) make of a matrix.
        """
        if self.shape != other.shape:
            return False
        last_ijk = np.asarray(self.shape[::-1]) - 1
        # The distance is a convex function of the index, so the largest one occurs at a corner.
        corners = np.array([(*(last_ijk * corner), 1.0) for corner in np.ndindex(2, 2, 2)]).T
        distance_mm = np.linalg.norm(((self.ijk_to_ras - other.ijk_to_ras) @ corners)[:3], axis=0).max()
        return bool(distance_mm <= tolerance * min(self.spacing_ijk_mm))


@dataclass(frozen=True)
class Segment:
    """Name and colour of one label.

    Attributes:
        label: value of its voxels, 1 or above (0 is background).
        name: as shown to the user; any text.
        color_rgb: red, green and blue in [0, 1].

    Raises:
        ImageError: a label below 1, an empty name, or a colour outside [0, 1].
    """

    label: int
    name: str
    color_rgb: tuple[float, float, float]

    def __post_init__(self) -> None:
        try:
            label = operator.index(self.label)
        except TypeError as cause:
            raise ImageError(f"Segment label {self.label!r} is not an integer.") from cause
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
        red, green, blue = color.tolist()
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "color_rgb", (red, green, blue))


@dataclass(frozen=True, eq=False)
class LabelVolume(Volume):
    """A volume of labels: 0 is background, every other number one segment.

    Attributes:
        array: (K, J, I) bool or integers from 0.
        segments: names and colours of the labels, where the file had them; may be empty.

    Raises:
        ImageError: fractions or negative numbers, or two segments with one label.
    """

    segments: tuple[Segment, ...] = ()

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
