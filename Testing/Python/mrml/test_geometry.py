from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.errors import GeometryError
from scribblesegment.mrml.geometry import reference_geometry, view_plane, world_to_mm, world_to_xy, xy_to_world

TURNED = np.array([[0, -1, 0, 4.0], [1, 0, 0, -3.0], [0, 0, 1, 7.0], [0, 0, 0, 1]])
SHEARED = np.array([[1, 0.3, 0, 1.0], [0, 1.2, 0, 0], [0.5, -0.3, 0.9, -5.0], [0, 0, 0, 1]])


def a_nonlinear_transform(scene, kind):
    transform = scene.AddNewNodeByClass(kind)
    assert not transform.IsLinear()
    return transform


def voxel_center(editor, kji):
    """By Slicer's matrices, not by ours."""
    image_to_world, world = vtkMatrix4x4(), [0.0] * 4
    editor.reference_image().GetImageToWorldMatrix(image_to_world)
    image_to_world.MultiplyPoint([*map(float, reversed(kji)), 1.0], world)
    return world[:3]


def test_the_reference_geometry_is_that_of_the_volume(an_editor, oblique):
    reference = reference_geometry(an_editor.segmentation_node)
    assert reference.grid.shape == (6, 8, 10)
    assert np.allclose(reference.grid.ijk_to_mm, oblique, rtol=0, atol=1e-12)
    assert reference.start_ijk == (0, 0, 0)
    assert reference.extent == (0, 9, 0, 7, 0, 5)


def test_an_extent_that_does_not_start_at_zero_counts_from_its_first_voxel(new_editor, oblique):
    editor = new_editor(start_ijk=(3, -2, 5))
    reference = reference_geometry(editor.segmentation_node)
    assert reference.start_ijk == (3, -2, 5)
    assert reference.grid.shape == (6, 8, 10)
    first = oblique @ (3, -2, 5, 1)
    assert np.allclose(reference.grid.to_mm((0, 0, 0)), first[:3], rtol=0, atol=1e-9)
    assert reference.extent_of(((1, 3), (0, 2), (4, 5))) == (7, 7, -2, -1, 6, 7)


def test_a_segmentation_without_geometry_takes_that_of_the_source_volume_and_keeps_it(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert reference_geometry(node, an_editor.volume).grid.shape == (6, 8, 10)
    assert reference_geometry(node).grid.shape == (6, 8, 10)


def test_without_geometry_and_volume_the_user_is_told_to_select_one(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Liver")
    with pytest.raises(GeometryError, match=r"'Liver'.*Select a source volume"):
        reference_geometry(node)


def test_a_volume_without_image_gives_no_geometry(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    empty = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    with pytest.raises(GeometryError, match="Select a source volume"):
        reference_geometry(node, empty)


def test_a_volume_without_voxels_gives_no_geometry(new_volume, an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    volume = new_volume(np.zeros((1, 1, 1), np.uint8))
    volume.GetImageData().SetExtent(0, -1, 0, 5, 0, 5)
    with pytest.raises(GeometryError, match="no voxels"):
        reference_geometry(node, volume)


def test_a_flat_volume_gives_no_geometry(new_editor):
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    matrix[:3, 2] = matrix[:3, 1]
    editor = new_editor(ijk_to_ras=matrix)
    with pytest.raises(GeometryError, match="cannot be inverted"):
        reference_geometry(editor.segmentation_node)


def test_geometry_that_is_no_geometry_is_reported(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.GetSegmentation().SetConversionParameter("Reference image geometry", "rubbish")
    with pytest.raises(GeometryError):
        reference_geometry(node)


def test_segments_beyond_the_volume_extend_the_geometry(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 3), (1, 3))))
    labelmap = an_editor.labelmap(segment_id)
    labelmap.SetExtent(*(bound - 3 for bound in labelmap.GetExtent()))
    reference = reference_geometry(an_editor.segmentation_node)
    assert reference.start_ijk == (-2, -2, -2)
    assert reference.grid.shape == (8, 10, 12)


def test_a_segmentation_at_the_top_of_the_scene_is_in_world_already(a_segmentation_node):
    assert np.array_equal(world_to_mm(a_segmentation_node), np.eye(4))


def test_parent_transforms_add_up(an_editor):
    outer = an_editor.put_under(an_editor.segmentation_node, TURNED)
    inner = an_editor.put_under(an_editor.segmentation_node, SHEARED)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    to_mm = world_to_mm(an_editor.segmentation_node)
    assert np.allclose(to_mm @ TURNED @ SHEARED, np.eye(4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["vtkMRMLBSplineTransformNode", "vtkMRMLGridTransformNode"])
def test_a_non_linear_parent_is_refused_with_the_remedy(an_editor, kind):
    transform = a_nonlinear_transform(an_editor.scene, kind)
    an_editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(GeometryError, match=r"'Segmentation'.*non-linear.*Harden"):
        world_to_mm(an_editor.segmentation_node)


def test_a_parent_that_flattens_space_is_refused(an_editor):
    an_editor.put_under(an_editor.segmentation_node, np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(GeometryError, match="parent transform of 'Segmentation'"):
        world_to_mm(an_editor.segmentation_node)


def test_an_axial_view_of_an_axial_volume_shows_one_slice(new_editor, a_slice_node):
    editor = new_editor(ijk_to_ras=np.diag([-1.0, -1.0, 3.0, 1.0]))
    a_slice_node.JumpSliceByCentering(-4.0, -4.0, 6.9)
    grid = reference_geometry(editor.segmentation_node).grid
    plane = view_plane(a_slice_node, editor.segmentation_node, grid)
    assert plane.voxel_slice == (0, 2)
    assert plane.shape == (8, 10)


@pytest.mark.parametrize(
    ("orient", "axis"), [("SetOrientationToAxial", 0), ("SetOrientationToCoronal", 1), ("SetOrientationToSagittal", 2)]
)
def test_each_standard_view_shows_its_axis(new_editor, a_slice_node, orient, axis):
    editor = new_editor(ijk_to_ras=np.diag([-1.0, -1.0, 1.0, 1.0]))
    getattr(a_slice_node, orient)()
    a_slice_node.JumpSliceByCentering(-4.0, -3.0, 2.0)
    grid = reference_geometry(editor.segmentation_node).grid
    plane = view_plane(a_slice_node, editor.segmentation_node, grid)
    assert plane.voxel_slice == (axis, (2, 3, 4)[axis])


def test_a_view_of_a_turned_volume_cuts_obliquely_through_the_view_s_plane(an_editor, a_slice_node):
    grid = reference_geometry(an_editor.segmentation_node).grid
    plane = view_plane(a_slice_node, an_editor.segmentation_node, grid)
    assert plane.voxel_slice is None
    height = a_slice_node.GetSliceToRAS().GetElement(2, 3)
    assert np.allclose(plane.to_mm([(0, 0), (5, 3), (2, 9)])[:, 2], height, rtol=0, atol=1e-9)
    # Columns run along the view's own horizontal axis, to the patient's left.
    assert np.allclose(np.cross(plane.column_step_mm, (1, 0, 0)), 0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("parent", [TURNED, SHEARED])
def test_the_plane_follows_the_segmentation_s_transform(an_editor, a_slice_node, parent):
    an_editor.put_under(an_editor.segmentation_node, parent)
    bounds = [0.0] * 6
    an_editor.volume.GetRASBounds(bounds)
    center = np.array([bounds[0] + bounds[1], bounds[2] + bounds[3], bounds[4] + bounds[5]]) / 2
    a_slice_node.JumpSliceByCentering(*(parent[:3, :3] @ center + parent[:3, 3]))
    grid = reference_geometry(an_editor.segmentation_node).grid
    plane = view_plane(a_slice_node, an_editor.segmentation_node, grid)
    pixels = np.array([(0, 0), (4, 7), (9, 1)])
    world = plane.to_mm(pixels) @ parent[:3, :3].T + parent[:3, 3]
    height = a_slice_node.GetSliceToRAS().GetElement(2, 3)
    assert np.allclose(world[:, 2], height, rtol=0, atol=1e-9)


def test_a_view_beside_the_volume_is_refused(an_editor, a_slice_node):
    grid = reference_geometry(an_editor.segmentation_node).grid
    a_slice_node.JumpSliceByCentering(0.0, 0.0, 5000.0)
    with pytest.raises(GeometryError):
        view_plane(a_slice_node, an_editor.segmentation_node, grid)


def test_pixels_of_a_view_and_world_are_inverse_of_each_other(a_slice_node):
    xy = np.array([[0.0, 0.0], [99.5, 74.5], [200.25, -3.5]])
    world = xy_to_world(a_slice_node, xy)
    assert world.shape == (3, 3)
    assert np.allclose(world_to_xy(a_slice_node, world), xy, rtol=0, atol=1e-9)


def test_a_view_of_a_hundred_millimetres_over_two_hundred_pixels_has_half_a_millimetre_per_pixel(a_slice_node):
    left, right = xy_to_world(a_slice_node, [(10.0, 20.0), (12.0, 20.0)])
    assert np.linalg.norm(right - left) == pytest.approx(1.0)
    assert right[0] - left[0] == pytest.approx(-1.0)  # right in the view is the patient's left


def test_a_position_beside_the_view_s_plane_is_seen_along_the_normal(a_slice_node):
    on_plane = xy_to_world(a_slice_node, (40.0, 30.0))
    assert np.allclose(world_to_xy(a_slice_node, np.add(on_plane, (0, 0, 12.0))), (40.0, 30.0), rtol=0, atol=1e-9)


def test_positions_agree_with_slicer_s_matrices(an_editor):
    reference = reference_geometry(an_editor.segmentation_node)
    assert np.allclose(reference.grid.to_mm((2, 5, 7)), voxel_center(an_editor, (2, 5, 7)), rtol=0, atol=1e-9)
