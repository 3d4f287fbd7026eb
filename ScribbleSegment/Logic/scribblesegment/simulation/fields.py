"""Smooth random fields and the warping they drive (ScribblePrompt, section 3.2 and appendix B.1.1).

Smoothing is a product with one matrix per axis. On the 128 x 128 grids of training this is several times faster than a
separable filter, and a whole stack of fields is smoothed in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]

# Matrices of longer sides are made anew for each call: a cache of them would fill the memory.
_LONGEST_CACHED_SIDE = 512

# A Gaussian weighs nothing that counts further away than this many standard deviations.
_REACH = 4


def gaussian_blur(images: NDArray[np.generic], sigma: float) -> FloatArray:
    """Blur the last two axes.

    Args:
        images: (..., H, W).
        sigma: Standard deviation in pixels, rounded to a quarter pixel so that weights are reused; below an eighth of
            a pixel the result is a copy.

    Returns:
        float32 (..., H, W). Weights are renormalised at the border: a constant stays constant.
    """
    values = np.asarray(images, dtype=np.float32)
    sigma = _quarters(sigma)
    if sigma <= 0:
        return values.copy()
    height, width = values.shape[-2:]
    rows, columns = _weights(_blurring_matrix, height, sigma), _weights(_blurring_matrix, width, sigma)
    return np.asarray(rows @ values @ columns.T, dtype=np.float32)


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> FloatArray:
    """Draw white Gaussian noise that is blurred and rescaled to unit variance.

    Noise blurred by a Gaussian is smooth, so it is determined by fewer numbers than it has pixels: it is drawn on nodes
    `sigma` apart (Gaussians that far apart add up to a constant to within 1e-4) and reaching past the border, which
    makes its statistics the same everywhere. This costs a quarter of blurring noise drawn for each pixel.

    Args:
        shape: (..., H, W); every leading index is an independent field.
        sigma: Blur in pixels, rounded to a quarter pixel; larger is smoother.
        rng: Source of randomness.

    Returns:
        float32 fields. Every pixel is distributed as N(0, 1), whatever the size of the image; two pixels d apart
        correlate by exp(-(d / (2 sigma))^2).
    """
    sigma = _quarters(sigma)
    if sigma <= 0:
        return rng.standard_normal(shape, dtype=np.float32)
    *leading, height, width = shape
    rows, columns = _weights(_noise_matrix, height, sigma), _weights(_noise_matrix, width, sigma)
    nodes = rng.standard_normal((*leading, rows.shape[1], columns.shape[1]), dtype=np.float32)
    return np.asarray(rows @ nodes @ columns.T, dtype=np.float32)


def sample_linear(image: NDArray[np.generic], rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Read an image at fractional positions with bilinear weights; positions outside read zero.

    Args:
        image: (H, W).
        rows: Row positions, any shape.
        columns: Column positions, of the same shape.

    Returns:
        float32 of the positions' shape.
    """
    values = np.asarray(image, dtype=np.float32)
    return np.asarray(
        ndimage.map_coordinates(values, (rows, columns), order=1, mode="constant", cval=0.0, prefilter=False),
        dtype=np.float32,
    )


def warp_inside(image: NDArray[np.generic], displacement: FloatArray, region: NDArray[np.bool_]) -> FloatArray:
    """Deform an image by a displacement field and multiply it by a region, the last two steps of section 3.2.

    Args:
        image: (H, W).
        displacement: (2, H, W) pixels: where each output pixel reads, relative to its own row and column.
        region: (H, W) bool.

    Returns:
        float32 (H, W); zero outside the region, and where a pixel reads outside the image.
    """
    rows, columns = np.nonzero(region)
    warped = np.zeros(region.shape, dtype=np.float32)
    warped[rows, columns] = sample_linear(
        image, rows + displacement[0, rows, columns], columns + displacement[1, rows, columns]
    )
    return warped


def _quarters(sigma: float) -> float:
    return round(4.0 * sigma) / 4.0


def _gaussian(distances: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * (distances / sigma) ** 2), dtype=np.float64)


def _blurring_matrix(side: int, sigma: float) -> FloatArray:
    """Gaussian weights between all positions of one axis, (side, side); each row sums to one."""
    positions = np.arange(side, dtype=np.float64)
    weights = _gaussian(positions[:, None] - positions[None, :], sigma)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _noise_matrix(side: int, sigma: float) -> FloatArray:
    """Gaussian weights of the nodes of `smooth_noise` along one axis, (side, nodes); each row has unit length."""
    step = max(sigma, 1.0)
    margin = ceil(_REACH * sigma / step)
    nodes = step * np.arange(-margin, ceil((side - 1) / step) + margin + 1)
    weights = _gaussian(np.arange(side, dtype=np.float64)[:, None] - nodes[None, :], sigma)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def _weights(make: Callable[[int, float], FloatArray], side: int, sigma: float) -> FloatArray:
    return _cached_weights(make, side, sigma) if side <= _LONGEST_CACHED_SIDE else make(side, sigma)


@lru_cache(maxsize=128)
def _cached_weights(make: Callable[[int, float], FloatArray], side: int, sigma: float) -> FloatArray:
    weights = make(side, sigma)
    weights.flags.writeable = False
    return weights
