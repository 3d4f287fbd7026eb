"""Images that never were: shapes drawn at random and rendered with random intensities.

In the manner of the synthetic tasks of the sources (MultiverSeg, appendix B; SynthMorph and SynthSeg, which they build
on): a label map of random shapes, each label with an intensity and a texture of its own, then blur, an uneven field and
noise. What such images teach is that a structure is what its boundary says, in any contrast, and they hold what the
corpus lacks: branching vessels of every width, overlapping shadows as in X-ray, crowds of touching cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.simulation.scribbles import FloatArray, gaussian_blur, smooth_noise

BoolArray = NDArray[np.bool_]

UnsignedArray = NDArray[np.unsignedinteger[Any]]


# Superpixels that a structure of several consists of, at most.
_MOST_PARTS = 4


def superpixels(image: NDArray[np.float32], scale: float) -> UnsignedArray:
    """Partition an image with Felzenszwalb's graph-based method.

    Args:
        image: (H, W) in [0, 1].
        scale: The method's scale; larger gives larger superpixels.

    Returns:
        (H, W), numbered from 0, of the smallest unsigned type that holds the numbers (many such maps are kept).
    """
    from skimage.segmentation import felzenszwalb

    partition = felzenszwalb(image, scale=scale)
    return np.asarray(partition, dtype=np.min_scalar_type(partition.max()))


def pick_superpixel(
    partition: UnsignedArray, rng: np.random.Generator, *, min_area: int, area_power: float = 0.0, union_p: float = 0.0
) -> BoolArray | None:
    """Choose a superpixel among those of at least `min_area` pixels, or several.

    Args:
        partition: (H, W), numbered from 0.
        rng: Source of randomness.
        min_area: Fewest pixels.
        area_power: Superpixels are drawn in proportion to area ** area_power; zero draws all alike, as published.
        union_p: Chance that the structure has up to `_MOST_PARTS` superpixels, wherever they lie (published: 0).

    Returns:
        bool (H, W), or None where no superpixel is large enough or only one covers everything.
    """
    areas = np.bincount(partition.ravel())
    large = np.flatnonzero((areas >= min_area) & (areas < partition.size))
    if large.size == 0:
        return None
    weights = areas[large].astype(np.float64) ** area_power
    parts = int(rng.integers(2, _MOST_PARTS + 1)) if union_p > 0 and rng.random() < union_p else 1
    # One is always left out: a structure that covers everything has no boundary.
    parts = max(1, min(parts, large.size - 1))
    chosen = rng.choice(large, size=parts, replace=False, p=weights / weights.sum())
    return np.isin(partition, chosen)


LabelArray = NDArray[np.uint8]


def smooth_shape(side: int, rng: np.random.Generator) -> BoolArray:
    """Draw a smooth outline that has nothing to do with an image, bool (side, side): only strokes say where it is."""
    axis = (np.arange(side) + 0.5) / side * 2.0 - 1.0
    center, turn, flatness = rng.uniform(-0.6, 0.6, 2), rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.35))
    rows, columns = axis[:, None] - center[0], axis - center[1]
    along = (np.cos(turn) * rows + np.sin(turn) * columns) * flatness
    across = (np.cos(turn) * columns - np.sin(turn) * rows) / flatness
    angle = np.arctan2(across, along)
    radius = np.full_like(angle, 1.0)
    for wave in range(2, 6):
        radius += rng.normal(0, 0.35 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    size = np.exp(rng.uniform(np.log(0.12), np.log(0.7)))
    return np.asarray(np.hypot(along, across) < size * np.maximum(radius, 0.25))


def reshaped(mask: BoolArray, kind: str, strength: float) -> BoolArray:
    """Change what of an image belongs to a structure, as conventions do that the image does not show.

    Args:
        mask: (H, W).
        kind: "hull" (what lies between its parts belongs to it), "closed" (what lies in its bays), "grown", "shrunk".
        strength: How far, as a fraction of the radius of a disc of the same area.
    """
    if not mask.any():
        return mask
    if kind == "hull":
        from skimage.morphology import convex_hull_image

        return np.asarray(convex_hull_image(mask))
    reach = strength * np.sqrt(mask.sum() / np.pi)
    if kind == "shrunk":
        inner = ndimage.distance_transform_edt(mask) > reach
        return inner if 3 * inner.sum() > mask.sum() else mask
    margin = int(reach) + 2
    padded = np.pad(mask, margin)
    outer = ndimage.distance_transform_edt(~padded) <= reach
    if kind == "closed":
        outer = ndimage.distance_transform_edt(outer) > reach
        outer |= padded
    return np.asarray(outer[margin:-margin, margin:-margin])


def synthetic_image(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Draw an image and its labels.

    Args:
        side: Pixels a side.
        rng: Source of randomness.

    Returns:
        float32 (side, side) in [0, 1], and labels uint8 (side, side); 0 is background, which no sample asks for.
    """
    draw = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))]
    return draw(side, rng)


def _regions(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Fill the image with smooth regions: whichever of several random fields is highest at a pixel."""
    fields = smooth_noise((int(rng.integers(3, 9)), side, side), rng.uniform(10, 36), rng)
    labels = fields.argmax(axis=0).astype(np.uint8)
    return _finish(_paint(labels, rng), rng), labels


def _organs(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Put closed shapes, some of them with a wall or a core, on a background of few regions."""
    background = smooth_noise((int(rng.integers(1, 4)), side, side), rng.uniform(30, 60), rng).argmax(axis=0)
    labels = np.zeros((side, side), np.uint8)
    number = 0
    for _ in range(int(rng.integers(1, 8))):
        depth = _blob(side, rng, radius=(0.03, 0.3))
        number += 1
        labels[depth > 0] = number
        if rng.random() < 0.35:
            number += 1
            labels[depth > rng.uniform(0.2, 0.6)] = number
    painted = np.where(labels > 0, labels + np.uint8(background.max() + 1), background).astype(np.uint8)
    return _finish(_paint(painted, rng), rng), labels


def _vessels(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Grow branching vessels over an uneven background; all of them are one structure."""
    widest = rng.uniform(1.0, 5.0)
    squared = np.full((side, side), np.inf, dtype=np.float32)
    for _ in range(int(rng.integers(1, 6))):
        start = rng.uniform(0.05, 0.95, size=2) * side
        _grow(squared, start, rng.uniform(0, 2 * np.pi), widest, rng)
    labels = (squared < 0).astype(np.uint8)
    contrast = rng.uniform(0.1, 0.5) * rng.choice([-1.0, 1.0])
    profile = gaussian_blur(labels, rng.uniform(0.0, 1.2))
    ground = 0.5 + 0.15 * smooth_noise((side, side), rng.uniform(20, 60), rng)
    ground += rng.uniform(0.0, 0.08) * smooth_noise((side, side), rng.uniform(1.0, 4.0), rng)
    return _finish(ground + contrast * profile, rng), labels


def _cells(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Scatter many cells, some touching; every cell is a label."""
    count = int(rng.integers(8, 60))
    points = rng.integers(0, side, size=(count, 2))
    seeds = np.zeros((side, side), np.uint8)
    seeds[points[:, 0], points[:, 1]] = np.arange(1, count + 1)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    owner = seeds[tuple(nearest)]
    radii = np.append(0.0, rng.uniform(0.5, 1.5, size=count) * side * rng.uniform(0.02, 0.08))
    rough = 1.0 + rng.uniform(0.0, 0.3) * smooth_noise((side, side), rng.uniform(5, 12), rng)
    labels = np.where(distance < radii[owner] * rough, owner, 0).astype(np.uint8)
    means = rng.uniform(0.0, 1.0) + rng.uniform(0.0, 0.15) * rng.standard_normal(256)
    means[0] = rng.uniform(0.0, 1.0)
    image = means[labels] + rng.uniform(0.0, 0.12) * smooth_noise((side, side), rng.uniform(1.0, 4.0), rng)
    if rng.random() < 0.4:  # a rim, as in phase contrast
        image = image + rng.uniform(-0.5, 0.5) * (labels > 0) * np.exp(-np.abs(distance - radii[owner] * rough) / 2)
    return _finish(image, rng), labels


def _shadows(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Add up transparent shapes, as X-rays do; only the last ones are asked for, in full where others cross them."""
    image = 0.4 * smooth_noise((side, side), rng.uniform(25, 60), rng)
    for _ in range(int(rng.integers(2, 9))):  # ribs and the like: bands that are no structure
        across = rng.uniform(0.01, 0.04) * side
        angle, offset = rng.uniform(0, np.pi), rng.uniform(0.0, 1.0) * side
        rows, columns = np.mgrid[:side, :side]
        line = rows * np.cos(angle) + columns * np.sin(angle) + 0.0015 * (columns - side / 2) ** 2 - offset
        image = image + rng.uniform(-0.35, 0.35) * (np.abs(line) < across)
    labels = np.zeros((side, side), np.uint8)
    for number in range(1, int(rng.integers(2, 5))):
        depth = _blob(side, rng, radius=(0.08, 0.35))
        image = image + rng.uniform(0.2, 0.8) * rng.choice([-1.0, 1.0]) * np.clip(4 * depth, 0, 1)
        labels[depth > 0] = number
    return _finish(image, rng), labels


def _phantoms(side: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
    """Put plain ellipses and rectangles on a plain ground, black more often than not: what people try first."""
    labels = np.zeros((side, side), np.uint8)
    for number in range(1, int(rng.integers(2, 6))):
        center, half = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.04, 0.35, 2) * side
        angle = float(rng.uniform(0, np.pi)) if rng.random() < 0.5 else 0.0
        across, along = _turned(side, center, half, angle)
        distance = np.hypot(across, along) if rng.random() < 0.5 else np.maximum(np.abs(across), np.abs(along))
        labels[distance < 1] = number
    values = rng.uniform(0.2, 1.0, 8)
    values[0] = rng.uniform(0.0, 1.0) if rng.random() < 0.4 else 0.0
    noise = rng.uniform(0.0, 0.12) * (rng.random() < 0.7) * rng.standard_normal((side, side))
    return np.asarray(np.clip(values[labels] + noise, 0.0, 1.0), np.float32), labels


_KINDS: tuple[Callable[[int, np.random.Generator], tuple[FloatArray, LabelArray]], ...] = (
    *(_regions, _organs, _vessels, _cells, _shadows, _phantoms),
)

_SHARES = (0.08, 0.14, 0.2, 0.06, 0.12, 0.4)


def _blob(side: int, rng: np.random.Generator, *, radius: tuple[float, float]) -> FloatArray:
    """Give a shape as its depth: above 0 inside, 1 at the center of an ellipse whose outline is bent at random."""
    center = rng.uniform(0.1, 0.9, size=2) * side
    axes = rng.uniform(*radius, size=2) * side
    distance = np.hypot(*_turned(side, center, axes, rng.uniform(0, np.pi)))
    bend = rng.uniform(0.0, 0.35) * smooth_noise((side, side), float(rng.uniform(0.3, 1.0) * axes.min()) + 3.0, rng)
    return np.asarray(1.0 - distance + bend * (distance < 2), dtype=np.float32)


def _turned(
    side: int, center: NDArray[np.float64], axes: NDArray[np.float64], angle: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Coordinates of every pixel around a center, in units of two axes that are turned by an angle."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - center[:, None, None]
    across, along = rows * np.cos(angle) + columns * np.sin(angle), columns * np.cos(angle) - rows * np.sin(angle)
    return across / axes[0], along / axes[1]


def _grow(
    squared: FloatArray, start: NDArray[np.float64], angle: float, radius: float, rng: np.random.Generator
) -> None:
    """Draw a vessel and its branches into a map of signed squared distances (below 0 inside)."""
    side = len(squared)
    pending = [(start, angle, radius)]
    budget = 60
    while pending and budget > 0:
        position, angle, radius = pending.pop()
        for _ in range(int(rng.integers(6, 26))):
            budget -= 1
            step = max(2.0, 1.2 * radius)
            position = position + step * np.array([np.sin(angle), np.cos(angle)])
            if position.min() < 0 or position.max() >= side or budget <= 0:
                break
            _stamp(squared, position - step * 0.5 * np.array([np.sin(angle), np.cos(angle)]), radius)
            _stamp(squared, position, radius)
            angle += rng.normal(0.0, 0.25)
            radius = max(0.6, radius * rng.uniform(0.96, 1.01))
        else:
            if radius > 0.7:
                spread = rng.uniform(0.3, 0.9)
                pending += [(position, angle + spread, radius * 0.8), (position, angle - spread, radius * 0.8)]


def _stamp(squared: FloatArray, position: NDArray[np.float64], radius: float) -> None:
    reach = int(radius) + 2
    row, column = (int(value) for value in position)
    rows = slice(max(0, row - reach), row + reach + 1)
    columns = slice(max(0, column - reach), column + reach + 1)
    window = squared[rows, columns]
    offsets_r = np.arange(rows.start, rows.start + window.shape[0]) - position[0]
    offsets_c = np.arange(columns.start, columns.start + window.shape[1]) - position[1]
    np.minimum(window, offsets_r[:, None] ** 2 + offsets_c[None, :] ** 2 - radius**2, out=window)


def _paint(labels: LabelArray, rng: np.random.Generator) -> FloatArray:
    """Give every label an intensity and a texture."""
    count = int(labels.max()) + 1
    # Neighbours that hardly differ teach nothing but to guess: intensities are spread before they are shuffled.
    means = rng.permutation((np.arange(count) + rng.uniform(0.2, 0.8, size=count)) / count)
    strength = rng.uniform(0.0, 0.12, size=count) * (rng.random(count) < 0.7)
    texture = smooth_noise(labels.shape, rng.uniform(0.5, 4.0), rng)
    return np.asarray(means[labels] + strength[labels] * texture, dtype=np.float32)


def _finish(image: NDArray[np.floating], rng: np.random.Generator) -> FloatArray:
    """Blur, light unevenly, add noise, and scale to [0, 1]."""
    side = image.shape[0]
    values = gaussian_blur(image, rng.uniform(0.0, 1.5))
    low, high = np.percentile(values[::2, ::2], [0.5, 99.5])
    values = (values - low) / max(float(high - low), 1e-6)
    if rng.random() < 0.5:
        values = values * np.exp(rng.uniform(0.0, 0.35) * smooth_noise((side, side), rng.uniform(40, 80), rng))
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    if rng.random() < 0.3:  # speckle, as in ultrasound: proportional to the signal, and blurred
        values = values * (1.0 + rng.uniform(0.1, 0.6) * gaussian_blur(noise, rng.uniform(0.5, 1.2)))
    else:
        values = values + rng.uniform(0.0, 0.08) * noise
    return np.asarray(np.clip(values, 0.0, 1.0), dtype=np.float32)
