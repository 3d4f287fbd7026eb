"""Whether probabilities mean what they say: calibration error, reliability curve, and the temperature that mends it.

Sources: Guo et al. 2017, On calibration of modern neural networks (ICML, arXiv:1706.04599), sections 2 and 4.2. There a
prediction has a class and a confidence in it. Here every pixel has the probability of being in the structure, and this
is what is binned: of the pixels said to be in it with 30 %, 30 % should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from scribblesegment.data import validation
from scribblesegment.errors import ConfigError, DatasetError, ImageError
from scribblesegment.simulation.regions import bounding_slices, require_region

BINS = 15
"""Number of bins of equal width; that of Guo et al."""

# A temperature beyond these says that the search has no end, not that the network needs it.
_COLDEST, _HOTTEST = 0.01, 100.0

_FloatArray = NDArray[np.float64]
_BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """What was said against what was true, bin by bin.

    Attributes:
        edges: (bins + 1,) from 0 to 1, equally spaced. A bin holds its lower edge; the last one both.
        confidence: (bins,) mean probability of the pixels in each bin; NaN where there are none.
        frequency: (bins,) which part of them is in the structure; NaN where there are none.
        share: (bins,) which part of all pixels' weight they are; the sum is 1.
    """

    edges: _FloatArray
    confidence: _FloatArray
    frequency: _FloatArray
    share: _FloatArray

    @property
    def error(self) -> float:
        """The expected calibration error (equation 3 of Guo et al.), in [0, 1]."""
        held = self.share > 0
        gaps = np.abs(self.frequency[held] - self.confidence[held])
        return float(np.sum(self.share[held] * gaps))


def reliability_curve(
    probabilities: ArrayLike, references: ArrayLike, *, weights: ArrayLike | None = None, bins: int = BINS
) -> ReliabilityCurve:
    """Sort pixels into bins by their probability, and see how many of each are in the structure.

    Args:
        probabilities: Of being in the structure, in [0, 1]; any shape, not empty.
        references: bool of the same shape, whether they are.
        weights: How much each counts, 0 or above, of the same shape; all the same if absent.
        bins: Number of bins.

    Raises:
        ImageError: If the arrays are empty, of other types or values, or some weight is negative or all are zero.
        GeometryError: If the shapes differ.
        ConfigError: If there is less than one bin.
    """
    if bins < 1:
        raise ConfigError(f"A reliability curve has at least one bin, got {bins}.")
    values, inside, weight = _checked(probabilities, references, weights, name="probabilities")
    validation.unit_range(values, name="probabilities", error=ImageError)
    index = np.minimum((values * bins).astype(np.intp), bins - 1)
    total = np.bincount(index, weight, minlength=bins)
    held = total > 0
    confidence, frequency = np.full((2, bins), np.nan)
    confidence[held] = np.bincount(index, weight * values, minlength=bins)[held] / total[held]
    frequency[held] = np.bincount(index, weight * inside, minlength=bins)[held] / total[held]
    return ReliabilityCurve(np.linspace(0.0, 1.0, bins + 1), confidence, frequency, total / total.sum())


def expected_calibration_error(
    probabilities: ArrayLike, references: ArrayLike, *, weights: ArrayLike | None = None, bins: int = BINS
) -> float:
    """Give the mean distance of probability and frequency over bins, weighted by their pixels; in [0, 1].

    Arguments and errors as in `reliability_curve`.
    """
    return reliability_curve(probabilities, references, weights=weights, bins=bins).error


def fit_temperature(logits: ArrayLike, references: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Find the T > 0 for which sigmoid(logits / T) is most likely to have given the references.

    The negative log likelihood is convex in 1 / T, so its derivative has at most one zero; that is bracketed and found
    on the scale of log T (Guo et al., section 4.2, with two classes).

    Args:
        logits: Any shape, finite, not empty.
        references: bool of the same shape.
        weights: How much each counts, 0 or above, of the same shape; all the same if absent.

    Returns:
        The temperature, between 0.01 and 100.

    Raises:
        ImageError: If the arrays are empty, of other types or values, or some weight is negative or all are zero.
        GeometryError: If the shapes differ.
        DatasetError: If these pixels determine no temperature: every one is on the right side, so that the colder the
            better, or the logits are no better than chance, so that the hotter the better.
    """
    values, inside, weight = _checked(logits, references, weights, name="logits")
    margins = np.where(inside, values, -values)  # above zero where the sign of the logit is right
    weight = weight / weight.sum()

    def slope(log_temperature: float) -> float:
        """Derivative of the mean negative log likelihood by 1 / T."""
        return -float(np.sum(weight * margins * expit(-margins * exp(-log_temperature))))

    coldest, hottest = log(_COLDEST), log(_HOTTEST)
    if slope(hottest) >= 0:
        raise DatasetError(
            f"No temperature below {_HOTTEST} is the best for these {values.size} pixels: the logits tell no more than "
            "chance. Check that they belong to the references."
        )
    if slope(coldest) <= 0:
        raise DatasetError(
            f"No temperature above {_COLDEST} is the best for these {values.size} pixels: the logits have the right "
            "sign almost everywhere. Take more examples, or more difficult ones."
        )
    return exp(float(brentq(slope, coldest, hottest, xtol=1e-6)))


def negative_log_likelihood(
    logits: ArrayLike, references: ArrayLike, temperature: float, *, weights: ArrayLike | None = None
) -> float:
    """Give the mean of -log of the probability of what is true: what `fit_temperature` makes smallest.

    Unlike the calibration error it cannot be made small by saying the same everywhere: lower is better, whatever the
    mixture of easy and difficult pixels.

    Arguments and errors as in `fit_temperature`; further:

    Raises:
        ConfigError: If the temperature is not positive and finite.
    """
    values, inside, weight = _checked(logits, references, weights, name="logits")
    margins = np.where(inside, values, -values) / _checked_temperature(temperature)
    return float(np.sum(weight * np.logaddexp(0.0, -margins)) / weight.sum())


def tempered(logits: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """Turn logits into probabilities, float32 of the same shape: sigmoid(logits / temperature).

    Raises:
        ConfigError: If the temperature is not positive and finite.
    """
    divisor = np.float32(_checked_temperature(temperature))
    return np.asarray(expit(np.asarray(logits, dtype=np.float32) / divisor), dtype=np.float32)


def surroundings(reference: _BoolArray, *, margin: float = 0.5, fewest: int = 8) -> _BoolArray:
    """Give the bounding box of a structure, enlarged on every side: the pixels that are in question at all.

    Most of an image is far from the structure and is rightly called background with certainty. Over the whole image the
    calibration error is small for that reason alone, and says nothing about the pixels where a probability is of use.
    A band around the boundary would leave out both the interior and what leaks beyond it. This region depends on the
    reference only, so that it is the same for every prediction.

    Args:
        reference: (H, W) bool, not empty.
        margin: By which part of its longer side the box grows on each side.
        fewest: By at least how many pixels.

    Returns:
        (H, W) bool, cut at the image's border.

    Raises:
        PromptError: If the reference is no bool array (H, W), or is empty.
        ConfigError: If margin or fewest is negative.
    """
    require_region(reference)
    if margin < 0 or fewest < 0:
        raise ConfigError(f"The surroundings reach outwards: margin and fewest are at least 0, got {margin}, {fewest}.")
    box = bounding_slices(reference)
    growth = max(round(margin * max(side.stop - side.start for side in box)), fewest)
    region = np.zeros(reference.shape, dtype=bool)
    region[tuple(slice(max(side.start - growth, 0), side.stop + growth) for side in box)] = True
    return region


def _checked_temperature(temperature: float) -> float:
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"A temperature is positive and finite, got {temperature}.")
    return temperature


def _checked(
    values: ArrayLike, references: ArrayLike, weights: ArrayLike | None, *, name: str
) -> tuple[_FloatArray, _BoolArray, _FloatArray]:
    """Give values, references and weights as flat arrays."""
    array = validation.finite_array(values, name=name, error=ImageError)
    if array.size == 0:
        raise ImageError(f"{name} is empty, so there is nothing to measure. Give at least one pixel.")
    inside = _bools(references)
    validation.same_shape(inside.shape, array.shape, name="references", reference=name)
    if weights is None:
        return array.ravel(), inside.ravel(), np.ones(array.size)
    weight = validation.finite_array(weights, name="weights", error=ImageError)
    validation.same_shape(weight.shape, array.shape, name="weights", reference=name)
    if weight.min() < 0 or weight.sum() <= 0:
        raise ImageError(
            f"weights go from {weight.min()} to {weight.max()}; each is at least 0, and one of them is above."
        )
    return array.ravel(), inside.ravel(), weight.ravel()


def _bools(references: ArrayLike) -> NDArray[Any]:
    array = validation.numeric_array(references, name="references")
    if array.dtype != np.bool_:
        raise ImageError(f"references holds {array.dtype} values, expected bool: compare labels with the label.")
    return array
