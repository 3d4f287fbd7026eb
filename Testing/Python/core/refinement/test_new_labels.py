from __future__ import annotations

import pytest
import torch
from refinable_networks import Returning, small_unet
from torch import nn

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.new_labels import require_labels, samples_at_head, with_new_labels
from scribblesegment.refinement.outputs import Output

GENERATOR = torch.Generator().manual_seed(2)
IMAGE = torch.rand(1, 1, 16, 16, generator=GENERATOR)


def test_features_and_outputs_of_the_head_are_read_under_the_pixels():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    split = TracedNetwork(network, IMAGE, Output()).split(1)
    positions = torch.tensor([[0, 0], [3, 5], [15, 15]])
    rows, raw = samples_at_head(split.head, split.pretrained, split.features(IMAGE), positions, (16, 16))
    hidden = network[1](network[0](IMAGE))
    torch.testing.assert_close(rows, hidden[0][:, positions[:, 0], positions[:, 1]].T)
    torch.testing.assert_close(raw, network(IMAGE)[0][:, positions[:, 0], positions[:, 1]].T)


def test_pixels_are_found_on_the_coarser_grid_of_the_head():
    network = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Upsample(scale_factor=4))
    split = TracedNetwork(network, IMAGE, Output()).split(1)
    positions = torch.tensor([[0, 3], [4, 15]])
    _, raw = samples_at_head(split.head, split.pretrained, split.features(IMAGE), positions, (16, 16))
    torch.testing.assert_close(raw, network(IMAGE)[0][:, positions[:, 0], positions[:, 1]].T)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_new_channel_is_highest_under_its_scribbles_and_not_elsewhere(kernel, bias, activation):
    torch.manual_seed(3)
    network = nn.Conv2d(4, 2, kernel, padding=kernel // 2, bias=bias)
    split = TracedNetwork(network, torch.rand(1, 4, 8, 8), Output(activation)).split(1)
    rows = torch.randn(60, 4)
    labels = torch.cat([torch.full((20,), 2 if activation == "softmax" else 3), torch.zeros(20), -torch.ones(20)])
    rows[:20, 1] += 6
    rows[:, 3] = 1  # without a bias, a constant feature can stand in for it
    raw = rows @ split.pretrained["weight"][:, :, kernel // 2, kernel // 2].T + (network.bias if bias else 0)
    count = 2 if activation == "softmax" else 3
    weights = with_new_labels(
        split.head, split.pretrained, rows, raw.detach(), labels.long(), Output(activation, False), count
    )
    assert weights["weight"].shape == (3, 4, kernel, kernel)
    assert torch.equal(weights["weight"][:2], split.pretrained["weight"])
    added = rows @ weights["weight"][2, :, kernel // 2, kernel // 2] + (weights["bias"][2] if bias else 0)
    others = raw.max(dim=1).values
    if activation == "sigmoid":
        others = others.clamp_min(0)
    assert (added[:20] > others[:20]).float().mean() > 0.9
    assert (added[20:] < others[20:]).float().mean() > 0.9


def test_several_labels_are_added_at_once():
    torch.manual_seed(4)
    network = nn.Conv2d(4, 2, 1)
    split = TracedNetwork(network, torch.rand(1, 4, 8, 8), Output()).split(1)
    rows = torch.cat([torch.randn(10, 4) + torch.tensor([9.0, 0, 0, 0]), torch.randn(10, 4) - 5, torch.randn(10, 4)])
    labels = torch.tensor([2] * 10 + [3] * 10 + [0] * 10)
    raw = rows @ network.weight[:, :, 0, 0].T + network.bias
    weights = with_new_labels(split.head, split.pretrained, rows, raw.detach(), labels, Output(), 2)
    logits = rows @ weights["weight"][:, :, 0, 0].T + weights["bias"]
    assert (logits.argmax(1)[:20] == labels[:20]).float().mean() > 0.9


def test_a_head_in_groups_is_refused():
    network = nn.Conv2d(4, 2, 1, groups=2)
    split = TracedNetwork(network, torch.rand(1, 4, 8, 8), Output()).split(1)
    with pytest.raises(NetworkError, match="groups"):
        with_new_labels(
            split.head, split.pretrained, torch.zeros(1, 4), torch.zeros(1, 2), torch.tensor([2]), Output(), 2
        )


def test_a_network_that_goes_on_with_so_many_channels_is_refused():
    fixed = Returning(small_unet(2), lambda logits: logits.reshape(1, 2, 16, 16) * torch.ones(1, 2, 1, 1))
    split = TracedNetwork(fixed, IMAGE, Output()).split(1)
    enlarged = {name: torch.cat([value, value[:1]]) for name, value in split.pretrained.items()}
    with pytest.raises(NetworkError, match="does not work with 3 labels"):
        require_labels(split, enlarged, split.features(IMAGE), Output(), 3)


def test_a_network_that_drops_the_new_channel_is_refused():
    dropping = Returning(small_unet(2), lambda logits: torch.stack([logits[:, 0], logits[:, 1]], dim=1))
    split = TracedNetwork(dropping, IMAGE, Output()).split(1)
    enlarged = {name: torch.cat([value, value[:1]]) for name, value in split.pretrained.items()}
    with pytest.raises(NetworkError, match="does not work with 3 labels"):
        require_labels(split, enlarged, split.features(IMAGE), Output(), 3)
