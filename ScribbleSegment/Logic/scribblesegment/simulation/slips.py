"""What a hand with a brush does that a scribble cut out of a mask does not.

Not in the sources, whose scribbles never leave what they mark. People draw with brushes of several pixels: on a vessel
of two pixels every stroke covers its surroundings too, and a network that trusts each marked pixel takes those for the
structure.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scribblesegment.simulation.fields import FloatArray
from scribblesegment.simulation.regions import BoolArray

# Ways to slip: whether a scribble is moved, and in which of two ways it is widened.
_SLIPS = ((True, 0), (False, 1), (True, 1), (True, 2))
_CROSS, _SQUARE = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)

# A region is thin when less than this part of it has all four neighbours inside.
_THIN = 0.25


def slip(scribble: FloatArray, rng: np.random.Generator, *, widens: bool = False) -> FloatArray:
    """Move a scribble by up to a pixel, widen it by a pixel on every side, or both.

    Args:
        scribble: float32 (H, W) in [0, 1].
        rng: Source of randomness.
        widens: Whether it is widened in any case.

    Returns:
        float32 (H, W), not cut at what is marked; what is moved over the image's border is lost, unless that is all.
    """
    kinds = [kind for kind in _SLIPS if kind[1] or not widens]
    moves, widening = kinds[int(rng.integers(len(kinds)))]
    slipped = scribble
    if moves:
        slipped = ndimage.shift(scribble, rng.integers(-1, 2, size=2), order=0, prefilter=False)
    if widening:
        slipped = ndimage.grey_dilation(slipped, footprint=_CROSS if widening == 1 else _SQUARE)
    return np.asarray(slipped if slipped.any() else scribble, dtype=np.float32)


def is_thin(region: BoolArray) -> bool:
    """Tell whether most of a region (H, W) lies at its border, so that a brush covers it from side to side."""
    inner = ndimage.binary_erosion(region, border_value=1)
    return bool(inner.sum() < _THIN * region.sum())
