"""From the image to a network's grid and back: intensities, logits and scribbles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.errors import GeometryError, NetworkError, PromptError
from scribblesegment.refinement.adapters.base import (
    ImageGrid,
    PreparedImage,
    copies_of_image,
    outside_logits,
    require_slices,
    resample_scribbles,
    scaling,
)
from scribblesegment.refinement.tiling import Tiling

SIDES = st.lists(st.integers(2, 12), min_size=2, max_size=3)


@settings(max_examples=60)
@given(SIDES, st.data())
def test_a_grid_covers_the_image_with_cells_of_nearly_the_wanted_size_and_keeps_constants(shape, data):
    spacing = [data.draw(st.floats(0.3, 4)) for _ in shape]
    wanted = [data.draw(st.none() | st.floats(0.3, 4)) for _ in shape]
    grid = ImageGrid.lay_out(shape, spacing, wanted)
    for side, mm, cells, want in zip(shape, spacing, grid.shape, wanted, strict=True):
        assert cells == (side if want is None else max(1, round(side * mm / want)))
    for border in (np.full(len(shape), -0.5), np.array(shape) - 0.5):
        mapped = grid.matrix @ [*border, 1]
        np.testing.assert_allclose(mapped[:-1], np.where(border < 0, -0.5, np.array(grid.shape) - 0.5))
    on_grid = grid.image_to_grid(np.full(shape, 3.0, np.float32))
    np.testing.assert_allclose(on_grid, np.full(grid.shape, 3.0), rtol=1e-5)
    back = grid.logits_from_grid(np.stack([on_grid, -on_grid]))
    np.testing.assert_allclose(back, np.stack([np.full(shape, 3.0), np.full(shape, -3.0)]), rtol=1e-5)


def test_a_ramp_keeps_its_place_both_ways_and_marks_lie_where_the_image_does():
    rows, columns = np.meshgrid(np.arange(20.0), np.arange(30.0), indexing="ij")
    ramp = (rows + 2 * columns).astype(np.float32)
    grid = ImageGrid.lay_out(ramp.shape, (1.0, 1.0), (2.5, 0.5))
    back = grid.logits_from_grid(grid.image_to_grid(ramp)[None])[0]
    np.testing.assert_allclose(back[4:-4, 4:-4], ramp[4:-4, 4:-4], atol=0.01)
    same = ImageGrid.lay_out(ramp.shape, (1.0, 2.0), (None, None))
    assert np.array_equal(same.image_to_grid(ramp), ramp)
    image = np.zeros((24, 33), np.float32)
    image[5:12, 9:21] = 1
    grid = ImageGrid.lay_out(image.shape, (1.0, 0.7), (0.6, 1.3))
    marks = LabelScribbles.empty(image.shape).with_scribble(image, 1)
    found = resample_scribbles(marks, grid.matrix, grid.shape).mask(1)
    seen = grid.image_to_grid(image)
    assert found[seen > 0.75].all()
    assert not found[seen < 0.01].any()


def to_grid(scribbles: LabelScribbles, shape: tuple[int, ...]) -> LabelScribbles:
    """Between grids that have the same outer borders."""
    scales = np.array(shape) / np.array(scribbles.shape)
    return resample_scribbles(scribbles, scaling(scales, (scales - 1) / 2), shape)


@st.composite
def marked_images(draw: st.DrawFn) -> LabelScribbles:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return LabelScribbles.from_labels(rng.integers(-1, 4, shape))


@settings(max_examples=80)
@given(marked_images(), st.data())
def test_on_any_grid_the_cell_of_a_marked_pixel_is_marked_and_on_the_same_nothing_changes(scribbles, data):
    assert to_grid(scribbles, scribbles.shape).equals(scribbles)
    shape = tuple(data.draw(st.integers(1, 20)) for _ in scribbles.shape)
    found = to_grid(scribbles, shape)
    pixels = np.argwhere(scribbles.marked)
    cells = ((pixels + 0.5) * np.array(shape) / np.array(scribbles.shape) + 1e-6).astype(int)
    assert (found.labels[tuple(np.minimum(cells, np.array(shape) - 1).T)] != UNMARKED).all()


@settings(max_examples=80)
@given(marked_images(), st.data())
def test_pixels_become_blocks_on_finer_grids_and_turn_with_the_axes(scribbles, data):
    factors = [data.draw(st.integers(1, 3)) for _ in scribbles.shape]
    order = data.draw(st.permutations(range(scribbles.ndim)))
    flipped = [data.draw(st.booleans()) for _ in order]
    matrix = np.zeros((scribbles.ndim + 1,) * 2)
    matrix[-1, -1] = 1
    for new, (old, flip) in enumerate(zip(order, flipped, strict=True)):
        scale, side = factors[old], scribbles.shape[old]
        matrix[new, old] = -scale if flip else scale
        matrix[new, -1] = (scale - 1) / 2 + (scale * (side - 1) if flip else 0)
    expected = np.kron(scribbles.labels, np.ones(factors, np.int16)).transpose(order)
    expected = np.flip(expected, [axis for axis, flip in enumerate(flipped) if flip])
    assert np.array_equal(resample_scribbles(scribbles, matrix, expected.shape).labels, expected)


def test_a_cell_has_the_label_of_its_majority_then_the_rarer_one_and_no_stroke_vanishes():
    labels = np.full((4, 4), UNMARKED)
    labels[0:2, 0:2] = [[1, 1], [1, 2]]
    labels[2, 2] = 2  # one stroke with the other 2, so that it has a cell of its own
    assert np.array_equal(to_grid(LabelScribbles.from_labels(labels), (2, 2)).labels, [[1, -1], [-1, 2]])
    tied = np.full((4, 4), UNMARKED)
    tied[0:2, 0:2] = [[1, 2], [1, 2]]
    tied[2:, :] = 1
    assert to_grid(LabelScribbles.from_labels(tied), (2, 2)).labels[0, 0] == 2
    thin = np.zeros((12, 12), int)
    thin[4, :] = 3  # one row of three in each row of cells
    assert to_grid(LabelScribbles.from_labels(thin), (4, 4)).mask(3).sum() == 1
    rivals = np.full((6, 6), UNMARKED)
    rivals[0, :5], rivals[1, 0], rivals[2:6] = 1, 2, 0  # both need the one cell: the smaller gets it
    assert to_grid(LabelScribbles.from_labels(rivals), (1, 1)).values() == (2,)
    assert to_grid(LabelScribbles.empty((3, 4)), (7, 7)).is_empty


@pytest.mark.parametrize(
    ("position", "slack", "cell"),
    [(-0.9, 0, None), (-0.9, 0.5, 0), (-1.1, 0.5, None), (-0.4, 0, 0), (3.4, 0, 3), (3.9, 0, None), (3.9, 0.5, 3)],
)
def test_pixels_outside_of_the_grid_are_left_out_but_for_a_slack(position, slack, cell):
    one = LabelScribbles.from_labels([[7]])
    found = resample_scribbles(one, scaling([1, 1], [0, position]), (1, 4), slack=slack)
    assert np.flatnonzero(found.marked).tolist() == ([] if cell is None else [cell])


def test_a_prepared_image_takes_corrections_and_gives_logits_of_its_shapes_only():
    matrix = scaling([0.5, 0.5], [-0.25, -0.25])
    halved = PreparedImage(
        torch.zeros(1, 4, 6), Tiling.whole((4, 6)), (8, 12), matrix, lambda logits: logits.repeat(2, 1).repeat(2, 2)
    )
    marks = LabelScribbles.empty((8, 12)).with_point((7, 2), 3)
    assert np.argwhere(halved.to_grid(marks).mask(3)).tolist() == [[3, 1]]
    logits = np.random.default_rng(0).random((5, 4, 6))
    found = halved.to_image(logits)
    assert (found.shape, found.dtype) == ((5, 8, 12), np.float32)
    assert np.array_equal(halved.to_labels(logits), found.argmax(0))
    with pytest.raises(PromptError, match=r"shape \(4, 6\)"):
        halved.to_grid(LabelScribbles.empty((4, 6)))
    with pytest.raises(GeometryError, match="the grid"):
        halved.to_image(np.zeros((2, 8, 12)))


def test_slices_channels_and_what_lies_outside_are_checked():
    require_slices(3, None, "net")
    require_slices(2, 4, "net")
    with pytest.raises(NetworkError, match="net sees volumes"):
        require_slices(3, 4, "net")
    assert (copies_of_image(1, 3, "net"), copies_of_image(3, 2, "net")) == (1, 3)
    for channels, ndim in ((2, 2), (3, 3), (4, 3)):
        with pytest.raises(NetworkError, match=f"takes {channels} channels"):
            copies_of_image(channels, ndim, "net")
    assert (torch.from_numpy(outside_logits((3, 2, 2))).softmax(dim=0)[0] > 0.999).all()
