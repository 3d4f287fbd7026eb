"""How far a propagated slice can be trusted, and which slice is worth correcting next.

The confidence of a slice is what the network itself expects its Dice coefficient to be, times how well the mask agrees
with what the neighbouring slices lead to expect. Which correction helps most follows from the confidences of all slices
and from their distances to accepted ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from scribblesegment.data.masks import expected_dice
from scribblesegment.propagation.config import FloatArray, Mask
from scribblesegment.propagation.expectation import Expectation

# Background this far around mask and expectation counts, as a part of their extent and in pixels. Beyond, thousands of
# pixels with a probability of a thousandth each would outweigh a small structure.
_MARGIN, _MARGIN_PIXELS = 0.25, 4


def confidence_of(logits: FloatArray, mask: Mask, expectation: Expectation, *, consistency: float) -> float:
    """Say how far to trust a mask.

    The expected Dice coefficient is ``2 * sum(p in the mask) / (sum(p) + area of the mask)``: what it would be on
    average if each pixel belonged to the structure with its probability ``p``. It is multiplied with
    ``(1 - d / (a + e)) ** consistency``, where ``a`` and ``e`` are the areas of the mask and of the expected shape and
    ``d`` is the area in which they differ by more than the expectation's tolerance.

    Args:
        logits: float32 (H, W), calibrated.
        mask: bool (H, W), what was made of them.
        expectation: From the neighbouring slices.
        consistency: Exponent, 0 or above.

    Returns:
        A value in [0, 1]; 0 for an empty mask, since a structure was expected.
    """
    area = int(mask.sum())
    if area == 0:
        return 0.0
    around = _around(mask, expectation)
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(logits[around], -80.0, 80.0)))
    expected = expectation.distance_mm > 0
    inside = mask[expectation.region]
    differs = (inside ^ expected) & (np.abs(expectation.distance_mm) > expectation.tolerance_mm)
    difference = int(differs.sum()) + area - int(inside.sum())
    agreement = 1.0 - difference / (area + int(expected.sum()))
    return float(np.clip(expected_dice(probabilities, mask[around]) * agreement**consistency, 0.0, 1.0))


def overlap_of(first: Mask, second: Mask) -> float:
    """Give the Dice coefficient of two masks of which one at least is not empty."""
    return 2.0 * int((first & second).sum()) / (int(first.sum()) + int(second.sum()))


def disagreement_of_fronts(steps: Sequence[float], meeting: float) -> float:
    """Compare how well two fronts agree where they met with how well neighbouring slices agree elsewhere.

    Args:
        steps: Dice coefficients of neighbouring slices of the stretch, for a distance of one slice.
        meeting: That of the two fronts' last slices.

    Returns:
        0 if the fronts agree as well as neighbouring slices do, 1 if their masks do not overlap at all.
    """
    usual = float(np.median(steps)) if steps else 1.0
    return min(max(1.0 - meeting / usual, 0.0), 1.0) if usual > 0 else 0.0


def next_slice_to_correct(
    confidence: Mapping[int, float], disagreement: Mapping[int, float], accepted: Iterable[int], *, certain: float
) -> int | None:
    """Choose the slice whose correction would help most.

    A slice ``j`` is uncertain by ``u(j) = 1 - confidence * (1 - disagreement)``. A correction of slice ``i`` helps
    those slices that come to lie nearer to an accepted slice than before. The gain at ``j`` is
    ``u(j) * max(0, 1 - |i - j| / d)``, with ``d`` the distance of ``j`` to the nearest accepted slice so far: all of
    ``u`` at ``i`` itself, and nothing where an accepted slice is as close already. The slice with the largest sum is
    chosen, of equal ones the lowest: one amid many uncertain slices, far from accepted ones.

    Args:
        confidence: In [0, 1], by index, of the slices that were predicted.
        disagreement: In [0, 1], by index; 0 where it is not known.
        accepted: Indices of the accepted slices, one at least.
        certain: With ``1 - u`` above this everywhere nothing is proposed.

    Returns:
        One of the indices of `confidence` that is not accepted, or None.
    """
    known = np.array(sorted(accepted))
    indices = np.array(sorted(set(confidence) - set(known.tolist())))
    if not indices.size:
        return None
    uncertain = np.array([1.0 - confidence[i] * (1.0 - disagreement.get(i, 0.0)) for i in indices.tolist()])
    if (uncertain <= 1.0 - certain).all():
        return None
    away = np.abs(indices[:, None] - known).min(axis=1)
    between = np.abs(indices[:, None] - indices)
    # Nothing is gained past an accepted slice, which is nearer than what lies behind it.
    gain = (uncertain * np.maximum(1.0 - between / away, 0.0)).sum(axis=1)
    return int(indices[np.argmax(gain)])


def _around(mask: Mask, expectation: Expectation) -> tuple[slice, slice]:
    """The box around mask and expected shape with a margin, inside the image."""
    union = mask.copy()
    union[expectation.region] |= expectation.distance_mm > 0
    sides = []
    for axis in (0, 1):
        held = np.flatnonzero(union.any(axis=1 - axis))
        first, stop = int(held[0]), int(held[-1]) + 1
        margin = _MARGIN_PIXELS + round(_MARGIN * (stop - first))
        sides.append(slice(max(first - margin, 0), stop + margin))
    return sides[0], sides[1]
