"""Simulated scribbles: line, centerline and contour (ScribblePrompt, section 3.2 and appendix B.1.1).

A clean scribble is drawn inside a region, broken into parts by smooth noise, warped by a random deformation and
multiplied by the region again, so that it varies like a hand's strokes and still never leaves what it marks. The
same functions serve the structure, its background and the error regions of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import numpy as np
from scipy import ndimage

from scribblesegment.errors import ConfigError
from scribblesegment.simulation.fields import FloatArray, gaussian_blur, smooth_noise, warp_inside
from scribblesegment.simulation.regions import BoolArray, bounding_slices, require_region

# Warping may leave only faint traces of a stroke, which say nothing: a scribble has at least one pixel of this value.
VISIBLE = 0.5

# Blurred values that differ by less are equal but for rounding: the region has no boundary inside the image.
_FLAT = 1e-5


@dataclass(frozen=True)
class ScribbleConfig:
    """How a clean scribble is varied.

    Attributes:
        thickness: Smallest and largest stroke width in pixels.
        break_sigma: Range of the blur (pixels) of the noise that breaks centerlines and contours.
        warp_sigma: Range of the blur (pixels) of the deformation field.
        warp_amplitude: Range of the deformation's standard deviation in pixels.
        contour_sigma: Range of the blur (pixels) that shrinks a region before its contour is taken.
        max_pixels: Most pixels one scribble may cover, or None; section 5.2 limits it to the image's larger side.

    Raises:
        ConfigError: If a range is reversed, negative or not finite, or thickness or max_pixels is below one pixel.
    """

    thickness: tuple[int, int] = (1, 3)
    break_sigma: tuple[float, float] = (4.0, 20.0)
    warp_sigma: tuple[float, float] = (4.0, 16.0)
    warp_amplitude: tuple[float, float] = (0.0, 4.0)
    contour_sigma: tuple[float, float] = (2.0, 8.0)
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Turn lists (from JSON) into tuples and refuse values out of range."""
        for name in ("thickness", "break_sigma", "warp_sigma", "warp_amplitude", "contour_sigma"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != 2 or not all(map(isfinite, values)) or not 0 <= values[0] <= values[1]:
                raise ConfigError(f"{name} must be a range (low, high) with 0 <= low <= high, got {values}.")
        if self.thickness[0] < 1 or any(width != int(width) for width in self.thickness):
            raise ConfigError(f"thickness is in whole pixels and starts at 1, got {self.thickness}.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels is None or at least 1, got {self.max_pixels}.")


DEFAULT_SCRIBBLES = ScribbleConfig()


def line_scribble(
    region: BoolArray, rng: np.random.Generator, *, count: int = 1, config: ScribbleConfig = DEFAULT_SCRIBBLES
) -> FloatArray:
    """Connect random pairs of points of the region by straight lines, each warped on its own.

    Args:
        region: (H, W) bool, not empty.
        rng: Source of randomness.
        count: Number of scribbles, drawn independently.
        config: Variation.

    Returns:
        float32 (H, W) in [0, 1], zero outside the region, at least `VISIBLE` somewhere.

    Raises:
        PromptError: If the region is no bool array (H, W), or is empty.
        ConfigError: If the count is below one.
    """
    require_region(region, count=count)
    rows, columns = np.nonzero(region)

    def line() -> BoolArray:
        start, stop = rng.integers(0, rows.size, size=2)
        steps = int(max(abs(rows[start] - rows[stop]), abs(columns[start] - columns[stop]))) + 1
        clean = np.zeros(region.shape, dtype=bool)
        clean[
            np.rint(np.linspace(rows[start], rows[stop], steps)).astype(np.intp),
            np.rint(np.linspace(columns[start], columns[stop], steps)).astype(np.intp),
        ] = True
        return clean

    return _unite(lambda: _vary(line(), region, rng, config), count)


def centerline_scribble(
    region: BoolArray, rng: np.random.Generator, *, count: int = 1, config: ScribbleConfig = DEFAULT_SCRIBBLES
) -> FloatArray:
    """Thin the region to its skeleton, then break and warp it, differently for each scribble.

    Arguments, result and errors as in `line_scribble`.
    """
    require_region(region, count=count)
    skeleton = _skeleton(region)
    return _unite(lambda: _vary(_broken(skeleton, rng, config), region, rng, config), count)


def contour_scribble(
    region: BoolArray, rng: np.random.Generator, *, count: int = 1, config: ScribbleConfig = DEFAULT_SCRIBBLES
) -> FloatArray:
    """Follow the boundary at one random depth inside the region, broken and warped differently for each scribble.

    A region without a boundary in the image (one that fills it, or a single pixel) gets a centerline scribble.
    Arguments, result and errors as in `line_scribble`.
    """
    require_region(region, count=count)
    blurred = gaussian_blur(region, rng.uniform(*config.contour_sigma))
    inside = blurred[region]
    low, high = float(inside.min()), float(inside.max())
    core = region & (blurred > rng.uniform(low, high))
    contour = core & ~_eroded(core)
    if high - low < _FLAT or not contour.any():
        contour = _skeleton(region)
    return _unite(lambda: _vary(_broken(contour, rng, config), region, rng, config), count)


def limit_pixels(scribble: FloatArray, max_pixels: int | None, rng: np.random.Generator) -> FloatArray:
    """Shorten a scribble (H, W) to at most `max_pixels` covered pixels, if that is a number.

    The pixels nearest to a random visible one are kept, so that what is left is one part of the drawing.
    """
    rows, columns = np.nonzero(scribble)
    if max_pixels is None or rows.size <= max_pixels:
        return scribble
    anchor = rng.choice(np.flatnonzero(scribble[rows, columns] >= VISIBLE))
    distance = (rows - rows[anchor]) ** 2 + (columns - columns[anchor]) ** 2
    far = np.argsort(distance, kind="stable")[max_pixels:]
    limited = scribble.copy()
    limited[rows[far], columns[far]] = 0.0
    return limited


def _unite(draw: Callable[[], FloatArray], count: int) -> FloatArray:
    scribble = draw()
    for _ in range(count - 1):
        np.maximum(scribble, draw(), out=scribble)
    return scribble


def _broken(clean: BoolArray, rng: np.random.Generator, config: ScribbleConfig) -> BoolArray:
    """Keep the parts of a clean scribble where smooth noise exceeds its mean: half of it on average (section 3.2)."""
    parts: BoolArray = clean & (smooth_noise(clean.shape, rng.uniform(*config.break_sigma), rng) > 0)
    return parts if parts.any() else clean


def _vary(clean: BoolArray, region: BoolArray, rng: np.random.Generator, config: ScribbleConfig) -> FloatArray:
    """Thicken, warp, re-mask and limit a clean scribble that meets the region; unwarped where nothing would remain."""
    thick = _thickened(clean, int(rng.integers(config.thickness[0], config.thickness[1] + 1)))
    displacement = smooth_noise((2, *clean.shape), rng.uniform(*config.warp_sigma), rng)
    displacement *= rng.uniform(*config.warp_amplitude)
    scribble = np.clip(warp_inside(thick, displacement, region), 0.0, 1.0)
    if scribble.max() < VISIBLE:
        scribble = (thick & region).astype(np.float32)
    return limit_pixels(scribble, config.max_pixels, rng)


def _skeleton(region: BoolArray) -> BoolArray:
    from skimage.morphology import skeletonize

    # Work in the bounding box: most structures are much smaller than the image.
    box = bounding_slices(region)
    skeleton = np.zeros(region.shape, dtype=bool)
    skeleton[box] = skeletonize(region[box])  # never empty
    return skeleton


def _eroded(mask: BoolArray) -> BoolArray:
    """Erode by the 4-neighbourhood; the outside of the image counts as mask so that borders are no contour."""
    padded = np.pad(mask, 1, mode="edge")
    return np.asarray(
        mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:], dtype=np.bool_
    )


def _thickened(mask: BoolArray, thickness: int) -> BoolArray:
    if thickness == 1:
        return mask
    return np.asarray(ndimage.maximum_filter(mask, size=thickness), dtype=np.bool_)
