"""Tests of convolving an enlarged image without enlarging it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from scribblesegment.models.enlarged_convolution import convolve_enlarged, taps_of
from scribblesegment.models.layers import upsample_bilinear


def enlarged_first(x: torch.Tensor, weight: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    enlarged = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return functional.conv2d(enlarged, weight, padding=1)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.integers(1, 4),
    features=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    more=st.tuples(st.integers(0, 11), st.integers(0, 11)),
    channels_last=st.booleans(),
    with_gradients=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_enlargement_the_convolution_and_a_sum(
    count: int,
    channels: int,
    features: int,
    height: int,
    width: int,
    more: tuple[int, int],
    channels_last: bool,
    with_gradients: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, height, width, generator=rng)
    weight = torch.randn(features, channels, 3, 3, generator=rng)
    size = (height + more[0], width + more[1])
    onto = torch.randn(count, features, *size, generator=rng)
    expected = onto + enlarged_first(x, weight, size)
    if channels_last:
        onto = onto.contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(with_gradients):
        result = convolve_enlarged(x, taps_of(weight), onto)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_every_tap_reads_its_own_neighbour() -> None:
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1.0
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    # Of an impulse, a convolution draws the kernel, turned by half a turn.
    result = convolve_enlarged(x, taps_of(weight), torch.zeros(1, 1, 3, 3))
    torch.testing.assert_close(result[0, 0], weight[0, 0].flip(0, 1))


def test_gradients_are_those_of_the_steps() -> None:
    torch.manual_seed(0)
    tensors = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 3, 3), torch.randn(2, 2, 8, 10)
    gradients = []
    for function in (
        lambda x, weight, onto: convolve_enlarged(x, taps_of(weight), onto),
        lambda x, weight, onto: onto + enlarged_first(x, weight, (8, 10)),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        function(*inputs).square().sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_with_gradients_nothing_is_changed() -> None:
    onto = torch.zeros(1, 2, 6, 6).contiguous(memory_format=torch.channels_last)
    convolve_enlarged(torch.rand(1, 2, 3, 3), taps_of(torch.rand(2, 2, 3, 3)), onto)
    assert not onto.any()


def test_it_can_be_used_for_training_after_prediction() -> None:
    x, taps = torch.rand(1, 2, 3, 7), taps_of(torch.rand(2, 2, 3, 3))
    with torch.inference_mode():
        convolve_enlarged(x, taps, torch.zeros(1, 2, 6, 14))
    convolve_enlarged(x.requires_grad_(), taps, torch.zeros(1, 2, 6, 14)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("height", [8, 5])
def test_in_bfloat16_it_is_as_exact_as_the_enlargement_of_the_other_networks(height: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 64, height, 8), torch.randn(16, 64, 3, 3) / 24.0
    x, weight = x.bfloat16(), weight.bfloat16()
    size = (2 * height, 16)
    exact = enlarged_first(x.double(), weight.double(), size)

    def error(result: torch.Tensor) -> float:
        return float((result.double() - exact).std() / exact.std())

    ours = convolve_enlarged(x, taps_of(weight), torch.zeros(1, 16, *size, dtype=torch.bfloat16))
    theirs = functional.conv2d(upsample_bilinear(x, size), weight, padding=1)
    assert error(ours) < 1.2 * error(theirs) < 0.01
