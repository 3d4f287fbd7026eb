"""The one preprocessing path: intensities to [0, 1], and slices to the network's square grid and back.

`IntensityRange` is estimated once per volume (once per image in 2D), so neighbouring slices are normalised alike.
`SliceGrid` maps a slice of any size and pixel spacing to a square grid that has one millimetre scale for both axes:
the content keeps its aspect, lies centred, and is surrounded by zeros. Prediction, propagation, training and evaluation
all use these two classes and nothing else.

In continuous coordinates the centre of pixel ``i`` is at ``i``, so that it covers ``[i - 0.5, i + 0.5]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from scipy.sparse import csr_array

from scribblesegment.data import validation
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError

FloatArray = npt.NDArray[np.float32]

DoubleArray = npt.NDArray[np.float64]

IntArray = npt.NDArray[np.int64]


_TIE = 1e-9

"""Grid cells; positions closer than this to a cell border count as on it, so that rounding errors decide nothing."""


@dataclass(frozen=True)
class GridAxis:
    """One axis of a slice laid out on one axis of the grid.

    Attributes:
        length: Number of pixels.
        scale: Grid cells per pixel.
        first: First cell of the content.
        stop: One past the last cell of the content.
    """

    length: int
    scale: float
    first: int
    stop: int

    @classmethod
    def lay_out(cls, length: int, scale: float, size: int) -> GridAxis:
        """Centres the content on a block of whole cells.

        The block has the nearest whole number of cells, at least one, and the content is centred on it. Block and
        content then differ by at most a quarter cell at each end (but for content below half a cell), so the block is
        precisely the cells whose centres the content covers.
        """
        cells = min(size, max(1, round(length * scale)))
        first = (size - cells) // 2
        return cls(length, scale, first, first + cells)

    @property
    def centre(self) -> float:
        """Middle of the pixels, in continuous pixel coordinates."""
        return (self.length - 1) / 2

    @property
    def grid_centre(self) -> float:
        """Where `centre` comes to lie, in continuous cell coordinates."""
        return (self.first + self.stop - 1) / 2

    @cached_property
    def cell_of_pixel(self) -> IntArray:
        """(length,): the cell that holds each pixel's centre."""
        return _holder(self._cell_position(np.arange(self.length)), self.first, self.stop)

    @cached_property
    def pixel_ranges(self) -> tuple[IntArray, IntArray]:
        """(cells,) first and last of the pixels whose centres a cell holds, or the pixel that holds the cell's."""
        cells = np.arange(self.first, self.stop)
        nearest = _holder(self._pixel_position(cells), 0, self.length)
        first = np.searchsorted(self.cell_of_pixel, cells, side="left")
        last = np.searchsorted(self.cell_of_pixel, cells, side="right") - 1
        empty = last < first
        return np.where(empty, nearest, first), np.where(empty, nearest, last)

    @cached_property
    def image_matrix(self) -> csr_array:
        """(cells, length): triangle filter, as wide as a cell when cells are larger than pixels."""
        positions = self._pixel_position(np.arange(self.first, self.stop))
        return csr_array(triangle_matrix(positions, self.length, 1.0 / self.scale))

    @cached_property
    def to_grid_matrix(self) -> csr_array:
        """(cells, length): linear interpolation at the cell centres."""
        return csr_array(triangle_matrix(self._pixel_position(np.arange(self.first, self.stop)), self.length))

    @cached_property
    def from_grid_matrix(self) -> csr_array:
        """(length, cells): linear interpolation at the pixel centres between the cells of the content."""
        positions = self._cell_position(np.arange(self.length)) - self.first
        return csr_array(triangle_matrix(positions, self.stop - self.first))

    def interval_to_cells(self, start: IntArray, stop: IntArray) -> tuple[IntArray, IntArray]:
        """Half-open pixel intervals to half-open cell intervals, clipped to the content, never empty."""
        start = start.clip(0, self.length - 1)
        stop = np.maximum(stop, start + 1)
        # Pixel i begins at i - 0.5; cell c is inside when its centre c is.
        borders = [(edge - 0.5 - self.centre) * self.scale + self.grid_centre for edge in (start, stop)]
        begin, end = (np.ceil(border - _TIE).astype(np.int64).clip(self.first, self.stop) for border in borders)
        middle = _holder((borders[0] + borders[1]) / 2, self.first, self.stop)
        empty = end <= begin
        return np.where(empty, middle, begin), np.where(empty, middle + 1, end)

    def maximum(self, values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        """Maximum over each cell's pixels along `axis`, which becomes `cells` long."""
        first, last = self.pixel_ranges
        result = values.take(first, axis=axis)
        for step in range(1, int((last - first).max()) + 1):
            np.maximum(result, values.take(np.minimum(first + step, last), axis=axis), out=result)
        return result

    def _pixel_position(self, cells: IntArray) -> DoubleArray:
        return (cells.astype(np.float64) - self.grid_centre) / self.scale + self.centre

    def _cell_position(self, pixels: IntArray) -> DoubleArray:
        return (pixels.astype(np.float64) - self.centre) * self.scale + self.grid_centre


def _holder(positions: DoubleArray, first: int, stop: int) -> IntArray:
    """Index of the pixel or cell in [first, stop) that holds each position; a border belongs to the later one."""
    indices: IntArray = np.floor(positions + 0.5 + _TIE).astype(np.int64)
    return np.clip(indices, first, stop - 1)


def triangle_matrix(positions: DoubleArray, length: int, width: float = 1.0) -> FloatArray:
    """Rows of triangle weights around continuous `positions` among `length` samples; each row sums to 1.

    Args:
        positions: (M,) positions in samples. Those outside repeat the outermost sample.
        length: Number of samples N.
        width: Half width of the triangle in samples; values below 1 count as 1 (linear interpolation).

    Returns:
        float32 (M, N).
    """
    inside = np.clip(positions, -0.5, length - 0.5)
    distance = np.abs(inside[:, None] - np.arange(length, dtype=np.float64)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, width))
    normalized: DoubleArray = weights / weights.sum(axis=1, keepdims=True)
    return normalized.astype(np.float32)


def separable_product(rows: csr_array | FloatArray, values: FloatArray, columns: csr_array | FloatArray) -> FloatArray:
    """Computes ``rows @ values @ columns.T``: (m, h), (..., h, w), (n, w) to (..., m, n).

    The matrices are sparse, and not only because most weights are zero: dense products run on several threads that wait
    for their next one in a busy loop, in the way of the network's own threads, which doubled the time of a prediction.
    """
    rows, columns = csr_array(rows), csr_array(columns)
    planes = values.reshape(-1, *values.shape[-2:])
    product = np.empty((len(planes), rows.shape[0], columns.shape[0]), np.float32)
    for index, plane in enumerate(planes):
        product[index] = (columns @ (rows @ plane).T).T
    return product.reshape(*values.shape[:-2], *product.shape[1:])


_CHUNK_VOXELS = 1 << 20


@dataclass(frozen=True)
class IntensityRange:
    """The intensities that are mapped to 0 and 1.

    Attributes:
        low: Intensity that becomes 0, in the units of the image; finite.
        high: Intensity that becomes 1; finite and not below `low`. When equal to `low`, everything becomes 0.

    Raises:
        ImageError: A bound is not finite, or `low` exceeds `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Checks the bounds."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise ImageError(
                f"The intensity range [{self.low}, {self.high}] is not usable: give two finite numbers, low <= high, "
                "or let IntensityRange.estimate find them."
            )

    @classmethod
    def estimate(
        cls,
        array: npt.ArrayLike,
        *,
        lower_percentile: float = 0.5,
        upper_percentile: float = 99.5,
        max_samples: int = 1_000_000,
    ) -> IntensityRange:
        """Finds the robust range of an image or volume.

        Percentiles of an evenly strided, deterministic subsample of the finite values. When the percentiles coincide
        (nearly all voxels are background), the minimum and maximum of all finite values are taken instead. An array
        without any finite value gets the range [0, 0], which normalises to zeros.

        Args:
            array: Real numbers or booleans of any shape and memory layout; it is not copied.
            lower_percentile: Percentile mapped to 0, in [0, 100).
            upper_percentile: Percentile mapped to 1, in (lower_percentile, 100].
            max_samples: At most this many voxels are looked at for the percentiles (8 bytes each).

        Returns:
            The range, in the units of `array`.

        Raises:
            ImageError: The array is empty or not numeric.
            ConfigError: Percentiles out of order or range, or `max_samples` below 1.
        """
        if not 0.0 <= lower_percentile < upper_percentile <= 100.0:
            raise ConfigError(
                f"Percentiles {lower_percentile} and {upper_percentile} cannot bound a range: "
                "they need 0 <= lower < upper <= 100."
            )
        if max_samples < 1:
            raise ConfigError(f"max_samples is {max_samples}; at least 1 voxel must be looked at.")
        values = validation.numeric_array(array, name="image")
        if values.size == 0:
            raise ImageError(f"The image is empty (shape {values.shape}): there are no intensities to estimate from.")

        # `flat` with a step copies only the samples, whatever the memory layout.
        samples = _finite_float64(values.flat[:: _sampling_step(values.shape, max_samples)])
        if samples.size:
            # "nearest" picks values that occur; interpolating between +-1.7e308 would overflow.
            low, high = np.percentile(samples, [lower_percentile, upper_percentile], method="nearest")
            if low < high:
                return cls(float(low), float(high))
        return cls(*_finite_extremes(values))

    def normalize(self, array: npt.ArrayLike) -> FloatArray:
        """Maps intensities linearly to [0, 1].

        Args:
            array: Real numbers or booleans, any shape.

        Returns:
            float32 of the same shape in [0, 1]. Values beyond the range are clipped, so -inf becomes 0 and +inf 1; NaN
            becomes 0. All zeros when the range has no extent.

        Raises:
            ImageError: The array is not numeric.
        """
        values = validation.numeric_array(array, name="image")
        if self.low == self.high:
            return np.zeros(values.shape, np.float32)
        # float64 throughout, and halved where the range itself would overflow: any input dtype is safe.
        half = 1.0 if math.isfinite(self.high - self.low) else 0.5
        with np.errstate(over="ignore"):
            scaled = np.array(values, dtype=np.float64, ndmin=1)
            if half != 1.0:
                scaled *= half
            scaled -= self.low * half
            scaled /= self.high * half - self.low * half
        np.clip(scaled, 0.0, 1.0, out=scaled)
        if values.dtype.kind == "f":
            scaled[np.isnan(scaled)] = 0.0
        return scaled.astype(np.float32).reshape(values.shape)


@dataclass(frozen=True)
class SliceGrid:
    """The map between a slice and the network's square grid.

    One grid cell measures ``mm_per_cell = max(H * sy, W * sx) / size`` millimetres along both axes. The content is
    centred (to the half cell that an odd number of padding cells forces), everything around it is zero. Images are
    resampled with a triangle filter that widens when shrinking (no aliasing) and is plain linear interpolation when
    enlarging. Resampling is separable and done by matrices that are built once.

    Attributes:
        shape: Slice shape (H, W) in pixels, each at least 1.
        spacing_mm: Pixel spacing (row, column) in millimetres, positive.
        size: Side length of the grid in cells, at least 1.

    Raises:
        GeometryError: The shape, spacing or size is not usable.
    """

    shape: tuple[int, int]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    size: int = 128
    _axes: tuple[GridAxis, GridAxis] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the geometry and lays out both axes."""
        shape = _checked_shape(self.shape)
        row_mm, column_mm = validation.spacing_mm(self.spacing_mm, 2)
        spacing = (row_mm, column_mm)
        if not _is_integer(self.size) or self.size < 1:
            raise GeometryError(f"The grid size is {self.size!r}; give a whole number of cells, at least 1.")
        size = int(self.size)
        mm_per_cell = max(shape[0] * spacing[0], shape[1] * spacing[1]) / size
        scales = (spacing[0] / mm_per_cell, spacing[1] / mm_per_cell)
        if not all(math.isfinite(1.0 / scale) if scale > 0 else False for scale in scales):
            raise GeometryError(f"Spacing {spacing} mm of a slice {shape} is too extreme to be put on one scale.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "size", size)
        object.__setattr__(
            self, "_axes", tuple(GridAxis.lay_out(n, s, size) for n, s in zip(shape, scales, strict=True))
        )

    @property
    def mm_per_cell(self) -> float:
        """Side length of a grid cell in millimetres, the same along both axes."""
        return max(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True)) / self.size

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the grid that hold the slice: ``grid[..., rows, columns]``; the rest is padding."""
        rows, columns = self._axes
        return slice(rows.first, rows.stop), slice(columns.first, columns.stop)

    def image_to_grid(self, image: npt.ArrayLike) -> FloatArray:
        """Resamples an image to the grid.

        Args:
            image: (..., H, W), finite real numbers; normally the result of `IntensityRange.normalize`.

        Returns:
            float32 (..., size, size); 0 in the padding, within the range of the image elsewhere.

        Raises:
            GeometryError: The last two axes are not this grid's slice shape.
            ImageError: The image is not numeric, or has values that are not finite in float32.
        """
        return self._resampled_to_grid(image, "image", self._axes[0].image_matrix, self._axes[1].image_matrix)

    def logits_to_grid(self, logits: npt.ArrayLike) -> FloatArray:
        """Resamples logits of the slice to the grid by linear interpolation at the cell centres.

        Linear, not smoothed as images are: it undoes `logits_from_grid` more closely, so that logits that are fed back
        round after round do not blur.

        Args:
            logits: (..., H, W), finite.

        Returns:
            float32 (..., size, size); 0 in the padding.

        Raises:
            GeometryError: The last two axes are not this grid's slice shape.
            ImageError: The logits are not numeric, or not finite in float32.
        """
        return self._resampled_to_grid(logits, "logits", self._axes[0].to_grid_matrix, self._axes[1].to_grid_matrix)

    def logits_from_grid(self, logits: npt.ArrayLike) -> FloatArray:
        """Resamples logits of the grid to the slice by linear interpolation at the pixel centres.

        Values in the padding are never read.

        Args:
            logits: (..., size, size).

        Returns:
            float32 (..., H, W).

        Raises:
            GeometryError: The last two axes are not (size, size).
            ImageError: The logits are not numeric, or not finite in float32 within the content.
        """
        values = self._checked(logits, (self.size, self.size), "logits on the grid")
        rows, columns = self.content
        content = _finite(_float32(values[..., rows, columns]), "logits")
        return separable_product(self._axes[0].from_grid_matrix, content, self._axes[1].from_grid_matrix)

    def scribbles_to_grid(self, scribbles: npt.ArrayLike) -> FloatArray:
        """Transfers scribbles (or any mask) to the grid, keeping every stroke and its full strength.

        A cell takes the maximum of the slice pixels whose centres lie in it; where there are none (the slice is
        enlarged), the value of the pixel that holds the cell's centre. A one-pixel stroke thus never vanishes, and
        never grows beyond the cells it covers.

        Args:
            scribbles: (..., H, W), real numbers or booleans.

        Returns:
            float32 (..., size, size); 0 in the padding.

        Raises:
            GeometryError: The last two axes are not this grid's slice shape.
            ImageError: The scribbles are not numeric.
        """
        values = self._checked(scribbles, self.shape, "scribbles")
        rows, columns = self._axes
        return self._padded(columns.maximum(rows.maximum(values, axis=-2), axis=-1))

    def points_to_grid(self, coords: npt.ArrayLike) -> IntArray:
        """Finds the grid cell that holds the centre of each pixel; the same cell that a one-pixel scribble marks.

        Args:
            coords: (N, 2) pixel indices (row, column), integers. Indices outside the slice are clipped to its border.

        Returns:
            int64 (N, 2) cell indices within the content.

        Raises:
            PromptError: The coordinates are not integers of shape (N, 2).
        """
        points = _checked_indices(coords, (2,), "points")
        cells = [axis.cell_of_pixel[points[:, d].clip(0, axis.length - 1)] for d, axis in enumerate(self._axes)]
        return np.stack(cells, axis=1)

    def boxes_to_grid(self, boxes: npt.ArrayLike) -> IntArray:
        """Transfers boxes: a box holds the cells whose centres it covers, and one cell at least.

        Args:
            boxes: (M, 2, 2) integers, [[row_start, column_start], [row_stop, column_stop]], half-open. Clipped to the
                slice.

        Returns:
            int64 (M, 2, 2) cell indices, half-open, inside the content, never empty.

        Raises:
            PromptError: The boxes are not integers of shape (M, 2, 2).
        """
        pixels = _checked_indices(boxes, (2, 2), "boxes")
        cells = np.empty_like(pixels)
        for d, axis in enumerate(self._axes):
            cells[:, 0, d], cells[:, 1, d] = axis.interval_to_cells(pixels[:, 0, d], pixels[:, 1, d])
        return cells

    def to_grid_coords(self, coords: npt.ArrayLike) -> DoubleArray:
        """Maps continuous slice coordinates (..., 2) (row, column; pixel centres are integers) to the grid."""
        points = np.asarray(coords, np.float64)
        return (points - [a.centre for a in self._axes]) * [a.scale for a in self._axes] + [
            a.grid_centre for a in self._axes
        ]

    def from_grid_coords(self, coords: npt.ArrayLike) -> DoubleArray:
        """Maps continuous grid coordinates (..., 2) (cell centres are integers) to the slice, exactly."""
        points = np.asarray(coords, np.float64)
        return (points - [a.grid_centre for a in self._axes]) / [a.scale for a in self._axes] + [
            a.centre for a in self._axes
        ]

    def _resampled_to_grid(self, array: npt.ArrayLike, what: str, rows: csr_array, columns: csr_array) -> FloatArray:
        values = _finite(_float32(self._checked(array, self.shape, what)), what)
        return self._padded(separable_product(rows, values, columns))

    def _padded(self, content: npt.NDArray[Any]) -> FloatArray:
        grid = np.zeros((*content.shape[:-2], self.size, self.size), np.float32)
        rows, columns = self.content
        grid[..., rows, columns] = content
        return grid

    @staticmethod
    def _checked(array: npt.ArrayLike, expected: tuple[int, int], what: str) -> npt.NDArray[Any]:
        values = validation.numeric_array(array, name=what)
        if values.shape[-2:] != expected:
            raise GeometryError(
                f"The {what} has shape {values.shape}, but its last two axes must be {expected}: "
                "make a SliceGrid for the shape at hand."
            )
        return values


def _float32(values: npt.NDArray[Any]) -> FloatArray:
    # Contiguous, because products with strided views (a sagittal slice) leave the fast path.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values).astype(np.float32, copy=False)


def _finite(values: FloatArray, what: str) -> FloatArray:
    if not np.isfinite(values).all():
        raise ImageError(
            f"The {what} has NaN, infinite or huge values (beyond float32): "
            "normalise intensities with IntensityRange.normalize first, and give finite logits."
        )
    return values


def _finite_float64(values: npt.NDArray[Any]) -> DoubleArray:
    converted = values.astype(np.float64).ravel()
    return converted[np.isfinite(converted)] if values.dtype.kind == "f" else converted


def _sampling_step(shape: tuple[int, ...], max_samples: int) -> int:
    """Smallest step that keeps to `max_samples` and shares no factor with any axis, so it never runs along a column."""
    total = math.prod(shape)
    step = -(-total // max_samples)
    while any(math.gcd(step, n) != 1 for n in shape) and step < total:
        step += 1
    return max(1, step)


def _finite_extremes(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value, or (0, 0); read in chunks to keep the extra memory small."""
    low, high = math.inf, -math.inf
    rows = values.reshape(1) if values.ndim == 0 else values
    per_chunk = max(1, _CHUNK_VOXELS // max(1, math.prod(rows.shape[1:])))
    for start in range(0, rows.shape[0], per_chunk):
        finite = _finite_float64(rows[start : start + per_chunk])
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _checked_shape(shape: object) -> tuple[int, int]:
    sides = tuple(shape) if isinstance(shape, (tuple, list, np.ndarray)) else ()
    if len(sides) != 2 or not all(_is_integer(n) and n > 0 for n in sides):
        raise GeometryError(f"The slice shape is {shape!r}; give two whole numbers (rows, columns), each at least 1.")
    return int(sides[0]), int(sides[1])


def _checked_indices(indices: npt.ArrayLike, item: tuple[int, ...], what: str) -> IntArray:
    values = np.asarray(indices)
    if values.size == 0:
        return np.zeros((0, *item), np.int64)
    if values.dtype.kind not in "iu" or values.shape[1:] != item or values.ndim != 1 + len(item):
        expected = ", ".join(["N", *map(str, item)])
        raise PromptError(
            f"The {what} have shape {values.shape} and type {values.dtype}; give integer indices of shape ({expected})."
        )
    return values.astype(np.int64)


FloatImage = NDArray[np.float32]

Box2D = tuple[tuple[int, int], tuple[int, int]]

"""Half-open ranges of rows and of columns: ((row_start, row_stop), (column_start, column_stop))."""


# Grids larger than the first have a multiple of this many cells a side, so that every level of a network divides them.
_GRID_STEP = 32


# Context around what is looked at: a fraction of its larger side, and at least so many cells of the first look.
_MARGIN, _MARGIN_CELLS = 0.2, 6


# Pixels of the slice for one cell of the grid, at least: beyond, a finer grid shows only interpolation.
_FINEST = 0.5


# A second look must have pixels finer than the first by this factor to be worth its time.
_WORTHWHILE = 1.2


@dataclass(frozen=True)
class NetworkGrid:
    """A region of a slice, laid out on a square grid.

    Attributes:
        region: The part of the slice, in its pixels.
        spacing_mm: Distance of rows and of columns.
        size: Side of the grid in cells.
        grid: The map between the region's pixels and the grid.
    """

    region: Box2D
    spacing_mm: tuple[float, float]
    size: int
    grid: SliceGrid = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Lay out the grid.

        Raises:
            GeometryError: If the region is empty, or the spacing or size is not usable.
        """
        (top, bottom), (left, right) = self.region
        if bottom <= top or right <= left:
            raise GeometryError(f"The region {self.region} is empty; give half-open ranges of rows and columns.")
        object.__setattr__(self, "grid", SliceGrid((bottom - top, right - left), self.spacing_mm, self.size))

    @property
    def slices(self) -> tuple[slice, slice]:
        """The region as an index into (..., H, W)."""
        (top, bottom), (left, right) = self.region
        return slice(top, bottom), slice(left, right)

    def image_to_grid(self, image: FloatImage) -> FloatImage:
        """Bring the region of a normalised image (H, W) to the grid, (size, size)."""
        return self.grid.image_to_grid(image[self.slices])

    def logits_from_grid(self, logits: FloatImage) -> FloatImage:
        """Bring logits (size, size) to the region's pixels."""
        return self.grid.logits_from_grid(logits)

    def prompts_to_grid(self, prompts: Prompts) -> Prompts:
        """Bring prompts of the whole slice to the grid; those outside the region are dropped, boxes are cut."""
        cropped = crop_prompts(prompts, self.region)
        logits = cropped.mask_input
        return Prompts(
            scribbles=self.grid.scribbles_to_grid(cropped.scribbles),
            point_coords=self.grid.points_to_grid(cropped.point_coords),
            point_labels=cropped.point_labels,
            boxes=self.grid.boxes_to_grid(cropped.boxes),
            mask_input=None if logits is None else self._logits_to_grid(logits),
        )

    def _logits_to_grid(self, logits: FloatImage) -> FloatImage:
        """Bring logits to the grid; around the image they are background, as the network itself predicts there."""
        content = self.grid.logits_to_grid(logits)
        padded = np.full_like(content, min(float(logits.min()), 0.0))
        rows, columns = self.grid.content
        padded[rows, columns] = content[rows, columns]
        return padded


def crop_prompts(prompts: Prompts, region: Box2D) -> Prompts:
    """Bring prompts to the pixels of a region; those outside of it are dropped, boxes are cut."""
    (top, bottom), (left, right) = region
    if (bottom - top, right - left) == prompts.shape:
        return prompts
    start, stop = np.array([top, left]), np.array([bottom, right])
    inside = ((prompts.point_coords >= start) & (prompts.point_coords < stop)).all(axis=1)
    boxes = np.clip(prompts.boxes, start, stop) - start
    boxes = boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)]
    return Prompts(
        scribbles=prompts.scribbles[:, top:bottom, left:right],
        point_coords=prompts.point_coords[inside] - start,
        point_labels=prompts.point_labels[inside],
        boxes=boxes,
        mask_input=None if prompts.mask_input is None else prompts.mask_input[top:bottom, left:right],
    )


def focus_view(
    mask: NDArray[np.bool_],
    prompts: Prompts,
    *,
    spacing_mm: tuple[float, float],
    first_cell_mm: float,
    size: int,
    max_size: int,
) -> NetworkGrid | None:
    """Choose what to look at a second time.

    Args:
        mask: (H, W) bool, the first prediction.
        prompts: On the same slice; positive ones belong to what is looked at.
        spacing_mm: Distance of rows and of columns.
        first_cell_mm: Side of a grid cell of the first look.
        size: Smallest grid of a second look, in cells a side.
        max_size: Largest one.

    Returns:
        A view of prediction and positive prompts with a margin, or None where there is nothing to look at or its pixels
        would not be noticeably finer.

    Raises:
        GeometryError: If mask and prompts differ in shape.
    """
    validation.same_shape(mask.shape, prompts.shape, name="mask", reference="the prompts", error=GeometryError)
    extent = _extent(mask, prompts)
    if extent is None:
        return None
    pixel_mm = min(spacing_mm)
    least_mm = size * _FINEST * pixel_mm
    sides_mm = [float(stop - start) * mm for (start, stop), mm in zip(extent, spacing_mm, strict=True)]
    margin_mm = max(_MARGIN * max(sides_mm), _MARGIN_CELLS * first_cell_mm)
    side_mm = max(max(sides_mm) + 2 * margin_mm, least_mm)
    region = tuple(
        _enlarged(start, stop, side_mm / mm, margin_mm / mm, length)
        for (start, stop), mm, length in zip(extent, spacing_mm, mask.shape, strict=True)
    )
    larger_mm = max((stop - start) * mm for (start, stop), mm in zip(region, spacing_mm, strict=True))
    cells = size
    if larger_mm > size * pixel_mm:
        cells = min(max(math.ceil(larger_mm / pixel_mm / _GRID_STEP) * _GRID_STEP, size), max_size)
    if larger_mm / cells * _WORTHWHILE > first_cell_mm:
        return None
    return NetworkGrid((region[0], region[1]), spacing_mm, cells)


def _extent(mask: NDArray[np.bool_], prompts: Prompts) -> Box2D | None:
    marked = mask | prompts.positive_pixels()
    if not marked.any():
        return None
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _enlarged(start: int, stop: int, wanted: float, margin: float, length: int) -> tuple[int, int]:
    """Enlarge an interval to a wanted length, inside [0, length); a long side keeps at least its margins."""
    wanted = max(wanted, stop - start + 2 * margin)
    if wanted >= length:
        return 0, length
    first = round((start + stop - wanted) / 2)
    first = min(max(first, 0), length - math.ceil(wanted))
    return first, first + math.ceil(wanted)
