"""A 3x3 convolution of an enlarged image, without enlarging it first.

A decoder enlarges the features of the level below and convolves them. Mixing channels and interpolating between pixels
may change places: here the channels are mixed for each of the nine taps on the small grid, and the results are brought
to the large grid by products with matrices that interpolate, shift and sum. Of the multiplications of an enlargement
to twice the size and a convolution, less than half are left, and the enlarged image is never stored.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.models.layers import upsample_bilinear


def taps_of(weight: Tensor) -> Tensor:
    """Sort the weights of a 3x3 convolution, (O, C, 3, 3), for `convolve_enlarged`; (3, 3 * O, C)."""
    features, channels = weight.shape[:2]
    return weight.permute(2, 3, 0, 1).reshape(3, 3 * features, channels)


def convolve_enlarged(x: Tensor, taps: Tensor, onto: Tensor) -> Tensor:
    """Enlarge bilinearly with aligned corners, pad with zeros, convolve, and add other features.

    Args:
        x: (N, C, h, w).
        taps: Weights of the convolution from `taps_of`, (3, 3 * O, C).
        onto: (N, O, H, W); their size is that of the enlarged image. Without gradients they may be changed.

    Returns:
        (N, O, H, W), channels last.
    """
    count, channels, height, width = x.shape
    features, *size = onto.shape[1:]
    rows = _shifted_rows(height, size[0], x.dtype, x.device).flatten(1)  # (H, 3h)
    columns = _shifted_rows(width, size[1], x.dtype, x.device).transpose(1, 2).flatten(1)  # (W, w3)
    pixels = x.permute(0, 2, 3, 1).reshape(count, 1, height * width, channels)
    mixed = pixels @ taps.transpose(1, 2)  # (N, 3, h * w, 3 * O): taps of rows outside, of columns inside
    mixed = mixed.reshape(count, 3 * height, width * 3 * features)
    mixed = (rows @ mixed).reshape(count * size[0], width * 3, features)
    total = onto.permute(0, 2, 3, 1).reshape(count * size[0], size[1], features)
    columns = columns.expand(len(mixed), -1, -1)
    total = torch.baddbmm(total, columns, mixed) if torch.is_grad_enabled() else total.baddbmm_(columns, mixed)
    return total.reshape(count, *size, features).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _shifted_rows(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Interpolation weights (after, 3, before) of the pixel before, at and after each pixel; zero outside."""
    # Values of this cache are used in training and in inference mode, so they are made outside of both.
    with torch.inference_mode(False), torch.no_grad():
        impulses = torch.eye(before).reshape(1, before, before, 1)
        weights = upsample_bilinear(impulses, (after, 1))[0, :, :, 0].T  # (after, before)
        padded = functional.pad(weights, (0, 0, 1, 1))
        shifted = torch.stack([padded[tap : tap + after] for tap in range(3)], dim=1)
        return shifted.to(device=device, dtype=dtype)
