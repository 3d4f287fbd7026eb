"""What the Segment Editor is set to edit, or what is missing; the task and the context of a segment."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Click, Drawing
from scribblesegment.data.geometry import plane_through
from scribblesegment.errors import PromptError
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import write_drawing
from scribblesegment.mrml.target import (
    choose_task,
    context_entry,
    grid_slice,
    kept_task,
    resolve_target,
    slice_context,
    source_name,
    task_of,
)


@pytest.fixture
def segments(an_editor):
    """Two, of which the second is selected."""
    return an_editor.add_segment(), an_editor.add_segment()


def test_the_target_is_what_the_editor_has_selected_and_stays_it(an_editor, segments, new_volume, oblique):
    images = SourceImages()
    target = resolve_target(an_editor.node, images)
    assert target.source_node is an_editor.volume
    assert target.segment is an_editor.segment(segments[1])
    assert target.exists
    assert target.reference.grid.shape == target.source.array.shape == (6, 8, 10)
    np.testing.assert_allclose(target.reference.grid.ijk_to_mm, oblique, atol=1e-9)
    assert target.source.array[1, 2, 3] == 1 * 80 + 2 * 10 + 3 - 200
    drawn = Drawing().added(grid_slice(target.reference.grid, 0, 1), Click((1, 2, 0)))
    write_drawing(target.segment, drawn)
    assert target.gestures.to_text() == drawn.to_text()
    an_editor.node.SetSelectedSegmentID(segments[0])
    other = resolve_target(an_editor.node, images)
    assert other.source is target.source  # made once
    assert other.gestures.is_empty
    assert not other.same_segment(target)
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.uint8)))
    assert (target.segment_id, target.source_node) == (segments[1], an_editor.volume)
    again = an_editor.target(segments[1], images)  # of another image, and not selected
    assert again.source.token != target.source.token
    assert again.same_segment(target)
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")  # with a segment of the same name
    node.GetSegmentation().AddEmptySegment(segments[1])
    an_editor.node.SetAndObserveSegmentationNode(node)
    an_editor.node.SetSelectedSegmentID(segments[1])
    assert not resolve_target(an_editor.node, images).same_segment(target)


@pytest.mark.parametrize(
    ("remove", "exists"),
    [
        (lambda e, target: e.segmentation.RemoveSegment(e.segmentation.GetNthSegmentID(0)), True),
        (lambda e, target: e.segmentation.RemoveSegment(target.segment_id), False),
        (lambda e, target: e.scene.RemoveNode(e.segmentation_node), False),
        (lambda e, target: e.scene.Clear(0), False),
        (lambda e, target: e.segmentation_node.SetAndObserveSegmentation(None), False),
    ],
)
def test_a_target_is_gone_with_what_it_is_about_and_back_when_that_is_undone(an_editor, segments, remove, exists):
    target, closing = resolve_target(an_editor.node, SourceImages()), []
    start = slicer.vtkMRMLScene.StartCloseEvent
    tag = an_editor.scene.AddObserver(start, lambda *_: closing.append(target.exists))
    an_editor.logic.SaveStateForUndo()
    remove(an_editor, target)
    an_editor.scene.RemoveObserver(tag)
    assert target.exists == exists
    assert not any(closing), "it still counts while the scene is being closed"
    if an_editor.segmentation is not None and not exists and an_editor.logic.CanUndo():
        assert target.gestures.is_empty
        an_editor.logic.Undo()
        assert target.exists


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def named(an_editor):
    def make(name):
        segment_id = an_editor.add_segment()
        an_editor.segment(segment_id).SetName(name)
        return segment_id

    return make


def test_the_task_of_a_segment_is_its_name(a_segmentation_node, named):
    task = task_of(a_segmentation_node, named(" Left Kidney "))
    assert (task.name, task.kept) == ("Left Kidney", True)
    assert task == kept_task("Left Kidney")
    assert task.key == kept_task("left kidney").key
    assert task_of(a_segmentation_node, "gone") is None


@pytest.mark.parametrize("name", ["Segment_1", "Segment_23", "Segment", "", "  "])
def test_sets_of_segments_that_nobody_has_named_are_their_own_unless_a_task_is_chosen(a_segmentation_node, named, name):
    segment_id, other = named(name), named(name)
    first, second = (task_of(a_segmentation_node, one) for one in (segment_id, other))
    assert first.name
    assert len({first.key, second.key, kept_task(name or "x").key}) == 3
    choose_task(a_segmentation_node, segment_id, " Liver ")
    assert task_of(a_segmentation_node, segment_id) == kept_task("Liver")
    assert not task_of(a_segmentation_node, other).kept
    choose_task(a_segmentation_node, segment_id, " ")
    assert not task_of(a_segmentation_node, segment_id).kept


# Context ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 4), (2, 6), (3, 8))))
    return an_editor.target(segment_id)


def plane_of(target, axis, index):
    return grid_slice(target.reference.grid, axis, index)


@pytest.mark.parametrize(("axis", "index"), [(0, 2), (1, 3), (2, 5)])
def test_an_entry_is_the_slice_with_the_segment_on_it(target, box, axis, index):
    plane, name = plane_of(target, axis, index), source_name(target)
    entry = context_entry(target, plane)
    slice_of_volume = np.moveaxis(target.source.array, axis, 0)[index]
    assert np.allclose(entry.image, target.source.intensity_range.normalize(slice_of_volume))
    assert np.array_equal(entry.mask, np.moveaxis(box(((1, 4), (2, 6), (3, 8))), axis, 0)[index])
    spacing = [mm for other, mm in enumerate(target.reference.grid.spacing_kji_mm) if other != axis]
    assert entry.spacing_mm == pytest.approx(spacing)
    assert (entry.source, entry.axis, entry.index) == (name, axis, index)
    context = slice_context(target, plane, ContextSet("structure", (entry,)))
    assert (context.source, context.axis, context.index) == (name, axis, index)
    assert slice_context(target, plane, None) is slice_context(target, plane, ContextSet("structure")) is None


def test_an_oblique_slice_is_an_entry_without_a_place_and_an_empty_one_is_refused(target):
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm((2, 4, 5)), (0.2, 0.5, 1.0))
    entry = context_entry(target, plane)
    assert entry.shape == plane.shape
    assert entry.mask.any()
    assert (entry.axis, entry.index) == (None, None)
    with pytest.raises(PromptError, match="empty on this slice"):
        context_entry(target, plane_of(target, 0, 5))


def test_volumes_that_are_called_alike_have_different_names_unless_they_are_alike(target, an_editor, new_volume):
    def name_with(array):
        volume = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        volume.CopyContent(an_editor.volume)
        volume.SetName("CT")
        vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())[:] = array.ravel()
        volume.GetImageData().Modified()
        an_editor.node.SetAndObserveSourceVolumeNode(volume)
        return source_name(an_editor.target(target.segment_id))

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
