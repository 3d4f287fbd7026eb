"""What a network returns, the windows and the grid it sees an image through, and labels that are added to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refinable_networks import Returning, blended, small_unet
from torch import nn

from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.errors import ConfigError, GeometryError, NetworkError, PromptError
from scribblesegment.refinement.adapters.base import (
    ImageGrid,
    PreparedImage,
    resample_scribbles,
    scaling,
)
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.new_labels import require_labels, with_new_labels
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
LOGITS = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(2))
SIDES = st.lists(st.integers(1, 12), min_size=2, max_size=3)


# Outputs -------------------------------------------------------------------------------------------------------------


def test_the_first_of_several_outputs_is_taken_unless_another_is_picked():
    first, second = torch.zeros(1, 2, 4, 5), torch.ones(1, 2, 2, 3)
    assert Output().tensor(first) is Output().tensor([first, second]) is Output().tensor({"a": first, "b": second})
    assert first is Output(pick=0).tensor((first, second))
    assert Output(pick=1).tensor((first, second)) is Output(pick="b").tensor({"a": first, "b": second}) is second


@pytest.mark.parametrize(
    ("returned", "pick", "message"),
    [
        ({"a": LOGITS}, "b", r"no output 'b'; it has 'a'"),
        ([LOGITS], 3, "no output 3; it has 0"),
        ({}, None, "it has none"),
        ([], None, "it has none"),
        ("logits", None, "str instead of a tensor"),
    ],
)
def test_an_output_that_is_not_there_is_named(returned, pick, message):
    with pytest.raises(NetworkError, match=message):
        Output(pick=pick).tensor(returned)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(1, 3, 4, 5, dtype=torch.int64), "int64 values, which have no gradient"),
        (torch.zeros(1, 3, 2, 5), "logits for every pixel"),
        (torch.zeros(1, 3), "logits for every pixel"),
        (torch.zeros(1, 4, 5), "logits for every pixel"),
        (torch.zeros(1, 0, 4, 5), "logits for every pixel"),
        (torch.full((1, 2, 4, 5), torch.nan), "NaN or infinite"),
    ],
)
def test_outputs_that_cannot_be_refined_are_refused(values, message):
    with pytest.raises(NetworkError, match=message):
        Output().require_logits(values, torch.zeros(1, 1, 4, 5))
    Output().require_logits(LOGITS, torch.zeros(1, 1, 4, 5))
    with pytest.raises(ConfigError, match="softmax, sigmoid"):
        Output("tanh")


def test_what_was_left_open_is_decided_by_the_values():
    assert Output().resolved(LOGITS[:, :1]).activation == "sigmoid"
    # Values in [0, 1] that do not sum to 1 are logits of exclusive labels, or probabilities of single structures.
    for output, values, expected in (
        (Output(), LOGITS, False),
        (Output(), LOGITS.softmax(1), True),
        (Output(), LOGITS.sigmoid(), False),
        (Output("sigmoid"), LOGITS.sigmoid(), True),
        (Output(probabilities=False), LOGITS.softmax(1), False),
        (Output("sigmoid"), torch.zeros(1, 1, 4, 5), False),
    ):
        assert output.resolved(values).probabilities is expected


@pytest.mark.parametrize("probabilities", [False, True])
def test_class_logits_keep_the_distribution_of_the_output(probabilities):
    values = LOGITS.softmax(1) if probabilities else LOGITS
    torch.testing.assert_close(Output(probabilities=probabilities).class_logits(values).softmax(1), LOGITS.softmax(1))
    one = LOGITS[:, :1]
    read = Output("sigmoid", probabilities).class_logits(one.sigmoid() if probabilities else one)
    torch.testing.assert_close(read.softmax(1)[:, 1:], one.sigmoid())
    # Channels are structures, pixels lie side by side.
    channels = torch.tensor([[-1.0, 1.0, 4.0], [-2.0, 3.0, 1.0]]).reshape(1, 2, 1, 3)
    assert Output("sigmoid", False).class_logits(channels).argmax(1).flatten().tolist() == [0, 2, 1]
    assert torch.isfinite(Output("sigmoid", True).class_logits(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))).all()
    assert (Output().label_count(3), Output("sigmoid").label_count(3)) == (3, 4)


# Windows -------------------------------------------------------------------------------------------------------------


@given(shape=SIDES, data=st.data())
def test_patches_and_slices_cover_every_pixel_and_blend_to_the_image(shape, data):
    patch = data.draw(st.lists(st.integers(1, 12), min_size=len(shape), max_size=len(shape)))
    image, tiling = torch.rand(2, *shape), Tiling.patches(shape, patch, overlap=data.draw(st.sampled_from([0.0, 0.9])))
    assert tiling.network_patch == tuple(patch)
    torch.testing.assert_close(blended(tiling, image, lambda patch: patch), image)
    if len(shape) == 3:
        axis, size = data.draw(st.integers(0, 2)), data.draw(st.none() | st.just((4, 4)))
        tiling = Tiling.slices(shape, axis, patch_size=size)
        plane = size or tuple(np.delete(shape, axis).tolist())
        assert tiling.cut(tiling.padded(image), 0).shape == (1, 2, *plane)
        assert size or len(tiling.windows) == shape[axis]
        torch.testing.assert_close(blended(tiling, image, lambda patch: patch), image)


def test_overlap_padding_and_weights_are_those_of_nnunet():
    starts = [window[0].start for window in Tiling.patches((100, 10), (32, 10), overlap=0.5).windows]
    assert (starts[0], starts[-1]) == (0, 68)
    assert max(np.diff(starts)) <= 16
    assert Tiling.patches((3, 4), (6, 4)).padded(torch.ones(1, 3, 4))[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]
    weights = Tiling.patches((64, 64), (32, 32)).weights()
    assert weights[16, 16] == 1
    assert 0 < weights[0, 0] < weights[0, 16] < 1
    assert Tiling.patches((64, 64), (32, 32), gaussian=False).weights().unique().tolist() == [1]
    assert len(Tiling.whole((5, 7)).windows) == 1


@given(shape=SIDES, data=st.data())
def test_windows_that_see_a_pixel_are_found_with_its_place_in_them(shape, data):
    tiling = Tiling.patches(shape, [5] * len(shape))
    position = np.array([data.draw(st.integers(0, side - 1)) for side in shape])
    image = torch.zeros(1, *shape)
    image[(0, *position)] = 1
    padded = tiling.padded(image)
    seen = {number for number in range(len(tiling.windows)) if tiling.cut(padded, number).any()}
    found = {index: local[0] for index, rows, local in tiling.touched(position[None]) if rows.tolist() == [0]}
    assert found.keys() == seen
    assert seen
    assert all(tiling.cut(padded, index)[(0, 0, *local)] == 1 for index, local in found.items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Tiling.patches((8, 8), (4, 4), overlap=-0.1), ConfigError, "overlap"),
        (lambda: Tiling.patches((8, 8), (4, 4), overlap=1.0), ConfigError, "overlap"),
        (lambda: Tiling.patches((8, 8), (4, 4), overlap=float("nan")), ConfigError, "overlap"),
        (lambda: Tiling.whole((0, 4)), GeometryError, "each at least 1"),
        (lambda: Tiling.patches((8, 8, 8), (4, 4)), GeometryError, "another number of axes"),
        (lambda: Tiling.slices((8, 8), 0), GeometryError, "give a volume"),
        (lambda: Tiling.slices((8, 8, 8), 3), GeometryError, "axis 0, 1 or 2"),
        (lambda: Tiling.slices((8, 8, 8), 0, patch_size=(4, 4, 4)), GeometryError, r"give \(H, W\)"),
    ],
)
def test_impossible_windows_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# New labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_new_channel_is_highest_under_its_scribbles_and_not_elsewhere(kernel, bias, activation):
    torch.manual_seed(3)
    network = nn.Conv2d(4, 2, kernel, padding=kernel // 2, bias=bias)
    split = TracedNetwork(network, torch.rand(1, 4, 8, 8), Output(activation)).split(1)
    count = 2 if activation == "softmax" else 3
    labels = torch.cat([torch.full((20,), count), torch.zeros(20), -torch.ones(20)]).long()
    rows = torch.randn(60, 4)
    rows[:20, 1] += 6
    rows[:, 3] = 1  # without a bias, a constant feature can stand in for it
    raw = rows @ network.weight[:, :, kernel // 2, kernel // 2].T + (network.bias if bias else 0)
    output = Output(activation, False)
    weights = with_new_labels(split.head, split.pretrained, rows, raw.detach(), labels, output, count)
    assert weights["weight"].shape == (3, 4, kernel, kernel)
    assert torch.equal(weights["weight"][:2], split.pretrained["weight"])
    added = rows @ weights["weight"][2, :, kernel // 2, kernel // 2] + (weights["bias"][2] if bias else 0)
    others = raw.max(dim=1).values
    if activation == "sigmoid":
        others = others.clamp_min(0)
    assert (added[:20] > others[:20]).float().mean() > 0.9
    assert (added[20:] < others[20:]).float().mean() > 0.9


def test_networks_whose_output_cannot_get_a_channel_are_refused():
    groups = TracedNetwork(nn.Conv2d(4, 2, 1, groups=2), torch.rand(1, 4, 8, 8), Output()).split(1)
    samples = torch.zeros(1, 4), torch.zeros(1, 2), torch.tensor([2])
    with pytest.raises(NetworkError, match="groups"):
        with_new_labels(groups.head, groups.pretrained, *samples, Output(), 2)
    for change in (
        lambda logits: logits.reshape(1, 2, 16, 16) * torch.ones(1, 2, 1, 1),
        lambda logits: torch.stack([logits[:, 0], logits[:, 1]], dim=1),
    ):
        split = TracedNetwork(Returning(small_unet(2), change), IMAGE, Output()).split(1)
        enlarged = {name: torch.cat([value, value[:1]]) for name, value in split.pretrained.items()}
        with pytest.raises(NetworkError, match="does not work with 3 labels"):
            require_labels(split, enlarged, split.features(IMAGE), Output(), 3)


# From the image to a network's grid and back ------------------------------------------------------------------------


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
