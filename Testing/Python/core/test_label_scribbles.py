from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.labels import LARGEST_LABEL, UNMARKED, LabelScribbles
from scribblesegment.errors import GeometryError, PromptError

SHAPE = (6, 8)


def a_mask(*pixels: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def marks(scribbles: LabelScribbles) -> dict[tuple[int, ...], int]:
    return {tuple(index): int(scribbles.labels[tuple(index)]) for index in np.argwhere(scribbles.marked).tolist()}


@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (3, 4, 5)])
def test_empty_scribbles_ask_for_nothing(shape):
    scribbles = LabelScribbles.empty(shape)
    assert scribbles.shape == shape
    assert scribbles.ndim == len(shape)
    assert scribbles.is_empty
    assert scribbles.count == 0
    assert scribbles.values() == ()
    assert not scribbles.marked.any()
    assert scribbles.labels.dtype == np.int16


@pytest.mark.parametrize("shape", [(5,), (1, 2, 3, 4), (0, 5), (2.5, 3), 7])
def test_impossible_image_shapes_are_refused(shape):
    with pytest.raises(PromptError, match="cannot be marked"):
        LabelScribbles.empty(shape)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_labels_of_any_whole_number_type_are_taken(dtype):
    scribbles = LabelScribbles.from_labels(np.array([[-1, 0], [3, -1]], dtype))
    assert marks(scribbles) == {(0, 1): 0, (1, 0): 3}
    assert scribbles.values() == (0, 3)
    assert scribbles.labels.dtype == np.int16


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4), "dimensions"),
        (np.zeros((0, 4)), "empty"),
        (np.full(SHAPE, -2), "from -2 to -2"),
        (np.full(SHAPE, LARGEST_LABEL + 1), f"expected -1 to {LARGEST_LABEL}"),
        (np.full(SHAPE, 0.5), "whole numbers"),
        (np.full(SHAPE, np.nan), "NaN"),
        (np.full(SHAPE, np.inf), "infinity"),
        (np.ones(SHAPE, bool), "mask of True and False"),
        ([["a"]], "values"),
    ],
)
def test_arrays_that_hold_no_labels_are_refused(labels, message):
    with pytest.raises(PromptError, match=message):
        LabelScribbles.from_labels(labels)


def test_labels_are_copied_and_read_only():
    labels = np.full(SHAPE, UNMARKED, np.int16)
    scribbles = LabelScribbles.from_labels(labels)
    labels[0, 0] = 1
    assert scribbles.is_empty
    for changed in (scribbles, scribbles.with_scribble(a_mask((1, 1)), 2)):
        with pytest.raises(ValueError, match="read-only"):
            changed.labels[...] = 0


def test_every_change_returns_a_new_object_and_leaves_the_old_one():
    before = LabelScribbles.empty(SHAPE)
    before.with_scribble(a_mask((1, 2)), 1)
    before.with_point((0, 0), 1)
    before.with_box((0, 0), (2, 2), 1)
    assert before.is_empty


def test_a_newer_stroke_wins_over_an_older_one():
    older = LabelScribbles.empty(SHAPE).with_scribble(a_mask((1, 2), (1, 3)), 1)
    assert marks(older.with_scribble(a_mask((1, 3), (1, 4)), 0)) == {(1, 2): 1, (1, 3): 0, (1, 4): 0}


def test_a_stroke_may_be_painted_in_numbers():
    scribbles = LabelScribbles.empty(SHAPE).with_scribble(a_mask((1, 2)) * 0.25, 4)
    assert marks(scribbles) == {(1, 2): 4}


@pytest.mark.parametrize(
    ("mask", "label", "message"),
    [
        (np.zeros((3, 3)), 1, "shape"),
        (np.zeros(SHAPE, bool), 1, "empty"),
        (np.full(SHAPE, np.nan), 1, "NaN"),
        (np.ones(SHAPE), -1, "Label -1"),
        (np.ones(SHAPE), 1.5, "Label 1.5"),
        (np.ones(SHAPE), True, "Label True"),
        (np.ones(SHAPE), LARGEST_LABEL + 1, "whole number from 0"),
    ],
)
def test_strokes_that_cannot_be_meant_are_refused(mask, label, message):
    with pytest.raises(PromptError, match=message):
        LabelScribbles.empty(SHAPE).with_scribble(mask, label)


def test_masks_of_several_labels_are_taken_at_once():
    scribbles = LabelScribbles.from_masks({0: a_mask((0, 0)), 2: a_mask((3, 4)), 5: a_mask()})
    assert marks(scribbles) == {(0, 0): 0, (3, 4): 2}
    np.testing.assert_array_equal(scribbles.mask(2), a_mask((3, 4)))


def test_masks_that_contradict_each_other_are_refused_with_the_place_and_both_labels():
    masks = {1: a_mask((2, 3), (4, 4)), 7: a_mask((2, 3), (4, 4), (5, 5))}
    with pytest.raises(PromptError, match=r"2 pixels .* \(2, 3\) by 1 \(liver\) and 7\. Erase"):
        LabelScribbles.from_masks(masks, names={1: "liver"})


def test_no_masks_need_the_shape_of_the_image():
    assert LabelScribbles.from_masks({}, shape=SHAPE).equals(LabelScribbles.empty(SHAPE))
    with pytest.raises(PromptError, match="no mask"):
        LabelScribbles.from_masks({})


def test_masks_of_another_shape_are_refused():
    with pytest.raises(PromptError, match="shape"):
        LabelScribbles.from_masks({1: a_mask((0, 0)), 2: np.zeros((2, 2), bool)})
    with pytest.raises(PromptError, match="shape"):
        LabelScribbles.from_masks({1: a_mask((0, 0))}, shape=(3, 3))


def test_a_point_is_one_pixel_or_a_disc_cut_off_at_the_border():
    empty = LabelScribbles.empty(SHAPE)
    assert marks(empty.with_point((2, 3), 1)) == {(2, 3): 1}
    assert set(marks(empty.with_point((0, 0), 1, radius=1))) == {(0, 0), (0, 1), (1, 0)}


def test_a_point_with_a_radius_in_millimetres_follows_the_spacing():
    ball = LabelScribbles.empty((5, 5, 5)).with_point((2, 2, 2), 3, radius=2.0, spacing_mm=(4.0, 1.0, 2.0))
    np.testing.assert_array_equal(ball.marked.any((1, 2)), [False, False, True, False, False])
    np.testing.assert_array_equal(ball.marked.any((0, 2)), [True] * 5)
    np.testing.assert_array_equal(ball.marked.any((0, 1)), [False, True, True, True, False])


@pytest.mark.parametrize(
    ("index", "radius", "message"),
    [
        ((6, 0), 0, "outside"),
        ((0, -1), 0, "outside"),
        ((1, 2, 3), 0, "2 whole numbers"),
        ((1.5, 2), 0, "2 whole numbers"),
        ((1, 2), -1, "radius"),
        ((1, 2), np.nan, "radius"),
    ],
)
def test_impossible_points_are_refused(index, radius, message):
    with pytest.raises(PromptError, match=message):
        LabelScribbles.empty(SHAPE).with_point(index, 1, radius)


def test_a_point_in_a_spacing_of_zero_is_refused():
    with pytest.raises(GeometryError):
        LabelScribbles.empty(SHAPE).with_point((0, 0), 1, 1.0, spacing_mm=(0, 1))


def test_a_box_marks_its_core_and_a_ring_of_background_around_it():
    boxed = LabelScribbles.empty((13, 15)).with_box((4, 5), (9, 10), 2)
    assert boxed.values() == (0, 2)
    core = np.argwhere(boxed.mask(2))
    assert core.min(0).tolist() == [5, 6]
    assert core.max(0).tolist() == [7, 8]
    assert not boxed.marked[4:9, 5:10][[0, 0, -1, -1], [0, -1, 0, -1]].any()  # corners of a box say nothing
    ring = np.zeros((13, 15), bool)
    ring[2:11, 3:12] = True
    ring[3:10, 4:11] = False
    np.testing.assert_array_equal(boxed.mask(0), ring)


def test_the_ring_of_a_box_leaves_older_marks_and_its_core_does_not():
    older = LabelScribbles.empty((13, 15)).with_point((2, 3), 7).with_point((6, 7), 7)
    boxed = older.with_box((4, 5), (9, 10), 2)
    assert boxed.labels[2, 3] == 7
    assert boxed.labels[6, 7] == 2


def test_the_ring_of_a_box_can_hold_what_a_network_says_there():
    said = np.full((13, 15), 3)
    said[:, :8] = 2
    boxed = LabelScribbles.empty((13, 15)).with_box((4, 5), (9, 10), 2, outside=said)
    assert boxed.labels[2, 11] == 3
    assert boxed.labels[2, 3] == 0  # the network says 2 there, the box says that it is not


def test_a_box_without_a_ring_and_a_box_of_background():
    empty = LabelScribbles.empty((13, 15))
    assert empty.with_box((4, 5), (9, 10), 2, outside=None).values() == (2,)
    nothing = empty.with_box((4, 5), (9, 10), 0)
    assert nothing.count == 25
    assert nothing.values() == (0,)


def test_a_box_at_the_images_border_has_a_ring_only_inside():
    boxed = LabelScribbles.empty((6, 6)).with_box((0, 0), (3, 3), 1, gap=0)
    assert set(np.argwhere(boxed.mask(0)).max(0).tolist()) == {3}
    assert boxed.mask(0).sum() == 7


@given(
    sides=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=3),
    core=st.floats(0.01, 1.0),
    gap=st.integers(0, 3),
)
def test_every_box_marks_some_of_its_inside_and_nothing_of_its_label_outside(sides, core, gap):
    start, stop = [first for first, _ in sides], [first + length for first, length in sides]
    boxed = LabelScribbles.empty((13,) * len(sides)).with_box(start, stop, 4, core=core, gap=gap)
    inside = np.zeros(boxed.shape, bool)
    inside[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] = True
    assert boxed.mask(4).any()
    assert not (boxed.mask(4) & ~inside).any()
    assert not (boxed.mask(0) & inside).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (3, 3), "stop": (3, 5)}, "empty"),
        ({"start": (-1, 3), "stop": (3, 5)}, "outside"),
        ({"start": (0, 0), "stop": (7, 5)}, "outside"),
        ({"start": (0, 0, 0), "stop": (1, 1, 1)}, "2 whole numbers"),
        ({"start": (0, 0), "stop": (1, 1, 1)}, "2 whole numbers"),
        ({"start": (0.5, 0), "stop": (1, 1)}, "2 whole numbers"),
        ({"core": 0.0}, "core"),
        ({"core": 1.5}, "core"),
        ({"gap": -1}, "gap"),
        ({"outside": -1}, "Label -1"),
        ({"outside": np.zeros((2, 2), int)}, "shape"),
        ({"outside": np.full(SHAPE, -1)}, "expected 0 to"),
        ({"label": -1}, "Label -1"),
    ],
)
def test_impossible_boxes_are_refused(options, message):
    with pytest.raises(PromptError, match=message):
        LabelScribbles.empty(SHAPE).with_box(**{"start": (1, 1), "stop": (4, 5), "label": 1, **options})


def test_marks_can_be_erased():
    scribbles = LabelScribbles.empty(SHAPE).with_scribble(a_mask((1, 2), (1, 3)), 1)
    assert marks(scribbles.without(a_mask((1, 3), (5, 5)))) == {(1, 2): 1}
    with pytest.raises(PromptError, match="shape"):
        scribbles.without(np.ones((2, 2), bool))


def test_scribbles_are_equal_when_they_ask_for_the_same():
    one = LabelScribbles.empty(SHAPE).with_point((1, 1), 1)
    assert one.equals(LabelScribbles.from_labels(np.array(one.labels)))
    assert not one.equals(LabelScribbles.empty(SHAPE))
    assert not one.equals(one.labels)


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4), st.integers(0, 9)),
        max_size=6,
    )
)
def test_at_every_pixel_the_last_stroke_wins(strokes):
    scribbles = LabelScribbles.empty(SHAPE)
    expected: dict[tuple[int, ...], int] = {}
    for pixels, label in strokes:
        scribbles = scribbles.with_scribble(a_mask(*pixels), label)
        expected.update(dict.fromkeys(pixels, label))
    assert marks(scribbles) == expected
    assert LabelScribbles.from_masks({v: scribbles.mask(v) for v in scribbles.values()}, shape=SHAPE).equals(scribbles)
