from __future__ import annotations

import pytest
import torch
from refinable_networks import DependingOnValues, small_unet, state_of, unchanged

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.network_graph import WholeNetwork
from scribblesegment.refinement.outputs import Output

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_layers_are_in_the_order_in_which_they_run():
    whole = WholeNetwork(DependingOnValues(small_unet()), IMAGE, Output())
    names = [layer.name for layer in whole.layers]
    assert names == ["network.first.0", "network.down.0.0", "network.up", "network.last.0", "network.head"]


def test_the_network_runs_with_other_weights_and_keeps_its_own():
    network = DependingOnValues(small_unet())
    before = state_of(network)
    split = WholeNetwork(network, IMAGE, Output()).split(1)
    weights = {name: torch.zeros_like(value).requires_grad_() for name, value in split.pretrained.items()}
    output = split.run(weights, split.features(IMAGE))
    assert torch.equal(output, torch.zeros(1, 3, 16, 16))
    output.sum().backward()
    assert all(value.grad is not None for value in weights.values())
    assert unchanged(network, before)


def test_the_network_keeps_its_weights_when_it_fails():
    network = DependingOnValues(small_unet())
    before = state_of(network)
    split = WholeNetwork(network, IMAGE, Output()).split(1)
    with pytest.raises(RuntimeError):
        split.run(split.pretrained, (torch.zeros(1, 2, 16, 16),))
    assert unchanged(network, before)


def test_no_label_can_be_added():
    with pytest.raises(NetworkError, match="No label can be added"):
        _ = WholeNetwork(DependingOnValues(small_unet()), IMAGE, Output()).split(1).head


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_cannot_be_refined_without_tracing():
    with pytest.raises(NetworkError, match=r"torch\.export"):
        WholeNetwork(torch.jit.script(small_unet()), IMAGE, Output())
