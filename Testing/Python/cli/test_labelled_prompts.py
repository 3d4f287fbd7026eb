from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment import PromptError, Volume
from scribblesegment.cli.labelled_prompts import LabelledPrompts, Strokes, read_box, read_click

SHAPE = (4, 5, 6)


def strokes(marks: dict[tuple[int, int, int], int], shape: tuple[int, int, int] = SHAPE) -> Strokes:
    labels = np.zeros(shape, np.uint8)
    for index, label in marks.items():
        labels[index] = label
    return Strokes.of(Volume(labels, np.eye(4)))


NOTHING = strokes({})


def clicks(*texts):
    return [read_click(text) for text in texts]


@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(0, 3)),
    data=st.data(),
)
def test_strokes_give_every_slice_back(labels, data):
    painted = Strokes.of(Volume(labels, np.eye(4)))
    axis = data.draw(st.integers(0, 2))
    index = data.draw(st.integers(0, labels.shape[axis] - 1))
    assert np.array_equal(painted.plane(axis, index), np.moveaxis(labels, axis, 0)[index])
    assert np.array_equal(labels[tuple(painted.voxels.T)], painted.labels)
    assert len(painted.labels) == np.count_nonzero(labels)


def test_clicks_mean_what_their_sign_and_label_say():
    given = clicks("1,0,0,+1", "1,0,1,+2", "1,0,2,-2", "1,0,3,-", "2,0,4,+1")
    piece = LabelledPrompts(NOTHING, given).in_slice(0, 1)
    assert piece.labels == (1, 2)
    assert LabelledPrompts(strokes({(0, 0, 0): 7}), clicks("0,1,1,+")).in_slice(0, 0).labels == (7,)  # the only one

    def said(label: int) -> dict[tuple[int, ...], int]:
        prompts = piece.prompts(label)
        return dict(zip(map(tuple, prompts.point_coords.tolist()), prompts.point_labels.tolist(), strict=True))

    assert said(1) == {(0, 0): 1, (0, 1): 0, (0, 3): 0}
    assert said(2) == {(0, 0): 0, (0, 1): 1, (0, 2): 0, (0, 3): 0}


def test_a_box_reaches_into_every_slice_it_spans():
    prompts = LabelledPrompts(NOTHING, [read_box("1,0,2,3,4,5,+2")])
    assert prompts.find_slices() == (0, [1, 2])
    assert prompts.in_slice(0, 2).prompts(2).boxes.tolist() == [[[0, 2], [4, 5]]]
    assert prompts.in_slice(1, 3).prompts(2).boxes.tolist() == [[[1, 2], [3, 5]]]
    assert prompts.in_slice(0, 3).labels == ()


def test_an_image_of_one_slice_takes_two_indices():
    marks = [read_click("4,5,+"), read_box("0,0,5,6")]
    prompts = LabelledPrompts(Strokes((1, 5, 6)), marks).in_slice(0, 0).prompts(1)
    assert prompts.point_coords.tolist() == [[4, 5]]
    assert prompts.boxes.tolist() == [[[0, 0], [5, 6]]]


@pytest.mark.parametrize(
    ("painted", "background", "given", "said"),
    [
        ({(1, 2, 3): 1}, None, ["1,2,3,+2"], r"a stroke of label 1 and a click \+2"),
        ({(1, 2, 3): 1}, None, ["1,2,3,-1"], "a stroke of label 1 and a click -1"),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, ["1,2,3,+1"], r"a stroke of label 9 and a click \+1"),
        ({}, None, ["1,2,3,+1", "1,2,3,+2"], r"a click \+1 and a click \+2"),
        ({}, None, ["1,2,3,+1", "1,2,3,-1"], r"a click \+1 and a click -1"),
        ({}, None, ["1,2,3,-", "1,2,3,+1"], r"a click - and a click \+1"),
        ({(1, 2, 3): 1}, None, ["1,2,3,+1"], None),
        ({(1, 2, 3): 1, (0, 0, 0): 2}, None, ["1,2,3,-2"], None),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, ["1,2,3,-"], None),
        ({}, None, ["1,2,3,+1", "1,2,3,-2", "0,0,0,+2"], None),
    ],
)
def test_only_prompts_that_agree_may_share_a_pixel(painted, background, given, said):
    if said is None:
        LabelledPrompts(strokes(painted), clicks(*given), background)
        return
    with pytest.raises(PromptError, match=rf"Two labels on one pixel: 1,2,3 has .*{said}\."):
        LabelledPrompts(strokes(painted), clicks(*given), background)


@pytest.mark.parametrize(
    ("painted", "background", "marks", "match"),
    [
        ({}, None, clicks("4,0,0,+"), r"Click 4,0,0 is outside the image of shape \(4, 5, 6\)"),
        ({}, None, clicks("0,0,+"), "Click 0,0 has 2 indices"),
        ({}, None, [read_box("0,0,0,1,6,6")], "Box from 0,0,0 to 1,6,6 is outside .*; the stop is excluded"),
        ({}, None, [read_box("0,3,0,1,3,6")], "reversed or empty"),
        ({}, None, clicks("0,0,0,-"), "All prompts are negative"),
        ({}, None, clicks("0,0,0,+", "0,0,1,-1", "0,0,2,-3"), r"click 0,0,0 does not say .*, as in \+3"),
        ({(0, 0, 0): 1, (0, 0, 1): 2}, None, [read_box("1,1,1,2,2,2")], "box from 1,1,1 to 2,2,2 does not say which"),
        ({}, None, clicks("0,0,0,+1", "0,0,2,-3"), "Label 3 has negative clicks only"),
        ({}, None, [], "no stroke, click or box"),
        ({(0, 0, 0): 3}, 3, [], "All prompts are negative"),
        ({(0, 0, 0): 3}, 4, [], r"No stroke has the background label 4; there are \[3\]"),
        ({(0, 0, 0): 3}, 3, clicks("1,1,1,+3"), "Label 3 is the background"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(painted, background, marks, match):
    with pytest.raises(PromptError, match=match):
        LabelledPrompts(strokes(painted), marks, background)


@pytest.mark.parametrize(
    ("painted", "choice", "expected"),
    [
        ({(1, 0, 0): 1, (1, 4, 5): 1}, None, (0, [1])),
        ({(1, 0, 0): 1, (3, 4, 5): 1}, None, (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, None, (1, [2])),
        ({(1, 0, 4): 1, (3, 2, 4): 1}, None, (2, [4])),
        ({(1, 2, 3): 1}, None, (0, [1])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, (0, None), (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, (2, 5), (2, [5])),
        ({(1, 2, 0): 1, (2, 0, 0): 9, (3, 2, 5): 1}, None, (0, [1, 3])),
    ],
)
def test_slices_are_found_from_the_strokes(painted, choice, expected):
    background = 9 if 9 in painted.values() else None
    prompts = LabelledPrompts(strokes(painted), background=background)
    assert prompts.find_slices(choice) == expected
    axis, indices = expected
    assert prompts.unused_slices(axis, indices) == sorted({index[axis] for index in painted} - set(indices))


@pytest.mark.parametrize(
    ("painted", "marks", "choice", "match"),
    [
        ({(0, 2, 3): 1, (1, 2, 3): 1}, [], None, "on the line j = 2, i = 3.*--slice j:2 or --slice i:3"),
        ({(1, 0, 0): 1, (2, 4, 4): 1}, [], (0, 4), "Slice k:4 is outside .* from 0 to 3"),
        ({(1, 0, 0): 1, (2, 4, 4): 1}, [], (0, 0), "Nothing points at an object in slice k:0; .* are in k:1, k:2"),
        ({(1, 0, 0): 1, (3, 0, 0): 9}, [], (0, 3), "Nothing points"),
        ({(1, 0, 0): 1}, clicks("2,0,0,-"), (0, 1), "Click 2,0,0 does not lie in the chosen slice k:1"),
        ({(1, 0, 0): 1}, [read_box("2,0,0,4,2,2,+1")], (0, 1), "Box from 2,0,0 to 4,2,2 does not lie"),
    ],
)
def test_a_slice_that_cannot_be_meant_is_refused(painted, marks, choice, match):
    prompts = LabelledPrompts(strokes(painted), marks, 9 if 9 in painted.values() else None)
    with pytest.raises(PromptError, match=match):
        prompts.find_slices(choice)
