from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import PromptError

SHAPE = (6, 8)


def a_stroke(*pixels: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def with_field(**fields) -> Prompts:
    empty = Prompts.empty(SHAPE)
    names = ("scribbles", "point_coords", "point_labels", "boxes", "mask_input")
    return Prompts(**{name: fields.get(name, getattr(empty, name)) for name in names})


@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (3, 4, 5)])
def test_empty_prompts_say_nothing_about_an_image_of_their_shape(shape):
    prompts = Prompts.empty(shape)
    assert prompts.shape == shape
    assert prompts.ndim == len(shape)
    assert prompts.is_empty
    assert not prompts.has_positive
    assert prompts.scribbles.dtype == np.float32
    assert prompts.boxes.shape == (0, 2, len(shape))


@pytest.mark.parametrize("shape", [(5,), (1, 2, 3, 4), (0, 5), (2.5, 3), 7])
def test_impossible_image_shapes_are_refused(shape):
    with pytest.raises(PromptError):
        Prompts.empty(shape)


def test_strokes_go_to_their_own_channel_and_add_up():
    prompts = (
        Prompts.empty(SHAPE).with_scribble(a_stroke((1, 2))).with_scribble(a_stroke((3, 4)))
        .with_scribble(a_stroke((5, 7)), positive=False)
    )  # fmt: skip
    np.testing.assert_array_equal(prompts.scribbles[0], a_stroke((1, 2), (3, 4)))
    np.testing.assert_array_equal(prompts.scribbles[1], a_stroke((5, 7)))
    assert prompts.has_positive
    assert not prompts.is_empty


def test_every_change_returns_a_new_object_and_leaves_the_old_one():
    before = Prompts.empty(SHAPE)
    before.with_scribble(a_stroke((1, 2)))
    before.with_click((0, 0))
    before.with_box((0, 0), (1, 1))
    before.with_mask_input(np.ones(SHAPE))
    assert before.equals(Prompts.empty(SHAPE))


def test_arrays_are_copied_and_read_only():
    scribbles = np.zeros((2, *SHAPE), np.float32)
    prompts = with_field(scribbles=scribbles)
    scribbles[0, 0, 0] = 1
    assert prompts.is_empty
    full = prompts.with_click((1, 1)).with_box((0, 0), (2, 2)).with_mask_input(np.zeros(SHAPE))
    for name in ("scribbles", "point_coords", "point_labels", "boxes", "mask_input"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(full, name)[...] = 0


def test_a_read_only_view_of_someone_elses_array_is_copied_too():
    scribbles = np.zeros((2, *SHAPE), np.float32)
    view = scribbles[:]
    view.flags.writeable = False
    prompts = with_field(scribbles=view)
    scribbles[0, 0, 0] = 1
    assert prompts.is_empty


def test_a_soft_stroke_keeps_its_values():
    stroke = np.zeros(SHAPE)
    stroke[2, 3] = 0.25
    assert Prompts.empty(SHAPE).with_scribble(stroke).scribbles[0, 2, 3] == np.float32(0.25)


@pytest.mark.parametrize("shape", [(8, 6), (6, 9), (1, 6, 8), (6,)])
def test_a_stroke_on_another_grid_is_refused(shape):
    with pytest.raises(PromptError, match=r"stroke has shape .* the image has \(6, 8\)"):
        Prompts.empty(SHAPE).with_scribble(np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.01, 255])
def test_a_stroke_with_values_outside_zero_to_one_is_refused(value):
    stroke = np.zeros(SHAPE)
    stroke[0, 0] = value
    with pytest.raises(PromptError, match="expected 0 to 1"):
        Prompts.empty(SHAPE).with_scribble(stroke)


def test_an_empty_stroke_is_refused():
    with pytest.raises(PromptError, match="empty"):
        Prompts.empty(SHAPE).with_scribble(np.zeros(SHAPE, bool))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"scribbles": np.zeros((3, *SHAPE))}, "positive strokes, then negative"),
        ({"scribbles": np.zeros((2, 0, 8))}, "empty"),
        ({"scribbles": np.full((2, *SHAPE), np.nan)}, "expected 0 to 1"),
        ({"scribbles": np.zeros((2, *SHAPE), complex)}, "real numbers"),
        ({"point_coords": np.zeros((1, 3)), "point_labels": [1]}, r"expected \(N, 2\)"),
        ({"point_coords": np.zeros((1, 2))}, "Give one each"),
        ({"point_coords": np.zeros((1, 2)), "point_labels": [2]}, r"\[2\]"),
        ({"boxes": np.zeros((1, 2, 3))}, r"expected \(M, 2, 2\)"),
        ({"mask_input": np.zeros((8, 6))}, "mask_input has shape"),
        ({"mask_input": np.full(SHAPE, np.inf)}, "NaN or infinite"),
    ],
)
def test_arrays_that_disagree_are_refused(fields, complaint):
    with pytest.raises(PromptError, match=complaint):
        with_field(**fields)


@pytest.mark.parametrize("index", [(6, 0), (0, 8), (-1, 0), (0, -8)])
def test_a_click_outside_the_image_is_refused(index):
    with pytest.raises(PromptError, match=r"outside the image of shape \(6, 8\)"):
        Prompts.empty(SHAPE).with_click(index)


@pytest.mark.parametrize("index", [(1,), (1, 2, 3), 4, (1.5, 2), (np.nan, 1), (np.inf, 1), "ab"])
def test_a_click_that_is_no_pixel_is_refused(index):
    with pytest.raises(PromptError):
        Prompts.empty(SHAPE).with_click(index)


def test_clicks_are_kept_in_order_with_their_labels():
    prompts = Prompts.empty(SHAPE).with_click((5, 7)).with_click((0, 1), positive=False)
    assert prompts.point_coords.tolist() == [[5, 7], [0, 1]]
    assert prompts.point_labels.tolist() == [1, 0]
    assert prompts.point_coords.dtype == np.int64


@pytest.mark.parametrize(
    ("start", "stop", "complaint"),
    [
        ((3, 3), (3, 5), "reversed or empty"),
        ((4, 1), (2, 5), "reversed or empty"),
        ((-1, 0), (2, 2), "outside the image"),
        ((0, 0), (7, 2), "outside the image"),
        ((0, 0, 0), (1, 1, 1), "2 indices"),
        ((0, 0), (1, 1, 1), "2 indices"),
    ],
)
def test_impossible_boxes_are_refused(start, stop, complaint):
    with pytest.raises(PromptError, match=complaint):
        Prompts.empty(SHAPE).with_box(start, stop)


def test_a_box_may_cover_the_whole_image_and_points_at_the_object():
    prompts = Prompts.empty(SHAPE).with_box((0, 0), SHAPE)
    assert prompts.boxes.tolist() == [[[0, 0], [6, 8]]]
    assert prompts.has_positive


def test_a_negative_stroke_alone_is_neither_empty_nor_positive():
    prompts = Prompts.empty(SHAPE).with_scribble(a_stroke((0, 0)), positive=False).with_click((1, 1), positive=False)
    assert not prompts.is_empty
    assert not prompts.has_positive


def test_logits_of_the_last_round_are_no_prompt():
    prompts = Prompts.empty(SHAPE).with_mask_input(np.full(SHAPE, 3.0))
    assert prompts.is_empty
    assert prompts.mask_input.dtype == np.float32
    assert prompts.with_mask_input(None).mask_input is None


def test_the_newest_stroke_wins_over_older_strokes_and_clicks():
    prompts = (
        Prompts.empty(SHAPE).with_scribble(a_stroke((1, 1), (1, 2))).with_click((2, 2)).with_click((4, 4))
        .with_scribble(a_stroke((1, 2), (2, 2)), positive=False)
    )  # fmt: skip
    np.testing.assert_array_equal(prompts.scribbles[0], a_stroke((1, 1)))
    assert prompts.point_coords.tolist() == [[4, 4]]
    assert not prompts.conflicts().any()


def test_the_newest_click_wins_over_older_strokes_and_clicks():
    prompts = (
        Prompts.empty(SHAPE).with_scribble(a_stroke((1, 1), (1, 2))).with_click((2, 2))
        .with_click((2, 2), positive=False).with_click((1, 1), positive=False)
    )  # fmt: skip
    assert prompts.point_coords.tolist() == [[2, 2], [1, 1]]
    assert prompts.point_labels.tolist() == [0, 0]
    np.testing.assert_array_equal(prompts.scribbles[0], a_stroke((1, 2)))


marks = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1)), max_size=12
)


@given(marks)
def test_no_sequence_of_strokes_and_clicks_marks_a_pixel_twice_and_the_last_one_stands(sequence):
    prompts = Prompts.empty(SHAPE)
    last = {}
    for is_click, positive, row, column in sequence:
        if is_click:
            prompts = prompts.with_click((row, column), positive)
        else:
            prompts = prompts.with_scribble(a_stroke((row, column)), positive)
        last[row, column] = positive
    prompts.refuse_conflicts()
    marked = prompts.scribbles > 0
    for coords, label in zip(prompts.point_coords, prompts.point_labels, strict=True):
        marked[(0 if label else 1, *coords)] = True
    expected = np.zeros((2, *SHAPE), bool)
    for pixel, positive in last.items():
        expected[(0 if positive else 1, *pixel)] = True
    np.testing.assert_array_equal(marked, expected)


def test_strokes_given_directly_may_overlap_and_are_found():
    scribbles = np.zeros((2, *SHAPE))
    scribbles[:, 2, 3] = 1
    prompts = with_field(scribbles=scribbles, point_coords=[[1, 1], [1, 1]], point_labels=[1, 0])
    assert np.argwhere(prompts.conflicts()).tolist() == [[1, 1], [2, 3]]
    with pytest.raises(PromptError, match=r"2 pixels .* \(1, 1\)"):
        prompts.refuse_conflicts()


def test_the_strokes_of_other_labels_are_negative():
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0], labels[1, 1], labels[2, 2] = 1, 2, 5
    prompts = Prompts.from_labelmap(labels, 2)
    np.testing.assert_array_equal(prompts.scribbles[0], a_stroke((1, 1)))
    np.testing.assert_array_equal(prompts.scribbles[1], a_stroke((0, 0), (2, 2)))


@pytest.mark.parametrize("labels", [np.ones((3, 4, 5), np.int16), np.ones((3, 4), bool)])
def test_label_maps_may_be_volumes_or_masks(labels):
    prompts = Prompts.from_labelmap(labels, 1)
    assert prompts.shape == labels.shape
    assert prompts.scribbles[0].all()
    assert not prompts.scribbles[1].any()


@pytest.mark.parametrize("label", [0, 3, -1])
def test_an_absent_label_is_refused_with_the_labels_that_are_there(label):
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, :2] = (1, 4)
    with pytest.raises(PromptError, match=r"\[1, 4\]"):
        Prompts.from_labelmap(labels, label)


def test_a_label_map_without_strokes_is_refused():
    with pytest.raises(PromptError, match="it is empty"):
        Prompts.from_labelmap(np.zeros(SHAPE, np.uint8), 1)


@pytest.mark.parametrize("labels", [np.ones(SHAPE), np.ones(5, int), np.ones((2, 2, 2, 2), int), np.ones((0, 3), int)])
def test_arrays_that_are_no_label_map_are_refused(labels):
    with pytest.raises(PromptError):
        Prompts.from_labelmap(labels, 1)


def test_equality_looks_at_every_field():
    base = Prompts.empty(SHAPE).with_scribble(a_stroke((1, 1)))
    same = Prompts.empty(SHAPE).with_scribble(a_stroke((1, 1)))
    assert base.equals(same)
    others = [
        base.with_scribble(a_stroke((2, 2))), base.with_click((0, 0)), base.with_box((0, 0), (1, 1)),
        base.with_mask_input(np.zeros(SHAPE)), Prompts.empty((8, 6)),
    ]  # fmt: skip
    assert not any(base.equals(other) or other.equals(base) for other in others)
    assert not others[1].equals(base.with_click((0, 0), positive=False))
    assert not others[3].equals(base.with_mask_input(np.ones(SHAPE)))
    assert not base.equals("something else")


def test_positive_pixels_are_those_of_strokes_clicks_and_boxes() -> None:
    stroke = np.zeros((6, 8), bool)
    stroke[1, 1:4] = True
    prompts = Prompts.empty((6, 8)).with_scribble(stroke).with_click((5, 7)).with_click((0, 0), positive=False)
    prompts = prompts.with_box((3, 2), (5, 4)).with_scribble(np.eye(6, 8, 4, dtype=bool), positive=False)
    expected = stroke.copy()
    expected[5, 7] = expected[3:5, 2:4] = True
    assert np.array_equal(prompts.positive_pixels(), expected)
