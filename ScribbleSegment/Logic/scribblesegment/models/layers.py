"""Parts that the networks share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.models.encoding import CHANNELS

LEAKY_SLOPE = 0.1

# Bring the input channels to one scale at the start: contrasts in an image are a fraction of the step from 0 to 1 that
# a stroke makes, and logits reach ten and more. Otherwise strokes are learnt first and the image much later.
_CHANNEL_GAINS = (4.0, 1.0, 1.0, 1.0, 0.1)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "prelu": nn.PReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
}


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keep training in mixed precision from rounding what prediction computes in float32."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def initialise(network: nn.Module, first: nn.Conv2d, *, slope: float = LEAKY_SLOPE) -> None:
    """Initialise all convolutions so that activations (of a negative slope) keep their variance (He et al. 2015).

    Without normalisation, torch's own initialisation shrinks activations about six times in each layer: the deep
    levels of a network of twenty layers would start as constants, and it would first learn to widen the strokes.
    The channels of `scribblesegment.models.encoding`, which `first` reads before any others, are brought to one scale.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if first.in_channels >= CHANNELS:
        with torch.no_grad():
            first.weight[:, :CHANNELS].mul_(torch.tensor(_CHANNEL_GAINS)[:, None, None])


@lru_cache(maxsize=64)
def _interpolation_matrix(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear interpolation weights (after, before) with the end pixels aligned."""
    # Values of this cache are used in training and in inference mode, so they are made outside of both.
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(before).unsqueeze(1)  # (before, 1, before): one impulse a row
        weights = functional.interpolate(identity, size=after, mode="linear", align_corners=True)
        return weights[:, 0].T.to(device=device, dtype=dtype).contiguous()


def upsample_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge (B, C, h, w) to (B, C, H, W) bilinearly with aligned corners, as the published network does.

    Two matrix products over the rows and columns of the channels-last layout: on processors their gradient takes a
    fraction of the time of `functional.interpolate`'s.
    """
    batch, channels, height, width = x.shape
    rows = _interpolation_matrix(height, size[0], x.dtype, x.device)
    columns = _interpolation_matrix(width, size[1], x.dtype, x.device)
    x = x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    x = (rows @ x).reshape(batch * size[0], width, channels)
    return (columns @ x).reshape(batch, *size, channels).permute(0, 3, 1, 2)
