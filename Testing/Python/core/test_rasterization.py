"""Tests of scribblesegment.data.rasterize: gestures in millimetres become pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.drawing import Box, Click, Stroke
from scribblesegment.data.geometry import Grid, SlicePlane, nearest_index, plane_through
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.rasterize import paint_stroke, rasterize

relaxed = settings(deadline=None, max_examples=80)

SHAPE = (20, 30)


def a_plane(shape=SHAPE, spacing=(1.0, 1.0)) -> SlicePlane:
    """A raster whose pixel (row, column) is at (column * dx, row * dy, 0)."""
    return SlicePlane(shape, (0, 0, 0), (0, spacing[0], 0), (spacing[1], 0, 0))


def turned_plane(shape=SHAPE, spacing=(1.0, 1.0)) -> SlicePlane:
    return SlicePlane(shape, (5, -7, 9), np.multiply((0.6, 0, 0.8), spacing[0]), (0, -spacing[1], 0))


def at(plane: SlicePlane, *pixels: tuple[float, float]) -> tuple:
    return tuple(map(tuple, plane.to_mm(np.array(pixels)).tolist()))


def a_stroke(plane: SlicePlane, *pixels: tuple[float, float], radius=0.5, positive=True) -> Stroke:
    return Stroke(at(plane, *pixels), radius, positive)


def distance_to_line_mm(plane: SlicePlane, points_mm) -> np.ndarray:
    """Distance of each pixel's centre from a line, piece by piece."""
    centres = plane.to_mm(np.stack(np.indices(plane.shape), axis=-1))
    points = np.array(points_mm)
    nearest = np.linalg.norm(centres - points[0], axis=-1)
    for start, end in itertools.pairwise(points):
        step = end - start
        along = ((centres - start) @ step / max(step @ step, 1e-300)).clip(0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(centres - start - along[..., None] * step, axis=-1))
    return nearest


positions = st.tuples(st.floats(-15, 35), st.floats(-15, 45))
spacings = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3))


# --- Strokes ----------------------------------------------------------------------------------------------------------


@relaxed
@given(st.lists(positions, min_size=1, max_size=6), st.floats(0.01, 12), spacings, st.booleans())
def test_a_stroke_holds_the_pixels_within_its_radius_and_those_its_line_passes(pixels, radius, spacing, turned):
    plane = (turned_plane if turned else a_plane)(spacing=spacing)
    stroke = a_stroke(plane, *pixels, radius=radius)
    marked = rasterize([stroke], plane).scribbles[0] > 0
    distance = distance_to_line_mm(plane, stroke.points_mm)
    assert marked[distance < stroke.radius_mm - 1e-6].all()
    # A pixel that the line passes through has its centre within half a diagonal of the line.
    assert not marked[distance > max(stroke.radius_mm, np.hypot(*spacing) / 2) + 1e-6].any()

    dense = plane.to_pixels(stroke.points_mm)
    dense = np.concatenate([np.linspace(a, b, 400) for a, b in zip(dense, [*dense[1:], dense[-1]], strict=True)])
    clear = (np.abs(dense % 1 - 0.5) > 1e-3).all(axis=1)
    passed = nearest_index(dense[clear])
    passed = passed[((passed >= 0) & (passed < plane.shape)).all(axis=1)]
    assert marked[tuple(passed.T)].all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 4.0), (4.0, 0.5), (0.1, 0.3)])
@pytest.mark.parametrize("along", [0, 1])
def test_a_stroke_across_anisotropic_pixels_has_its_width_in_millimetres(spacing, along):
    plane = a_plane((200, 200), spacing)
    ends = [(20.0, 100.0), (180.0, 100.0)] if along == 0 else [(100.0, 20.0), (100.0, 180.0)]
    marked = rasterize([a_stroke(plane, *ends, radius=6.2)], plane).scribbles[0]
    across = marked[100] if along == 0 else marked[:, 100]
    assert across.sum() == 2 * np.floor(6.2 / spacing[1 - along]) + 1 or across.all()


def test_a_dot_is_a_disc():
    plane = a_plane(spacing=(1.0, 2.0))
    marked = rasterize([a_stroke(plane, (10, 15), radius=4)], plane).scribbles[0]
    rows, columns = np.indices(SHAPE)
    np.testing.assert_array_equal(marked, np.hypot(rows - 10, 2 * (columns - 15)) <= 4)


def test_the_finest_stroke_is_a_closed_line():
    plane = a_plane()
    marked = rasterize([a_stroke(plane, (2.1, 3.2), (15.3, 24.2), radius=1e-3)], plane).scribbles[0]
    rows, columns = np.nonzero(marked)
    assert marked[2, 3] == marked[15, 24] == 1
    assert set(columns) == set(range(3, 25))
    assert len(rows) == 1 + 13 + 21  # a step to the side or down, never both at once


def test_a_stroke_between_two_pixels_marks_the_one_with_the_lower_index():
    plane = a_plane()
    marked = rasterize([a_stroke(plane, (4.5, 3), (4.5, 6), radius=0.1)], plane).scribbles[0]
    assert np.argwhere(marked).tolist() == [[4, 3], [4, 4], [4, 5], [4, 6]]


def test_a_stroke_that_leaves_the_raster_and_returns_is_marked_where_it_is_seen():
    plane = a_plane()
    marked = rasterize([a_stroke(plane, (5, 5), (5, 1e6), (12, 1e6), (12, 5))], plane).scribbles[0]
    assert marked[5, 5:].all()
    assert marked[12, 5:].all()
    assert marked.sum() == 2 * 25


def test_an_endless_fine_stroke_takes_neither_time_nor_memory():
    plane = a_plane(spacing=(1e-3, 1e-3))
    far = Stroke(((-1e6, 0.01, 0), (1e6, 0.01, 0)), 1e-4)
    marked = rasterize([far], plane).scribbles[0]
    assert marked[10].all()
    assert marked.sum() == SHAPE[1]


@pytest.mark.parametrize("tiny", [1e-12, 1e-200, 2e-313])
def test_a_hand_that_hardly_moves_paints_a_dot(tiny):
    plane = a_plane()
    points = at(plane, (0, 0), (0, tiny), (tiny, 0))
    coverage, dot = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    paint_stroke(coverage, plane, points, 2.0)
    paint_stroke(dot, plane, points[:1], 2.0)
    np.testing.assert_array_equal(coverage, dot)
    assert dot[0, 0] == 1


@pytest.mark.parametrize("radius", [0.01, 0.3, 0.5, 0.7])
def test_a_pixel_whose_corner_the_line_cuts_is_marked_by_any_brush(radius):
    plane = a_plane()
    marked = rasterize([a_stroke(plane, (2.45, 7.45), (6.45, 3.45), radius=radius)], plane).scribbles[0]
    assert marked[4, 5] == 1  # its centre is 0.64 pixels away from the line


def test_points_beside_the_plane_are_projected_onto_it():
    plane = turned_plane()
    points = at(plane, (4, 5), (8, 20))
    shifted = tuple(map(tuple, np.array(points) + 0.04 * plane.normal))
    on, off = (rasterize([Stroke(p, 2.0)], plane) for p in (points, shifted))
    assert on.equals(off)
    assert not on.is_empty


def test_gestures_outside_the_raster_say_nothing():
    plane = a_plane()
    outside = [
        a_stroke(plane, (-9, -9), (-3, 40), radius=2), Click(*at(plane, (20, 3))), Click(*at(plane, (3, -1))),
        Box(*at(plane, (-5, 3), (-1, 8))), Box(*at(plane, (2, 30), (5, 40))),
    ]  # fmt: skip
    assert rasterize(outside, plane).equals(Prompts.empty(SHAPE))
    assert rasterize([], plane).equals(Prompts.empty(SHAPE))


# --- Clicks, boxes, and who wins --------------------------------------------------------------------------------------


def test_clicks_mark_the_pixel_that_holds_them():
    plane = turned_plane(spacing=(0.7, 1.3))
    prompts = rasterize([Click(*at(plane, (3.4, 5.6))), Click(*at(plane, (0, 29.4)), positive=False)], plane)
    assert prompts.point_coords.tolist() == [[3, 6], [0, 29]]
    assert prompts.point_labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (((2, 3), (5, 8)), [[2, 3], [6, 9]]),
        (((5, 3), (2, 8)), [[2, 3], [6, 9]]),
        (((1.6, 2.6), (5.4, 8.4)), [[2, 3], [6, 9]]),
        (((3.3, 4.2), (3.4, 4.3)), [[3, 4], [4, 5]]),
        (((3.3, 4.2), (3.4, 9.3)), [[3, 5], [4, 10]]),
        (((-10, -10), (100, 100)), [[0, 0], [20, 30]]),
        (((-10, 5), (0.2, 7)), [[0, 5], [1, 8]]),
        (((-10, 5), (-0.4, 7)), [[0, 5], [1, 8]]),
        (((19.4, 29.3), (30, 40)), [[19, 29], [20, 30]]),
    ],
)
def test_boxes_hold_the_pixels_whose_centres_lie_inside_and_at_least_one(corners, expected):
    plane = turned_plane()
    assert rasterize([Box(*at(plane, *corners))], plane).boxes.tolist() == [expected]


@relaxed
@given(positions, positions, spacings)
def test_every_box_is_one_that_prompts_accept(corner, opposite, spacing):
    plane = a_plane(spacing=spacing)
    boxes = rasterize([Box(*at(plane, corner, opposite))], plane).boxes
    assert len(boxes) <= 1
    low, high = np.minimum(corner, opposite), np.maximum(corner, opposite)
    if (high > -0.49).all() and (low < np.array(SHAPE) - 0.51).all():
        assert len(boxes) == 1


marks = st.tuples(
    st.sampled_from(["stroke", "click"]), st.booleans(), st.tuples(st.integers(0, 5), st.integers(0, 7)),
    st.tuples(st.integers(0, 5), st.integers(0, 7)), st.sampled_from([0.4, 1.2, 3.0]),
)  # fmt: skip


@relaxed
@given(st.lists(marks, max_size=12))
def test_later_gestures_win_as_they_do_when_prompts_are_added_one_by_one(sequence):
    plane = turned_plane((6, 8), (0.9, 1.1))
    one_by_one = Prompts.empty(plane.shape)
    gestures = []
    for kind, positive, start, end, radius in sequence:
        if kind == "click":
            gestures.append(Click(*at(plane, start), positive))
            one_by_one = one_by_one.with_click(start, positive)
        else:
            gestures.append(a_stroke(plane, start, end, radius=radius, positive=positive))
            one_by_one = one_by_one.with_scribble(
                rasterize([a_stroke(plane, start, end, radius=radius)], plane).scribbles[0], positive
            )
    together = rasterize(gestures, plane)
    together.refuse_conflicts()
    assert together.equals(one_by_one)


def test_gestures_of_a_view_are_the_same_voxels_in_any_raster_of_the_plane():
    grid = Grid((40, 40, 40), np.eye(4))
    first = plane_through(grid, (20, 20, 20), (0, 1, 1), column_hint=(1, 0, 0))
    turned = plane_through(grid, (20, 20, 20), (0, -1, -1), column_hint=(1, 1, -1))
    stroke = a_stroke(first, (20, 20), (30, 25), radius=5)
    assert first.matches(turned)
    for plane in (first, turned):
        marked = rasterize([stroke], plane).scribbles[0] > 0
        distance = distance_to_line_mm(plane, stroke.points_mm)
        clear = np.abs(distance - 5) > 1e-3
        np.testing.assert_array_equal(marked[clear], distance[clear] < 5)


# --- Display ----------------------------------------------------------------------------------------------------------


@relaxed
@given(st.lists(positions, min_size=1, max_size=5), st.floats(0.1, 8), st.booleans())
def test_painted_lines_are_full_inside_and_fade_over_one_pixel(pixels, radius, turned):
    plane = (turned_plane if turned else a_plane)()
    coverage = np.zeros(SHAPE, np.float32)
    points = at(plane, *pixels)
    paint_stroke(coverage, plane, points, radius)
    width = max(radius, 0.5)
    expected = np.clip(width - distance_to_line_mm(plane, points) + 0.5, 0, 1)
    np.testing.assert_allclose(coverage, expected, atol=1e-5)


@relaxed
@given(st.lists(positions, min_size=3, max_size=6), st.floats(0.1, 8), spacings)
def test_a_line_painted_piece_by_piece_is_the_line_painted_at_once(pixels, radius, spacing):
    plane = a_plane(spacing=spacing)
    points = at(plane, *pixels)
    at_once, growing = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    paint_stroke(at_once, plane, points, radius)
    for start in range(len(points) - 1):
        paint_stroke(growing, plane, points[start : start + 2], radius)
    np.testing.assert_array_equal(growing, at_once)


@relaxed
@given(st.lists(positions, min_size=1, max_size=5), st.floats(0.1, 8), spacings)
def test_nothing_changes_outside_the_region_that_is_reported(pixels, radius, spacing):
    plane = a_plane(spacing=spacing)
    coverage = np.full(SHAPE, 0.25, np.float32)
    region = paint_stroke(coverage, plane, at(plane, *pixels), radius)
    changed = coverage != 0.25
    assert coverage.min() >= 0.25
    assert coverage.max() <= 1
    if region is None:
        assert not changed.any()
        return
    (r0, r1), (c0, c1) = region
    assert 0 <= r0 < r1 <= SHAPE[0]
    assert 0 <= c0 < c1 <= SHAPE[1]
    changed[r0:r1, c0:c1] = False
    assert not changed.any()


def test_a_line_beside_the_raster_paints_nothing():
    coverage = np.zeros(SHAPE, np.float32)
    assert paint_stroke(coverage, a_plane(), at(a_plane(), (-20, -20), (-20, 50)), 3.0) is None
    assert not coverage.any()


def test_the_finest_line_is_visible():
    coverage = np.zeros(SHAPE, np.float32)
    plane = a_plane()
    paint_stroke(coverage, plane, at(plane, (5, 5), (5, 10)), 1e-4)
    assert (coverage[5, 5:11] == 1).all()
