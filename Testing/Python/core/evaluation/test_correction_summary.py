from __future__ import annotations

import math

import pytest
from correction_study import course, result

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_summary import (
    Trial,
    cost_of,
    far_change,
    far_wrong_change,
    interactions_needed,
    mean_of,
    select,
    target_reached,
    trials_of,
)

TARGETS = {"shapes": 0.8}


def trial(*dice, **changes):
    return Trial(tuple(course(*dice, **changes)))


def test_results_are_grouped_by_image_and_method():
    results = [*course(0.5, 0.6), *course(0.4, 0.9, variant="refinement"), *course(0.1, 0.2, image_index=1)]
    trials = trials_of(reversed(results), "main")
    assert sorted((one.variant, one.dice(0), one.dice(1)) for one in trials) == [
        ("painting", 0.1, 0.2),
        ("painting", 0.5, 0.6),
        ("refinement", 0.4, 0.9),
    ]
    with pytest.raises(ConfigError, match="no results of layers"):
        trials_of(results, "layers")


def test_shifted_stands_for_every_shift():
    trials = [trial(0.5), trial(0.6, shift="contrast"), trial(0.7, shift="scanner")]
    assert [one.dice(0) for one in select(trials, shift="shifted")] == [0.6, 0.7]
    assert select(trials, shift="none", task="shapes", variant="painting") == trials[:1]
    assert select(trials, task="spleen") == []


def test_interactions_are_counted_until_the_target():
    assert trial(0.9, 0.95).interactions_to(0.8) == 0
    assert trial(0.5, 0.7, 0.85).interactions_to(0.8) == 2
    assert trial(0.5, 0.6, 0.7).interactions_to(0.8) == 3
    needed, reached = interactions_needed(TARGETS), target_reached(TARGETS)
    assert (needed(trial(0.5, 0.6)), reached(trial(0.5, 0.6))) == (2, 0)
    assert (needed(trial(0.5, 0.8)), reached(trial(0.5, 0.8))) == (1, 1)


def test_subjects_and_shifts_count_the_same():
    trials = [trial(0.0, subject="a", image_index=n) for n in range(3)]
    trials += [trial(1.0, subject="b", image_index=9), trial(0.0, subject="a", shift="contrast")]
    mean = mean_of(trials, lambda one: one.dice(0))
    assert mean is not None
    assert mean.mean == pytest.approx((0.5 + 0.0) / 2)
    assert mean.low <= mean.mean <= mean.high


def test_what_has_no_value_is_left_out():
    nothing = Trial((result(), result(interaction=1, far_dice=math.nan)))
    better = Trial((result(), result(interaction=1, far_dice=0.7, far_wrong=0.05)))
    mean = mean_of([nothing, better], far_change)
    assert mean is not None
    assert mean.mean == pytest.approx(0.2)
    assert mean_of([nothing], far_change) is None
    assert far_wrong_change(better) == pytest.approx(-0.05)


def test_gains_are_from_first_to_last():
    assert trial(0.5, 0.4, 0.8).gain() == pytest.approx(0.3)


def test_only_interactions_with_strokes_cost():
    rounds = [
        result(),
        result(interaction=1, strokes=2, seconds=1.0, iterations=10),
        result(interaction=2, strokes=1, seconds=3.0, iterations=130, satisfied=False, violations=7),
        result(interaction=3, strokes=0, satisfied=False),
    ]
    cost = cost_of([Trial(tuple(rounds))])
    assert cost is not None
    assert (cost.runs, cost.iterations, cost.seconds, cost.satisfied, cost.left) == (2, 70, 2.0, 0.5, 7)
    assert cost_of([trial(0.5)]) is None
