"""One ball, seen in any direction and stored in any geometry, is the same ball in the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_inference import RegionInference

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.slice_segmenter import SliceSegmenter

CENTER = np.array([12.0, -7.0, 30.0])
RADIUS_MM = 11.0
SHAPE = (30, 44, 48)


def rotation(*angles) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def around_the_ball(linear) -> np.ndarray:
    """ijk to world, with the middle voxel near the ball's centre."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.add(CENTER, (0.3, -0.2, 0.4)) - linear @ (np.array(SHAPE[::-1]) // 2)
    return matrix


SHEAR = np.array([[1.0, 0.2, 0.1], [0.0, 1.0, 0.15], [0.0, 0.0, 1.0]])
GEOMETRIES = {
    "straight": np.diag([1.2, 1.2, 2.0]),
    "flipped": np.diag([-1.2, 1.2, -2.0]),
    "anisotropic": np.diag([1.0, 1.1, 3.0]),
    "permuted": np.diag([1.3, 1.5, 1.8])[:, [2, 0, 1]],
    "rotated": rotation(0.3, -0.4, 0.6) @ np.diag([1.2, 1.2, 2.0]),
    "sheared": SHEAR @ np.diag([1.2, 1.2, 2.0]),
    "tilted gantry": np.array([[1.2, 0, 0], [0, 1.2, 0.7], [0, 0, 2.0]]),
}
VIEWS = {
    "axial": (np.array([0.0, 0, 1]), np.array([-1.0, 0, 0])),
    "sagittal": (np.array([-1.0, 0, 0]), np.array([0.0, -1, 0])),
    "coronal": (np.array([0.0, 1, 0]), np.array([-1.0, 0, 0])),
    "oblique": (rotation(0.5, 0.3, -0.4) @ (0, 0, 1), rotation(0.5, 0.3, -0.4) @ (1, 0, 0)),
    "diagonal": (np.array([1.0, 1, 1]) / np.sqrt(3), np.array([1.0, -1, 0]) / np.sqrt(2)),
}


def ball_distance(ijk_to_world) -> np.ndarray:
    """Signed distance of every voxel's centre from the ball's surface, (K, J, I) mm, negative inside."""
    return np.linalg.norm(voxel_centers(ijk_to_world) - CENTER, axis=-1) - RADIUS_MM


def voxel_centers(ijk_to_world) -> np.ndarray:
    k, j, i = np.indices(SHAPE)
    return np.stack([i, j, k], axis=-1) @ ijk_to_world[:3, :3].T + ijk_to_world[:3, 3]


def segment_ball(new_editor, ijk_to_world, normal, across, *, parent=None, offset=0.0):
    """Paint once through the ball in a view, and return the segment's mask (K, J, I)."""
    # The volume is stored in its parent's frame; together they put it where `ijk_to_world` says.
    stored = ijk_to_world if parent is None else np.linalg.inv(parent) @ ijk_to_world
    array = np.where(ball_distance(ijk_to_world) <= 0, 200, 0).astype(np.int16)
    editor = new_editor(array, stored)
    if parent is not None:
        transform = editor.put_under(editor.volume, parent)
        editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())
    segment_id = editor.add_segment()
    view = slicer.vtkMRMLSliceNode()
    view.SetLayoutName("Red")
    editor.scene.AddNode(view)
    middle = CENTER + offset * normal
    view.SetSliceToRASByNTP(*normal, *across, *middle, 0)
    inference = RegionInference()
    controller = SliceSegmenter(inference, save_state=editor.logic.SaveStateForUndo)
    points = middle + np.linspace(-5, 5, 15)[:, None] * across
    controller.paint(editor.node, view, points, 2.0, positive=True)
    inference.finish()
    assert controller.poll().problem is None
    return editor.mask(segment_id)


def assert_is_the_cut_ball(mask, ijk_to_world, normal, offset=0.0):
    """Inside the ball and on the plane, both to within a voxel, and without holes in between."""
    steps = ijk_to_world[:3, :3].T
    voxel_mm = np.linalg.norm(steps, axis=1).max()
    from_ball = ball_distance(ijk_to_world)
    from_plane = np.abs((voxel_centers(ijk_to_world) - CENTER) @ normal - offset)
    half_voxel_mm = np.abs(steps @ normal).sum() / 2
    assert mask.any()
    assert from_ball[mask].max() <= voxel_mm
    assert from_plane[mask].max() <= 2 * half_voxel_mm
    # A pixel's centre may lie half a voxel beside that of the voxel it decides about, in each direction.
    surely = (from_ball < -np.linalg.norm(np.linalg.norm(steps, axis=1))) & (from_plane < 0.95 * half_voxel_mm)
    # There are none when the plane passes half-way between two slices: one of the two is cut then.
    assert mask[surely].all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_ball_is_segmented_where_it_is(new_editor, geometry, view):
    ijk_to_world = around_the_ball(GEOMETRIES[geometry])
    normal, across = VIEWS[view]
    mask = segment_ball(new_editor, ijk_to_world, normal, across)
    assert_is_the_cut_ball(mask, ijk_to_world, normal)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "linear",
    [rotation(0.4, 0.2, -0.7), np.diag([1.4, 0.8, 1.1]), SHEAR, np.diag([-1.0, 1.0, 1.0]) @ rotation(0, 0, 0.5)],
    ids=["turned", "scaled", "sheared", "mirrored"],
)
def test_a_parent_transform_makes_no_difference_in_the_world(new_editor, linear, view):
    parent = np.eye(4)
    parent[:3, :3], parent[:3, 3] = linear, (5.0, -20.0, 11.0)
    ijk_to_world = around_the_ball(GEOMETRIES["straight"])
    normal, across = VIEWS[view]
    mask = segment_ball(new_editor, ijk_to_world, normal, across, parent=parent)
    assert_is_the_cut_ball(mask, ijk_to_world, normal)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    turn=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    spacing=st.tuples(*[st.floats(0.9, 2.5)] * 3),
    flips=st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
    offset=st.floats(-4.0, 4.0),
)
def test_any_view_of_any_volume_gives_the_cut_of_the_ball(new_editor, angles, turn, spacing, flips, offset):
    ijk_to_world = around_the_ball(rotation(*turn) @ np.diag(np.multiply(spacing, flips)))
    view = rotation(*angles)
    normal, across = view @ (0, 0, 1), view @ (1, 0, 0)
    mask = segment_ball(new_editor, ijk_to_world, normal, across, offset=offset)
    assert_is_the_cut_ball(mask, ijk_to_world, normal, offset)
