"""Images resampled to the spacing a network was trained with, and logits back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from scribblesegment.refinement.networks.scribble_transfer import DoubleArray, scaling
from scribblesegment.resampling import GridAxis

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ImageGrid:
    """The map between an image and a grid of another spacing; both have the same outer borders.

    Attributes:
        axes: Each axis of the image laid out on one of the grid.
        spacing_mm: Size of a cell along each axis.
    """

    axes: tuple[GridAxis, ...]
    spacing_mm: tuple[float, ...]

    @classmethod
    def lay_out(cls, shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float | None]) -> ImageGrid:
        """Find the grid whose spacing is nearest to the one that is wanted.

        Args:
            shape: Of the image.
            spacing_mm: Of the image.
            wanted_mm: Of the grid; None leaves an axis as it is.
        """
        axes, cells_mm = [], []
        for side, mm, wanted in zip(shape, spacing_mm, wanted_mm, strict=True):
            cells = side if wanted is None else max(1, round(side * mm / wanted))
            axes.append(GridAxis(side, cells / side, 0, cells))
            cells_mm.append(mm * side / cells)
        return cls(tuple(axes), tuple(cells_mm))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return tuple(axis.stop for axis in self.axes)

    @property
    def matrix(self) -> DoubleArray:
        """(n + 1, n + 1) from homogeneous indices of the image to those of the grid."""
        scales = [axis.scale for axis in self.axes]
        return scaling(scales, [axis.grid_centre - axis.centre * axis.scale for axis in self.axes])

    def image_to_grid(self, image: FloatArray) -> FloatArray:
        """Resample an image (*shape) to the grid, smoothed where the grid is coarser."""
        return self._resampled(image, [axis.image_matrix if axis.scale != 1 else None for axis in self.axes])

    def logits_from_grid(self, logits: FloatArray) -> FloatArray:
        """Resample logits (labels, *grid) to the image's pixels by linear interpolation."""
        return self._resampled(logits, [axis.from_grid_matrix if axis.scale != 1 else None for axis in self.axes])

    @staticmethod
    def _resampled(values: FloatArray, matrices: Sequence[csr_array | None]) -> FloatArray:
        """Apply a matrix to each of the last axes."""
        for axis, matrix in enumerate(matrices, start=values.ndim - len(matrices)):
            if matrix is None:
                continue
            first = np.moveaxis(values, axis, 0)
            product = matrix @ np.ascontiguousarray(first).reshape(len(first), -1)
            values = np.moveaxis(product.reshape(-1, *first.shape[1:]), 0, axis)
        return np.ascontiguousarray(values, np.float32)
