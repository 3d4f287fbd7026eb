"""A network's logits while a simulated user corrects it, and how well calibrated they are at some temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.calibration import (
    ReliabilityCurve,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
    surroundings,
    tempered,
)
from scribblesegment.evaluation.tables import table_lines
from scribblesegment.simulation.rounds import (
    DEFAULT_USER,
    SimulatedUserConfig,
    simulate_corrections,
    simulate_first_round,
)

if TYPE_CHECKING:
    from scribblesegment.evaluation.label_tasks import LabelExample
    from scribblesegment.evaluation.stepwise import InteractiveMethod

Progress = Callable[[float, str], None]

NEAR, WHOLE = "around the structure", "whole image"

STEPS = 5
PIXELS = 4096
"""Most pixels that are taken of one prediction and region."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of many predictions; every prediction has a weight of 1, shared by its pixels.

    Attributes:
        logits: float32 (N,).
        references: bool (N,).
        weights: float64 (N,).
        steps: int64 (N,), after how many rounds of prompts, counted from 1.
        sets: int64 (N,), positions in `set_names`.
        set_names: The sets that the images come from.
    """

    logits: NDArray[np.float32]
    references: NDArray[np.bool_]
    weights: NDArray[np.float64]
    steps: NDArray[np.int64]
    sets: NDArray[np.int64]
    set_names: tuple[str, ...]

    def of_step(self, step: int) -> Pixels:
        """Give the pixels of one step."""
        return self._chosen(self.steps == step)

    def of_set(self, name: str) -> Pixels:
        """Give the pixels of one set, a name of `set_names`."""
        return self._chosen(self.sets == self.set_names.index(name))

    def fit(self) -> float:
        """Fit the temperature; errors as in `fit_temperature`."""
        return fit_temperature(self.logits, self.references, weights=self.weights)

    def curve(self, temperature: float) -> ReliabilityCurve:
        """Give the reliability curve at a temperature."""
        return reliability_curve(tempered(self.logits, temperature), self.references, weights=self.weights)

    def cost(self, temperature: float) -> float:
        """Give the negative log likelihood at a temperature."""
        return negative_log_likelihood(self.logits, self.references, temperature, weights=self.weights)

    def _chosen(self, which: NDArray[np.bool_]) -> Pixels:
        return Pixels(
            self.logits[which],
            self.references[which],
            self.weights[which],
            self.steps[which],
            self.sets[which],
            self.set_names,
        )


@dataclass
class _Collection:
    """Pixels as they come, a piece for each prediction."""

    logits: list[NDArray[np.float32]] = field(default_factory=list)
    references: list[NDArray[np.bool_]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)

    def pixels(self) -> Pixels:
        counts = [len(piece) for piece in self.logits]
        names = tuple(dict.fromkeys(self.sets))
        return Pixels(
            np.concatenate(self.logits),
            np.concatenate(self.references),
            np.repeat(1.0 / np.array(counts), counts),
            np.repeat(np.array(self.steps, dtype=np.int64), counts),
            np.repeat(np.array([names.index(name) for name in self.sets], dtype=np.int64), counts),
            names,
        )


def collect_pixels(
    network: InteractiveMethod,
    examples: Sequence[LabelExample],
    rng: np.random.Generator,
    *,
    steps: int = STEPS,
    user: SimulatedUserConfig = DEFAULT_USER,
    progress: Progress | None = None,
) -> dict[str, Pixels]:
    """Let the simulated user of training (ScribblePrompt, section 3.2) prompt and correct a network on each example.

    The first round has scribbles, clicks and boxes in all combinations, the others have scribbles or clicks on the
    error; the network is given its last logits back. A prediction without an error ends the rounds.

    Args:
        network: What is calibrated.
        examples: At least one.
        rng: Source of randomness.
        steps: Number of rounds.
        user: Habits of the simulated user.
        progress: Told the fraction done and what is being done.

    Returns:
        Pixels of all predictions: around the structure (`calibration.surroundings`), and anywhere in the image. Of each
        prediction at most `PIXELS` are drawn at random, so that a large structure counts as much as a small one.

    Raises:
        ConfigError: If there are no examples, less than one step, or the method is no network.
        ScribbleSegmentError: What the network itself raises.
    """
    if not examples or steps < 1:
        raise ConfigError(f"Nothing to predict: {len(examples)} examples, {steps} steps. Give at least one of each.")
    regions = {NEAR: _Collection(), WHOLE: _Collection()}
    for n, example in enumerate(examples):
        if progress is not None:
            progress(n / len(examples), example.task)
        near = np.flatnonzero(surroundings(example.reference))
        for step, logits in enumerate(_rounds(network, example, rng, steps, user), start=1):
            for region, candidates in ((NEAR, near), (WHOLE, np.arange(logits.size))):
                chosen = rng.choice(candidates, size=min(PIXELS, len(candidates)), replace=False, shuffle=False)
                regions[region].logits.append(logits.ravel()[chosen])
                regions[region].references.append(example.reference.ravel()[chosen])
                regions[region].steps.append(step)
                regions[region].sets.append(example.set_name)
    if progress is not None:
        progress(1.0, "done")
    return {name: collection.pixels() for name, collection in regions.items()}


def calibration_table(pixels: dict[str, Pixels], temperature: float) -> str:
    """Give what calibration does, by region and step, by set, and bin by bin; Markdown.

    Args:
        pixels: As `collect_pixels` gives them.
        temperature: What the logits are divided by "after"; before, they are as the predictor gives them.
    """
    near = pixels[NEAR]
    header = ["", "all steps", *(f"step {step}" for step in np.unique(near.steps).tolist())]
    lines = table_lines(header, _by_step(pixels, temperature))
    rows = []
    for name in near.set_names:
        part = near.of_set(name)
        errors = [f"{part.curve(value).error:.4f}" for value in (1.0, temperature)]
        rows.append([name, _own_temperature(part), *errors])
    lines += ["", *table_lines([f"set, {NEAR}", "its own temperature", "ECE before", "ECE after"], rows)]
    before, after = near.curve(1.0), near.curve(temperature)
    rows = []
    for n, (low, high) in enumerate(pairwise(before.edges)):
        values = (before.share[n], before.frequency[n], after.share[n], after.frequency[n])
        cells = ["" if np.isnan(value) else f"{100 * value:.1f} %" for value in values]
        rows.append([f"{low:.2f} to {high:.2f}", *cells])
    header = [f"probability, {NEAR}", "pixels before", "in it before", "pixels after", "in it after"]
    return "\n".join([*lines, "", *table_lines(header, rows)]) + "\n"


def _by_step(pixels: dict[str, Pixels], temperature: float) -> list[list[str]]:
    """Give rows of calibration error and likelihood, before and after, of all steps and of each."""
    rows = []
    for region, content in pixels.items():
        parts = [content, *(content.of_step(step) for step in np.unique(content.steps).tolist())]
        for when, value in (("before", 1.0), ("after", temperature)):
            rows.append([f"ECE {region}, {when}", *(f"{part.curve(value).error:.4f}" for part in parts)])
        for when, value in (("before", 1.0), ("after", temperature)):
            rows.append([f"NLL {region}, {when}", *(f"{part.cost(value):.4f}" for part in parts)])
    return rows


def _own_temperature(pixels: Pixels) -> str:
    try:
        return f"{pixels.fit():.2f}"
    except DatasetError:
        return "none"


def _rounds(
    network: InteractiveMethod, example: LabelExample, rng: np.random.Generator, steps: int, user: SimulatedUserConfig
) -> list[NDArray[np.float32]]:
    """Prompt and correct; the logits (H, W) of each step."""
    network.set_image(example.image)
    prompts = simulate_first_round(example.reference, rng, config=user)
    predictions = [_logits(network, prompts)]
    while len(predictions) < steps:
        corrected = simulate_corrections(prompts, example.reference, predictions[-1] > 0, rng, config=user)
        if corrected is prompts:
            break
        prompts = corrected
        predictions.append(_logits(network, prompts))
    return predictions


def _logits(network: InteractiveMethod, prompts: Prompts) -> NDArray[np.float32]:
    logits = network.segment(prompts).logits
    if logits is None:
        raise ConfigError("A classical method gives a mask and no logits, so there is nothing to calibrate.")
    return logits
