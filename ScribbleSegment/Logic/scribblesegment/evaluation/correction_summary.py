"""Means of the study of refinement, with how far they can be trusted.

Images of a subject are averaged first, then subjects, then tasks with their shifts; subjects are redrawn for the 95 %
intervals, all images of one together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_shifts import NONE
from scribblesegment.evaluation.correction_study import RoundResult
from scribblesegment.evaluation.hierarchy import hierarchical_bootstrap
from scribblesegment.evaluation.summary import Estimate, estimate

RESAMPLES = 2000


@dataclass(frozen=True)
class Trial:
    """One method on one image, interaction by interaction.

    Attributes:
        rounds: The results, interaction 0 first.
    """

    rounds: tuple[RoundResult, ...]

    @property
    def task(self) -> str:
        """Its task."""
        return self.rounds[0].task

    @property
    def shift(self) -> str:
        """Its shift."""
        return self.rounds[0].shift

    @property
    def variant(self) -> str:
        """Its method."""
        return self.rounds[0].variant

    def dice(self, interaction: int) -> float:
        """Mean Dice after an interaction; -1 is the last one."""
        return self.rounds[interaction].dice

    def gain(self) -> float:
        """How much mean Dice rose from the first segmentation to the last."""
        return self.dice(-1) - self.dice(0)

    def interactions_to(self, target: float) -> int:
        """Interactions until a mean Dice; one more than there were, if it was not reached."""
        return next((n for n, entry in enumerate(self.rounds) if entry.dice >= target), len(self.rounds))

    def corrections(self) -> tuple[RoundResult, ...]:
        """Interactions in which something was marked."""
        return tuple(entry for entry in self.rounds[1:] if entry.strokes)


def trials_of(results: Iterable[RoundResult], experiment: str) -> list[Trial]:
    """Group an experiment's results by image and method.

    Raises:
        ConfigError: If there are none.
    """
    grouped: dict[tuple[str, str, str, int, int], list[RoundResult]] = {}
    for entry in results:
        if entry.experiment == experiment:
            key = entry.task, entry.shift, entry.variant, entry.image_index, entry.repetition
            grouped.setdefault(key, []).append(entry)
    if not grouped:
        raise ConfigError(f"There are no results of {experiment}. Run it first.")
    return [Trial(tuple(sorted(own, key=lambda entry: entry.interaction))) for own in grouped.values()]


def select(
    trials: Sequence[Trial], *, variant: str | None = None, task: str | None = None, shift: str | None = None
) -> list[Trial]:
    """Choose trials; `shift` "shifted" stands for every shift but "none"."""
    return [
        trial
        for trial in trials
        if variant in (None, trial.variant)
        and task in (None, trial.task)
        and (shift in (None, trial.shift) or (shift == "shifted" and trial.shift != NONE))
    ]


def mean_of(trials: Sequence[Trial], value: Callable[[Trial], float], *, seed: int = 0) -> Estimate | None:
    """Average a value over trials; those where it is NaN are left out. None if none is left.

    All methods on the same images see the same draws.
    """
    known = [(trial, number) for trial in trials if not math.isnan(number := value(trial))]
    if not known:
        return None
    groups = [("all", f"{one.task} {one.shift}", f"{one.task} {one.rounds[0].subject}") for one, _ in known]
    means = hierarchical_bootstrap(
        groups, np.array([number for _, number in known], dtype=np.float64), np.random.default_rng(seed), RESAMPLES
    )
    return estimate(means["all"])


@dataclass(frozen=True)
class Cost:
    """What the corrections of some trials took.

    Attributes:
        runs: Number of corrections.
        iterations: Their median.
        seconds: Their median.
        slowest: The 95th percentile of their seconds.
        satisfied: Share in which every mark was followed.
        left: Most drawn pixels that one of them did not follow.
    """

    runs: int
    iterations: float
    seconds: float
    slowest: float
    satisfied: float
    left: int


def cost_of(trials: Sequence[Trial]) -> Cost | None:
    """Sum up the corrections of some trials; None if there was none."""
    runs = [entry for trial in trials for entry in trial.corrections()]
    if not runs:
        return None
    seconds = [entry.seconds for entry in runs]
    return Cost(
        len(runs),
        float(np.median([entry.iterations for entry in runs])),
        float(np.median(seconds)),
        float(np.percentile(seconds, 95)),
        float(np.mean([entry.satisfied for entry in runs])),
        max(entry.violations for entry in runs),
    )


def far_change(trial: Trial) -> float:
    """Change of mean Dice far from all strokes, from the first segmentation to the last; NaN if nothing is there."""
    last = trial.rounds[-1]
    return last.far_dice - last.far_dice_before


def far_wrong_change(trial: Trial) -> float:
    """Change of the share of wrong pixels far from all strokes; below 0 is better."""
    last = trial.rounds[-1]
    return last.far_wrong - last.far_wrong_before


def dice_after(interaction: int) -> Callable[[Trial], float]:
    """Give the value of `mean_of` that is the mean Dice after an interaction; -1 is the last one."""
    return lambda trial: trial.dice(interaction)


def interactions_needed(targets: Mapping[str, float]) -> Callable[[Trial], float]:
    """Give the value of `mean_of` that counts interactions until each task's target."""
    return lambda trial: float(trial.interactions_to(targets[trial.task]))


def target_reached(targets: Mapping[str, float]) -> Callable[[Trial], float]:
    """Give the value of `mean_of` that is 1 where the task's target was reached."""
    return lambda trial: float(trial.interactions_to(targets[trial.task]) < len(trial.rounds))
