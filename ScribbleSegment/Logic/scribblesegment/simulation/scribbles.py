"""Simulated scribbles: line, centerline and contour (ScribblePrompt, section 3.2 and appendix B.1.1).

A clean scribble is drawn inside a region, broken into parts by smooth noise, warped by a random deformation and
multiplied by the region again, so that it varies like a hand's strokes and still never leaves what it marks. The
same functions serve the structure, its background and the error regions of a prediction. What the sources leave out,
margins and the jitter of a hand with a brush, stands at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isfinite
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.data.prompts import box_of
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import ConfigError, PromptError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

VISIBLE = 0.5
"""Warping may leave only faint traces of a stroke, which say nothing: a scribble has at least one pixel this strong."""

# Blurred values that differ by less are equal but for rounding: the region has no boundary inside the image.
_FLAT = 1e-5

# Matrices of longer sides are computed for each call: a cache of them would fill the memory.
_LONGEST_CACHED_SIDE = 512

# A Gaussian weighs nothing that counts further away than this many standard deviations.
_REACH = 4


# Regions.


def require_mask(mask: BoolArray, name: str) -> None:
    """Raise PromptError unless a mask, called `name` in the message, is a bool array (H, W).

    Integers are refused and not converted: `~` and indexing mean something else for them, silently.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise PromptError(
            f"The {name} has shape {np.shape(mask)} and type {kind}; give a two-dimensional bool array, "
            "for example `labels == 1`."
        )


def require_region(region: BoolArray, *, count: int = 1) -> None:
    """Raise PromptError unless a region is a bool array (H, W) that is not empty, ConfigError unless count >= 1."""
    require_mask(region, "region")
    if not region.any():
        raise PromptError(
            f"The region of shape {region.shape} is empty; a prompt can be simulated only where there are pixels."
        )
    if count < 1:
        raise ConfigError(f"At least one prompt is drawn at a time, got a count of {count}.")


# Smooth random fields. Smoothing is a product with one matrix per axis: on the 128 x 128 grids of training this is
# several times faster than a separable filter, and a whole stack of fields is smoothed in one call.


def gaussian_blur(images: NDArray[np.generic], sigma: float) -> FloatArray:
    """Blur the last two axes, as float32; weights are renormalised at the border: a constant stays constant.

    The standard deviation in pixels is rounded to a quarter pixel so that weights are reused; below an eighth of a
    pixel the result is a copy.
    """
    values = np.asarray(images, dtype=np.float32)
    sigma = round(4.0 * sigma) / 4.0
    if sigma <= 0:
        return values.copy()
    height, width = values.shape[-2:]
    rows, columns = _weights(_blurring_matrix, height, sigma), _weights(_blurring_matrix, width, sigma)
    return np.asarray(rows @ values @ columns.T, dtype=np.float32)


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> FloatArray:
    """Draw white Gaussian noise that is blurred and rescaled to unit variance, float32 of shape (..., H, W).

    Every pixel is distributed as N(0, 1), whatever the size of the image; two pixels d apart correlate by
    exp(-(d / (2 sigma))^2), with sigma rounded to a quarter pixel. Every leading index is an independent field.
    """
    # Blurred noise is determined by fewer numbers than it has pixels: it is drawn on nodes sigma apart (Gaussians that
    # far apart add up to a constant to within 1e-4) and reaching past the border, which makes its statistics the same
    # everywhere. This costs a quarter of blurring noise drawn for each pixel.
    sigma = round(4.0 * sigma) / 4.0
    if sigma <= 0:
        return rng.standard_normal(shape, dtype=np.float32)
    *leading, height, width = shape
    rows, columns = _weights(_noise_matrix, height, sigma), _weights(_noise_matrix, width, sigma)
    nodes = rng.standard_normal((*leading, rows.shape[1], columns.shape[1]), dtype=np.float32)
    return np.asarray(rows @ nodes @ columns.T, dtype=np.float32)


def warp_inside(image: NDArray[np.generic], displacement: FloatArray, region: BoolArray) -> FloatArray:
    """Deform an image (H, W) and multiply it by a region, the last two steps of section 3.2; float32.

    The displacement (2, H, W) is where each output pixel reads, in pixels relative to its own row and column, with
    bilinear weights; outside of the image it reads zero.
    """
    rows, columns = np.nonzero(region)
    read_at = rows + displacement[0, rows, columns], columns + displacement[1, rows, columns]
    warped = np.zeros(region.shape, dtype=np.float32)
    warped[rows, columns] = ndimage.map_coordinates(
        np.asarray(image, dtype=np.float32), read_at, order=1, mode="constant", cval=0.0, prefilter=False
    )
    return warped


def _blurring_matrix(side: int, sigma: float) -> FloatArray:
    """Gaussian weights between all positions of one axis, (side, side); each row sums to one."""
    positions = np.arange(side, dtype=np.float64)
    weights = np.exp(-0.5 * ((positions[:, None] - positions[None, :]) / sigma) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _noise_matrix(side: int, sigma: float) -> FloatArray:
    """Gaussian weights of the nodes of `smooth_noise` along one axis, (side, nodes); each row has unit length."""
    step = max(sigma, 1.0)
    margin = ceil(_REACH * sigma / step)
    nodes = step * np.arange(-margin, ceil((side - 1) / step) + margin + 1)
    weights = np.exp(-0.5 * ((np.arange(side, dtype=np.float64)[:, None] - nodes[None, :]) / sigma) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def _weights(make: Callable[[int, float], FloatArray], side: int, sigma: float) -> FloatArray:
    return _cached_weights(make, side, sigma) if side <= _LONGEST_CACHED_SIDE else make(side, sigma)


@lru_cache(maxsize=128)
def _cached_weights(make: Callable[[int, float], FloatArray], side: int, sigma: float) -> FloatArray:
    weights = make(side, sigma)
    weights.flags.writeable = False
    return weights


# Scribbles.


@dataclass(frozen=True)
class ScribbleConfig:
    """How a clean scribble is varied; ConfigError if a range is reversed, negative or not finite."""

    thickness: tuple[int, int] = (1, 3)  # stroke width in pixels, at least 1
    break_sigma: tuple[float, float] = (4.0, 20.0)  # blur (pixels) of the noise that breaks centerlines and contours
    warp_sigma: tuple[float, float] = (4.0, 16.0)  # blur (pixels) of the deformation field
    warp_amplitude: tuple[float, float] = (0.0, 4.0)  # standard deviation of the deformation in pixels
    contour_sigma: tuple[float, float] = (2.0, 8.0)  # blur (pixels) that shrinks a region before its contour is taken
    # Most pixels a scribble may cover; section 5.2 takes the image's larger side.
    max_pixels: Annotated[int | None, Range(1)] = None

    def __post_init__(self) -> None:
        for name in ("thickness", "break_sigma", "warp_sigma", "warp_amplitude", "contour_sigma"):
            values = tuple(getattr(self, name))  # lists, from JSON
            object.__setattr__(self, name, values)
            if len(values) != 2 or not all(map(isfinite, values)) or not 0 <= values[0] <= values[1]:
                raise ConfigError(f"{name} must be a range (low, high) with 0 <= low <= high, got {values}.")
        if self.thickness[0] < 1 or any(width != int(width) for width in self.thickness):
            raise ConfigError(f"thickness is in whole pixels and starts at 1, got {self.thickness}.")
        check_ranges(self)


DEFAULT_SCRIBBLES = ScribbleConfig()


def line_scribble(
    region: BoolArray, rng: np.random.Generator, *, count: int = 1, config: ScribbleConfig = DEFAULT_SCRIBBLES
) -> FloatArray:
    """Connect random pairs of points of a region (H, W) by straight lines, each warped on its own.

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

    return np.maximum.reduce([_vary(line(), region, rng, config) for _ in range(count)])


def centerline_scribble(
    region: BoolArray, rng: np.random.Generator, *, count: int = 1, config: ScribbleConfig = DEFAULT_SCRIBBLES
) -> FloatArray:
    """Thin the region to its skeleton, then break and warp it, differently for each scribble.

    Arguments, result and errors as in `line_scribble`.
    """
    require_region(region, count=count)
    skeleton = _skeleton(region)
    return np.maximum.reduce([_vary(_broken(skeleton, rng, config), region, rng, config) for _ in range(count)])


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
    # Eroded by the 4-neighbourhood; the outside of the image counts as core so that borders are no contour.
    padded = np.pad(core, 1, mode="edge")
    contour = core & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])
    if high - low < _FLAT or not contour.any():
        contour = _skeleton(region)
    return np.maximum.reduce([_vary(_broken(contour, rng, config), region, rng, config) for _ in range(count)])


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


def _broken(clean: BoolArray, rng: np.random.Generator, config: ScribbleConfig) -> BoolArray:
    """Keep the parts of a clean scribble where smooth noise exceeds its mean: half of it on average (section 3.2)."""
    parts: BoolArray = clean & (smooth_noise(clean.shape, rng.uniform(*config.break_sigma), rng) > 0)
    return parts if parts.any() else clean


def _vary(clean: BoolArray, region: BoolArray, rng: np.random.Generator, config: ScribbleConfig) -> FloatArray:
    """Thicken, warp, re-mask and limit a clean scribble that meets the region; unwarped where nothing would remain."""
    thickness = int(rng.integers(config.thickness[0], config.thickness[1] + 1))
    thick: BoolArray = clean if thickness == 1 else ndimage.maximum_filter(clean, size=thickness)
    displacement = smooth_noise((2, *clean.shape), rng.uniform(*config.warp_sigma), rng)
    displacement *= rng.uniform(*config.warp_amplitude)
    scribble = np.clip(warp_inside(thick, displacement, region), 0.0, 1.0)
    if scribble.max() < VISIBLE:
        scribble = (thick & region).astype(np.float32)
    return limit_pixels(scribble, config.max_pixels, rng)


def _skeleton(region: BoolArray) -> BoolArray:
    from skimage.morphology import skeletonize

    box = box_of(region)  # most structures are much smaller than the image
    skeleton = np.zeros(region.shape, dtype=bool)
    skeleton[box] = skeletonize(region[box])  # never empty
    return skeleton


# What the sources leave out. Their prompts fall anywhere in the structure and its background, and their scribbles never
# leave what they mark. People keep a margin on both sides of a border, and draw with brushes of several pixels: on a
# vessel of two pixels every stroke covers its surroundings too. A network trained on the published prompts alone stays
# too close to positive strokes of people, and takes what they cover for the structure.

# The inner margin, as a part of the structure's largest depth.
_INNER = (0.0, 0.6)
# Inner edge and width of the ring around the structure, as parts of that depth; the width has some pixels besides.
_OUTER, _WIDTH, _LEAST_WIDTH = (0.0, 0.6), (0.3, 1.5), 3.0

# Jitters of a stroke: whether it is moved, and in which of two ways it is widened.
_JITTERS = ((True, 0), (False, 1), (True, 1), (True, 2))
_CROSS, _SQUARE = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)
# A region is thin when less than this part of it has all four neighbours inside.
_THIN = 0.25


def draw_margins(mask: BoolArray, rng: np.random.Generator) -> tuple[BoolArray, BoolArray]:
    """Choose where somebody marks a structure (H, W), not empty, and where its background.

    Returns:
        bool (H, W) of the structure without a margin, not empty; and of a ring of its background, which is empty only
        where there is no background.
    """
    depth = ndimage.distance_transform_edt(mask)
    largest = float(depth.max())
    inner = depth > rng.uniform(*_INNER) * largest
    if mask.all():
        return inner, ~mask
    distance = ndimage.distance_transform_edt(~mask)
    start = min(rng.uniform(*_OUTER) * largest, 0.8 * float(distance.max()))
    ring = (distance > start) & (distance <= start + rng.uniform(*_WIDTH) * largest + _LEAST_WIDTH)
    return inner, ring


def stroke_jitter(scribble: FloatArray, rng: np.random.Generator, *, widens: bool = False) -> FloatArray:
    """Move a scribble by up to a pixel, widen it by a pixel on every side (in any case if `widens`), or both.

    It is not cut at what is marked; what is moved over the image's border is lost, unless that is all.
    """
    jitters = [jitter for jitter in _JITTERS if jitter[1] or not widens]
    moves, widening = jitters[int(rng.integers(len(jitters)))]
    moved = scribble
    if moves:
        moved = ndimage.shift(scribble, rng.integers(-1, 2, size=2), order=0, prefilter=False)
    if widening:
        moved = ndimage.grey_dilation(moved, footprint=_CROSS if widening == 1 else _SQUARE)
    return np.asarray(moved if moved.any() else scribble, dtype=np.float32)


def is_thin(region: BoolArray) -> bool:
    """Whether most of a region (H, W) lies at its border, so that a brush covers it from side to side."""
    inner = ndimage.binary_erosion(region, border_value=1)
    return bool(inner.sum() < _THIN * region.sum())
