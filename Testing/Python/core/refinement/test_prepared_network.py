from __future__ import annotations

import pytest
import torch
from refinable_networks import DependingOnValues, Returning, small_unet, state_of, unchanged
from torch import nn

from scribblesegment.errors import DeviceError, NetworkError
from scribblesegment.refinement.network_graph import (
    TracedNetwork,
    WholeNetwork,
    evaluating,
    memory_errors,
    prepare_network,
)
from scribblesegment.refinement.outputs import Output

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_an_ordinary_network_is_traced_without_notes():
    network, output, labels, notes = prepare_network(small_unet(), IMAGE, Output())
    assert isinstance(network, TracedNetwork)
    assert labels == 3
    assert (output.activation, output.probabilities) == ("softmax", False)
    assert notes == ()


def test_what_cannot_be_traced_runs_as_a_whole_and_says_so():
    network, _, _, notes = prepare_network(DependingOnValues(small_unet()), IMAGE, Output())
    assert isinstance(network, WholeNetwork)
    assert "all of it runs in every iteration" in notes[0]


def test_a_network_that_is_random_in_evaluation_mode_is_not_trusted_to_its_trace():
    noisy = Returning(small_unet(), lambda logits: logits + torch.randn(logits.shape))
    network, _, _, notes = prepare_network(noisy, IMAGE, Output())
    assert isinstance(network, WholeNetwork)
    assert "differs" in notes[0]


def test_batch_statistics_are_those_the_network_has_learnt_and_stay_so():
    network = small_unet(norm="batch").train()
    network.first.eval()
    before = state_of(network)
    modes = [module.training for module in network.modules()]
    prepared, _, _, notes = prepare_network(network, IMAGE, Output())
    assert unchanged(network, before)
    assert [module.training for module in network.modules()] == modes
    assert "training mode" in notes[0]
    torch.testing.assert_close(prepared.run(IMAGE), network.eval()(IMAGE))


def test_training_flags_come_back_when_the_network_fails():
    network = small_unet().train()
    with pytest.raises(NetworkError, match=r"cannot run on an input of \(1, 2, 16, 16\).*channels"):
        prepare_network(network, torch.zeros(1, 2, 16, 16), Output())
    assert all(module.training for module in network.modules())


def test_evaluation_mode_is_not_asked_of_exported_programs():
    exported = torch.export.export(small_unet(), (IMAGE,)).module()
    with evaluating(exported):
        assert exported(IMAGE).shape == (1, 3, 16, 16)


def test_quantised_weights_are_refused():
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.quantize_per_tensor(torch.ones(2, 1, 1, 1), 0.1, 0, torch.qint8))

        def forward(self, x):
            return nn.functional.conv2d(x, self.kernel.dequantize())

    with pytest.raises(NetworkError, match="quantised"):
        prepare_network(Quantised(), IMAGE, Output())


def test_half_precision_weights_are_refined_as_copies_in_float32():
    network = small_unet().bfloat16()
    before = state_of(network)
    prepared, _, _, notes = prepare_network(network, IMAGE, Output())
    assert "bfloat16 weights are refined as float32" in notes[0]
    assert prepared.split(1).pretrained["head.weight"].dtype == torch.float32
    assert unchanged(network, before)


def test_frozen_weights_can_be_refined():
    network = small_unet().requires_grad_(False)
    prepared, _, _, notes = prepare_network(network, IMAGE, Output())
    split = prepared.split(1)
    weights = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    split.run(weights, split.features(IMAGE)).sum().backward()
    assert notes == ()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_argmax_at_the_end_is_refused():
    with pytest.raises(NetworkError, match="before its argmax"):
        prepare_network(Returning(small_unet(), lambda logits: logits.argmax(1, keepdim=True)), IMAGE, Output())


def test_a_softmax_at_the_end_is_noticed():
    _, output, _, _ = prepare_network(Returning(small_unet(), lambda logits: logits.softmax(1)), IMAGE, Output())
    assert output.probabilities is True


def test_a_lack_of_memory_is_said_as_such():
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("[enforce fail] can't allocate memory")):
        with pytest.raises(DeviceError, match=r"not enough memory on cpu.*Nothing was changed"), memory_errors("cpu"):
            raise error


def test_other_errors_are_passed_on():
    with pytest.raises(RuntimeError, match="something else"), memory_errors("cpu"):
        raise RuntimeError("something else")


def test_a_network_that_runs_out_of_memory_is_said_so():
    def fail(_):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    with pytest.raises(DeviceError, match="not enough memory"):
        prepare_network(Returning(small_unet(), fail), IMAGE, Output())
