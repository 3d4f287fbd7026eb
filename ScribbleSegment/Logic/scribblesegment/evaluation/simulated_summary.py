"""Means of simulated protocols, averaged hierarchically, with how far they can be trusted.

ScribblePrompt (section 5.2, figures 6 and 17) weighs every data set equally. Here results are averaged over the
examples of a subject, then over the subjects of a task, the tasks of a set, and the sets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.hierarchy import FloatArray, hierarchical_bootstrap
from scribblesegment.evaluation.simulated import TARGET_DICE, Simulation, SimulationPlan, StepResult
from scribblesegment.evaluation.summary import METRICS, Estimate, estimate

RESAMPLES = 2000

_Trial = tuple[str, str, str, int, int, int]


@dataclass(frozen=True)
class StepsToTarget:
    """How many steps it takes to the target, by one method.

    Attributes:
        steps: Mean number, an example that never arrives counted as the most steps.
        never: Share of examples that never arrive.
    """

    steps: Estimate
    never: Estimate


@dataclass(frozen=True)
class MethodCurves:
    """One method in one procedure.

    Attributes:
        method: Its name.
        curves: By metric (the names of `StepResult`'s fields), an estimate for each step.
        sets: By set and metric, the mean of each step.
        to_target: Steps to the target; None where they are not counted.
        seconds: Median time of a prediction; NaN if it never predicted.
        failures: How many predictions failed, by reason.
    """

    method: str
    curves: dict[str, list[Estimate]]
    sets: dict[str, dict[str, list[float]]]
    to_target: StepsToTarget | None
    seconds: float
    failures: dict[str, int]


@dataclass(frozen=True)
class ProcedureSummary:
    """One procedure.

    Attributes:
        procedure: Its name.
        examples: Number of examples, repetitions not counted.
        methods: Those that took part.
    """

    procedure: str
    examples: int
    methods: list[MethodCurves]


def summarise_simulation(
    simulation: Simulation, rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> list[ProcedureSummary]:
    """Average results by procedure, method and step.

    The bootstrap redraws the subjects of every set, each with all its tasks, examples and repetitions; a task none of
    whose subjects is drawn is left out of that draw. Sets are fixed, and all methods see the same draws.

    Args:
        simulation: Every method on the same examples of a procedure.
        rng: Source of the draws.
        resamples: How many of them.

    Raises:
        ConfigError: If a method lacks some example.
    """
    by_procedure: dict[str, list[StepResult]] = defaultdict(list)
    for result in simulation.results:
        by_procedure[result.procedure].append(result)
    return [
        _summarise_procedure(name, results, simulation.plan, rng, resamples) for name, results in by_procedure.items()
    ]


def _summarise_procedure(
    name: str, results: Sequence[StepResult], plan: SimulationPlan, rng: np.random.Generator, resamples: int
) -> ProcedureSummary:
    methods = list(dict.fromkeys(result.method for result in results))
    trials = {method: _trials([result for result in results if result.method == method]) for method in methods}
    keys = list(trials[methods[0]])
    for method, entry in trials.items():
        if set(entry) != set(keys):
            raise ConfigError(
                f"In {name} there are {len(entry)} examples by {method} and {len(keys)} by {methods[0]}, or others. "
                "Run all methods on the same examples."
            )
    steps = min(plan.steps, *map(len, trials[methods[0]].values()))
    # (trial, method, column): the metrics at every step, then the steps to the target and whether it was missed.
    values = np.array([[_columns(trials[method][key], steps, plan.most_steps) for method in methods] for key in keys])
    sets = hierarchical_bootstrap([key[:3] for key in keys], values, rng, resamples)
    overall = np.mean(list(sets.values()), axis=0)
    return ProcedureSummary(
        procedure=name,
        examples=len({key[:5] for key in keys}),
        methods=[
            MethodCurves(
                method=method,
                curves={metric: [estimate(column) for column in block.T] for metric, block in _blocks(overall[:, m])},
                sets={
                    entry: {metric: block[0].tolist() for metric, block in _blocks(means[:, m])}
                    for entry, means in sets.items()
                },
                to_target=StepsToTarget(*map(estimate, overall[:, m, -2:].T)) if plan.counts(name) else None,
                seconds=_median_seconds(trials[method]),
                failures=dict(Counter(r.failure for trial in trials[method].values() for r in trial if r.failure)),
            )
            for m, method in enumerate(methods)
        ],
    )


def _trials(results: Sequence[StepResult]) -> dict[_Trial, list[StepResult]]:
    """Group results by what they have in common but the step, in the order of steps."""
    trials: dict[_Trial, list[StepResult]] = {}
    for r in sorted(results, key=lambda result: result.step):
        trials.setdefault((r.set_name, r.task, r.subject, r.image_index, r.label, r.repetition), []).append(r)
    return trials


def _columns(trial: Sequence[StepResult], steps: int, most_steps: int) -> list[float]:
    arrived = [result.step for result in trial if result.dice >= TARGET_DICE and result.step <= most_steps]
    to_target = [min(arrived, default=most_steps), not arrived]
    return [getattr(result, metric) for metric in METRICS for result in trial[:steps]] + list(map(float, to_target))


def _blocks(columns: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Split the columns (1 + resamples, column) of one method by metric, each (1 + resamples, step)."""
    return zip(METRICS, np.split(columns[:, :-2], len(METRICS), axis=1), strict=True)


def _median_seconds(trials: Mapping[_Trial, Sequence[StepResult]]) -> float:
    seconds = [result.seconds for trial in trials.values() for result in trial if not isnan(result.seconds)]
    return float(np.median(seconds)) if seconds else nan
