"""How Dice depends on one thing at a time: strokes, intensities, pixels."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.conditions import DEFAULT_CONDITION, SIDE, Condition, Scene, draw_sketch, show
from scribblesegment.evaluation.hierarchy import hierarchical_bootstrap
from scribblesegment.evaluation.metrics import dice
from scribblesegment.evaluation.protocols import checked_mask
from scribblesegment.evaluation.summary import Estimate, estimate

if TYPE_CHECKING:
    from scribblesegment.evaluation.label_tasks import LabelExample
    from scribblesegment.evaluation.stepwise import InteractiveMethod

Progress = Callable[[float, str], None]
Level = int | float | bool

RESAMPLES = 2000


@dataclass(frozen=True)
class Factor:
    """One thing that is changed.

    Attributes:
        name: The field of `Condition` that is changed.
        title: What it is called.
        unit: What its levels are in.
        levels: Its values; the default is one of them.
        logarithmic: Whether equal steps are equal ratios.
    """

    name: str
    title: str
    unit: str
    levels: tuple[Level, ...]
    logarithmic: bool = False

    @property
    def default(self) -> Level:
        """The level that all other factors are measured at."""
        level: Level = getattr(DEFAULT_CONDITION, self.name)
        return level

    def condition(self, level: Level) -> Condition:
        """Give the condition that differs from the default in nothing but this."""
        changed: dict[str, Any] = {self.name: level}
        return dataclasses.replace(DEFAULT_CONDITION, **changed)


FACTORS = (
    Factor("thickness", "Stroke thickness", "pixels", (1, 3, 5, 7, 9)),
    Factor("strokes", "Number of positive strokes", "strokes", (1, 2, 3, 4, 5, 6)),
    Factor("off_target", "Off-target strokes", "part of the stroke outside", (0.0, 0.05, 0.1, 0.15, 0.2)),
    Factor("resolution", "Resolution", "pixels a side", (32, 64, 128, SIDE, 512), logarithmic=True),
    Factor("noise", "Image noise", "σ, intensities 0 to 1", (0.0, 0.05, 0.1, 0.15, 0.2)),
    Factor("inverted", "Contrast inversion", "dark and bright exchanged", (False, True)),
    Factor("gamma", "Gamma", "exponent", (0.5, 0.7, 1.0, 1.4, 2.0), logarithmic=True),
    Factor("contrast", "Contrast", "factor", (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), logarithmic=True),
)


@dataclass(frozen=True)
class RobustnessResult:
    """What one method made of one example under one condition.

    Attributes:
        method: Its name.
        factor: Name of the factor that is changed.
        level: Its level.
        set_name: The example's set.
        task: Its task.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        label: Number of the structure.
        dice: In [0, 1].
        seconds: Time of taking the image and of the prediction.
    """

    method: str
    factor: str
    level: Level
    set_name: str
    task: str
    subject: str
    image_index: int
    label: int
    dice: float
    seconds: float


def find_factors(names: Sequence[str]) -> tuple[Factor, ...]:
    """Give factors by their names.

    Raises:
        ConfigError: If one is unknown.
    """
    known = {factor.name: factor for factor in FACTORS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"Unknown factors {', '.join(unknown)}; known are {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names))


def measure_robustness(
    methods: Mapping[str, InteractiveMethod],
    examples: Sequence[LabelExample],
    *,
    seed: int,
    factors: Sequence[Factor] = FACTORS,
    progress: Progress | None = None,
) -> list[RobustnessResult]:
    """Let every method make one prediction of each example under each condition, from the same strokes.

    Args:
        methods: By name.
        examples: With pixels inside and outside of the structure.
        seed: Of the strokes and of the noise; those of an example depend on it and on the example alone.
        factors: What is changed, one at a time.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of examples, factors, levels and methods. Where a level is the default, what was measured
        once stands in every factor.

    Raises:
        ConfigError: If there are no methods, examples or factors.
        ImageError: If a method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What a method itself raises.
    """
    if not methods or not examples or not factors:
        raise ConfigError(
            f"Nothing to measure: {len(methods)} methods, {len(examples)} examples, {len(factors)} factors."
        )
    most = max(factor.condition(level).strokes for factor in factors for level in factor.levels)
    results: list[RobustnessResult] = []
    for n, example in enumerate(examples):
        identity = (zlib.crc32(example.task.encode()), example.image_index, example.label)
        sketch = draw_sketch(example.reference, np.random.default_rng((seed, *identity)), strokes=most)
        measured: dict[Condition, dict[str, tuple[float, float]]] = {}
        for f, factor in enumerate(factors):
            if progress is not None:
                progress((n + f / len(factors)) / len(examples), f"{example.task}, {factor.title.lower()}")
            for level in factor.levels:
                condition = factor.condition(level)
                if condition not in measured:
                    scene = show(example.image, example.reference, sketch, condition)
                    measured[condition] = {name: _measure(name, method, scene) for name, method in methods.items()}
                results += [
                    _result(name, factor, level, example, score, seconds)
                    for name, (score, seconds) in measured[condition].items()
                ]
    if progress is not None:
        progress(1.0, "done")
    return results


def summarise_robustness(
    results: Sequence[RobustnessResult], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> dict[str, dict[Level, dict[str, Estimate]]]:
    """Average Dice over the examples of a subject, the subjects of a task, the tasks of a set, and the sets.

    The bootstrap draws subjects, with all that was measured on them: slices and structures of one person are not
    independent. Tasks and sets are fixed, and all conditions and methods see the same draws.

    Args:
        results: Every method and condition on the same examples.
        rng: Source of the draws.
        resamples: How many of them.

    Returns:
        Means with 95 % intervals, by factor, level and method.

    Raises:
        ConfigError: If there are no results, or an example lacks some.
    """
    if not results:
        raise ConfigError("There are no results to summarise. Measure something first.")
    columns = list(dict.fromkeys((entry.factor, entry.level, entry.method) for entry in results))
    place = {column: number for number, column in enumerate(columns)}
    rows: dict[tuple[str, str, str, int, int], NDArray[np.float64]] = {}
    for entry in results:
        key = (entry.set_name, entry.task, entry.subject, entry.image_index, entry.label)
        row = rows.setdefault(key, np.full(len(columns), np.nan))
        row[place[entry.factor, entry.level, entry.method]] = entry.dice
    values = np.array(list(rows.values()))
    if np.isnan(values).any():
        raise ConfigError("Some examples were not measured under all conditions; measure all methods on the same ones.")
    sets = hierarchical_bootstrap([key[:3] for key in rows], values, rng, resamples)
    means = np.mean(list(sets.values()), axis=0)
    summary: dict[str, dict[Level, dict[str, Estimate]]] = {}
    for n, (factor, level, method) in enumerate(columns):
        summary.setdefault(factor, {}).setdefault(level, {})[method] = estimate(means[:, n])
    return summary


def _measure(name: str, method: InteractiveMethod, scene: Scene) -> tuple[float, float]:
    started = time.perf_counter()
    method.set_image(scene.image)
    mask = method.segment(scene.prompts).mask
    seconds = time.perf_counter() - started
    return dice(checked_mask(name, mask, scene.reference), scene.reference), seconds


def _result(
    method: str, factor: Factor, level: Level, example: LabelExample, score: float, seconds: float
) -> RobustnessResult:
    return RobustnessResult(
        method,
        factor.name,
        level,
        example.set_name,
        example.task,
        example.subject,
        example.image_index,
        example.label,
        score,
        seconds,
    )
