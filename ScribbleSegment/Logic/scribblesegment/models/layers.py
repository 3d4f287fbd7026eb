"""Parts that the networks share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

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
