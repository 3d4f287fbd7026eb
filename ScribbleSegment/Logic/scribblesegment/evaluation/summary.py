"""Means of many results, with how far they can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.protocols import ExampleResult

RESAMPLES = 5000

METRICS = ("dice", "hausdorff95_mm", "surface_dice")
_FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """All metrics of one method; units as in `ExampleResult`."""

    dice: Estimate
    hausdorff95_mm: Estimate
    surface_dice: Estimate


@dataclass(frozen=True)
class MethodSummary:
    """One method over all tasks.

    Attributes:
        method: Its name.
        tasks: Means over the examples of each task, in the results' order.
        overall: The mean of the tasks' means, so that every task counts the same.
        examples: Number of examples.
        seconds: Median time of a prediction.
        failures: On how many examples the method failed, by reason.
    """

    method: str
    tasks: dict[str, Scores]
    overall: Scores
    examples: int
    seconds: float
    failures: dict[str, int]


def summarise(
    results: Sequence[ExampleResult], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> list[MethodSummary]:
    """Average results by method and task.

    The bootstrap draws images, with all their annotators: strokes of three people on one image are no three independent
    examples. Tasks are fixed, and all methods see the same draws. With a handful of images for a task its interval is
    a rough one, and rather too narrow.

    Args:
        results: Every method on the same examples.
        rng: Source of the draws.
        resamples: How many of them.

    Raises:
        ConfigError: If there are no results, or a method lacks some example.
    """
    methods = list(dict.fromkeys(result.method for result in results))
    tasks = list(dict.fromkeys(result.task for result in results))
    if not methods:
        raise ConfigError("There are no results to summarise. Run a protocol first.")
    tables = {task: _by_example(results, methods, task) for task in tasks}
    # means[task][metric]: (1 + resamples, methods); the first row is the mean itself.
    means = {task: _bootstrap(*tables[task], rng, resamples) for task in tasks}
    overall = np.mean([means[task] for task in tasks], axis=0)
    return [
        MethodSummary(
            method=name,
            tasks={task: _scores(means[task][..., m]) for task in tasks},
            overall=_scores(overall[..., m]),
            examples=sum(result.method == name for result in results),
            seconds=float(np.median([result.seconds for result in results if result.method == name])),
            failures=dict(Counter(r.failure for r in results if r.method == name and r.failure)),
        )
        for m, name in enumerate(methods)
    ]


def _by_example(
    results: Sequence[ExampleResult], methods: Sequence[str], task: str
) -> tuple[_FloatArray, NDArray[np.int64]]:
    """Tabulate a task: values (metric, example, method), and each example's image."""
    entries = {
        (result.image_index, result.annotator, result.method): [getattr(result, metric) for metric in METRICS]
        for result in results
        if result.task == task
    }
    examples = sorted({key[:2] for key in entries})
    if len(entries) != len(examples) * len(methods):
        raise ConfigError(
            f"Task {task} has {len(entries)} results for {len(examples)} examples and {len(methods)} methods. Run all "
            "methods on the same examples."
        )
    values = np.array([[entries[(*example, name)] for name in methods] for example in examples], dtype=np.float64)
    return np.moveaxis(values, 2, 0), np.array([image for image, _ in examples])


def _bootstrap(values: _FloatArray, images: NDArray[np.int64], rng: np.random.Generator, resamples: int) -> _FloatArray:
    """Give means (metric, 1 + resamples, method): the examples' own, then those of redrawn images."""
    _, image_of, counts = np.unique(images, return_inverse=True, return_counts=True)
    draws = rng.integers(len(counts), size=(resamples, len(counts)))
    times_drawn = np.stack([(draws == image).sum(axis=1) for image in range(len(counts))], axis=1)
    weights = np.vstack([np.ones(len(counts)), times_drawn])[:, image_of]  # (1 + resamples, example)
    return np.asarray(np.einsum("re,xem->xrm", weights / weights.sum(axis=1, keepdims=True), values))


def _scores(means: _FloatArray) -> Scores:
    return Scores(*(estimate(row) for row in means))


def estimate(means: _FloatArray) -> Estimate:
    """Give the mean with its interval from the mean itself, followed by those of all redrawn examples."""
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return Estimate(float(means[0]), float(low), float(high))
