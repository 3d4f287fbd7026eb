"""From logits to masks, and the clean-up of masks that users ask for.

All functions return new arrays. Thresholds are probabilities; they are turned into logits once, so no sigmoid is
computed. A pixel belongs to the object when its probability *exceeds* the threshold: a logit of 0, which also fills
padding, is background at the default of 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment import checks
from scribblesegment.exceptions import ConfigError, GeometryError, ImageError

Mask = NDArray[np.bool_]


def probability_to_logit(threshold: float) -> float:
    """Returns the logit of a probability.

    Args:
        threshold: Probability strictly between 0 and 1.

    Raises:
        ConfigError: Not strictly between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"The threshold is {threshold}; give a probability strictly between 0 and 1, not a logit.")
    return math.log(threshold) - math.log1p(-threshold)


def logits_to_mask(logits: ArrayLike, threshold: float = 0.5) -> Mask:
    """Marks where the probability exceeds the threshold.

    Args:
        logits: Unthresholded network output of any shape. NaN counts as background.
        threshold: Probability strictly between 0 and 1.

    Returns:
        bool, of the shape of `logits`.

    Raises:
        ConfigError: The threshold is not strictly between 0 and 1.
        ImageError: The logits are not real numbers.
    """
    limit = probability_to_logit(threshold)
    return np.asarray(checks.numeric_array(logits, name="logits") > limit)


def resolve_labels(logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Combines the logits of several labels into one label map: the most probable label wins.

    Args:
        logits: (L, H, W), or (L, K, J, I): one map of logits per label, L from 1 to 65535. NaN counts as background.
        threshold: Probability strictly between 0 and 1 that a label must exceed.

    Returns:
        (H, W) or (K, J, I): l + 1 where ``logits[l]`` is the largest and exceeds the threshold (of equal logits the
        lowest label's), 0 elsewhere. uint8 for up to 255 labels, else uint16.

    Raises:
        ConfigError: The threshold is not strictly between 0 and 1.
        GeometryError: No label, more than 65535, or not one map per label.
        ImageError: The logits are not real numbers.
    """
    limit = probability_to_logit(threshold)
    values = checks.numeric_array(logits, name="logits")
    if values.ndim not in (3, 4) or not 1 <= values.shape[0] <= np.iinfo(np.uint16).max:
        raise GeometryError(
            f"The logits have shape {values.shape}; give (L, H, W) or (L, K, J, I), with 1 to 65535 labels."
        )
    dtype = np.uint8 if values.shape[0] <= np.iinfo(np.uint8).max else np.uint16
    best = values[0]
    winner: NDArray[Any] = np.asarray(best > limit).astype(dtype)
    # Label by label rather than argmax: comparisons with NaN are false, where argmax would prefer NaN.
    best = np.where(winner > 0, best, limit)
    for label, candidate in enumerate(values[1:], start=2):
        better = candidate > best
        winner[better] = label
        best = np.where(better, candidate, best)
    return winner


def expected_dice(probabilities: NDArray[np.floating[Any]], mask: NDArray[np.bool_]) -> float:
    """Say what Dice coefficient to expect of a mask if each pixel belongs to the structure with its probability.

    Args:
        probabilities: (H, W) in [0, 1], calibrated.
        mask: bool (H, W).

    Returns:
        A value in [0, 1]; 0 for an empty mask.
    """
    area = int(mask.sum())
    return 2.0 * float(probabilities[mask].sum()) / (float(probabilities.sum()) + area) if area else 0.0


def changed_bbox(before: ArrayLike | None, after: ArrayLike) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Finds the box around all pixels that differ between two masks of a slice.

    Args:
        before: (H, W), bool or integers (nonzero is object), or None for an empty mask.
        after: (H, W), bool or integers.

    Returns:
        ((row_start, row_stop), (column_start, column_stop)), half-open; None when nothing differs.

    Raises:
        GeometryError: The shapes differ.
        ImageError: Not a mask of a slice.
    """
    changed = _mask(after, ndim=(2,))
    if before is not None:
        old = _mask(before, ndim=(2,))
        checks.same_shape(changed.shape, old.shape, name="The new mask", reference="the mask before")
        changed = changed ^ old
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if rows.size == 0:
        return None
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def fill_holes(mask: ArrayLike) -> Mask:
    """Fills background that is enclosed by the object.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Background connects through pixel sides (voxel faces), so a
            contour that is closed diagonally encloses its inside.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ImageError: Not a mask.
    """
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(_mask(mask)), bool)


def keep_largest(mask: ArrayLike) -> Mask:
    """Keeps the largest connected piece; of equally large ones the first in memory order.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ImageError: Not a mask.
    """
    pieces, sizes = _pieces(_mask(mask))
    if len(sizes) == 1:
        return np.zeros(pieces.shape, bool)
    return np.asarray(pieces == 1 + int(np.argmax(sizes[1:])))


def remove_small_islands(mask: ArrayLike, min_size: int) -> Mask:
    """Removes connected pieces of fewer than `min_size` pixels.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.
        min_size: Smallest number of pixels that stays; 0 and 1 keep everything.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ConfigError: `min_size` is negative.
        ImageError: Not a mask.
    """
    if not min_size >= 0:
        raise ConfigError(f"The smallest island has {min_size} pixels; give a number of pixels from 0.")
    pieces, sizes = _pieces(_mask(mask))
    keep = sizes >= min_size
    keep[0] = False
    return np.asarray(keep[pieces])


def keep_touched(mask: ArrayLike, prompts_mask: ArrayLike) -> Mask:
    """Keeps the connected pieces that the user's positive prompts touch.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.
        prompts_mask: Of the same shape, bool or integers: nonzero where something positive was drawn or clicked.

    Returns:
        bool, of the shape of `mask`; empty when no prompt lies on the mask.

    Raises:
        GeometryError: The shapes differ.
        ImageError: Not masks.
    """
    objects, touched = _mask(mask), _mask(prompts_mask)
    checks.same_shape(touched.shape, objects.shape, name="The mask of prompts", reference="the mask")
    pieces, sizes = _pieces(objects)
    keep = np.zeros(len(sizes), bool)
    keep[pieces[touched]] = True
    keep[0] = False
    return np.asarray(keep[pieces])


def _mask(value: ArrayLike, ndim: Sequence[int] = (2, 3)) -> Mask:
    array = checks.image_array(value, ndim=ndim, name="mask")
    if array.dtype.kind == "f":
        raise ImageError(f"The mask holds {array.dtype} values; threshold logits with logits_to_mask first.")
    return array if array.dtype == np.bool_ else array != 0


def _pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Numbers the connected pieces from 1, and counts the pixels of each (at position 0, of the background)."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return pieces, np.bincount(pieces.ravel(), minlength=1)
