"""Pictures of what was drawn and predicted, to lie over a slice view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scribblesegment.gestures import Box, Click, Gesture, Stroke
from scribblesegment.rasterization import paint_stroke
from scribblesegment.slice_plane import SlicePlane

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
