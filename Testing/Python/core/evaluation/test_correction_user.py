from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_user import CorrectingUser, as_prompt_masks, correct, wrong_regions

SIDE, OUTPUTS = 48, 3
USER = CorrectingUser(length=20, least_error=10)


def truth():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[5:20, 5:20] = 1
    labels[25:40, 10:40] = 2
    return labels


def interact(predicted, *, user=USER, seed=0, before=None, **options):
    before = before or LabelScribbles.empty((SIDE, SIDE))
    return correct(before, truth(), predicted, np.random.default_rng(seed), user, outputs=OUTPUTS, **options)


def test_every_label_that_is_missing_somewhere_gets_one_stroke():
    predicted = np.zeros((SIDE, SIDE), np.uint8)
    predicted[25:40, 10:40] = 1
    predicted[0:4, 20:48] = 2
    scribbles, count = interact(predicted)
    assert count == 3
    assert scribbles.values() == (0, 1, 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), input_kind=st.sampled_from(["scribbles", "points"]))
def test_strokes_say_the_truth(seed, input_kind):
    predicted = np.random.default_rng(seed).integers(0, OUTPUTS, (6, 6)).repeat(8, axis=0).repeat(8, axis=1)
    scribbles, _ = interact(predicted, seed=seed, input_kind=input_kind)
    assert np.array_equal(scribbles.labels[scribbles.marked], truth()[scribbles.marked])


def test_strokes_lie_where_the_prediction_is_wrong_and_are_short():
    scribbles, count = interact(np.where(truth() == 2, 0, truth()))
    assert count == 1
    assert 0 < scribbles.count <= USER.length * USER.thickness
    assert (truth()[scribbles.marked] == 2).all()


def test_nothing_is_drawn_where_all_is_right_or_only_a_border_is_off():
    assert interact(truth())[1] == 0
    off = truth()
    off[5, 5:20] = 0  # a row of the square
    assert interact(off)[1] == 0


def test_older_strokes_stay():
    before = LabelScribbles.empty((SIDE, SIDE)).with_point((2, 2), 0)
    scribbles, _ = interact(np.zeros_like(truth()), before=before)
    assert scribbles.labels[2, 2] == 0
    assert scribbles.values() == (0, 1, 2)


def test_a_segmentation_that_says_nothing_gets_a_stroke_of_every_label():
    assert interact(np.full((SIDE, SIDE), -1))[1] == OUTPUTS


def test_the_largest_region_is_marked():
    predicted = np.where(truth() == 2, 0, truth())
    predicted[10:15, 10:14] = 0
    regions = dict(wrong_regions(truth(), predicted, 10, outputs=OUTPUTS))
    assert sorted(regions) == [1, 2]
    assert regions[2].sum() == 15 * 30 - 4  # rounded corners
    assert dict(wrong_regions(truth(), predicted, 30, outputs=OUTPUTS)).keys() == {2}


def test_a_point_is_a_small_disc_in_the_middle():
    scribbles, count = interact(np.zeros_like(truth()), input_kind="points")
    assert count == 2
    assert scribbles.labels[12, 12] == 1
    assert scribbles.count <= 2 * 13


def test_a_box_marks_the_core_of_the_structure_and_a_ring_around_it():
    scribbles, count = interact(np.zeros_like(truth()), input_kind="boxes")
    assert count == 2
    assert scribbles.labels[12, 12] == 1
    assert scribbles.labels[32, 25] == 2
    assert (scribbles.labels[3, 3:22] == 0).all()


def test_the_same_strokes_are_positive_for_their_structure_only():
    scribbles = LabelScribbles.empty((4, 4)).with_point((0, 0), 0).with_point((1, 1), 1).with_point((2, 2), 2)
    on, off = as_prompt_masks(scribbles, 1)
    assert np.argwhere(on).tolist() == [[1, 1]]
    assert np.argwhere(off).tolist() == [[0, 0], [2, 2]]


def test_impossible_habits_are_refused():
    for change in ({"kind": "spiral"}, {"length": 0}, {"least_error": 0}, {"point_radius": -1.0}):
        with pytest.raises(ConfigError):
            CorrectingUser(**change)
    with pytest.raises(ConfigError, match="No input 'lasso'"):
        interact(truth(), input_kind="lasso")
