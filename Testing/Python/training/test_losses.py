from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from scribblesegment.training.loop import focal_loss, segmentation_loss, soft_dice_loss


def logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def images(*rows: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images of one row, (B, 1, 1, W)."""
    return torch.tensor(rows, dtype=dtype)[:, None, None]


# Two pixels: probability 0.8 on the structure, 0.3 beside it.
LOGITS = images([logit(0.8), logit(0.3)])
TARGET = images([1.0, 0.0])


def test_soft_dice_of_two_pixels_by_hand():
    assert soft_dice_loss(LOGITS, TARGET).item() == pytest.approx(1 - (2 * 0.8 + 1) / (1.1 + 1 + 1), rel=1e-5)
    assert soft_dice_loss(LOGITS, TARGET, smooth=0.0).item() == pytest.approx(1 - 1.6 / 2.1, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 20.0])
def test_focal_loss_of_two_pixels_by_hand(gamma):
    by_hand = (0.2**gamma * -math.log(0.8) + 0.3**gamma * -math.log(0.7)) / 2
    assert focal_loss(LOGITS, TARGET, gamma=gamma).item() == pytest.approx(by_hand, rel=1e-4)


def test_the_published_gamma_is_the_default():
    assert focal_loss(LOGITS, TARGET).item() == pytest.approx(0.3**20 * -math.log(0.7) / 2, rel=1e-3)


def test_without_focus_it_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 4, generator=generator)
    target = (torch.rand(2, 1, 4, 4, generator=generator) > 0.5).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(focal_loss(logits, target, gamma=0.0), expected)


def test_the_segmentation_loss_is_the_weighted_sum_of_both():
    expected = soft_dice_loss(LOGITS, TARGET) + 0.25 * focal_loss(LOGITS, TARGET, gamma=2.0)
    torch.testing.assert_close(segmentation_loss(LOGITS, TARGET, gamma=2.0, focal_weight=0.25), expected)


def test_every_image_of_a_batch_counts_alike_for_dice():
    logits = images([9.0, 9.0, -9.0, -9.0], [9.0, -9.0, -9.0, -9.0])
    target = images([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    separate = [soft_dice_loss(logits[[index]], target[[index]]) for index in (0, 1)]
    torch.testing.assert_close(soft_dice_loss(logits, target), torch.stack(separate).mean())


def test_dice_is_zero_for_a_perfect_and_near_one_for_an_opposite_prediction():
    target = torch.zeros(1, 1, 16, 16)
    target[..., :8] = 1.0
    assert soft_dice_loss(200.0 * target - 100.0, target).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice_loss(100.0 - 200.0 * target, target).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("loss", [soft_dice_loss, focal_loss, segmentation_loss])
def test_the_gradient_is_that_of_the_value(loss):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    target = (torch.rand(2, 1, 3, 3, dtype=torch.float64, generator=generator) > 0.5).double()
    assert gradcheck(lambda values: loss(values, target), (logits,), eps=1e-6, atol=1e-8)


def test_the_gradient_of_the_focal_loss_is_right_where_it_is_not_tiny():
    logits = images([-3.0, 2.0, 0.5], dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda values: focal_loss(values, images([1.0, 0.0, 1.0], dtype=torch.float64)), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 20.0])
def test_huge_logits_give_finite_values_and_gradients(gamma):
    logits = images([1e4, -1e4, 1e4, -1e4]).requires_grad_()
    loss = segmentation_loss(logits, images([1.0, 0.0, 0.0, 1.0]), gamma=gamma)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    logits = torch.full((1, 1, 128, 128), 2.0, dtype=dtype)
    target = torch.ones(1, 1, 128, 128, dtype=dtype)
    loss = soft_dice_loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_dice_loss(logits.float(), target.float()))
    assert focal_loss(logits, target).dtype == torch.float32


def test_a_boolean_target_is_understood():
    assert segmentation_loss(LOGITS, TARGET.bool()).item() == segmentation_loss(LOGITS, TARGET).item()
