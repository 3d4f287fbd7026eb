"""In a slice view: from mouse positions to a stroke, a click or a box; and what is drawn over it, unrendered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.mrml.recorder import AnnotationRecorder

pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.data.rasterize import corners_mm, finer
from scribblesegment.mrml.geometry import reference_geometry, view_plane, world_to_xy
from scribblesegment.mrml.overlay import Outline, PlaneTexture, circle


def world(xy):
    """Where a pixel of the view lies: two pixels a millimetre."""
    return (xy[0] / 2, xy[1] / 2, 7.0)


@pytest.mark.parametrize(
    ("path", "how", "expected"),
    [
        ([(10, 10), (20, 10), (30, 15)], {}, ("stroke", ((5, 5, 7), (10, 5, 7), (15, 7.5, 7)), True)),
        ([(10, 10), (10.4, 10), (30, 10)], {}, ("stroke", ((5, 5, 7), (15, 5, 7)), True)),  # the same pixel
        ([(10, 10), (30, 10), (10, 10)], {}, ("stroke", ((5, 5, 7), (15, 5, 7), (5, 5, 7)), True)),  # there and back
        ([(10, 10), (13, 8)], {"positive": False}, ("click", ((5, 5, 7),), False)),
        ([(10, 10), (80, 90), (40, 30)], {"tool": "box", "positive": False}, ("box", ((5, 5, 7), (20, 15, 7)), True)),
        ([(10, 10), (12, 11)], {"tool": "box"}, ("click", ((5, 5, 7),), True)),  # too small to be meant
        ([(10, 10), (30, 10), (30, 30)], {"tool": "lasso"}, ("lasso", ((5, 5, 7), (15, 5, 7), (15, 15, 7)), True)),
        ([(10, 10), (12, 11)], {"tool": "lasso", "positive": False}, ("click", ((5, 5, 7),), False)),
        ([(10, 10), (80, 90), (40, 30)], {"tool": "click"}, ("click", ((5, 5, 7),), True)),
    ],
)
def test_what_a_drag_becomes(path, how, expected):
    recorder = AnnotationRecorder()
    recorder.press(path[0], world(path[0]), **{"positive": True, **how})
    for xy in path[1:-1]:
        recorder.move(xy, world(xy))
    recorded = recorder.release(path[-1], world(path[-1]), brush_radius_pixels=5.0)
    assert (recorded.kind, recorded.points, recorded.positive) == expected


def test_nothing_is_recorded_without_a_press_or_after_it_was_cancelled():
    recorder = AnnotationRecorder()
    assert not recorder.move((1, 1), (0, 0, 0))
    assert not recorder.cancel()
    recorder.press((10, 10), (0, 0, 0), positive=True)
    assert recorder.cancel()
    assert not recorder.active
    assert recorder.release((50, 50), (9, 9, 9), brush_radius_pixels=5) is None


# What is drawn over a view ------------------------------------------------------------------------------------------


coordinates = st.floats(-2000, 2000, width=32)
points = st.tuples(coordinates, coordinates)


def shown(texture: PlaneTexture) -> np.ndarray:
    """uint8 (rows, columns, 4), the texture's texels; the first row is at its texture coordinate 0."""
    image = texture.actor.GetTexture().GetInput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 4)


def where_shown(texture: PlaneTexture, pixels: np.ndarray) -> np.ndarray:
    """View pixels (N, 2) at which the centres of the picture's pixels (N, 2) come to lie, by VTK's rules."""
    data = texture.actor.GetMapper().GetInput()
    order = [data.GetCell(0).GetPointId(corner) for corner in range(4)]
    corners = vtk_to_numpy(data.GetPoints().GetData())[order, :2].astype(float)
    texels = vtk_to_numpy(data.GetPointData().GetTCoords())[order]
    wanted = (pixels[:, ::-1] + 0.5) / shown(texture).shape[1::-1]
    # On a parallelogram, positions are affine in texture coordinates.
    affine, *_ = np.linalg.lstsq(np.column_stack([texels, np.ones(4)]), corners, rcond=None)
    return np.column_stack([wanted, np.ones(len(wanted))]) @ affine


@pytest.mark.parametrize("view", [lambda picture: picture.transpose(1, 0, 2), lambda picture: picture[3:0:-1, 2:5]])
def test_a_picture_is_shown_as_it_looks_and_stays_until_there_is_another(rng, view):
    whole = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    texture, picture = PlaneTexture(), view(whole)
    texture.set_picture(rng.integers(0, 256, (12, 3, 4), dtype=np.uint8))
    before = texture.actor.GetTexture().GetMTime()
    texture.set_picture(picture)
    assert texture.actor.GetTexture().GetMTime() > before
    expected = picture.copy()
    whole[:] = 0
    assert np.array_equal(shown(texture), expected)


@pytest.mark.parametrize("supersampling", [1, 2])
def test_a_picture_of_a_slice_lies_over_the_slice_in_a_view(an_editor, a_slice_node, supersampling):
    grid = reference_geometry(an_editor.segmentation_node).grid
    raster = finer(view_plane(a_slice_node, an_editor.segmentation_node, grid), supersampling)
    texture = PlaneTexture()
    texture.set_picture(np.zeros((*raster.shape, 4), np.uint8))
    texture.place(world_to_xy(a_slice_node, corners_mm(raster)))
    pixels = np.argwhere(np.ones(raster.shape, bool))
    expected = world_to_xy(a_slice_node, raster.to_mm(pixels))
    np.testing.assert_allclose(where_shown(texture, pixels), expected, rtol=0, atol=1e-3)


@given(st.lists(points, min_size=1, max_size=20))
def test_an_outline_goes_through_all_points_and_back_to_the_first(corners):
    outline = Outline(width=3.0)
    assert not outline.actor.GetVisibility()
    outline.show(circle((50, 50), 20), (1, 0, 0))
    data = outline.actor.GetMapper().GetInput()
    before = data.GetMTime()
    outline.show(corners, (0.25, 0.5, 1.0))
    assert (data.GetNumberOfLines(), data.GetNumberOfPoints()) == (1, len(corners))
    assert data.GetMTime() > before
    ids = [data.GetCell(0).GetPointId(number) for number in range(data.GetCell(0).GetNumberOfPoints())]
    np.testing.assert_array_equal(vtk_to_numpy(data.GetPoints().GetData())[ids, :2], [*corners, corners[0]])
    assert outline.actor.GetProperty().GetColor() == (0.25, 0.5, 1.0)
    assert outline.actor.GetVisibility()
    outline.hide()
    assert not outline.actor.GetVisibility()
