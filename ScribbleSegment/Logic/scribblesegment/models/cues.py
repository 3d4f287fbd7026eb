"""Channels computed from the image and the prompts, which spare the network what it learns only slowly."""

from __future__ import annotations

import torch
from torch import Tensor

from scribblesegment.models.encoding import IMAGE
from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS, geodesic_cues
from scribblesegment.models.intensity_cues import INTENSITY_CHANNELS, intensity_cues

# The image, and what the classifier makes of it.
_TERRAINS = 2


def cue_channels(*, intensity: bool, geodesic: bool) -> int:
    """Count the channels that `with_cues` adds."""
    return INTENSITY_CHANNELS * intensity + _TERRAINS * GEODESIC_CHANNELS * geodesic


def with_cues(network_input: Tensor, *, intensity: bool, geodesic: bool) -> Tensor:
    """Append cues to (B, C, H, W), the channels of `scribblesegment.models.encoding`.

    Geodesic cues are measured over the image, and over the likelihoods that comparing pixels gives (Bai and Sapiro
    2007): the first are better where a structure has an outline, the second where it looks different from the rest.
    """
    if not intensity and not geodesic:
        return network_input
    compared = intensity_cues(network_input)
    cues = [network_input, compared] if intensity else [network_input]
    if geodesic:
        likelihoods = (compared[:, -1:] + 1.0) / 2.0
        cues.append(geodesic_cues(network_input, torch.cat([network_input[:, IMAGE : IMAGE + 1], likelihoods], dim=1)))
    return torch.cat(cues, dim=1)
