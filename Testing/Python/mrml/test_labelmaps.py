"""Which voxels belong to which segments, whatever layers, lattices and extents their label maps have."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.vtkCommonDataModel import vtkPolyData

from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import geometry_of, reference_geometry
from scribblesegment.mrml.labelmaps import (
    blank_labelmap,
    checked_kji,
    edit_as_labelmaps,
    is_empty,
    layers,
    recut,
    refresh_derived,
    segment_at,
    segment_on_plane,
    segments_among,
    segments_at,
    values_at,
    voxels_of,
)
from scribblesegment.mrml.target import grid_slice

SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))


@pytest.fixture
def a_lattice(oblique, matrix_of):
    """An image of (6, 8, 10) voxels without values, whose first voxel has VTK's index (2, -1, 4)."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(2, 11, -1, 6, 4, 9)
    image.SetImageToWorldMatrix(matrix_of(oblique))
    return image


def test_values_are_read_wherever_the_extent_lies_and_kept_when_it_is_cut_anew(a_lattice):
    reference, expected = geometry_of(a_lattice), np.zeros(SHAPE)
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 6))
    voxels_of(labelmap)[...] = np.arange(1, 19).reshape(3, 2, 3)
    expected[0:3, 1:3, 1:4] = np.arange(1, 19).reshape(3, 2, 3)
    assert np.array_equal(values_at(labelmap, reference, KJI).reshape(SHAPE), expected)
    moved = recut(labelmap, (4, 8, -1, 1, 5, 9), np.int16)
    assert voxels_of(moved).dtype == np.int16
    expected[:1], expected[..., :2] = 0, 0
    assert np.array_equal(values_at(moved, reference, KJI).reshape(SHAPE), expected)
    for nothing in (None, slicer.vtkOrientedImageData()):
        assert is_empty(nothing)
        assert not values_at(nothing, reference, KJI).any()


@pytest.mark.parametrize(
    ("kji", "message"),
    [([(0, -1, 0)], r"stroke has indices.*\(6, 8, 10\)"), ([(6, 0, 0)], "stroke has indices")]
    + [(kji, r"\(N, 3\) integers") for kji in ([(0, 0)], [0, 1, 2], [(0.0, 1.0, 2.0)], np.zeros((2, 3, 1), int))],
)
def test_indices_that_are_no_voxels_of_the_grid_are_refused(a_lattice, kji, message):
    with pytest.raises(GeometryError, match=message):
        checked_kji(kji, geometry_of(a_lattice).grid, name="stroke")


# Segments -----------------------------------------------------------------------------------------------------------


def seen(editor, *segment_ids):
    """bool (K, J, I) by the functions under test."""
    reference = reference_geometry(editor.segmentation_node)
    kji = np.argwhere(np.ones(reference.grid.shape, bool))
    return segments_at(editor.segmentation_node, segment_ids, reference, kji).reshape(reference.grid.shape)


@pytest.fixture
def two_on_a_layer(an_editor, box):
    masks = [box(((1, 3), (1, 4), (2, 6))), box(((2, 5), (4, 6), (3, 9)))]
    return {an_editor.add_segment(mask): mask for mask in masks}


def test_segments_are_told_apart_and_seen_together_whatever_layer_they_are_on(an_editor, two_on_a_layer, box):
    (first, second), other = two_on_a_layer, box(((1, 6), (0, 8), (0, 3)))
    third, empty = an_editor.add_segment(other, own_layer=True), an_editor.add_segment()
    for segment_id, mask in two_on_a_layer.items():
        assert np.array_equal(seen(an_editor, segment_id), mask)
    assert np.array_equal(seen(an_editor, first, third, empty, "gone"), other | two_on_a_layer[first])
    assert not seen(an_editor, empty).any()
    assert len(layers(an_editor.segmentation_node, [*two_on_a_layer, third])) == 2
    reference = reference_geometry(an_editor.segmentation_node)
    for kji, expected in [([(1, 1, 2)], [first]), ([(2, 4, 3), (0, 0, 0)], [second]), ([(0, 0, 0)], [])]:
        among = [first, second, "no such segment"]
        assert segments_among(an_editor.segmentation_node, among, reference, np.array(kji)) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (-4, 9, 1)])
def test_a_slice_shows_what_the_segment_has_in_it(new_editor, box, axis, start_ijk):
    editor, mask = new_editor(start_ijk=start_ijk), box(((1, 3), (2, 6), (4, 9)))
    segment_id, reference = editor.add_segment(mask), reference_geometry(editor.segmentation_node)
    assert np.array_equal(seen(editor, segment_id), mask)
    for index in range(mask.shape[axis]):
        plane = grid_slice(reference.grid, axis, index)
        shown = segment_on_plane(editor.segmentation_node, segment_id, reference, plane)
        assert np.array_equal(shown, np.moveaxis(mask, axis, 0)[index])


def test_a_slice_shows_only_the_part_of_a_label_map_that_the_reference_has(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 5), (1, 6))))
    reference = reference_geometry(an_editor.segmentation_node)
    an_editor.labelmap(segment_id).SetExtent(-2, 2, -1, 2, 1, 2)
    shown = segment_on_plane(an_editor.segmentation_node, segment_id, reference, grid_slice(reference.grid, 0, 1))
    assert np.array_equal(shown, box(((0, 6), (0, 3), (0, 3)))[1])


# Other representations ----------------------------------------------------------------------------------------------


def surface_points(segment):
    return segment.GetRepresentation("Closed surface").GetNumberOfPoints()


def test_a_surface_is_seen_as_the_voxels_inside_and_stays_one_until_it_is_edited(a_surface_segmentation):
    segmentation = a_surface_segmentation.GetSegmentation()
    segment, reference = segmentation.GetNthSegment(0), reference_geometry(a_surface_segmentation)
    found = segment_at(a_surface_segmentation, segmentation.GetNthSegmentID(0), reference, KJI).reshape(SHAPE)
    assert found[3, 4, 5]
    assert 10 < found.sum() < 80
    assert segmentation.GetSourceRepresentationName() == "Closed surface"
    before = surface_points(segment)
    edit_as_labelmaps(a_surface_segmentation)
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    assert voxels_of(segment.GetRepresentation("Binary labelmap")).any()
    assert 0 < surface_points(segment) != before
    assert a_surface_segmentation.GetDisplayNode().GetPreferredDisplayRepresentationName2D() == "Binary labelmap"


def test_only_what_is_derived_from_the_segments_asked_for_is_made_again(an_editor, box):
    ids = [an_editor.add_segment(box(((1, 3), (1, 4), (start, start + 3)))) for start in (0, 4)]
    refresh_derived(an_editor.segmentation_node, ids)
    assert an_editor.segment(ids[0]).GetRepresentation("Closed surface") is None
    an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    contour = vtkPolyData()  # which Slicer cannot derive
    an_editor.segment(ids[0]).AddRepresentation("Planar contour", contour)
    before = [surface_points(an_editor.segment(segment_id)) for segment_id in ids]
    voxels_of(an_editor.labelmap(ids[0]))[:, 1:] = 0
    refresh_derived(an_editor.segmentation_node, ids[:1])
    after = [surface_points(an_editor.segment(segment_id)) for segment_id in ids]
    assert after[0] < before[0]
    assert after[1] == before[1]
    assert an_editor.segment(ids[0]).GetRepresentation("Planar contour") is contour


def test_what_cannot_become_voxels_is_refused_with_the_remedy_and_kept(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")  # for which SlicerRT has the conversion
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    reference = reference_geometry(an_editor.segmentation_node)
    for function in (lambda: edit_as_labelmaps(node), lambda: segment_at(node, "s", reference, KJI)):
        with pytest.raises(ImageError, match=r"'Plan'.*'Planar contour'.*Create a binary labelmap"):
            function()
    assert segment.GetRepresentation("Planar contour") is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Planar contour"
