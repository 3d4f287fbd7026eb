"""Tests of the interactive network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError
from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig


def test_the_default_network_has_the_published_parameters(shared_dir: Path) -> None:
    published = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    network = ScribbleUNet()
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == published["scribbleprompt_unet_v1_nf192"]


def test_published_parameters_give_the_published_logits(shared_dir: Path) -> None:
    vectors = np.load(shared_dir / "golden" / "scribbleprompt_unet.npz")
    network = ScribbleUNet(ScribbleUNetConfig(features=(6,) * 5))
    network.load_state_dict({name[3:]: torch.tensor(vectors[name]) for name in vectors if name.startswith("w::")})
    with torch.no_grad():
        logits = network(torch.tensor(vectors["x"])).numpy()
    np.testing.assert_allclose(logits, vectors["y"], atol=1e-5, rtol=0)


def test_parameter_names_do_not_depend_on_files_beside_the_project() -> None:
    names = set(ScribbleUNet(ScribbleUNetConfig(features=(4, 4, 4))).state_dict())
    blocks = ("downs.0", "downs.1", "bottleneck", "ups.1", "ups.3")
    expected = {f"{block}.conv.{part}" for block in blocks for part in ("0.weight", "0.bias", "1.weight")}
    assert names == expected | {"final_conv.conv.0.weight", "final_conv.conv.0.bias"}


@settings(max_examples=15)
@given(
    features=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    convolutions=st.integers(1, 3),
    activation=st.sampled_from(["prelu", "leaky_relu"]),
    height=st.integers(8, 33),
    width=st.integers(8, 33),
)
def test_any_width_depth_and_image_size_gives_logits_of_the_image_size(
    features: list[int], convolutions: int, activation: str, height: int, width: int
) -> None:
    config = ScribbleUNetConfig(tuple(features), convolutions, activation=activation)
    with torch.no_grad():
        logits = ScribbleUNet(config)(torch.zeros(2, 5, height, width))
    assert logits.shape == (2, 1, height, width)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": (8,)}, "two positive widths"),
        ({"features": (8, 0)}, "two positive widths"),
        ({"convolutions": 0}, "must be positive"),
        ({"activation": "tanh"}, "activation is one of"),
        ({"features": (8, 12), "norm_groups": 8}, "does not divide"),
        ({"norm_groups": -1}, "does not divide"),
    ],
)
def test_an_impossible_shape_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScribbleUNetConfig(**values)  # type: ignore[arg-type]


def test_normalisation_leaves_full_resolution_alone() -> None:
    network = ScribbleUNet(ScribbleUNetConfig(features=(4, 8, 8), norm_groups=4))
    normalised = {
        name.split(".conv.")[0] for name, module in network.named_modules() if "GroupNorm" in repr(type(module))
    }
    assert normalised == {"downs.1", "bottleneck", "ups.1"}


@pytest.mark.parametrize(
    ("cues", "channels"),
    [
        ({"intensity_cues": True}, INTENSITY_CHANNELS),
        ({"geodesic_cues": True}, 2 * GEODESIC_CHANNELS),
        ({"intensity_cues": True, "geodesic_cues": True}, INTENSITY_CHANNELS + 2 * GEODESIC_CHANNELS),
    ],
)
def test_cues_widen_the_first_layer_only(cues: dict[str, bool], channels: int) -> None:
    plain = ScribbleUNet(ScribbleUNetConfig(features=(4, 8))).state_dict()
    cued = ScribbleUNet(ScribbleUNetConfig(features=(4, 8), **cues)).state_dict()  # type: ignore[arg-type]
    different = {name for name in plain if plain[name].shape != cued[name].shape}
    assert different == {"downs.0.conv.0.weight"}
    assert cued["downs.0.conv.0.weight"].shape[1] == 5 + channels


@pytest.mark.parametrize("options", [{}, {"norm_groups": 4}, {"intensity_cues": True, "geodesic_cues": True}])
def test_gradients_reach_every_parameter(options: dict[str, object]) -> None:
    network = ScribbleUNet(ScribbleUNetConfig(features=(4, 8, 8), **options))  # type: ignore[arg-type]
    network(torch.rand(2, 5, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_activations_keep_their_size_through_a_fresh_network() -> None:
    torch.manual_seed(0)
    network = ScribbleUNet(ScribbleUNetConfig(features=(16,) * 6, convolutions=2, activation="leaky_relu"))
    seen: list[float] = []
    network.bottleneck.register_forward_hook(lambda module, inputs, output: seen.append(float(output.std())))
    with torch.no_grad():
        network(torch.rand(2, 5, 64, 64))
    assert 0.05 < seen[0] < 20.0
