from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.models.factory import build_network
from scribblesegment.training.loop import start_from
from scribblesegment.weights.checkpoints import NetworkDescription, save_network


def a_network(path: Path | None = None, **options: Any) -> torch.nn.Module:
    """A small network with parameters that half precision holds exactly, written to a file if asked for."""
    options = {"features": [4, 8], **options}
    network = build_network("scribble_unet", options).half().float().eval()
    if path is not None:
        save_network(path, network.state_dict(), NetworkDescription("scribble_unet", options, size=16))
    return network


def some_input() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    given = torch.rand(1, 5, 16, 16, generator=generator)
    given[:, 1:4] = (given[:, 1:4] > 0.9).float()
    return given


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"intensity_cues": True}),
        ({}, {"geodesic_cues": True}),
        ({}, {"intensity_cues": True, "geodesic_cues": True}),
        ({"intensity_cues": True}, {"intensity_cues": True, "geodesic_cues": True}),
    ],
)
def test_a_network_that_is_given_more_cues_computes_what_it_did(tmp_path, before, after):
    source, network = a_network(tmp_path / "first.safetensors", **before), a_network(**after)
    start_from(network, str(tmp_path / "first.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(network(some_input()), source(some_input()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Intensity cues come before the geodesic ones, whose weights would read them.
        ({"geodesic_cues": True}, {"intensity_cues": True, "geodesic_cues": True}),
        ({"intensity_cues": True}, {"geodesic_cues": True}),
        ({"intensity_cues": True}, {}),
        ({"norm_groups": 2}, {"norm_groups": 4}),
        ({}, {"activation": "leaky_relu"}),
        ({}, {"convolutions": 2}),
    ],
)
def test_weights_that_would_compute_something_else_are_refused(tmp_path, before, after):
    a_network(tmp_path / "first.safetensors", **before)
    with pytest.raises(ConfigError, match=r"first\.safetensors is of another network"):
        start_from(a_network(**after), str(tmp_path / "first.safetensors"))


def test_an_interactive_network_gains_a_context_and_computes_what_it_did(tmp_path):
    options = {"intensity_cues": True, "geodesic_cues": True}
    source = a_network(tmp_path / "first.safetensors", **options)
    network = build_network("context_unet", {"features": [4, 8], **options}).eval()
    start_from(network, str(tmp_path / "first.safetensors"))
    given = some_input()
    context = network.encode_context(torch.rand(1, 2, 1, 16, 16), torch.ones(1, 2, 1, 16, 16))
    with torch.no_grad():
        torch.testing.assert_close(network(given), source(given), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(given, context), source(given), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="of another network"):
        start_from(
            build_network("context_unet", {"features": [4, 8], "norm_groups": 2}), str(tmp_path / "first.safetensors")
        )
