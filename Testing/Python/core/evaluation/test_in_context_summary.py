from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.in_context_sequences import SequencePlan, SequenceResult, Sequences
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, SizePlan, SizeResult, Sizes
from scribblesegment.evaluation.in_context_summary import points_of, summarise_sequences, summarise_sizes


def sequences(steps, *, plan=None):
    """Made up from the steps of every image, one list for each (method, set, task, simulation)."""
    results = [
        SequenceResult(
            procedure="center-clicks",
            method=method,
            set_name=set_name,
            task=f"{set_name}/{task}",
            subject=f"p{example}",
            image_index=example,
            simulation=simulation,
            example=example,
            steps=count,
            reached=count < 20,
            context_dice=0.5,
            dice=0.9,
            hausdorff95_mm=2.0,
            seed_dice=0.9,
            seconds=0.1 * count,
            failure="odd" if count == 20 else "",
        )
        for (method, set_name, task, simulation), counts in steps.items()
        for example, count in enumerate(counts, start=1)
    ]
    return Sequences(plan or SequencePlan(images=2), "alone", results, [])


STEPS = {
    ("alone", "a", "x", 0): [4, 6],
    ("alone", "a", "x", 1): [6, 4],
    ("alone", "a", "y", 0): [10, 10],
    ("alone", "b", "z", 0): [2, 2],
    ("context", "a", "x", 0): [4, 0],
    ("context", "a", "x", 1): [2, 0],
    ("context", "a", "y", 0): [20, 10],
    ("context", "b", "z", 0): [1, 2],
}


def test_steps_are_summed_for_each_task_and_compared_with_the_method_alone(rng):
    (summary,) = summarise_sequences(sequences(STEPS), rng)
    alone, context = summary.methods
    assert (summary.procedure, summary.tasks) == ("center-clicks", 3)
    assert alone.steps.mean == pytest.approx((10 + 20 + 4) / 3)
    assert alone.change.mean == alone.change.high == 0.0
    # x: 3 instead of 10, y: 30 instead of 20, z: 3 instead of 4.
    assert context.steps.mean == pytest.approx((3 + 30 + 3) / 3)
    assert context.change.mean == pytest.approx((-0.7 + 0.5 - 0.25) / 3)
    assert context.change.low <= context.change.mean <= context.change.high
    assert [one.mean for one in context.by_example] == pytest.approx([(3 + 20 + 1) / 3, (0 + 10 + 2) / 3])


def test_sets_have_means_of_their_own_and_the_worst_is_named(rng):
    context = summarise_sequences(sequences(STEPS), rng)[0].methods[1]
    assert {name: total.tasks for name, total in context.sets.items()} == {"a": 2, "b": 1}
    assert context.sets["a"].change == pytest.approx((-0.7 + 0.5) / 2)
    assert context.sets["a"].steps == pytest.approx((3 + 30) / 2)
    assert context.sets["b"].by_example == [1.0, 2.0]
    assert context.worst_set == "a"


def test_images_without_steps_and_those_that_were_never_good_are_counted(rng):
    context = summarise_sequences(sequences(STEPS), rng)[0].methods[1]
    assert context.without_steps.mean == pytest.approx((0.5 + 0 + 0) / 3)
    assert context.never.mean == pytest.approx((0 + 0.5 + 0) / 3)
    assert context.dice.mean == pytest.approx(0.9)
    assert context.hausdorff95_mm.mean == pytest.approx(2.0)
    assert context.seconds == pytest.approx(0.2)
    assert context.failures == {"odd": 1}


def test_intervals_come_from_tasks(rng):
    same = {key: [5, 5] for key in STEPS}
    method = summarise_sequences(sequences(same), rng)[0].methods[0]
    assert method.steps.low == method.steps.high == 10.0


def test_methods_on_other_images_are_refused(rng):
    steps = dict(STEPS)
    del steps[("context", "b", "z", 0)]
    with pytest.raises(ConfigError, match="other images"):
        summarise_sequences(sequences(steps), rng)
    with pytest.raises(ConfigError, match="no sequences"):
        summarise_sequences(sequences({}), rng)


def sizes(dice):
    """Made up from Dice by (procedure, method, set, subject, size, step)."""
    results = [
        SizeResult(procedure, method, set_name, f"{set_name}/disc", subject, 0, 0, size, step, value, 0.25)
        for (procedure, method, set_name, subject, size, step), value in dice.items()
    ]
    return Sizes(SizePlan(), "alone", results)


def test_dice_is_averaged_over_subjects_and_sets(rng):
    dice = {
        (CONTEXT_ALONE, "context", "a", "p", 4, 0): 0.2,
        (CONTEXT_ALONE, "context", "a", "q", 4, 0): 0.4,
        (CONTEXT_ALONE, "context", "b", "r", 4, 0): 0.9,
        (CONTEXT_ALONE, "context", "a", "p", 8, 0): 0.5,
        ("center-clicks", "context", "a", "p", 4, 1): 0.7,
        ("center-clicks", "context", "a", "p", 8, 1): 0.8,
    }
    points = summarise_sizes(sizes(dice), rng)
    four, eight = points[:2]
    assert (four.size, four.tasks, eight.size, eight.tasks) == (4, 2, 8, 1)
    assert four.dice.mean == pytest.approx((0.3 + 0.9) / 2)
    assert four.dice.low == pytest.approx((0.2 + 0.9) / 2)
    assert four.seconds == 0.25
    own = points_of(points, "context", "center-clicks", 4)
    assert [(point.step, point.procedure) for point in own] == [(0, CONTEXT_ALONE), (1, "center-clicks")]
    assert points_of(points, "other", "center-clicks", 4) == []


def test_predictions_that_never_came_have_no_time(rng):
    made_up = sizes({("center-clicks", "alone", "a", "p", 0, 1): 1.0})
    results = [dataclasses.replace(result, seconds=np.nan) for result in made_up.results]
    (point,) = summarise_sizes(dataclasses.replace(made_up, results=results), rng)
    assert np.isnan(point.seconds)


def test_nothing_cannot_be_averaged(rng):
    with pytest.raises(ConfigError, match="nothing to sum up"):
        summarise_sizes(sizes({}), rng)
