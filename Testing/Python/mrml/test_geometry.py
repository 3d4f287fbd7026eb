"""Where voxels, slices and views lie, and that one ball is the same ball in any view of any volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_inference import RegionInference

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.data.geometry import Grid, grid_slice
from scribblesegment.errors import GeometryError
from scribblesegment.mrml.geometry import (
    array_of,
    reference_geometry,
    view_plane,
    world_to_mm,
    world_to_xy,
    xy_to_world,
)
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.slice_segmenter import SliceSegmenter
from scribblesegment.mrml.target import align_view, show_slice, shown_slice

GEOMETRY = "Reference image geometry"
SHEARED = np.array([[1, 0.3, 0, 1.0], [0, 1.2, 0, 0], [0.5, -0.3, 0.9, -5.0], [0, 0, 0, 1]])
SCALED = np.array([[0, -1.5, 0, 4.0], [1.5, 0, 0, -3.0], [0, 0, 0.7, 7.0], [0, 0, 0, 1]])


def rotation(*angles) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@pytest.fixture
def target(an_editor):
    return an_editor.target(an_editor.add_segment())


# The lattice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [(0, 0, 0), (3, -2, 5)])
def test_the_reference_geometry_is_that_of_the_volume_counted_from_its_first_voxel(new_editor, oblique, start):
    editor = new_editor(start_ijk=start)
    reference = reference_geometry(editor.segmentation_node)
    i, j, k = start
    assert reference.grid.shape == (6, 8, 10)
    assert reference.start_ijk == start
    assert reference.extent == (i, i + 9, j, j + 7, k, k + 5)
    assert reference.extent_of(((1, 3), (0, 2), (4, 5))) == (i + 4, i + 4, j, j + 1, k + 1, k + 2)
    # By Slicer's matrices, not by ours.
    image_to_world, world = vtkMatrix4x4(), [0.0] * 4
    editor.reference_image().GetImageToWorldMatrix(image_to_world)
    image_to_world.MultiplyPoint([i + 7.0, j + 5.0, k + 2.0, 1.0], world)
    assert np.allclose(reference.grid.to_mm((2, 5, 7)), world[:3], rtol=0, atol=1e-9)
    assert np.allclose(world[:3], (oblique @ (i + 7, j + 5, k + 2, 1))[:3], rtol=0, atol=1e-9)


def test_a_segmentation_without_geometry_takes_that_of_the_volume_and_segments_extend_it(an_editor, box):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert reference_geometry(node, an_editor.volume).grid.shape == (6, 8, 10)
    assert reference_geometry(node).grid.shape == (6, 8, 10)
    labelmap = an_editor.labelmap(an_editor.add_segment(box(((1, 3), (1, 3), (1, 3)))))
    labelmap.SetExtent(*(bound - 3 for bound in labelmap.GetExtent()))
    reference = reference_geometry(an_editor.segmentation_node)
    assert (reference.start_ijk, reference.grid.shape) == ((-2, -2, -2), (8, 10, 12))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda node, volume: None, r"'Liver'.*Select a source volume"),
        (lambda node, volume: volume.SetAndObserveImageData(None), "Select a source volume"),
        (lambda node, volume: volume.GetImageData().SetExtent(0, -1, 0, 5, 0, 5), "no voxels"),
        (lambda node, volume: volume.SetIJKToRASDirections(1, 0, 0, 0, 1, 1, 0, 0, 0), "cannot be inverted"),
        (lambda node, volume: node.GetSegmentation().SetConversionParameter(GEOMETRY, "rubbish"), "cannot be read"),
    ],
)
def test_what_gives_no_geometry_is_refused(an_editor, spoil, message):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Liver")
    spoil(node, an_editor.volume)
    with pytest.raises(GeometryError, match=message):
        reference_geometry(node, None if "'Liver'" in message else an_editor.volume)


@pytest.mark.parametrize("kind", ["vtkMRMLBSplineTransformNode", "vtkMRMLGridTransformNode", "flat"])
def test_a_parent_that_bends_or_flattens_space_is_refused_with_the_remedy(an_editor, kind):
    if kind == "flat":
        an_editor.put_under(an_editor.segmentation_node, np.diag([1.0, 1.0, 0.0, 1.0]))
    else:
        transform = an_editor.scene.AddNewNodeByClass(kind)
        an_editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())
    message = "parent transform of 'Segmentation'" if kind == "flat" else r"'Segmentation'.*non-linear.*Harden"
    with pytest.raises(GeometryError, match=message):
        world_to_mm(an_editor.segmentation_node)


# Views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [np.eye(4), SHEARED], ids=["none", "sheared"])
def test_a_view_of_a_turned_volume_cuts_obliquely_through_the_view_s_plane(an_editor, target, a_slice_node, parent):
    an_editor.put_under(an_editor.segmentation_node, parent)
    grid = target.reference.grid
    a_slice_node.JumpSliceByCentering(*(parent[:3, :3] @ grid.to_mm((2.5, 3.5, 4.5)) + parent[:3, 3]))
    plane = view_plane(a_slice_node, an_editor.segmentation_node, grid)
    assert plane.voxel_slice is None
    world = plane.to_mm(np.array([(0, 0), (4, 7), (9, 1)])) @ parent[:3, :3].T + parent[:3, 3]
    assert np.allclose(world[:, 2], a_slice_node.GetSliceToRAS().GetElement(2, 3), rtol=0, atol=1e-9)
    # Columns run along the view's own horizontal axis, to the patient's left.
    assert np.allclose(np.cross(parent[:3, :3] @ plane.column_step_mm, (1, 0, 0)), 0, rtol=0, atol=1e-9)
    for function in (shown_slice, lambda view, target: show_slice(view, target, 2)):
        with pytest.raises(GeometryError, match=r"oblique, \d+° away"):
            function(a_slice_node, target)
    a_slice_node.JumpSliceByCentering(0.0, 0.0, 5000.0)
    with pytest.raises(GeometryError, match="does not cut"):
        view_plane(a_slice_node, an_editor.segmentation_node, grid)


def test_pixels_of_a_view_and_world_are_inverse_of_each_other_along_the_normal(a_slice_node):
    xy = np.array([[0.0, 0.0], [99.5, 74.5], [200.25, -3.5]])
    world = xy_to_world(a_slice_node, xy)
    assert np.allclose(world_to_xy(a_slice_node, np.add(world, (0, 0, 12.0))), xy, rtol=0, atol=1e-9)
    # 100 mm over 200 pixels; right in the view is the patient's left.
    left, right = xy_to_world(a_slice_node, [(10.0, 20.0), (12.0, 20.0)])
    assert right - left == pytest.approx((-1.0, 0.0, 0.0))


# Slices along the volume's axes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_the_grid_is_a_plane_of_its_voxels_unless_it_is_sheared(target, axis):
    grid, sheared = target.reference.grid, np.eye(4)
    for index in (0, grid.shape[axis] - 1):
        plane = grid_slice(grid, axis, index)
        assert plane.voxel_slice == (axis, index)
        assert plane.shape == tuple(side for other, side in enumerate(grid.shape) if other != axis)
    for beyond in (-1, grid.shape[axis]):
        with pytest.raises(GeometryError, match="choose from 0"):
            grid_slice(grid, axis, beyond)
    sheared[0, 1] = 0.4
    if axis == 0:
        with pytest.raises(GeometryError, match="sheared"):
            grid_slice(Grid((6, 8, 10), sheared), axis, 3)
    else:
        assert grid_slice(Grid((6, 8, 10), sheared), axis, 3).voxel_slice == (axis, 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.sampled_from([1.0, -1.0]), st.booleans())
def test_an_aligned_view_shows_a_slice_of_the_volume_from_about_the_same_side(
    an_editor, target, a_slice_node, angles, flip, transformed
):
    parent, before, grid = SCALED if transformed else np.eye(4), np.eye(4), target.reference.grid
    an_editor.put_under(an_editor.segmentation_node, parent)
    before[:3, :3] = rotation(*angles) * (1.0, flip, 1.0)
    before[:3, 3] = parent[:3, :3] @ grid.to_mm((2.5, 3.5, 4.5)) + parent[:3, 3]
    a_slice_node.GetSliceToRAS().DeepCopy(before.ravel().tolist())
    a_slice_node.UpdateMatrices()
    align_view(a_slice_node, target)
    axis, index = shown_slice(a_slice_node, target)
    # The middle of the view lies in the middle of the volume, between two slices.
    assert abs(index - (grid.shape[axis] - 1) / 2) <= 0.5 + 1e-6
    after = array_of(a_slice_node.GetSliceToRAS())
    assert np.allclose(after[:3, :3].T @ after[:3, :3], np.eye(3), atol=1e-6)
    assert np.sign(np.linalg.det(after)) == flip
    # It looks along the nearest normal.
    k, j, i = grid.steps_kji_mm @ parent[:3, :3].T
    normals = [normal / np.linalg.norm(normal) for normal in (np.cross(j, i), np.cross(k, i), np.cross(k, j))]
    assert after[:3, 2] @ before[:3, 2] == pytest.approx(max(abs(n @ before[:3, 2]) for n in normals), abs=1e-6)
    assert after[:3, 0] @ before[:3, 0] >= -1e-6
    align_view(a_slice_node, target)  # again, and it stays
    assert np.allclose(array_of(a_slice_node.GetSliceToRAS()), after, atol=1e-6)
    for other in (0, 3, grid.shape[axis] - 1):
        show_slice(a_slice_node, target, other)
        assert shown_slice(a_slice_node, target) == (axis, other)


# One ball -----------------------------------------------------------------------------------------------------------

CENTER = np.array([12.0, -7.0, 30.0])
RADIUS_MM = 11.0
SHAPE = (30, 44, 48)


def around_the_ball(linear) -> np.ndarray:
    """ijk to world, with the middle voxel near the ball's centre."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.add(CENTER, (0.3, -0.2, 0.4)) - linear @ (np.array(SHAPE[::-1]) // 2)
    return matrix


SHEAR = np.array([[1.0, 0.2, 0.1], [0.0, 1.0, 0.15], [0.0, 0.0, 1.0]])
GEOMETRIES = [
    np.diag([1.2, 1.2, 2.0]),
    np.diag([1.3, -1.5, 1.8])[:, [2, 0, 1]],  # permuted
    SHEAR @ np.diag([1.2, 1.2, 2.0]),
    np.array([[1.2, 0, 0], [0, 1.2, 0.7], [0, 0, 2.0]]),  # a tilted gantry
]
PARENTS = [
    None,
    rotation(0.4, 0.2, -0.7),
    np.diag([1.4, 0.8, 1.1]),
    SHEAR,
    np.diag([-1.0, 1.0, 1.0]) @ rotation(0, 0, 0.5),  # mirrored
]
VIEWS = [
    (np.array([0.0, 0, 1]), np.array([-1.0, 0, 0])),  # axial
    (np.array([-1.0, 0, 0]), np.array([0.0, -1, 0])),  # sagittal
    (np.array([0.0, 1, 0]), np.array([-1.0, 0, 0])),  # coronal
    (np.array([1.0, 1, 1]) / np.sqrt(3), np.array([1.0, -1, 0]) / np.sqrt(2)),
]
turns = st.tuples(*[st.floats(-1.5, 1.5)] * 3).map(lambda angles: rotation(*angles))
turned_volumes = st.builds(
    lambda turn, spacing, flips: turn @ np.diag(np.multiply(spacing, flips)),
    turns,
    st.tuples(*[st.floats(0.9, 2.5)] * 3),
    st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
)


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
    view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
    middle = CENTER + offset * normal
    view.SetSliceToRASByNTP(*normal, *across, *middle, 0)
    inference = RegionInference()
    controller = SliceSegmenter(inference, save_state=editor.logic.SaveStateForUndo)
    points = middle + np.linspace(-5, 5, 15)[:, None] * across
    controller.draw(*controller.place(editor.node, view), Annotation("stroke", tuple(map(tuple, points)), True), 2.0)
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


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    geometry=st.sampled_from(GEOMETRIES) | turned_volumes,
    above=st.sampled_from(PARENTS),
    view=st.sampled_from(VIEWS) | turns.map(lambda turn: (turn @ (0, 0, 1), turn @ (1, 0, 0))),
    offset=st.just(0.0) | st.floats(-4.0, 4.0),
)
def test_any_view_of_any_volume_gives_the_cut_of_the_ball(new_editor, geometry, above, view, offset):
    ijk_to_world, (normal, across), parent = around_the_ball(geometry), view, None
    if above is not None:
        parent = np.eye(4)
        parent[:3, :3], parent[:3, 3] = above, (5.0, -20.0, 11.0)
    mask = segment_ball(new_editor, ijk_to_world, normal, across, parent=parent, offset=offset)
    assert_is_the_cut_ball(mask, ijk_to_world, normal, offset)
