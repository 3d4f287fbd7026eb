"""Tests of the network of EfficientNetV2's blocks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scribblesegment.errors import ConfigError
from scribblesegment.models.efficient_unet import EfficientUNet, EfficientUNetConfig, InvertedResidual
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS
from scribblesegment.weights.checkpoints import NetworkDescription, load_network, save_network

TINY = {"features": (4, 8, 8), "fused_levels": 1, "norm_groups": 4}


def tiny(**changes: object) -> EfficientUNet:
    torch.manual_seed(0)
    return EfficientUNet(EfficientUNetConfig(**{**TINY, **changes}))  # type: ignore[arg-type]


def drawn_on(batch: int, height: int, width: int) -> torch.Tensor:
    network_input = torch.rand(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(batch))
    network_input[:, 1:4] = (network_input[:, 1:4] > 0.95).float()
    return network_input


@settings(max_examples=12)
@given(
    features=st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=4),
    expansion=st.integers(1, 3),
    fused=st.integers(0, 5),
    cues=st.booleans(),
    height=st.integers(16, 33),
    width=st.integers(16, 33),
)
def test_any_shape_and_image_size_gives_logits_of_the_image_size(
    features: list[int], expansion: int, fused: int, cues: bool, height: int, width: int
) -> None:
    options = {"intensity_cues": cues, "geodesic_cues": cues}
    config = EfficientUNetConfig(tuple(features), expansion, fused, norm_groups=2, **options)
    with torch.no_grad():
        logits = EfficientUNet(config)(drawn_on(2, height, width))
    assert logits.shape == (2, 1, height, width)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [8, 32, 96, 160])
def test_one_network_serves_grids_of_several_sizes(size: int) -> None:
    with torch.no_grad():
        assert tiny()(drawn_on(1, size, size)).shape == (1, 1, size, size)


def depthwise(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())


@pytest.mark.parametrize(("fused", "expected"), [(0, 5), (1, 3), (2, 1), (3, 0), (9, 0)])
def test_blocks_of_the_upper_levels_are_fused(fused: int, expected: int) -> None:
    # Three blocks lead down and two up; those of a level are alike.
    assert depthwise(tiny(fused_levels=fused)) == expected


@pytest.mark.parametrize("fused", [False, True])
def test_a_block_adds_its_input_where_the_channels_agree(fused: bool) -> None:
    image = torch.rand(2, 8, 5, 6)
    same = InvertedResidual(8, 8, expansion=2, fused=fused, norm_groups=4)
    nn.init.zeros_(same.block[-1].weight)  # type: ignore[arg-type]
    assert torch.equal(same(image), image)
    wider = InvertedResidual(8, 12, expansion=2, fused=fused, norm_groups=4)
    nn.init.zeros_(wider.block[-1].weight)  # type: ignore[arg-type]
    assert wider(image).shape == (2, 12, 5, 6)
    assert not wider(image).any()


def test_the_inside_of_a_block_is_widened_to_whole_groups() -> None:
    block = InvertedResidual(6, 8, expansion=3, fused=True, norm_groups=4)
    assert block.block[0].out_channels == 20  # 6 * 3 and what is lacking to 5 groups of 4


def test_squeeze_and_excitation_weighs_channels_by_their_means() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, expansion=1, fused=False, norm_groups=4)
    excitation = next(module for module in block.modules() if hasattr(module, "excite"))
    image = torch.rand(1, 8, 4, 4)
    weights = (excitation(image) / image).flatten(2)
    assert ((weights > 0) & (weights < 1)).all()
    torch.testing.assert_close(weights, weights[..., :1].expand_as(weights))  # one a channel
    moved = image.flip(-1)
    torch.testing.assert_close(excitation(moved), excitation(image).flip(-1))  # of the mean alone


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"intensity_cues": False}, 2 * GEODESIC_CHANNELS),
        ({"geodesic_cues": False}, INTENSITY_CHANNELS),
        ({"intensity_cues": False, "geodesic_cues": False}, 0),
    ],
)
def test_cues_widen_the_first_layer_only(changes: dict[str, object], channels: int) -> None:
    full, lacking = tiny().state_dict(), tiny(**changes).state_dict()
    assert {name for name in full if full[name].shape != lacking[name].shape} == {"stem.weight"}
    assert lacking["stem.weight"].shape[1] == CHANNELS + channels


@pytest.mark.parametrize("changes", [{"expansion": 3}, {"features": (4, 8, 12)}, {"fused_levels": 2}])
def test_options_change_the_parameters(changes: dict[str, object]) -> None:
    plain, changed = (
        {name: value.shape for name, value in tiny(**options).state_dict().items()} for options in ({}, changes)
    )
    assert plain != changed


def test_predictions_do_not_depend_on_the_rest_of_the_batch() -> None:
    network = tiny().train()  # as in training, where batch statistics would show
    batch = drawn_on(3, 16, 20)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(batch[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("fused", [0, 3])
def test_gradients_reach_every_parameter(fused: int) -> None:
    network = tiny(fused_levels=fused)
    (network(drawn_on(2, 16, 16)) - 1.0).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_saved_network_is_built_again_with_its_options(tmp_path: Path) -> None:
    network = tiny(geodesic_cues=False, expansion=3).half().float()  # files hold half precision
    path = tmp_path / "net.safetensors"
    save_network(path, network.state_dict(), NetworkDescription("efficient_unet", asdict(network.config), size=32))
    loaded, description = load_network(path)
    assert isinstance(loaded, EfficientUNet)
    assert loaded.config == network.config
    assert description.size == 32
    with torch.no_grad():
        assert torch.equal(loaded(drawn_on(1, 16, 16)), network.eval()(drawn_on(1, 16, 16)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": (8,)}, "at least two levels"),
        ({"features": (8, 0)}, "must be positive"),
        ({"expansion": 0}, "must be positive"),
        ({"norm_groups": 0}, "must be positive"),
        ({"fused_levels": -1}, "fused_levels must be at least 0"),
        ({"features": (4, 6)}, r"norm_groups 4 does not divide all of the features \(4, 6\)"),
    ],
)
def test_an_impossible_shape_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EfficientUNetConfig(**{**TINY, **values})  # type: ignore[arg-type]


def test_lists_from_json_become_tuples() -> None:
    assert EfficientUNetConfig(features=[8, 16]).features == (8, 16)  # type: ignore[arg-type]
