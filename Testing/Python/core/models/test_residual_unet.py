"""Tests of the network that works at half the resolution."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scribblesegment.errors import ConfigError
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS
from scribblesegment.models.residual_unet import ResidualBlock, ResidualUNet, ResidualUNetConfig
from scribblesegment.weights.checkpoints import NetworkDescription, load_network, save_network

TINY = {"features": (4, 8, 8), "blocks": (1, 1, 1), "head_features": 3, "norm_groups": 4}


def tiny(**changes: object) -> ResidualUNet:
    torch.manual_seed(0)
    return ResidualUNet(ResidualUNetConfig(**{**TINY, **changes}))  # type: ignore[arg-type]


def trained(**changes: object) -> ResidualUNet:
    """A network whose blocks no longer are the identity."""
    network = tiny(**changes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


def drawn_on(batch: int, height: int, width: int) -> torch.Tensor:
    network_input = torch.rand(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(batch))
    network_input[:, 1:4] = (network_input[:, 1:4] > 0.95).float()
    return network_input


@settings(max_examples=12)
@given(
    features=st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=4),
    head=st.integers(1, 5),
    separable=st.booleans(),
    cues=st.booleans(),
    height=st.integers(16, 33),
    width=st.integers(16, 33),
)
def test_any_shape_and_image_size_gives_logits_of_the_image_size(
    features: list[int], head: int, separable: bool, cues: bool, height: int, width: int
) -> None:
    options = {"intensity_cues": cues, "geodesic_cues": cues, "separable": separable}
    config = ResidualUNetConfig(tuple(features), (1,) * len(features), head, norm_groups=2, **options)
    with torch.no_grad():
        logits = ResidualUNet(config)(drawn_on(2, height, width))
    assert logits.shape == (2, 1, height, width)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [8, 32, 96, 160])
def test_one_network_serves_grids_of_several_sizes(size: int) -> None:
    with torch.no_grad():
        assert tiny()(drawn_on(1, size, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 1, 3)])
def test_levels_have_as_many_blocks_as_asked_for(blocks: tuple[int, ...]) -> None:
    network = tiny(blocks=blocks)
    assert tuple(len(level) for level in network.downs) == blocks  # type: ignore[arg-type]
    assert len(network.ups) == 2


@pytest.mark.parametrize("separable", [False, True])
def test_every_fresh_block_passes_on_its_input(separable: bool) -> None:
    network = tiny(separable=separable, blocks=(2, 1, 1))
    passed: list[bool] = []

    def compare(block: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        assert isinstance(block, ResidualBlock)
        passed.append(torch.equal(output, block.project(inputs[0])))

    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(compare)
    with torch.no_grad():
        assert network(drawn_on(1, 16, 16)).std() > 0
    assert passed == [True] * 6


def test_a_block_keeps_its_channels_without_a_projection() -> None:
    same = ResidualBlock(8, 8, norm_groups=4, separable=False)
    wider = ResidualBlock(4, 8, norm_groups=4, separable=False)
    assert isinstance(same.project, nn.Identity)
    assert wider(torch.rand(2, 4, 5, 6)).shape == (2, 8, 5, 6)
    image = torch.rand(2, 8, 5, 6)
    assert not torch.equal(same(image), image)
    same.start_as_identity()
    with torch.no_grad():
        assert same.second.bias is not None
        same.second.bias.zero_()
        assert torch.equal(same(image), image)


def test_separable_blocks_have_fewer_parameters() -> None:
    counts = [sum(value.numel() for value in tiny(separable=separable).parameters()) for separable in (False, True)]
    assert counts[1] < counts[0]


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"intensity_cues": False}, 2 * GEODESIC_CHANNELS),
        ({"geodesic_cues": False}, INTENSITY_CHANNELS),
        ({"intensity_cues": False, "geodesic_cues": False}, 0),
    ],
)
def test_cues_widen_the_layers_that_see_the_input_only(changes: dict[str, object], channels: int) -> None:
    full, lacking = tiny().state_dict(), tiny(**changes).state_dict()
    different = {name for name in full if full[name].shape != lacking[name].shape}
    assert different == {"stem.weight", "head.0.weight"}
    assert lacking["stem.weight"].shape[1] == CHANNELS + channels
    assert lacking["head.0.weight"].shape[1] == CHANNELS + channels + 3


def test_predictions_do_not_depend_on_the_rest_of_the_batch() -> None:
    network = trained().train()  # as in training, where batch statistics would show
    batch = drawn_on(3, 16, 20)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(batch[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("separable", [False, True])
def test_gradients_reach_every_parameter(separable: bool) -> None:
    network = trained(separable=separable)
    (network(drawn_on(2, 16, 16)) - 1.0).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_head_sees_the_full_resolution() -> None:
    network = trained()
    flat = torch.zeros(1, CHANNELS, 16, 16)
    checkered = flat.clone()
    checkered[0, 4, ::2, ::2], checkered[0, 4, 1::2, ::2] = 1.0, -1.0  # previous logits, which make no cue
    with torch.no_grad():
        difference = network(checkered) - network(flat)
    assert difference[0, 0, 4:12, 4:12].diff(dim=0).abs().min() > 1e-4


@pytest.mark.parametrize("separable", [False, True])
def test_a_saved_network_is_built_again_with_its_options(tmp_path: Path, separable: bool) -> None:
    network = trained(separable=separable, geodesic_cues=False).half().float()  # files hold half precision
    path = tmp_path / "net.safetensors"
    save_network(path, network.state_dict(), NetworkDescription("residual_unet", asdict(network.config), size=32))
    loaded, description = load_network(path)
    assert isinstance(loaded, ResidualUNet)
    assert loaded.config == network.config
    assert description.size == 32
    with torch.no_grad():
        assert torch.equal(loaded(drawn_on(1, 16, 16)), network.eval()(drawn_on(1, 16, 16)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": (8,), "blocks": (1,)}, "at least two levels"),
        ({"features": (8, 0), "blocks": (1, 1)}, "must be positive"),
        ({"blocks": (1, 0, 1)}, "must be positive"),
        ({"head_features": 0}, "must be positive"),
        ({"norm_groups": 0}, "must be positive"),
        ({"blocks": (1, 1)}, "3 features and 2 blocks; give as many"),
        ({"features": (4, 8, 6)}, r"norm_groups 4 does not divide all of the features \(4, 8, 6\)"),
    ],
)
def test_an_impossible_shape_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResidualUNetConfig(**{**TINY, **values})  # type: ignore[arg-type]


def test_lists_from_json_become_tuples() -> None:
    config = ResidualUNetConfig(features=[8, 16], blocks=[1, 2])  # type: ignore[arg-type]
    assert (config.features, config.blocks) == ((8, 16), (1, 2))
