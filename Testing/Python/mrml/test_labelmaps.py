"""Which voxels belong to which segments, whatever layers, lattices and extents their label maps have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkFiltersSources import vtkSphereSource

from scribblesegment.data.geometry import plane_through, sample
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import geometry_of, reference_geometry
from scribblesegment.mrml.labelmaps import (
    blank_labelmap,
    bounds,
    checked_kji,
    edit_as_labelmaps,
    is_empty,
    layers,
    offset_kji,
    on_lattice,
    overlap,
    recut,
    refresh_derived,
    segment_at,
    segment_on_plane,
    segments_among,
    segments_at,
    segments_on_plane,
    values_at,
    visible_other_segments,
    voxels_of,
)

SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))


@pytest.fixture
def a_lattice(oblique, matrix_of):
    """An image of (6, 8, 10) voxels without values, whose first voxel has VTK's index (2, -1, 4)."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(2, 11, -1, 6, 4, 9)
    image.SetImageToWorldMatrix(matrix_of(oblique))
    return image


def test_a_blank_labelmap_lies_on_its_lattice_and_its_voxels_are_a_view(a_lattice):
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 4), np.int16)
    assert (voxels_of(labelmap).shape, voxels_of(labelmap).dtype) == ((1, 2, 3), np.int16)
    assert not voxels_of(labelmap).any()
    assert on_lattice(labelmap, geometry_of(a_lattice))
    assert offset_kji(labelmap, geometry_of(a_lattice)) == (0, 1, 1)
    voxels_of(labelmap)[0, 1, 2] = 7
    assert labelmap.GetScalarComponentAsDouble(5, 1, 4, 0) == 7


def test_values_are_read_wherever_the_extent_lies_and_kept_when_it_is_cut_anew(a_lattice):
    reference = geometry_of(a_lattice)
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 6))
    voxels_of(labelmap)[...] = np.arange(1, 19).reshape(3, 2, 3)
    expected = np.zeros(SHAPE)
    expected[0:3, 1:3, 1:4] = np.arange(1, 19).reshape(3, 2, 3)
    assert np.array_equal(values_at(labelmap, reference, KJI).reshape(SHAPE), expected)
    moved = recut(labelmap, (4, 8, -1, 1, 5, 9), np.int16)
    assert voxels_of(moved).dtype == np.int16
    expected[:1], expected[..., :2] = 0, 0
    assert np.array_equal(values_at(moved, reference, KJI).reshape(SHAPE), expected)
    beyond = blank_labelmap(a_lattice, (-50, 11, -9, 6, 0, 9))
    voxels_of(beyond)[:, 8:, 52:] = 3
    assert (values_at(beyond, reference, KJI) == 3).all()
    for nothing in (None, slicer.vtkOrientedImageData()):
        assert is_empty(nothing)
        assert not values_at(nothing, reference, KJI).any()


def test_values_on_another_lattice_are_those_of_the_nearest_voxel(a_lattice, oblique, matrix_of):
    fine, halved = slicer.vtkOrientedImageData(), oblique.copy()
    fine.SetExtent(0, 19, 0, 15, 0, 11)
    halved[:3, :3] /= 2
    halved[:3, 3] = (oblique @ (2, -1, 4, 1))[:3]
    fine.SetImageToWorldMatrix(matrix_of(halved))
    labelmap = blank_labelmap(fine, fine.GetExtent(), np.int16)
    voxels_of(labelmap)[...] = np.arange(12 * 16 * 20).reshape(12, 16, 20)
    assert not on_lattice(labelmap, geometry_of(a_lattice))
    values = values_at(labelmap, geometry_of(a_lattice), KJI).reshape(SHAPE)
    assert np.array_equal(values, voxels_of(labelmap)[::2, ::2, ::2])


interval = st.tuples(st.integers(-5, 5), st.integers(0, 4)).map(lambda it: (it[0], it[0] + it[1]))
extent = st.tuples(interval, interval, interval).map(lambda axes: tuple(bound for axis in axes for bound in axis))


@given(first=extent, second=extent)
def test_the_overlap_is_what_both_extents_hold(first, second):
    def positions(bounds):
        i0, i1, j0, j1, k0, k1 = bounds
        return np.moveaxis(np.mgrid[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1], 0, -1)

    of_first, of_second = overlap(first, second)
    shared = positions(first)[of_first]
    assert np.array_equal(shared, positions(second)[of_second])
    in_both = set(map(tuple, positions(first).reshape(-1, 3))) & set(map(tuple, positions(second).reshape(-1, 3)))
    assert set(map(tuple, shared.reshape(-1, 3))) == in_both


@pytest.mark.parametrize(
    ("kji", "message"),
    [
        ([(0, 0, 10)], r"stroke has indices.*\(6, 8, 10\)"),
        ([(0, -1, 0)], r"stroke has indices.*\(6, 8, 10\)"),
        ([(6, 0, 0)], r"stroke has indices.*\(6, 8, 10\)"),
        ([(0, 0)], r"\(N, 3\) integers"),
        ([0, 1, 2], r"\(N, 3\) integers"),
        ([(0.0, 1.0, 2.0)], r"\(N, 3\) integers"),
        (np.zeros((2, 3, 1), int), r"\(N, 3\) integers"),
    ],
)
def test_indices_that_are_no_voxels_of_the_grid_are_refused(a_lattice, kji, message):
    with pytest.raises(GeometryError, match=message):
        checked_kji(kji, geometry_of(a_lattice).grid, name="stroke")
    assert checked_kji([], geometry_of(a_lattice).grid).shape == (0, 3)
    assert bounds(np.array([(3, 1, 9), (2, 7, 9), (2, 4, 5)])) == ((2, 1, 5), (3, 7, 9))


# Segments -----------------------------------------------------------------------------------------------------------


def seen(editor, *segment_ids):
    """bool (K, J, I) by the functions under test."""
    reference = reference_geometry(editor.segmentation_node)
    kji = np.argwhere(np.ones(reference.grid.shape, bool))
    return segments_at(editor.segmentation_node, segment_ids, reference, kji).reshape(reference.grid.shape)


@pytest.fixture
def two_on_a_layer(an_editor, box):
    masks = {
        an_editor.add_segment(mask): mask for mask in (box(((1, 3), (1, 4), (2, 6))), box(((2, 5), (4, 6), (3, 9))))
    }
    assert an_editor.share_a_layer(*masks)
    return masks


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


@pytest.mark.parametrize("scale", [0.53, 1.7])
def test_an_imported_label_map_is_seen_by_its_nearest_voxels(an_editor, oblique, matrix_of, scale):
    lattice, turned = slicer.vtkOrientedImageData(), oblique.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.9, 0.2, 0], [-0.2, 0.9, 0.1], [0, -0.1, 1.1]]) * scale
    lattice.SetExtent(0, 11, 0, 9, 0, 7)
    lattice.SetImageToWorldMatrix(matrix_of(turned))
    labelmap = blank_labelmap(lattice, lattice.GetExtent())
    voxels_of(labelmap)[...] = np.random.default_rng(5).random((8, 10, 12)) < 0.5
    segment_id = an_editor.segmentation_node.AddSegmentFromBinaryLabelmapRepresentation(labelmap, "imported")
    expected = an_editor.mask(segment_id)
    assert expected.any()
    assert not expected.all()
    assert np.array_equal(seen(an_editor, segment_id), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (-4, 9, 1)])
def test_a_slice_shows_what_the_segment_has_in_it(new_editor, box, axis, start_ijk):
    editor, mask = new_editor(start_ijk=start_ijk), box(((1, 3), (2, 6), (4, 9)))
    segment_id, reference = editor.add_segment(mask), reference_geometry(editor.segmentation_node)
    assert np.array_equal(seen(editor, segment_id), mask)
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
    reference = reference_geometry(an_editor.segmentation_node)
    plane = plane_through(reference.grid, reference.grid.to_mm((2.6, 4, 5)), normal)
    assert plane.voxel_slice is None
    mask = np.any(list(two_on_a_layer.values()), axis=0).astype(np.uint8)
    expected = sample(mask, reference.grid, plane, nearest=True) > 0
    assert expected.any()
    shown = segments_on_plane(an_editor.segmentation_node, two_on_a_layer, reference, plane)
    assert np.array_equal(shown, expected)


def test_other_segments_are_those_switched_on_in_the_list(an_editor):
    first, second, third = (an_editor.add_segment() for _ in range(3))
    an_editor.show(second, False)
    assert visible_other_segments(an_editor.segmentation_node, first) == [third]
    assert visible_other_segments(an_editor.segmentation_node, second) == [first, third]
    an_editor.scene.RemoveNode(an_editor.segmentation_node.GetDisplayNode())
    assert visible_other_segments(an_editor.segmentation_node, first) == []


@pytest.mark.parametrize("segment_id", ["", None, "gone"])
def test_a_segment_that_does_not_exist_is_refused(an_editor, segment_id):
    reference = reference_geometry(an_editor.segmentation_node)
    plane = plane_through(reference.grid, reference.grid.to_mm((0, 0, 0)), (0, 0, 1))
    for function, where in ((segment_at, KJI), (segment_on_plane, plane)):
        with pytest.raises(PromptError, match="'Segmentation' has no segment"):
            function(an_editor.segmentation_node, segment_id, reference, where)


# Other representations ----------------------------------------------------------------------------------------------


@pytest.fixture
def a_surface_segmentation(an_editor):
    """A segmentation stored as one surface: a sphere in the middle of the CT."""
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Model")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    node.SetSourceRepresentationToClosedSurface()
    sphere = vtkSphereSource()
    sphere.SetCenter(*reference_geometry(node).grid.to_mm((3, 4, 5)))
    sphere.SetRadius(2.4)
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    return node


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


def test_a_segmentation_without_segments_changes_its_kind_and_label_maps_stay(an_editor, box):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetSourceRepresentationToClosedSurface()
    edit_as_labelmaps(node)
    assert node.GetSegmentation().GetSourceRepresentationName() == "Binary labelmap"
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    before = an_editor.segmentation.GetMTime(), an_editor.labelmap(segment_id)
    edit_as_labelmaps(an_editor.segmentation_node)
    assert (an_editor.segmentation.GetMTime(), an_editor.labelmap(segment_id)) == before


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
