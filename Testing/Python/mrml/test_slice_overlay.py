"""Tests of scribblesegment.mrml.overlay by what its actors hold; nothing is rendered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.data.rasterize import corners_mm, finer
from scribblesegment.mrml.geometry import reference_geometry, view_plane, world_to_xy
from scribblesegment.mrml.overlay import Outline, PlaneTexture, SliceOverlay, circle, rectangle

UNIT_SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]


def quad(texture: PlaneTexture):
    """Points (4, 2) in view pixels and their texture coordinates (4, 2), in the order of the polygon."""
    data = texture.actor.GetMapper().GetInput()
    assert data.GetNumberOfPolys() == 1
    order = [data.GetCell(0).GetPointId(corner) for corner in range(data.GetCell(0).GetNumberOfPoints())]
    points = vtk_to_numpy(data.GetPoints().GetData())
    assert not points[:, 2].any()
    return points[order, :2].astype(float), vtk_to_numpy(data.GetPointData().GetTCoords())[order]


def shown(texture: PlaneTexture) -> np.ndarray:
    """uint8 (rows, columns, 4), the texture's texels; the first row is at its texture coordinate 0."""
    image = texture.actor.GetTexture().GetInput()
    columns, rows, depth = image.GetDimensions()
    assert depth == 1
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    assert scalars.dtype == np.uint8
    return scalars.reshape(rows, columns, 4)


def where_shown(texture: PlaneTexture, pixels: np.ndarray) -> np.ndarray:
    """View pixels (N, 2) at which the centres of the picture's pixels (N, 2) come to lie, by VTK's rules."""
    points, coordinates = quad(texture)
    rows, columns = shown(texture).shape[:2]
    wanted = (pixels[:, ::-1] + 0.5) / (columns, rows)
    # On a parallelogram, positions are affine in texture coordinates.
    affine, *_ = np.linalg.lstsq(np.column_stack([coordinates, np.ones(4)]), points, rcond=None)
    return np.column_stack([wanted, np.ones(len(wanted))]) @ affine


def a_picture(rng, rows=5, columns=7) -> np.ndarray:
    return rng.integers(0, 256, (rows, columns, 4), dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


# Pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (1, 9), (9, 1)])
def test_a_picture_becomes_the_texture_pixel_by_pixel(rng, shape):
    texture, picture = PlaneTexture(), a_picture(rng, *shape)
    texture.set_picture(picture)
    assert np.array_equal(shown(texture), picture)


@pytest.mark.parametrize(
    "view",
    [
        lambda picture: picture[::-1],
        lambda picture: picture[:, ::-1],
        lambda picture: picture.transpose(1, 0, 2),
        lambda picture: picture[1:4, 2:5],
        np.asfortranarray,
    ],
)
def test_a_picture_is_shown_as_it_looks_however_it_lies_in_memory(rng, view):
    texture, picture = PlaneTexture(), view(a_picture(rng))
    texture.set_picture(picture)
    assert np.array_equal(shown(texture), picture)


def test_the_picture_shown_does_not_change_when_its_array_is_painted_in(rng):
    texture, picture = PlaneTexture(), a_picture(rng)
    texture.set_picture(picture)
    before = picture.copy()
    picture[:] = 0
    assert np.array_equal(shown(texture), before)


def test_a_new_picture_of_another_size_takes_the_place_of_the_old_one(rng):
    texture = PlaneTexture()
    texture.set_picture(a_picture(rng, 5, 7))
    texture.place(UNIT_SQUARE)
    larger = a_picture(rng, 12, 3)
    texture.set_picture(larger)
    assert np.array_equal(shown(texture), larger)
    np.testing.assert_array_equal(quad(texture)[0], UNIT_SQUARE)
    assert texture.actor.GetVisibility()


def test_a_new_picture_of_the_same_size_is_noticed_by_the_texture(rng):
    texture = PlaneTexture()
    texture.set_picture(a_picture(rng))
    old, before = texture.actor.GetTexture().GetInput(), texture.actor.GetTexture().GetMTime()
    texture.set_picture(a_picture(rng))
    assert texture.actor.GetTexture().GetInput() is not old
    assert texture.actor.GetTexture().GetMTime() > before


# Placing ------------------------------------------------------------------------------------------------------------


def test_the_first_row_lies_between_the_first_two_corners(rng):
    texture = PlaneTexture()
    texture.set_picture(a_picture(rng, 2, 3))
    texture.place([(10, 50), (40, 50), (40, 30), (10, 30)])
    positions = where_shown(texture, np.array([(0, 0), (0, 2), (1, 0), (1, 2)]))
    np.testing.assert_allclose(positions, [(15, 45), (35, 45), (15, 35), (35, 35)], atol=1e-4)


coordinates = st.floats(-2000, 2000, width=32)


@given(
    st.tuples(coordinates, coordinates),
    st.tuples(coordinates, coordinates),
    st.tuples(coordinates, coordinates),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_every_pixel_lies_where_its_row_and_column_say(corner, along_row, along_column, shape):
    corner, along_row, along_column = map(np.array, (corner, along_row, along_column))
    texture = PlaneTexture()
    texture.set_picture(np.zeros((*shape, 4), np.uint8))
    texture.place([corner, corner + along_row, corner + along_row + along_column, corner + along_column])
    pixels = np.argwhere(np.ones(shape, bool))
    part = (pixels + 0.5) / shape
    expected = corner + part[:, 1:] * along_row + part[:, :1] * along_column
    np.testing.assert_allclose(where_shown(texture, pixels), expected, atol=2e-3)


@pytest.mark.parametrize("supersampling", [1, 2])
def test_a_picture_of_a_slice_lies_over_the_slice_in_a_view(an_editor, a_slice_node, supersampling):
    reference = reference_geometry(an_editor.segmentation_node)
    plane = view_plane(a_slice_node, an_editor.segmentation_node, reference.grid)
    raster, texture = finer(plane, supersampling), PlaneTexture()
    texture.set_picture(np.zeros((*raster.shape, 4), np.uint8))
    texture.place(world_to_xy(a_slice_node, corners_mm(raster)))
    pixels = np.argwhere(np.ones(raster.shape, bool))
    np.testing.assert_allclose(
        where_shown(texture, pixels), world_to_xy(a_slice_node, raster.to_mm(pixels)), rtol=0, atol=1e-3
    )


def test_a_picture_is_hidden_until_it_has_a_place_and_after_it_was_hidden(rng):
    texture = PlaneTexture()
    texture.set_picture(a_picture(rng))
    assert not texture.actor.GetVisibility()
    texture.place(UNIT_SQUARE)
    assert texture.actor.GetVisibility()
    texture.hide()
    assert not texture.actor.GetVisibility()
    texture.place(UNIT_SQUARE)
    assert texture.actor.GetVisibility()


def test_moving_a_picture_is_noticed_by_the_renderer(rng):
    texture = PlaneTexture()
    texture.set_picture(a_picture(rng))
    texture.place(UNIT_SQUARE)
    data = texture.actor.GetMapper().GetInput()
    before = data.GetMTime(), data.GetPoints().GetMTime()
    texture.place(np.multiply(UNIT_SQUARE, 7))
    assert data.GetMTime() > before[0]
    assert data.GetPoints().GetMTime() > before[1]
    assert tuple(data.GetBounds()) == (0, 7, 0, 7, 0, 0)


@pytest.mark.parametrize("smooth", [True, False])
def test_only_a_smooth_texture_mixes_neighbouring_pixels(smooth):
    assert bool(PlaneTexture(smooth=smooth).actor.GetTexture().GetInterpolate()) == smooth


def test_a_stroke_at_one_edge_of_a_picture_does_not_shine_through_at_the_opposite_edge():
    texture = PlaneTexture().actor.GetTexture()
    assert texture.GetWrap() == texture.ClampToEdge


# Outlines -----------------------------------------------------------------------------------------------------------


def line_of(outline: Outline) -> np.ndarray:
    """(N, 2) in the order in which they are connected."""
    data = outline.actor.GetMapper().GetInput()
    assert data.GetNumberOfLines() == 1
    cell = data.GetCell(0)
    ids = [cell.GetPointId(number) for number in range(cell.GetNumberOfPoints())]
    assert max(ids) < data.GetNumberOfPoints()
    return vtk_to_numpy(data.GetPoints().GetData())[ids, :2]


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=20))
def test_an_outline_goes_through_all_points_and_back_to_the_first(points):
    outline = Outline()
    outline.show(points, (1, 0, 0))
    np.testing.assert_array_equal(line_of(outline), [*points, points[0]])


def test_an_outline_of_fewer_points_leaves_nothing_of_the_one_before():
    outline = Outline()
    outline.show(circle((50, 50), 20), (1, 0, 0))
    before = outline.actor.GetMapper().GetInput().GetMTime()
    outline.show(rectangle((1, 2), (5, 4)), (1, 0, 0))
    assert len(line_of(outline)) == 5
    data = outline.actor.GetMapper().GetInput()
    assert data.GetNumberOfPoints() == 4
    assert tuple(data.GetBounds()) == (1, 5, 2, 4, 0, 0)
    assert data.GetMTime() > before


def test_an_outline_has_the_colour_and_width_asked_for():
    outline = Outline(width=3.0)
    outline.show(UNIT_SQUARE, (0.25, 0.5, 1.0))
    assert outline.actor.GetProperty().GetColor() == (0.25, 0.5, 1.0)
    assert outline.actor.GetProperty().GetLineWidth() == 3.0
    outline.show(UNIT_SQUARE, (1.0, 0.0, 0.0))
    assert outline.actor.GetProperty().GetColor() == (1.0, 0.0, 0.0)


def test_an_outline_is_hidden_until_it_is_shown_and_after_it_was_hidden():
    outline = Outline()
    assert not outline.actor.GetVisibility()
    outline.show(UNIT_SQUARE, (1, 1, 1))
    assert outline.actor.GetVisibility()
    outline.hide()
    assert not outline.actor.GetVisibility()


@given(st.tuples(coordinates, coordinates), st.floats(0.1, 500), st.integers(3, 100))
def test_a_circle_has_its_points_evenly_on_its_rim(center, radius, count):
    points = circle(center, radius, count)
    assert points.shape == (count, 2)
    np.testing.assert_allclose(np.linalg.norm(points - center, axis=1), radius, rtol=1e-9, atol=1e-9)
    sides = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, 2 * radius * np.sin(np.pi / count), rtol=1e-6, atol=1e-9)


@given(st.tuples(coordinates, coordinates), st.tuples(coordinates, coordinates))
def test_a_rectangle_goes_around_what_lies_between_two_corners(first, opposite):
    corners = rectangle(first, opposite)
    assert corners.shape == (4, 2)
    np.testing.assert_array_equal(corners.min(axis=0), np.minimum(first, opposite))
    np.testing.assert_array_equal(corners.max(axis=0), np.maximum(first, opposite))
    np.testing.assert_array_equal(corners[[0, 2]], [first, opposite])
    # Each side runs along one axis only.
    sides = np.roll(corners, -1, axis=0) - corners
    assert (sides == 0).any(axis=1).all()


# All together -------------------------------------------------------------------------------------------------------


def test_the_strokes_lie_over_the_result_and_the_brush_over_all():
    overlay = SliceOverlay()
    parts = ("probability", "preview", "strokes", "current", "box", "brush")
    assert overlay.actors == tuple(getattr(overlay, part).actor for part in parts)


def test_a_new_overlay_shows_nothing_and_never_catches_the_mouse():
    for actor in SliceOverlay().actors:
        assert not actor.GetVisibility()
        assert not actor.GetPickable()


def test_the_edge_of_the_preview_is_that_of_the_voxels():
    overlay = SliceOverlay()
    assert not overlay.preview.actor.GetTexture().GetInterpolate()
    assert overlay.strokes.actor.GetTexture().GetInterpolate()


def test_overlays_of_two_views_are_independent(rng):
    first, second = SliceOverlay(), SliceOverlay()
    assert not set(first.actors) & set(second.actors)
    first.strokes.set_picture(a_picture(rng))
    first.strokes.place(UNIT_SQUARE)
    first.shown["strokes"] = ()
    assert not second.strokes.actor.GetVisibility()
    assert second.strokes.actor.GetTexture().GetInput() is None
    assert not second.shown
