"""Label scribbles: what is asked for at each pixel, one after another or at the same time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.labels import LARGEST_LABEL, UNMARKED, LabelScribbles, combine_masks, label_array
from scribblesegment.errors import GeometryError, PromptError

SHAPE = (6, 8)
EMPTY = LabelScribbles.empty(SHAPE)


def a_mask(*pixels):
    mask = np.zeros(SHAPE, bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def marks(scribbles):
    return {tuple(index): int(scribbles.labels[tuple(index)]) for index in np.argwhere(scribbles.marked).tolist()}


@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (3, 4, 5)])
def test_empty_scribbles_ask_for_nothing(shape):
    scribbles = LabelScribbles.empty(shape)
    assert (scribbles.shape, scribbles.ndim, scribbles.labels.dtype) == (shape, len(shape), np.int16)
    assert (scribbles.is_empty, scribbles.count, scribbles.values()) == (True, 0, ())
    assert not scribbles.marked.any()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_labels_of_any_whole_number_type_are_copied_and_read_only(dtype):
    labels = np.array([[-1, 0], [3, -1]], dtype)
    scribbles = LabelScribbles.from_labels(labels)
    labels[0, 0] = 1
    assert marks(scribbles) == {(0, 1): 0, (1, 0): 3}
    assert (scribbles.values(), scribbles.count) == ((0, 3), 2)
    for changed in (scribbles, scribbles.with_point((1, 1), 2)):
        with pytest.raises(ValueError, match="read-only"):
            changed.labels[...] = 0


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4), st.integers(0, 9)),
        max_size=6,
    )
)
def test_at_every_pixel_the_last_stroke_wins(strokes):
    scribbles, expected = EMPTY, {}
    for pixels, label in strokes:
        scribbles = scribbles.with_scribble(a_mask(*pixels) * 0.25, label)
        expected.update(dict.fromkeys(pixels, label))
    assert marks(scribbles) == expected
    assert LabelScribbles.from_masks({v: scribbles.mask(v) for v in scribbles.values()}, shape=SHAPE).equals(scribbles)
    assert EMPTY.is_empty


def test_masks_of_several_labels_are_taken_at_once():
    masks = {0: a_mask((0, 0)), 2: a_mask((3, 4)), 5: a_mask()}
    assert marks(LabelScribbles.from_masks(masks)) == {(0, 0): 0, (3, 4): 2}
    np.testing.assert_array_equal(combine_masks(masks), LabelScribbles.from_masks(masks).labels)
    assert LabelScribbles.from_masks({}, shape=SHAPE).equals(EMPTY)


def test_a_point_is_one_pixel_or_a_disc_in_pixels_or_millimetres():
    assert marks(EMPTY.with_point((2, 3), 1)) == {(2, 3): 1}
    assert set(marks(EMPTY.with_point((0, 0), 1, radius=1))) == {(0, 0), (0, 1), (1, 0)}
    ball = LabelScribbles.empty((5, 5, 5)).with_point((2, 2, 2), 3, radius=2.0, spacing_mm=(4.0, 1.0, 2.0))
    np.testing.assert_array_equal(ball.marked.any((1, 2)), [False, False, True, False, False])
    np.testing.assert_array_equal(ball.marked.any((0, 2)), [True] * 5)
    np.testing.assert_array_equal(ball.marked.any((0, 1)), [False, True, True, True, False])


BLANK = LabelScribbles.empty((13, 15))


def test_a_box_marks_its_core_and_a_ring_of_background_around_it():
    boxed = BLANK.with_box((4, 5), (9, 10), 2)
    assert boxed.values() == (0, 2)
    core = np.argwhere(boxed.mask(2))
    assert (core.min(0).tolist(), core.max(0).tolist()) == ([5, 6], [7, 8])
    assert not boxed.marked[4:9, 5:10][[0, 0, -1, -1], [0, -1, 0, -1]].any()  # corners of a box say nothing
    ring = np.zeros((13, 15), bool)
    ring[2:11, 3:12] = True
    ring[3:10, 4:11] = False
    np.testing.assert_array_equal(boxed.mask(0), ring)
    older = BLANK.with_point((2, 3), 7).with_point((6, 7), 7).with_box((4, 5), (9, 10), 2)
    assert (older.labels[2, 3], older.labels[6, 7]) == (7, 2)  # the ring leaves older marks, the core does not
    at_border = LabelScribbles.empty((6, 6)).with_box((0, 0), (3, 3), 1, gap=0)
    assert np.argwhere(at_border.mask(0)).max(0).tolist() == [3, 3]
    assert at_border.mask(0).sum() == 7


def test_the_ring_of_a_box_can_hold_what_a_network_says_there_or_be_left_out():
    said = np.full((13, 15), 3)
    said[:, :8] = 2
    boxed = BLANK.with_box((4, 5), (9, 10), 2, outside=said)
    assert (boxed.labels[2, 11], boxed.labels[2, 3]) == (3, 0)  # the box says that it is not 2 there
    assert (said[:, :8] == 2).all()
    assert BLANK.with_box((4, 5), (9, 10), 2, outside=4).values() == (2, 4)
    assert BLANK.with_box((4, 5), (9, 10), 2, outside=None).values() == (2,)
    nothing = BLANK.with_box((4, 5), (9, 10), 0)
    assert (nothing.count, nothing.values()) == (25, (0,))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=3),
    st.floats(0.01, 1.0),
    st.integers(0, 3),
)
def test_every_box_marks_some_of_its_inside_and_nothing_of_its_label_outside(sides, core, gap):
    start, stop = [first for first, _ in sides], [first + length for first, length in sides]
    boxed = LabelScribbles.empty((13,) * len(sides)).with_box(start, stop, 4, core=core, gap=gap)
    inside = np.zeros(boxed.shape, bool)
    inside[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] = True
    assert boxed.mask(4).any()
    assert not (boxed.mask(4) & ~inside).any()
    assert not (boxed.mask(0) & inside).any()


def test_marks_can_be_erased_and_compared():
    scribbles = EMPTY.with_scribble(a_mask((1, 2), (1, 3)), 1)
    assert marks(scribbles.without(a_mask((1, 3), (5, 5)))) == {(1, 2): 1}
    assert scribbles.equals(LabelScribbles.from_labels(np.array(scribbles.labels)))
    assert not scribbles.equals(EMPTY)
    assert not scribbles.equals(scribbles.labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(4), "dimensions"),
        (np.zeros((0, 4)), "empty"),
        (np.full(SHAPE, UNMARKED - 1), "from -2 to -2"),
        (np.full(SHAPE, LARGEST_LABEL + 1), f"expected -1 to {LARGEST_LABEL}"),
        (np.full(SHAPE, 0.5), "whole numbers"),
        (np.full(SHAPE, np.nan), "NaN"),
        (np.full(SHAPE, np.inf), "infinity"),
        (np.ones(SHAPE, bool), "mask of True and False"),
        ([["a"]], "values"),
    ],
)
def test_arrays_that_hold_no_labels_are_refused(labels, words):
    for take in (LabelScribbles.from_labels, LabelScribbles, label_array):
        with pytest.raises(PromptError, match=words):
            take(labels)


def box(**options):
    return lambda: EMPTY.with_box(**{"start": (1, 1), "stop": (4, 5), "label": 1, **options})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((lambda s=s: LabelScribbles.empty(s), "cannot be marked") for s in ((5,), (1, 2, 3, 4), (0, 5), (2.5, 3), 7)),
        (lambda: EMPTY.with_scribble(np.zeros((3, 3)), 1), "shape"),
        (lambda: EMPTY.with_scribble(np.zeros(SHAPE, bool), 1), "empty"),
        (lambda: EMPTY.with_scribble(np.full(SHAPE, np.nan), 1), "NaN"),
        *((lambda v=v: EMPTY.with_scribble(np.ones(SHAPE), v), f"Label {v}") for v in (-1, 1.5, True, 1 << 15)),
        (
            lambda: LabelScribbles.from_masks(
                {1: a_mask((2, 3), (4, 4)), 7: a_mask((2, 3), (4, 4))}, names={1: "liver"}
            ),
            r"2 pixels .* \(2, 3\) by 1 \(liver\) and 7\. Erase",
        ),
        (lambda: LabelScribbles.from_masks({}), "no mask"),
        (lambda: LabelScribbles.from_masks({1: a_mask(), 2: np.zeros((2, 2), bool)}), "shape"),
        (lambda: LabelScribbles.from_masks({1: a_mask()}, shape=(3, 3)), "shape"),
        (lambda: LabelScribbles.from_masks({-1: a_mask((0, 0))}), "Label -1"),
        *((lambda i=i: EMPTY.with_point(i, 1), "outside") for i in ((6, 0), (0, -1))),
        *((lambda i=i: EMPTY.with_point(i, 1), "2 whole numbers") for i in ((1, 2, 3), (1.5, 2))),
        *((lambda r=r: EMPTY.with_point((1, 2), 1, r), "radius") for r in (-1, np.nan, np.inf)),
        (lambda: EMPTY.without(np.ones((2, 2), bool)), "shape"),
        (box(start=(3, 3), stop=(3, 5)), "empty"),
        (box(start=(-1, 3), stop=(3, 5)), "outside"),
        (box(start=(0, 0), stop=(7, 5)), "outside"),
        (box(start=(0, 0, 0), stop=(1, 1, 1)), "2 whole numbers"),
        (box(start=(0, 0), stop=(1, 1, 1)), "2 whole numbers"),
        (box(start=(0.5, 0), stop=(1, 1)), "2 whole numbers"),
        *((box(core=core), "core") for core in (0.0, 1.5)),
        (box(gap=-1), "gap"),
        (box(gap=0.5), "gap"),
        (box(outside=-1), "Label -1"),
        (box(outside=np.zeros((2, 2), int)), "shape"),
        (box(outside=np.full(SHAPE, -1)), "expected 0 to"),
        (box(label=-1), "Label -1"),
    ],
)
def test_marks_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(PromptError, match=words):
        change()


def test_a_point_in_a_spacing_of_zero_is_refused():
    with pytest.raises(GeometryError):
        EMPTY.with_point((0, 0), 1, 1.0, spacing_mm=(0, 1))
