"""Segmentation in context without a network: every pixel takes its label from places of the context that look alike.

It shows what a choice of context entries is worth, apart from what one network makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.errors import ConfigError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

# Keeps weights finite where a patch occurs in the context as it is.
_SMALLEST_DISTANCE = 1e-4


@dataclass(frozen=True)
class LabelTransfer:
    """Non-local patch-based label fusion.

    A pixel's label is the mean label of the context's pixels in a window around its place, weighted by how much the
    patches around both resemble each other: ``exp(-d / h)`` with the mean squared difference ``d``, and the smallest
    one of the pixel as ``h``. From Coupé et al. 2011, Patch-based segmentation using expert priors: application to
    hippocampus and ventricle segmentation. NeuroImage 54:940, sections 2.2 and 2.3.

    Attributes:
        size: Side of the grid it works on.
        patch: Side of the patches in cells, odd.
        reach: The window goes this many cells to each side.
        step: Only every so-manieth place of the window is looked at.

    Raises:
        ConfigError: A number out of range.
    """

    size: int = 48
    patch: int = 5
    reach: int = 4
    step: int = 2

    def __post_init__(self) -> None:
        if self.size < 1 or self.patch < 1 or self.patch % 2 == 0 or self.reach < 0 or self.step < 1:
            raise ConfigError(f"{self} cannot work: size and step are at least 1, patch odd, reach at least 0.")

    def __call__(self, image: FloatArray, spacing_mm: tuple[float, float], context: ContextSet) -> BoolArray:
        """Segment an image; without context nothing is segmented.

        Args:
            image: (H, W) in [0, 1].
            spacing_mm: Distance of rows and of columns in millimetres.
            context: Images with masks.

        Returns:
            bool (H, W).
        """
        if not len(context):
            return np.zeros(image.shape, bool)
        height, width = image.shape
        grid = NetworkGrid((height, width), spacing_mm, self.size)
        images, masks = context.to_grid(self.size)
        fused = self._fuse(grid.image_to_grid(image), images[:, 0], masks[:, 0])
        return np.asarray(grid.logits_from_grid(fused) > 0.5)

    def _fuse(self, target: FloatArray, images: FloatArray, masks: FloatArray) -> FloatArray:
        margin = ((0, 0), (self.reach, self.reach), (self.reach, self.reach))
        images, masks = np.pad(images, margin, mode="edge"), np.pad(masks, margin)
        starts = range(0, 2 * self.reach + 1, self.step)
        windows = [(..., slice(r, r + self.size), slice(c, c + self.size)) for r in starts for c in starts]
        squares = np.concatenate([(images[window] - target) ** 2 for window in windows])
        labels = np.concatenate([masks[window] for window in windows])
        distances = uniform_filter(squares, (0, self.patch, self.patch), mode="nearest")
        weights = np.exp(-distances / (distances.min(axis=0) + _SMALLEST_DISTANCE))
        fused: FloatArray = (weights * labels).sum(axis=0) / weights.sum(axis=0)
        return fused
