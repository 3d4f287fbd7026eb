"""Channels computed from the image and the prompts, which spare the network what it learns only slowly."""

from __future__ import annotations

import torch
from torch import Tensor

from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS, geodesic_cues
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS, intensity_cues


def cue_channels(*, intensity: bool, geodesic: bool) -> int:
    """Count the channels that `with_cues` adds."""
    return INTENSITY_CHANNELS * intensity + GEODESIC_CHANNELS * geodesic


def with_cues(network_input: Tensor, *, intensity: bool, geodesic: bool) -> Tensor:
    """Append cues to (B, C, H, W), the channels of `scribblesegment.models.encoding`."""
    cues = [network_input]
    if intensity:
        cues.append(intensity_cues(network_input))
    if geodesic:
        cues.append(geodesic_cues(network_input))
    return torch.cat(cues, dim=1) if len(cues) > 1 else network_input
