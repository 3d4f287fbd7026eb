"""Tests of scribblesegment.mrml.slice_segmenter: which earlier prediction a new one goes on from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.drawing import Click, Stroke
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.data.prompts import Prompts
from scribblesegment.mrml.slice_segmenter import SliceResult, SliceResults, anchors_of, prior_logits
from scribblesegment.mrml.target import EditTarget

SHAPE = (6, 7)
MOST = 64
NODE = object()

masks = arrays(bool, SHAPE)
logits_arrays = arrays(np.float32, SHAPE, elements=st.floats(-30, 30, width=32))


def a_target(segment="liver", node=NODE) -> EditTarget:
    return EditTarget(None, node, segment, None, None, None)


def a_plane(index=0, shape=SHAPE) -> SlicePlane:
    return SlicePlane(shape, (0, 0, index), (0, 1, 0), (1, 0, 0), (0, index))


def clicks(count) -> tuple[Click, ...]:
    """What was drawn: one click after another."""
    return tuple(Click((number, 0, 0)) for number in range(count))


def a_result(index=0, count=1, *, segment="liver", logits=None, written=None) -> SliceResult:
    logits = np.zeros(SHAPE, np.float32) if logits is None else logits
    return SliceResult(a_target(segment), a_plane(index), clicks(count), logits, np.zeros(SHAPE, bool), written=written)


# Finding ------------------------------------------------------------------------------------------------------------


def test_a_result_is_found_by_segment_slice_and_gestures():
    results, result = SliceResults(), a_result(3, 2)
    results.add(result)
    # The segment, the plane and the gestures may be other objects that say the same.
    assert results.find(a_target(), a_plane(3), clicks(2)) is result


@pytest.mark.parametrize(
    ("target", "index", "gestures"),
    [
        (a_target("spleen"), 3, clicks(2)),
        (a_target(node=object()), 3, clicks(2)),
        (a_target(), 4, clicks(2)),
        (a_target(), 3, clicks(1)),
        (a_target(), 3, clicks(3)),
        (a_target(), 3, clicks(2)[::-1]),
        (a_target(), 3, ()),
        (a_target(), 3, (clicks(1)[0], Click((1, 0, 0), positive=False))),
    ],
)
def test_nothing_is_found_for_another_segment_slice_or_other_gestures(target, index, gestures):
    results = SliceResults()
    results.add(a_result(3, 2))
    assert results.find(target, a_plane(index), gestures) is None


def test_gestures_of_another_kind_at_the_same_place_are_other_gestures():
    results = SliceResults()
    results.add(a_result(0, 1))
    assert results.find(a_target(), a_plane(), (Stroke(((0, 0, 0),), 1.0),)) is None


def test_a_result_is_found_whatever_raster_its_slice_is_shown_with():
    results = SliceResults()
    oblique = SlicePlane(SHAPE, (0, 0, 0), (0, 1, 1), (1, 0, 0))
    turned = SlicePlane((9, 9), oblique.to_mm((5, 1)), (2, 0, 0), (0, 0.5, 0.5))
    result = SliceResult(a_target(), oblique, clicks(1), np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool))
    results.add(result)
    assert results.find(a_target(), turned, clicks(1)) is result


def test_the_states_before_the_newest_gesture_are_all_kept():
    results = SliceResults()
    added = [a_result(0, count) for count in range(1, 6)]
    for result in added:
        results.add(result)
    assert [results.find(a_target(), a_plane(), clicks(count)) for count in range(1, 6)] == added


def test_a_new_result_for_the_same_gestures_takes_the_place_of_the_old_one():
    results, new = SliceResults(), a_result(0, 1)
    results.add(a_result(0, 1))
    results.add(new)
    assert results.find(a_target(), a_plane(), clicks(1)) is new


def test_adding_a_result_again_keeps_it():
    results, result = SliceResults(), a_result()
    results.add(result)
    results.add(result)
    assert results.find(a_target(), a_plane(), clicks(1)) is result


def test_after_clearing_nothing_is_known():
    results = SliceResults()
    results.add(a_result())
    results.clear()
    assert results.find(a_target(), a_plane(), clicks(1)) is None


# Long lists take minutes to shrink.
@settings(max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), min_size=60, max_size=160))
def test_the_newest_results_are_kept_and_the_oldest_forgotten(keys):
    results, model = SliceResults(), {}
    for index, count in keys:
        result = a_result(index, count)
        results.add(result)
        model.pop((index, count), None)  # so that it moves to the end
        model[index, count] = result
        model = dict(list(model.items())[-MOST:])
    for index in range(5):
        for count in range(1, 21):
            assert results.find(a_target(), a_plane(index), clicks(count)) is model.get((index, count))


def test_replacing_a_result_makes_no_other_one_forgotten():
    results = SliceResults()
    for index in range(MOST):
        results.add(a_result(index))
    results.add(a_result(MOST // 2))
    assert all(results.find(a_target(), a_plane(index), clicks(1)) is not None for index in range(MOST))
    results.add(a_result(MOST))
    assert results.find(a_target(), a_plane(0), clicks(1)) is None
    assert results.find(a_target(), a_plane(1), clicks(1)) is not None


# What a prediction starts from --------------------------------------------------------------------------------------


def test_without_result_and_content_there_is_nothing_to_start_from():
    assert prior_logits(None, np.zeros(SHAPE, bool)) is None


@given(masks)
def test_without_a_result_a_prediction_starts_from_the_content(content):
    content[2, 3] = True
    prior = prior_logits(None, content)
    assert prior.dtype == np.float32
    assert np.array_equal(prior > 0, content)
    assert (np.abs(prior) > 2).all(), "as sure as a network"


@given(logits_arrays, masks)
def test_a_result_that_was_never_written_is_started_from_as_it_is(logits, content):
    prior = prior_logits(a_result(logits=logits), content)
    assert np.array_equal(prior, logits)


@given(logits_arrays, masks, masks)
def test_only_where_the_segment_was_edited_since_the_content_counts(logits, written, content):
    prior = prior_logits(a_result(logits=logits, written=written), content)
    assert prior.dtype == np.float32
    edited = content != written
    assert np.array_equal(prior[~edited], logits[~edited])
    assert np.array_equal(prior[edited] > 0, content[edited])


def test_what_the_writer_kept_from_changing_does_not_count_as_edited():
    logits = np.full(SHAPE, 5, np.float32)
    written = np.zeros(SHAPE, bool)  # a neighbour was protected, so that nothing could be written
    assert np.array_equal(prior_logits(a_result(logits=logits, written=written), written.copy()), logits)


def test_a_remembered_result_is_left_as_it_is():
    logits, written = np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool)
    result = a_result(logits=logits, written=written)
    prior_logits(result, np.ones(SHAPE, bool))
    assert (result.logits == 1).all()
    assert not result.written.any()


# Anchors ------------------------------------------------------------------------------------------------------------


def scribbled(rows, columns, *, positive=True) -> Prompts:
    mask = np.zeros(SHAPE, bool)
    mask[rows, columns] = True
    return Prompts.empty(SHAPE).with_scribble(mask, positive)


def marked(prompts, content=None) -> list[tuple[int, ...]]:
    anchors = anchors_of(prompts, np.zeros(SHAPE, bool) if content is None else content)
    assert anchors.dtype == bool
    assert anchors.shape == SHAPE
    return [tuple(index) for index in np.argwhere(anchors).tolist()]


def test_no_prompts_on_nothing_mark_nothing():
    assert marked(Prompts.empty(SHAPE)) == []


def test_positive_strokes_and_clicks_and_boxes_are_anchors():
    assert marked(scribbled(2, slice(1, 4))) == [(2, 1), (2, 2), (2, 3)]
    assert marked(Prompts.empty(SHAPE).with_click((5, 6)).with_click((0, 0))) == [(0, 0), (5, 6)]
    assert marked(Prompts.empty(SHAPE).with_box((1, 2), (3, 4))) == [(1, 2), (1, 3), (2, 2), (2, 3)]


def test_a_faint_stroke_is_an_anchor_too():
    mask = np.zeros(SHAPE, np.float32)
    mask[3, 3] = 0.1
    assert marked(Prompts.empty(SHAPE).with_scribble(mask)) == [(3, 3)]


def test_negative_strokes_and_clicks_are_none():
    assert marked(scribbled(2, slice(1, 4), positive=False).with_click((5, 6), False)) == []


def test_earlier_content_is_an_anchor():
    content = np.zeros(SHAPE, bool)
    content[4, 4:6] = True
    assert marked(Prompts.empty(SHAPE).with_click((0, 0)), content) == [(0, 0), (4, 4), (4, 5)]


@given(
    masks,
    masks,
    masks,
    st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 6)), st.booleans(), max_size=5),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 6), st.integers(1, 7)), max_size=2),
)
def test_anchors_are_all_that_is_positive_and_the_content_and_nothing_else(positive, negative, content, points, boxes):
    prompts = Prompts(
        scribbles=np.stack([positive, negative]),
        point_coords=np.array(list(points), int).reshape(-1, 2),
        point_labels=np.array(list(points.values()), int),
        boxes=np.array([[(r, c), (min(r + h, SHAPE[0]), min(c + w, SHAPE[1]))] for r, c, h, w in boxes], int).reshape(
            -1, 2, 2
        ),
    )
    before = content.copy()
    anchors = anchors_of(prompts, content)
    for row, column in np.ndindex(SHAPE):
        in_box = any(r <= row < r + h and c <= column < c + w for r, c, h, w in boxes)
        expected = positive[row, column] or content[row, column] or points.get((row, column), False) or in_box
        assert anchors[row, column] == expected
    assert np.array_equal(content, before)
