"""Channels computed from the image and the prompts, which spare the network what it learns only slowly.

*Intensity cues* compare every pixel with those under the prompts, as interactive graph cuts and GrabCut do (Boykov and
Jolly 2001; Rother et al. 2004): one histogram under the positive prompts, one under the negative ones, and their ratio
at every pixel; of the image and of filters of it, since some structures have intensities of their own, others a
texture, others stand out from their surroundings. A logistic regression under the prompts then finds out which of them
distinguishes this image's structure best, as pixel classifiers for microscopy do (Arganda-Carreras et al. 2017; Berg et
al. 2019).

*Geodesic cues* measure how easily each pixel is reached from the prompts without crossing an edge, as grow from seeds
and geodesic segmentation do (Bai and Sapiro 2007; Criminisi et al. 2008; as channels of a network: Wang et al. 2018,
DeepIGeoS): the length of the shortest path over the image where a step costs little in even parts and much across an
edge. A convolutional network would need as many layers as a path has pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE
from scribblesegment.models.layers import without_autocast

_BINS = 32

# Side in pixels of the mean that the second channel compares, for noisy images, and of the standard deviation that the
# sixth does, for texture; and the latter's gain.
_SMOOTH_WINDOW, _TEXTURE_GAIN = 5, 3.0
# Side in pixels of the neighbourhood that the third channel compares a pixel with, and the gain of the difference: for
# thin structures on an uneven background, such as vessels.
_CONTRAST_WINDOW, _CONTRAST_GAIN = 15, 2.0
# Sides in pixels of the squares that the fourth and the fifth channel take away what is smaller than (top-hats), and
# their gains: for vessels no wider than a stroke, which the contrast smears.
_TOP_HATS = ((3, 4.0), (9, 2.0))
INTENSITY_CHANNELS = 4 + len(_TOP_HATS) + 1  # the filters, and the classifier

# Weight of a pixel by being in a box (positive) or outside of all boxes (negative): a box says much less than a stroke.
_BOX_WEIGHT = 0.02
# Weight of every pixel as background, so that the image itself is the background where nothing negative was drawn.
_PRIOR_WEIGHT = 1e-3
# Ratios are cut here before they become log odds, which would be infinite at 1.
_SUREST = 0.98
# Penalty of the regression's weights, and steps of Newton's method; more of them change nothing.
_RIDGE, _NEWTON_STEPS = 0.02, 6

GEODESIC_CHANNELS = 3
_MAPS = 2  # that paths lead over: the image, and what the classifier makes of it
_STEP_COST = 0.001  # of a pixel of the network's grid, at least; the change of intensity comes on top of it
_REACH = 0.5  # distance at which a cue has fallen to 1 / e
_SWEEPS = 4  # of rows and columns in turn. A path is followed around as many corners; more change little
_SEED = 0.3  # fainter prompts are no seeds; strokes are drawn with soft borders
_FAR = 1e4  # stands for "not reached": larger than any path, small enough to add to


def cue_channels(*, intensity: bool, geodesic: bool) -> int:
    """Count the channels that `with_cues` adds."""
    return INTENSITY_CHANNELS * intensity + _MAPS * GEODESIC_CHANNELS * geodesic


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


# Intensity.


class Appearance(NamedTuple):
    """What is known of how a structure looks."""

    ratios: Tensor  # (B, K, bins), for each filter how much its values speak for the structure, in [-1, 1]
    factors: Tensor  # (B, K + 1, 1), the classifier's weights of the filters' log odds, and its threshold


@torch.no_grad()
def intensity_cues(network_input: Tensor) -> Tensor:
    """Compare pixels with those under the prompts; (B, C, H, W), channels of `scribblesegment.models.encoding`.

    Returns:
        (B, 7, H, W) of the input's type, in [-1, 1]: 1 where values occur only under positive prompts, -1 where they
        occur only elsewhere; all 0 where nothing is positive. The channels compare the image, its mean over 5 x 5
        pixels, its difference to the mean over 15 x 15 pixels, its top-hats (bright minus dark) of 3 x 3 and 9 x 9
        pixels, its standard deviation over 5 x 5 pixels; the last is the classifier's of these six. No gradient flows
        through it.
    """
    x = network_input.float()  # sums over thousands of pixels need more digits than bfloat16 has
    with without_autocast(x.device):
        return compare_with_prompts(filter_image(x[:, IMAGE : IMAGE + 1]), x).to(network_input.dtype)


@torch.no_grad()
def compare_with_prompts(filtered: Tensor, prompts: Tensor) -> Tensor:
    """Compare pixels of (B, K, H, W), in [0, 1], with those under prompts (B, 5, H, W); float32.

    Returns:
        (B, K + 1, H, W) as `compare`; all 0 where nothing is positive.
    """
    box = prompts[:, BOX]
    has_box = box.amax(dim=(1, 2), keepdim=True)
    positive = prompts[:, POSITIVE] + _BOX_WEIGHT * box
    negative = prompts[:, NEGATIVE] + _BOX_WEIGHT * (has_box - box) + _PRIOR_WEIGHT
    learnt = learn_appearance(filtered.flatten(2), positive.flatten(1), negative.flatten(1))
    is_marked = positive.flatten(1).sum(dim=1) > 0
    return torch.where(is_marked[:, None, None, None], compare(learnt, filtered), 0.0)


def learn_appearance(filtered: Tensor, positive: Tensor, negative: Tensor) -> Appearance:
    """Learn how a structure looks from values (B, K, N) of `filter_image`, of one image or of many.

    The weights (B, N) are those of each pixel as one of the structure and as one of the background.
    """
    values = _bins(filtered)
    ratios = _ratio_table(*values, positive, negative)
    return Appearance(ratios, _regression(_features(_read(ratios, *values)), positive, negative))


def compare(appearance: Appearance, filtered: Tensor) -> Tensor:
    """How much each pixel of (B, K, H, W), from `filter_image`, looks like a structure.

    Returns:
        (B, K + 1, H, W) in [-1, 1]: by each filter, and by the classifier.
    """
    ratios = _read(appearance.ratios, *_bins(filtered.flatten(2)))
    odds = appearance.factors.mT @ _features(ratios)
    return torch.cat([ratios, torch.tanh(0.5 * odds)], dim=1).unflatten(2, filtered.shape[2:])


def filter_image(image: Tensor) -> Tensor:
    """The six filters of (B, 1, H, W), (B, 6, H, W); values are meant for [0, 1], some may lie outside."""
    smooth = local_mean(image, _SMOOTH_WINDOW)
    contrast = 0.5 + _CONTRAST_GAIN * (image - local_mean(image, _CONTRAST_WINDOW))
    top_hats = [0.5 + gain * top_hat(image, window) for window, gain in _TOP_HATS]
    variance = (local_mean(image.square(), _SMOOTH_WINDOW) - smooth.square()).clamp(min=0.0)
    return torch.cat([image, smooth, contrast, *top_hats, _TEXTURE_GAIN * variance.sqrt()], dim=1)


def local_mean(image: Tensor, window: int) -> Tensor:
    """Average over windows cut at the image's border: two matrix products, many times faster than pooling by 15."""
    rows = _window_weights(image.shape[-2], window, image.device)
    columns = _window_weights(image.shape[-1], window, image.device)
    return rows @ image @ columns.T


def top_hat(image: Tensor, window: int) -> Tensor:
    """Keep what is smaller than a square of `window` pixels: the bright positive, the dark negative."""
    both = torch.cat([image, -image], dim=1)
    opened = _dilated(-_dilated(-both, window), window)
    bright, dark = (both - opened).split(1, dim=1)
    return bright - dark


def _dilated(image: Tensor, window: int) -> Tensor:
    """Take the maximum of a square of `window` pixels (odd), much faster than torch's pooling."""
    margin = window // 2
    reached = functional.pad(image, (margin, margin, margin, margin), value=-torch.inf)
    for axis in (-2, -1):
        width = 1
        while width < window:
            step = min(width, window - width)
            length = reached.shape[axis] - step
            reached = torch.maximum(reached.narrow(axis, 0, length), reached.narrow(axis, step, length))
            width += step
    return reached


def _bins(values: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of the two bins between which each value lies, and how far it is towards the upper one."""
    position = values.clamp(0.0, 1.0) * (_BINS - 1)
    lower = position.long().clamp(max=_BINS - 2)
    return lower, position - lower


def _ratio_table(bins: Tensor, fractions: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Compare the histograms of values (B, K, N) under two weights (B, N); (B, K, bins) in [-1, 1]."""
    return _ratios(*(_density(bins, fractions, weights) for weights in (positive, negative)))


def _density(bins: Tensor, fractions: Tensor, weights: Tensor) -> Tensor:
    """Histograms (B, K, bins) of values (B, K, N) under weights (B, N), of sum 1."""
    counts = torch.zeros((*bins.shape[:2], _BINS), device=bins.device)
    counts.scatter_add_(2, bins, weights[:, None] * (1.0 - fractions))
    counts.scatter_add_(2, bins + 1, weights[:, None] * fractions)
    smoothed = counts @ _smoothing(counts.device)
    return smoothed / smoothed.sum(dim=2, keepdim=True).clamp(min=1e-6)


def _ratios(inside: Tensor, outside: Tensor) -> Tensor:
    return 2.0 * inside / (inside + outside).clamp(min=1e-6) - 1.0


@torch.no_grad()
def densities_of(filtered: Tensor, weights: Tensor) -> Tensor:
    """Histograms (B, M, K, bins) of (B, K, H, W), in [0, 1], under weights (B, M, H, W)."""
    values = _bins(filtered.flatten(2))
    return torch.stack([_density(*values, one) for one in weights.flatten(2).unbind(dim=1)], dim=1)


@torch.no_grad()
def compare_densities(densities: Tensor, filtered: Tensor) -> Tensor:
    """How much pixels of (B, K, H, W) look like the first rather than the second of (B, 2, K, bins), in [-1, 1]."""
    ratios = _ratios(*densities.unbind(dim=1))
    return _read(ratios, *_bins(filtered.flatten(2))).unflatten(2, filtered.shape[2:])


def _read(table: Tensor, bins: Tensor, fractions: Tensor) -> Tensor:
    """Interpolate a table (B, K, bins) at positions (B, K, N)."""
    return table.gather(2, bins) * (1.0 - fractions) + table.gather(2, bins + 1) * fractions


def _features(ratios: Tensor) -> Tensor:
    """Turn ratios (B, K, N) into log odds and append a constant, (B, K + 1, N)."""
    return functional.pad(2.0 * torch.atanh(ratios.clamp(-_SUREST, _SUREST)), (0, 0, 0, 1), value=1.0)


def _regression(features: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Weigh features (B, K + 1, N) by a penalised logistic regression (Newton's method); (B, K + 1, 1)."""
    inside, outside = (0.5 * one / one.sum(dim=1, keepdim=True).clamp(min=1e-6) for one in (positive, negative))
    weights = inside + outside  # (B, N)
    count = features.shape[1]
    penalty = torch.full((count,), _RIDGE, device=features.device)
    penalty[-1] = 1e-6  # the threshold is free, up to what keeps the equations solvable
    factors = features.new_zeros((len(features), count, 1))
    for _ in range(_NEWTON_STEPS):
        probability = torch.sigmoid(factors.mT @ features)[:, 0]
        gradient = features @ (weights * probability - inside)[..., None] + penalty[:, None] * factors
        curvature = (features * (weights * probability * (1.0 - probability))[:, None]) @ features.mT
        factors = factors - torch.linalg.solve(curvature + torch.diag(penalty), gradient)
    return factors


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


# Geodesic distance.


@torch.no_grad()
def geodesic_cues(network_input: Tensor, maps: Tensor | None = None) -> Tensor:
    """Measure shortest paths from the prompts in (B, C, H, W), the channels of `scribblesegment.models.encoding`.

    They lead over maps (B, T, H, W) in [0, 1], the image alone by default, on half the resolution, along rows and
    columns.

    Returns:
        (B, 3 T, H, W) of the input's type; for each map: nearness of positive prompts in [0, 1], nearness of negative
        ones in [0, 1], and which of the two is nearer in [-1, 1] (1 at positive prompts). The first is 0 everywhere
        where nothing is positive, the second where nothing is negative, the third where either is missing. The outside
        of boxes counts as a negative prompt, except where something positive is drawn. No gradient flows through it.
    """
    x = network_input.float()
    maps = x[:, IMAGE : IMAGE + 1] if maps is None else maps.float()
    if x.device.type == "mps":
        x, maps = x.cpu(), maps.cpu()  # older releases of torch lack the running minimum there
    height, width = x.shape[-2:]
    maps = functional.avg_pool2d(maps.contiguous(), 2, ceil_mode=True)[:, :, None]  # (B, T, 1, h, w)
    distances = torch.where(_seeds(x)[:, None], 0.0, _FAR).expand(-1, maps.shape[1], -1, -1, -1)  # (B, T, 2, h, w)
    rows, columns = _path_lengths(maps), _path_lengths(maps.mT)
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


def _path_lengths(maps: Tensor) -> Tensor:
    """The length of the path from the first pixel of each row, of the maps' shape."""
    steps = _STEP_COST * 2 + (maps[..., 1:] - maps[..., :-1]).abs()
    return functional.pad(steps.cumsum(dim=-1), (1, 0))


def _sweep(distances: Tensor, lengths: Tensor) -> Tensor:
    """Let every pixel be reached along its row, from both sides.

    The shortest way to x from the left is min over y <= x of distance(y) + length(x) - length(y): a running minimum.
    """
    from_left = lengths + torch.cummin(distances - lengths, dim=-1).values
    from_right = torch.cummin((distances + lengths).flip(-1), dim=-1).values.flip(-1) - lengths
    return torch.minimum(from_left, from_right)
