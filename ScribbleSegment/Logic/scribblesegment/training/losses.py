"""Segmentation losses on logits (ScribblePrompt, section 3.4 and appendix B.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice overlap, averaged over the batch.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        smooth: Pixels added to both sides of the ratio, so that tiny structures give a bounded gradient.

    Returns:
        Scalar in [0, 1].
    """
    logits = _full_precision(logits)
    probabilities = torch.sigmoid(logits).flatten(1)
    target = target.to(logits.dtype).flatten(1)
    overlap = (probabilities * target).sum(dim=1)
    total = probabilities.sum(dim=1) + target.sum(dim=1)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean()


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 20.0) -> Tensor:
    """Cross entropy weighted by (1 - p_t) ** gamma (Lin et al. 2017, equation 4), averaged over all pixels.

    With the large gamma used here only pixels that are wrong with confidence still count: beside the Dice loss, which
    weighs a region as a whole, it removes confident mistakes.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        gamma: Focusing exponent; zero is plain cross entropy.

    Returns:
        Scalar >= 0.
    """
    logits = _full_precision(logits)
    target = target.to(logits.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability_of_truth = torch.exp(-cross_entropy)
    # Kept off zero, where powers below one have no finite derivative.
    return ((1.0 - probability_of_truth).clamp(min=1e-8) ** gamma * cross_entropy).mean()


def segmentation_loss(logits: Tensor, target: Tensor, *, gamma: float = 20.0, focal_weight: float = 1.0) -> Tensor:
    """Soft Dice plus focal loss; arguments as in the two parts, `focal_weight` scales the second."""
    return soft_dice_loss(logits, target) + focal_weight * focal_loss(logits, target, gamma=gamma)


def _full_precision(values: Tensor) -> Tensor:
    """Sums over an image lose too much in half precision and in bfloat16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
