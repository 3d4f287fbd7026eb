"""Tests of scribblesegment.data.rasterize: what lies over a slice shows what was drawn, where it was drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.drawing import Box, Click, Stroke
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.data.rasterize import (
    BOX_COLOR,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    corners_mm,
    finer,
    gestures_picture,
    mask_picture,
    paint_line,
    paint_stroke,
    probability_picture,
)

SHAPE = (20, 30)

relaxed = settings(max_examples=60)


def a_plane(shape=SHAPE, spacing=(1.0, 1.0), voxel_slice=None) -> SlicePlane:
    """A raster whose pixel (row, column) is at (column * dx, row * dy, 0)."""
    return SlicePlane(shape, (0, 0, 0), (0, spacing[0], 0), (spacing[1], 0, 0), voxel_slice)


@st.composite
def planes(draw: st.DrawFn) -> SlicePlane:
    """Rasters of any size, place, spacing and direction."""
    angle, tilt = draw(st.floats(0, 6.28)), draw(st.floats(0, 1.5))
    column = np.array([np.cos(angle), np.sin(angle), 0.0])
    row = np.cross((0, 0, 1), column) * np.cos(tilt) + np.array([0, 0, np.sin(tilt)])
    spacing = draw(st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return SlicePlane(shape, np.array(origin), row * spacing[0], column * spacing[1])


def at(plane: SlicePlane, *pixels: tuple[float, float]) -> tuple:
    return tuple(map(tuple, plane.to_mm(np.array(pixels)).tolist()))


def as_bytes(color) -> list[int]:
    return np.round(np.multiply(color, 255)).astype(int).tolist()


def centers_mm(plane: SlicePlane) -> np.ndarray:
    """(H, W, 3)."""
    return plane.to_mm(np.stack(np.indices(plane.shape), axis=-1))


def distance_to_line_mm(plane: SlicePlane, points_mm) -> np.ndarray:
    """(H, W), distance of each pixel's centre from a line."""
    centers, points = centers_mm(plane), np.array(points_mm)
    nearest = np.linalg.norm(centers - points[0], axis=-1)
    for start, end in itertools.pairwise(points):
        step = end - start
        along = ((centers - start) @ step / max(step @ step, 1e-300)).clip(0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(centers - start - along[..., None] * step, axis=-1))
    return nearest


# --- Rasters ----------------------------------------------------------------------------------------------------------


@given(planes(), st.integers(1, 5))
def test_a_finer_raster_covers_the_same_area(plane, factor):
    fine = finer(plane, factor)
    assert fine.shape == (plane.shape[0] * factor, plane.shape[1] * factor)
    np.testing.assert_allclose(corners_mm(fine), corners_mm(plane), rtol=0, atol=1e-9)


@given(planes(), st.integers(1, 5))
def test_each_pixel_is_divided_around_its_own_centre(plane, factor):
    (height, width), fine = plane.shape, centers_mm(finer(plane, factor))
    parts = fine.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(parts, centers_mm(plane), rtol=0, atol=1e-9)


def test_a_raster_divided_into_one_stays_what_it_is():
    plane = a_plane(voxel_slice=(0, 3))
    assert finer(plane, 1) is plane


def test_the_pixels_of_a_finer_raster_are_no_voxels_but_lie_on_the_same_plane():
    plane = a_plane(voxel_slice=(0, 3))
    fine = finer(plane, 2)
    assert fine.voxel_slice is None
    assert fine.matches(plane)


@given(planes())
def test_corners_go_around_the_pixels_outer_edges_beginning_along_the_first_row(plane):
    height, width = plane.shape
    expected = [(-0.5, -0.5), (-0.5, width - 0.5), (height - 0.5, width - 0.5), (height - 0.5, -0.5)]
    np.testing.assert_allclose(plane.to_pixels(corners_mm(plane)), expected, rtol=0, atol=1e-6)


# --- Gestures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_where_nothing_was_drawn_the_picture_is_transparent(supersampling):
    picture = gestures_picture((), a_plane(), supersampling=supersampling)
    assert picture.shape == (SHAPE[0] * supersampling, SHAPE[1] * supersampling, 4)
    assert picture.dtype == np.uint8
    assert not picture.any()


@pytest.mark.parametrize(("positive", "color"), [(True, POSITIVE_COLOR), (False, NEGATIVE_COLOR)])
def test_strokes_and_clicks_have_the_colour_of_their_sign(positive, color):
    plane = a_plane()
    gestures = (Stroke(at(plane, (5, 5), (5, 12)), 2.0, positive), Click(at(plane, (14, 22))[0], positive))
    picture = gestures_picture(gestures, plane, supersampling=1)
    drawn = picture[..., 3] > 0
    assert drawn[5, 8]
    assert drawn[14, 22]
    assert (picture[drawn, :3] == as_bytes(color)).all()


def test_the_image_can_be_seen_through_a_stroke():
    plane = a_plane()
    picture = gestures_picture([Stroke(at(plane, (10, 5), (10, 25)), 4.0)], plane)
    assert 127 < picture[..., 3].max() < 255


@relaxed
@given(
    st.lists(st.tuples(st.floats(-8, 28), st.floats(-8, 38)), min_size=1, max_size=5),
    st.floats(0.6, 8),
    st.integers(1, 3),
)
def test_a_stroke_shows_where_its_brush_was_and_nowhere_else(pixels, radius, supersampling):
    plane = a_plane()
    stroke = Stroke(at(plane, *pixels), radius)
    raster = finer(plane, supersampling)
    opacity = gestures_picture([stroke], plane, supersampling=supersampling)[..., 3]
    distance = distance_to_line_mm(raster, stroke.points_mm)
    pixel = 1 / supersampling  # the rim is as wide, and smooth
    assert (opacity[distance < radius - pixel / 2 - 1e-3] == opacity.max()).all()
    assert not opacity[distance > max(radius, pixel / 2) + pixel / 2 + 1e-3].any()


def test_the_rim_of_a_stroke_is_smooth():
    plane = a_plane()
    opacity = gestures_picture([Stroke(at(plane, (3, 3), (15, 24)), 3.3)], plane)[..., 3]
    assert len(np.unique(opacity)) > 10


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_the_later_gesture_covers_the_earlier(order):
    plane = a_plane()
    across, along = at(plane, (3, 15), (16, 15)), at(plane, (10, 5), (10, 25))
    first, second = Stroke(across, 2.0, order[0]), Stroke(along, 2.0, order[1])
    picture = gestures_picture([first, second], plane, supersampling=1)
    colors = {True: as_bytes(POSITIVE_COLOR), False: as_bytes(NEGATIVE_COLOR)}
    assert picture[10, 15, :3].tolist() == colors[order[1]]
    assert picture[4, 15, :3].tolist() == colors[order[0]]


@pytest.mark.parametrize("supersampling", [1, 2, 4])
@pytest.mark.parametrize("pixel", [(10.0, 15.0), (6.3, 20.8)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_a_click_is_a_small_disc_around_its_point_however_fine_the_picture_is(pixel, supersampling, spacing):
    plane = a_plane(spacing=spacing)
    click = Click(at(plane, pixel)[0])
    raster = finer(plane, supersampling)
    opacity = gestures_picture([click], plane, supersampling=supersampling)[..., 3].astype(float)
    weight = opacity / opacity.sum()
    centroid = (centers_mm(raster) * weight[..., None]).sum(axis=(0, 1))
    np.testing.assert_allclose(centroid, click.point_mm, atol=0.25 * max(spacing))
    # Two of the smaller sides of a pixel wide, so it is round and not hidden by anisotropy.
    # Coarse pixels add some of theirs to the rim.
    area = (opacity / opacity.max()).sum() * np.prod(raster.spacing_mm)
    assert area == pytest.approx(np.pi * (2 * min(spacing)) ** 2, rel=0.3)


def test_a_box_is_an_outline_that_leaves_its_inside_free():
    plane = a_plane()
    picture = gestures_picture([Box(*at(plane, (4, 6), (15, 24)))], plane, supersampling=1)
    opacity = picture[..., 3]
    assert (opacity[4, 6:25] > 0).all()
    assert (opacity[15, 6:25] > 0).all()
    assert (opacity[4:16, [6, 24]] > 0).all()
    assert not opacity[6:14, 8:23].any()
    assert not opacity[:3].any()
    assert not opacity[:, 26:].any()
    assert (picture[opacity > 0, :3] == as_bytes(BOX_COLOR)).all()


@given(planes(), st.lists(st.tuples(st.floats(-2, 14), st.floats(-2, 14)), min_size=2, max_size=2))
def test_a_box_looks_the_same_from_whichever_corner_it_was_drawn(plane, pixels):
    (r0, c0), (r1, c1) = pixels
    pairs = [((r0, c0), (r1, c1)), ((r1, c1), (r0, c0)), ((r0, c1), (r1, c0)), ((r1, c0), (r0, c1))]
    pictures = [gestures_picture([Box(*at(plane, *pair))], plane)[..., 3].astype(int) for pair in pairs]
    # Corners are rounded to 0.1 micrometres, in 0.1 mm of raster at least.
    for other in pictures[1:]:
        assert np.abs(other - pictures[0]).max() <= 2


def test_a_box_that_reaches_beyond_the_raster_shows_the_edges_that_lie_on_it():
    plane = a_plane()
    opacity = gestures_picture([Box(*at(plane, (-9, 6), (12, 60)))], plane, supersampling=1)[..., 3]
    assert (opacity[:13, 6] > 0).all()
    assert (opacity[12, 6:] > 0).all()
    assert not opacity[:10, 9:].any()


@pytest.mark.parametrize("depth", [-3.0, 0.3])
def test_what_was_drawn_beside_the_plane_is_projected_onto_it(depth):
    plane = a_plane()
    on = [Stroke(((4, 5, 0), (20, 9, 0)), 2.0), Click((25, 15, 0)), Box((3, 3, 0), (18, 14, 0))]
    off = [Stroke(((4, 5, depth), (20, 9, depth)), 2.0), Click((25, 15, depth)), Box((3, 3, depth), (18, 14, depth))]
    assert np.array_equal(gestures_picture(on, plane), gestures_picture(off, plane))


def test_what_was_drawn_outside_of_the_raster_is_not_shown():
    plane = a_plane()
    outside = [Stroke(((100, 5, 0), (120, 9, 0)), 2.0), Click((-25, -15, 0)), Box((50, 50, 0), (70, 70, 0))]
    assert not gestures_picture(outside, plane).any()


# --- Lines in the making ----------------------------------------------------------------------------------------------


@relaxed
@given(
    st.lists(st.tuples(st.floats(-10, 30), st.floats(-10, 40)), min_size=2, max_size=8),
    st.lists(st.integers(1, 7), max_size=4),
    st.floats(0.2, 6),
)
def test_a_line_painted_piece_by_piece_looks_like_one_painted_at_once(pixels, cuts, radius):
    plane = a_plane()
    points = at(plane, *np.round(pixels, 6))
    whole = np.zeros((*SHAPE, 4), np.uint8)
    paint_line(whole, plane, points, radius, POSITIVE_COLOR)
    pieces, start = np.zeros((*SHAPE, 4), np.uint8), 0
    for cut in [*sorted(cuts), len(points)]:
        if cut > start:
            # As while drawing: each piece begins at the last point of the one before.
            paint_line(pieces, plane, points[max(start - 1, 0) : cut], radius, POSITIVE_COLOR)
            start = cut
    assert np.array_equal(pieces[..., 3], whole[..., 3])
    seen = whole[..., 3] > 0
    assert np.array_equal(pieces[seen], whole[seen])


def test_a_line_leaves_what_is_there_where_it_covers_less():
    plane = a_plane()
    picture = np.zeros((*SHAPE, 4), np.uint8)
    paint_line(picture, plane, at(plane, (10, 5), (10, 25)), 3.0, POSITIVE_COLOR)
    before = picture.copy()
    paint_line(picture, plane, at(plane, (16, 5), (16, 25)), 3.5, NEGATIVE_COLOR)
    assert (picture[..., 3] >= before[..., 3]).all()
    assert np.array_equal(picture[9:12], before[9:12])
    assert picture[16, 15, :3].tolist() == as_bytes(NEGATIVE_COLOR)


def test_a_line_beside_the_raster_leaves_the_picture_alone(rng):
    plane = a_plane()
    picture = rng.integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
    before = picture.copy()
    paint_line(picture, plane, at(plane, (-30, 5), (-30, 25)), 3.0, POSITIVE_COLOR)
    assert np.array_equal(picture, before)


def test_a_line_changes_nothing_outside_of_the_region_that_its_brush_touches(rng):
    plane = a_plane()
    picture = rng.integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
    before, points = picture.copy(), at(plane, (8, 10), (12, 14))
    (r0, r1), (c0, c1) = paint_stroke(np.zeros(SHAPE, np.float32), plane, points, 2.0)
    paint_line(picture, plane, points, 2.0, POSITIVE_COLOR)
    changed = (picture != before).any(axis=-1)
    assert changed.any()
    changed[r0:r1, c0:c1] = False
    assert not changed.any()


# --- Results ----------------------------------------------------------------------------------------------------------


def test_a_mask_is_shown_in_its_colour_and_the_rest_is_transparent(rng):
    mask = rng.random(SHAPE) < 0.4
    picture = mask_picture(mask, (1.0, 0.5, 0.0))
    assert (picture[mask, :3] == (255, 128, 0)).all()
    assert len(np.unique(picture[mask, 3])) == 1
    assert 0 < picture[mask, 3][0] < 255
    assert not picture[~mask].any()


def test_an_empty_mask_shows_nothing():
    assert not mask_picture(np.zeros(SHAPE, bool), POSITIVE_COLOR).any()


def logits_of(*probabilities) -> np.ndarray:
    p = np.array([probabilities], np.float64)
    return np.log(p / (1 - p)).astype(np.float32)


def test_probabilities_go_from_violet_over_green_to_yellow():
    low, middle, high = probability_picture(logits_of(0.001, 0.5, 0.9999))[0, :, :3].astype(int)
    assert low.argmin() == 1
    assert middle.argmax() == 1
    assert high.argmin() == 2
    assert high.min() < 60
    assert high[:2].min() > 200


def test_what_is_all_but_impossible_is_not_shown_and_the_rest_no_less_the_likelier_it_is():
    opacity = probability_picture(np.linspace(-12, 12, 800, dtype=np.float32)[None])[0, :, 3].astype(int)
    assert (np.diff(opacity) >= 0).all()
    assert not probability_picture(logits_of(1e-6, 0.01, 0.045))[..., 3].any()
    assert (probability_picture(logits_of(0.06, 0.5, 0.99))[..., 3] > 0).all()
    assert 0 < opacity.max() < 255


def test_neighbouring_probabilities_have_colours_that_hardly_differ():
    probabilities = np.linspace(0.002, 0.998, 2000)
    colors = probability_picture(logits_of(*probabilities))[0, :, :3].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_surest_of_logits_are_shown_without_overflow(dtype):
    picture = probability_picture(np.array([[-np.inf, -1e30, -90, 90, 1e30, np.inf]], dtype))
    assert picture.dtype == np.uint8
    assert not picture[0, :3, 3].any()
    assert (picture[0, 3:] == picture[0, 3]).all()
    assert picture[0, 3, 3] > 0


def test_logits_are_left_as_they_are(rng):
    logits = rng.normal(0, 50, SHAPE).astype(np.float32)
    before = logits.copy()
    assert probability_picture(logits).shape == (*SHAPE, 4)
    assert np.array_equal(logits, before)
