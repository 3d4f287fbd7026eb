"""From what was drawn, in millimetres, to the pixels of a slice: exactly for the network, smoothly for the eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from scribblesegment.data.drawing import Box, Click, Gesture, Lasso, Point, Stroke
from scribblesegment.data.geometry import TIE, Box2D, FloatArray, IntArray, SlicePlane, nearest_index
from scribblesegment.data.prompts import PromptBuilder, Prompts

# Parts of a pixel by which a pixel's centre may lie outside a brush and still count as on its rim.
_RIM = 1e-9


def rasterize(gestures: Iterable[Gesture], plane: SlicePlane) -> Prompts:
    """Turn strokes, clicks and boxes into prompts on the pixels of a slice.

    A stroke marks the pixels whose centres lie within its radius of the line, and those the line passes through. Where
    both signs meet, the later one wins. A lasso marks the pixels whose centres it goes around. A box holds the pixels
    whose centres lie inside, and at least one. What lies outside the raster is left out.

    Args:
        gestures: In the order of drawing, in the frame of the plane; points off the plane are projected onto it.
        plane: The slice.
    """
    builder = PromptBuilder(plane.shape)
    for gesture in gestures:
        if isinstance(gesture, Stroke):
            found = _stroke_pixels(gesture, plane)
            if found is not None:
                builder.add_scribble(found[1], gesture.positive, window=found[0])
        elif isinstance(gesture, Lasso):
            builder.add_scribble(_enclosed(gesture, plane), gesture.positive)
        elif isinstance(gesture, Click):
            row, column = nearest_index(plane.to_pixels(gesture.point_mm)).tolist()
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                builder.add_click((row, column), gesture.positive)
        elif (box := _box_pixels(gesture, plane)) is not None:
            builder.add_box(*box)
    return builder.build()


def paint_stroke(
    coverage: NDArray[np.float32], plane: SlicePlane, points_mm: ArrayLike, radius_mm: float
) -> Box2D | None:
    """Paint a line with a round brush and smooth rim into a picture, keeping what is there where it covers more.

    So a line can be painted piece by piece while it is drawn, each piece beginning at the last point of the one before.

    Args:
        coverage: float32 (H, W) in [0, 1] on the raster of the plane; changed in place.
        plane: The slice.
        points_mm: (N, 3), N at least 1.
        radius_mm: Half the width of the line. Lines thinner than a pixel are painted one pixel wide.

    Returns:
        The part outside of which nothing changed; None when the line passes beside the raster.
    """
    spacing = np.array(plane.spacing_mm)
    pixel_mm = float(np.sqrt(spacing.prod()))
    radius = max(float(radius_mm), pixel_mm / 2)
    reach = radius + pixel_mm / 2
    touched: list[IntArray] = []
    for start, end in zip(*_visible_pieces(plane, points_mm, reach), strict=True):
        low = np.ceil((np.minimum(start, end) - reach) / spacing).clip(0, plane.shape).astype(np.int64)
        high = np.floor((np.maximum(start, end) + reach) / spacing + 1).clip(0, plane.shape).astype(np.int64)
        if (low >= high).any():
            continue
        y = np.arange(low[0], high[0])[:, None] * spacing[0] - start[0]
        x = np.arange(low[1], high[1]) * spacing[1] - start[1]
        rise, run = end - start
        squared = rise**2 + run**2
        along = ((y * rise + x * run) / squared).clip(0, 1) if squared > 0 else np.zeros(1)
        distance = np.hypot(y - along * rise, x - along * run)
        window = coverage[low[0] : high[0], low[1] : high[1]]
        np.maximum(window, np.clip((radius - distance) / pixel_mm + 0.5, 0, 1), out=window, casting="same_kind")
        touched += [low, high]
    if not touched:
        return None
    corners = np.array(touched)
    (r0, c0), (r1, c1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (r0, r1), (c0, c1)


def _stroke_pixels(stroke: Stroke, plane: SlicePlane) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """The window of the raster that a stroke touches, and which of its pixels it marks; None when there are none."""
    spacing = np.array(plane.spacing_mm)
    starts, ends = _visible_pieces(plane, stroke.points_mm, stroke.radius_mm + float(spacing.max()))
    rows, first, last = _row_intervals(starts, ends, stroke.radius_mm, spacing, plane.shape)
    if not rows.size:
        return None
    window = slice(int(rows.min()), int(rows.max()) + 1), slice(int(first.min()), int(last.max()) + 1)
    # Each interval adds one where it begins and takes it away after its end; the running sum counts covers.
    height, width = window[0].stop - window[0].start, window[1].stop - window[1].start + 1
    begin = (rows - window[0].start) * width + (first - window[1].start)
    changes = np.bincount(begin, minlength=height * width)
    changes -= np.bincount(begin + (last - first + 1), minlength=changes.size)
    return window, np.cumsum(changes.reshape(height, width), axis=1)[:, :-1] > 0


def _enclosed(lasso: Lasso, plane: SlicePlane) -> NDArray[np.bool_]:
    """The pixels (H, W) whose centres a closed line goes around, however often it crosses itself."""
    height, width = plane.shape
    start = plane.to_pixels(np.asarray(lasso.points_mm, np.float64))
    end = np.roll(start, -1, axis=0)
    first, last = np.ceil(np.stack([start[:, 0], end[:, 0]])).clip(0, height).astype(np.int64)
    counts = np.abs(last - first)  # of the rows that each side passes
    side = np.repeat(np.arange(len(counts)), counts)
    rows = np.minimum(first, last)[side] + np.arange(side.size) - (np.cumsum(counts) - counts)[side]
    rise, run = (end - start)[side].T
    columns = np.ceil(start[side, 1] + (rows - start[side, 0]) / rise * run).clip(0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int64)
    np.add.at(turns, (rows, columns), np.sign(last - first)[side])  # downward sides against upward ones
    return np.asarray(np.cumsum(turns, axis=1)[:, :-1] != 0)


def _visible_pieces(plane: SlicePlane, points_mm: ArrayLike, reach: float) -> tuple[FloatArray, FloatArray]:
    """Cut a line to the raster and `reach` mm around it.

    Gives starts and ends (S, 2) of its straight pieces, in millimetres along (rows, columns) from pixel (0, 0); a
    single point is one piece of no length.
    """
    spacing = np.array(plane.spacing_mm)
    points = plane.to_pixels(np.asarray(points_mm, np.float64).reshape(-1, 3)) * spacing
    if len(points) == 1:
        points = np.repeat(points, 2, axis=0)
    start, step = points[:-1], np.diff(points, axis=0)
    step[np.abs(step) <= _RIM * spacing] = 0  # so that no quotient below overflows
    low, high = -0.5 * spacing - reach, (np.array(plane.shape) - 0.5) * spacing + reach
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.sort(np.stack([(low - start) / step, (high - start) / step]), axis=0)
    # Along an axis on which nothing moves, the piece is inside for good or never.
    still, within = step == 0, (start >= low) & (start <= high)
    enter = np.where(still, np.where(within, 0.0, 2.0), bounds[0]).max(axis=1).clip(0)
    leave = np.where(still, 1.0, bounds[1]).min(axis=1).clip(max=1)
    seen = enter <= leave
    start, step, enter, leave = start[seen], step[seen], enter[seen, None], leave[seen, None]
    return start + enter * step, start + leave * step


def _row_intervals(
    starts: FloatArray, ends: FloatArray, radius: float, spacing: FloatArray, shape: tuple[int, int]
) -> tuple[IntArray, IntArray, IntArray]:
    """Rows, first and last columns of the pixels that a round brush marks along straight pieces.

    What lies within the radius of one piece is a capsule. It is convex, so it cuts each row of pixel centres in one
    interval, which ends on one of the two discs or on one of the two long sides.
    """
    reach = max(radius, float(spacing[0]))
    low = np.ceil((np.minimum(starts[:, 0], ends[:, 0]) - reach) / spacing[0] - _RIM).clip(0).astype(np.int64)
    high = np.floor((np.maximum(starts[:, 0], ends[:, 0]) + reach) / spacing[0] + _RIM).clip(max=shape[0] - 1)
    counts = np.maximum(high.astype(np.int64) - low + 1, 0)
    piece = np.repeat(np.arange(len(counts)), counts)
    rows = low[piece] + np.arange(piece.size) - (np.cumsum(counts) - counts)[piece]
    start = starts[piece]
    rise, run = (ends - starts)[piece].T
    above = rows * spacing[0] - start[:, 0]  # of the row over the start; columns below are from the start, too
    marked: list[tuple[FloatArray, FloatArray]] = []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        squared = radius**2 * (1 + 2 * _RIM)
        candidates = []  # NaN where the row does not meet that part of the rim
        for centre, offset in ((0.0, above), (run, above - rise)):
            half = np.sqrt(squared - offset**2)
            candidates += [centre - half, centre + half]
        across = radius / np.hypot(rise, run)
        for side in (-across, across):
            along = (above + side * run) / rise  # where the row meets the side that lies (-run, rise) * side beside it
            candidates.append(np.where((along >= 0) & (along <= 1), side * rise + along * run, np.nan))
        left, right = np.fmin.reduce(candidates) + start[:, 1], np.fmax.reduce(candidates) + start[:, 1]
        marked.append((np.ceil(left / spacing[1] - _RIM), np.floor(right / spacing[1] + _RIM)))
        if 2 * radius < np.hypot(*spacing):  # a wider brush covers the pixels under its line anyway
            borders = np.sort([(above + half * spacing[0]) / rise for half in (-0.5, 0.5)], axis=0)
            borders = np.where(rise == 0, [[0.0], [1.0]], borders).clip(0, 1) * run + start[:, 1]
            left, right = np.sort(borders, axis=0) / spacing[1]
            top, bottom = (
                nearest_index(side(starts[:, 0], ends[:, 0]) / spacing[0])[piece] for side in (np.minimum, np.maximum)
            )
            last = np.where((rows >= top) & (rows <= bottom), nearest_index(right), np.nan)
            marked.append((np.minimum(nearest_index(left + 2 * TIE), last), last))  # a corner belongs to one pixel
    first, last = (np.concatenate(side) for side in zip(*marked, strict=True))
    rows = np.tile(rows, len(marked))
    kept = (first <= last) & (last >= 0) & (first < shape[1])  # NaN is not
    first, last = first[kept].clip(0), last[kept].clip(max=shape[1] - 1)
    return rows[kept], first.astype(np.int64), last.astype(np.int64)


def _box_pixels(box: Box, plane: SlicePlane) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """First and one past the last pixel of a box, clipped to the raster; None outside of it."""
    corners = plane.to_pixels([box.corner_mm, box.opposite_mm])
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (nearest_index(high) < 0).any() or (nearest_index(low) >= plane.shape).any():
        return None
    start, stop = np.ceil(low - _RIM), np.floor(high + _RIM) + 1
    thin = start >= stop  # between two centres: the pixel that holds the middle
    middle = nearest_index((low + high) / 2)
    start, stop = np.where(thin, middle, start), np.where(thin, middle + 1, stop)
    last = np.array(plane.shape) - 1
    start = start.clip(0, last).astype(np.int64)
    stop = np.maximum(stop.clip(max=last + 1).astype(np.int64), start + 1)
    return (int(start[0]), int(start[1])), (int(stop[0]), int(stop[1]))


# Pictures ---------------------------------------------------------------------------------------------------------

Picture = NDArray[np.uint8]
"""(H, W, 4): red, green, blue and opacity; colour is not premultiplied."""

Color = tuple[float, float, float]

POSITIVE_COLOR: Color = (0.25, 0.85, 0.30)
NEGATIVE_COLOR: Color = (0.95, 0.25, 0.20)
BOX_COLOR: Color = (1.0, 0.80, 0.10)

_STROKE_OPACITY = 0.75
_OVERLAY_OPACITY = 0.45

# A click is drawn as a disc of this radius, in pixels of the slice; the outline of a box is half a radius wide.
_CLICK_RADIUS_PIXELS = 2.0

# Colours of probabilities, from violet (unlikely) over green to yellow (certain).
_PROBABILITY_STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_PROBABILITY_COLORS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64
)


def gestures_picture(gestures: Sequence[Gesture], plane: SlicePlane, *, supersampling: int = 2) -> Picture:
    """Paint what was drawn in its colours: green marks the object, red the background, yellow outlines boxes.

    Args:
        gestures: In drawing order; later ones cover earlier ones.
        plane: The slice they were drawn on.
        supersampling: Picture pixels along each side of a pixel of the slice.

    Returns:
        The picture, on the raster of `finer(plane, supersampling)`.
    """
    raster = finer(plane, supersampling)
    picture = np.zeros((*raster.shape, 4), np.uint8)
    click_mm = _CLICK_RADIUS_PIXELS * min(plane.spacing_mm)
    for gesture in gestures:
        color = BOX_COLOR if isinstance(gesture, Box) else POSITIVE_COLOR if gesture.positive else NEGATIVE_COLOR
        if isinstance(gesture, Stroke):
            paint_line(picture, raster, gesture.points_mm, gesture.radius_mm, color)
        elif isinstance(gesture, Lasso):
            paint_line(picture, raster, (*gesture.points_mm, gesture.points_mm[0]), click_mm / 4, color)
        elif isinstance(gesture, Click):
            paint_line(picture, raster, (gesture.point_mm,), click_mm, color)
        else:
            (top, left), (bottom, right) = plane.to_pixels(np.array([gesture.corner_mm, gesture.opposite_mm]))
            corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left), (top, left)])
            outline = tuple((x, y, z) for x, y, z in plane.to_mm(corners).tolist())
            paint_line(picture, raster, outline, click_mm / 4, color)
    return picture


def paint_line(
    picture: Picture, raster: SlicePlane, points_mm: Sequence[Point], radius_mm: float, color: Color
) -> None:
    """Paint a line with a round brush into a picture on a raster, in place; `radius_mm` is half its width."""
    pixels, reach = raster.to_pixels(np.asarray(points_mm)), radius_mm / min(raster.spacing_mm) + 1
    low = np.floor(pixels.min(axis=0) - reach).clip(0, raster.shape).astype(int)
    high = np.ceil(pixels.max(axis=0) + reach + 1).clip(0, raster.shape).astype(int)
    if (low >= high).any():
        return
    near = SlicePlane(tuple((high - low).tolist()), raster.to_mm(low), raster.row_step_mm, raster.column_step_mm)
    coverage = np.zeros(near.shape, np.float32)
    if paint_stroke(coverage, near, points_mm, radius_mm) is None:
        return
    alpha = coverage * (255 * _STROKE_OPACITY)
    part = picture[low[0] : high[0], low[1] : high[1]]
    covered = (alpha > 0) & (alpha >= part[..., 3])
    part[covered, :3] = np.round(np.multiply(color, 255)).astype(np.uint8)
    part[covered, 3] = alpha[covered].astype(np.uint8)


def mask_picture(mask: NDArray[np.bool_], color: Color) -> Picture:
    """Show a mask (H, W) in one colour."""
    picture = np.zeros((*mask.shape, 4), np.uint8)
    picture[mask, :3] = np.round(np.multiply(color, 255)).astype(np.uint8)
    picture[mask, 3] = round(255 * _OVERLAY_OPACITY)
    return picture


def probability_picture(logits: NDArray[np.float32]) -> Picture:
    """Show probabilities (H, W) of logits in colours; what is all but impossible is transparent."""
    # A table of 256 steps: interpolating each pixel takes ten times as long.
    steps = np.linspace(0.0, 1.0, 256)
    table = np.empty((256, 4), np.uint8)
    for channel in range(3):
        table[:, channel] = np.interp(steps, _PROBABILITY_STOPS, _PROBABILITY_COLORS[:, channel])
    table[:, 3] = 255 * _OVERLAY_OPACITY * np.minimum(steps / 0.2, 1.0)
    table[steps < 0.05, 3] = 0
    return table[(expit(logits) * 255).astype(np.uint8)]


def finer(plane: SlicePlane, factor: int) -> SlicePlane:
    """Divide each pixel of a raster into `factor` x `factor`, covering the same area."""
    if factor == 1:
        return plane
    shift = (1 / factor - 1) / 2
    height, width = plane.shape
    return SlicePlane(
        shape=(height * factor, width * factor),
        origin_mm=plane.to_mm(np.array([shift, shift])),
        row_step_mm=plane.row_step_mm / factor,
        column_step_mm=plane.column_step_mm / factor,
    )


def corners_mm(plane: SlicePlane) -> NDArray[np.float64]:
    """Give the outer corners (4, 3) of a raster: first row and column, then around along the first row."""
    height, width = plane.shape
    top, left, bottom, right = -0.5, -0.5, height - 0.5, width - 0.5
    return plane.to_mm(np.array([(top, left), (top, right), (bottom, right), (bottom, left)]))
