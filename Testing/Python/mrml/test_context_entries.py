"""Tests of scribblesegment.mrml.target: a slice as an example for other slices."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.geometry import plane_through
from scribblesegment.errors import PromptError
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.target import context_entry, grid_slice, slice_context, source_name, target_of


@pytest.fixture
def target(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 4), (2, 6), (3, 8))))
    return target_of(an_editor.node, an_editor.segmentation_node, segment_id, SourceImages())


def plane_of(target, axis, index):
    return grid_slice(target.reference.grid, axis, index)


@pytest.mark.parametrize(("axis", "index"), [(0, 2), (1, 3), (2, 5)])
def test_an_entry_is_the_slice_with_the_segment_on_it(target, box, axis, index):
    entry = context_entry(target, plane_of(target, axis, index))
    slice_of_volume = np.moveaxis(target.source.array, axis, 0)[index]
    assert np.allclose(entry.image, target.source.intensity_range.normalize(slice_of_volume))
    assert np.array_equal(entry.mask, np.moveaxis(box(((1, 4), (2, 6), (3, 8))), axis, 0)[index])
    spacing = [mm for other, mm in enumerate(target.reference.grid.spacing_kji_mm) if other != axis]
    assert entry.spacing_mm == pytest.approx(spacing)
    assert (entry.source, entry.axis, entry.index) == (source_name(target), axis, index)


def test_an_oblique_slice_is_an_entry_without_a_place(target):
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm((2, 4, 5)), (0.2, 0.5, 1.0))
    entry = context_entry(target, plane)
    assert entry.shape == plane.shape
    assert entry.mask.any()
    assert (entry.axis, entry.index) == (None, None)


def test_an_empty_slice_is_refused(target):
    with pytest.raises(PromptError, match="empty on this slice"):
        context_entry(target, plane_of(target, 0, 5))


def test_a_slice_accepted_again_replaces_its_entry(target, an_editor, box):
    context = ContextSet("structure").add(context_entry(target, plane_of(target, 0, 2)))
    an_editor.modify(target.segment_id, box(((2, 3), (0, 1), (0, 1))), an_editor.logic.ModificationModeAdd)
    context = context.add(context_entry(target, plane_of(target, 0, 2))).add(
        context_entry(target, plane_of(target, 0, 3))
    )
    assert len(context) == 2
    assert context.entries[0].mask[0, 0]


def test_volumes_that_are_called_alike_have_different_names_unless_they_are_alike(target, an_editor, new_volume):
    def name_with(array):
        volume = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        volume.CopyContent(an_editor.volume)
        volume.SetName("CT")
        from vtkmodules.util.numpy_support import vtk_to_numpy

        vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())[:] = array.ravel()
        volume.GetImageData().Modified()
        an_editor.node.SetAndObserveSourceVolumeNode(volume)
        return source_name(target_of(an_editor.node, an_editor.segmentation_node, target.segment_id, SourceImages()))

    array = np.array(target.source.array)
    assert name_with(array) == source_name(target)
    assert name_with(array + 1) != source_name(target)


@pytest.mark.parametrize(
    "name", ["3: CT/Thorax", "C:\\Users\\somebody\\ct", "/home/somebody/ct", "~/ct", "", "a\nb", "x" * 400]
)
def test_any_name_of_a_volume_can_be_used(target, name):
    target.source_node.SetName(name)
    entry = context_entry(target, plane_of(target, 0, 2))
    assert entry.source == source_name(target)
    assert entry.is_slice_of(source_name(target), 0)


def test_without_entries_there_is_no_context(target):
    plane = plane_of(target, 0, 2)
    assert slice_context(target, plane, None) is None
    assert slice_context(target, plane, ContextSet("structure")) is None
    context = slice_context(target, plane, ContextSet("structure", (context_entry(target, plane_of(target, 0, 3)),)))
    assert (context.source, context.axis, context.index) == (source_name(target), 0, 2)
