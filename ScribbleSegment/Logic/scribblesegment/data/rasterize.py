"""From gestures in millimetres to the pixels of a slice: exactly for the network, smoothly for the eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data.drawing import Box, Click, Gesture, Stroke
from scribblesegment.data.geometry import Box2D, FloatArray, IntArray, SlicePlane, nearest_index
from scribblesegment.data.prompts import Prompts

BoolArray = NDArray[np.bool_]


# Parts of a pixel by which a pixel's centre may lie outside a brush and still count as on its rim.
_RIM = 1e-9


def rasterize(gestures: Iterable[Gesture], plane: SlicePlane) -> Prompts:
    """Turn gestures into prompts on the pixels of a slice.

    A stroke marks the pixels whose centres lie within its radius of the line, and those the line passes through. Where
    gestures of both signs meet, the later one wins, as with `Prompts.with_scribble` and `Prompts.with_click`. A box
    holds the pixels whose centres lie inside, and at least one. What lies outside the raster is left out.

    Args:
        gestures: in the order of drawing, in the frame of the plane; points off the plane are projected onto it.
        plane: the slice.

    Returns:
        Prompts of the shape of the plane; empty when no gesture touches it.
    """
    marks = np.zeros((2, *plane.shape), bool)
    clicks: dict[tuple[int, int], bool] = {}
    boxes: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for gesture in gestures:
        if isinstance(gesture, Stroke):
            _draw(marks, clicks, gesture, plane)
        elif isinstance(gesture, Click):
            row, column = nearest_index(plane.to_pixels(gesture.point_mm)).tolist()
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                clicks.pop((row, column), None)  # so that it moves to the end, as the newest
                clicks[row, column] = gesture.positive
                marks[1 if gesture.positive else 0, row, column] = False
        elif (box := _pixel_box(gesture, plane)) is not None:
            boxes.append(box)
    scribbles = marks.astype(np.float32)
    scribbles.flags.writeable = False  # Prompts then takes it without a copy
    return Prompts(
        scribbles=scribbles,
        point_coords=np.array(list(clicks), np.int64).reshape(-1, 2),
        point_labels=np.array(list(clicks.values()), np.int64),
        boxes=np.array(boxes, np.int64).reshape(-1, 2, 2),
    )


def paint_stroke(
    coverage: NDArray[np.float32], plane: SlicePlane, points_mm: ArrayLike, radius_mm: float
) -> Box2D | None:
    """Paint a line with a round brush and smooth rim into a picture, keeping what is there where it covers more.

    So a line can be painted piece by piece while it is drawn, each piece beginning at the last point of the one before.

    Args:
        coverage: float32 (H, W) in [0, 1] on the raster of the plane; changed in place.
        plane: the slice.
        points_mm: (N, 3), N at least 1.
        radius_mm: half the width of the line. Lines thinner than a pixel are painted one pixel wide.

    Returns:
        Half-open ((row_start, row_stop), (column_start, column_stop)) outside of which nothing changed; None when the
        line passes beside the raster.
    """
    spacing = np.array(plane.spacing_mm)
    pixel_mm = float(np.sqrt(spacing.prod()))
    radius = max(float(radius_mm), pixel_mm / 2)
    reach = radius + pixel_mm / 2
    starts, ends = _visible_segments(plane, points_mm, reach)
    touched: list[IntArray] = []
    for start, end in zip(starts, ends, strict=True):
        low = np.ceil((np.minimum(start, end) - reach) / spacing).clip(0, plane.shape).astype(np.int64)
        high = np.floor((np.maximum(start, end) + reach) / spacing + 1).clip(0, plane.shape).astype(np.int64)
        if (low >= high).any():
            continue
        window = coverage[low[0] : high[0], low[1] : high[1]]
        distance = _distance_to_segment(low, high, spacing, start, end)
        np.maximum(window, np.clip((radius - distance) / pixel_mm + 0.5, 0, 1), out=window, casting="same_kind")
        touched += [low, high]
    if not touched:
        return None
    corners = np.array(touched)
    (r0, c0), (r1, c1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (r0, r1), (c0, c1)


def _draw(marks: BoolArray, clicks: dict[tuple[int, int], bool], stroke: Stroke, plane: SlicePlane) -> None:
    """Mark a stroke's pixels, wipe the other sign's strokes there, and drop the other sign's clicks there."""
    own, other = (0, 1) if stroke.positive else (1, 0)
    found = _stroke_window(stroke, plane)
    if found is None:
        return
    (r0, r1), (c0, c1), window = *found[0], found[1]
    marks[own, r0:r1, c0:c1] |= window
    marks[other, r0:r1, c0:c1] &= ~window
    for (row, column), positive in list(clicks.items()):
        if positive != stroke.positive and r0 <= row < r1 and c0 <= column < c1 and window[row - r0, column - c0]:
            del clicks[row, column]


def _stroke_window(stroke: Stroke, plane: SlicePlane) -> tuple[Box2D, BoolArray] | None:
    """The part of the raster that a stroke touches, and which of its pixels are marked; None when there are none."""
    spacing = np.array(plane.spacing_mm)
    starts, ends = _visible_segments(plane, stroke.points_mm, stroke.radius_mm + float(spacing.max()))
    rows, first, last = _brushed_intervals(starts, ends, stroke.radius_mm, spacing, plane.shape)
    if 2 * stroke.radius_mm < np.hypot(*spacing):  # a wider brush covers the pixels under its line anyway
        passed = _passed_pixels(starts / spacing, ends / spacing)
        inside = ((passed >= 0) & (passed < plane.shape)).all(axis=1)
        rows = np.concatenate([rows, passed[inside, 0]])
        first, last = (np.concatenate([side, passed[inside, 1]]) for side in (first, last))
    if not rows.size:
        return None
    r0, r1, c0, c1 = int(rows.min()), int(rows.max()) + 1, int(first.min()), int(last.max()) + 1
    # Each interval adds one where it begins and takes it away after its end; the running sum counts covers.
    width = c1 - c0 + 1
    begin = (rows - r0) * width + (first - c0)
    changes = np.bincount(begin, minlength=(r1 - r0) * width)
    changes -= np.bincount(begin + (last - first + 1), minlength=changes.size)
    covered = np.cumsum(changes.reshape(r1 - r0, width), axis=1)[:, :-1] > 0
    return ((r0, r1), (c0, c1)), covered


def _visible_segments(plane: SlicePlane, points_mm: ArrayLike, reach: float) -> tuple[FloatArray, FloatArray]:
    """Cut a line to the raster and `reach` mm around it.

    Returns:
        Starts and ends (S, 2) of its straight pieces, in millimetres along (rows, columns) from pixel (0, 0). One piece
        of no length for a single point.
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


def _brushed_intervals(
    starts: FloatArray, ends: FloatArray, radius: float, spacing: FloatArray, shape: tuple[int, int]
) -> tuple[IntArray, IntArray, IntArray]:
    """Rows, first and last columns of the pixels whose centres lie within `radius` of any of the pieces.

    What lies within the radius of one piece (two discs and the rectangle between) is convex, so it cuts each row of
    pixel centres in one interval.
    """
    low = np.ceil((np.minimum(starts[:, 0], ends[:, 0]) - radius) / spacing[0] - _RIM).clip(0).astype(np.int64)
    high = np.floor((np.maximum(starts[:, 0], ends[:, 0]) + radius) / spacing[0] + _RIM).clip(max=shape[0] - 1)
    counts = np.maximum(high.astype(np.int64) - low + 1, 0)
    piece = np.repeat(np.arange(len(counts)), counts)
    rows = low[piece] + np.arange(piece.size) - (np.cumsum(counts) - counts)[piece]
    start, end = starts[piece], ends[piece]
    rise, run = (end - start).T
    length = np.hypot(rise, run)
    above = rows * spacing[0] - start[:, 0]  # of the row over the start; columns below are from the start, too
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rectangle: 0 <= along <= length, |across| <= radius, for the point (above, x) of the row.
        along = np.sort([-above * rise / run, (length**2 - above * rise) / run], axis=0)
        across = np.sort([(above * run - radius * length) / rise, (above * run + radius * length) / rise], axis=0)
    # Where the piece runs along the rows or columns, one of the conditions does not depend on x.
    in_length, in_width = (above * rise >= 0) & (above * rise <= length**2), np.abs(above) <= radius
    along = np.where(run == 0, np.where(in_length, [[-np.inf], [np.inf]], [[np.inf], [-np.inf]]), along)
    across = np.where(rise == 0, np.where(in_width, [[-np.inf], [np.inf]], [[np.inf], [-np.inf]]), across)
    left, right = np.maximum(along[0], across[0]), np.minimum(along[1], across[1])
    empty = (left > right) | (length == 0)
    left, right = np.where(empty, np.inf, left), np.where(empty, -np.inf, right)
    for centre, offset in ((0.0, above), (run, above - rise)):
        half = np.sqrt(np.maximum(radius**2 - offset**2, 0))
        hit = np.abs(offset) <= radius * (1 + _RIM)
        left = np.where(hit, np.minimum(left, centre - half), left)
        right = np.where(hit, np.maximum(right, centre + half), right)
    first = np.ceil(((left + start[:, 1]) / spacing[1] - _RIM).clip(0, shape[1])).astype(np.int64)
    last = np.floor(((right + start[:, 1]) / spacing[1] + _RIM).clip(-1, shape[1] - 1)).astype(np.int64)
    kept = first <= last
    return rows[kept], first[kept], last[kept]


def _passed_pixels(starts: FloatArray, ends: FloatArray) -> IntArray:
    """Pixels (N, 2) that straight pieces (S, 2) pass through, in pixels: the middles between crossings of borders."""
    step = ends - starts
    pieces, places = [np.repeat(np.arange(len(starts)), 2)], [np.tile([0.0, 1.0], len(starts))]
    for d in range(2):
        low, high = (
            nearest_index(np.minimum(starts[:, d], ends[:, d])),
            nearest_index(np.maximum(starts[:, d], ends[:, d])),
        )
        counts = high - low
        piece = np.repeat(np.arange(len(counts)), counts)
        border = low[piece] + np.arange(piece.size) - (np.cumsum(counts) - counts)[piece] + 0.5
        pieces.append(piece)
        places.append(((border - starts[piece, d]) / step[piece, d]).clip(0, 1))
    piece, place = np.concatenate(pieces), np.concatenate(places)
    order = np.lexsort((place, piece))
    piece, place = piece[order], place[order]
    same = piece[1:] == piece[:-1]
    piece, middle = piece[:-1][same], ((place[1:] + place[:-1]) / 2)[same]
    return nearest_index(starts[piece] + middle[:, None] * step[piece])


def _distance_to_segment(
    low: IntArray, high: IntArray, spacing: FloatArray, start: FloatArray, end: FloatArray
) -> FloatArray:
    """Distance in mm of the pixel centres from `low` up to `high` (exclusive) from a straight piece."""
    y = np.arange(low[0], high[0])[:, None] * spacing[0] - start[0]
    x = np.arange(low[1], high[1]) * spacing[1] - start[1]
    rise, run = end - start
    squared = rise**2 + run**2
    along = ((y * rise + x * run) / squared).clip(0, 1) if squared > 0 else np.zeros(1)
    distance: FloatArray = np.hypot(y - along * rise, x - along * run)
    return distance


def _pixel_box(box: Box, plane: SlicePlane) -> tuple[tuple[int, int], tuple[int, int]] | None:
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
    """Paint gestures in their colours: green marks the object, red the background, yellow outlines boxes.

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
        if isinstance(gesture, Stroke):
            lines, radius_mm, color = [gesture.points_mm], gesture.radius_mm, _color(gesture.positive)
        elif isinstance(gesture, Click):
            lines, radius_mm, color = [(gesture.point_mm,)], click_mm, _color(gesture.positive)
        else:
            lines, radius_mm, color = [_box_outline(gesture, plane)], click_mm / 4, BOX_COLOR
        for points in lines:
            paint_line(picture, raster, points, radius_mm, color)
    return picture


def paint_line(
    picture: Picture,
    raster: SlicePlane,
    points_mm: Sequence[tuple[float, float, float]],
    radius_mm: float,
    color: Color,
) -> None:
    """Paint a line of round brush strokes into a picture, in place.

    Args:
        picture: (H, W, 4), on `raster`.
        raster: Where the picture's pixels are.
        points_mm: The line.
        radius_mm: Half its width.
        color: Red, green and blue in [0, 1].
    """
    coverage = np.zeros(raster.shape, np.float32)
    region = paint_stroke(coverage, raster, points_mm, radius_mm)
    if region is None:
        return
    window = tuple(slice(*ends) for ends in region)
    alpha = coverage[window] * (255 * _STROKE_OPACITY)
    part = picture[window]
    covered = alpha >= part[..., 3]
    part[covered, :3] = np.round(np.multiply(color, 255)).astype(np.uint8)
    part[covered, 3] = alpha[covered].astype(np.uint8)


def mask_picture(mask: NDArray[np.bool_], color: Color) -> Picture:
    """Show a mask (H, W) in one colour."""
    picture = np.zeros((*mask.shape, 4), np.uint8)
    picture[mask, :3] = np.round(np.multiply(color, 255)).astype(np.uint8)
    picture[mask, 3] = round(255 * _OVERLAY_OPACITY)
    return picture


def probability_picture(logits: NDArray[np.float32]) -> Picture:
    """Show probabilities in colours, from violet (unlikely) over green to yellow (certain).

    Args:
        logits: (H, W), unthresholded.

    Returns:
        The picture; what is all but impossible is transparent.
    """
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))
    # A table of 256 steps: interpolating each pixel takes ten times as long.
    steps = np.linspace(0.0, 1.0, 256)
    table = np.empty((256, 4), np.uint8)
    for channel in range(3):
        table[:, channel] = np.interp(steps, _PROBABILITY_STOPS, _PROBABILITY_COLORS[:, channel])
    table[:, 3] = 255 * _OVERLAY_OPACITY * np.minimum(steps / 0.2, 1.0)
    table[steps < 0.05, 3] = 0
    return table[(probabilities * 255).astype(np.uint8)]


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
        voxel_slice=None,
    )


def corners_mm(plane: SlicePlane) -> NDArray[np.float64]:
    """Give the outer corners (4, 3) of a raster: first row and column, then around along the first row."""
    height, width = plane.shape
    top, left, bottom, right = -0.5, -0.5, height - 0.5, width - 0.5
    return plane.to_mm(np.array([(top, left), (top, right), (bottom, right), (bottom, left)]))


def _color(positive: bool) -> Color:
    return POSITIVE_COLOR if positive else NEGATIVE_COLOR


def _box_outline(box: Box, plane: SlicePlane) -> tuple[tuple[float, float, float], ...]:
    (top, left), (bottom, right) = plane.to_pixels(np.array([box.corner_mm, box.opposite_mm]))
    corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left), (top, left)])
    return tuple((x, y, z) for x, y, z in plane.to_mm(corners).tolist())
