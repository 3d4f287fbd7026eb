"""How much each pixel's intensity looks like the positive prompts', and not like the negative ones'.

The comparison that interactive graph cuts and GrabCut start from (Boykov and Jolly 2001; Rother et al. 2004): one
intensity histogram under the positive prompts, one under the negative ones, and their ratio at every pixel. A
convolutional network can learn this, but only slowly, since it has to carry intensities from the strokes to everywhere
else; given as channels, it is there from the first step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE

INTENSITY_CHANNELS = 3

_BINS = 32

# Side in pixels of the mean that the second channel looks at, for noisy images.
_SMOOTH_WINDOW = 5

# Side in pixels of the neighbourhood that the third channel compares a pixel with, and the gain of the difference: for
# thin structures on an uneven background, such as vessels.
_CONTRAST_WINDOW, _CONTRAST_GAIN = 15, 2.0

# Weight of a pixel by being in a box (positive) or outside of all boxes (negative): a box says much less than a stroke.
_BOX_WEIGHT = 0.02

# Weight of every pixel as background, so that the image itself is the background where nothing negative was drawn.
_PRIOR_WEIGHT = 1e-3


@torch.no_grad()
def intensity_cues(network_input: Tensor) -> Tensor:
    """Compare intensities with those under the prompts.

    Args:
        network_input: (B, C, H, W), the channels of `scribblesegment.models.encoding`.

    Returns:
        (B, 3, H, W) of the input's type, in [-1, 1]: 1 where intensities occur only under positive prompts, -1 where
        they occur only elsewhere; all 0 where nothing is positive. The first channel compares the image, the second
        its mean over 5 x 5 pixels, the third its difference to the mean over 15 x 15 pixels. No gradient flows
        through it.
    """
    x = network_input.float()  # sums over thousands of pixels need more digits than bfloat16 has
    image, box = x[:, IMAGE : IMAGE + 1], x[:, BOX]
    has_box = box.amax(dim=(1, 2), keepdim=True)
    positive = x[:, POSITIVE] + _BOX_WEIGHT * box
    negative = x[:, NEGATIVE] + _BOX_WEIGHT * (has_box - box) + _PRIOR_WEIGHT
    smooth, surroundings = _local_mean(image, _SMOOTH_WINDOW), _local_mean(image, _CONTRAST_WINDOW)
    contrast = 0.5 + _CONTRAST_GAIN * (image - surroundings)
    cues = [_ratio(version[:, 0], positive, negative) for version in (image, smooth, contrast)]
    return torch.stack(cues, dim=1).to(network_input.dtype)


def _local_mean(image: Tensor, window: int) -> Tensor:
    """Average over windows cut at the image's border: two matrix products, many times faster than pooling by 15."""
    rows = _window_weights(image.shape[-2], window, image.device)
    columns = _window_weights(image.shape[-1], window, image.device)
    with _without_autocast(image.device):
        return rows @ image @ columns.T


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keep training in mixed precision from rounding what prediction computes in float32."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _ratio(image: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compare two weighted histograms at each pixel; all arguments and the result are (B, H, W)."""
    position = image.flatten(1).clamp(0.0, 1.0) * (_BINS - 1)
    lower = position.long().clamp(max=_BINS - 2)
    fraction = position - lower

    def density(weights: Tensor) -> Tensor:
        flat = weights.flatten(1)
        counts = torch.zeros((flat.shape[0], _BINS), device=flat.device)
        counts.scatter_add_(1, lower, flat * (1.0 - fraction))
        counts.scatter_add_(1, lower + 1, flat * fraction)
        smoothed = (counts[:, :, None] * _smoothing(counts.device)).sum(dim=1)
        smoothed = smoothed / smoothed.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return smoothed.gather(1, lower) * (1.0 - fraction) + smoothed.gather(1, lower + 1) * fraction

    inside, outside = density(positive), density(negative)
    ratio = 2.0 * inside / (inside + outside).clamp(min=1e-6) - 1.0
    is_marked = (positive.flatten(1).sum(dim=1, keepdim=True) > 0).float()
    return (ratio * is_marked).reshape(image.shape)


@lru_cache(maxsize=64)
def _window_weights(side: int, window: int, device: torch.device) -> Tensor:
    """Weights (side, side) of the mean over `window` neighbours of each position of one axis."""
    with torch.inference_mode(False):
        positions = torch.arange(side, device=device)
        weights = ((positions[:, None] - positions[None, :]).abs() <= window // 2).float()
        return weights / weights.sum(dim=1, keepdim=True)


@lru_cache(maxsize=8)
def _smoothing(device: torch.device) -> Tensor:
    """Gaussian weights between neighbouring bins (standard deviation one bin), rows of sum 1."""
    with torch.inference_mode(False):
        bins = torch.arange(_BINS, dtype=torch.float32, device=device)
        weights = torch.exp(-0.5 * (bins[:, None] - bins[None, :]) ** 2)
        return weights / weights.sum(dim=1, keepdim=True)
