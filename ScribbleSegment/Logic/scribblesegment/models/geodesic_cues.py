"""How easily each pixel is reached from the positive prompts, and from the negative ones, without crossing an edge.

The comparison that grow from seeds and geodesic segmentation make (Bai and Sapiro 2007; Criminisi et al. 2008; as
channels of a network: Wang et al. 2018, DeepIGeoS): the length of the shortest path over the image where a step costs
little in even parts and much across an edge. A convolutional network would need as many layers as a path has pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE

GEODESIC_CHANNELS = 3

# Cost of a step of one pixel of the network's grid: at least this, and the change of intensity on top of it.
_STEP_COST = 0.001

# Distance at which a cue has fallen to 1 / e.
_REACH = 0.5

# Sweeps of rows and columns in turn. A path is followed around as many corners; more change little (see the test).
_SWEEPS = 4

# Prompts fainter than this are no seeds; strokes are drawn with soft borders.
_SEED = 0.3

# Stands for "not reached": larger than any path, small enough to add to.
_FAR = 1e4


@torch.no_grad()
def geodesic_cues(network_input: Tensor, terrains: Tensor | None = None) -> Tensor:
    """Measure shortest paths from the prompts.

    Paths are followed on half the resolution, along rows and columns.

    Args:
        network_input: (B, C, H, W), the channels of `scribblesegment.models.encoding`.
        terrains: (B, T, H, W) in [0, 1], what paths lead over; the image alone by default.

    Returns:
        (B, 3 T, H, W) of the input's type; for each terrain: nearness of positive prompts in [0, 1], nearness of
        negative ones in [0, 1], and which of the two is nearer in [-1, 1] (1 at positive prompts). The first is 0
        everywhere where nothing is positive, the second where nothing is negative, the third where either is missing.
        The outside of boxes counts as a negative prompt, except where something positive is drawn. No gradient flows
        through it.
    """
    x = network_input.float()
    terrains = x[:, IMAGE : IMAGE + 1] if terrains is None else terrains.float()
    if x.device.type == "mps":
        x, terrains = x.cpu(), terrains.cpu()  # older releases of torch lack the running minimum there
    height, width = x.shape[-2:]
    terrains = functional.avg_pool2d(terrains.contiguous(), 2, ceil_mode=True)[:, :, None]  # (B, T, 1, h, w)
    distances = torch.where(_seeds(x)[:, None], 0.0, _FAR).expand(-1, terrains.shape[1], -1, -1, -1)  # (B, T, 2, h, w)
    rows, columns = _path_lengths(terrains), _path_lengths(terrains.mT)
    for _ in range(_SWEEPS):
        distances = _sweep(distances, rows)
        distances = _sweep(distances.mT, columns).mT
    near = torch.exp(-distances / _REACH)
    to_positive, to_negative = distances[:, :, 0], distances[:, :, 1]
    is_known = (distances < _FAR / 2).all(dim=2)
    nearer = torch.where(is_known, (to_negative - to_positive) / (to_negative + to_positive + 1e-3), 0.0)
    cues = torch.cat([near, nearer[:, :, None]], dim=2).flatten(1, 2)
    return functional.interpolate(cues, scale_factor=2, mode="bilinear")[..., :height, :width].to(network_input)


def _seeds(x: Tensor) -> Tensor:
    """Mark where paths begin at half the resolution, (B, 2, h, w): positive, negative."""
    positive, box = x[:, POSITIVE], x[:, BOX]
    outside = (box.amax(dim=(1, 2), keepdim=True) - box).clamp(min=0.0)
    negative = torch.maximum(x[:, NEGATIVE], torch.where(positive > _SEED, 0.0, outside))
    seeds = functional.max_pool2d(torch.stack([positive, negative], dim=1), 2, ceil_mode=True) > _SEED
    # A pixel that both claim says nothing about which of them is near.
    return seeds & ~seeds.flip(1)


def _path_lengths(terrains: Tensor) -> Tensor:
    """Give the length of the path from the first pixel of each row, of the terrains' shape."""
    steps = _STEP_COST * 2 + (terrains[..., 1:] - terrains[..., :-1]).abs()
    return functional.pad(steps.cumsum(dim=-1), (1, 0))


def _sweep(distances: Tensor, lengths: Tensor) -> Tensor:
    """Let every pixel be reached along its row, from both sides.

    The shortest way to x from the left is min over y <= x of distance(y) + length(x) - length(y): a running minimum.
    """
    from_left = lengths + torch.cummin(distances - lengths, dim=-1).values
    from_right = torch.cummin((distances + lengths).flip(-1), dim=-1).values.flip(-1) - lengths
    return torch.minimum(from_left, from_right)
