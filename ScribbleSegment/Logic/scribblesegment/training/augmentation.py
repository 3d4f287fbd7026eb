"""Random changes of an image and its mask (ScribblePrompt, appendix D, table 6; MultiverSeg, table 5 (b)).

All spatial changes are combined into one coordinate map, so image and mask are interpolated once. The map also brings
the source to the network's grid; where that shrinks the source, a copy that was halved before is read, which keeps fine
detail from aliasing.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scribblesegment.simulation.scribbles import FloatArray, gaussian_blur, sample_linear
from scribblesegment.training.config import AugmentationConfig

# Smoothing kernel of the sharpness change: center 5, neighbours 1, sum 13 (as in the Python Imaging Library).
_CENTER_WEIGHT, _KERNEL_SUM = 5.0, 13.0


def halve(image: NDArray[np.generic], times: int = 1) -> FloatArray:
    """Average 2 x 2 pixels of (H, W), `times` times; an odd last row or column is repeated."""
    values = np.asarray(image, dtype=np.float32)
    for _ in range(times):
        values = np.pad(values, [(0, side % 2) for side in values.shape], mode="edge")
        values = values.reshape(values.shape[0] // 2, 2, values.shape[1] // 2, 2).mean(axis=(1, 3))
    return values


def random_coordinates(
    side: int, size: int, rng: np.random.Generator, config: AugmentationConfig
) -> tuple[FloatArray, FloatArray]:
    """Draw where each pixel of the network's grid reads in a square source image.

    Args:
        side: Side of the source in pixels.
        size: Side of the network's grid.
        rng: Source of randomness.
        config: Ranges.

    Returns:
        Rows and columns in source pixels, each float32 (size, size).
    """
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    rows, columns = np.meshgrid(axis, axis, indexing="ij")  # grid pixels from the center
    if rng.random() < config.elastic_p:
        displacement = gaussian_blur(
            rng.uniform(-1.0, 1.0, size=(2, size, size)).astype(np.float32), rng.uniform(*config.elastic_sigma)
        )
        # The strength is defined in normalised coordinates, in which half the image is one.
        displacement *= rng.uniform(*config.elastic_alpha) * size / 2
        rows, columns = rows + displacement[0], columns + displacement[1]
    if rng.random() < config.affine_p:
        angle = math.radians(rng.uniform(*config.degrees))
        magnification = rng.uniform(*config.scale)
        cosine, sine = math.cos(angle) / magnification, math.sin(angle) / magnification
        shift = rng.uniform(-config.translate, config.translate, size=2) * size
        rows, columns = (
            cosine * rows + sine * columns + shift[0],
            -sine * rows + cosine * columns + shift[1],
        )
    if rng.random() < config.flip_p:
        rows = -rows
    if rng.random() < config.flip_p:
        columns = -columns
    step = side / size
    middle = (side - 1) / 2
    return np.asarray(rows * step + middle, dtype=np.float32), np.asarray(columns * step + middle, dtype=np.float32)


def refine_coordinates(coordinates: FloatArray, factor: int) -> FloatArray:
    """Give coordinates (S, S) at the centers of pixels `factor` times smaller, (factor S, factor S)."""
    refine = _refinement(len(coordinates), factor)
    return np.asarray(refine @ coordinates @ refine.T, dtype=np.float32)


@lru_cache(maxsize=4)
def _refinement(side: int, factor: int) -> FloatArray:
    """Linear interpolation weights (factor side, side), continued beyond the outermost centers."""
    positions = (np.arange(factor * side) + 0.5) / factor - 0.5
    lower = np.clip(np.floor(positions).astype(np.intp), 0, side - 2)
    weights = np.zeros((factor * side, side), dtype=np.float32)
    fraction = positions - lower
    weights[np.arange(len(positions)), lower] = 1.0 - fraction
    weights[np.arange(len(positions)), lower + 1] = fraction
    weights.flags.writeable = False
    return weights


def is_inside(side: int, rows: FloatArray, columns: FloatArray) -> NDArray[np.bool_]:
    """Tell which coordinates lie on a pixel of a square source of `side` pixels."""
    reach = side / 2
    middle = (side - 1) / 2
    return np.asarray((np.abs(rows - middle) <= reach) & (np.abs(columns - middle) <= reach), dtype=np.bool_)


def resample(image: NDArray[np.generic], rows: FloatArray, columns: FloatArray, *, halvings: int = 0) -> FloatArray:
    """Read an image at coordinates given in pixels of its source.

    Args:
        image: (H, W): the source, or a copy of it that was halved.
        rows: Rows in source pixels, of any shape.
        columns: Columns, of the same shape.
        halvings: How often the image was halved.

    Returns:
        float32 of the coordinates' shape; outside the image the nearest edge pixel.
    """
    size = 2**halvings  # source pixels a side of one pixel of the copy
    height, width = image.shape
    return sample_linear(
        image,
        np.clip((rows + 0.5) / size - 0.5, 0, height - 1),
        np.clip((columns + 0.5) / size - 0.5, 0, width - 1),
    )


def change_contrast(image: FloatArray, rng: np.random.Generator, config: AugmentationConfig) -> FloatArray:
    """Change how intensities (H, W) in [0, 1] are shown, as another scanner or display would; float32."""
    if rng.random() < config.invert_p:
        image = 1.0 - image
    if rng.random() < config.gamma_p:
        image = np.power(image, np.float32(rng.uniform(*config.gamma)))
    if rng.random() < config.brightness_contrast_p:
        mean = image.mean()
        image = (image - mean) * rng.uniform(*config.contrast) + mean + rng.uniform(*config.brightness)
    return np.asarray(image, dtype=np.float32)


def change_texture(image: FloatArray, rng: np.random.Generator, config: AugmentationConfig) -> FloatArray:
    """Sharpen, blur and add noise to (H, W); the result is float32 in [0, 1]."""
    if rng.random() < config.sharpness_p:
        image = _sharpen(image, rng.uniform(0.0, config.sharpness))
    if rng.random() < config.blur_p:
        image = gaussian_blur(image, rng.uniform(*config.blur_sigma))
    if rng.random() < config.noise_p:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + rng.uniform(*config.noise_mean) + rng.uniform(*config.noise_std) * noise
    return np.asarray(np.clip(image, 0.0, 1.0), dtype=np.float32)


def _sharpen(image: FloatArray, factor: float) -> FloatArray:
    padded = np.pad(image, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = (box + (_CENTER_WEIGHT - 1.0) * image) / _KERNEL_SUM
    return np.asarray(np.clip(smooth + factor * (image - smooth), 0.0, 1.0), dtype=np.float32)
