"""Strokes as people paint them: outlines beside the border, zigzags, hatching, dashes, one line through the middle.

The kinds were read off the strokes of people on the validation tasks. A stroke is a line of points and a brush, so that
it can be drawn on any grid; unlike the published scribbles it is not cut at the structure's border, which a brush
on a vessel crosses too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours
from skimage.morphology import skeletonize

from scribblesegment.data.prompts import box_of

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
Points = NDArray[np.float64]

# A structure no deeper than this is painted along its skeleton.
_THIN_DEPTH = 4.0


@dataclass(frozen=True)
class Stroke:
    """A line painted with a round brush."""

    points: Points  # (N, 2): rows and columns, in pixels of the grid it was painted on
    radius: float  # of the brush, in those pixels
    positive: bool


def draw_strokes(
    strokes: list[Stroke], size: int, *, start: tuple[float, float] = (0.0, 0.0), scale: float = 1.0
) -> FloatArray:
    """Draw strokes on a grid, (2, size, size): positive, negative; 0 or 1.

    Args:
        strokes: In pixels of their own grid.
        size: Side of the grid that is drawn on.
        start: Row and column, on the strokes' grid, of the upper left corner of what is drawn.
        scale: Pixels of the drawing for one of the strokes' grid.
    """
    drawing = np.zeros((2, size, size), np.float32)
    for stroke in strokes:
        points = (stroke.points - start + 0.5) * scale - 0.5
        steps = np.hypot(*np.diff(points, axis=0).T)
        count = np.maximum(1, np.ceil(steps / 0.7)).astype(int)
        if len(points) > 1:
            fractions = np.concatenate([np.arange(n) / n for n in count])[:, None]
            first = np.repeat(np.arange(len(count)), count)
            points = np.concatenate([points[first] * (1 - fractions) + points[first + 1] * fractions, points[-1:]])
        cells = np.rint(points).astype(np.intp)
        cells = cells[np.r_[True, (np.diff(cells, axis=0) != 0).any(axis=1)]]
        cells = (cells[:, None] + _disc(round(4 * stroke.radius * scale) / 4)).reshape(-1, 2)
        cells = cells[((cells >= 0) & (cells < size)).all(axis=1)]
        drawing[0 if stroke.positive else 1, cells[:, 0], cells[:, 1]] = 1.0
    return drawing


def paint_first(
    mask: BoolArray, rng: np.random.Generator, *, unwanted: BoolArray | None = None, background_p: float
) -> list[Stroke]:
    """Paint an image nobody has segmented yet.

    Args:
        mask: (H, W) bool, the structure; where it is empty all strokes are negative.
        rng: Source of randomness.
        unwanted: (H, W) bool, what looks like the structure and is not; strokes there are negative.
        background_p: Chance that the background is marked at all.
    """
    radius = float(rng.uniform(0.6, 2.6)) * max(mask.shape) / 192
    strokes: list[Stroke] = []
    field = _Field(mask)
    if mask.any():
        strokes += [Stroke(line, radius, True) for line in _painted(mask, field, rng)]
    if unwanted is not None and unwanted.any() and rng.random() < 0.9:
        strokes += [Stroke(line, radius, False) for line in _painted(unwanted, _Field(unwanted), rng)]
    if not mask.all() and (rng.random() < background_p or not strokes):
        for _ in range(int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))):
            draw = _NEGATIVE[int(rng.choice(len(_NEGATIVE), p=_NEGATIVE_SHARES))]
            lines = draw(field, rng) if mask.any() else _far_lines(field, rng)
            strokes += [Stroke(line, radius, False) for line in lines]
    return strokes


def _painted(region: BoolArray, field: _Field, rng: np.random.Generator) -> list[Points]:
    """Paint on a region: on what is thin all over, else on some of its parts, the large ones first."""
    parts, count = ndimage.label(region) if float(field.depth.max()) >= _THIN_DEPTH else (region, 1)
    fields = [field]
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:].astype(float)
        most = min(count, int(rng.integers(1, 4)) if rng.random() < 0.5 else int(rng.integers(2, 9)))
        chosen = rng.choice(count, size=most, replace=False, p=sizes / sizes.sum())
        fields = [_Field(parts == number + 1) for number in chosen]
    kind, lines = int(rng.choice(len(_POSITIVE), p=_POSITIVE_SHARES)), []
    for part in fields:
        lines += _POSITIVE[kind](part, rng) or _through(part, rng) or [_anywhere(part.region, rng)]
    if rng.random() < 0.25:
        lines += _POSITIVE[int(rng.choice(len(_POSITIVE), p=_POSITIVE_SHARES))](fields[0], rng)
    return lines


def paint_correction(mask: BoolArray, prediction: BoolArray, rng: np.random.Generator) -> list[Stroke]:
    """Correct a prediction with one to three strokes or clicks where it is wrong; none where it is not."""
    strokes = []
    missed, surplus = mask & ~prediction, prediction & ~mask
    areas = [int(missed.sum()), int(surplus.sum())]
    if sum(areas) == 0:
        return []
    radius = float(rng.uniform(0.6, 2.6)) * max(mask.shape) / 192
    for _ in range(int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))):
        positive = bool(rng.random() * sum(areas) < areas[0])
        parts, count = ndimage.label(missed if positive else surplus)
        if count == 0:
            continue
        sizes = np.bincount(parts.ravel())[1:].astype(float)
        chosen = int(sizes.argmax()) if rng.random() < 0.6 else int(rng.choice(count, p=sizes / sizes.sum()))
        part = parts == chosen + 1
        kind = rng.random()
        if kind < 0.35 or sizes[chosen] < 12:
            field = _Field(part)
            lines = [np.array([field.deepest()])]
        elif kind < 0.7:
            lines = _through(_Field(part), rng) or [_anywhere(part, rng)]
        else:
            lines = [_anywhere(part, rng)]
        strokes += [Stroke(line, radius, positive) for line in lines]
    return strokes


class _Field:
    """A region with the distances of its pixels from its border, and of the others from it, around its box."""

    def __init__(self, region: BoolArray) -> None:
        self.region = region
        self.signed: FloatArray | None = None
        rows, columns = box_of(region)
        margin = 30
        if rows.stop == 0:
            self.start, self.part = np.zeros(2), region
            self.depth: FloatArray = np.zeros(region.shape, np.float32)
            return
        top, left = max(0, rows.start - margin), max(0, columns.start - margin)
        self.start = np.array([top, left], float)
        self.part = region[top : rows.stop + margin, left : columns.stop + margin]
        depth = ndimage.distance_transform_edt(np.pad(self.part, 1))[1:-1, 1:-1]
        self.depth = np.asarray(depth, np.float32)

    def levels(self) -> FloatArray:
        """Signed distance: positive inside, negative outside."""
        if self.signed is None:
            self.signed = self.depth - np.asarray(ndimage.distance_transform_edt(~self.part), np.float32)
        return self.signed

    def deepest(self) -> Points:
        flat = int(self.depth.argmax())
        row, column = divmod(flat, self.depth.shape[-1])
        return np.array([row, column], dtype=np.float64) + self.start


def _through(field: _Field, rng: np.random.Generator) -> list[Points]:
    """Paint a long stroke through the middle, or along parts of the skeleton of what is thin or ramified."""
    most = float(field.depth.max())
    pixels = np.argwhere(field.part)
    if len(pixels) < 6:
        return [pixels[:1] + field.start]
    if most < _THIN_DEPTH:
        return _along_skeleton(field, rng)
    center = pixels.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((pixels - center).T) + 1e-6 * np.eye(2))
    along = (pixels - center) @ axes[:, 1]
    weight = field.depth[pixels[:, 0], pixels[:, 1]] ** 2
    bins = np.digitize(along, np.linspace(along.min(), along.max(), 14)[1:-1])
    total = np.maximum(np.bincount(bins, weight, 13), 1e-6)
    line = np.stack([np.bincount(bins, weight * pixels[:, axis], 13) / total for axis in (0, 1)], axis=1)
    inside = ndimage.map_coordinates(field.depth, line.T, order=1) > min(1.0, 0.3 * most)
    line = line[inside]
    if len(line) < 2:
        return []
    first, last = sorted(rng.uniform(0, len(line), 2)) if rng.random() < 0.3 else (0, len(line))
    line = line[int(first) : max(int(last), int(first) + 2)]
    return [_wavering(line + field.start, rng, 1.0)]


def _along_skeleton(field: _Field, rng: np.random.Generator) -> list[Points]:
    skeleton = skeletonize(field.part)
    left = {(int(r), int(c)) for r, c in np.argwhere(skeleton)}
    if not left:
        return []
    starts = list(left)
    lines = []
    longest = int(rng.integers(12, 120))
    fewest, most = ((1, 4), (3, 16), (15, 60))[int(rng.choice(3, p=[0.2, 0.4, 0.4]))]
    for _ in range(int(rng.integers(fewest, most))):
        if not left:
            break
        place = starts[int(rng.integers(len(starts)))]
        if place not in left:
            continue
        line, step = [place], (0, 0)
        left.discard(place)
        while len(line) < longest:
            r, c = line[-1]
            near = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (r + i, c + j) in left]
            if not near:
                break
            best = max(near, key=lambda q: (q[0] - r) * step[0] + (q[1] - c) * step[1])
            step = (best[0] - line[max(0, len(line) - 4)][0], best[1] - line[max(0, len(line) - 4)][1])
            line.append(best)
            left.discard(best)
        lines.append(np.array(line, float)[:: max(1, min(3, len(line) - 1))] + field.start)
    return [_wavering(line, rng, 0.6) for line in lines]


def _filled(field: _Field, rng: np.random.Generator, *, joined: bool) -> list[Points]:
    """Fill with parallel lines, joined at alternating ends (a zigzag) or each for itself (hatching)."""
    most = float(field.depth.max())
    if most < _THIN_DEPTH:
        return _along_skeleton(field, rng)
    inner = np.argwhere(field.depth > max(1.0, rng.uniform(0.08, 0.5) * most)).astype(float)
    if len(inner) < 8:
        return []
    angle = rng.uniform(0, np.pi)
    direction = np.array([np.sin(angle), np.cos(angle)])
    normal = np.array([direction[1], -direction[0]])
    along, across = inner @ direction, inner @ normal
    extent = float(np.ptp(across))
    spacing = max(4.0, extent / rng.uniform(2.0, 9.0))
    ends: list[tuple[Points, Points]] = []
    for position in np.arange(across.min() + rng.uniform(0.1, 0.9) * spacing, across.max(), spacing):
        on_line = np.sort(along[np.abs(across - position) < 0.6])
        if len(on_line) < 2:
            continue
        runs = np.split(on_line, np.flatnonzero(np.diff(on_line) > 2.5) + 1)
        run = max(runs, key=np.ptp)
        if np.ptp(run) < 3:
            continue
        trim = rng.uniform(0, 0.25, 2) * np.ptp(run)
        ends.append(
            (direction * (run[0] + trim[0]) + normal * position, direction * (run[-1] - trim[1]) + normal * position)
        )
    if not ends:
        return []
    if not joined:
        return [_wavering(np.stack(pair) + field.start, rng, 1.0) for pair in ends]
    lines, current = [], [ends[0][0], ends[0][1]]
    for number, pair in enumerate(ends[1:], start=1):
        first, second = pair if number % 2 == 0 else pair[::-1]
        row, column = np.rint((current[-1] + first) / 2).astype(int)
        if not field.part[np.clip(row, 0, len(field.part) - 1), np.clip(column, 0, field.part.shape[1] - 1)]:
            lines.append(current)
            current = [first, second]
            continue
        current += [first, second]
    return [_wavering(np.stack(line) + field.start, rng, 1.2) for line in [*lines, current]]


def _inner_outline(field: _Field, rng: np.random.Generator) -> list[Points]:
    most = float(field.depth.max())
    if most < _THIN_DEPTH:
        return _along_skeleton(field, rng)
    return _contours(field, float(rng.uniform(1.5, max(2.0, 0.6 * most))), rng)


def _outer_outline(field: _Field, rng: np.random.Generator) -> list[Points]:
    distance = rng.uniform(0.5, 5.0) if rng.random() < 0.6 else rng.uniform(5.0, 22.0)
    return _contours(field, -float(distance), rng)


def _contours(field: _Field, level: float, rng: np.random.Generator) -> list[Points]:
    """Follow the border at a distance: all around, along a part of it, or in dashes."""
    found = [line for line in find_contours(np.asarray(field.levels()), level) if len(line) > 8]
    if not found:
        return []
    found.sort(key=len, reverse=True)
    found = found[: int(rng.integers(1, 4))]
    kind = rng.random()
    lines = []
    for line in found:
        line = line[:: max(2, len(line) // 80)] + field.start
        if kind < 0.4:
            lines.append(line)
        elif kind < 0.75:
            length = max(2, int(rng.uniform(0.15, 0.8) * len(line)))
            lines.append(np.roll(line, int(rng.integers(len(line))), axis=0)[:length])
        else:
            dash, gap = int(rng.integers(2, 7)), int(rng.integers(2, 8))
            lines += [line[n : n + dash] for n in range(0, len(line) - dash, dash + gap)]
    amplitude = float(rng.uniform(0.2, 2.0 + 0.2 * abs(level)))
    return [_wavering(line, rng, amplitude) for line in lines if len(line) > 1]


def _far_lines(field: _Field, rng: np.random.Generator) -> list[Points]:
    """Paint long lines and arcs anywhere in the background."""
    background = ~field.region
    lines = []
    for _ in range(int(rng.integers(1, 5))):
        side = len(background)
        first, last = rng.uniform(0, side, (2, 2))
        bend = rng.normal(0, 0.2 * side, 2) * (rng.random() < 0.6)
        t = np.linspace(0, 1, 24)[:, None]
        line = first * (1 - t) ** 2 + 2 * t * (1 - t) * ((first + last) / 2 + bend) + last * t**2
        lines += _kept(line, background, field, rng)
    return lines


def _near_strokes(field: _Field, rng: np.random.Generator) -> list[Points]:
    """Paint short strokes in the background near the structure, and where it comes between its parts."""
    ring = np.argwhere((field.levels() < -1.0) & (field.levels() > -float(rng.uniform(4.0, 30.0))))
    if len(ring) == 0:
        return []
    lines = []
    angle = rng.uniform(0, 2 * np.pi)
    length = float(rng.uniform(4, 30))
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.5 else int(rng.integers(4, 14))):
        middle = ring[int(rng.integers(len(ring)))] + field.start
        turned = angle + rng.normal(0, 0.5)
        half = 0.5 * length * rng.uniform(0.5, 1.5) * np.array([np.sin(turned), np.cos(turned)])
        t = np.linspace(-1, 1, 10)[:, None]
        lines += _kept(middle + t * half, ~field.region, field, rng)[:1]
    return lines


def _random_lines(field: _Field, rng: np.random.Generator) -> list[Points]:
    if float(field.depth.max()) < _THIN_DEPTH:
        return _along_skeleton(field, rng)
    return [line for _ in range(int(rng.integers(1, 4))) for line in [_anywhere(field.region, rng)] if len(line)]


def _kept(line: Points, allowed: BoolArray, field: _Field, rng: np.random.Generator) -> list[Points]:
    """Keep the parts of a line on allowed pixels."""
    line = _wavering(line, rng, 1.5)
    cells = np.rint(line).astype(int)
    inside = ((cells >= 0) & (cells < len(allowed))).all(axis=1)
    cells = cells.clip(0, len(allowed) - 1)
    inside &= allowed[cells[:, 0], cells[:, 1]]
    runs = np.split(np.arange(len(line)), np.flatnonzero(np.diff(inside.astype(int))) + 1)
    return [line[run] for run in runs if inside[run[0]] and len(run) > 1]


def _anywhere(region: BoolArray, rng: np.random.Generator) -> Points:
    """Connect two pixels of a region, as far as the line stays in it."""
    pixels = np.argwhere(region)
    first, last = pixels[rng.integers(len(pixels), size=2)].astype(float)
    line = first + np.linspace(0, 1, 20)[:, None] * (last - first)
    cells = np.rint(line).astype(int)
    outside = np.flatnonzero(~region[cells[:, 0], cells[:, 1]])
    return line[: outside[0] if len(outside) else len(line)]


def _wavering(line: Points, rng: np.random.Generator, amplitude: float) -> Points:
    """Move the points of a line as an unsteady hand would."""
    if len(line) == 1:
        return np.asarray(line, float)
    if len(line) < 8:
        steps = np.linspace(0, len(line) - 1, 2 * len(line) + 3)
        line = np.stack([np.interp(steps, np.arange(len(line)), line[:, axis]) for axis in (0, 1)], axis=1)
    nodes = max(2, len(line) // 5)
    positions = np.linspace(0, nodes - 1, len(line))
    noise = rng.normal(0, amplitude * rng.uniform(0.2, 0.7), (nodes, 2))
    return line + np.stack([np.interp(positions, np.arange(nodes), noise[:, axis]) for axis in (0, 1)], axis=1)


@lru_cache(maxsize=64)
def _disc(radius: float) -> NDArray[np.intp]:
    reach = int(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.argwhere(rows**2 + columns**2 <= max(radius, 0.5) ** 2 + 0.3) - reach


_Painter = Callable[[_Field, np.random.Generator], list[Points]]
_POSITIVE: tuple[_Painter, ...] = (
    _through,
    partial(_filled, joined=True),
    partial(_filled, joined=False),
    _inner_outline,
    _random_lines,
)
_POSITIVE_SHARES = (0.3, 0.22, 0.13, 0.17, 0.18)
_NEGATIVE: tuple[_Painter, ...] = (_outer_outline, _far_lines, _near_strokes)
_NEGATIVE_SHARES = (0.5, 0.23, 0.27)
