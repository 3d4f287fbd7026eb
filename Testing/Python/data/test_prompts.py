"""Prompts and their builder: checked at the door, trusted inside, and the newest wins at every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.prompts import PromptBuilder, Prompts
from scribblesegment.errors import PromptError

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


@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (3, 4, 5)])
def test_empty_prompts_say_nothing_about_an_image_of_their_shape(shape):
    prompts = Prompts.empty(shape)
    assert (prompts.shape, prompts.ndim, prompts.is_empty, prompts.has_positive) == (shape, len(shape), True, False)
    assert (prompts.scribbles.dtype, prompts.boxes.shape) == (np.float32, (0, 2, len(shape)))


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


def test_trusted_arrays_are_taken_over_and_not_looked_at():
    scribbles = np.full((2, *SHAPE), np.nan, np.float32)
    prompts = Prompts.trusted(scribbles, EMPTY.point_coords, EMPTY.point_labels, EMPTY.boxes)
    assert prompts.scribbles is scribbles
    assert not scribbles.flags.writeable
    logits = np.ones(SHAPE, np.float32)
    assert prompts.replaced(mask_input=logits).mask_input is logits
    assert prompts.mask_input is None


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
        (lambda: EMPTY.with_box((-1, 0), (2, 2)), "outside the image"),
        (lambda: EMPTY.with_box((0, 0), (6, 9)), "outside the image"),
        (lambda: EMPTY.with_box((0, 0, 0), (1, 1, 1)), "2 indices"),
        (lambda: EMPTY.with_box((0, 0), (1, 1, 1)), "2 indices"),
        (lambda: EMPTY.with_mask_input(np.ones((8, 6))), "mask_input has shape"),
        *((lambda v=v: Prompts.from_labelmap(np.array([[1, 4, 0]]), v), r"\[1, 4\]") for v in (0, 3, -1)),
        (lambda: Prompts.from_labelmap(np.zeros(SHAPE, np.uint8), 1), "it is empty"),
        (lambda: Prompts.from_labelmap(np.ones(SHAPE), 1), "Pass integers"),
        *((lambda s=s: Prompts.from_labelmap(np.ones(s, int), 1), "labelmap") for s in ((5,), (2, 2, 2, 2), (0, 3))),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(PromptError, match=words):
        change()
