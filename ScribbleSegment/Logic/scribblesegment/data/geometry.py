"""A slice view's plane through a voxel grid: its raster of pixels, and the voxels that belong to it.

*mm* is any Cartesian frame in millimetres, as long as grid, planes and points share it; in 3D Slicer it is the local
frame of the segmentation node. Voxels and pixels are indexed in array order from 0, and have their centres at whole
numbers. What lies exactly between two voxels or pixels belongs to the one with the lower index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import GeometryError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Box2D = tuple[tuple[int, int], tuple[int, int]]
"""Half-open ranges of rows and of columns: ((row_start, row_stop), (column_start, column_stop))."""

# Positions this close to the middle between two voxels count as the middle: the frame's arithmetic leaves such errors,
# and a plane between two slices must not fall to the one or the other voxel by voxel.
TIE = 1e-6

# Cosine between two axes from which they count as sheared: below it lies what float32 file headers and text headers
# leave behind, and the error across 512 voxels stays under a twentieth of a voxel.
_SHEAR_TOLERANCE = 1e-4

# A slice is shown as it is, without resampling, when the view deviates from it by no more than this part of a voxel.
_ALIGNED_VOXELS = 0.25

# An oblique raster of more pixels is made coarser. A diagonal cut through 2048 x 2048 x 2048 voxels stays below.
_MAX_PIXELS = 1 << 24

# Cosine between the normals of two planes from which they count as parallel; `matches` measures what remains in mm.
_PARALLEL = 0.9999


def nearest_index(positions: ArrayLike) -> IntArray:
    """Round continuous indices to the voxel or pixel that holds them; a tie goes to the lower index."""
    return np.ceil(np.asarray(positions, np.float64) - (0.5 + TIE)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in space, without values.

    Raises:
        GeometryError: An unusable shape, or a matrix that is not finite and invertible.
    """

    shape: tuple[int, int, int]  # number of voxels along (K, J, I), each at least 1
    ijk_to_mm: FloatArray  # (4, 4), voxel index (i, j, k, 1) to millimetres; rotated, flipped and sheared grids too

    def __post_init__(self) -> None:
        k, j, i = validation.whole_numbers(self.shape, 3, least=1, name="The shape of the grid")
        matrix = validation.affine_matrix(self.ijk_to_mm, name="ijk_to_mm")
        object.__setattr__(self, "shape", (k, j, i))
        object.__setattr__(self, "ijk_to_mm", _read_only(matrix))

    @cached_property
    def steps_kji_mm(self) -> FloatArray:
        """(3, 3) step to the next voxel along each axis of the array: row 0 is the step along K, 1 along J, 2 along I.

        It maps differences of indices: ``difference_kji @ steps_kji_mm`` is a vector in millimetres.
        """
        return _read_only(self.ijk_to_mm[:3, 2::-1].T)

    @cached_property
    def mm_to_kji(self) -> FloatArray:
        """(3, 3) inverse of `steps_kji_mm`: ``vector_mm @ mm_to_kji`` is a difference of indices."""
        return _read_only(np.linalg.inv(self.steps_kji_mm))

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

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not at right angles."""
        directions = self.steps_kji_mm / np.linalg.norm(self.steps_kji_mm, axis=1, keepdims=True)
        return bool(np.abs(directions @ directions.T - np.eye(3)).max() > _SHEAR_TOLERANCE)

    def same_as(self, other: Grid, tolerance: float = 1e-2) -> bool:
        """Whether both have the same voxels at the same places, to a fraction of the smallest spacing."""
        if self.shape != other.shape:
            return False
        # The distance is a convex function of the index, so the largest one occurs at a corner.
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)
        distance_mm = np.linalg.norm(self.to_mm(corners) - other.to_mm(corners), axis=1).max()
        return bool(distance_mm <= tolerance * min(self.spacing_kji_mm))

    def corners_mm(self) -> FloatArray:
        """(8, 3) corners of the box that the voxels fill, half a voxel beyond the outermost centres."""
        return self.to_mm(np.array(list(np.ndindex(2, 2, 2))) * self.shape - 0.5)


def _read_only(array: ArrayLike) -> FloatArray:
    copy = np.array(array, np.float64, order="C")
    copy.flags.writeable = False
    return copy


def _three_numbers(value: ArrayLike, name: str) -> FloatArray:
    vector = validation.finite_array(value, name=name)
    if vector.shape != (3,):
        raise GeometryError(f"{name} has shape {vector.shape}, expected three numbers.")
    return vector


def unit_vector(value: ArrayLike, name: str) -> FloatArray:
    """Scale a direction (3,) to length one; a GeometryError unless it is three finite numbers, not all zero."""
    vector = _three_numbers(value, name)
    largest = float(np.abs(vector).max())
    if largest == 0:
        raise GeometryError(f"{name} is {vector.tolist()}; give a direction that is not zero.")
    scaled = vector / largest  # first to order one: the square of a tiny or huge number is 0 or infinite
    unit: FloatArray = scaled / np.linalg.norm(scaled)
    return unit


@dataclass(frozen=True, eq=False)
class SlicePlane:
    """A raster of pixels on a plane through a grid.

    Raises:
        GeometryError: An unusable shape, numbers that are not finite, or steps that are zero or not at right angles.
    """

    shape: tuple[int, int]  # number of pixels (H, W), each at least 1
    origin_mm: FloatArray  # (3,) centre of pixel (0, 0)
    row_step_mm: FloatArray  # (3,) step to the next row
    column_step_mm: FloatArray  # (3,) step to the next column, at a right angle to the one to the next row
    # Axis of the array and index when the pixels are the voxels of that slice of the grid, in the order of
    # `Volume.slice`; None when the plane is oblique.
    voxel_slice: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        height, width = validation.whole_numbers(self.shape, 2, least=1, name="The shape of the raster")
        object.__setattr__(self, "shape", (height, width))
        for name in ("origin_mm", "row_step_mm", "column_step_mm"):
            object.__setattr__(self, name, _read_only(_three_numbers(getattr(self, name), name)))
        lengths = np.linalg.norm(self.row_step_mm), np.linalg.norm(self.column_step_mm)
        if min(lengths) == 0 or not _orthogonal(self.row_step_mm, self.column_step_mm):
            raise GeometryError(
                f"A raster steps by {self.row_step_mm.tolist()} mm to the next row and {self.column_step_mm.tolist()} "
                "mm to the next column. Give two steps at right angles, each longer than zero."
            )
        if self.voxel_slice is not None:
            axis, index = validation.whole_numbers(self.voxel_slice, 2, name="voxel_slice")
            if axis > 2:
                raise GeometryError(f"voxel_slice is {self.voxel_slice}; give an axis 0, 1 or 2 and an index from 0.")
            object.__setattr__(self, "voxel_slice", (axis, index))

    @cached_property
    def normal(self) -> FloatArray:
        """(3,) unit vector at right angles to the plane; column step, row step and normal are right-handed."""
        return _read_only(unit_vector(np.cross(self.column_step_mm, self.row_step_mm), "normal"))

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between neighbouring (rows, columns)."""
        return float(np.linalg.norm(self.row_step_mm)), float(np.linalg.norm(self.column_step_mm))

    @cached_property
    def mm_to_pixels(self) -> FloatArray:
        """(3, 2) perpendicular projection: ``vector_mm @ mm_to_pixels`` is a difference of (row, column)."""
        # The pseudo-inverse, so that the way back is exact even where the steps are off a right angle by a hair.
        steps = np.stack([self.row_step_mm, self.column_step_mm])
        return _read_only(steps.T @ np.linalg.inv(steps @ steps.T))

    def to_mm(self, pixels: ArrayLike) -> FloatArray:
        """Map continuous pixel positions (..., 2) as (row, column) to millimetres (..., 3)."""
        steps = np.stack([self.row_step_mm, self.column_step_mm])
        return np.asarray(pixels, np.float64) @ steps + self.origin_mm

    def to_pixels(self, mm: ArrayLike) -> FloatArray:
        """Project millimetres (..., 3) perpendicularly onto the plane: continuous (row, column) (..., 2)."""
        return (np.asarray(mm, np.float64) - self.origin_mm) @ self.mm_to_pixels

    def distance_mm(self, mm: ArrayLike) -> FloatArray:
        """Signed distance (...) of points (..., 3) from the plane, positive on the side the normal points to."""
        distance: FloatArray = (np.asarray(mm, np.float64) - self.origin_mm) @ self.normal
        return distance

    def matches(self, other: SlicePlane, tolerance_mm: float = 0.05) -> bool:
        """Whether both are the same plane in space, whatever their rasters and the side they are seen from.

        No corner of either raster is then farther than the tolerance from the other plane. Two slices of a grid must
        have equal `voxel_slice` as well, since voxels may be thinner than that.
        """
        if self.voxel_slice is not None and other.voxel_slice is not None and self.voxel_slice != other.voxel_slice:
            return False
        # Most planes are told apart by one point, which matters when there is one for each of hundreds of slices.
        if abs(float(self.distance_mm(other.origin_mm))) > tolerance_mm or abs(self.normal @ other.normal) < _PARALLEL:
            return False
        apart = max(np.abs(a.distance_mm(b._corners_mm())).max() for a, b in ((self, other), (other, self)))
        return bool(apart <= tolerance_mm)

    def _corners_mm(self) -> FloatArray:
        return self.to_mm(np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) * self.shape - 0.5)

    def as_dict(self) -> dict[str, Any]:
        """Describe the plane in numbers and lists that JSON keeps exactly."""
        return {
            "shape": list(self.shape),
            "origin_mm": self.origin_mm.tolist(),
            "row_step_mm": self.row_step_mm.tolist(),
            "column_step_mm": self.column_step_mm.tolist(),
            "voxel_slice": None if self.voxel_slice is None else list(self.voxel_slice),
        }

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> SlicePlane:
        """Rebuild the plane that `as_dict` described, exactly; a GeometryError where it describes none."""
        fields = ("shape", "origin_mm", "row_step_mm", "column_step_mm", "voxel_slice")
        if not isinstance(description, dict) or set(description) != set(fields):
            found = sorted(map(str, description)) if isinstance(description, dict) else description
            raise GeometryError(f"A plane is described by {', '.join(fields)}; found {found}.")
        return cls(**description)


def grid_slice(grid: Grid, axis: int, index: int) -> SlicePlane:
    """A slice of a grid as a plane whose pixels are voxels.

    Raises:
        GeometryError: No such slice, or the rows and columns of the slice are not at right angles.
    """
    if not 0 <= index < grid.shape[axis]:
        raise GeometryError(
            f"Slice {index} along axis {axis} is outside the volume; choose from 0 to {grid.shape[axis] - 1}."
        )
    steps, first, second = grid.steps_kji_mm, *(other for other in range(3) if other != axis)
    if not _orthogonal(steps[first], steps[second]):
        raise GeometryError(
            f"The slices along axis {axis} are sheared: their rows and columns are not at right angles. Choose "
            "another view, or resample the volume."
        )
    origin = grid.origin_mm + index * steps[axis]
    return SlicePlane((grid.shape[first], grid.shape[second]), origin, steps[first], steps[second], (axis, index))


def plane_through(
    grid: Grid, point_mm: ArrayLike, normal: ArrayLike, *, column_hint: ArrayLike | None = None
) -> SlicePlane:
    """Lay a raster of pixels over the cut of a plane through a grid.

    When the plane stays within a quarter of a voxel of one slice of the grid, apart from its offset inside that slice,
    and the slice's own axes are at right angles, then the raster is that slice: pixels are voxels. Otherwise pixels are
    squares of the smallest voxel spacing, and cover the polygon in which the plane cuts the voxels. The raster depends
    on the plane alone, not on which of its points is given.

    Args:
        grid: The voxels.
        point_mm: (3,) any point of the plane.
        normal: (3,) direction at right angles to the plane; its length and sign do not matter to what is cut.
        column_hint: (3,) direction of increasing columns of an oblique raster, projected onto the plane; by default
            along an axis of the grid.

    Raises:
        GeometryError: The plane misses the grid, or the numbers describe no plane.
    """
    point, unit = _three_numbers(point_mm, "point_mm"), unit_vector(normal, "normal")
    aligned = _aligned_plane(grid, point, unit)
    if aligned is not None:
        return aligned
    polygon_mm = _cut_polygon(grid, point, unit)
    column = _direction_in_plane(grid, unit, column_hint)
    row = np.cross(unit, column)
    axes = np.stack([row, column])
    extent = (polygon_mm - point) @ axes.T
    low, high = extent.min(axis=0), extent.max(axis=0)
    size = max(min(grid.spacing_kji_mm), float(np.sqrt(np.prod(high - low) / _MAX_PIXELS)))
    counts = np.maximum(np.ceil((high - low) / size - TIE), 1)
    first = (low + high) / 2 - (counts - 1) / 2 * size
    return SlicePlane((int(counts[0]), int(counts[1])), point + first @ axes, row * size, column * size)


def _steps_kji(grid: Grid, plane: SlicePlane) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Continuous voxel index of pixel (0, 0), and its step to the next row and to the next column, each (3,)."""
    return grid.to_kji(plane.origin_mm), plane.row_step_mm @ grid.mm_to_kji, plane.column_step_mm @ grid.mm_to_kji


def nearest_voxels(grid: Grid, plane: SlicePlane) -> tuple[list[IntArray], NDArray[np.bool_]]:
    """Find the voxel that holds each pixel's centre: k, j and i, each (H, W), and which pixels lie in the grid."""
    start, row, column = _steps_kji(grid, plane)
    rows, columns = np.arange(plane.shape[0])[:, None], np.arange(plane.shape[1])
    voxels = [nearest_index(start[axis] + rows * row[axis] + columns * column[axis]) for axis in range(3)]
    inside = np.ones(plane.shape, bool)
    for index, side in zip(voxels, grid.shape, strict=True):
        inside &= (index >= 0) & (index < side)
    return voxels, inside


def sample(
    array: NDArray[Any], grid: Grid, plane: SlicePlane, *, nearest: bool = False, outside: float = 0
) -> NDArray[Any]:
    """Read the values (K, J, I) of a volume on a grid at the pixels of a plane, `outside` where there is no voxel.

    `nearest` takes the voxel that holds the pixel's centre; otherwise values are interpolated linearly between voxels.

    Returns:
        (H, W). A slice of the grid is the view itself, neither copied nor converted. Otherwise of the array's type if
        `nearest`, else float32.

    Raises:
        GeometryError: `array` is not on `grid`, or the plane is a slice of another grid.
    """
    validation.same_shape(array.shape, grid.shape, name="array", reference="the grid")
    if plane.voxel_slice is not None:
        axis, index = _checked_slice(grid, plane)
        view: NDArray[Any] = np.moveaxis(array, axis, 0)[index]
        return view
    voxels, inside = nearest_voxels(grid, plane)
    if nearest:
        values: NDArray[Any] = np.full(plane.shape, outside, array.dtype)
        values[inside] = array[tuple(position[inside] for position in voxels)]
        return values
    from scipy import ndimage  # takes a moment to import, and only oblique planes need it

    source = array if array.dtype.itemsize <= 8 and array.dtype != np.float16 else array.astype(np.float32)
    start, row, column = _steps_kji(grid, plane)
    matrix = np.stack([row, column, np.zeros(3)], axis=1)
    # Mode "nearest" continues the outermost voxels by the half voxel that lies beyond their centres.
    values = ndimage.affine_transform(
        source, matrix, start, output_shape=(*plane.shape, 1), output=np.float32, order=1, mode="nearest"
    )[..., 0]
    values[~inside] = outside
    return values


@dataclass(frozen=True, eq=False)
class PlaneVoxels:
    """The voxels of a plane."""

    kji: IntArray  # (N, 3) voxel indices, each voxel once
    pixels: IntArray  # (N, 2) pixels that the voxels' centres project onto, or the nearest one of the raster's border


def plane_voxels(grid: Grid, plane: SlicePlane, region: Box2D | None = None) -> PlaneVoxels:
    """Find the voxels that a plane cuts, or only those that belong to a region of its pixels.

    A voxel belongs to the plane when the signed distance d of its centre is within -h/2 < d <= h/2, where h is the sum
    over the axes of |normal . step|: the thickness of a voxel seen along the normal. The normal is oriented such that
    a tie goes to the lower index. So a plane along the axes holds exactly one slice, an oblique plane leaves no hole,
    and of parallel planes h apart no two share a voxel.

    Raises:
        GeometryError: The plane is a slice of another grid.
    """
    height, width = plane.shape
    (r0, r1), (c0, c1) = region if region is not None else ((0, height), (0, width))
    window = ((max(r0, 0), min(r1, height)), (max(c0, 0), min(c1, width)))
    if any(start >= stop for start, stop in window):
        return PlaneVoxels(np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64))
    if plane.voxel_slice is None:
        return _oblique_voxels(grid, plane, window)
    axis, index = _checked_slice(grid, plane)
    rows, columns = np.meshgrid(np.arange(*window[0]), np.arange(*window[1]), indexing="ij")
    pixels = np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.int64, copy=False)
    return PlaneVoxels(np.insert(pixels, axis, index, axis=1), pixels)


def _oblique_voxels(grid: Grid, plane: SlicePlane, window: Box2D) -> PlaneVoxels:
    """Solve for the positions along the axis that the plane crosses most steeply, for all columns of voxels at once."""
    slopes = grid.steps_kji_mm @ plane.normal
    dominant = int(np.abs(slopes).argmax())
    others = [axis for axis in range(3) if axis != dominant]
    steepest = slopes[dominant]
    half = float(np.abs(slopes).sum() / abs(steepest)) / 2
    bounds = _bounding_voxels(grid, plane, window)
    a, b = (np.arange(*bounds[axis], dtype=np.int64) for axis in others)
    crossing = (slopes[others[0]] * a[:, None] + slopes[others[1]] * b) / -steepest
    crossing -= plane.distance_mm(grid.origin_mm) / steepest
    first = np.maximum(np.ceil(crossing - (half + TIE)), bounds[dominant][0])
    stop = np.minimum(np.ceil(crossing + (half - TIE)), bounds[dominant][1])
    to_pixels = grid.steps_kji_mm @ plane.mm_to_pixels
    start = plane.to_pixels(grid.origin_mm)
    (r0, r1), (c0, c1) = window
    found: list[IntArray] = []
    for layer in range(int(np.ceil(2 * half)) + 1):  # the first, second, ... voxel of every column
        on_a, on_b = np.nonzero(first + layer < stop)
        if not on_a.size:
            break
        index = np.empty((5, on_a.size), np.int64)
        index[others[0]], index[others[1]], index[dominant] = a[on_a], b[on_b], first[on_a, on_b] + layer
        for d in range(2):
            position = start[d] + sum(to_pixels[axis, d] * index[axis] for axis in range(3))
            np.clip(nearest_index(position), 0, plane.shape[d] - 1, out=index[3 + d])
        kept = (index[3] >= r0) & (index[3] < r1) & (index[4] >= c0) & (index[4] < c1)
        found.append(index if kept.all() else index[:, kept])
    together = np.concatenate([np.zeros((5, 0), np.int64), *found], axis=1)
    return PlaneVoxels(together[:3].T, together[3:].T)


def _bounding_voxels(grid: Grid, plane: SlicePlane, window: Box2D) -> list[tuple[int, int]]:
    """Half-open range along K, J and I that holds every voxel of the plane that belongs to a pixel of the window."""
    thickness = float(np.abs(grid.steps_kji_mm @ plane.normal).sum())
    reach = sum(grid.spacing_kji_mm)  # voxels that project beyond the border of the raster are taken to its border
    low, high = (np.array(side, np.float64) - 0.5 for side in zip(*window, strict=True))
    low[low < 0] -= reach / np.array(plane.spacing_mm)[low < 0]
    at_end = high > np.array(plane.shape) - 1
    high[at_end] += reach / np.array(plane.spacing_mm)[at_end]
    corners_mm = plane.to_mm([(low[0], low[1]), (low[0], high[1]), (high[0], low[1]), (high[0], high[1])])
    shift = plane.normal * thickness / 2
    kji = grid.to_kji(np.concatenate([corners_mm - shift, corners_mm + shift]))
    first = np.clip(np.floor(kji.min(axis=0)).astype(np.int64), 0, grid.shape)
    stop = np.clip(np.ceil(kji.max(axis=0)).astype(np.int64) + 1, first, grid.shape)
    return [(int(start), int(end)) for start, end in zip(first, stop, strict=True)]


def _aligned_plane(grid: Grid, point: FloatArray, unit: FloatArray) -> SlicePlane | None:
    """The slice of the grid that the plane stays within, or None when there is none that can be shown as it is."""
    slopes = grid.steps_kji_mm @ unit
    axis = int(np.abs(slopes).argmax())
    others = [other for other in range(3) if other != axis]
    # Whole range of the plane's position on `axis` over the grid, in voxels; half of it lies to either side.
    drift = float(sum(abs(slopes[other]) * grid.shape[other] for other in others) / abs(slopes[axis]))
    row, column = grid.steps_kji_mm[others]
    if drift / 2 > _ALIGNED_VOXELS or not _orthogonal(row, column):
        return None
    centre = (np.array(grid.shape) - 1) / 2
    position = centre[axis] + float((point - grid.to_mm(centre)) @ unit) / slopes[axis]
    side = grid.shape[axis]
    # A tilted plane may cut the outermost slice at its rim and pass beside its middle.
    if not -0.5 - drift / 2 - TIE <= position <= side - 0.5 + drift / 2 + TIE:
        raise _misses(grid, point, unit)
    return grid_slice(grid, axis, min(max(int(nearest_index(position)), 0), side - 1))


def _cut_polygon(grid: Grid, point: FloatArray, unit: FloatArray) -> FloatArray:
    """Corners (N, 3) of the polygon in which a plane cuts the box of a grid's voxels, in no particular order."""
    corners = grid.corners_mm()
    distances = (corners - point) @ unit
    if not distances.min() <= 0 <= distances.max():
        raise _misses(grid, point, unit)
    ends = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]  # the box's twelve edges
    found = []
    for a, b in ends:
        if min(distances[a], distances[b]) <= 0 <= max(distances[a], distances[b]):
            span = distances[a] - distances[b]
            along = distances[a] / span if span != 0 else 0.0
            found.append(corners[a] + along * (corners[b] - corners[a]))
            if span == 0:
                found.append(corners[b])
    return np.array(found)


def _misses(grid: Grid, point: FloatArray, unit: FloatArray) -> GeometryError:
    distances = (grid.corners_mm() - point) @ unit
    gap = float(np.abs(distances).min())
    return GeometryError(
        f"The slice view does not cut the volume: it passes {gap:.4g} mm beside it. Move the view to a slice of the "
        "volume, for instance with the slider above the view."
    )


def _direction_in_plane(grid: Grid, unit: FloatArray, hint: ArrayLike | None) -> FloatArray:
    """Unit vector in the plane along the hint, or along the axis of the grid that leaves the plane the least."""
    axes = grid.steps_kji_mm / np.linalg.norm(grid.steps_kji_mm, axis=1, keepdims=True)
    # Reversed, so that among axes that fit equally the columns follow I, then J.
    fallback = axes[::-1][np.abs(axes[::-1] @ unit).round(6).argmin()]
    wish = fallback if hint is None else _three_numbers(hint, "column_hint")
    for candidate in (wish, fallback):
        projected = candidate - (candidate @ unit) * unit
        if np.linalg.norm(projected) > TIE * np.linalg.norm(candidate):
            return unit_vector(projected - (projected @ unit) * unit, "column_hint")
    raise GeometryError(f"No axis of the grid lies across the normal {unit.tolist()}.")


def _checked_slice(grid: Grid, plane: SlicePlane) -> tuple[int, int]:
    """Axis and index of a plane that is a slice of the grid."""
    axis, index = plane.voxel_slice if plane.voxel_slice is not None else (0, -1)
    shape = tuple(side for other, side in enumerate(grid.shape) if other != axis)
    if not 0 <= index < grid.shape[axis] or shape != plane.shape:
        raise GeometryError(
            f"The plane is slice {index} along axis {'kji'[axis]!r} with {plane.shape} pixels, but the grid has the "
            f"shape {grid.shape}. Make a plane for this grid with plane_through."
        )
    return axis, index


def _orthogonal(a: FloatArray, b: FloatArray) -> bool:
    return bool(abs(float(a @ b)) <= _SHEAR_TOLERANCE * np.linalg.norm(a) * np.linalg.norm(b))
