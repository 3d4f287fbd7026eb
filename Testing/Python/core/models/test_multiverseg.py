"""Tests of the published network for interactive segmentation in context."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.models.multiverseg import MultiverSeg, MultiverSegConfig


@pytest.fixture
def vectors(shared_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(shared_dir / "golden" / "multiverseg.npz") as file:
        return {name: torch.tensor(file[name]) for name in file}


def published(vectors: dict[str, torch.Tensor]) -> MultiverSeg:
    network = MultiverSeg(MultiverSegConfig(features=(6,) * 4))
    network.load_state_dict({name[3:]: value for name, value in vectors.items() if name.startswith("w::")})
    return network


def test_the_default_network_has_the_published_parameters(shared_dir: Path) -> None:
    shapes = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = MultiverSeg()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes[
        "multiverseg_v0_v1_nf256"
    ]


@pytest.mark.parametrize("piece_values", [None, 1])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_published_parameters_give_the_published_logits(
    vectors: dict[str, torch.Tensor], piece_values: int | None, with_gradients: bool
) -> None:
    network = published(vectors)
    network.piece_values = piece_values
    with torch.set_grad_enabled(with_gradients):
        context = network.encode_context(vectors["context_images"], vectors["context_labels"])
        logits = network(vectors["x"], context).detach()
    np.testing.assert_allclose(logits.numpy(), vectors["y"].numpy(), atol=1e-5, rtol=0)


def test_published_parameters_give_the_published_logits_without_context(vectors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        logits = published(vectors)(vectors["x"])
    np.testing.assert_allclose(logits.numpy(), vectors["y_empty_context"].numpy(), atol=1e-5, rtol=0)


def test_parameter_names_do_not_depend_on_files_beside_the_project() -> None:
    names = set(MultiverSeg(MultiverSegConfig(features=(2, 2))).state_dict())
    parts = {"cross.cross_conv"} | {
        f"{side}.vmapped.{layer}" for side in ("target", "support") for layer in ("conv", "norml")
    }
    blocks = ("enc_blocks.0", "enc_blocks.1", "dec_blocks.0")
    modules = {f"{block}.{part}" for block in blocks for part in parts} | {"out_conv.conv"}
    assert names == {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


@pytest.mark.parametrize("channel", range(5))
def test_every_channel_of_the_target_counts(channel: int) -> None:
    torch.manual_seed(0)
    network, x = MultiverSeg(MultiverSegConfig(features=(4, 4))), torch.rand(1, 5, 8, 8)
    changed = x.clone()
    changed[:, channel] = 1.0 - changed[:, channel]
    with torch.no_grad():
        assert (network(changed) - network(x)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": (8,)}, "two positive widths"),
        ({"features": (8, 0)}, "two positive widths"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
    ],
)
def test_an_impossible_shape_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiverSegConfig(**values)  # type: ignore[arg-type]
