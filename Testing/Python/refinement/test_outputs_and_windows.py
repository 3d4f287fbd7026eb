"""What a network returns, the windows it sees an image through, and labels that are added to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refinable_networks import Returning, small_unet
from torch import nn

from scribblesegment.errors import ConfigError, GeometryError, NetworkError
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.new_labels import require_labels, samples_at_head, with_new_labels
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


def put_together(tiling: Tiling, image: torch.Tensor) -> torch.Tensor:
    """Cut an image (C, *shape) into windows and blend these again."""
    padded = tiling.padded(image)
    blended, total = torch.zeros_like(padded), torch.zeros(tiling.padded_shape)
    for index, window in enumerate(tiling.windows):
        blended[(slice(None), *window)] += tiling.placed(tiling.cut(padded, index)) * tiling.weights()
        total[window] += tiling.weights()
    return tiling.cropped(blended / total)


@given(shape=SIDES, data=st.data())
def test_patches_cover_every_pixel_and_blend_to_the_image(shape, data):
    patch = data.draw(st.lists(st.integers(1, 12), min_size=len(shape), max_size=len(shape)))
    tiling = Tiling.patches(shape, patch, overlap=data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9])))
    image = torch.rand(2, *shape)
    torch.testing.assert_close(put_together(tiling, image), image)
    assert tiling.network_patch == tuple(patch)


@given(shape=st.lists(st.integers(1, 9), min_size=3, max_size=3), axis=st.integers(0, 2), cut=st.booleans())
def test_slices_are_cut_without_their_axis_and_come_back(shape, axis, cut):
    plane = tuple(side for other, side in enumerate(shape) if other != axis)
    tiling = Tiling.slices(shape, axis, patch_size=(4, 4) if cut else None)
    image = torch.rand(1, *shape)
    assert tiling.cut(tiling.padded(image), 0).shape == (1, 1, *((4, 4) if cut else plane))
    assert cut or len(tiling.windows) == shape[axis]
    torch.testing.assert_close(put_together(tiling, image), image)


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


@given(shape=st.lists(st.integers(2, 12), min_size=2, max_size=3), data=st.data())
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
        (lambda: Tiling.whole((0, 4)), GeometryError, "every side"),
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


def test_features_and_outputs_of_the_head_are_read_under_pixels_also_on_a_coarser_grid():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    split = TracedNetwork(network, IMAGE, Output()).split(1)
    rows, columns = torch.tensor([0, 3, 15]), torch.tensor([0, 5, 15])
    at = torch.stack([rows, columns], dim=1)
    values, raw = samples_at_head(split.head, split.pretrained, split.features(IMAGE), at, (16, 16))
    torch.testing.assert_close(values, network[:2](IMAGE)[0][:, rows, columns].T)
    torch.testing.assert_close(raw, network(IMAGE)[0][:, rows, columns].T)
    coarse = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Upsample(scale_factor=4))
    split = TracedNetwork(coarse, IMAGE, Output()).split(1)
    _, raw = samples_at_head(split.head, split.pretrained, split.features(IMAGE), at, (16, 16))
    torch.testing.assert_close(raw, coarse(IMAGE)[0][:, rows, columns].T)


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
