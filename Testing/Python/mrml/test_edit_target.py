"""Tests of scribblesegment.mrml.target: what the Segment Editor is set to edit, or what is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer

from scribblesegment.data.drawing import Click, Drawing
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.errors import FileFormatError, GeometryError, ImageError, PromptError
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import TAG, write_drawing
from scribblesegment.mrml.target import resolve_target, target_of

PLANE = SlicePlane((6, 8), (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0))


@pytest.fixture
def images():
    return SourceImages()


@pytest.fixture
def two_segments(an_editor):
    """The second is selected."""
    return an_editor.add_segment(), an_editor.add_segment()


def test_the_target_is_what_the_editor_has_selected(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    assert target.editor_node is an_editor.node
    assert target.segmentation_node is an_editor.segmentation_node
    assert target.source_node is an_editor.volume
    assert target.segment_id == two_segments[1]
    assert target.segment is an_editor.segment(two_segments[1])
    assert target.exists


def test_the_image_lies_on_the_reference_lattice(an_editor, two_segments, images, oblique):
    target = resolve_target(an_editor.node, images)
    assert target.reference.grid.shape == target.source.array.shape == (6, 8, 10)
    np.testing.assert_allclose(target.reference.grid.ijk_to_mm, oblique, atol=1e-9)
    assert target.source.array[1, 2, 3] == 1 * 80 + 2 * 10 + 3 - 200


def test_the_image_is_made_once_for_all_targets(an_editor, two_segments, images):
    first = resolve_target(an_editor.node, images)
    an_editor.node.SetSelectedSegmentID(two_segments[0])
    second = resolve_target(an_editor.node, images)
    assert second.source is first.source
    assert not second.same_segment(first)


def test_a_target_stays_what_it_is_when_something_else_is_selected(an_editor, two_segments, images, new_volume):
    target = resolve_target(an_editor.node, images)
    an_editor.node.SetSelectedSegmentID(two_segments[0])
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.uint8)))
    assert target.segment_id == two_segments[1]
    assert target.source_node is an_editor.volume
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.segment_id = two_segments[0]


def test_a_segment_that_is_not_selected_can_be_the_target(an_editor, two_segments, images):
    target = target_of(an_editor.node, an_editor.segmentation_node, two_segments[0], images)
    assert target.segment is an_editor.segment(two_segments[0])


def test_a_changed_image_makes_another_token(an_editor, two_segments, images):
    before = resolve_target(an_editor.node, images).source.token
    assert resolve_target(an_editor.node, images).source.token == before
    an_editor.volume.GetImageData().Modified()
    assert resolve_target(an_editor.node, images).source.token != before


def test_a_new_segmentation_takes_the_lattice_of_the_volume(an_editor, images):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment_id = node.GetSegmentation().AddEmptySegment()
    an_editor.node.SetAndObserveSegmentationNode(node)
    an_editor.node.SetSelectedSegmentID(segment_id)
    assert resolve_target(an_editor.node, images).reference.grid.shape == (6, 8, 10)


# Something is missing -----------------------------------------------------------------------------------------------


def test_without_an_editor_the_user_is_told_to_choose_a_segmentation(images):
    with pytest.raises(PromptError, match=r"No segmentation is selected.*Choose or create"):
        resolve_target(None, images)


def test_without_a_segmentation_the_user_is_told_to_choose_one(an_editor, two_segments, images):
    an_editor.node.SetAndObserveSegmentationNode(None)
    with pytest.raises(PromptError, match="No segmentation is selected"):
        resolve_target(an_editor.node, images)


def test_after_its_segmentation_left_the_scene_the_user_is_told_to_choose_one(an_editor, two_segments, images):
    an_editor.scene.RemoveNode(an_editor.segmentation_node)
    with pytest.raises(PromptError, match="No segmentation is selected"):
        resolve_target(an_editor.node, images)


def test_a_segmentation_node_that_holds_no_segmentation_counts_as_none(an_editor, two_segments, images):
    an_editor.segmentation_node.SetAndObserveSegmentation(None)
    with pytest.raises(PromptError, match="No segmentation is selected"):
        resolve_target(an_editor.node, images)


@pytest.mark.parametrize("selected", [None, "", "no such segment"])
def test_without_a_segment_the_user_is_told_to_add_or_select_one(an_editor, two_segments, images, selected):
    an_editor.node.SetSelectedSegmentID(selected)
    with pytest.raises(PromptError, match=r"No segment is selected.*Add.*select"):
        resolve_target(an_editor.node, images)


def test_a_selected_segment_that_was_removed_is_none(an_editor, two_segments, images):
    an_editor.segmentation.RemoveSegment(two_segments[1])
    an_editor.node.SetSelectedSegmentID(two_segments[1])
    with pytest.raises(PromptError, match="No segment is selected"):
        resolve_target(an_editor.node, images)


def test_without_a_source_volume_the_user_is_told_to_choose_one(an_editor, two_segments, images):
    an_editor.node.SetAndObserveSourceVolumeNode(None)
    with pytest.raises(ImageError, match=r"No source volume is selected.*Choose the image"):
        resolve_target(an_editor.node, images)


def test_after_its_source_volume_left_the_scene_the_user_is_told_to_choose_one(an_editor, two_segments, images):
    an_editor.scene.RemoveNode(an_editor.volume)
    with pytest.raises(ImageError, match="No source volume is selected"):
        target_of(an_editor.node, an_editor.segmentation_node, two_segments[1], images)


def test_a_source_volume_without_voxels_is_refused(an_editor, two_segments, images):
    an_editor.volume.SetAndObserveImageData(None)
    with pytest.raises(ImageError, match="is empty"):
        resolve_target(an_editor.node, images)


def test_a_source_volume_elsewhere_is_refused(an_editor, two_segments, images, new_volume, oblique):
    far = oblique.copy()
    far[:3, 3] += oblique[:3, 0] * 1000
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.int16), far))
    with pytest.raises(GeometryError, match="does not overlap"):
        resolve_target(an_editor.node, images)


# Something has gone -------------------------------------------------------------------------------------------------


def test_a_target_is_gone_when_its_segment_was_removed(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.segmentation.RemoveSegment(two_segments[1])
    assert target.segment is None
    assert not target.exists
    assert target.gestures.is_empty


def test_a_target_stays_when_another_segment_was_removed(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.segmentation.RemoveSegment(two_segments[0])
    assert target.exists


def test_a_target_is_gone_when_its_segmentation_was_removed(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.scene.RemoveNode(an_editor.segmentation_node)
    assert not target.exists


def test_a_target_is_gone_when_the_scene_was_closed(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.scene.Clear(0)
    assert not target.exists


def test_a_target_is_gone_while_the_scene_is_being_closed(an_editor, two_segments, images):
    target, seen = resolve_target(an_editor.node, images), []

    def look(*_):
        seen.append((target.segmentation_node.GetScene() is not None, target.exists))

    tag = an_editor.scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, look)
    an_editor.scene.Clear(0)
    an_editor.scene.RemoveObserver(tag)
    assert seen == [(True, False)]


def test_a_target_is_gone_when_its_node_no_longer_holds_a_segmentation(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.segmentation_node.SetAndObserveSegmentation(None)
    assert not target.exists


def test_a_target_comes_back_when_the_removal_of_its_segment_is_undone(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    an_editor.logic.SaveStateForUndo()
    an_editor.segmentation.RemoveSegment(two_segments[1])
    assert not target.exists
    an_editor.logic.Undo()
    assert target.exists
    assert target.segment is an_editor.segment(two_segments[1])


# Same segment, gestures ---------------------------------------------------------------------------------------------


def test_targets_of_one_segment_are_about_the_same_whatever_image_is_chosen(
    an_editor, two_segments, images, new_volume
):
    first = resolve_target(an_editor.node, images)
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.uint8)))
    second = resolve_target(an_editor.node, images)
    assert second.source_node is not first.source_node
    assert second.same_segment(first)


def test_a_segment_of_the_same_name_in_another_segmentation_is_another(an_editor, two_segments, images):
    other_node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    other_node.GetSegmentation().AddEmptySegment(two_segments[1])
    first = resolve_target(an_editor.node, images)
    second = target_of(an_editor.node, other_node, two_segments[1], images)
    assert second.segment is not None
    assert not second.same_segment(first)


def test_the_gestures_are_those_of_the_segment_now(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    assert target.gestures.is_empty
    drawn = Drawing().added(PLANE, Click((1, 2, 0)))
    write_drawing(target.segment, drawn)
    assert target.gestures.to_text() == drawn.to_text()
    other = target_of(an_editor.node, an_editor.segmentation_node, two_segments[0], images)
    assert other.gestures.is_empty


def test_damaged_gestures_are_told(an_editor, two_segments, images):
    target = resolve_target(an_editor.node, images)
    target.segment.SetTag(TAG, "1damaged")
    with pytest.raises(FileFormatError, match="cannot be read"):
        _ = target.gestures
