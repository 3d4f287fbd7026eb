"""What the Segment Editor is set to edit, or what is missing; the task and the context of a segment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Click, Drawing
from scribblesegment.data.geometry import plane_through
from scribblesegment.errors import GeometryError, ImageError, PromptError
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
def images():
    return SourceImages()


@pytest.fixture
def segments(an_editor):
    """Two, of which the second is selected."""
    return an_editor.add_segment(), an_editor.add_segment()


def test_the_target_is_what_the_editor_has_selected_and_stays_it(an_editor, segments, images, new_volume, oblique):
    target = resolve_target(an_editor.node, images)
    assert target.editor_node is an_editor.node
    assert target.segmentation_node is an_editor.segmentation_node
    assert target.source_node is an_editor.volume
    assert target.segment is an_editor.segment(segments[1])
    assert target.exists
    assert target.reference.grid.shape == target.source.array.shape == (6, 8, 10)
    np.testing.assert_allclose(target.reference.grid.ijk_to_mm, oblique, atol=1e-9)
    assert target.source.array[1, 2, 3] == 1 * 80 + 2 * 10 + 3 - 200
    an_editor.node.SetSelectedSegmentID(segments[0])
    other = resolve_target(an_editor.node, images)
    assert other.source is target.source  # made once
    assert not other.same_segment(target)
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.uint8)))
    assert (target.segment_id, target.source_node) == (segments[1], an_editor.volume)
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.segment_id = segments[0]
    again = an_editor.target(segments[1], images)  # of another image, and not selected
    assert again.source.token != target.source.token
    assert again.same_segment(target)


def test_a_segment_of_the_same_name_in_another_segmentation_is_another(an_editor, segments, images):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.GetSegmentation().AddEmptySegment(segments[1])
    first = resolve_target(an_editor.node, images)
    an_editor.node.SetAndObserveSegmentationNode(node)
    an_editor.node.SetSelectedSegmentID(segments[1])
    second = resolve_target(an_editor.node, images)
    assert second.reference.grid.shape == (6, 8, 10)  # takes the lattice of the volume
    assert second.segment_id == first.segment_id
    assert not second.same_segment(first)


def move_away(editor):
    """By whole voxels, so that nothing needs to be resampled."""
    matrix = vtkMatrix4x4()
    editor.volume.GetIJKToRASMatrix(matrix)
    editor.volume.SetOrigin(*(matrix.GetElement(row, 3) + 1000 * matrix.GetElement(row, 0) for row in range(3)))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda e: e.node.SetAndObserveSegmentationNode(None), PromptError, r"No segmentation is selected.*Choose"),
        (lambda e: e.scene.RemoveNode(e.segmentation_node), PromptError, "No segmentation is selected"),
        (lambda e: e.segmentation_node.SetAndObserveSegmentation(None), PromptError, "No segmentation is selected"),
        (lambda e: e.node.SetSelectedSegmentID(None), PromptError, r"No segment is selected.*Add.*select"),
        (lambda e: e.node.SetSelectedSegmentID("no such segment"), PromptError, "No segment is selected"),
        (lambda e: e.node.SetAndObserveSourceVolumeNode(None), ImageError, r"No source volume is selected.*Choose"),
        (lambda e: e.scene.RemoveNode(e.volume), ImageError, "No source volume is selected"),
        (lambda e: e.volume.SetAndObserveImageData(None), ImageError, "is empty"),
        (move_away, GeometryError, "does not overlap"),
    ],
)
def test_what_is_missing_is_told_with_the_remedy(an_editor, segments, images, spoil, error, message):
    spoil(an_editor)
    with pytest.raises(error, match=message):
        resolve_target(an_editor.node, images)


def test_without_an_editor_the_user_is_told_to_choose_a_segmentation(images):
    with pytest.raises(PromptError, match=r"No segmentation is selected.*Choose or create"):
        resolve_target(None, images)


@pytest.mark.parametrize(
    ("remove", "exists"),
    [
        (lambda e, target: e.segmentation.RemoveSegment(target.segment_id), False),
        (lambda e, target: e.segmentation.RemoveSegment(e.segmentation.GetNthSegmentID(0)), True),
        (lambda e, target: e.scene.RemoveNode(e.segmentation_node), False),
        (lambda e, target: e.scene.Clear(0), False),
        (lambda e, target: e.segmentation_node.SetAndObserveSegmentation(None), False),
    ],
)
def test_a_target_is_gone_with_what_it_is_about(an_editor, segments, images, remove, exists):
    target, closing = resolve_target(an_editor.node, images), []
    start = slicer.vtkMRMLScene.StartCloseEvent
    tag = an_editor.scene.AddObserver(start, lambda *_: closing.append(target.exists))
    remove(an_editor, target)
    an_editor.scene.RemoveObserver(tag)
    assert target.exists == exists
    assert not any(closing), "it still counts while the scene is being closed"


def test_a_target_comes_back_when_the_removal_of_its_segment_is_undone(an_editor, segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.logic.SaveStateForUndo()
    an_editor.segmentation.RemoveSegment(segments[1])
    assert target.segment is None
    assert target.gestures.is_empty
    an_editor.logic.Undo()
    assert target.exists


def test_the_gestures_are_those_of_the_segment_now(an_editor, segments, images):
    target = resolve_target(an_editor.node, images)
    assert target.gestures.is_empty
    drawn = Drawing().added(grid_slice(target.reference.grid, 0, 1), Click((1, 2, 0)))
    write_drawing(target.segment, drawn)
    assert target.gestures.to_text() == drawn.to_text()
    assert an_editor.target(segments[0], images).gestures.is_empty


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


@pytest.mark.parametrize("name", ["Segment_1", "Segment_23", "Segment", "", "  "])
def test_sets_of_segments_that_nobody_has_named_are_their_own_and_not_kept(a_segmentation_node, named, name):
    first, second = (task_of(a_segmentation_node, named(name)) for _ in range(2))
    assert not first.kept
    assert first.key != second.key
    assert first.name


def test_a_name_never_leads_to_the_set_of_an_unnamed_segment(a_segmentation_node, named):
    segment_id = named("Segment_1")
    assert task_of(a_segmentation_node, segment_id).key != kept_task("Segment_1").key


def test_another_task_is_chosen_and_the_choice_taken_back(a_segmentation_node, named):
    segment_id, other = named("Segment_1"), named("Segment_2")
    choose_task(a_segmentation_node, segment_id, " Liver ")
    assert task_of(a_segmentation_node, segment_id) == kept_task("Liver")
    assert not task_of(a_segmentation_node, other).kept
    choose_task(a_segmentation_node, segment_id, " ")
    assert not task_of(a_segmentation_node, segment_id).kept


def test_without_a_segment_there_is_no_task(a_segmentation_node):
    assert task_of(a_segmentation_node, "gone") is None


# Context ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 4), (2, 6), (3, 8))))
    return an_editor.target(segment_id)


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


def test_without_entries_there_is_no_context(target):
    plane = plane_of(target, 0, 2)
    assert slice_context(target, plane, None) is None
    assert slice_context(target, plane, ContextSet("structure")) is None
    context = slice_context(target, plane, ContextSet("structure", (context_entry(target, plane_of(target, 0, 3)),)))
    assert (context.source, context.axis, context.index) == (source_name(target), 0, 2)
