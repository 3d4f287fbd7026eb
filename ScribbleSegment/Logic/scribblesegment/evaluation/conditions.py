"""One example under changed conditions: other strokes on it, other intensities, other pixels.

What is drawn is fixed by paths of one pixel's width. A condition then says how thickly, how many of them and how
carelessly they are painted, and how the image looks under them, so that two conditions differ in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError
from scribblesegment.simulation.regions import require_region
from scribblesegment.simulation.scribbles import VISIBLE, ScribbleConfig, centerline_scribble, limit_pixels

SIDE = 256
"""Side in pixels of the sets' images; resolutions are relative to it."""

_BoolArray = NDArray[np.bool_]
_FloatArray = NDArray[np.float32]

# The grid that the simulated user's habits are given on.
_HABITS_SIDE = 128


@dataclass(frozen=True)
class Condition:
    """How an example is shown and how carefully it is painted on.

    Attributes:
        thickness: Diameter of the brush in pixels; the default is that of strokes drawn by hand (docs/evaluation.md).
        strokes: Number of positive strokes; there is one negative stroke.
        off_target: Part of each positive stroke's pixels that lies outside of the structure, in [0, 1].
        noise: Standard deviation of Gaussian noise that is added to intensities in [0, 1].
        inverted: Whether dark and bright are exchanged.
        gamma: Intensities are raised to this power.
        contrast: Distances from the middle grey are multiplied by this, in 8 bits: below 1 grey levels are lost, above
            1 dark and bright saturate.
        resolution: Pixels that an image of 256 pixels a side is shown with; strokes and reference are brought there.

    Raises:
        ConfigError: If a value is out of range.
    """

    thickness: int = 5
    strokes: int = 1
    off_target: float = 0.0
    noise: float = 0.0
    inverted: bool = False
    gamma: float = 1.0
    contrast: float = 1.0
    resolution: int = SIDE

    def __post_init__(self) -> None:
        """Refuse what cannot be painted or shown."""
        whole = all(value == int(value) and value >= 1 for value in (self.thickness, self.strokes, self.resolution))
        finite = all(isfinite(value) for value in (self.off_target, self.noise, self.gamma, self.contrast))
        if not whole or not finite or not 0 <= self.off_target <= 1 or self.noise < 0:
            raise ConfigError(
                f"{self}: thickness, strokes and resolution are whole numbers from 1, off_target is in [0, 1] and "
                "noise at least 0."
            )
        if self.gamma <= 0 or self.contrast <= 0:
            raise ConfigError(f"{self}: gamma and contrast are above 0; use `inverted` to exchange dark and bright.")


DEFAULT_CONDITION = Condition()


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is painted and what is random about one example, the same under all conditions.

    Attributes:
        positive: Paths bool (H, W), inside the structure.
        negative: A path bool (H, W), outside.
        noise: float32 (H, W), unit variance.
    """

    positive: tuple[_BoolArray, ...]
    negative: _BoolArray
    noise: _FloatArray


@dataclass(frozen=True, eq=False)
class Scene:
    """An example under a condition: image float32 (H, W) in [0, 1], prompts and reference bool (H, W) on its pixels."""

    image: _FloatArray
    prompts: Prompts
    reference: _BoolArray


def draw_sketch(reference: _BoolArray, rng: np.random.Generator, *, strokes: int) -> Sketch:
    """Draw paths like centerline scribbles (ScribblePrompt, section 3.2): thinned, broken, warped.

    Each covers at most as many pixels as the image's longer side has (section 5.2).

    Args:
        reference: (H, W) bool, with pixels inside and outside.
        rng: Source of randomness.
        strokes: Number of positive paths.

    Raises:
        PromptError: If the reference is no bool array (H, W), or has no pixel inside or outside.
        ConfigError: If there is less than one stroke.
    """
    if strokes < 1:
        raise ConfigError(f"At least one stroke says where the structure is, got {strokes}.")
    require_region(reference)
    negative = _path(~reference, rng)
    positive = tuple(_path(reference, rng) for _ in range(strokes))
    return Sketch(positive, negative, rng.standard_normal(reference.shape, dtype=np.float32))


def show(image: _FloatArray, reference: _BoolArray, sketch: Sketch, condition: Condition) -> Scene:
    """Paint and show an example under a condition.

    Strokes end at the structure's boundary, whatever the brush, except for what is meant to be off target. Where a
    positive stroke meets the negative one, the positive one holds, as the later one does on a screen.

    Args:
        image: (H, W) in [0, 1]; square, or it is padded to a square at other resolutions than its own.
        reference: (H, W) bool.
        sketch: Its paths.
        condition: What is changed.

    Raises:
        ConfigError: If the sketch has fewer paths than the condition has strokes.
    """
    if condition.strokes > len(sketch.positive):
        raise ConfigError(
            f"The sketch has {len(sketch.positive)} positive paths, the condition has {condition.strokes} strokes; "
            "draw more."
        )
    negative = paint(sketch.negative, condition.thickness) & ~reference
    positive = np.zeros_like(reference)
    for path in sketch.positive[: condition.strokes]:
        stroke = paint(path, condition.thickness) & reference
        positive |= slip(stroke, reference, condition.off_target, thickness=condition.thickness)
    changed = change_intensities(image, condition, sketch.noise)
    if condition.resolution != SIDE:
        size = max(round(max(reference.shape) * condition.resolution / SIDE), 1)
        return _resized(changed, reference, positive, negative, size)
    return Scene(changed, _prompts(positive, negative), reference)


def paint(path: _BoolArray, thickness: int) -> _BoolArray:
    """Draw along a path (H, W) with a round brush of a diameter in pixels."""
    offsets = np.arange(thickness) - (thickness - 1) / 2
    brush = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= (thickness / 2) ** 2
    return np.asarray(ndimage.binary_dilation(path, brush))


def slip(stroke: _BoolArray, structure: _BoolArray, fraction: float, *, thickness: int) -> _BoolArray:
    """Let a part of a stroke slip over the boundary where the stroke comes nearest to it, straight outwards.

    The stroke keeps its number of pixels: as many as are now outside are missing at its far end.

    Args:
        stroke: (H, W) bool, inside the structure.
        structure: (H, W) bool.
        fraction: Which part of the stroke's pixels is outside afterwards, rounded to whole pixels.
        thickness: Diameter of the brush in pixels.

    Returns:
        (H, W) bool. Fewer pixels than asked for are outside where the image has no more.
    """
    pixels = np.argwhere(stroke)
    outside = np.argwhere(~structure)
    count = min(int(fraction * len(pixels) + 0.5), len(outside))
    if count == 0:
        return stroke
    depth, nearest = ndimage.distance_transform_edt(structure, return_indices=True)
    start = pixels[np.argmin(depth[stroke])]
    goal = nearest[:, start[0], start[1]]
    direction = (goal - start) / np.linalg.norm(goal - start)
    along = (outside - goal) @ direction
    across = np.abs((outside - goal) @ np.array([-direction[1], direction[0]]))
    away = np.linalg.norm(outside - goal, axis=1)
    # What the brush passes comes first; then, where the image ends too soon, whatever is near.
    passed = (along >= 0) & (across <= max(thickness - 1, 1) / 2 + 1e-6)
    order = np.lexsort((away, np.where(passed, along, 0.0), ~passed))
    painted = stroke.copy()
    far = np.argsort(np.linalg.norm(pixels - start, axis=1), kind="stable")[len(pixels) - count :]
    painted[tuple(pixels[far].T)] = False
    painted[tuple(outside[order[:count]].T)] = True
    return painted


def change_intensities(image: _FloatArray, condition: Condition, noise: _FloatArray) -> _FloatArray:
    """Change an image (H, W) in [0, 1] as a condition says: gamma, inversion, contrast, noise, in this order.

    Args:
        image: (H, W) in [0, 1].
        condition: What is changed.
        noise: (H, W), unit variance.

    Returns:
        float32 (H, W) in [0, 1].
    """
    changed = image**condition.gamma
    if condition.inverted:
        changed = 1 - changed
    if condition.contrast != 1:
        changed = np.clip(0.5 + condition.contrast * (changed - 0.5), 0, 1)
        changed = np.round(255 * changed) / 255
    if condition.noise:
        changed = np.clip(changed + condition.noise * noise, 0, 1)
    return np.asarray(changed, dtype=np.float32)


def _path(region: _BoolArray, rng: np.random.Generator) -> _BoolArray:
    """A centerline scribble thinned to the width of one pixel."""
    from skimage.morphology import skeletonize

    plain, scale = ScribbleConfig(), max(region.shape) / _HABITS_SIDE
    sketch = ScribbleConfig(
        thickness=(3, 3),  # wide enough that warping leaves no holes in what is thinned to a path again
        break_sigma=(scale * plain.break_sigma[0], scale * plain.break_sigma[1]),
        warp_sigma=(scale * plain.warp_sigma[0], scale * plain.warp_sigma[1]),
        warp_amplitude=(scale * plain.warp_amplitude[0], scale * plain.warp_amplitude[1]),
    )
    thinned = skeletonize(centerline_scribble(region, rng, config=sketch) >= VISIBLE).astype(np.float32)
    return limit_pixels(thinned, max(region.shape), rng) > 0


def _prompts(positive: _BoolArray, negative: _BoolArray) -> Prompts:
    prompts = Prompts.empty(positive.shape)
    if negative.any():
        prompts = prompts.with_scribble(negative, positive=False)
    return prompts.with_scribble(positive)


def _resized(image: _FloatArray, reference: _BoolArray, positive: _BoolArray, negative: _BoolArray, size: int) -> Scene:
    """Bring a scene to `size` pixels a side; a pixel belongs to the structure if half of it does."""
    grid = NetworkGrid(image.shape, (1.0, 1.0), size)
    coverage = grid.image_to_grid(reference)
    # A structure that is smaller than a pixel is the pixel that holds most of it.
    coarse = coverage >= min(0.5, float(coverage.max()))
    on_target = grid.scribbles_to_grid(positive & reference) > 0
    off_target = grid.scribbles_to_grid(positive & ~reference) > 0
    inside = (on_target & coarse) | (off_target & ~coarse)
    if not (inside & coarse).any():
        inside |= coverage == coverage.max()
    outside = (grid.scribbles_to_grid(negative) > 0) & ~coarse
    return Scene(np.clip(grid.image_to_grid(image), 0, 1), _prompts(inside, outside), coarse)
