"""Simulated bounding boxes (ScribblePrompt, section 3.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError
from scribblesegment.simulation.regions import BoolArray, bounding_slices, require_region

MAX_ENLARGEMENT = 20


def enclosing_box(
    region: BoolArray, rng: np.random.Generator, *, max_enlargement: int = MAX_ENLARGEMENT
) -> NDArray[np.int64]:
    """Enclose a region as a person would: never tighter than the region, and up to 20 pixels larger.

    Each dimension grows by r ~ U[0, max_enlargement] pixels, shared at random between its two sides and cut at the
    image's border.

    Args:
        region: (H, W) bool, not empty.
        rng: Source of randomness.
        max_enlargement: Largest growth of a dimension in pixels.

    Returns:
        int64 (2, 2): start and stop (exclusive) as (row, column).

    Raises:
        PromptError: If the region is no bool array (H, W), or is empty.
        ConfigError: If the enlargement is negative.
    """
    require_region(region)
    if max_enlargement < 0:
        raise ConfigError(
            f"A box is never tighter than its region: the enlargement is at least 0, got {max_enlargement}."
        )
    box = np.empty((2, 2), dtype=np.int64)
    for axis, tight in enumerate(bounding_slices(region)):
        growth = int(rng.integers(0, max_enlargement + 1))
        before = int(rng.integers(0, growth + 1))
        box[0, axis] = max(tight.start - before, 0)
        box[1, axis] = min(tight.stop + growth - before, region.shape[axis])
    return box
