"""What was drawn, in millimetres, becomes pixels for the network and pictures for the eye."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from scribblesegment.data.drawing import Box, Click, Lasso, Stroke
from scribblesegment.data.geometry import SlicePlane, nearest_index
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.rasterize import (
    BOX_COLOR,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    corners_mm,
    finer,
    gestures_picture,
    mask_picture,
    paint_stroke,
    probability_picture,
    rasterize,
)

relaxed = settings(deadline=None, max_examples=60)
SHAPE = (20, 30)


def a_plane(shape=SHAPE, spacing=(1.0, 1.0), turned=False):
    """A raster with pixel (row, column) at (column * dx, row * dy, 0), or turned in space."""
    if turned:
        return SlicePlane(shape, (5, -7, 9), np.multiply((0.6, 0, 0.8), spacing[0]), (0, -spacing[1], 0))
    return SlicePlane(shape, (0, 0, 0), (0, spacing[0], 0), (spacing[1], 0, 0))


PLANE = a_plane()


def at(plane, *pixels):
    return tuple(map(tuple, plane.to_mm(np.array(pixels)).tolist()))


def a_stroke(plane, *pixels, radius=0.5, positive=True):
    return Stroke(at(plane, *pixels), radius, positive)


def marked_by(stroke, plane=PLANE):
    return rasterize([stroke], plane).scribbles[0] > 0


def distance_to_line_mm(plane, points_mm):
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
lines = st.lists(positions, min_size=1, max_size=6)
spacings = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3))


# Strokes ------------------------------------------------------------------------------------------------------------


@relaxed
@given(lines, st.floats(0.01, 12), spacings, st.booleans())
def test_a_stroke_holds_the_pixels_within_its_radius_and_those_its_line_passes(pixels, radius, spacing, turned):
    plane = a_plane(spacing=spacing, turned=turned)
    stroke = a_stroke(plane, *pixels, radius=radius)
    marked = marked_by(stroke, plane)
    distance = distance_to_line_mm(plane, stroke.points_mm)
    assert marked[distance < stroke.radius_mm - 1e-6].all()
    # A pixel that the line passes through has its centre within half a diagonal of the line.
    assert not marked[distance > max(stroke.radius_mm, np.hypot(*spacing) / 2) + 1e-6].any()
    dense = plane.to_pixels(stroke.points_mm)
    dense = np.concatenate([np.linspace(a, b, 400) for a, b in zip(dense, [*dense[1:], dense[-1]], strict=True)])
    passed = nearest_index(dense[(np.abs(dense % 1 - 0.5) > 1e-3).all(axis=1)])
    passed = passed[((passed >= 0) & (passed < plane.shape)).all(axis=1)]
    assert marked[tuple(passed.T)].all()


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (((4.5, 3), (4.5, 6)), [[4, 3], [4, 4], [4, 5], [4, 6]]),  # a tie goes to the lower index
        (((3, 4.5), (5, 4.5)), [[3, 4], [4, 4], [5, 4]]),
        (((4.5, 4.5),), [[4, 4]]),
        (((2.45, 4.45), (4.45, 2.45)), [[2, 4], [3, 3], [3, 4], [4, 2], [4, 3]]),  # corners it cuts
        (((2, 2), (5, 5)), [[2, 2], [3, 3], [4, 4], [5, 5]]),  # through the corners of others
        (((0, 7), (0, 5)), [[0, 5], [0, 6], [0, 7]]),
    ],
)
def test_lines_along_borders_and_through_corners_mark_one_pixel_at_a_time(ends, expected):
    assert np.argwhere(marked_by(a_stroke(PLANE, *ends, radius=0.1))).tolist() == expected


def test_a_stroke_that_leaves_the_raster_and_returns_is_marked_where_it_is_seen():
    marked = marked_by(a_stroke(PLANE, (5, 5), (5, 1e6), (12, 1e6), (12, 5)))
    assert marked[5, 5:].all()
    assert marked[12, 5:].all()
    assert marked.sum() == 2 * 25
    plane = a_plane(spacing=(1e-3, 1e-3))
    endless = marked_by(Stroke(((-1e6, 0.01, 0), (1e6, 0.01, 0)), 1e-4), plane)
    assert endless[10].all()
    assert endless.sum() == SHAPE[1]


# Clicks, boxes, and who wins ----------------------------------------------------------------------------------------


@relaxed
@given(st.lists(positions, min_size=3, max_size=8), st.booleans())
def test_a_lasso_holds_the_pixels_that_its_line_goes_around(corners, turned):
    plane = a_plane(turned=turned)
    centres = np.stack(np.indices(SHAPE), axis=-1)[..., None, :]
    away = np.array(corners) - centres
    angles = np.arctan2(away[..., 0], away[..., 1])
    turns = (np.diff(angles, append=angles[..., :1]) + np.pi) % (2 * np.pi) - np.pi
    # Pixels whose centres lie on the line may belong to the region or not.
    beside = distance_to_line_mm(PLANE, at(PLANE, *corners, corners[0])) > 1e-3
    marked = marked_by(Lasso(at(plane, *corners)), plane)
    assert np.array_equal(marked[beside], abs(turns.sum(axis=-1))[beside] > 1)
    assert rasterize([Lasso(at(plane, *corners), positive=False)], plane).scribbles[0].sum() == 0


def test_clicks_mark_the_pixel_that_holds_them():
    plane = a_plane(spacing=(0.7, 1.3), turned=True)
    prompts = rasterize([Click(*at(plane, (3.4, 5.6))), Click(*at(plane, (0, 29.4)), positive=False)], plane)
    assert (prompts.point_coords.tolist(), prompts.point_labels.tolist()) == ([[3, 6], [0, 29]], [1, 0])


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
    plane = a_plane(turned=True)
    assert rasterize([Box(*at(plane, *corners))], plane).boxes.tolist() == [expected]


cells = st.tuples(st.integers(0, 5), st.integers(0, 7))


@relaxed
@given(st.lists(st.tuples(st.booleans(), st.booleans(), cells, cells, st.sampled_from([0.4, 1.2, 3.0])), max_size=12))
def test_the_later_wins_as_when_prompts_are_added_one_by_one(sequence):
    plane = a_plane((6, 8), (0.9, 1.1), turned=True)
    one_by_one, drawn = Prompts.empty(plane.shape), []
    for is_click, positive, start, end, radius in sequence:
        if is_click:
            drawn.append(Click(*at(plane, start), positive))
            one_by_one = one_by_one.with_click(start, positive)
        else:
            drawn.append(a_stroke(plane, start, end, radius=radius, positive=positive))
            mask = marked_by(a_stroke(plane, start, end, radius=radius), plane)
            one_by_one = one_by_one.with_scribble(mask, positive)
    together = rasterize(drawn, plane)
    together.refuse_conflicts()
    assert together.equals(one_by_one)


def test_what_lies_beside_the_plane_is_projected_and_what_lies_beside_the_raster_left_out():
    plane = a_plane(turned=True)
    points = at(plane, (4, 5), (8, 20))
    shifted = tuple(map(tuple, np.array(points) + 0.04 * plane.normal))
    on, off = (rasterize([Stroke(p, 2.0)], plane) for p in (points, shifted))
    assert on.equals(off)
    assert not on.is_empty
    outside = [a_stroke(PLANE, (-9, -9), (-3, 40), radius=2), Click(*at(PLANE, (20, 3))), Click(*at(PLANE, (3, -1)))]
    outside += [Box(*at(PLANE, (-5, 3), (-1, 8))), Box(*at(PLANE, (2, 30), (5, 40)))]
    assert rasterize(outside, PLANE).equals(Prompts.empty(SHAPE))


# Smooth lines -------------------------------------------------------------------------------------------------------


@relaxed
@given(lines, st.floats(0.1, 8), spacings, st.booleans())
def test_painted_lines_are_full_inside_fade_over_one_pixel_and_may_come_in_pieces(pixels, radius, spacing, turned):
    plane = a_plane(spacing=spacing, turned=turned)
    coverage, growing = np.full(SHAPE, 0.25, np.float32), np.full(SHAPE, 0.25, np.float32)
    points = at(plane, *pixels)
    region = paint_stroke(coverage, plane, points, radius)
    pixel = np.sqrt(np.prod(spacing))
    expected = np.clip((max(radius, pixel / 2) - distance_to_line_mm(plane, points)) / pixel + 0.5, 0.25, 1)
    np.testing.assert_allclose(coverage, expected, atol=1e-5)
    for start in range(max(len(points) - 1, 1)):
        paint_stroke(growing, plane, points[start : start + 2], radius)
    np.testing.assert_array_equal(growing, coverage)
    changed = coverage != 0.25
    if region is not None:
        assert all(0 <= start < stop <= side for (start, stop), side in zip(region, SHAPE, strict=True))
        changed[tuple(slice(*side) for side in region)] = False
    assert not changed.any()


@pytest.mark.parametrize("tiny", [1e-12, 1e-200, 2e-313])
def test_a_hand_that_hardly_moves_paints_a_dot(tiny):
    points = at(PLANE, (0, 0), (0, tiny), (tiny, 0))
    coverage, dot = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    paint_stroke(coverage, PLANE, points, 2.0)
    paint_stroke(dot, PLANE, points[:1], 2.0)
    np.testing.assert_array_equal(coverage, dot)
    assert dot[0, 0] == 1
    np.testing.assert_array_equal(marked_by(Stroke(points, 2.0)), marked_by(Stroke(points[:1], 2.0)))


# Pictures -----------------------------------------------------------------------------------------------------------


def as_bytes(color):
    return np.round(np.multiply(color, 255)).astype(int).tolist()


def opacity_of(*drawn, plane=PLANE, supersampling=1):
    return gestures_picture(drawn, plane, supersampling=supersampling)[..., 3]


@given(spacings, st.booleans(), st.integers(1, 5))
def test_a_finer_raster_covers_the_same_area_pixel_by_pixel(spacing, turned, factor):
    plane = a_plane((3, 4), spacing, turned)
    fine = finer(plane, factor)
    assert fine.shape == (3 * factor, 4 * factor)
    np.testing.assert_allclose(corners_mm(fine), corners_mm(plane), rtol=0, atol=1e-9)
    centres, parts = (p.to_mm(np.stack(np.indices(p.shape), axis=-1)) for p in (plane, fine))
    np.testing.assert_allclose(parts.reshape(3, factor, 4, factor, 3).mean(axis=(1, 3)), centres, rtol=0, atol=1e-9)
    outer = [(-0.5, -0.5), (-0.5, 3.5), (2.5, 3.5), (2.5, -0.5)]
    np.testing.assert_allclose(plane.to_pixels(corners_mm(plane)), outer, rtol=0, atol=1e-6)
    assert fine.voxel_slice is None
    assert (fine is plane) == (factor == 1)


def test_everything_has_its_colour_the_image_shines_through_and_the_later_covers_the_earlier():
    assert gestures_picture((), PLANE).shape == (40, 60, 4)
    assert not gestures_picture((), PLANE).any()
    for positive, color in ((True, POSITIVE_COLOR), (False, NEGATIVE_COLOR)):
        across = Stroke(at(PLANE, (3, 15), (16, 15)), 2.0, not positive)
        along = Stroke(at(PLANE, (10, 5), (10, 25)), 2.0, positive)
        picture = gestures_picture([across, along, Click(at(PLANE, (2, 2))[0], positive)], PLANE, supersampling=1)
        assert (
            picture[10, 15, :3].tolist() == picture[2, 2, :3].tolist() == as_bytes(color) != picture[4, 15, :3].tolist()
        )
        assert 127 < picture[..., 3].max() < 255


@pytest.mark.parametrize("supersampling", [1, 4])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_a_click_is_a_small_disc_around_its_point_however_fine_the_picture_is(supersampling, spacing):
    plane = a_plane(spacing=spacing)
    click, raster = Click(at(plane, (6.3, 20.8))[0]), finer(plane, supersampling)
    weight = opacity_of(click, plane=plane, supersampling=supersampling).astype(float)
    centres = raster.to_mm(np.stack(np.indices(raster.shape), axis=-1))
    centroid = (centres * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
    np.testing.assert_allclose(centroid, click.point_mm, atol=0.25 * max(spacing))
    # Two of the smaller sides of a pixel wide, so it is round and not hidden by anisotropy.
    area = (weight / weight.max()).sum() * np.prod(raster.spacing_mm)
    assert area == pytest.approx(np.pi * (2 * min(spacing)) ** 2, rel=0.3)


def test_a_box_is_an_outline_from_whichever_corner_it_was_drawn():
    picture = gestures_picture([Box(*at(PLANE, (4, 6), (15, 24)))], PLANE, supersampling=1)
    opacity = picture[..., 3]
    assert (opacity[[4, 15], 6:25] > 0).all()
    assert (opacity[4:16, [6, 24]] > 0).all()
    assert not opacity[6:14, 8:23].any()
    assert not opacity[:3].any()
    assert (picture[opacity > 0, :3] == as_bytes(BOX_COLOR)).all()
    for corners in (((15, 24), (4, 6)), ((4, 24), (15, 6))):
        np.testing.assert_array_equal(opacity_of(Box(*at(PLANE, *corners))), opacity)
    beyond = opacity_of(Box(*at(PLANE, (-9, 6), (12, 60))))
    assert (beyond[:13, 6] > 0).all()
    assert (beyond[12, 6:] > 0).all()
    assert not beyond[:10, 9:].any()


def test_a_lasso_is_a_closed_line_in_its_colour():
    picture = gestures_picture([Lasso(at(PLANE, (4, 6), (15, 6), (15, 24)), positive=False)], PLANE, supersampling=1)
    assert (picture[[4, 10, 15, 15], [6, 6, 15, 24], 3] > 0).all()
    assert picture[10, 16, 3] > 0  # back to the first point
    assert not picture[13, 9, 3]
    assert (picture[picture[..., 3] > 0, :3] == as_bytes(NEGATIVE_COLOR)).all()


def test_a_mask_has_its_colour_and_probabilities_go_from_nothing_over_violet_and_green_to_yellow(rng):
    mask = rng.random(SHAPE) < 0.4
    picture = mask_picture(mask, (1.0, 0.5, 0.0))
    assert (picture[mask] == (255, 128, 0, picture[mask][0, 3])).all()
    assert 0 < picture[mask][0, 3] < 255
    assert not picture[~mask].any()
    shown = probability_picture(logit(np.linspace(0.002, 0.998, 2000, dtype=np.float32))[None])[0].astype(int)
    assert np.abs(np.diff(shown[:, :3], axis=0)).max() <= 3
    assert (np.diff(shown[:, 3]) >= 0).all()
    low, middle, high = shown[[120, 1000, 1999], :3]
    assert (low.argmin(), middle.argmax(), high.argmin()) == (1, 1, 2)
    assert high[:2].min() > 200
    assert not shown[:90, 3].any()
    assert (shown[120:, 3] > 0).all()
    extreme = probability_picture(np.array([[-np.inf, -1e30, -90, 90, 1e30, np.inf]], np.float32))[0]
    assert not extreme[:3, 3].any()
    assert (extreme[3:] == extreme[3]).all()
    assert extreme[3, 3] > 0
