"""Means over sets of unequal size, in which subjects, tasks and sets count the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def hierarchical_bootstrap(
    groups: Sequence[tuple[str, str, str]], values: FloatArray, rng: np.random.Generator, resamples: int
) -> dict[str, FloatArray]:
    """Average over each subject, task and set in turn.

    Args:
        groups: Set, task and subject of every row of the values.
        values: (N, ...).
        rng: Source of the draws.
        resamples: How often the subjects of each set are redrawn.

    Returns:
        By set, (1 + resamples, ...): the mean itself, then those of redrawn subjects.
    """
    flat = values.reshape(len(values), -1)
    means = {}
    for name in dict.fromkeys(group[0] for group in groups):
        rows: dict[str, dict[str, list[int]]] = {}  # by task and subject
        for n, (of_set, task, subject) in enumerate(groups):
            if of_set == name:
                rows.setdefault(task, {}).setdefault(subject, []).append(n)
        subjects = sorted({subject for of_task in rows.values() for subject in of_task})
        draws = rng.integers(len(subjects), size=(resamples, len(subjects)))
        times_drawn = np.stack([(draws == subject).sum(axis=1) for subject in range(len(subjects))], axis=1)
        weights = np.vstack([np.ones(len(subjects)), times_drawn])
        total = np.zeros((1 + resamples, flat.shape[1]))
        tasks_drawn = np.zeros((1 + resamples, 1))
        for of_task in rows.values():
            of_subject = np.array([flat[of_task[subject]].mean(axis=0) for subject in of_task])
            shares = weights[:, [subjects.index(subject) for subject in of_task]]
            drawn = shares.sum(axis=1, keepdims=True)
            total += shares @ of_subject / np.maximum(drawn, 1)
            tasks_drawn += drawn > 0
        means[name] = (total / tasks_drawn).reshape(1 + resamples, *values.shape[1:])
    return means
