"""Splitting any network before the refined layers, and what is checked before that."""

from __future__ import annotations

import pytest
import torch
from refinable_networks import DependingOnValues, Returning, small_unet, state_of, unchanged
from torch import nn

from scribblesegment.errors import DeviceError, NetworkError
from scribblesegment.refinement.network_graph import (
    SplitNetwork,
    TracedNetwork,
    WholeNetwork,
    evaluating,
    memory_errors,
    prepare_network,
)
from scribblesegment.refinement.outputs import Output

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
LAYERS = ["first.0", "down.0.0", "up", "last.0", "head"]


FORMATS = {
    "module": lambda network: network,
    "script": torch.jit.script,
    "trace": lambda network: torch.jit.trace(network, IMAGE),
    "export": lambda network: torch.export.export(network, (IMAGE,)).module(),
}


def gradients(split: SplitNetwork) -> dict[str, torch.Tensor | None]:
    weights = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    split.run(weights, split.features(IMAGE)).square().sum().backward()
    return {name: value.grad for name, value in weights.items()}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_format_is_split_into_a_prefix_and_a_suffix_with_its_result_and_gradients(name):
    network = FORMATS[name](small_unet())
    traced = TracedNetwork(network, IMAGE, Output())
    assert [layer.name for layer in traced.layers] == LAYERS
    reference = small_unet()
    reference(IMAGE).square().sum().backward()
    expected = dict(reference.named_parameters())
    for count in (1, 2, 3, 50):
        split = traced.split(count)
        assert [layer.name for layer in split.layers] == LAYERS[-count:]
        torch.testing.assert_close(split.run(split.pretrained, split.features(IMAGE)), network(IMAGE))
        for key, value in gradients(split).items():
            torch.testing.assert_close(value, expected[key].grad, rtol=1e-5, atol=1e-5)


def test_layers_are_chosen_by_their_name_or_that_of_a_module_around_them():
    traced = TracedNetwork(small_unet(), IMAGE, Output())
    assert [layer.name for layer in traced.split(("down", "head")).layers] == ["down.0.0", "head"]
    assert [layer.name for layer in traced.split(("head.bias",)).layers] == ["head"]
    # A normalisation belongs to the convolution before it.
    assert traced.split(2).layers[0].weights == ("last.0.weight", "last.0.bias", "last.1.weight", "last.1.bias")
    with pytest.raises(NetworkError, match=r"no layer 'dow'.*last\.0, head"):
        traced.split(("dow",))
    with pytest.raises(NetworkError, match="no weights"):
        TracedNetwork(nn.Sigmoid(), IMAGE, Output()).split(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hidden_and_shared_weights_and_attention_are_refined():
    frozen = torch.jit.freeze(torch.jit.script(small_unet()))
    split = TracedNetwork(frozen, IMAGE, Output()).split(2)
    assert len(split.layers) == 2
    assert all(value is not None for value in gradients(split).values())

    convolution = nn.Conv2d(1, 1, 3, padding=1)
    shared = nn.Sequential(convolution, nn.ReLU(), convolution)
    found = gradients(TracedNetwork(shared, IMAGE, Output()).split(1))
    shared(IMAGE).square().sum().backward()
    torch.testing.assert_close(found["0.weight"], convolution.weight.grad)

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.head = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.head(self.layer(x.reshape(1, -1, 4)).reshape(x.shape))

    attending = TracedNetwork(Attending().eval().requires_grad_(False), IMAGE, Output()).split(99)
    assert all(value is not None and value.isfinite().all() for value in gradients(attending).values())


def test_the_head_is_the_last_convolution_if_it_is_refined_and_not_transposed():
    split = TracedNetwork(small_unet(), IMAGE, Output()).split(2)
    assert (split.head.weight, split.head.bias) == ("head.weight", "head.bias")
    values, raw = split.head.ends(*split.pretrained.values(), *split.features(IMAGE))
    assert (values.shape, raw.shape) == ((1, 8, 16, 16), (1, 3, 16, 16))
    transposed = nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.ConvTranspose2d(2, 3, 2, 2))
    for other in (
        TracedNetwork(transposed, IMAGE, Output()).split(1),
        TracedNetwork(small_unet(), IMAGE, Output()).split(("last",)),
        WholeNetwork(DependingOnValues(small_unet()), IMAGE, Output()).split(1),
    ):
        with pytest.raises(NetworkError, match="No label can be added"):
            _ = other.head


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_is_not_refined_as_a_whole():
    with pytest.raises(NetworkError, match=r"torch\.export"):
        WholeNetwork(torch.jit.script(small_unet()), IMAGE, Output())


# Preparation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "note"),
    [
        (None, TracedNetwork, None),
        ("values", WholeNetwork, "all of it runs in every iteration"),
        ("noise", WholeNetwork, "differs"),
    ],
)
def test_a_network_is_traced_where_its_trace_gives_the_same_result(change, kind, note):
    network = small_unet()
    if change == "values":
        network = DependingOnValues(network)
    elif change == "noise":
        network = Returning(network, lambda logits: logits + torch.randn(logits.shape))
    prepared, output, labels, notes = prepare_network(network, IMAGE, Output())
    assert isinstance(prepared, kind)
    assert (labels, output.activation, output.probabilities) == (3, "softmax", False)
    assert [note in one for one in notes] == ([] if note is None else [True])


def test_batch_statistics_are_those_the_network_has_learnt_and_modes_come_back():
    network = small_unet(norm="batch").train()
    network.first.eval()
    before = state_of(network)
    modes = [module.training for module in network.modules()]
    prepared, _, _, notes = prepare_network(network, IMAGE, Output())
    assert unchanged(network, before)
    assert [module.training for module in network.modules()] == modes
    assert "training mode" in notes[0]
    torch.testing.assert_close(prepared.run(IMAGE), network.eval()(IMAGE))
    network.train()
    with pytest.raises(NetworkError, match=r"cannot run on an input of \(1, 2, 16, 16\).*channels"):
        prepare_network(network, torch.zeros(1, 2, 16, 16), Output())
    assert all(module.training for module in network.modules())
    exported = torch.export.export(small_unet(), (IMAGE,)).module()
    with evaluating(exported):  # it is in evaluation mode for good
        assert exported(IMAGE).shape == (1, 3, 16, 16)


def test_half_precision_weights_are_refined_as_copies_in_float32_and_frozen_ones_too():
    network = small_unet().bfloat16()
    before = state_of(network)
    prepared, _, _, notes = prepare_network(network, IMAGE, Output())
    assert "bfloat16 weights are refined as float32" in notes[0]
    assert prepared.split(1).pretrained["head.weight"].dtype == torch.float32
    assert unchanged(network, before)
    frozen = small_unet().requires_grad_(False)
    prepared, _, _, notes = prepare_network(frozen, IMAGE, Output())
    assert all(value is not None for value in gradients(prepared.split(1)).values())
    assert notes == ()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.quantize_per_tensor(torch.ones(2, 1, 1, 1), 0.1, 0, torch.qint8))

    def forward(self, x):
        return nn.functional.conv2d(x, self.kernel.dequantize())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Quantised(), "quantised"),
        (Returning(small_unet(), lambda logits: logits.argmax(1, keepdim=True)), "before its argmax"),
    ],
)
def test_what_cannot_be_refined_is_refused(network, message):
    with pytest.raises(NetworkError, match=message):
        prepare_network(network, IMAGE, Output())


def test_only_a_lack_of_memory_becomes_a_device_error():
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("[enforce fail] can't allocate memory")):
        with pytest.raises(DeviceError, match=r"not enough memory on cpu.*Nothing was changed"), memory_errors("cpu"):
            raise error
    with pytest.raises(RuntimeError, match="something else"), memory_errors("cpu"):
        raise RuntimeError("something else")
