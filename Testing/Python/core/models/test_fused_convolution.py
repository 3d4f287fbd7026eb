"""Tests of convolutions that do the next step in the same pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from scribblesegment.models import fused_convolution
from scribblesegment.models.fused_convolution import convolve_and_activate, convolve_and_add


@pytest.fixture
def _forget() -> Iterator[None]:
    fused_convolution._fused_operations_work.cache_clear()
    yield
    fused_convolution._fused_operations_work.cache_clear()


def case(dtype: torch.dtype, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = ((2, 16, 6, 7), (8, 16, 3, 3), (8,), (batch, 8, 6, 7))
    x, weight, bias, other = (torch.randn(shape, generator=rng) for shape in shapes)
    return x.to(dtype), (weight / 12.0).to(dtype), bias.to(dtype), other.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_one_pass_gives_what_two_give(
    dtype: torch.dtype, with_gradients: bool, with_bias: bool, channels_last: bool, batch: int
) -> None:
    x, weight, bias, other = case(dtype, batch)
    chosen = bias.double() if with_bias else None
    convolved = functional.conv2d(x.double(), weight.double(), padding=1)
    activated = functional.leaky_relu(functional.conv2d(x.double(), weight.double(), chosen, padding=1), 0.2)
    if channels_last:
        x, weight, other = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight, other))
    before = other.clone()
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    with torch.set_grad_enabled(with_gradients):
        result = convolve_and_activate(x, weight, bias if with_bias else None, 0.2)
        added = convolve_and_add(x, weight, other)
    torch.testing.assert_close(result.double(), activated, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(added.double(), convolved + before.double(), atol=tolerance, rtol=tolerance)
    assert torch.equal(other, before)


def test_each_block_of_a_batch_is_added_its_own() -> None:
    x, weight, _, _ = case(torch.float32)
    other = torch.stack([torch.zeros(8, 6, 7), torch.ones(8, 6, 7)])
    blocks = convolve_and_add(x.repeat(3, 1, 1, 1), weight, other).unflatten(0, (3, 2))
    for block in blocks:
        torch.testing.assert_close(block, functional.conv2d(x, weight, padding=1) + other)


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("missing", ["_activating", "_adding"])
def test_without_the_operations_of_this_build_of_torch_the_plain_ones_do_the_same(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def absent() -> object:
        raise AttributeError("no such operation")

    monkeypatch.setattr(fused_convolution, missing, absent)
    x, weight, bias, other = case(torch.bfloat16)
    with torch.inference_mode():
        assert not fused_convolution._fused_operations_work()
        activated = convolve_and_activate(x, weight, bias, 0.2)
        expected = functional.leaky_relu(functional.conv2d(x, weight, bias, padding=1), 0.2)
        torch.testing.assert_close(activated, expected)
        added = convolve_and_add(x, weight, other)
        torch.testing.assert_close(added, functional.conv2d(x, weight, padding=1) + other)


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("changed", ["_activating", "_adding"])
def test_operations_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    def zeros(*arguments: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 3, 4, 4)

    monkeypatch.setattr(fused_convolution, changed, lambda: zeros)
    assert not fused_convolution._fused_operations_work()


def test_gradients_pass_in_bfloat16_too() -> None:
    x, weight, bias, other = case(torch.bfloat16)
    weight.requires_grad_()
    (convolve_and_activate(x, weight, bias, 0.2).sum() + convolve_and_add(x, weight, other).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
