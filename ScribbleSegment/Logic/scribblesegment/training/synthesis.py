"""Synthetic labels from superpixels (ScribblePrompt, section 3.3 and appendix B.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
UnsignedArray = NDArray[np.unsignedinteger[Any]]

# Superpixels that a structure of several consists of, at most.
_MOST_PARTS = 4


def superpixels(image: NDArray[np.float32], scale: float) -> UnsignedArray:
    """Partition an image with Felzenszwalb's graph-based method.

    Args:
        image: (H, W) in [0, 1].
        scale: The method's scale; larger gives larger superpixels.

    Returns:
        (H, W), numbered from 0, of the smallest unsigned type that holds the numbers (many such maps are kept).
    """
    from skimage.segmentation import felzenszwalb

    partition = felzenszwalb(image, scale=scale)
    return np.asarray(partition, dtype=np.min_scalar_type(partition.max()))


def pick_superpixel(
    partition: UnsignedArray, rng: np.random.Generator, *, min_area: int, area_power: float = 0.0, union_p: float = 0.0
) -> BoolArray | None:
    """Choose a superpixel among those of at least `min_area` pixels, or several.

    Args:
        partition: (H, W), numbered from 0.
        rng: Source of randomness.
        min_area: Fewest pixels.
        area_power: Superpixels are drawn in proportion to area ** area_power; zero draws all alike, as published.
        union_p: Chance that the structure has up to `_MOST_PARTS` superpixels, wherever they lie (published: 0).

    Returns:
        bool (H, W), or None where no superpixel is large enough or only one covers everything.
    """
    areas = np.bincount(partition.ravel())
    large = np.flatnonzero((areas >= min_area) & (areas < partition.size))
    if large.size == 0:
        return None
    weights = areas[large].astype(np.float64) ** area_power
    parts = int(rng.integers(2, _MOST_PARTS + 1)) if union_p > 0 and rng.random() < union_p else 1
    # One is always left out: a structure that covers everything has no boundary.
    parts = max(1, min(parts, large.size - 1))
    chosen = rng.choice(large, size=parts, replace=False, p=weights / weights.sum())
    return np.isin(partition, chosen)
