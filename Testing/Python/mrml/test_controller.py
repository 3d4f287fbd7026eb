from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from region_inference import RegionInference

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box, Click, Stroke
from scribblesegment.data.masks import CleanUp
from scribblesegment.errors import GeometryError, ImageError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.slice_segmenter import ControllerOptions, ScribbleController
from scribblesegment.mrml.tags import read_accepted, read_drawing
from scribblesegment.mrml.target import context_entry

SHAPE = (12, 40, 50)
CENTER = np.array([25.0, 20.0, 6.0])
TWO_SQUARES = ((slice(None), slice(10, 25), slice(8, 22)), (slice(None), slice(15, 30), slice(30, 42)))


def squares() -> np.ndarray:
    """Two bright blocks through all slices, on dark ground."""
    array = np.zeros(SHAPE, np.int16)
    for square in TWO_SQUARES:
        array[square] = 200
    return array


class Workplace:
    """A user with an editor, an axial view, and a controller whose predictions come when told to."""

    def __init__(self, editor, **options) -> None:
        self.editor = editor
        self.inference = RegionInference()
        self.context = None
        self.finished = []
        self.controller = ScribbleController(
            self.inference,
            save_state=editor.logic.SaveStateForUndo,
            options=ControllerOptions(**options),
            context_of=lambda target: self.context,
            on_finished=lambda target, plane: self.finished.append((target.segment_id, *plane.voxel_slice)),
        )
        self.view = slicer.vtkMRMLSliceNode()
        self.view.SetLayoutName("Red")
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(editor.scene)
        editor.scene.AddNode(self.view)
        self.view.SetOrientationToAxial()
        self.show(5)

    @property
    def node(self):
        return self.editor.node

    def show(self, k: int) -> None:
        self.view.JumpSliceByOffsetting(0.0, 0.0, float(k))

    def stroke(self, first, last, *, positive=True, radius=1.0, settle=True) -> None:
        """Paint between two voxels (j, i) of the shown slice of the unit grid."""
        z = self.view.GetSliceToRAS().GetElement(2, 3)
        ends = np.array([(first[1], first[0], z), (last[1], last[0], z)], float)
        self.controller.paint(self.node, self.view, np.linspace(*ends, 20), radius, positive=positive)
        if settle:
            self.settle()

    def settle(self):
        self.inference.finish()
        return self.controller.poll()

    def mask(self, segment_id):
        return self.editor.mask(segment_id)

    def drawn(self, segment_id):
        return read_drawing(self.editor.segment(segment_id))

    def accepted(self, segment_id):
        """Indices of accepted slices, by axis."""
        grid = self.controller.target(self.node).reference.grid
        return read_accepted(self.editor.segment(segment_id), grid).indices

    def state(self):
        """Everything an undo step covers, comparable."""
        ids = self.editor.segmentation.GetSegmentIDs()
        return {
            segment_id: (
                self.mask(segment_id).tobytes(),
                self.drawn(segment_id).to_text(),
                self.editor.segment(segment_id).HasTag("ScribbleSegment.Accepted"),
            )
            for segment_id in ids
        }


@pytest.fixture
def workplace(new_editor):
    def make(array=None, matrix=None, **options):
        return Workplace(
            new_editor(squares() if array is None else array, np.eye(4) if matrix is None else matrix), **options
        )

    return make


@pytest.fixture
def at_work(workplace):
    """A workplace with one empty segment, selected."""
    place = workplace()
    place.segment = place.editor.add_segment()
    return place


def only(square, k) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[square] = True
    mask[:k], mask[k + 1 :] = False, False
    return mask


def test_a_stroke_segments_the_object_on_the_shown_slice_and_no_other(at_work):
    at_work.stroke((17, 12), (17, 18))
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))


def test_a_click_segments_the_object(at_work):
    at_work.controller.click(at_work.node, at_work.view, (35, 20, 5), positive=True)
    at_work.settle()
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[1], 5))
    assert at_work.drawn(at_work.segment).slices[0].gestures == (Click((35, 20, 5)),)


def test_a_box_segments_what_is_inside(at_work):
    at_work.controller.drag_box(at_work.node, at_work.view, (6, 8, 5), (24, 27, 5))
    at_work.settle()
    mask = at_work.mask(at_work.segment)
    assert mask[5, 10:25, 8:22].all()
    assert not mask[:, :, 28:].any()
    assert isinstance(at_work.drawn(at_work.segment).slices[0].gestures[0], Box)


def test_a_negative_stroke_takes_away(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.stroke((12, 9), (23, 9), positive=False)
    mask = at_work.mask(at_work.segment)
    assert not mask[5, 12:24, 9].any()
    assert mask[5, 17, 15]


def test_a_correction_starts_from_the_logits_before_it(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.stroke((20, 12), (20, 18))
    first, second = at_work.inference.requests
    assert first.prompts.mask_input is None
    assert second.prompts.mask_input[17, 15] > 0 > second.prompts.mask_input[0, 0]


def test_what_was_painted_by_hand_is_part_of_the_next_start(at_work, box):
    at_work.stroke((17, 12), (17, 18))
    by_hand = box(((5, 6), (2, 5), (2, 6)), SHAPE)
    at_work.editor.modify(at_work.segment, by_hand, at_work.editor.logic.ModificationModeAdd)
    at_work.stroke((20, 12), (20, 18))
    prior = at_work.inference.requests[-1].prompts.mask_input
    assert (prior[2:5, 2:6] > 0).all()
    assert prior[30, 2] < 0


def test_an_existing_segment_is_where_a_first_stroke_starts_from(at_work, box):
    at_work.editor.modify(
        at_work.segment, box(((5, 6), (30, 38), (2, 6)), SHAPE), at_work.editor.logic.ModificationModeAdd
    )
    at_work.stroke((17, 12), (17, 18))
    assert (at_work.inference.requests[0].prompts.mask_input[30:38, 2:6] > 0).all()


def test_prompts_of_each_segment_and_slice_are_kept_apart(at_work):
    at_work.stroke((17, 12), (17, 18))
    other = at_work.editor.add_segment()
    at_work.show(7)
    at_work.stroke((20, 32), (20, 40))
    at_work.show(8)
    at_work.stroke((20, 32), (20, 40))
    assert len(at_work.drawn(at_work.segment).slices) == 1
    assert [s.plane.voxel_slice for s in at_work.drawn(other).slices] == [(0, 7), (0, 8)]
    assert not at_work.inference.requests[-1].prompts.mask_input
    assert np.array_equal(at_work.mask(other), only(TWO_SQUARES[1], 7) | only(TWO_SQUARES[1], 8))


# Undo ---------------------------------------------------------------------------------------------------------------


def test_twenty_gestures_undos_and_redos_restore_masks_and_prompts_to_the_bit(at_work):
    rng = np.random.default_rng(0)
    states = [at_work.state()]
    for number in range(20):
        at_work.show(int(rng.integers(3, 9)))
        j, i = rng.integers(8, 28), rng.integers(6, 40)
        at_work.stroke((j, i), (j + 3, i + 4), positive=bool(number % 3), radius=rng.uniform(0.4, 2.5))
        states.append(at_work.state())
    assert len({str(state) for state in states}) == 21
    for state in reversed(states[:-1]):
        at_work.editor.logic.Undo()
        assert at_work.state() == state
    for state in states[1:]:
        at_work.editor.logic.Redo()
        assert at_work.state() == state


def test_a_gesture_after_undo_builds_on_what_is_left(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.stroke((17, 34), (17, 38))
    at_work.editor.logic.Undo()
    at_work.stroke((12, 9), (23, 9), positive=False)
    assert np.array_equal(at_work.inference.requests[-1].prompts.mask_input > 0, only(TWO_SQUARES[0], 5)[5])
    assert len(at_work.drawn(at_work.segment).slices[0].gestures) == 2


# Results that come too late -----------------------------------------------------------------------------------------


def test_a_result_for_a_gesture_that_was_undone_is_dropped(at_work):
    before = at_work.state()
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.editor.logic.Undo()
    assert not at_work.settle().changed
    assert at_work.state() == before
    assert not at_work.controller.busy


def test_two_quick_strokes_on_one_slice_are_answered_together(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.stroke((17, 34), (17, 38), settle=False)
    assert not at_work.settle().changed
    assert not at_work.mask(at_work.segment).any()
    assert at_work.settle().changed
    mask = at_work.mask(at_work.segment)
    assert np.array_equal(mask, only(TWO_SQUARES[0], 5) | only(TWO_SQUARES[1], 5))
    assert not at_work.controller.busy


def test_two_quick_strokes_on_two_slices_are_both_answered(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.show(7)
    at_work.stroke((17, 12), (17, 18), settle=False)
    while at_work.controller.busy:
        at_work.settle()
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5) | only(TWO_SQUARES[0], 7))


@pytest.mark.parametrize("gone", ["segment", "segmentation", "scene", "volume"])
def test_a_result_for_something_that_has_gone_changes_nothing(at_work, gone):
    at_work.stroke((17, 12), (17, 18), settle=False)
    {
        "segment": lambda: at_work.editor.segmentation.RemoveSegment(at_work.segment),
        "segmentation": lambda: at_work.editor.scene.RemoveNode(at_work.editor.segmentation_node),
        "scene": lambda: at_work.editor.scene.Clear(0),
        "volume": lambda: at_work.editor.scene.RemoveNode(at_work.editor.volume),
    }[gone]()
    update = at_work.settle()
    assert not update.changed
    assert not at_work.controller.busy
    if gone == "volume":
        assert "source volume" in update.problem
        assert not at_work.mask(at_work.segment).any()
        assert not at_work.drawn(at_work.segment).is_empty


def test_a_source_volume_that_is_swapped_during_prediction_is_predicted_instead(at_work, new_volume):
    at_work.stroke((17, 12), (17, 18), settle=False)
    darker = squares()
    darker[:, 10:25, 15:22] = 0
    # In the scene of this editor, not of the fixture's.
    volume = at_work.editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volume.CopyContent(at_work.editor.volume)
    slicer_array(volume)[:] = darker
    at_work.node.SetAndObserveSourceVolumeNode(volume)
    while at_work.controller.busy:
        at_work.settle()
    mask = at_work.mask(at_work.segment)[5]
    assert mask[12, 10]
    assert not mask[12, 20]


def slicer_array(volume) -> np.ndarray:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    image = volume.GetImageData()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    image.Modified()
    return array


def test_selecting_another_segment_during_prediction_leaves_the_result_with_the_first(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    other = at_work.editor.add_segment()
    at_work.settle()
    assert at_work.mask(at_work.segment).any()
    assert not at_work.mask(other).any()


def test_forgetting_drops_what_is_under_way(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.controller.forget()
    assert not at_work.settle().changed
    assert not at_work.mask(at_work.segment).any()
    assert not at_work.drawn(at_work.segment).is_empty


def test_a_failed_prediction_is_told_and_the_stroke_is_kept_for_another_try(at_work):
    at_work.inference.error = ScribbleSegmentError("The network is on holiday.")
    at_work.stroke((17, 12), (17, 18), settle=False)
    assert at_work.settle().problem == "The network is on holiday."
    assert not at_work.mask(at_work.segment).any()
    at_work.inference.error = None
    assert at_work.controller.retry()
    at_work.settle()
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))
    assert not at_work.controller.retry()


def test_prompts_that_cannot_be_read_are_told_and_others_are_still_answered(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.show(7)
    at_work.stroke((17, 12), (17, 18), settle=False)
    at_work.editor.segment(at_work.segment).SetTag("ScribbleSegment.Prompts", "1damaged")
    problems = [at_work.settle().problem for _ in range(3)]
    assert any(problem for problem in problems)
    assert not at_work.controller.busy


# Preview, options ---------------------------------------------------------------------------------------------------


def test_without_automatic_the_result_waits_to_be_accepted(workplace):
    place = workplace(automatic=False)
    segment = place.editor.add_segment()
    place.stroke((17, 12), (17, 18))
    assert not place.mask(segment).any()
    assert place.controller.mask_of(place.controller.preview)[17, 15]
    assert place.controller.accept()
    assert np.array_equal(place.mask(segment), only(TWO_SQUARES[0], 5))
    assert not place.controller.accept()
    place.editor.logic.Undo()
    assert not place.mask(segment).any()
    assert not place.drawn(segment).is_empty
    place.editor.logic.Undo()
    assert place.drawn(segment).is_empty


def test_a_preview_of_something_undone_is_not_accepted(workplace):
    place = workplace(automatic=False)
    segment = place.editor.add_segment()
    place.stroke((17, 12), (17, 18))
    place.editor.logic.Undo()
    assert not place.controller.accept()
    assert not place.mask(segment).any()


def test_a_new_threshold_needs_no_new_prediction_and_is_one_undo_step(at_work):
    at_work.stroke((17, 12), (17, 18))
    before = at_work.state()
    for threshold in (0.6, 0.8, 0.9):
        at_work.controller.options = replace(at_work.controller.options, clean_up=CleanUp(threshold=threshold))
        at_work.controller.reapply(at_work.node, at_work.view, finished=threshold == 0.9)
    assert len(at_work.inference.requests) == 1
    assert 0 < at_work.mask(at_work.segment).sum() < only(TWO_SQUARES[0], 5).sum()
    at_work.editor.logic.Undo()
    assert at_work.state() == before


def test_reapplying_where_nothing_was_predicted_does_nothing(at_work):
    assert not at_work.controller.reapply(at_work.node, at_work.view)


def test_pieces_nobody_touched_are_left_out_unless_wanted(at_work, monkeypatch):
    import region_inference

    def everything_bright(request):
        return np.where(request.image > 100, 5.0, -5.0).astype(np.float32)

    monkeypatch.setattr(region_inference, "region_logits", everything_bright)
    at_work.stroke((17, 12), (17, 18))
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))
    at_work.controller.options = replace(at_work.controller.options, clean_up=CleanUp(keep_touched=False))
    at_work.controller.reapply(at_work.node, at_work.view)
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5) | only(TWO_SQUARES[1], 5))


# Removing prompts ---------------------------------------------------------------------------------------------------


def test_removing_a_prompt_predicts_from_the_others(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.stroke((17, 34), (17, 38))
    assert at_work.controller.remove_gesture(at_work.node, at_work.view, 0)
    at_work.settle()
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[1], 5))
    assert len(at_work.drawn(at_work.segment).slices[0].gestures) == 1


def test_removing_the_newest_prompt_returns_to_the_result_before(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.stroke((17, 34), (17, 38))
    assert at_work.controller.remove_gesture(at_work.node, at_work.view)
    at_work.settle()
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))


@pytest.mark.parametrize("index", [-2, 1, 7])
def test_a_prompt_that_is_not_there_cannot_be_removed(at_work, index):
    at_work.stroke((17, 12), (17, 18))
    before = at_work.state()
    assert not at_work.controller.remove_gesture(at_work.node, at_work.view, index)
    assert at_work.state() == before


def test_clearing_a_slice_keeps_the_segment_and_other_slices_prompts(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.show(7)
    at_work.stroke((17, 12), (17, 18))
    mask = at_work.mask(at_work.segment)
    assert at_work.controller.clear_slice(at_work.node, at_work.view)
    assert not at_work.controller.clear_slice(at_work.node, at_work.view)
    assert [s.plane.voxel_slice for s in at_work.drawn(at_work.segment).slices] == [(0, 5)]
    assert np.array_equal(at_work.mask(at_work.segment), mask)


def test_clearing_a_segment_is_undone_in_one_step(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.show(7)
    at_work.stroke((17, 12), (17, 18))
    before = at_work.state()
    assert at_work.controller.clear_segment(at_work.node)
    assert at_work.drawn(at_work.segment).is_empty
    at_work.editor.logic.Undo()
    assert at_work.state() == before


# Other segments -----------------------------------------------------------------------------------------------------


def test_a_visible_neighbour_is_protected(at_work, box):
    neighbour_mask = box(((0, 12), (10, 25), (18, 30)), SHAPE)
    neighbour = at_work.editor.add_segment(neighbour_mask)
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.node.SetOverwriteMode(at_work.node.OverwriteAllSegments)
    at_work.stroke((17, 12), (17, 14))
    assert np.array_equal(at_work.mask(neighbour), neighbour_mask)
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5) & ~neighbour_mask)


def test_a_neighbour_that_is_not_protected_is_overwritten_as_the_editor_says(at_work, box):
    at_work.controller.options = ControllerOptions(protect_visible=False)
    neighbour = at_work.editor.add_segment(box(((0, 12), (10, 25), (18, 30)), SHAPE))
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.node.SetOverwriteMode(at_work.node.OverwriteAllSegments)
    at_work.stroke((17, 12), (17, 14))
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))
    assert not at_work.mask(neighbour)[5, 10:25, 18:22].any()
    assert at_work.mask(neighbour)[4, 10:25, 18:22].all()


def test_neighbours_are_negative_prompts_only_when_wanted(at_work, box):
    at_work.editor.add_segment(box(((0, 12), (2, 38), (26, 48)), SHAPE))
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.stroke((17, 12), (17, 14))
    assert not at_work.inference.requests[-1].prompts.scribbles[1].any()
    at_work.controller.options = ControllerOptions(learn_from_others=True)
    at_work.stroke((20, 12), (20, 14))
    assert at_work.inference.requests[-1].prompts.scribbles[1].any()


# What cannot be segmented -------------------------------------------------------------------------------------------


def test_without_a_source_volume_the_user_is_told_to_choose_one(at_work):
    at_work.node.SetAndObserveSourceVolumeNode(None)
    with pytest.raises(ImageError, match="source volume"):
        at_work.stroke((17, 12), (17, 18))
    assert at_work.drawn(at_work.segment).is_empty


def test_without_a_segment_the_user_is_told_to_add_one(workplace):
    place = workplace()
    with pytest.raises(PromptError, match="Add"):
        place.stroke((17, 12), (17, 18))


def test_without_a_segmentation_the_user_is_told_to_choose_one(at_work):
    at_work.node.SetAndObserveSegmentationNode(None)
    with pytest.raises(PromptError, match="segmentation"):
        at_work.stroke((17, 12), (17, 18))


def test_without_an_editor_node_the_user_is_told_to_choose_a_segmentation(at_work):
    with pytest.raises(PromptError, match="segmentation"):
        at_work.controller.target(None)


def test_a_stroke_beside_the_volume_is_refused_and_changes_nothing(at_work):
    before = at_work.state()
    at_work.show(40)
    with pytest.raises(GeometryError, match="does not cut"):
        at_work.stroke((17, 12), (17, 18))
    at_work.show(5)
    with pytest.raises(PromptError, match="outside"):
        at_work.stroke((217, 12), (217, 18))
    assert at_work.state() == before
    assert not at_work.editor.logic.CanUndo()


def test_a_segmentation_under_a_non_linear_transform_is_refused(at_work):
    transform = at_work.editor.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    at_work.editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(GeometryError, match=r"[Hh]arden"):
        at_work.stroke((17, 12), (17, 18))


def test_only_negative_strokes_are_kept_and_explained(at_work):
    at_work.inference.error = PromptError("All prompts are negative.")
    at_work.stroke((17, 12), (17, 18), positive=False, settle=False)
    assert at_work.settle().problem == "All prompts are negative."
    assert isinstance(at_work.drawn(at_work.segment).slices[0].gestures[0], Stroke)


def test_a_volume_of_one_slice_is_segmented(workplace):
    place = workplace(array=squares()[:1])
    segment = place.editor.add_segment()
    place.show(0)
    place.stroke((17, 12), (17, 18))
    assert np.array_equal(place.mask(segment), only(TWO_SQUARES[0], 0)[:1])


def test_colours_are_segmented_by_their_brightness(new_editor):
    colours = np.stack([squares(), squares(), squares()], axis=-1).astype(np.uint8)
    place = Workplace(new_editor(colours, np.eye(4), kind="vtkMRMLVectorVolumeNode"))
    segment = place.editor.add_segment()
    place.stroke((17, 12), (17, 18))
    assert np.array_equal(place.mask(segment), only(TWO_SQUARES[0], 5))


def test_a_segmentation_without_reference_geometry_takes_that_of_the_volume(at_work):
    at_work.editor.segmentation.SetConversionParameter("Reference image geometry", "")
    at_work.stroke((17, 12), (17, 18))
    assert np.array_equal(at_work.mask(at_work.segment), only(TWO_SQUARES[0], 5))


# Accepted slices ----------------------------------------------------------------------------------------------------


def test_a_slice_is_accepted_with_its_result_and_no_longer_after_undo(at_work):
    at_work.stroke((17, 12), (17, 18), settle=False)
    assert at_work.accepted(at_work.segment) == ((), (), ())
    at_work.settle()
    at_work.show(7)
    at_work.stroke((17, 12), (17, 18))
    assert at_work.accepted(at_work.segment) == ((5, 7), (), ())
    at_work.editor.logic.Undo()
    assert at_work.accepted(at_work.segment) == ((5,), (), ())
    at_work.editor.logic.Redo()
    assert at_work.accepted(at_work.segment) == ((5, 7), (), ())


def test_a_preview_is_accepted_with_its_slice(workplace):
    place = workplace(automatic=False)
    segment = place.editor.add_segment()
    place.stroke((17, 12), (17, 18))
    assert place.accepted(segment) == ((), (), ())
    place.controller.accept_slice(place.node, place.view)
    assert place.accepted(segment) == ((5,), (), ())
    assert np.array_equal(place.mask(segment), only(TWO_SQUARES[0], 5))
    assert place.finished == [(segment, 0, 5)]
    place.editor.logic.Undo()
    assert place.accepted(segment) == ((), (), ())
    assert not place.mask(segment).any()


def test_a_slice_that_was_segmented_by_other_means_is_accepted_as_it_is(at_work, box):
    by_hand = box(((5, 6), (2, 5), (2, 6)), SHAPE)
    at_work.editor.modify(at_work.segment, by_hand, at_work.editor.logic.ModificationModeAdd)
    at_work.controller.accept_slice(at_work.node, at_work.view)
    assert at_work.accepted(at_work.segment) == ((5,), (), ())
    assert np.array_equal(at_work.mask(at_work.segment), by_hand)
    assert at_work.controller.take_back_slice(at_work.node, at_work.view)
    assert not at_work.controller.take_back_slice(at_work.node, at_work.view)
    assert at_work.accepted(at_work.segment) == ((), (), ())


def test_a_new_threshold_does_not_accept_a_slice_that_was_taken_back(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.controller.take_back_slice(at_work.node, at_work.view)
    at_work.controller.options = replace(at_work.controller.options, clean_up=CleanUp(threshold=0.9))
    at_work.controller.reapply(at_work.node, at_work.view)
    assert at_work.accepted(at_work.segment) == ((), (), ())


# Context ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_context(at_work, monkeypatch):
    """Slice 2 is an example of the first square; predictions find all that is bright."""
    import region_inference

    def everything_bright(request):
        return np.where(request.image > 100, 5.0, -5.0).astype(np.float32)

    monkeypatch.setattr(region_inference, "region_logits", everything_bright)
    at_work.show(2)
    at_work.editor.modify(at_work.segment, only(TWO_SQUARES[0], 2), at_work.editor.logic.ModificationModeAdd)
    entry = context_entry(*at_work.controller.place(at_work.node, at_work.view))
    at_work.context = ContextSet("square", (entry,))
    at_work.show(5)
    at_work.editor.logic.ClearUndoState()
    return at_work


def test_predictions_are_given_the_context_of_their_segment_and_where_they_are(in_context):
    in_context.stroke((17, 12), (17, 18))
    context = in_context.inference.requests[0].context
    assert context.entries is in_context.context
    assert (context.axis, context.index) == (0, 5)
    assert context.entries.entries[0].source == context.source


def test_without_a_context_set_there_is_none(at_work):
    at_work.stroke((17, 12), (17, 18))
    assert at_work.inference.requests[0].context is None


def test_a_slice_is_predicted_from_the_context_alone_as_one_undo_step(in_context):
    before = in_context.state()
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    assert in_context.settle().changed
    (request,) = in_context.inference.requests
    assert request.prompts.is_empty
    assert request.prompts.mask_input is None
    # Also pieces that nobody has touched.
    assert in_context.mask(in_context.segment)[5, 10:25, 8:22].all()
    assert in_context.mask(in_context.segment)[5, 15:30, 30:42].all()
    assert in_context.drawn(in_context.segment).is_empty
    in_context.editor.logic.Undo()
    assert in_context.state() == before
    assert not in_context.editor.logic.CanUndo()


def test_what_is_in_the_slice_already_does_not_lead_a_prediction_from_the_context(in_context, box):
    in_context.editor.modify(
        in_context.segment, box(((5, 6), (2, 5), (2, 6)), SHAPE), in_context.editor.logic.ModificationModeAdd
    )
    for _ in range(2):
        in_context.controller.predict_in_context(in_context.node, in_context.view)
        in_context.settle()
    assert all(request.prompts.mask_input is None for request in in_context.inference.requests)
    assert not in_context.mask(in_context.segment)[5, 2:5, 2:6].any()


def test_a_slice_predicted_from_the_context_is_accepted_only_when_the_user_says_so(in_context):
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    in_context.settle()
    assert in_context.accepted(in_context.segment) == ((), (), ())
    in_context.controller.accept_slice(in_context.node, in_context.view)
    assert in_context.accepted(in_context.segment) == ((5,), (), ())


def test_a_stroke_corrects_what_came_from_the_context(in_context):
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    in_context.settle()
    in_context.stroke((12, 9), (23, 9), positive=False)
    assert in_context.inference.requests[1].prompts.mask_input[17, 15] == 5.0
    assert in_context.accepted(in_context.segment) == ((5,), (), ())


def test_where_something_was_drawn_it_counts_besides_the_context(in_context):
    in_context.stroke((17, 12), (17, 18))
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    in_context.settle()
    assert in_context.inference.requests[1].prompts.scribbles[0].any()


def test_a_threshold_changes_what_came_from_the_context_unless_it_was_undone(in_context):
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    in_context.settle()
    in_context.controller.options = replace(in_context.controller.options, clean_up=CleanUp(smallest_island_mm2=200.0))
    assert in_context.controller.reapply(in_context.node, in_context.view)
    assert not in_context.mask(in_context.segment)[5, :, 30:].any()
    in_context.editor.logic.Undo()
    in_context.editor.logic.Undo()
    before = in_context.state()
    assert not in_context.controller.reapply(in_context.node, in_context.view)
    assert in_context.state() == before


def test_a_preview_from_the_context_waits_to_be_accepted(in_context):
    in_context.controller.options = ControllerOptions(automatic=False)
    in_context.controller.predict_in_context(in_context.node, in_context.view)
    in_context.settle()
    assert not in_context.mask(in_context.segment)[5].any()
    assert in_context.controller.result_on(*in_context.controller.place(in_context.node, in_context.view)) is not None
    in_context.controller.accept_slice(in_context.node, in_context.view)
    assert in_context.mask(in_context.segment)[5, 10:25, 8:22].all()
    assert in_context.accepted(in_context.segment) == ((5,), (), ())


def test_without_a_context_nothing_can_be_predicted_from_it(at_work):
    with pytest.raises(PromptError, match="no context"):
        at_work.controller.predict_in_context(at_work.node, at_work.view)


def test_a_finished_slice_is_told_when_the_user_goes_on(at_work):
    at_work.stroke((17, 12), (17, 18))
    at_work.controller.acceptance.slice_viewed(*at_work.controller.place(at_work.node, at_work.view))
    assert at_work.finished == []
    at_work.show(6)
    at_work.controller.acceptance.slice_viewed(*at_work.controller.place(at_work.node, at_work.view))
    assert at_work.finished == [(at_work.segment, 0, 5)]
