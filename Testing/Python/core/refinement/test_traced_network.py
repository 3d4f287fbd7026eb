from __future__ import annotations

import pytest
import torch
from refinable_networks import small_unet, state_of, unchanged
from torch import nn

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.outputs import Output

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
LAYERS = ["first.0", "down.0.0", "up", "last.0", "head"]


def formats() -> dict[str, nn.Module]:
    """The same network in every format that PyTorch knows."""
    network = small_unet()
    return {
        "module": network,
        "script": torch.jit.script(network),
        "trace": torch.jit.trace(network, IMAGE),
        "export": torch.export.export(network, (IMAGE,)).module(),
    }


@pytest.mark.parametrize("name", ["module", "script", "trace", "export"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_format_has_the_same_layers_in_the_order_in_which_they_run(name):
    traced = TracedNetwork(formats()[name], IMAGE, Output())
    assert [layer.name for layer in traced.layers] == LAYERS


@pytest.mark.parametrize("name", ["module", "script", "trace", "export"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 50])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_prefix_and_suffix_give_the_network_s_result_and_gradients(name, count):
    network = formats()[name]
    split = TracedNetwork(network, IMAGE, Output()).split(count)
    weights = {key: value.clone().requires_grad_() for key, value in split.pretrained.items()}
    output = split.run(weights, split.features(IMAGE))
    torch.testing.assert_close(output, network(IMAGE))
    output.square().sum().backward()
    reference = small_unet()
    reference(IMAGE).square().sum().backward()
    expected = dict(reference.named_parameters())
    for key, value in weights.items():
        torch.testing.assert_close(value.grad, expected[key].grad, rtol=1e-5, atol=1e-5)


def test_a_normalisation_belongs_to_the_convolution_before_it():
    traced = TracedNetwork(small_unet(), IMAGE, Output())
    assert traced.split(1).layers[0].weights == ("head.weight", "head.bias")
    assert traced.split(2).layers[0].weights == ("last.0.weight", "last.0.bias", "last.1.weight", "last.1.bias")


def test_layers_are_chosen_by_the_name_of_a_module_that_contains_them():
    traced = TracedNetwork(small_unet(), IMAGE, Output())
    assert [layer.name for layer in traced.split(("down", "head")).layers] == ["down.0.0", "head"]
    assert [layer.name for layer in traced.split(("head.bias",)).layers] == ["head"]


def test_an_unknown_layer_is_answered_with_those_there_are():
    traced = TracedNetwork(small_unet(), IMAGE, Output())
    with pytest.raises(NetworkError, match=r"no layer 'dow'.*last\.0, head"):
        traced.split(("dow",))


def test_a_network_without_weights_cannot_be_split():
    with pytest.raises(NetworkError, match="no weights"):
        TracedNetwork(nn.Sigmoid(), IMAGE, Output()).split(1)


def test_in_place_operations_leave_the_features_as_they_are():
    split = TracedNetwork(small_unet(), IMAGE, Output()).split(2)
    features = split.features(IMAGE)
    before = [tensor.clone() for tensor in features]
    split.run(split.pretrained, features)
    split.run(split.pretrained, features)
    assert all(torch.equal(one, other) for one, other in zip(features, before, strict=True))


def test_weights_that_a_frozen_torchscript_hides_are_found():
    frozen = torch.jit.freeze(torch.jit.script(small_unet()))
    split = TracedNetwork(frozen, IMAGE, Output()).split(2)
    assert len(split.layers) == 2
    weights = {key: value.clone().requires_grad_() for key, value in split.pretrained.items()}
    split.run(weights, split.features(IMAGE)).sum().backward()
    assert all(value.grad is not None for value in weights.values())


def test_weights_that_are_shared_between_two_places_are_refined_together():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    network = nn.Sequential(conv, nn.ReLU(), conv)
    split = TracedNetwork(network, IMAGE, Output()).split(1)
    weights = {key: value.clone().requires_grad_() for key, value in split.pretrained.items()}
    split.run(weights, split.features(IMAGE)).sum().backward()
    network(IMAGE).sum().backward()
    torch.testing.assert_close(weights["0.weight"].grad, conv.weight.grad)


def test_attention_is_traced_with_a_gradient():
    torch.manual_seed(0)

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.head = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.head(self.layer(x.reshape(1, -1, 4)).reshape(x.shape))

    network = Attending().eval().requires_grad_(False)
    split = TracedNetwork(network, IMAGE, Output()).split(99)
    weights = {key: value.clone().requires_grad_() for key, value in split.pretrained.items()}
    split.run(weights, split.features(IMAGE)).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in weights.values())


def test_tracing_leaves_the_network_as_it_is():
    network = small_unet(norm="batch")
    before = state_of(network)
    TracedNetwork(network, IMAGE, Output()).split(3).features(IMAGE)
    assert unchanged(network, before)


def test_the_head_is_the_last_convolution():
    split = TracedNetwork(small_unet(), IMAGE, Output()).split(2)
    assert split.head.weight == "head.weight"
    assert split.head.bias == "head.bias"
    values, raw = split.head.ends(*split.pretrained.values(), *split.features(IMAGE))
    assert values.shape == (1, 8, 16, 16)
    assert raw.shape == (1, 3, 16, 16)


def test_a_network_that_ends_in_a_transposed_convolution_has_no_head():
    network = nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.ConvTranspose2d(2, 3, 2, 2))
    with pytest.raises(NetworkError, match="no label can be added"):
        _ = TracedNetwork(network, IMAGE, Output()).split(1).head


def test_a_head_that_is_not_refined_is_no_head():
    with pytest.raises(NetworkError, match="no label can be added"):
        _ = TracedNetwork(small_unet(), IMAGE, Output()).split(("last",)).head
