"""Separable resampling between the pixels of a slice and the cells of a square grid, one axis at a time.

Used by `scribblesegment.preprocessing.SliceGrid`, which documents the conventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

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
