"""Simulated clicks (random, center, interior border) and boxes (ScribblePrompt, section 3.2 and appendix B.1.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.data.prompts import box_of
from scribblesegment.errors import ConfigError
from scribblesegment.simulation.scribbles import BoolArray, gaussian_blur, require_region

IndexArray = NDArray[np.int64]

# Users spread their clicks (section 3.2); "a few pixels" is made explicit here, on the 128 x 128 grid.
MIN_SEPARATION = 4.0

# Boxes are up to this much larger than the structure (section 3.2), in pixels.
MAX_ENLARGEMENT = 20

# Candidates tried for each click: enough to find separated ones, independent of the region's size.
_CANDIDATES_PER_CLICK = 16


def random_clicks(
    region: BoolArray, count: int, rng: np.random.Generator, *, min_separation: float = MIN_SEPARATION
) -> IndexArray:
    """Click anywhere in a region (H, W).

    Returns:
        int64 (n, 2) of (row, column), all different, 1 <= n <= count: fewer where the region has no room for the
        separation (in pixels), or so little that a user would not search for it.

    Raises:
        PromptError: If the region is no bool array (H, W), or is empty.
        ConfigError: If the count is below one.
    """
    require_region(region, count=count)
    return _separated(np.argwhere(region), count, rng, min_separation)


def center_clicks(region: BoolArray, count: int, rng: np.random.Generator) -> IndexArray:
    """Click the centers (largest distance to the boundary) of random connected components.

    Arguments, result and errors as in `random_clicks`; there are at most as many clicks as components. Components are
    4-connected, all equally likely whatever their size.
    """
    require_region(region, count=count)
    components, component_count = ndimage.label(region)
    chosen = rng.permutation(component_count)[:count] + 1
    return np.stack([_center(components == number) for number in chosen])


def largest_component_center(region: BoolArray) -> IndexArray:
    """Click the center of the largest component (the center-click protocol, section 5.2); (1, 2), errors as above."""
    require_region(region)
    components, _ = ndimage.label(region)
    largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
    return _center(components == largest)[None]


def border_clicks(
    region: BoolArray,
    count: int,
    rng: np.random.Generator,
    *,
    min_separation: float = MIN_SEPARATION,
    blur_sigma: tuple[float, float] = (2.0, 8.0),
) -> IndexArray:
    """Click in a band inside the region's boundary.

    The band is where the blurred mask min(y, y * G) lies between two thresholds drawn uniformly from its range inside
    the region. Arguments, result and errors as in `random_clicks`; `blur_sigma` is the range of the blur in pixels.
    """
    require_region(region, count=count)
    blurred = gaussian_blur(region, rng.uniform(*blur_sigma))
    inside = blurred[region]
    low, high = np.sort(rng.uniform(inside.min(), inside.max(), size=2))
    band = region & (blurred >= low) & (blurred <= high)
    return _separated(np.argwhere(band if band.any() else region), count, rng, min_separation)


def enclosing_box(
    region: BoolArray, rng: np.random.Generator, *, max_enlargement: int = MAX_ENLARGEMENT
) -> NDArray[np.int64]:
    """Enclose a region (H, W) as a person would: never tighter than the region, and somewhat larger.

    Each dimension grows by r ~ U[0, max_enlargement] pixels, shared at random between its two sides and cut at the
    image's border.

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
    for axis, tight in enumerate(box_of(region)):
        growth = int(rng.integers(0, max_enlargement + 1))
        before = int(rng.integers(0, growth + 1))
        box[0, axis] = max(tight.start - before, 0)
        box[1, axis] = min(tight.stop + growth - before, region.shape[axis])
    return box


def _center(component: BoolArray) -> IndexArray:
    """Find the pixel of a component (H, W) furthest from its boundary, which the image's border is part of; (2,)."""
    box = box_of(component)
    distance = ndimage.distance_transform_edt(np.pad(component[box], 1))[1:-1, 1:-1]
    # Elongated structures have a whole ridge of deepest pixels: its middle is the center, not its upper left end.
    deepest = np.argwhere(distance >= distance.max() - 1e-6)
    middle = int(np.sum((deepest - deepest.mean(axis=0)) ** 2, axis=1).argmin())
    return np.asarray(deepest[middle] + (box[0].start, box[1].start), dtype=np.int64)


def _separated(candidates: IndexArray, count: int, rng: np.random.Generator, min_separation: float) -> IndexArray:
    """Pick up to `count` candidates greedily, in random order, none nearer to another than the separation."""
    tries = min(len(candidates), _CANDIDATES_PER_CLICK * count)
    order = candidates[rng.choice(len(candidates), size=tries, replace=False)]
    clicks = order[:1]
    for candidate in order[1:]:
        if len(clicks) >= count:
            break
        if np.min(np.sum((clicks - candidate) ** 2, axis=1)) >= min_separation**2:
            clicks = np.vstack([clicks, candidate])
    return np.asarray(clicks, dtype=np.int64)
