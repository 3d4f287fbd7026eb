from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkFiltersSources import vtkSphereSource

from scribblesegment.errors import ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import edit_as_labelmaps, refresh_derived, voxels_of


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


def test_surfaces_become_label_maps_with_a_surface_made_of_them(a_surface_segmentation):
    segmentation = a_surface_segmentation.GetSegmentation()
    before = surface_points(segmentation.GetNthSegment(0))
    edit_as_labelmaps(a_surface_segmentation)
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    assert voxels_of(segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap")).any()
    assert 0 < surface_points(segmentation.GetNthSegment(0)) != before
    shown = a_surface_segmentation.GetDisplayNode().GetPreferredDisplayRepresentationName2D()
    assert shown == "Binary labelmap"


def test_an_empty_segmentation_of_surfaces_simply_changes_its_kind(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetSourceRepresentationToClosedSurface()
    edit_as_labelmaps(node)
    assert node.GetSegmentation().GetSourceRepresentationName() == "Binary labelmap"


def test_label_maps_stay_as_they_are(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    before = an_editor.segmentation.GetMTime(), an_editor.labelmap(segment_id)
    edit_as_labelmaps(an_editor.segmentation_node)
    assert (an_editor.segmentation.GetMTime(), an_editor.labelmap(segment_id)) == before


def test_only_the_surfaces_asked_for_are_made_again(an_editor, box):
    ids = [an_editor.add_segment(box(((1, 3), (1, 4), (start, start + 3)))) for start in (0, 4)]
    an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    before = [surface_points(an_editor.segment(segment_id)) for segment_id in ids]
    voxels = voxels_of(an_editor.labelmap(ids[0]))
    voxels[:, 1:] = 0
    refresh_derived(an_editor.segmentation_node, ids[:1])
    after = [surface_points(an_editor.segment(segment_id)) for segment_id in ids]
    assert after[0] < before[0]
    assert after[1] == before[1]


def test_nothing_is_derived_where_nothing_was(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    refresh_derived(an_editor.segmentation_node, [segment_id])
    assert an_editor.segment(segment_id).GetRepresentation("Closed surface") is None


def test_what_slicer_cannot_derive_is_left_as_it_is(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    contour = vtkPolyData()
    an_editor.segment(segment_id).AddRepresentation("Planar contour", contour)
    refresh_derived(an_editor.segmentation_node, [segment_id])
    assert an_editor.segment(segment_id).GetRepresentation("Planar contour") is contour


def test_what_cannot_become_voxels_is_refused_and_kept(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    with pytest.raises(ImageError, match=r"'Plan'.*'Planar contour'.*Create a binary labelmap"):
        edit_as_labelmaps(node)
    assert segment.GetRepresentation("Planar contour") is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Planar contour"
