"""Tests of scribblesegment.mrml.target: slices along the volume's axes, and views that show them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.geometry import Grid
from scribblesegment.errors import GeometryError
from scribblesegment.mrml.geometry import array_of
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.target import align_view, grid_slice, show_slice, shown_slice, target_of

SHAPE = (6, 8, 10)
SCALED_AND_TURNED = np.array([[0, -1.5, 0, 4.0], [1.5, 0, 0, -3.0], [0, 0, 0.7, 7.0], [0, 0, 0, 1]])


@pytest.fixture
def target(an_editor):
    return target_of(an_editor.node, an_editor.segmentation_node, an_editor.add_segment(), SourceImages())


def turned_view(view, target, angles, flip=1.0):
    """Turn a view about the middle of the volume by Euler angles."""
    matrix = np.eye(4)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (other for other in range(3) if other != axis)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 1] *= flip
    middle = (np.array(SHAPE) - 1) / 2
    matrix[:3, 3] = target.reference.grid.to_mm(middle)
    if target.segmentation_node.GetParentTransformNode() is not None:
        matrix[:3, 3] = SCALED_AND_TURNED[:3, :3] @ matrix[:3, 3] + SCALED_AND_TURNED[:3, 3]
    view.GetSliceToRAS().DeepCopy(matrix.ravel().tolist())
    view.UpdateMatrices()
    return matrix


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_the_grid_is_a_plane_of_its_voxels(target, axis):
    for index in (0, SHAPE[axis] - 1):
        plane = grid_slice(target.reference.grid, axis, index)
        assert plane.voxel_slice == (axis, index)
        assert plane.shape == tuple(side for other, side in enumerate(SHAPE) if other != axis)
    with pytest.raises(GeometryError, match="choose from 0"):
        grid_slice(target.reference.grid, axis, SHAPE[axis])


def test_sheared_slices_are_refused_and_others_of_the_grid_are_not():
    sheared = np.eye(4)
    sheared[0, 1] = 0.4
    grid = Grid(SHAPE, sheared)
    with pytest.raises(GeometryError, match="sheared"):
        grid_slice(grid, 0, 3)
    assert grid_slice(grid, 1, 3).voxel_slice == (1, 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.sampled_from([1.0, -1.0]), st.booleans())
def test_an_aligned_view_shows_a_slice_of_the_volume_from_about_the_same_side(
    an_editor, target, a_slice_node, angles, flip, under_a_transform
):
    if under_a_transform:
        an_editor.put_under(an_editor.segmentation_node, SCALED_AND_TURNED)
    else:
        an_editor.segmentation_node.SetAndObserveTransformNodeID(None)
    before = turned_view(a_slice_node, target, angles, flip)
    align_view(a_slice_node, target)
    axis, index = shown_slice(a_slice_node, target)
    # The middle of the view lies in the middle of the volume, between two slices.
    assert abs(index - (SHAPE[axis] - 1) / 2) <= 0.5 + 1e-6
    after = array_of(a_slice_node.GetSliceToRAS())
    assert np.allclose(after[:3, :3].T @ after[:3, :3], np.eye(3), atol=1e-6)
    assert np.sign(np.linalg.det(after)) == flip
    # It looks along the nearest normal; of three axes at right angles one is at most 54.7 degrees away.
    turn = SCALED_AND_TURNED[:3, :3] if under_a_transform else np.eye(3)
    k, j, i = target.reference.grid.steps_kji_mm @ turn.T
    normals = [normal / np.linalg.norm(normal) for normal in (np.cross(j, i), np.cross(k, i), np.cross(k, j))]
    nearest = max(abs(normal @ before[:3, 2]) for normal in normals)
    assert after[:3, 2] @ before[:3, 2] == pytest.approx(nearest, abs=1e-6)
    assert under_a_transform or nearest > 0.57
    assert after[:3, 0] @ before[:3, 0] >= -1e-6


def test_a_view_on_an_axis_stays_as_it_is(target, a_slice_node):
    align_view(a_slice_node, target)
    before = array_of(a_slice_node.GetSliceToRAS())
    align_view(a_slice_node, target)
    assert np.allclose(array_of(a_slice_node.GetSliceToRAS()), before, atol=1e-9)


def test_a_view_goes_to_a_slice_of_its_axis(target, a_slice_node):
    align_view(a_slice_node, target)
    axis, _ = shown_slice(a_slice_node, target)
    for index in (0, 3, SHAPE[axis] - 1):
        show_slice(a_slice_node, target, index)
        assert shown_slice(a_slice_node, target) == (axis, index)


def test_an_oblique_view_is_refused_with_its_angle(target, a_slice_node):
    align_view(a_slice_node, target)
    turned_view(a_slice_node, target, (0.3, -0.2, 0.1))
    with pytest.raises(GeometryError, match=r"oblique, \d+° away"):
        shown_slice(a_slice_node, target)
    with pytest.raises(GeometryError, match="oblique"):
        show_slice(a_slice_node, target, 2)
