from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, ImageError
from scribblesegment.evaluation.conditions import DEFAULT_CONDITION, Condition
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.robustness import (
    FACTORS,
    RobustnessResult,
    find_factors,
    measure_robustness,
    summarise_robustness,
)
from scribblesegment.evaluation.stepwise import StepPrediction


@pytest.fixture
def example():
    reference = np.zeros((64, 64), dtype=bool)
    reference[16:48, 20:44] = True
    image = np.where(reference, np.float32(0.9), np.float32(0.1))
    return LabelExample("squares", "squares/square", "a", 0, 1, image, reference)


class Threshold:
    """Everything brighter than the middle; remembers what it was shown."""

    prompts = frozenset({"scribbles"})

    def __init__(self):
        self.shown = []

    def set_image(self, image):
        self.image = image

    def segment(self, prompts):
        self.shown.append((self.image, prompts))
        return StepPrediction(self.image > 0.5)


def test_every_factor_changes_one_field_away_from_the_default_and_back():
    assert [factor.name for factor in FACTORS] == list(dict.fromkeys(factor.name for factor in FACTORS))
    assert {factor.name for factor in FACTORS} == {field.name for field in dataclasses.fields(Condition)}
    for factor in FACTORS:
        assert factor.default in factor.levels
        assert factor.condition(factor.default) == DEFAULT_CONDITION
        for level in set(factor.levels) - {factor.default}:
            changed = (
                dataclasses.asdict(factor.condition(level)).items() - dataclasses.asdict(DEFAULT_CONDITION).items()
            )
            assert changed == {(factor.name, level)}


def test_the_issue_s_five_percent_off_target_is_measured():
    assert 0.05 in find_factors(["off_target"])[0].levels


def test_all_methods_are_given_the_same_and_the_default_only_once(example):
    methods = {"one": Threshold(), "two": Threshold()}
    results = measure_robustness(methods, [example], seed=3)
    conditions = sum(len(factor.levels) for factor in FACTORS)
    assert len(results) == 2 * conditions
    assert len(methods["one"].shown) == conditions - (len(FACTORS) - 1)
    for (image, prompts), (other_image, other_prompts) in zip(methods["one"].shown, methods["two"].shown, strict=True):
        assert np.array_equal(image, other_image)
        assert prompts.equals(other_prompts)
        assert prompts.mask_input is None


def test_dice_is_that_of_the_condition(example):
    results = measure_robustness(
        {"one": Threshold()}, [example], seed=3, factors=find_factors(["inverted", "contrast"])
    )
    dice = {(result.factor, result.level): result.dice for result in results}
    assert dice == {
        ("inverted", False): 1.0,
        ("inverted", True): 0.0,
        **{("contrast", level): 1.0 for level in find_factors(["contrast"])[0].levels},
    }
    first = results[0]
    assert (first.method, first.set_name, first.task, first.subject) == ("one", "squares", "squares/square", "a")
    assert (first.image_index, first.label) == (0, 1)
    assert first.seconds > 0


def test_strokes_depend_on_the_seed_and_the_example_alone(example):
    def strokes(seed, examples, factors):
        method = Threshold()
        measure_robustness({"one": method}, examples, seed=seed, factors=find_factors(factors))
        return method.shown[0][1], method.shown[-1][1]

    other = dataclasses.replace(example, image_index=1)
    first, _ = strokes(3, [example], ["inverted"])
    again, _ = strokes(3, [example], ["inverted", "gamma"])
    other_seed, _ = strokes(4, [example], ["inverted"])
    other_example, behind_it = strokes(3, [other, example], ["inverted"])
    assert first.equals(again)
    assert first.equals(behind_it)
    assert not first.equals(other_seed)
    assert not first.equals(other_example)


def test_progress_grows_to_one(example):
    told = []
    measure_robustness(
        {"one": Threshold()}, [example] * 2, seed=0, progress=lambda fraction, doing: told.append((fraction, doing))
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert told[0] == (0.0, "squares/square, stroke thickness")


def test_something_else_than_a_mask_is_refused(example):
    class Logits(Threshold):
        def segment(self, prompts):
            return StepPrediction(self.image)

    with pytest.raises(ImageError, match="Method two gave float32"):
        measure_robustness({"two": Logits()}, [example], seed=0)


def test_nothing_to_measure_is_refused(example):
    for methods, examples, factors in (
        ({}, [example], FACTORS),
        ({"one": Threshold()}, [], FACTORS),
        ({"one": Threshold()}, [example], ()),
    ):
        with pytest.raises(ConfigError, match="Nothing to measure"):
            measure_robustness(methods, examples, seed=0, factors=factors)


def test_an_unknown_factor_is_named():
    with pytest.raises(ConfigError, match=r"Unknown factors hue; known are thickness, .*contrast"):
        find_factors(["noise", "hue"])
    assert [factor.name for factor in find_factors(["noise", "gamma", "noise"])] == ["noise", "gamma"]


def result(dice, *, set_name="s", task="t", subject="a", image=0, label=1, method="one", level=0.0):
    return RobustnessResult(method, "noise", level, set_name, f"{set_name}/{task}", subject, image, label, dice, 0.1)


def test_subjects_tasks_and_sets_count_the_same_at_their_level(rng):
    results = [
        result(0.1, image=0),
        result(0.3, image=1),  # with the first: subject a, mean 0.2
        result(0.8, subject="b", image=2),  # task t: 0.5
        result(0.9, task="u", subject="b", image=2, label=2),  # task u: 0.9, so set s: 0.7
        result(0.3, set_name="r"),  # all: 0.5
    ]
    estimate = summarise_robustness(results, rng)["noise"][0.0]["one"]
    assert estimate.mean == pytest.approx(0.5)


def test_intervals_agree_with_redrawing_subjects_one_by_one(rng):
    table = {("t", "a"): [0.1, 0.3], ("t", "b"): [0.8], ("u", "b"): [0.9], ("t", "c"): [0.4], ("u", "c"): [0.2]}
    results = [
        result(dice, task=task, subject=subject, image=n)
        for (task, subject), values in table.items()
        for n, dice in enumerate(values)
    ]
    estimate = summarise_robustness(results, rng, resamples=20000)["noise"][0.0]["one"]
    means = []
    for drawn in itertools.product("abc", repeat=3):  # all 27 draws, equally likely
        of_tasks = []
        for task in "tu":
            values = [np.mean(table[task, subject]) for subject in drawn if (task, subject) in table]
            of_tasks += [np.mean(values)] if values else []
        means.append(np.mean(of_tasks))
    low, high = np.percentile(np.repeat(means, 1000), [2.5, 97.5])
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.02)
    assert low < estimate.mean < high


def test_methods_and_levels_see_the_same_draws(rng):
    results = []
    for n, subject in enumerate("abcdef"):
        for level, method in itertools.product((0.0, 0.1), ("one", "two")):
            shift = 0.1 * (level > 0) + 0.2 * (method == "two")
            results.append(result(0.1 * n + shift, subject=subject, image=n, method=method, level=level))
    summary = summarise_robustness(results, rng)["noise"]
    base = summary[0.0]["one"]
    for level, method, shift in ((0.1, "one", 0.1), (0.0, "two", 0.2), (0.1, "two", 0.3)):
        moved = summary[level][method]
        assert (moved.mean, moved.low, moved.high) == pytest.approx(
            (base.mean + shift, base.low + shift, base.high + shift)
        )


def test_results_with_gaps_and_without_anything_are_refused(rng):
    with pytest.raises(ConfigError, match="not measured under all conditions"):
        summarise_robustness([result(0.1), result(0.2, image=1), result(0.2, level=0.1)], rng)
    with pytest.raises(ConfigError, match="no results to summarise"):
        summarise_robustness([], rng)
