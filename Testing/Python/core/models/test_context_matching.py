"""Tests of masks carried over from context images."""

from __future__ import annotations

import pytest
import torch

from scribblesegment.models.context_matching import CHANNELS_PER_HEAD, ContextMatching


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def textured(count: int, side: int = 64) -> torch.Tensor:
    """Smooth random images (count, 1, side, side) in which every place looks different."""
    coarse = torch.rand(count, 1, side // 4, side // 4)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def a_disc(side: int = 64) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows - 24) ** 2 + (columns - 36) ** 2 < 14**2).float()


def test_the_mask_of_an_identical_image_is_carried_over() -> None:
    matching = ContextMatching().eval()
    images = textured(1)
    masks = a_disc().expand(1, 1, 1, -1, -1)
    maps = matching(images, *matching.encode(images[None], masks))
    assert maps.shape == (1, CHANNELS_PER_HEAD * 3, 64, 64)
    near = (maps[0, 0] > 0) == (a_disc() > 0)  # the head that prefers the same place
    assert near.float().mean() > 0.97


def test_a_context_of_nothing_but_background_carries_background() -> None:
    matching = ContextMatching().eval()
    images = textured(3)
    maps = matching(images[:1], *matching.encode(images[None, 1:], torch.zeros(1, 2, 1, 64, 64)))
    torch.testing.assert_close(maps[:, :3], torch.full((1, 3, 64, 64), -1.0))


def test_the_difference_to_what_was_matched_is_zero_where_all_images_are_the_same() -> None:
    matching = ContextMatching().eval()
    grey = torch.full((1, 1, 32, 32), 0.4)
    maps = matching(grey, *matching.encode(grey[None], torch.ones(1, 1, 1, 32, 32)))
    torch.testing.assert_close(maps[:, 3:], torch.zeros(1, 3, 32, 32), atol=1e-5, rtol=0.0)


def test_the_order_of_context_entries_does_not_matter() -> None:
    matching = ContextMatching().eval()
    images, masks = textured(5)[None], (torch.rand(1, 5, 1, 64, 64) > 0.5).float()
    order = torch.tensor([3, 0, 4, 1, 2])
    target = textured(1)
    one = matching(target, *matching.encode(images, masks))
    other = matching(target, *matching.encode(images[:, order], masks[:, order]))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_every_target_of_a_batch_sees_its_own_context() -> None:
    matching = ContextMatching().eval()
    targets, images = textured(2), textured(6).unflatten(0, (2, 3))
    masks = (torch.rand(2, 3, 1, 64, 64) > 0.5).float()
    together = matching(targets, *matching.encode(images, masks))
    for index in range(2):
        alone = matching(
            targets[index : index + 1], *matching.encode(images[index : index + 1], masks[index : index + 1])
        )
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)


def test_training_computes_what_prediction_does_and_teaches_descriptors_and_preferences() -> None:
    matching = ContextMatching()
    images, masks = textured(2)[None], a_disc().expand(1, 2, 1, -1, -1)
    target = textured(1)
    trained = matching(target, *matching.encode(images, masks))
    with torch.no_grad():
        torch.testing.assert_close(trained, matching.eval()(target, *matching.encode(images, masks)))
    trained.square().mean().backward()
    for name, parameter in matching.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


def test_half_precision_finds_the_same_places() -> None:
    matching = ContextMatching().eval()
    images, masks = textured(2)[None], a_disc().expand(1, 2, 1, -1, -1)
    full = matching(images[0, :1], *matching.encode(images, masks))
    matching = matching.bfloat16()
    half = matching(images[0, :1].bfloat16(), *matching.encode(images.bfloat16(), masks.bfloat16()))
    assert ((half[:, 0] > 0) == (full[:, 0] > 0)).float().mean() > 0.98
