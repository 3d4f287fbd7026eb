"""Tests of the parts that the networks share."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from scribblesegment.models.layers import ACTIVATIONS, LEAKY_SLOPE, initialise, upsample_bilinear


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=15)
def test_upsampling_is_bilinear_with_aligned_corners(height: int, width: int, to_height: int, to_width: int) -> None:
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * 31 + width))
    expected = functional.interpolate(image, size=(to_height, to_width), mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsample_bilinear(image, (to_height, to_width)), expected, atol=1e-5, rtol=1e-5)


def test_upsampling_works_in_training_after_inference_mode_used_it_first() -> None:
    with torch.inference_mode():
        upsample_bilinear(torch.rand(1, 1, 5, 7), (11, 13))
    image = torch.rand(1, 1, 5, 7, requires_grad=True)
    upsample_bilinear(image, (11, 13)).sum().backward()
    assert image.grad is not None
    assert image.grad.sum() == pytest.approx(11 * 13, rel=1e-4)


def test_upsampling_keeps_the_number_format() -> None:
    image = torch.rand(1, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    enlarged = upsample_bilinear(image.bfloat16(), (9, 8))
    assert enlarged.dtype == torch.bfloat16
    torch.testing.assert_close(enlarged.float(), upsample_bilinear(image, (9, 8)), atol=0.02, rtol=0.0)


def fresh(first: nn.Conv2d, *others: nn.Module, slope: float = LEAKY_SLOPE) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(first, *others)
    initialise(network, first, slope=slope)
    return network


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_weights_keep_the_variance_for_the_slope_and_biases_are_zero(slope: float) -> None:
    _, second = fresh(nn.Conv2d(5, 40, 3), nn.Conv2d(40, 50, 3), slope=slope)
    expected = math.sqrt(2.0 / ((1.0 + slope**2) * 40 * 9))
    assert second.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert not second.bias.any()


def test_convolutions_without_bias_and_of_single_channels_are_set_too() -> None:
    _, depthwise = fresh(nn.Conv2d(5, 500, 1), nn.Conv2d(500, 500, 3, groups=500, bias=False))
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2.0 / (1.01 * 9)), rel=0.05)


def test_the_first_convolution_brings_the_input_channels_to_one_scale() -> None:
    (first,) = fresh(nn.Conv2d(8, 2000, 1))
    plain = math.sqrt(2.0 / (1.01 * 8))
    gains = first.weight.std(dim=(0, 2, 3)) / plain
    # Image, box, positive, negative, previous logits; then cues, which are in [-1, 1] like strokes.
    assert gains.tolist() == pytest.approx([4.0, 1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0], rel=0.1)


def test_a_first_convolution_of_other_channels_is_not_scaled() -> None:
    (first,) = fresh(nn.Conv2d(4, 2000, 1))
    assert first.weight.std(dim=(0, 2, 3)).tolist() == pytest.approx([math.sqrt(2.0 / (1.01 * 4))] * 4, rel=0.1)


@pytest.mark.parametrize(("name", "slope"), [("prelu", 0.25), ("leaky_relu", LEAKY_SLOPE)])
def test_activations_have_the_slopes_that_networks_are_initialised_for(name: str, slope: float) -> None:
    assert ACTIVATIONS[name]()(torch.tensor([-2.0, 3.0])).tolist() == pytest.approx([-2.0 * slope, 3.0])
