from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.protocols import ExampleResult
from scribblesegment.evaluation.summary import summarise


def result(dice, *, method="one", task="a", image=0, annotator=0, seconds=0.1):
    return ExampleResult(method, task, "", image, annotator, dice, 100 * (1 - dice), dice / 2, seconds)


def test_means_are_those_of_the_examples_and_tasks_count_the_same(rng):
    results = [result(0.2), result(0.4, annotator=1), result(0.9, image=1), result(1.0, task="b")]
    (summary,) = summarise(results, rng)
    assert summary.tasks["a"].dice.mean == pytest.approx(0.5)
    assert summary.tasks["a"].hausdorff95_mm.mean == pytest.approx(50)
    assert summary.tasks["a"].surface_dice.mean == pytest.approx(0.25)
    assert summary.tasks["b"].dice.mean == 1.0
    assert summary.overall.dice.mean == pytest.approx(0.75)
    assert (summary.method, summary.examples, list(summary.tasks)) == ("one", 4, ["a", "b"])


def test_the_time_is_the_median_of_the_method(rng):
    results = [result(1.0, image=n, seconds=seconds) for n, seconds in enumerate((0.1, 0.2, 9.0))]
    results += [dataclasses.replace(entry, method="two", seconds=5.0) for entry in results]
    assert [summary.seconds for summary in summarise(results, rng)] == [0.2, 5.0]


def test_failures_are_counted_by_reason(rng):
    results = [result(0.0, image=n) for n in range(4)]
    results[1:] = [dataclasses.replace(entry, failure=why) for entry, why in zip(results[1:], "xyx", strict=True)]
    assert summarise(results, rng)[0].failures == {"x": 2, "y": 1}


def test_intervals_agree_with_redrawing_images_one_by_one(rng):
    values = {0: [0.1, 0.2, 0.9], 1: [0.5, 0.6], 2: [0.8, 0.7, 0.9], 3: [0.3]}
    results = [result(v, image=n, annotator=a) for n, entry in values.items() for a, v in enumerate(entry)]
    (summary,) = summarise(results, rng, resamples=20000)
    other = np.random.default_rng(7)
    means = [np.mean([v for n in other.integers(4, size=4) for v in values[n]]) for _ in range(20000)]
    expected = np.percentile(means, [2.5, 97.5])
    estimate = summary.tasks["a"].dice
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=0.01)
    assert (summary.overall.dice.low, summary.overall.dice.high) == (estimate.low, estimate.high)


def test_annotators_of_one_image_are_no_independent_examples(rng):
    one_image = [result(v, annotator=a) for a, v in enumerate((0.1, 0.5, 0.9))]
    estimate = summarise(one_image, rng)[0].tasks["a"].dice
    assert estimate.low == estimate.mean == estimate.high


def test_equal_methods_get_equal_intervals(rng):
    results = [result(v, image=n, method=m) for n, v in enumerate((0.1, 0.5, 0.9)) for m in ("one", "two")]
    first, second = summarise(results, rng)
    assert first.overall == second.overall


def test_the_same_seed_gives_the_same_intervals():
    results = [result(v, image=n) for n, v in enumerate((0.1, 0.5, 0.9))]
    first, second = (summarise(results, np.random.default_rng(3)) for _ in range(2))
    assert first == second


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 100))
def test_an_interval_lies_within_the_examples_values(values, seed):
    results = [result(value, image=n) for n, value in enumerate(values)]
    estimate = summarise(results, np.random.default_rng(seed), resamples=200)[0].tasks["a"].dice
    assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9


def test_no_results_and_missing_examples_are_refused(rng):
    with pytest.raises(ConfigError, match="no results"):
        summarise([], rng)
    with pytest.raises(ConfigError, match="Task a has 3 results for 2 examples and 2 methods"):
        summarise([result(1.0), result(1.0, image=1), result(1.0, method="two")], rng)
