"""The one preprocessing path: intensities to [0, 1], and slices to the network's square grid and back.

`IntensityRange` is estimated once per volume (once per image in 2D), so neighbouring slices are normalised alike.
`NetworkGrid` maps a slice of any size and pixel spacing, or a region of it, to a square grid that has one millimetre
scale for both axes: the content keeps its aspect, lies centred, and is surrounded by zeros. Prediction, propagation,
training and studies all use these two classes and nothing else.

In continuous coordinates the centre of pixel ``i`` is at ``i``, so that it covers ``[i - 0.5, i + 0.5]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from scribblesegment.data import validation
from scribblesegment.data.geometry import Box2D
from scribblesegment.data.masks import bounding_box
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Grid cells; positions closer than this to a cell border count as on it, so that rounding errors decide nothing.
_TIE = 1e-9

# Padding is one value that more than this part of the samples has, outliers are at most this part. So many times the
# range of the rest is left for them at most: outliers, and the background of a drawing, may be what is looked for.
_PADDING, _PADDING_RANGE, _DRAWING_VALUES = 0.005, 0.25, 16
_OUTLIERS, _OUTLIERS_RANGE = 0.1, 1.0
_GAP_STEP = 0.0025  # part of the samples that may lie in the gap before outliers: metal has blurred edges
_FAR = 0.5 + 1e-6  # of the range, beyond which most outliers lie; a tie does not count, whatever the units
_FEWEST_SAMPLES, _MOST_SAMPLES = 1 << 8, 1 << 16  # from which the distribution of intensities is known

# Colours are segmented by their brightness, as in training, if its variance is this part of the largest one.
_BRIGHTNESS, _LEAST_BRIGHTNESS = (0.299, 0.587, 0.114), 0.5

# Voxels that are read at once where a whole volume is.
_CHUNK_VOXELS = 1 << 20

# From so many voxels of at most 16 bits on, looking intensities up is faster than computing them.
_TABLE_VOXELS = 1 << 18

# Grids larger than the first have a multiple of this many cells a side, so that every level of a network divides them.
_GRID_STEP = 32

# Context around what is looked at closer: a fraction of its larger side, and at least so many cells of the whole slice.
_MARGIN, _MARGIN_CELLS = 0.2, 6

# Pixels of the slice for one cell of the grid, at least: beyond, a finer grid shows only interpolation.
_FINEST = 0.5

# A zoom pass must have pixels finer than the first by this factor to be worth its time.
_WORTHWHILE = 1.2


@dataclass(frozen=True)
class IntensityRange:
    """The intensities that are mapped to 0 and 1, in the units of the image.

    Raises:
        ImageError: A bound is not finite, or `low` exceeds `high`.
    """

    low: float
    high: float  # not below `low`; when equal, everything becomes 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise ImageError(
                f"The intensity range [{self.low}, {self.high}] is not usable: give two finite numbers, low <= high, "
                "or let IntensityRange.estimate find them."
            )

    @classmethod
    def estimate(
        cls,
        array: ArrayLike,
        *,
        lower_percentile: float = 0.5,
        upper_percentile: float = 99.5,
        max_samples: int = 1_000_000,
    ) -> IntensityRange:
        """Find the robust range of an image or volume.

        Percentiles of an evenly strided, deterministic subsample of the finite values. When the percentiles coincide
        (nearly all voxels are background), the minimum and maximum of all finite values are taken instead. Padding (one
        value at an end of the histogram) and outliers beyond a gap (metal) get no more of the range than the rest of
        the image has. An array without any finite value gets the range [0, 0], which normalises to zeros.

        Args:
            array: Real numbers or booleans of any shape and memory layout; it is not copied.
            lower_percentile: Percentile mapped to 0, in [0, 100).
            upper_percentile: Percentile mapped to 1, in (lower_percentile, 100].
            max_samples: At most this many voxels are looked at for the percentiles (8 bytes each).

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
        low = high = 0.0
        if samples.size:
            # "nearest" picks values that occur; interpolating between +-1.7e308 would overflow.
            low, high = np.percentile(samples, [lower_percentile, upper_percentile], method="nearest").tolist()
        if not low < high:
            low, high = _finite_extremes(values)
        if len(samples) > _MOST_SAMPLES:
            samples = _finite_float64(values.flat[:: _sampling_step(values.shape, _MOST_SAMPLES)])
        return cls(*_without_outliers(low, high, np.sort(samples), lower_percentile, upper_percentile))

    def normalize(self, array: ArrayLike) -> FloatArray:
        """Map intensities linearly to [0, 1], float32 of the same shape.

        Values beyond the range are clipped, so -inf becomes 0 and +inf 1; NaN becomes 0. All zeros when the range has
        no extent. An ImageError where the array is not numeric.
        """
        values = validation.numeric_array(array, name="image")
        if self.low == self.high:
            return np.zeros(values.shape, np.float32)
        if values.dtype.kind in "ui" and values.dtype.itemsize <= 2 and values.size > _TABLE_VOXELS:
            kind = np.iinfo(values.dtype)
            return self.normalize(np.arange(kind.min, kind.max + 1))[values.astype(np.int32) - kind.min]
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


def grey_of_colours(voxels: NDArray[Any]) -> NDArray[Any]:
    """Bring colours to one grey value for each voxel.

    That is the brightness (Rec. 601), unless colours differ mostly in something else, as red does from a green that is
    as bright: then the direction in which they differ most.

    Args:
        voxels: (K, J, I, C) of unsigned numbers, of which the first three are red, green and blue.

    Returns:
        (K, J, I) of the same type.
    """
    weights = np.array(_BRIGHTNESS)
    pixels = voxels[..., :3].reshape(-1, 3)
    spread, directions = np.linalg.eigh(np.cov(pixels[:: len(pixels) // _MOST_SAMPLES + 1], rowvar=False, bias=True))
    along = directions.T @ weights / np.linalg.norm(weights)
    if spread @ along**2 < _LEAST_BRIGHTNESS * spread[-1]:
        main = directions[:, -1]
        weights = main / abs(main).sum() * np.sign(main[abs(main).argmax()])
    offset = -np.iinfo(voxels.dtype).max * weights[weights < 0].sum()
    grey = np.empty(voxels.shape[:3], voxels.dtype)
    for source, target in zip(voxels, grey, strict=True):  # plane by plane, as the weighted sum is floating point
        target[...] = np.rint(source[..., :3] @ weights + offset)
    return grey


def _finite_float64(values: NDArray[Any]) -> DoubleArray:
    converted = values.astype(np.float64).ravel()
    return converted[np.isfinite(converted)] if values.dtype.kind == "f" else converted


def _without_outliers(
    low: float, high: float, samples: DoubleArray, lower_percentile: float, upper_percentile: float
) -> tuple[float, float]:
    """Narrow a range, so that what lies far off takes no more of it than the content; `samples` are sorted."""
    if len(samples) < _FEWEST_SAMPLES or not math.isfinite(high - low):
        return low, high
    content, margins = samples, [_OUTLIERS_RANGE, _OUTLIERS_RANGE]
    for end, padding in enumerate((samples[0], samples[-1])):
        first, stop = (int(np.searchsorted(content, padding, side)) for side in ("left", "right"))
        rest = content[:first] if end else content[stop:]
        if stop - first > _PADDING * len(samples) and len(rest) and rest[0] < rest[-1]:
            few = np.count_nonzero(np.diff(rest)) < _DRAWING_VALUES
            content, margins[end] = rest, _OUTLIERS_RANGE if few else _PADDING_RANGE
    bottom, top = np.percentile(content, [lower_percentile, upper_percentile], method="nearest").tolist()
    parts = 100 * np.arange(0.0, _OUTLIERS, _GAP_STEP)
    up = _before_gap(np.percentile(content, upper_percentile - parts, method="nearest") - bottom)
    down = _before_gap(top - np.percentile(content, lower_percentile + parts, method="nearest"))
    bottom, top = top - down, bottom + up
    extent = top - bottom
    if not extent > 0:
        return low, high
    return max(low, bottom - margins[0] * extent), min(high, top + margins[1] * extent)


def _before_gap(distances: DoubleArray) -> float:
    """Return the distance at which the content ends, of descending ones: the first unless outliers follow a gap."""
    farthest, inner = distances[0], distances[1:]
    gaps = distances[:-1] - inner
    (wide,) = np.nonzero((gaps > inner) & (inner > 0))
    if not len(wide):
        return float(farthest)
    end = wide[-1]  # seen from the content, the first
    return float(inner[end] if np.median(distances[: end + 1]) > _FAR * farthest else farthest)


def _sampling_step(shape: tuple[int, ...], max_samples: int) -> int:
    """Smallest step that keeps to `max_samples` and shares no factor with any axis, so it never runs along a column."""
    total = math.prod(shape)
    step = -(-total // max_samples)
    while any(math.gcd(step, n) != 1 for n in shape) and step < total:
        step += 1
    return max(1, step)


def _finite_extremes(values: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value, or (0, 0); read in chunks to keep the extra memory small."""
    low, high = math.inf, -math.inf
    rows = values.reshape(1) if values.ndim == 0 else values
    per_chunk = max(1, _CHUNK_VOXELS // max(1, math.prod(rows.shape[1:])))
    for start in range(0, rows.shape[0], per_chunk):
        finite = _finite_float64(rows[start : start + per_chunk])
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


@dataclass(frozen=True)
class GridAxis:
    """One axis of pixels laid out on one axis of the grid."""

    length: int  # number of pixels
    scale: float  # grid cells per pixel
    first: int  # first cell of the content
    stop: int  # one past the last cell of the content

    @classmethod
    def lay_out(cls, length: int, scale: float, size: int) -> GridAxis:
        """Centre the content on a block of whole cells.

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

    def maximum(self, values: NDArray[Any], axis: int, start: int = 0) -> tuple[slice, NDArray[Any]]:
        """Maximum over each cell's pixels along `axis`, of pixels from `start`; which cells of the grid, and theirs."""
        first, last = self.pixel_ranges
        stop = start + values.shape[axis]
        touched = np.flatnonzero((first < stop) & (last >= start))
        if not touched.size:
            return slice(self.first, self.first), values.take(touched, axis=axis)
        cells = slice(int(touched[0]), int(touched[-1]) + 1)
        first, last = (np.clip(pixels[cells], start, stop - 1) - start for pixels in (first, last))
        result = values.take(first, axis=axis)
        for step in range(1, int((last - first).max()) + 1):
            np.maximum(result, values.take(np.minimum(first + step, last), axis=axis), out=result)
        return slice(self.first + cells.start, self.first + cells.stop), result

    def _pixel_position(self, cells: IntArray) -> DoubleArray:
        return (cells.astype(np.float64) - self.grid_centre) / self.scale + self.centre

    def _cell_position(self, pixels: IntArray) -> DoubleArray:
        return (pixels.astype(np.float64) - self.centre) * self.scale + self.grid_centre


def _holder(positions: DoubleArray, first: int, stop: int) -> IntArray:
    """Index of the pixel or cell in [first, stop) that holds each position; a border belongs to the later one."""
    indices: IntArray = np.floor(positions + 0.5 + _TIE).astype(np.int64)
    return np.clip(indices, first, stop - 1)


def triangle_matrix(positions: DoubleArray, length: int, width: float = 1.0) -> FloatArray:
    """Triangle weights around continuous positions (M,) among samples (N,): float32 (M, N), each row sums to 1.

    Positions outside repeat the outermost sample. `width` is half the triangle's; below 1 it counts as 1, which is
    linear interpolation.
    """
    inside = np.clip(positions, -0.5, length - 0.5)
    distance = np.abs(inside[:, None] - np.arange(length, dtype=np.float64)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, width))
    normalized: DoubleArray = weights / weights.sum(axis=1, keepdims=True)
    return normalized.astype(np.float32)


def separable_product(rows: csr_array, values: FloatArray, columns: csr_array) -> FloatArray:
    """Compute ``rows @ values @ columns.T``: (m, h), (..., h, w), (n, w) to (..., m, n).

    The matrices are sparse, and not only because most weights are zero: dense products run on several threads that wait
    for their next one in a busy loop, in the way of the network's own threads, which doubled the time of a prediction.
    """
    planes = values.reshape(-1, *values.shape[-2:])
    product = np.empty((len(planes), rows.shape[0], columns.shape[0]), np.float32)
    for index, plane in enumerate(planes):
        if product[index].size > _CHUNK_VOXELS:  # transposing it would cost more than computing it
            product[index] = rows @ np.ascontiguousarray((columns @ plane.T).T)
        else:
            product[index] = (columns @ (rows @ plane).T).T
    return product.reshape(*values.shape[:-2], *product.shape[1:])


@dataclass(frozen=True)
class NetworkGrid:
    """The map between a slice, or a region of it, and the network's square grid.

    One grid cell measures ``mm_per_cell = max(h * sy, w * sx) / size`` millimetres along both axes, for a region of
    h x w pixels, but no less than `least_cell` pixels. The content is centred (to the half cell that an odd number of
    padding cells forces), everything around it is zero. Images are resampled with a triangle filter that widens when
    shrinking (no aliasing) and is plain linear interpolation when enlarging. Resampling is separable and done by
    matrices that are built once.

    Arrays of the slice are (..., H, W), of which the region is taken; arrays of the region are (..., h, w).

    Raises:
        GeometryError: The shape, spacing, size or region is not usable.
    """

    shape: tuple[int, int]  # of the slice, (H, W)
    spacing_mm: tuple[float, float] = (1.0, 1.0)  # distance of rows and of columns
    size: int = 128  # side of the grid in cells
    region: Box2D = None  # type: ignore[assignment]  # of the slice's pixels; all by default
    least_cell: float = 0.0  # side of a cell in pixels, at least: a small slice then leaves some of the grid empty
    mm_per_cell: float = field(init=False, compare=False)  # side of a cell in millimetres, the same along both axes
    _axes: tuple[GridAxis, GridAxis] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = validation.whole_numbers(self.shape, 2, least=1, name="The slice shape")
        (size,) = validation.whole_numbers((self.size,), 1, least=1, name="The grid size")
        spacing = validation.spacing_mm(self.spacing_mm, 2)
        given: Box2D | None = self.region
        region = tuple((0, n) for n in shape) if given is None else given
        if not all(0 <= start < stop <= n for (start, stop), n in zip(region, shape, strict=True)):
            raise GeometryError(
                f"The region {region} is empty or not inside the image of {shape[0]} x {shape[1]} pixels; give "
                "half-open ranges of rows and columns inside it."
            )
        sides = [stop - start for start, stop in region]
        mm_per_cell = max(n * s for n, s in zip(sides, spacing, strict=True)) / size
        mm_per_cell = max(mm_per_cell, self.least_cell * min(spacing))
        scales = [s / mm_per_cell for s in spacing]
        if not all(scale > 0 and math.isfinite(1.0 / scale) for scale in scales):
            raise GeometryError(f"Spacing {spacing} mm of a slice {shape} is too extreme to be put on one scale.")
        axes = tuple(GridAxis.lay_out(n, s, size) for n, s in zip(sides, scales, strict=True))
        values = {"shape": shape, "spacing_mm": spacing, "size": size, "region": region, "mm_per_cell": mm_per_cell}
        for name, value in (values | {"_axes": axes}).items():
            object.__setattr__(self, name, value)

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the grid that hold the region: ``grid[..., rows, columns]``; the rest is padding."""
        rows, columns = self._axes
        return slice(rows.first, rows.stop), slice(columns.first, columns.stop)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The region as an index into (..., H, W)."""
        (top, bottom), (left, right) = self.region
        return slice(top, bottom), slice(left, right)

    def image_to_grid(self, image: ArrayLike, intensities: IntensityRange | None = None) -> FloatArray:
        """Resample an image of the slice, normalised already or by `intensities`; float32 (..., size, size).

        It is 0 in the padding. Large images are read part by part, so that no second one is made.
        """
        rows, columns = self._axes
        values = self._cropped(validation.numeric_array(image, name="image"), "image")
        step = max(1, _CHUNK_VOXELS // values.shape[-1])
        planes = values.reshape(-1, *values.shape[-2:])
        content = np.empty((len(planes), rows.stop - rows.first, columns.stop - columns.first), np.float32)
        for number, plane in enumerate(planes):
            narrowed = np.zeros((content.shape[1], values.shape[-1]), np.float32)
            for start in range(0, values.shape[-2], step):
                part, matrix = plane[start : start + step], rows.image_matrix[:, start : start + step]
                (seen,) = np.nonzero(np.diff(matrix.indptr))
                cells = slice(int(seen[0]), int(seen[-1]) + 1)
                part = _contiguous(part if intensities is None else intensities.normalize(part))
                narrowed[cells] += matrix[cells] @ part
            content[number] = (columns.image_matrix @ narrowed.T).T
        return self._padded(content.reshape(*values.shape[:-2], *content.shape[1:]))

    def logits_to_grid(self, logits: ArrayLike) -> FloatArray:
        """Resample logits of the slice by linear interpolation at the cell centres; 0 in the padding.

        Linear, not smoothed as images are: it undoes `logits_from_grid` more closely, so that logits that are fed back
        round after round do not blur.
        """
        rows, columns = self._axes
        values = _contiguous(self._cropped(validation.numeric_array(logits, name="logits"), "logits"))
        return self._padded(separable_product(rows.to_grid_matrix, values, columns.to_grid_matrix))

    def logits_from_grid(self, logits: ArrayLike, inside: Box2D | None = None) -> FloatArray:
        """Resample logits (..., size, size) to the region's pixels, float32 (..., h, w).

        Linear interpolation at the pixel centres; values in the padding are never read. `inside` asks for a box of the
        region's pixels only.

        Raises:
            ImageError: Logits that are NaN or infinite, as those of a damaged network.
        """
        values = np.asarray(logits)
        if values.shape[-2:] != (self.size, self.size):
            raise GeometryError(
                f"The logits have shape {values.shape}, but the grid has {self.size} x {self.size} cells."
            )
        rows, columns = self.content
        content = _contiguous(values[..., rows, columns])
        if not np.isfinite(content).all():
            raise ImageError(
                "The network predicted NaN or infinite logits. Its weights may be damaged: choose another network."
            )
        matrices = [axis.from_grid_matrix for axis in self._axes]
        if inside is not None:
            matrices = [matrix[start:stop] for matrix, (start, stop) in zip(matrices, inside, strict=True)]
        return separable_product(matrices[0], content, matrices[1])

    def pixels_of_cells(self, cells: NDArray[np.bool_]) -> Box2D:
        """Return a box of the region's pixels that holds all marked cells (size, size) and one around them."""
        box = bounding_box(cells[self.content])
        sides = []
        for axis, (start, stop) in zip(self._axes, box or ((0, 0), (0, 0)), strict=True):
            begin, end = (
                (edge + axis.first - 0.5 - axis.grid_centre) / axis.scale + axis.centre for edge in (start, stop)
            )
            around = 1 / axis.scale + 1
            sides.append((max(0, math.floor(begin - around)), min(axis.length, math.ceil(end + around) + 1)))
        return (sides[0], sides[1]) if box else ((0, 0), (0, 0))

    def scribbles_to_grid(self, scribbles: ArrayLike, painted: tuple[slice, ...] | None = None) -> FloatArray:
        """Transfer scribbles (or any mask) of the slice to the grid, keeping every stroke and its full strength.

        A cell takes the maximum of the pixels whose centres lie in it; where there are none (the slice is enlarged),
        the value of the pixel that holds the cell's centre. A one-pixel stroke thus never vanishes, and never grows
        beyond the cells it covers. `painted` is a box outside of which there is none.
        """
        rows, columns = self._axes
        values = self._cropped(np.asarray(scribbles), "scribbles")
        box = [slice(0, rows.length), slice(0, columns.length)]
        if painted is not None:
            box = [
                slice(max(side.start - start, 0), max(min(side.stop, stop) - start, 0))
                for side, (start, stop) in zip(painted, self.region, strict=True)
            ]
        grid = np.zeros((*values.shape[:-2], self.size, self.size), np.float32)
        part = values[..., box[0], box[1]]
        if part.size:
            row_cells, part = rows.maximum(part, -2, box[0].start)
            column_cells, part = columns.maximum(part, -1, box[1].start)
            grid[..., row_cells, column_cells] = part
        return grid

    def prompts_to_grid(self, prompts: Prompts) -> Prompts:
        """Bring prompts of the slice to the grid; those outside the region are dropped, boxes are cut.

        A click marks the same cell as a scribble of one pixel. A box holds the cells whose centres it covers, and one
        at least. Around the image, logits are background, as the network itself predicts there.
        """
        cropped = crop_prompts(prompts, self.region)
        points, boxes = np.empty_like(cropped.point_coords), np.empty_like(cropped.boxes)
        for d, axis in enumerate(self._axes):
            points[:, d] = axis.cell_of_pixel[cropped.point_coords[:, d]]
            boxes[:, 0, d], boxes[:, 1, d] = axis.interval_to_cells(cropped.boxes[:, 0, d], cropped.boxes[:, 1, d])
        logits = None
        if prompts.mask_input is not None and cropped.mask_input is not None:
            content = self.logits_to_grid(prompts.mask_input)
            logits = np.full_like(content, min(float(cropped.mask_input.min()), 0.0))
            logits[self.content] = content[self.content]
        scribbles = self.scribbles_to_grid(prompts.scribbles, prompts.painted)
        return Prompts.trusted(scribbles, points, cropped.point_labels, boxes, logits)

    def to_grid_coords(self, coords: ArrayLike) -> DoubleArray:
        """Map continuous positions (..., 2) in the slice (row, column; pixel centres are integers) to the grid."""
        points = np.asarray(coords, np.float64) - [start for start, _ in self.region]
        return (points - [a.centre for a in self._axes]) * [a.scale for a in self._axes] + [
            a.grid_centre for a in self._axes
        ]

    def from_grid_coords(self, coords: ArrayLike) -> DoubleArray:
        """Map continuous positions (..., 2) in the grid (cell centres are integers) to the slice, exactly."""
        points = (np.asarray(coords, np.float64) - [a.grid_centre for a in self._axes]) / [a.scale for a in self._axes]
        return points + [a.centre for a in self._axes] + [start for start, _ in self.region]

    def _cropped(self, values: NDArray[Any], what: str) -> NDArray[Any]:
        if values.shape[-2:] != self.shape:
            raise GeometryError(
                f"The {what} has shape {values.shape}, but its last two axes must be {self.shape}: make a NetworkGrid "
                "for the shape at hand."
            )
        return values[(..., *self.slices)]

    def _padded(self, content: NDArray[Any]) -> FloatArray:
        grid = np.zeros((*content.shape[:-2], self.size, self.size), np.float32)
        grid[(..., *self.content)] = content
        return grid


def crop_prompts(prompts: Prompts, region: Box2D) -> Prompts:
    """Bring prompts to the pixels of a region; those outside of it are dropped, boxes are cut."""
    (top, bottom), (left, right) = region
    if (bottom - top, right - left) == prompts.shape:
        return prompts
    start, stop = np.array([top, left]), np.array([bottom, right])
    inside = ((prompts.point_coords >= start) & (prompts.point_coords < stop)).all(axis=1)
    boxes = np.clip(prompts.boxes, start, stop) - start
    return Prompts.trusted(
        prompts.scribbles[:, top:bottom, left:right],
        prompts.point_coords[inside] - start,
        prompts.point_labels[inside],
        boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)],
        None if prompts.mask_input is None else prompts.mask_input[top:bottom, left:right],
        painted=tuple(
            slice(min(max(side.start - first, 0), last - first), max(min(side.stop, last) - first, 0))
            for side, first, last in zip(prompts.painted, start.tolist(), stop.tolist(), strict=True)
        ),
    )


def focus_view(
    mask: NDArray[np.bool_],
    prompts: Prompts,
    *,
    spacing_mm: tuple[float, float],
    first_cell_mm: float,
    size: int,
    max_size: int,
    least_cell: float = 0.0,
) -> NetworkGrid | None:
    """Choose what a zoom pass looks at: a first prediction and the positive prompts, with a margin.

    Args:
        mask: (H, W) bool, the first prediction.
        prompts: On the same slice.
        spacing_mm: Distance of rows and of columns.
        first_cell_mm: Side of a grid cell of the first pass.
        size: Smallest grid of a zoom pass, in cells a side.
        max_size: Largest one.
        least_cell: Side of its cells in pixels, at least.

    Returns:
        The grid; None where there is nothing to look at or its pixels would not be noticeably finer.

    Raises:
        GeometryError: Mask and prompts differ in shape.
    """
    validation.same_shape(mask.shape, prompts.shape, name="mask", reference="the prompts", error=GeometryError)
    boxes = [box for box in (bounding_box(mask), bounding_box(prompts.positive_pixels())) if box is not None]
    if not boxes:
        return None
    extent = [(min(start for start, _ in sides), max(stop for _, stop in sides)) for sides in zip(*boxes, strict=True)]
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
    return NetworkGrid((mask.shape[0], mask.shape[1]), spacing_mm, cells, (region[0], region[1]), least_cell)


def _enlarged(start: int, stop: int, wanted: float, margin: float, length: int) -> tuple[int, int]:
    """Enlarge an interval to a wanted length, inside [0, length); a long side keeps at least its margins."""
    wanted = max(wanted, stop - start + 2 * margin)
    if wanted >= length:
        return 0, length
    first = round((start + stop - wanted) / 2)
    first = min(max(first, 0), length - math.ceil(wanted))
    return first, first + math.ceil(wanted)


def _contiguous(values: NDArray[Any]) -> FloatArray:
    # Contiguous, because products with strided views (a sagittal slice) leave the fast path.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values).astype(np.float32, copy=False)
