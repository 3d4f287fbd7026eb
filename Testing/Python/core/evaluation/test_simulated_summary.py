from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.simulated_summary import summarise_simulation

CENTER = "centerline-scribbles"


def test_curves_are_means_of_each_step_with_sets_counting_the_same(simulate, rng):
    dice = {
        (CENTER, "one", "a1"): [0.2, 0.4],
        (CENTER, "one", "a2"): [0.4, 0.6],
        (CENTER, "one", "b1"): [0.9, 1.0],
    }
    (summary,) = summarise_simulation(simulate(dice), rng)
    assert (summary.procedure, summary.examples) == (CENTER, 3)
    (method,) = summary.methods
    assert [entry.mean for entry in method.curves["dice"]] == pytest.approx([0.6, 0.75])
    assert [entry.mean for entry in method.curves["hausdorff95_mm"]] == pytest.approx([40, 25])
    assert [entry.mean for entry in method.curves["surface_dice"]] == pytest.approx([0.3, 0.375])
    assert method.sets["set a"]["dice"] == pytest.approx([0.3, 0.5])
    assert method.sets["set b"]["hausdorff95_mm"] == pytest.approx([10, 0])


def test_an_interval_lies_around_its_mean(simulate, rng):
    dice = {(CENTER, "one", f"a{n}"): [n / 10, n / 10] for n in range(10)}
    estimate = summarise_simulation(simulate(dice), rng)[0].methods[0].curves["dice"][0]
    assert estimate.mean == pytest.approx(0.45)
    # Of the mean of ten values with a standard deviation of 0.287.
    assert estimate.low == pytest.approx(0.45 - 1.96 * 0.0908, abs=0.03)
    assert estimate.high == pytest.approx(0.45 + 1.96 * 0.0908, abs=0.03)


def test_steps_to_the_target_count_the_most_where_it_is_never_reached(simulate, rng):
    dice = {
        (CENTER, "one", "a1"): [0.95, 0.5],
        (CENTER, "one", "a2"): [0.5, 0.7, 0.9],
        (CENTER, "one", "a3"): [0.1] * 8,
        (CENTER, "one", "a4"): [0.1] * 9 + [0.99],
    }
    (method,) = summarise_simulation(simulate(dice, most_steps=8), rng)[0].methods
    assert method.to_target.steps.mean == pytest.approx((1 + 3 + 8 + 8) / 4)
    assert method.to_target.never.mean == pytest.approx(0.5)


def test_steps_are_counted_only_where_the_plan_says_so(simulate, rng):
    dice = {(name, "one", "a"): [0.5, 0.95] for name in (CENTER, "center-clicks")}
    centerline, clicks = summarise_simulation(simulate(dice), rng)
    assert centerline.methods[0].to_target.steps.mean == 2
    assert clicks.methods[0].to_target is None


def test_steps_beyond_the_plan_s_are_no_part_of_the_curves(simulate, rng):
    dice = {(CENTER, "one", "a1"): [0.1, 0.2, 0.3, 0.4], (CENTER, "one", "a2"): [0.9, 0.9]}
    assert len(summarise_simulation(simulate(dice), rng)[0].methods[0].curves["dice"]) == 2


def test_a_procedure_of_one_step_has_one(simulate, rng):
    (summary,) = summarise_simulation(simulate({("boxes", "one", "a"): [0.5]}), rng)
    assert [entry.mean for entry in summary.methods[0].curves["dice"]] == [0.5]


def test_repetitions_are_averaged_and_are_no_examples(simulate, rng):
    simulation = simulate({(CENTER, "one", "a"): [0.2, 0.2], (CENTER, "one", "b"): [0.6, 0.6]})
    again = [
        dataclasses.replace(result, repetition=1, dice=0.8) for result in simulation.results if result.subject == "a"
    ]
    (summary,) = summarise_simulation(dataclasses.replace(simulation, results=simulation.results + again), rng)
    assert summary.examples == 2
    estimate = summary.methods[0].curves["dice"][0]
    assert estimate.mean == pytest.approx((0.5 + 0.6) / 2)
    assert estimate.low == estimate.high == pytest.approx(estimate.mean)  # one subject in each set


def test_the_time_is_the_median_of_predictions_that_were_made(simulate, rng):
    simulation = simulate({(CENTER, "one", "a"): [0.2, 0.4, 0.6, 1.0]})
    times = (0.1, 0.3, 0.2, math.nan)
    results = [dataclasses.replace(r, seconds=s) for r, s in zip(simulation.results, times, strict=True)]
    assert summarise_simulation(dataclasses.replace(simulation, results=results), rng)[0].methods[0].seconds == 0.2
    none = simulate({(CENTER, "one", "a"): [1.0, 1.0]}, seconds=math.nan)
    assert math.isnan(summarise_simulation(none, rng)[0].methods[0].seconds)


def test_failures_are_counted_by_reason(simulate, rng):
    simulation = simulate({(CENTER, "one", "a"): [0.2, 0.4, 0.6]})
    results = [dataclasses.replace(r, failure=f) for r, f in zip(simulation.results, ("x", "", "x"), strict=True)]
    (summary,) = summarise_simulation(dataclasses.replace(simulation, results=results), rng)
    assert summary.methods[0].failures == {"x": 2}


def test_equal_methods_get_equal_intervals(simulate, rng):
    dice = {(CENTER, method, f"a{n}"): [n / 5, 0.5] for method in ("one", "two") for n in range(5)}
    first, second = summarise_simulation(simulate(dice), rng)[0].methods
    assert first.curves == second.curves
    assert first.curves["dice"][0].low < first.curves["dice"][0].high


def test_the_same_seed_gives_the_same_summary(simulate):
    simulation = simulate({(CENTER, "one", f"a{n}"): [n / 5, 0.5] for n in range(5)})
    first, second = (summarise_simulation(simulation, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_no_results_have_no_summary(simulate, rng):
    assert summarise_simulation(simulate({}), rng) == []


def test_a_method_that_lacks_an_example_is_refused(simulate, rng):
    dice = {(CENTER, "one", "a1"): [0.5, 0.5], (CENTER, "one", "a2"): [0.5, 0.5], (CENTER, "two", "a1"): [0.5, 0.5]}
    with pytest.raises(ConfigError, match=f"In {CENTER} there are 1 examples by two and 2 by one"):
        summarise_simulation(simulate(dice), rng)
