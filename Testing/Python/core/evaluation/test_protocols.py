from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, ImageError, PromptError
from scribblesegment.evaluation.baselines import random_walker
from scribblesegment.evaluation.datasets import read_scribble_set, read_scribble_sets
from scribblesegment.evaluation.protocols import run_manual_scribbles


def bright(image, scribbles):
    return image > 0.5


def nothing(image, scribbles):
    return np.zeros(image.shape, dtype=bool)


def test_every_method_predicts_once_for_each_image_and_annotator(write_set):
    calls = []

    def method(image, scribbles):
        calls.append((image, scribbles))
        return bright(image, scribbles)

    evaluation = run_manual_scribbles([read_scribble_set(write_set())], {"one": method, "two": nothing})
    assert len(calls) == 4
    assert [(r.method, r.image_index, r.annotator) for r in evaluation.results] == [
        (name, image, annotator) for image in (0, 1) for annotator in (0, 1) for name in ("one", "two")
    ]
    assert all(image.dtype == scribbles.dtype == np.float32 for image, scribbles in calls)


def test_results_carry_the_metrics_in_pixels_and_the_time(write_set):
    evaluation = run_manual_scribbles([read_scribble_set(write_set())], {"perfect": bright, "empty": nothing})
    perfect, empty = evaluation.results[:2]
    assert (perfect.dice, perfect.hausdorff95_mm) == (1.0, 0.0)
    assert (perfect.surface_dice, perfect.failure) == (1.0, "")
    assert (empty.dice, empty.surface_dice) == (0.0, 0.0)
    assert empty.hausdorff95_mm == pytest.approx(15 * np.sqrt(2))
    assert 0 < perfect.seconds < 1
    assert (perfect.task, perfect.subject) == ("square", "subject 0")


def test_a_classical_method_solves_an_easy_set(write_set):
    evaluation = run_manual_scribbles([read_scribble_set(write_set())], {"random-walker": random_walker})
    assert all(result.dice == 1.0 for result in evaluation.results)


def test_the_first_example_of_each_task_is_kept_with_its_masks(write_set, tmp_path):
    write_set("b")
    write_set("a")
    sets = read_scribble_sets(tmp_path / "data")
    evaluation = run_manual_scribbles(sets, {"one": bright, "two": nothing})
    assert [entry.example.task for entry in evaluation.illustrations] == ["a", "b"]
    first = evaluation.illustrations[0]
    assert (first.example.image_index, first.example.annotator) == (0, 0)
    assert np.array_equal(first.masks["one"], first.example.reference)
    assert not first.masks["two"].any()
    assert first.dice == {"one": 1.0, "two": 0.0}


def test_progress_rises_to_one(write_set):
    told = []
    run_manual_scribbles(
        [read_scribble_set(write_set())],
        {"one": bright, "two": nothing},
        progress=lambda fraction, doing: told.append((fraction, doing)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1], len(fractions)) == (0.0, 1.0, 9)
    assert told[1][1] == "square 1, two"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda image, scribbles: image,
        lambda image, scribbles: np.zeros((3, 3), dtype=bool),
        lambda image, scribbles: np.zeros((1, *image.shape), dtype=bool),
    ],
)
def test_a_method_that_gives_no_mask_is_named(write_set, wrong):
    with pytest.raises(ImageError, match="Method wrong gave"):
        run_manual_scribbles([read_scribble_set(write_set())], {"wrong": wrong})


def test_a_method_that_can_make_nothing_of_the_strokes_fails_with_its_reason(write_set):
    def helpless(image, scribbles):
        raise PromptError("needs a box")

    evaluation = run_manual_scribbles([read_scribble_set(write_set())], {"helpless": helpless, "bright": bright})
    failed = [result for result in evaluation.results if result.method == "helpless"]
    assert [(result.dice, result.failure) for result in failed] == [(0.0, "needs a box")] * 4
    assert failed[0].hausdorff95_mm == pytest.approx(15 * np.sqrt(2))
    assert not evaluation.illustrations[0].masks["helpless"].any()
    assert all(result.dice == 1.0 for result in evaluation.results if result.method == "bright")


def test_any_other_error_of_a_method_ends_the_run(write_set):
    def broken(image, scribbles):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_manual_scribbles([read_scribble_set(write_set())], {"broken": broken})


def test_no_methods_no_sets_and_the_same_task_twice_are_refused(write_set):
    entry = read_scribble_set(write_set())
    for sets, methods in (([entry], {}), ([], {"one": bright}), ([entry, entry], {"one": bright})):
        with pytest.raises(ConfigError, match="Nothing to measure"):
            run_manual_scribbles(sets, methods)
