"""Means of the experiments in context, with how far they can be trusted.

Sequences are summed up for each task, as in MultiverSeg, figures 3 and 4: over its simulations first, then every task
counts the same, and tasks are redrawn for the intervals. Dice by context size is averaged over the examples of a
subject, then over subjects, tasks and sets, and subjects are redrawn (appendix C.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.hierarchy import FloatArray, hierarchical_bootstrap
from scribblesegment.evaluation.in_context_sequences import SequenceResult, Sequences
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, SizeResult, Sizes
from scribblesegment.evaluation.summary import Estimate, estimate

RESAMPLES = 2000

# Columns beside the steps of every example: their sum, its change, and four that are averaged over images.
_SUMS = 6


@dataclass(frozen=True)
class SetTotal:
    """One method on the tasks of one set.

    Attributes:
        tasks: Number of tasks.
        steps: Mean over tasks of the steps of a sequence.
        change: Mean over tasks of the relative change against the interactive method alone.
        by_example: Mean steps of each example.
    """

    tasks: int
    steps: float
    change: float
    by_example: list[float]


@dataclass(frozen=True)
class SequenceSummary:
    """One method in one procedure. Means are over tasks.

    Attributes:
        method: Its name.
        steps: Steps of a sequence, summed over its images.
        change: Their relative change against the interactive method alone, of each task; -0.3 is 30 % less.
        by_example: Steps of each example.
        sets: The same by set.
        without_steps: Share of images that were good enough from the context alone.
        never: Share of images that never were.
        dice: In the end.
        hausdorff95_mm: In the end.
        seconds: Median time of an image.
        failures: On how many images some step failed, by reason.
    """

    method: str
    steps: Estimate
    change: Estimate
    by_example: list[Estimate]
    sets: dict[str, SetTotal]
    without_steps: Estimate
    never: Estimate
    dice: Estimate
    hausdorff95_mm: Estimate
    seconds: float
    failures: dict[str, int]

    @property
    def worst_set(self) -> str:
        """The set on which it needs the most steps, compared with the interactive method alone."""
        return max(self.sets, key=lambda name: self.sets[name].change)


@dataclass(frozen=True)
class ProcedureSequences:
    """One procedure: its methods, the interactive one alone first."""

    procedure: str
    tasks: int
    methods: list[SequenceSummary]


def summarise_sequences(
    sequences: Sequences, rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> list[ProcedureSequences]:
    """Sum sequences up by procedure and method; all methods see the same draws of tasks.

    Raises:
        ConfigError: If there are no results, or a method lacks some image.
    """
    if not sequences.results:
        raise ConfigError("There are no sequences to sum up. Run some first.")
    summaries = []
    for procedure in dict.fromkeys(result.procedure for result in sequences.results):
        results = [result for result in sequences.results if result.procedure == procedure]
        summaries.append(_procedure_sequences(procedure, results, sequences.alone, rng, resamples))
    return summaries


def _procedure_sequences(
    procedure: str, results: Sequence[SequenceResult], alone: str, rng: np.random.Generator, resamples: int
) -> ProcedureSequences:
    set_of = {result.task: result.set_name for result in results}
    by_method = {
        name: [result for result in results if result.method == name]
        for name in dict.fromkeys(result.method for result in results)
    }
    images = sorted({(r.task, r.simulation, r.example, r.image_index) for r in by_method[alone]})
    for name, own in by_method.items():
        if sorted((r.task, r.simulation, r.example, r.image_index) for r in own) != images:
            raise ConfigError(f"In {procedure}, {name} and {alone} went through other images. Run them together.")
    # (task, method, column)
    reference = _task_columns(by_method[alone], list(set_of), None)
    values = np.stack([_task_columns(own, list(set_of), reference) for own in by_method.values()], axis=1)
    groups = [("all", "all", task) for task in set_of]
    means = hierarchical_bootstrap(groups, values, rng, resamples)["all"]
    return ProcedureSequences(
        procedure,
        len(set_of),
        [
            _sequence_summary(name, own, means[:, m], values[:, m], list(set_of.values()))
            for m, (name, own) in enumerate(by_method.items())
        ],
    )


def _sequence_summary(
    name: str, results: Sequence[SequenceResult], means: FloatArray, values: FloatArray, sets: Sequence[str]
) -> SequenceSummary:
    """Name the columns of a method: (1 + resamples, column) means, (task, column) values, and the sets of the tasks."""
    steps, change, without_steps, never, dice, hausdorff95_mm = map(estimate, means[:, -_SUMS:].T)
    return SequenceSummary(
        method=name,
        steps=steps,
        change=change,
        by_example=[estimate(column) for column in means[:, :-_SUMS].T],
        sets={set_name: _set_total(values[[of == set_name for of in sets]]) for set_name in dict.fromkeys(sets)},
        without_steps=without_steps,
        never=never,
        dice=dice,
        hausdorff95_mm=hausdorff95_mm,
        seconds=float(np.median([result.seconds for result in results])),
        failures=dict(Counter(result.failure for result in results if result.failure)),
    )


def _task_columns(results: Sequence[SequenceResult], tasks: list[str], reference: FloatArray | None) -> FloatArray:
    """Average a method's simulations of each task; gives (task, column): steps of every example, then `_SUMS` more."""
    rows = []
    for n, task in enumerate(tasks):
        own = [result for result in results if result.task == task]
        examples = sorted({result.example for result in own})
        steps = [float(np.mean([result.steps for result in own if result.example == one])) for one in examples]
        total = sum(steps)
        change = total / reference[n, len(steps)] - 1 if reference is not None else 0.0
        averaged = np.mean([(r.steps == 0, not r.reached, r.dice, r.hausdorff95_mm) for r in own], axis=0)
        rows.append([*steps, total, change, *averaged])
    return np.array(rows, dtype=np.float64)


def _set_total(values: FloatArray) -> SetTotal:
    """Average the tasks of a set, (task, column)."""
    means = values.mean(axis=0)
    steps, change = means[-_SUMS : 2 - _SUMS].tolist()
    return SetTotal(tasks=len(values), steps=steps, change=change, by_example=means[:-_SUMS].tolist())


@dataclass(frozen=True)
class SizePoint:
    """One method with one number of context entries after one step.

    Attributes:
        procedure: How it was prompted; `CONTEXT_ALONE` without prompts.
        method: Its name.
        size: Number of entries.
        step: Number of steps.
        tasks: How many tasks have enough images for it.
        dice: Mean over subjects, tasks and sets.
        seconds: Median time of the prediction; NaN if nothing was predicted.
    """

    procedure: str
    method: str
    size: int
    step: int
    tasks: int
    dice: Estimate
    seconds: float


def summarise_sizes(sizes: Sizes, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> list[SizePoint]:
    """Average Dice by procedure, method, size and step.

    Raises:
        ConfigError: If there are no results.
    """
    if not sizes.results:
        raise ConfigError("There is nothing to sum up. Segment some targets first.")
    grouped: dict[tuple[str, str, int, int], list[SizeResult]] = {}
    for result in sizes.results:
        grouped.setdefault((result.procedure, result.method, result.size, result.step), []).append(result)
    # The same draws everywhere, so that methods and sizes differ by what they are.
    seed = int(rng.integers(2**32))
    points = []
    for (procedure, method, size, step), own in grouped.items():
        groups = [(result.set_name, result.task, result.subject) for result in own]
        values = np.array([result.dice for result in own])
        sets = hierarchical_bootstrap(groups, values, np.random.default_rng(seed), resamples)
        seconds = [result.seconds for result in own if not np.isnan(result.seconds)]
        points.append(
            SizePoint(
                procedure,
                method,
                size,
                step,
                len({result.task for result in own}),
                estimate(np.mean(list(sets.values()), axis=0)),
                float(np.median(seconds)) if seconds else float("nan"),
            )
        )
    return points


def points_of(points: Sequence[SizePoint], method: str, procedure: str, size: int) -> list[SizePoint]:
    """Give a method's predictions with one number of entries by ascending step, that from the context alone first."""
    wanted = {procedure, CONTEXT_ALONE}
    own = [p for p in points if p.method == method and p.size == size and p.procedure in wanted]
    return sorted(own, key=lambda point: point.step)
