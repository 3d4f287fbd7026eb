from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment import PromptError, Volume
from scribblesegment.commands.labelled_prompts import LabelBox, LabelClick, LabelledPrompts, SliceChoice, Strokes

SHAPE = (4, 5, 6)


def strokes(marks: dict[tuple[int, int, int], int], shape: tuple[int, int, int] = SHAPE) -> Strokes:
    labels = np.zeros(shape, np.uint8)
    for index, label in marks.items():
        labels[index] = label
    return Strokes.of(Volume(labels, np.eye(4)))


NOTHING = strokes({})


@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(0, 3)),
    data=st.data(),
)
def test_strokes_give_every_slice_and_voxel_back(labels, data):
    painted = Strokes.of(Volume(labels, np.eye(4)))
    axis = data.draw(st.integers(0, 2))
    index = data.draw(st.integers(0, labels.shape[axis] - 1))
    assert np.array_equal(painted.plane(axis, index), np.moveaxis(labels, axis, 0)[index])
    assert np.array_equal(painted.along(axis), np.nonzero(labels)[axis])
    voxel = tuple(data.draw(st.integers(0, side - 1)) for side in labels.shape)
    assert painted.label_at(voxel) == labels[voxel]


def test_strokes_of_a_label_are_negative_for_the_others():
    prompts = LabelledPrompts(strokes({(1, 2, 3): 1, (1, 2, 4): 2, (1, 0, 0): 9}), background=9).in_slice(0, 1)
    assert prompts.labels == (1, 2)
    positive, negative = prompts.prompts(2).scribbles
    assert np.argwhere(positive).tolist() == [[2, 4]]
    assert np.argwhere(negative).tolist() == [[0, 0], [2, 3]]


def test_clicks_mean_what_their_sign_and_label_say():
    clicks = [
        LabelClick((1, 0, 0), True, 1),
        LabelClick((1, 0, 1), True, 2),
        LabelClick((1, 0, 2), False, 2),
        LabelClick((1, 0, 3), False),
        LabelClick((2, 0, 4), True, 1),
    ]
    piece = LabelledPrompts(NOTHING, clicks).in_slice(0, 1)
    assert piece.labels == (1, 2)

    def said(label: int) -> dict[tuple[int, ...], int]:
        prompts = piece.prompts(label)
        return dict(zip(map(tuple, prompts.point_coords.tolist()), prompts.point_labels.tolist(), strict=True))

    assert said(1) == {(0, 0): 1, (0, 1): 0, (0, 3): 0}
    assert said(2) == {(0, 0): 0, (0, 1): 1, (0, 2): 0, (0, 3): 0}


def test_a_box_reaches_into_every_slice_it_spans():
    prompts = LabelledPrompts(NOTHING, boxes=[LabelBox((1, 0, 2), (3, 4, 5), 2)])
    assert prompts.find_slices() == (0, [1, 2])
    assert prompts.in_slice(0, 2).prompts(2).boxes.tolist() == [[[0, 2], [4, 5]]]
    assert prompts.in_slice(1, 3).prompts(2).boxes.tolist() == [[[1, 2], [3, 5]]]
    assert prompts.in_slice(0, 3).labels == ()


def test_an_image_of_one_slice_takes_two_indices():
    flat = strokes({}, (1, 5, 6))
    prompts = LabelledPrompts(flat, [LabelClick((4, 5), True)], [LabelBox((0, 0), (5, 6))]).in_slice(0, 0).prompts(1)
    assert prompts.point_coords.tolist() == [[4, 5]]
    assert prompts.boxes.tolist() == [[[0, 0], [5, 6]]]


@pytest.mark.parametrize(
    ("painted", "expected"),
    [
        ({}, 1),
        ({(0, 0, 0): 7}, 7),
    ],
)
def test_a_click_without_a_number_means_the_only_label(painted, expected):
    prompts = LabelledPrompts(strokes(painted), [LabelClick((1, 1, 1), True)])
    assert prompts.labels == (expected,)


@pytest.mark.parametrize("painted", [{}, {(0, 0, 0): 1}, {(0, 0, 0): 1, (0, 0, 1): 2}])
def test_a_click_that_could_mean_several_labels_is_refused(painted):
    with pytest.raises(PromptError, match="does not say which"):
        LabelledPrompts(strokes(painted), [LabelClick((1, 1, 1), True), LabelClick((1, 1, 2), True, 2)])


@pytest.mark.parametrize(
    ("painted", "background", "clicks"),
    [
        ({(1, 2, 3): 1}, None, [LabelClick((1, 2, 3), True, 2)]),
        ({(1, 2, 3): 1}, None, [LabelClick((1, 2, 3), False, 1)]),
        ({(1, 2, 3): 1}, None, [LabelClick((1, 2, 3), False)]),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, [LabelClick((1, 2, 3), True, 1)]),
        ({}, None, [LabelClick((1, 2, 3), True, 1), LabelClick((1, 2, 3), True, 2)]),
        ({}, None, [LabelClick((1, 2, 3), True, 1), LabelClick((1, 2, 3), False, 1)]),
        ({}, None, [LabelClick((1, 2, 3), False), LabelClick((1, 2, 3), True, 1)]),
    ],
)
def test_two_labels_on_one_pixel_are_refused_by_name(painted, background, clicks):
    with pytest.raises(PromptError, match=r"Two labels on one pixel: 1,2,3 has a .* and a click [+-]"):
        LabelledPrompts(strokes(painted), clicks, background=background)


@pytest.mark.parametrize(
    ("painted", "background", "clicks"),
    [
        ({(1, 2, 3): 1}, None, [LabelClick((1, 2, 3), True, 1)]),
        ({(1, 2, 3): 1, (0, 0, 0): 2}, None, [LabelClick((1, 2, 3), False, 2)]),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, [LabelClick((1, 2, 3), False)]),
        ({}, None, [LabelClick((1, 2, 3), True, 1), LabelClick((1, 2, 3), False, 2), LabelClick((0, 0, 0), True, 2)]),
    ],
)
def test_prompts_that_agree_may_share_a_pixel(painted, background, clicks):
    LabelledPrompts(strokes(painted), clicks, background=background)


@pytest.mark.parametrize(
    ("clicks", "boxes", "match"),
    [
        ([LabelClick((4, 0, 0), True)], [], r"Click 4,0,0 is outside the image of shape \(4, 5, 6\)"),
        ([LabelClick((0, -1, 0), True)], [], "outside"),
        ([LabelClick((0, 0), True)], [], "has 2 indices"),
        ([], [LabelBox((0, 0, 0), (1, 6, 6))], "Box stop 1,6,6 is outside"),
        ([], [LabelBox((0, 3, 0), (1, 3, 6))], "reversed or empty"),
        ([LabelClick((0, 0, 0), False)], [], "All prompts are negative"),
        (
            [LabelClick((0, 0, 0), True), LabelClick((0, 0, 1), False, 1), LabelClick((0, 0, 2), False, 3)],
            [],
            "Put the",
        ),
        ([LabelClick((0, 0, 0), True, 1), LabelClick((0, 0, 2), False, 3)], [], "Label 3 has negative clicks only"),
        ([], [], "no stroke, click or box"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(clicks, boxes, match):
    with pytest.raises(PromptError, match=match):
        LabelledPrompts(NOTHING, clicks, boxes)


def test_strokes_of_background_only_are_refused():
    with pytest.raises(PromptError, match="All prompts are negative"):
        LabelledPrompts(strokes({(0, 0, 0): 3}), background=3)


def test_a_background_label_without_strokes_is_refused():
    with pytest.raises(PromptError, match=r"No stroke has the background label 4; there are \[3\]"):
        LabelledPrompts(strokes({(0, 0, 0): 3}), background=4)


def test_a_background_label_with_a_positive_click_is_refused():
    with pytest.raises(PromptError, match="Label 3 is the background"):
        LabelledPrompts(strokes({(0, 0, 0): 3}), [LabelClick((1, 1, 1), True, 3)], background=3)


@pytest.mark.parametrize("make", [lambda: LabelClick((0, 0), True, 0), lambda: LabelBox((0, 0), (1, 1), -1)])
def test_labels_start_at_one(make):
    with pytest.raises(PromptError, match="Number labels from 1"):
        make()


@pytest.mark.parametrize(
    ("painted", "choice", "expected"),
    [
        ({(1, 0, 0): 1, (1, 4, 5): 1}, None, (0, [1])),
        ({(1, 0, 0): 1, (3, 4, 5): 1}, None, (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, None, (1, [2])),
        ({(1, 0, 4): 1, (3, 2, 4): 1}, None, (2, [4])),
        ({(1, 2, 3): 1}, None, (0, [1])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, SliceChoice(0), (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, SliceChoice(2, 5), (2, [5])),
        ({(1, 2, 0): 1, (2, 0, 0): 9, (3, 2, 5): 1}, None, (0, [1, 3])),
    ],
)
def test_slices_are_found_from_the_strokes(painted, choice, expected):
    background = 9 if 9 in painted.values() else None
    assert LabelledPrompts(strokes(painted), background=background).find_slices(choice) == expected


def test_slices_that_are_not_used_are_told():
    prompts = LabelledPrompts(strokes({(0, 0, 0): 1, (2, 0, 0): 9, (3, 1, 0): 1}), background=9)
    assert prompts.unused_slices(0, [0]) == [2, 3]


def test_prompts_on_a_line_leave_the_axis_open():
    with pytest.raises(PromptError, match="--slice j:2 or --slice i:3"):
        LabelledPrompts(strokes({(0, 2, 3): 1, (1, 2, 3): 1})).find_slices()


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        (SliceChoice(0, 4), "Slice k:4 is outside .* from 0 to 3"),
        (SliceChoice(0, 0), "Nothing points at an object in slice k:0; .* are in k:1, k:2"),
        (SliceChoice(0, 3), "Nothing points"),
    ],
)
def test_a_slice_that_cannot_be_segmented_is_refused(choice, match):
    prompts = LabelledPrompts(strokes({(1, 0, 0): 1, (2, 4, 4): 1, (3, 0, 0): 9}), background=9)
    with pytest.raises(PromptError, match=match):
        prompts.find_slices(choice)


@pytest.mark.parametrize(
    ("clicks", "boxes", "match"),
    [
        ([LabelClick((2, 0, 0), False)], [], "Click 2,0,0 does not lie in the chosen slice k:1"),
        ([], [LabelBox((2, 0, 0), (4, 2, 2), 1)], "Box from 2,0,0 to 4,2,2 does not lie"),
    ],
)
def test_a_click_or_box_beside_the_chosen_slice_is_refused(clicks, boxes, match):
    prompts = LabelledPrompts(strokes({(1, 0, 0): 1}), clicks, boxes)
    with pytest.raises(PromptError, match=match):
        prompts.find_slices(SliceChoice(0, 1))
