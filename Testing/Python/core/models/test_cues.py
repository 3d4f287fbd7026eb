"""Tests of the computed channels together."""

from __future__ import annotations

import pytest
import torch

from scribblesegment.models.cues import cue_channels, with_cues
from scribblesegment.models.encoding import CHANNELS, encode_prompts
from scribblesegment.models.geodesic_cues import geodesic_cues
from scribblesegment.models.intensity_cues import intensity_cues


@pytest.fixture
def network_input() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    coords = [torch.tensor([[3, 4], [12, 11]])] * 2
    labels = [torch.tensor([1, 0])] * 2
    return encode_prompts(torch.rand(2, 1, 16, 14, generator=generator), point_coords=coords, point_labels=labels)


@pytest.mark.parametrize("intensity", [False, True])
@pytest.mark.parametrize("geodesic", [False, True])
def test_the_counted_channels_are_appended_behind_the_input(
    network_input: torch.Tensor, intensity: bool, geodesic: bool
) -> None:
    extended = with_cues(network_input, intensity=intensity, geodesic=geodesic)
    assert extended.shape == (2, CHANNELS + cue_channels(intensity=intensity, geodesic=geodesic), 16, 14)
    assert torch.equal(extended[:, :CHANNELS], network_input)


def test_intensity_cues_come_before_geodesic_ones(network_input: torch.Tensor) -> None:
    extended = with_cues(network_input, intensity=True, geodesic=True)
    compared = intensity_cues(network_input)
    over_likelihoods = geodesic_cues(network_input, (compared[:, -1:] + 1) / 2)
    expected = torch.cat([compared, geodesic_cues(network_input), over_likelihoods], dim=1)
    assert torch.equal(extended[:, CHANNELS:], expected)
    assert expected.any(dim=(0, 2, 3)).all()


def test_training_in_mixed_precision_sees_the_cues_that_prediction_sees(network_input: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = with_cues(network_input, intensity=True, geodesic=True)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, with_cues(network_input, intensity=True, geodesic=True))


def test_gradients_flow_through_the_input_but_not_through_the_cues(network_input: torch.Tensor) -> None:
    network_input.requires_grad_()
    extended = with_cues(network_input, intensity=True, geodesic=True)
    extended[:, CHANNELS:].sum().backward(retain_graph=True)
    assert network_input.grad is not None
    assert not network_input.grad.any()
    extended[:, :CHANNELS].sum().backward()
    assert (network_input.grad == 1.0).all()
