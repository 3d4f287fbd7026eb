from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.refinement.adapters.base import ImageGrid, scaling, transfer_scribbles


def to_grid(scribbles: LabelScribbles, shape: tuple[int, ...]) -> LabelScribbles:
    """Transfer between grids that have the same outer borders."""
    scales = np.array(shape) / np.array(scribbles.shape)
    return transfer_scribbles(scribbles, scaling(scales, (scales - 1) / 2), shape)


@st.composite
def marked_images(draw: st.DrawFn) -> LabelScribbles:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return LabelScribbles.from_labels(rng.integers(-1, 4, shape))


@settings(deadline=None, max_examples=80)
@given(marked_images())
def test_on_the_same_grid_nothing_changes(scribbles: LabelScribbles) -> None:
    assert to_grid(scribbles, scribbles.shape).equals(scribbles)


@settings(deadline=None, max_examples=80)
@given(marked_images(), st.data())
def test_on_any_grid_the_cell_of_a_marked_pixel_is_marked(scribbles: LabelScribbles, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 20)) for _ in scribbles.shape)
    found = to_grid(scribbles, shape)
    pixels = np.argwhere(scribbles.marked)
    cells = np.minimum(((pixels + 0.5) * np.array(shape) / np.array(scribbles.shape) + 1e-6).astype(int), shape)
    assert (found.labels[tuple(np.minimum(cells, np.array(shape) - 1).T)] != UNMARKED).all()


@settings(deadline=None, max_examples=80)
@given(marked_images(), st.integers(1, 4), st.integers(1, 3))
def test_on_a_grid_finer_by_a_whole_number_pixels_become_blocks(
    scribbles: LabelScribbles, first: int, second: int
) -> None:
    factors = (first, second, 2)[: scribbles.ndim]
    found = to_grid(scribbles, tuple(np.multiply(scribbles.shape, factors)))
    assert np.array_equal(found.labels, np.kron(scribbles.labels, np.ones(factors, np.int16)))


@settings(deadline=None, max_examples=50)
@given(marked_images(), st.data())
def test_turned_and_flipped_axes_turn_the_marks(scribbles: LabelScribbles, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(scribbles.ndim)))
    flipped = [data.draw(st.booleans()) for _ in order]
    expected = scribbles.labels.transpose(order)
    matrix = np.zeros((scribbles.ndim + 1,) * 2)
    matrix[-1, -1] = 1
    for new, (old, flip) in enumerate(zip(order, flipped, strict=True)):
        matrix[new, old] = -1 if flip else 1
        matrix[new, -1] = scribbles.shape[old] - 1 if flip else 0
    expected = np.flip(expected, [axis for axis, flip in enumerate(flipped) if flip])
    assert np.array_equal(transfer_scribbles(scribbles, matrix, expected.shape).labels, expected)


def test_the_label_of_most_pixels_wins_a_cell() -> None:
    labels = np.full((4, 4), UNMARKED)
    labels[0:2, 0:2] = [[1, 1], [1, 2]]
    labels[2, 2] = 2  # one stroke with the other 2, so that it has a cell of its own
    assert np.array_equal(to_grid(LabelScribbles.from_labels(labels), (2, 2)).labels, [[1, -1], [-1, 2]])


def test_between_equally_many_pixels_the_label_with_fewer_marks_wins() -> None:
    labels = np.full((4, 4), UNMARKED)
    labels[0:2, 0:2] = [[1, 2], [1, 2]]
    labels[2:, :] = 1
    assert to_grid(LabelScribbles.from_labels(labels), (2, 2)).labels[0, 0] == 2


def test_a_thin_stroke_within_a_broad_one_does_not_vanish() -> None:
    labels = np.zeros((12, 12), int)
    labels[4, :] = 3  # one row of three in each row of cells
    found = to_grid(LabelScribbles.from_labels(labels), (4, 4))
    assert found.values() == (0, 3)
    assert found.mask(3).sum() == 1


def test_of_two_strokes_that_need_one_cell_the_smaller_gets_it() -> None:
    labels = np.full((6, 6), UNMARKED)
    labels[0, :5], labels[1, 0] = 1, 2
    labels[2:6] = 0
    assert to_grid(LabelScribbles.from_labels(labels), (1, 1)).values() == (2,)


@pytest.mark.parametrize(
    ("position", "slack", "cell"),
    [
        (-0.9, 0.0, None),
        (-0.9, 0.5, 0),
        (-1.1, 0.5, None),
        (-0.4, 0.0, 0),
        (3.4, 0.0, 3),
        (3.9, 0.0, None),
        (3.9, 0.5, 3),
    ],
)
def test_pixels_outside_of_the_grid_are_left_out_but_for_a_slack(
    position: float, slack: float, cell: int | None
) -> None:
    one = LabelScribbles.from_labels([[7]])
    found = transfer_scribbles(one, scaling([1, 1], [0, position]), (1, 4), slack=slack)
    assert np.flatnonzero(found.marked).tolist() == ([] if cell is None else [cell])


def test_without_marks_there_are_none() -> None:
    assert to_grid(LabelScribbles.empty((3, 4)), (7, 7)).is_empty


def test_marks_lie_where_an_image_grid_puts_the_image() -> None:
    image = np.zeros((24, 33), np.float32)
    image[5:12, 9:21] = 1
    grid = ImageGrid.lay_out(image.shape, (1.0, 0.7), (0.6, 1.3))
    found = transfer_scribbles(LabelScribbles.empty(image.shape).with_scribble(image, 1), grid.matrix, grid.shape)
    seen = grid.image_to_grid(image)
    assert found.mask(1)[seen > 0.75].all()
    assert not found.mask(1)[seen < 0.01].any()
