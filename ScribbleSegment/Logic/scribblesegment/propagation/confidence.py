"""How far a propagated slice can be trusted, and which slice is worth correcting next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scribblesegment.data.masks import expected_dice
from scribblesegment.data.prompts import box_of
from scribblesegment.propagation.config import FloatArray, Mask
from scribblesegment.propagation.prior import ShapePrior

# Background this far around mask and expected shape counts, as a part of their extent and in pixels: beyond,
# thousands of pixels with a probability of a thousandth each would outweigh a small structure.
_MARGIN, _MARGIN_PIXELS = 0.25, 4
_BINS, _UNSEEN = 24, 0.5  # of intensities, and pixels that every bin is taken to have, for the sake of small masks


def confidence_of(
    logits: FloatArray, mask: Mask, prior: ShapePrior, *, consistency: float, likeness: float = 1.0
) -> float:
    """Say how far to trust a mask, in [0, 1]; 0 for an empty one, since a structure was expected.

    The expected Dice coefficient ``2 * sum(p in the mask) / (sum(p) + area)`` of calibrated logits, times
    ``(1 - d / (a + e)) ** consistency``, where ``a`` and ``e`` are the areas of the mask and of the expected shape and
    ``d`` the area in which they differ by more than the prior's tolerance, times the square root of `likeness`.
    """
    area = int(mask.sum())
    if area == 0:
        return 0.0
    union = mask.copy()
    union[prior.box] |= prior.distance_mm > 0
    sides = []
    for side in box_of(union):
        margin = _MARGIN_PIXELS + round(_MARGIN * (side.stop - side.start))
        sides.append(slice(max(side.start - margin, 0), side.stop + margin))
    around = sides[0], sides[1]
    expected = prior.distance_mm > 0
    inside = mask[prior.box]
    differs = (inside ^ expected) & (np.abs(prior.distance_mm) > prior.tolerance_mm)
    difference = int(differs.sum()) + area - int(inside.sum())
    agreement = 1.0 - difference / (area + int(expected.sum()))
    found = expected_dice(expit(logits[around]), mask[around]) * agreement**consistency * likeness**0.5
    return float(np.clip(found, 0.0, 1.0))


class Appearance:
    """How intensities are distributed in the accepted slices of a segment."""

    def __init__(self, intensities: Mapping[int, FloatArray]) -> None:
        """Take intensities in [0, 1] of the pixels in each mask, (N,) by index; empty masks do not count."""
        self._known = {index: _parts(values) for index, values in intensities.items() if values.size}

    def likeness(self, index: int, intensities: FloatArray) -> float:
        """Compare the pixels (N,) in a mask with those in the nearest accepted slice: 1 alike, 0 nothing in common."""
        if not intensities.size:
            return 0.0
        nearest = min(self._known, key=lambda known: abs(known - index))
        return float(np.minimum(self._known[nearest], _parts(intensities)).sum())


def _parts(intensities: FloatArray) -> NDArray[np.float64]:
    """The part of pixels in each bin."""
    counts = np.histogram(intensities, _BINS, (0.0, 1.0))[0] + _UNSEEN
    return np.asarray(counts / counts.sum())


def overlap_of(first: Mask, second: Mask) -> float:
    """Dice coefficient of two masks of which one at least is not empty."""
    return 2.0 * int((first & second).sum()) / (int(first.sum()) + int(second.sum()))


def disagreement_of_fronts(steps: Sequence[float], meeting: float) -> float:
    """How much worse two fronts agree where they met than neighbouring slices do elsewhere.

    Args:
        steps: Dice coefficients of neighbouring slices, for a distance of one slice.
        meeting: That of the two fronts' last slices.

    Returns:
        0 if the fronts agree as well as neighbouring slices do, 1 if their masks do not overlap at all.
    """
    usual = float(np.median(steps)) if steps else 1.0
    return min(max(1.0 - meeting / usual, 0.0), 1.0) if usual > 0 else 0.0


def next_slice_to_correct(
    confidence: Mapping[int, float], disagreement: Mapping[int, float], accepted: Iterable[int], *, certain: float
) -> int | None:
    """Choose the slice whose correction would help most, among those that were predicted and are not accepted.

    A slice ``j`` is uncertain by ``u(j) = 1 - confidence * (1 - disagreement)``. Correcting slice ``i`` gains
    ``u(j) * max(0, 1 - |i - j| / d)`` at ``j``, with ``d`` the distance of ``j`` to the nearest accepted slice. The
    largest sum wins, of equal ones the lowest: a slice amid many uncertain ones, far from accepted ones. None where all
    are certain.
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
    gain = (uncertain * np.maximum(1.0 - between / away, 0.0)).sum(axis=1)
    return int(indices[np.argmax(gain)])
