from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkFiltersSources import vtkSphereSource

from scribblesegment.data.geometry import plane_through, sample
from scribblesegment.errors import ImageError, PromptError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import (
    blank_labelmap,
    layers,
    segment_at,
    segment_on_plane,
    segments_among,
    segments_at,
    segments_on_plane,
    visible_other_segments,
    voxels_of,
)

KJI = np.argwhere(np.ones((6, 8, 10), bool))


def seen(editor, *segment_ids):
    """bool (K, J, I) by the functions under test."""
    reference = reference_geometry(editor.segmentation_node)
    kji = np.argwhere(np.ones(reference.grid.shape, bool))
    return segments_at(editor.segmentation_node, segment_ids, reference, kji).reshape(reference.grid.shape)


@pytest.fixture
def two_on_a_layer(an_editor, box):
    first = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    second = an_editor.add_segment(box(((2, 5), (4, 6), (3, 9))))
    assert an_editor.share_a_layer(first, second)
    return first, second


def test_neighbours_on_one_layer_are_told_apart(an_editor, two_on_a_layer, box):
    first, second = two_on_a_layer
    assert np.array_equal(seen(an_editor, first), box(((1, 3), (1, 4), (2, 6))))
    assert np.array_equal(seen(an_editor, second), box(((2, 5), (4, 6), (3, 9))))


def test_several_segments_are_seen_together_whatever_layer_they_are_on(an_editor, two_on_a_layer, box):
    other = box(((1, 6), (0, 8), (0, 3)))
    third = an_editor.add_segment(other, own_layer=True)
    first, _ = two_on_a_layer
    assert np.array_equal(seen(an_editor, first, third), other | box(((1, 3), (1, 4), (2, 6))))
    assert len(layers(an_editor.segmentation_node, [*two_on_a_layer, third])) == 2


def test_segments_are_found_by_the_voxels_they_have(an_editor, two_on_a_layer):
    first, second = two_on_a_layer
    reference = reference_geometry(an_editor.segmentation_node)
    among = [first, second, "no such segment"]
    for kji, expected in [([(1, 1, 2)], [first]), ([(2, 4, 3), (0, 0, 0)], [second]), ([(0, 0, 0)], [])]:
        assert segments_among(an_editor.segmentation_node, among, reference, np.array(kji)) == expected


def test_an_empty_segment_has_no_voxels(an_editor):
    segment_id = an_editor.add_segment()
    assert not seen(an_editor, segment_id).any()


def test_extents_that_do_not_start_at_zero_are_followed(new_editor, box):
    editor = new_editor(start_ijk=(7, -3, 100))
    segment_id = editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    assert np.array_equal(seen(editor, segment_id), box(((1, 3), (1, 4), (2, 6))))


@pytest.mark.parametrize("scale", [0.53, 1.7])
def test_an_imported_label_map_is_seen_by_its_nearest_voxels(an_editor, oblique, matrix_of, rng_mask, scale):
    lattice = slicer.vtkOrientedImageData()
    turned = oblique.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.9, 0.2, 0], [-0.2, 0.9, 0.1], [0, -0.1, 1.1]]) * scale
    lattice.SetExtent(0, 11, 0, 9, 0, 7)
    lattice.SetImageToWorldMatrix(matrix_of(turned))
    labelmap = blank_labelmap(lattice, lattice.GetExtent())
    voxels_of(labelmap)[...] = rng_mask((8, 10, 12))
    segment_id = an_editor.segmentation_node.AddSegmentFromBinaryLabelmapRepresentation(labelmap, "imported")
    expected = an_editor.mask(segment_id)
    assert expected.any()
    assert not expected.all()
    assert np.array_equal(seen(an_editor, segment_id), expected)


@pytest.fixture
def rng_mask():
    def make(shape):
        return np.random.default_rng(5).random(shape) < 0.5

    return make


def test_a_segment_that_is_a_surface_is_seen_as_the_voxels_inside(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    node.SetSourceRepresentationToClosedSurface()
    reference = reference_geometry(node)
    sphere = vtkSphereSource()
    sphere.SetCenter(*reference.grid.to_mm((3, 4, 5)))
    sphere.SetRadius(2.4)
    sphere.Update()
    segment_id = node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    found = segment_at(node, segment_id, reference, KJI).reshape(6, 8, 10)
    assert found[3, 4, 5]
    assert 10 < found.sum() < 80
    assert node.GetSegmentation().GetSourceRepresentationName() == "Closed surface"


def test_what_cannot_become_voxels_is_reported_with_the_remedy(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")  # for which SlicerRT has the conversion
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(ImageError, match=r"'Plan'.*'Planar contour'.*Create a binary labelmap"):
        segment_at(node, "s", reference, KJI)


@pytest.mark.parametrize("segment_id", ["", None, "gone"])
def test_a_segment_that_does_not_exist_is_refused(an_editor, segment_id):
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(PromptError, match="'Segmentation' has no segment"):
        segment_at(an_editor.segmentation_node, segment_id, reference, KJI)
    plane = plane_through(reference.grid, reference.grid.to_mm((0, 0, 0)), (0, 0, 1))
    with pytest.raises(PromptError, match="'Segmentation' has no segment"):
        segment_on_plane(an_editor.segmentation_node, segment_id, reference, plane)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (-4, 9, 1)])
def test_a_slice_shows_what_the_segment_has_in_it(new_editor, box, axis, start_ijk):
    editor = new_editor(start_ijk=start_ijk)
    mask = box(((1, 3), (2, 6), (4, 9)))
    segment_id = editor.add_segment(mask)
    reference = reference_geometry(editor.segmentation_node)
    normal = reference.grid.ijk_to_mm[:3, 2 - axis]
    for index in range(mask.shape[axis]):
        plane = plane_through(reference.grid, reference.grid.to_mm(np.eye(3)[axis] * index), normal)
        assert plane.voxel_slice == (axis, index)
        shown = segment_on_plane(editor.segmentation_node, segment_id, reference, plane)
        assert np.array_equal(shown, np.moveaxis(mask, axis, 0)[index])


def test_a_slice_shows_only_the_part_of_a_label_map_that_the_reference_has(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 5), (1, 6))))
    reference = reference_geometry(an_editor.segmentation_node)
    an_editor.labelmap(segment_id).SetExtent(-2, 2, -1, 2, 1, 2)
    plane = plane_through(reference.grid, reference.grid.to_mm((1, 0, 0)), reference.grid.ijk_to_mm[:3, 2])
    shown = segment_on_plane(an_editor.segmentation_node, segment_id, reference, plane)
    assert np.array_equal(shown, box(((0, 6), (0, 3), (0, 3)))[1])


@pytest.mark.parametrize("normal", [(0.4, 0.3, 0.9), (1.0, 1.0, 0.2)])
def test_an_oblique_plane_shows_the_nearest_voxels(an_editor, two_on_a_layer, normal):
    first, second = two_on_a_layer
    reference = reference_geometry(an_editor.segmentation_node)
    plane = plane_through(reference.grid, reference.grid.to_mm((2.6, 4, 5)), normal)
    assert plane.voxel_slice is None
    mask = (an_editor.mask(first) | an_editor.mask(second)).astype(np.uint8)
    expected = sample(mask, reference.grid, plane, nearest=True) > 0
    shown = segments_on_plane(an_editor.segmentation_node, [first, second], reference, plane)
    assert expected.any()
    assert np.array_equal(shown, expected)


def test_other_segments_are_those_switched_on_in_the_list(an_editor):
    first, second, third = (an_editor.add_segment() for _ in range(3))
    an_editor.show(second, False)
    assert visible_other_segments(an_editor.segmentation_node, first) == [third]
    assert visible_other_segments(an_editor.segmentation_node, second) == [first, third]


def test_without_a_display_no_segment_is_visible(an_editor):
    first = an_editor.add_segment()
    an_editor.add_segment()
    an_editor.scene.RemoveNode(an_editor.segmentation_node.GetDisplayNode())
    assert visible_other_segments(an_editor.segmentation_node, first) == []
