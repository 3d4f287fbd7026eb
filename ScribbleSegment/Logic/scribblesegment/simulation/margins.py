"""Where people draw: inside a structure away from its border, and around it at some distance.

Not in the sources, whose prompts fall anywhere in the structure and anywhere in the background. A network that is
trained on those alone expects strokes close to the border on one side and far from it on the other; shown strokes of
people, which keep a margin on both sides, it stays too close to the positive ones.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scribblesegment.simulation.regions import BoolArray

# The inner margin, as a part of the structure's largest depth.
_INNER = (0.0, 0.6)

# Inner edge and width of the ring around the structure, as parts of that depth; the width has some pixels besides.
_OUTER, _WIDTH, _LEAST_WIDTH = (0.0, 0.6), (0.3, 1.5), 3.0


def with_margins(mask: BoolArray, rng: np.random.Generator) -> tuple[BoolArray, BoolArray]:
    """Choose where somebody marks a structure, and where its background.

    Args:
        mask: (H, W) bool, the structure; not empty.
        rng: Source of randomness.

    Returns:
        bool (H, W) of the structure without a margin, not empty; and of a ring of its background, which is empty only
        where there is no background.
    """
    depth = ndimage.distance_transform_edt(mask)
    largest = float(depth.max())
    inner = depth > rng.uniform(*_INNER) * largest
    if mask.all():
        return inner, ~mask
    distance = ndimage.distance_transform_edt(~mask)
    start = min(rng.uniform(*_OUTER) * largest, 0.8 * float(distance.max()))
    ring = (distance > start) & (distance <= start + rng.uniform(*_WIDTH) * largest + _LEAST_WIDTH)
    return inner, ring
