"""Whether probabilities mean what they say, with and without a context, and the temperature that mends it.

Sources: Guo et al. 2017, On calibration of modern neural networks (ICML, arXiv:1706.04599), sections 2 and 4.2. There a
prediction has a class and a confidence in it. Here every pixel has the probability of being in the structure, and this
is what is binned: of the pixels said to be in it with 30 %, 30 % should be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from math import exp, log
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.prompts import Prompts, box_of
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.simulation.user import simulate_corrections, simulate_first_round
from scribblesegment.weights.checkpoints import load_network, redescribe_network
from studies.common import FloatArray, Mask
from studies.data import PREFIX, Example
from studies.methods import ClassicalMethod, LabelFusion, Method
from studies.prompting import predicts_first

BINS = 15  # of equal width; as many as in Guo et al.
PIXELS = 4096  # most that are taken of one prediction and region
_MARGIN, _MARGIN_PIXELS = 0.5, 8  # around a structure: a part of its longer side, and pixels at least
NEAR, WHOLE = "around the structure", "whole image"

# A temperature beyond these says that the search has no end, not that the network needs it.
_COLDEST, _HOTTEST = 0.01, 100.0


def collect_pixels(
    method: Method,
    examples: Iterable[tuple[Example, ContextSet | None]],
    rng: np.random.Generator,
    *,
    rounds: int = 5,
) -> pd.DataFrame:
    """Let the simulated user of training (ScribblePrompt, section 3.2) prompt and correct a network on each example.

    The first round has scribbles, clicks and boxes in all combinations, the others have scribbles or clicks on the
    error; a prediction without an error ends them. With a context, what the network predicts from it alone is round 0.

    Returns:
        A row for each pixel: `logit`, `inside`, `weight` (every prediction has a weight of 1, shared by its pixels),
        `step`, `set`, and `region`: drawn anywhere, or around the structure (see `surroundings`).

    Raises:
        ConfigError: If the method gives no probabilities, or there are no examples.
    """
    if isinstance(method, (ClassicalMethod, LabelFusion)):
        raise ConfigError("A classical method gives a mask and no probabilities, so there is nothing to calibrate.")
    parts = []
    for example, context in examples:
        near = np.flatnonzero(surroundings(example.reference))
        for step, logits in _rounds(method, example, context, rng, rounds):
            for region, candidates in ((NEAR, near), (WHOLE, np.arange(logits.size))):
                chosen = rng.choice(candidates, size=min(PIXELS, len(candidates)), replace=False, shuffle=False)
                part = pd.DataFrame({"logit": logits.ravel()[chosen], "inside": example.reference.ravel()[chosen]})
                parts.append(part.assign(weight=1.0 / len(chosen), step=step, set=example.set_name, region=region))
    if not parts:
        raise ConfigError("There is no example to predict. Name a folder that has some.")
    return pd.concat(parts, ignore_index=True).astype({"set": "category", "region": "category"})


def _rounds(
    method: Method, example: Example, context: ContextSet | None, rng: np.random.Generator, rounds: int
) -> Iterator[tuple[int, FloatArray]]:
    method.set_context(context)
    method.set_image(example.image)
    if predicts_first(method, context):
        yield 0, method.predict(Prompts.empty(example.reference.shape))
    prompts = simulate_first_round(example.reference, rng)
    logits = [method.predict(prompts)]
    while len(logits) < rounds:
        corrected = simulate_corrections(prompts, example.reference, logits[-1] > 0, rng)
        if corrected is prompts:
            break
        prompts = corrected
        logits.append(method.predict(prompts))
    yield from enumerate(logits, start=1)


def surroundings(reference: Mask) -> Mask:
    """Give the bounding box of a structure, enlarged on every side by a part of its longer side, and some pixels.

    Most of an image is rightly called background with certainty; over the whole image the calibration error is small
    for that reason alone. A band around the boundary would leave out both the interior and what leaks beyond it.
    """
    box = box_of(reference)
    growth = max(round(_MARGIN * max(side.stop - side.start for side in box)), _MARGIN_PIXELS)
    region = np.zeros(reference.shape, dtype=bool)
    region[tuple(slice(max(side.start - growth, 0), side.stop + growth) for side in box)] = True
    return region


def reliability(probabilities: ArrayLike, inside: ArrayLike, weights: ArrayLike | None = None) -> pd.DataFrame:
    """Sort pixels into bins by their probability; gives a row for each bin that has some.

    Args:
        probabilities: Of being in the structure, (N,) in [0, 1].
        inside: Whether they are, bool (N,).
        weights: How much each counts; all the same if absent.

    Returns:
        `low` and `high` edge, mean `probability`, `frequency` of being inside, and `share` of all weight.
    """
    values, truth = np.asarray(probabilities, np.float64), np.asarray(inside, np.float64)
    weight = np.ones(values.size) if weights is None else np.asarray(weights, np.float64)
    if not values.size or values.min() < 0 or values.max() > 1 or weight.sum() <= 0:
        raise ConfigError(f"Probabilities are in [0, 1], of one pixel at least; got {values.size} of them.")
    index = np.minimum((values * BINS).astype(np.intp), BINS - 1)
    total, said, true = (np.bincount(index, weight * one, minlength=BINS) for one in (1.0, values, truth))
    edges, held = np.linspace(0.0, 1.0, BINS + 1), total > 0
    return pd.DataFrame(
        {
            "low": edges[:-1][held],
            "high": edges[1:][held],
            "probability": said[held] / total[held],
            "frequency": true[held] / total[held],
            "share": total[held] / total.sum(),
        }
    )


def calibration_error(probabilities: ArrayLike, inside: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Give the mean distance of probability and frequency over bins, weighted by their pixels (ECE), in [0, 1]."""
    curve = reliability(probabilities, inside, weights)
    return float((curve.share * (curve.frequency - curve.probability).abs()).sum())


def log_loss(logits: ArrayLike, inside: ArrayLike, temperature: float, weights: ArrayLike | None = None) -> float:
    """Give the mean of -log of the probability of what is true.

    Unlike the calibration error it cannot be made small by saying the same everywhere.
    """
    margins, weight = _margins(logits, inside, weights)
    return float(np.sum(weight * np.logaddexp(0.0, -margins / temperature)))


def fit_temperature(logits: ArrayLike, inside: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Find the T > 0 for which sigmoid(logits / T) is most likely to have given what is inside.

    The negative log likelihood is convex in 1 / T, so its derivative has at most one zero, which is bracketed.

    Raises:
        DatasetError: If these pixels determine no temperature: every one is on the right side, so that the colder the
            better, or the logits are no better than chance, so that the hotter the better.
    """
    margins, weight = _margins(logits, inside, weights)

    def slope(log_temperature: float) -> float:
        return -float(np.sum(weight * margins * expit(-margins * exp(-log_temperature))))

    if slope(log(_HOTTEST)) >= 0 or slope(log(_COLDEST)) <= 0:
        raise DatasetError(
            f"No temperature is the best for these {margins.size} pixels: the logits tell no more than chance, or have "
            "the right sign almost everywhere. Take more examples, or more difficult ones."
        )
    return exp(float(brentq(slope, log(_COLDEST), log(_HOTTEST), xtol=1e-6)))


def _margins(
    logits: ArrayLike, inside: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give logits that are above zero where their sign is right, and weights whose sum is 1."""
    values, truth = np.asarray(logits, np.float64), np.asarray(inside, bool)
    weight = np.ones(values.size) if weights is None else np.asarray(weights, np.float64)
    return np.where(truth, values, -values), weight / weight.sum()


def calibration_table(pixels: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Give the error (`ece`) and the negative log likelihood (`nll`) of each region, of all pixels and by step and set.

    Args:
        pixels: As `collect_pixels` gives them.
        temperature: What the logits are divided by.
    """
    rows = []
    for region, of_region in pixels.groupby("region", sort=False, observed=True):
        parts = [("all", "all", of_region)]
        for name in ("step", "set"):
            parts += [(name, value, part) for value, part in of_region.groupby(name, observed=True)]
        for name, value, part in parts:
            probabilities = expit(part.logit / np.float32(temperature))
            error = calibration_error(probabilities, part.inside, part.weight)
            loss = log_loss(part.logit, part.inside, temperature, part.weight)
            rows.append({"region": region, "by": name, "value": value, "ece": error, "nll": loss})
    return pd.DataFrame(rows)


def write_calibrated(weights: Path, output: Path, change: float) -> float:
    """Write the same parameters with the temperature of the file times `change`; returns that temperature.

    Raises:
        ConfigError: If a file is no `.safetensors`, which has a place for it.
        WeightsError: If the weights cannot be read.
        FileFormatError: If they cannot be written.
    """
    if {weights.suffix, output.suffix} != {".safetensors"}:
        raise ConfigError("Only safetensors files have a place for the temperature; name such ones.")
    _, description = load_network(weights)
    temperature = change * description.temperature
    redescribe_network(weights, output, dataclasses.replace(description, temperature=temperature))
    return temperature


def refuse_reported(folder: Path) -> None:
    """Refuse to fit on data that figures are reported on.

    Raises:
        ConfigError: If the folder holds sets with strokes of people.
    """
    if next(folder.glob(f"{PREFIX}*.npz"), None) is not None:
        raise ConfigError(
            f"{folder} holds {PREFIX}*.npz: figures are reported on this data, and a temperature that was fitted there "
            "would flatter them. Name training data."
        )
