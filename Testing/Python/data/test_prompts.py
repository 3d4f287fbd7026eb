"""Prompts and label scribbles: checked at the door, trusted inside, and the newest wins at every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.labels import LARGEST_LABEL, UNMARKED, LabelScribbles, combine_masks, label_array
from scribblesegment.data.prompts import PromptBuilder, Prompts
from scribblesegment.errors import GeometryError, PromptError

SHAPE = (6, 8)
EMPTY = Prompts.empty(SHAPE)
FIELDS = ("scribbles", "point_coords", "point_labels", "boxes", "mask_input")


def a_stroke(*pixels):
    mask = np.zeros(SHAPE, bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def with_field(**fields):
    return Prompts(**{name: fields.get(name, getattr(EMPTY, name)) for name in FIELDS})


def test_every_kind_of_prompt_is_kept_in_its_place_and_order():
    soft = np.zeros(SHAPE)
    soft[2, 3] = 0.25
    prompts = EMPTY.with_scribble(soft).with_scribble(a_stroke((3, 4))).with_scribble(a_stroke((5, 7)), positive=False)
    prompts = (
        prompts.with_click((5, 6)).with_click((0, 1), positive=False).with_box((0, 0), SHAPE).with_box((1, 2), (3, 4))
    )
    np.testing.assert_array_equal(prompts.scribbles[0], soft + a_stroke((3, 4)))
    np.testing.assert_array_equal(prompts.scribbles[1], a_stroke((5, 7)))
    assert (prompts.point_coords.tolist(), prompts.point_labels.tolist()) == ([[5, 6], [0, 1]], [1, 0])
    assert prompts.boxes.tolist() == [[[0, 0], [6, 8]], [[1, 2], [3, 4]]]
    again = prompts.with_mask_input(np.full(SHAPE, 3.0))
    assert again.mask_input.dtype == np.float32
    assert again.with_mask_input(None).equals(prompts)


@pytest.mark.parametrize(
    ("prompts", "is_empty", "has_positive"),
    [
        (EMPTY.with_scribble(a_stroke((0, 0)), positive=False).with_click((1, 1), positive=False), False, False),
        (EMPTY.with_click((1, 1)), False, True),
        (EMPTY.with_box((0, 0), (1, 1)), False, True),
        (EMPTY.with_mask_input(np.ones(SHAPE)), True, False),
    ],
)
def test_what_prompts_say(prompts, is_empty, has_positive):
    assert (prompts.is_empty, prompts.has_positive) == (is_empty, has_positive)


def test_positive_pixels_are_those_of_strokes_clicks_and_boxes():
    prompts = EMPTY.with_scribble(a_stroke((1, 1), (1, 2))).with_click((5, 7)).with_click((0, 0), positive=False)
    prompts = prompts.with_box((3, 2), (5, 4)).with_scribble(a_stroke((2, 6)), positive=False)
    expected = a_stroke((1, 1), (1, 2), (5, 7))
    expected[3:5, 2:4] = True
    np.testing.assert_array_equal(prompts.positive_pixels(), expected)
    assert prompts.scribbles[0].sum() == 2


def test_every_change_returns_a_new_object_and_arrays_are_copied_and_read_only():
    scribbles = np.zeros((2, *SHAPE), np.float32)
    view = scribbles[:]
    view.flags.writeable = False
    given_arrays = [with_field(scribbles=array) for array in (scribbles, view)]
    scribbles[0, 0, 0] = 1
    assert all(prompts.is_empty for prompts in given_arrays)
    full = (
        EMPTY.with_click((1, 1))
        .with_box((0, 0), (2, 2))
        .with_mask_input(np.zeros(SHAPE))
        .with_scribble(a_stroke((0, 0)))
    )
    for name in FIELDS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(full, name)[...] = 0
    assert EMPTY.equals(Prompts.empty(SHAPE))
    assert np.shares_memory(full.with_box((0, 0), (1, 1)).scribbles, full.scribbles)  # edits stay cheap


marks = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1)), max_size=12
)


@given(marks)
def test_the_last_mark_of_a_pixel_stands_one_by_one_and_in_a_builder(sequence):
    prompts, builder, last = EMPTY, PromptBuilder(SHAPE), {}
    for is_click, positive, row, column in sequence:
        last.pop((row, column), None)
        last[row, column] = (is_click, positive)
        if is_click:
            prompts = prompts.with_click((row, column), positive)
            builder.add_click((row, column), positive)
        else:
            prompts = prompts.with_scribble(a_stroke((row, column)), positive)
            window = (slice(row, row + 1), slice(column, SHAPE[1]))
            builder.add_scribble(a_stroke((row, column))[window], positive, window=window)
    prompts.refuse_conflicts()
    assert builder.build().equals(prompts)
    marked = prompts.scribbles > 0
    for coords, label in zip(prompts.point_coords, prompts.point_labels, strict=True):
        marked[(0 if label else 1, *coords)] = True
    expected = np.zeros((2, *SHAPE), bool)
    for pixel, (_, positive) in last.items():
        expected[(0 if positive else 1, *pixel)] = True
    np.testing.assert_array_equal(marked, expected)


def test_a_soft_stroke_weakens_what_it_covers_and_takes_away_clicks_of_the_other_sign():
    prompts = EMPTY.with_scribble(a_stroke((1, 1), (1, 2))).with_click((2, 2)).with_click((3, 3), positive=False)
    after = prompts.with_scribble(0.25 * a_stroke((1, 2), (2, 2), (3, 3)), positive=False)
    np.testing.assert_array_equal(after.scribbles[0], a_stroke((1, 1)) + 0.75 * a_stroke((1, 2)))
    assert after.point_coords.tolist() == [[3, 3]]


def test_a_builder_goes_on_from_prompts_and_leaves_them_alone():
    begun = EMPTY.with_scribble(a_stroke((1, 1))).with_click((2, 2)).with_mask_input(np.ones(SHAPE))
    builder = PromptBuilder(begun)
    first = builder.add_box((0, 0), (2, 2)).build()
    second = builder.add_scribble(a_stroke((1, 1)), positive=False).build()
    assert first.equals(begun.with_box((0, 0), (2, 2)))
    assert second.equals(first.with_scribble(a_stroke((1, 1)), positive=False))
    assert begun.scribbles[0, 1, 1] == first.scribbles[0, 1, 1] == 1
    assert second.mask_input is begun.mask_input


def test_strokes_given_directly_may_overlap_and_are_found():
    scribbles = np.zeros((2, *SHAPE))
    scribbles[:, 2, 3] = 1
    prompts = with_field(scribbles=scribbles, point_coords=[[1, 1], [1, 1], [4, 4]], point_labels=[1, 0, 1])
    assert np.argwhere(prompts.conflicts()).tolist() == [[1, 1], [2, 3]]
    with pytest.raises(PromptError, match=r"2 pixels .* \(1, 1\)"):
        prompts.refuse_conflicts()


def test_equality_looks_at_every_field():
    base = EMPTY.with_scribble(a_stroke((1, 1)))
    assert base.equals(EMPTY.with_scribble(a_stroke((1, 1))))
    others = [base.with_scribble(a_stroke((2, 2))), base.with_click((0, 0)), base.with_box((0, 0), (1, 1))]
    others += [base.with_mask_input(np.zeros(SHAPE)), Prompts.empty((8, 6))]
    assert not any(base.equals(other) or other.equals(base) for other in others)
    assert not others[1].equals(base.with_click((0, 0), positive=False))
    assert not others[3].equals(base.with_mask_input(np.ones(SHAPE)))
    assert not base.equals("something else")


def test_the_strokes_of_other_labels_are_negative():
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0], labels[1, 1], labels[2, 2] = 1, 2, 5
    prompts = Prompts.from_labelmap(labels, 2)
    np.testing.assert_array_equal(prompts.scribbles, [a_stroke((1, 1)), a_stroke((0, 0), (2, 2))])
    for others in (np.ones((3, 4, 5), np.int16), np.ones((3, 4), bool)):
        prompts = Prompts.from_labelmap(others, 1)
        assert prompts.scribbles[0].all()
        assert prompts.shape == others.shape


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scribbles": np.zeros((3, *SHAPE))}, "positive strokes, then negative"),
        ({"scribbles": np.zeros((2, 0, 8))}, "empty"),
        ({"scribbles": np.full((2, *SHAPE), np.nan)}, "expected 0 to 1"),
        ({"scribbles": np.zeros((2, *SHAPE), complex)}, "real numbers"),
        ({"point_coords": np.zeros((1, 3)), "point_labels": [1]}, r"expected \(N, 2\)"),
        ({"point_coords": np.zeros((1, 2))}, "Give one each"),
        ({"point_coords": np.zeros((1, 2)), "point_labels": [2]}, r"\[2\]"),
        ({"point_coords": [[6, 0]], "point_labels": [1]}, "outside"),
        ({"boxes": np.zeros((1, 2, 3))}, r"expected \(M, 2, 2\)"),
        ({"boxes": [[[0, 0], [7, 2]]]}, "outside"),
        ({"mask_input": np.zeros((8, 6))}, "mask_input has shape"),
        ({"mask_input": np.full(SHAPE, np.inf)}, "NaN or infinite"),
    ],
)
def test_arrays_that_disagree_are_refused(fields, words):
    with pytest.raises(PromptError, match=words):
        with_field(**fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((lambda s=s: Prompts.empty(s), "image shape") for s in ((5,), (1, 2, 3, 4), (0, 5), (2.5, 3), 7)),
        *(
            (lambda s=s: EMPTY.with_scribble(np.ones(s)), r"stroke has shape .* the image has \(6, 8\)")
            for s in ((8, 6), (6, 9), (1, 6, 8), (6,))
        ),
        *((lambda v=v: EMPTY.with_scribble(np.full(SHAPE, v)), "0 to 1") for v in (np.nan, np.inf, -0.5, 1.01, 255)),
        (lambda: EMPTY.with_scribble(np.zeros(SHAPE, bool)), "empty"),
        *((lambda i=i: EMPTY.with_click(i), r"outside the image of shape \(6, 8\)") for i in ((6, 0), (0, 8), (-1, 0))),
        *((lambda i=i: EMPTY.with_click(i), "2 indices") for i in ((1,), (1, 2, 3), 4)),
        *((lambda i=i: EMPTY.with_click(i), "Round positions") for i in ((1.5, 2), (np.nan, 1), (np.inf, 1))),
        (lambda: EMPTY.with_click("ab"), "real numbers"),
        (lambda: EMPTY.with_box((3, 3), (3, 5)), "reversed or empty"),
        (lambda: EMPTY.with_box((4, 1), (2, 5)), "reversed or empty"),
        (lambda: EMPTY.with_box((0, 0), (6, 9)), "outside the image"),
        (lambda: EMPTY.with_box((0, 0), (1, 1, 1)), "2 indices"),
        *((lambda v=v: Prompts.from_labelmap(np.array([[1, 4, 0]]), v), r"\[1, 4\]") for v in (0, 3, -1)),
        (lambda: Prompts.from_labelmap(np.zeros(SHAPE, np.uint8), 1), "it is empty"),
        (lambda: Prompts.from_labelmap(np.ones(SHAPE), 1), "Pass integers"),
        *((lambda s=s: Prompts.from_labelmap(np.ones(s, int), 1), "labelmap") for s in ((5,), (2, 2, 2, 2), (0, 3))),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(PromptError, match=words):
        change()


# Label scribbles ----------------------------------------------------------------------------------------------------


BARE = LabelScribbles.empty(SHAPE)


def marked_pixels(scribbles):
    return {tuple(index): int(scribbles.labels[tuple(index)]) for index in np.argwhere(scribbles.marked).tolist()}


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_labels_of_any_whole_number_type_are_copied_and_read_only(dtype):
    labels = np.array([[-1, 0], [3, -1]], dtype)
    scribbles = LabelScribbles.from_labels(labels)
    labels[0, 0] = 1
    assert marked_pixels(scribbles) == {(0, 1): 0, (1, 0): 3}
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
    scribbles, expected = BARE, {}
    for pixels, label in strokes:
        scribbles = scribbles.with_scribble(a_stroke(*pixels) * 0.25, label)
        expected.update(dict.fromkeys(pixels, label))
    assert marked_pixels(scribbles) == expected
    masks = {label: scribbles.mask(label) for label in scribbles.values()}
    assert LabelScribbles.from_masks(masks, shape=SHAPE).equals(scribbles)
    np.testing.assert_array_equal(combine_masks({**masks, 11: a_stroke()}), scribbles.labels)
    assert BARE.is_empty


def test_a_point_is_one_pixel_or_a_disc_in_pixels_or_millimetres():
    assert marked_pixels(BARE.with_point((2, 3), 1)) == {(2, 3): 1}
    assert set(marked_pixels(BARE.with_point((0, 0), 1, radius=1))) == {(0, 0), (0, 1), (1, 0)}
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
    scribbles = BARE.with_scribble(a_stroke((1, 2), (1, 3)), 1)
    assert marked_pixels(scribbles.without(a_stroke((1, 3), (5, 5)))) == {(1, 2): 1}
    assert scribbles.equals(LabelScribbles.from_labels(np.array(scribbles.labels)))
    assert not scribbles.equals(BARE)
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
    return lambda: BARE.with_box(**{"start": (1, 1), "stop": (4, 5), "label": 1, **options})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((lambda s=s: LabelScribbles.empty(s), "2 or 3 whole") for s in ((5,), (1, 2, 3, 4), (0, 5), (2.5, 3), 7)),
        (lambda: BARE.with_scribble(np.zeros((3, 3)), 1), "shape"),
        (lambda: BARE.with_scribble(np.zeros(SHAPE, bool), 1), "empty"),
        (lambda: BARE.with_scribble(np.full(SHAPE, np.nan), 1), "NaN"),
        *((lambda v=v: BARE.with_scribble(np.ones(SHAPE), v), f"Label (is )?{v}") for v in (-1, 1.5, True, 1 << 15)),
        (
            lambda: LabelScribbles.from_masks(
                {1: a_stroke((2, 3), (4, 4)), 7: a_stroke((2, 3), (4, 4))}, names={1: "liver"}
            ),
            r"2 pixels .* \(2, 3\) by 1 \(liver\) and 7\. Erase",
        ),
        (lambda: LabelScribbles.from_masks({}), "no mask"),
        (lambda: LabelScribbles.from_masks({1: a_stroke(), 2: np.zeros((2, 2), bool)}), "shape"),
        (lambda: LabelScribbles.from_masks({1: a_stroke()}, shape=(3, 3)), "shape"),
        (lambda: LabelScribbles.from_masks({-1: a_stroke((0, 0))}), "Label -1"),
        *((lambda i=i: BARE.with_point(i, 1), "outside") for i in ((6, 0), (0, -1))),
        *((lambda i=i: BARE.with_point(i, 1), "2 whole numbers") for i in ((1, 2, 3), (1.5, 2))),
        *((lambda r=r: BARE.with_point((1, 2), 1, r), "radius") for r in (-1, np.nan, np.inf)),
        (lambda: BARE.without(np.ones((2, 2), bool)), "shape"),
        (box(start=(3, 3), stop=(3, 5)), "empty"),
        (box(start=(0, 0), stop=(7, 5)), "outside"),
        (box(start=(0, 0), stop=(1, 1, 1)), "2 whole numbers"),
        *((box(core=core), "core") for core in (0.0, 1.5)),
        (box(gap=-1), "gap"),
        (box(outside=-1), "Label -1"),
        (box(outside=np.zeros((2, 2), int)), "shape"),
        (box(outside=np.full(SHAPE, -1)), "expected 0 to"),
    ],
)
def test_marks_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(PromptError, match=words):
        change()


def test_a_point_in_a_spacing_of_zero_is_refused():
    with pytest.raises(GeometryError):
        BARE.with_point((0, 0), 1, 1.0, spacing_mm=(0, 1))
