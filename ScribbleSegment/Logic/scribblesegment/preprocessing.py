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
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from scribblesegment import checks
from scribblesegment.exceptions import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.resampling import DoubleArray, FloatArray, GridAxis, IntArray, separable_product

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
        values = checks.numeric_array(array, name="image")
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
        values = checks.numeric_array(array, name="image")
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
        row_mm, column_mm = checks.spacing_mm(self.spacing_mm, 2)
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
        values = checks.numeric_array(array, name=what)
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
