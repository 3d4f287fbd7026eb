"""Tests of the interactive network that is shown a context."""

from __future__ import annotations

import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.models.context_unet import ContextUNet, ContextUNetConfig, crop_maps
from scribblesegment.models.factory import build_network
from scribblesegment.models.in_context import ContextMapsNetwork
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS

OPTIONS = {"features": [8, 16], "activation": "leaky_relu", "intensity_cues": True, "geodesic_cues": True}


@pytest.fixture
def network() -> ContextUNet:
    torch.manual_seed(1)
    built = build_network("context_unet", OPTIONS)
    assert isinstance(built, ContextUNet)
    return built.eval()


def some_targets(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 5, 32, 32, generator=generator)
    x[:, 1:4] = (x[:, 1:4] > 0.95).float()
    return x


def some_context(count: int = 2, size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, size, 1, 32, 32, generator=generator)
    return images, (images > 0.6).float()


def test_it_is_a_network_of_context_maps(network: ContextUNet) -> None:
    assert isinstance(network, ContextMapsNetwork)


def test_no_context_an_empty_one_and_blank_maps_are_the_same(network: ContextUNet) -> None:
    x = some_targets()
    empty = network.encode_context(*some_context(size=0))
    blank = torch.zeros(2, network.context_channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x, empty))
        torch.testing.assert_close(network(x), network(x, blank))


def test_a_context_changes_the_prediction_and_maps_may_stand_for_it(network: ContextUNet) -> None:
    x = some_targets()
    context = network.encode_context(*some_context())
    with torch.no_grad():
        seen = network(x, context)
        assert not torch.allclose(seen, network(x))
        torch.testing.assert_close(seen, network(x, network.context_maps(x[:, :1], context)))


def test_maps_do_not_depend_on_prompts(network: ContextUNet) -> None:
    x = some_targets()
    changed = x.clone()
    changed[:, 1:] = 0.0
    context = network.encode_context(*some_context())
    with torch.no_grad():
        assert torch.equal(network.context_maps(x[:, :1], context), network.context_maps(changed[:, :1], context))


def test_the_last_maps_tell_what_looks_like_the_structure(network: ContextUNet) -> None:
    images, masks = some_context(count=1)
    target = some_targets(1)[:, :1]
    with torch.no_grad():
        maps = network.context_maps(target, network.encode_context(images, masks))
    looks = maps[:, -INTENSITY_CHANNELS:]
    assert ((looks[:, :1] > 0) == (target > 0.6)).float().mean() > 0.95


def test_a_context_without_the_structure_is_no_error(network: ContextUNet) -> None:
    images, _ = some_context()
    with torch.no_grad():
        logits = network(some_targets(), network.encode_context(images, torch.zeros_like(images)))
    assert torch.isfinite(logits).all()


def test_a_network_without_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="heads must be at least 1, got 0"):
        ContextUNetConfig(heads=0)


def test_a_part_of_maps_is_what_lies_there() -> None:
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)
    torch.testing.assert_close(crop_maps(maps, (0.0, 1.0), (0.0, 1.0), 8), maps)
    torch.testing.assert_close(crop_maps(maps, (0.5, 1.0), (0.25, 0.75), 4), maps[..., 4:, 2:6])


def test_beyond_the_maps_their_border_continues() -> None:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    part = crop_maps(maps, (-1.0, 0.0), (0.0, 1.0), 4)
    torch.testing.assert_close(part, maps[:, :, :1].expand(-1, -1, 4, -1))
