"""Draw, predict, preview, write, accept: what a user of the effect sees, with predictions that come when told to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import region_inference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_inference import RegionInference
from scipy import ndimage

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box, Click, Lasso, Stroke
from scribblesegment.data.masks import CleanUp
from scribblesegment.errors import FileFormatError, GeometryError, ImageError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter
from scribblesegment.mrml.tags import ACCEPTED_TAG, TAG, accepted_text, read_accepted, read_drawing
from scribblesegment.mrml.target import context_entry

SHAPE = (12, 40, 50)
LEFT, RIGHT = (slice(None), slice(10, 25), slice(8, 22)), (slice(None), slice(15, 30), slice(30, 42))
REGION_LOGITS = region_inference.region_logits
ON_LEFT, ON_RIGHT = ((17, 12), (17, 18)), ((17, 34), (17, 38))  # ends (j, i) of strokes


def squares() -> np.ndarray:
    """Two bright blocks through all slices, on dark ground."""
    array = np.zeros(SHAPE, np.int16)
    array[LEFT] = array[RIGHT] = 200
    return array


def only(square, *slices) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[list(slices)] = True
    inside = np.zeros(SHAPE, bool)
    inside[square] = True
    return mask & inside


def everything_bright(request):
    return np.where(request.image > 100, 5.0, -5.0).astype(np.float32)


def nearer_to_its_strokes(request):
    """All that is bright, the surer the nearer to what was painted."""
    distance = ndimage.distance_transform_edt(request.prompts.scribbles[0] == 0)
    return np.where(request.image > 100, 5.0 - 0.1 * distance, -5.0).astype(np.float32)


def going_on(request):
    """All that was there before, and what is touched, less what was drawn negative; changed as strokes ask for."""
    logits, former = REGION_LOGITS(request), request.prompts.mask_input
    if former is None:
        if not request.prompts.has_positive:
            raise PromptError("Only background is marked.")
        return logits
    logits = np.maximum(logits, np.where(request.prompts.scribbles[1] > 0, -6.0, former))
    if request.newest is not None:
        logits = (np.maximum if request.newest else np.minimum)(logits, former)
    return logits.astype(np.float32)


class Workplace:
    """A user with an editor, an axial view of slice 5, and a selected empty segment."""

    def __init__(self, editor, **options) -> None:
        self.editor, self.node, self.undo = editor, editor.node, editor.logic.Undo
        self.inference, self.context, self.finished = RegionInference(), None, []
        self.segmenter = SliceSegmenter(
            self.inference,
            save_state=editor.logic.SaveStateForUndo,
            options=SegmenterOptions(**options),
            context_of=lambda target: self.context,
            on_finished=lambda target, plane: self.finished.append((target.segment_id, *plane.voxel_slice)),
        )
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(editor.scene)
        self.view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
        self.view.SetOrientationToAxial()
        self.show(5)
        self.segment = editor.add_segment()
        self.here = self.node, self.view

    def show(self, k: int) -> None:
        self.view.JumpSliceByOffsetting(0.0, 0.0, float(k))

    def tilt(self) -> None:
        """Turn the view off the volume's axes."""
        self.view.SetSliceToRASByNTP(0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 15.0, 17.0, 5.0, 0)

    def stroke(self, first, last, *, positive=True, radius=1.0, settle=True) -> None:
        """Paint between two voxels (j, i) of the shown slice of the unit grid."""
        z = self.view.GetSliceToRAS().GetElement(2, 3)
        ends = np.array([(first[1], first[0], z), (last[1], last[0], z)], float)
        self.draw("stroke", *np.linspace(*ends, 20), positive=positive, radius=radius)
        if settle:
            self.settle()

    def draw(self, kind, *points, positive=True, radius=1.0, place=None) -> None:
        drawn = Annotation(kind, tuple(map(tuple, points)), positive)
        self.segmenter.draw(*(place or self.segmenter.place(self.node, self.view)), drawn, radius)

    def settle(self):
        self.inference.finish()
        return self.segmenter.poll()

    def settle_all(self) -> None:
        while self.segmenter.busy:
            assert self.settle().problem is None

    def by_hand(self, mask) -> None:
        self.editor.modify(self.segment, mask, self.editor.logic.ModificationModeAdd)

    def use(self, **options) -> None:
        self.segmenter.options = replace(self.segmenter.options, **options)

    def viewed(self) -> None:
        self.segmenter.slice_viewed(*self.segmenter.place(*self.here))

    def mask(self, segment_id=None):
        return self.editor.mask(segment_id or self.segment)

    def drawn(self, segment_id=None):
        return read_drawing(self.editor.segment(segment_id or self.segment))

    def accepted(self):
        """Indices of accepted slices along the first axis."""
        grid = self.segmenter.target(self.node).reference.grid
        return read_accepted(self.editor.segment(self.segment), grid).indices[0]

    def state(self):
        """Everything an undo step covers, comparable."""
        return {
            each: (
                self.editor.mask(each).tobytes(),
                self.drawn(each).to_text(),
                accepted_text(self.editor.segment(each)),
            )
            for each in self.editor.segmentation.GetSegmentIDs()
        }


@pytest.fixture
def workplace(new_editor):
    def make(array=None, kind="vtkMRMLScalarVolumeNode", **options):
        return Workplace(new_editor(squares() if array is None else array, np.eye(4), kind=kind), **options)

    return make


@pytest.fixture
def at_work(workplace):
    return workplace()


# Drawing ------------------------------------------------------------------------------------------------------------


def test_whatever_is_drawn_segments_the_object_on_the_shown_slice_and_no_other(at_work):
    at_work.stroke(*ON_LEFT)
    assert np.array_equal(at_work.mask(), only(LEFT, 5))
    at_work.draw("click", (35, 20, 5))
    at_work.settle()
    at_work.show(6)
    corners = ((11.5, 12.5, 6), (16.5, 12.5, 6), (16.5, 15.5, 6), (11.5, 15.5, 6))
    at_work.draw("lasso", *corners)
    at_work.settle()
    marked = np.zeros(SHAPE[1:], bool)
    marked[13:16, 12:17] = True
    assert np.array_equal(at_work.inference.requests[-1].prompts.scribbles, np.stack([marked, ~marked & marked]))
    assert np.array_equal(at_work.mask(), only(LEFT, 5, 6) | only(RIGHT, 5))
    at_work.show(7)
    at_work.draw("box", (6, 8, 7), (24, 27, 7))
    at_work.settle()
    assert at_work.mask()[7, 10:25, 8:22].all()
    assert not at_work.mask()[7, :, 28:].any()
    first, second, third = at_work.drawn().slices
    assert isinstance(first.gestures[0], Stroke)
    assert first.gestures[1] == Click((35, 20, 5))
    assert second.gestures == (Lasso(corners),)
    assert isinstance(third.gestures[0], Box)


def test_a_stroke_belongs_to_the_slice_and_the_segment_it_began_in(at_work):
    began = at_work.segmenter.place(*at_work.here)
    at_work.segmenter.expect(*began)
    at_work.show(8)
    other = at_work.editor.add_segment()
    at_work.draw("stroke", (12, 17, 5), (18, 17, 8), place=began)
    at_work.segmenter.expect(*began)  # not while something is under way
    at_work.settle()
    asked, expected = at_work.inference.requests, at_work.inference.expected
    assert [one.image_token for one in expected] == [one.image_token for one in asked]
    assert np.array_equal(at_work.mask(), only(LEFT, 5))
    assert not at_work.mask(other).any()
    at_work.editor.segmentation.RemoveSegment(at_work.segment)
    with pytest.raises(PromptError, match="removed"):
        at_work.draw("click", (12, 17, 5), place=began)


def test_a_prediction_starts_from_the_logits_before_it_and_from_what_was_painted_by_hand(at_work, box):
    by_hand = box(((5, 6), (2, 5), (2, 6)), SHAPE)
    at_work.stroke(*ON_LEFT)
    at_work.by_hand(by_hand)
    at_work.stroke((12, 9), (23, 9), positive=False)
    first, second = (request.prompts.mask_input for request in at_work.inference.requests)
    assert first is None
    assert np.array_equal(second > 0, (only(LEFT, 5) | by_hand)[5])
    assert second[17, 15] == region_inference.region_logits(at_work.inference.requests[0])[17, 15]
    assert not at_work.mask()[5, 12:24, 9].any()
    assert at_work.mask()[5, 17, 15]
    at_work.show(6)
    at_work.by_hand(np.roll(by_hand, 1, axis=0))
    at_work.stroke(*ON_LEFT)
    prior = at_work.inference.requests[2].prompts.mask_input
    assert np.array_equal(prior > 0, by_hand[5])
    assert (np.abs(prior) > 2).all(), "as sure as a network"


def test_a_stroke_on_top_of_an_answer_changes_it_in_its_direction_alone(at_work):
    at_work.stroke(*ON_LEFT)
    at_work.stroke(*ON_RIGHT)
    at_work.stroke((12, 9), (23, 9), positive=False)
    at_work.draw("box", (8, 10, 5), (20, 22, 5))
    at_work.settle()
    at_work.segmenter.remove_gesture(*at_work.here)
    at_work.settle()
    at_work.show(6)
    at_work.by_hand(only(LEFT, 6))
    at_work.stroke(*ON_LEFT, positive=False)
    # Not in the first answer to a slice, nor after a box; taking the box back asks for the answer before it again.
    assert [request.newest for request in at_work.inference.requests] == [None, True, False, None, False, None]


@pytest.mark.parametrize("kind", ["one slice", "colours, NaN at the border"])
def test_unusual_volumes_are_segmented_with_one_prediction(workplace, kind):
    if kind == "one slice":
        place = workplace(squares()[:1])
        place.show(0)
    else:
        array = squares().astype(np.float32)
        array[:, :6] = array[:, -6:] = np.nan
        place = workplace(np.stack([array] * 3, axis=-1), "vtkMRMLVectorVolumeNode")
    place.stroke(*ON_LEFT)
    place.settle()
    assert len(place.inference.requests) == 1
    assert np.array_equal(place.mask(), only(LEFT, 0 if kind == "one slice" else 5)[: len(place.mask())])


# Undo ---------------------------------------------------------------------------------------------------------------


def test_twenty_gestures_undos_and_redos_restore_masks_and_prompts_to_the_bit(at_work):
    rng, states, logic = np.random.default_rng(0), [at_work.state()], at_work.editor.logic
    for number in range(20):
        at_work.show(int(rng.integers(3, 9)))
        j, i = rng.integers(8, 28), rng.integers(6, 40)
        at_work.stroke((j, i), (j + 3, i + 4), positive=bool(number % 3), radius=rng.uniform(0.4, 2.5))
        states.append(at_work.state())
        assert at_work.accepted() == tuple(sorted({drawn.plane.voxel_slice[1] for drawn in at_work.drawn().slices}))
    assert len({str(state) for state in states}) == 21
    for step, expected in ((logic.Undo, states[-2::-1]), (logic.Redo, states[1:])):
        for state in expected:
            step()
            assert at_work.state() == state


# Results in any order -----------------------------------------------------------------------------------------------


def test_the_newest_of_the_waiting_slices_comes_first_and_one_at_a_time(at_work):
    for k in (3, 4, 5, 4, 6):
        at_work.show(k)
        at_work.stroke(*ON_LEFT, settle=False)
    assert len(at_work.inference.requests) == 1
    while at_work.segmenter.busy:
        at_work.settle()
    assert [request.image_token[-1] for request in at_work.inference.requests] == [3, 6, 4, 5]
    assert np.array_equal(at_work.mask(), only(LEFT, 3, 4, 5, 6))
    assert at_work.inference.requests[2].prompts.scribbles[0].any()


actions = st.one_of(
    st.tuples(st.just("stroke"), st.integers(2, 5)),
    st.tuples(st.sampled_from(["remove", "clear"]), st.integers(2, 5)),
    st.tuples(st.sampled_from(["finish", "poll", "end"]), st.just(5)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(actions, max_size=20))
def test_whatever_happens_in_between_every_slice_gets_the_answer_to_what_is_drawn_on_it(workplace, sequence):
    place = workplace()
    for action, k in sequence:
        place.show(k)
        if action == "stroke":
            place.stroke(*(ON_LEFT if len(place.inference.requests) % 2 else ON_RIGHT), settle=False)
        elif action == "remove":
            place.segmenter.remove_gesture(*place.here)
        elif action == "clear":
            place.segmenter.clear_slice(*place.here)
        elif action == "finish":
            place.inference.finish()
        elif action == "end":
            place.inference.end()
        else:
            assert place.segmenter.poll().problem is None
    for _ in range(2 * len(sequence) + 2):
        place.settle()
    assert not place.segmenter.busy
    target = place.segmenter.target(place.node)
    for drawn in place.drawn().slices:
        result = place.segmenter.result_on(target, drawn.plane)
        assert result.gestures == drawn.gestures
        k = drawn.plane.voxel_slice[1]
        assert np.array_equal(place.mask()[k], place.segmenter.mask_of(result))


@pytest.mark.parametrize("gone", ["gesture", "segment", "segmentation", "scene", "volume"])
def test_a_result_for_something_that_has_gone_changes_nothing(at_work, gone):
    editor, before = at_work.editor, at_work.state()
    at_work.stroke(*ON_LEFT, settle=False)
    {
        "gesture": at_work.undo,
        "segment": lambda: editor.segmentation.RemoveSegment(at_work.segment),
        "segmentation": lambda: editor.scene.RemoveNode(editor.segmentation_node),
        "scene": lambda: editor.scene.Clear(0),
        "volume": lambda: editor.scene.RemoveNode(editor.volume),
    }[gone]()
    update = at_work.settle()
    assert not update.changed
    assert not at_work.segmenter.busy
    if gone == "gesture":
        assert at_work.state() == before
    if gone == "volume":
        assert "source volume" in update.problem
        assert not at_work.mask().any()
        assert not at_work.drawn().is_empty


def test_a_source_volume_that_is_swapped_during_prediction_is_predicted_instead(at_work):
    at_work.stroke(*ON_LEFT, settle=False)
    volume = at_work.editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volume.CopyContent(at_work.editor.volume)
    darker = squares()
    darker[:, 10:25, 15:22] = 0
    vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())[:] = darker.ravel()
    volume.GetImageData().Modified()
    at_work.node.SetAndObserveSourceVolumeNode(volume)
    while at_work.segmenter.busy:
        at_work.settle()
    assert at_work.mask()[5, 12, 10]
    assert not at_work.mask()[5, 12, 20]


def test_segments_keep_their_prompts_and_results_apart_and_a_reset_drops_what_is_under_way(at_work):
    at_work.stroke(*ON_LEFT, settle=False)
    first, at_work.segment = at_work.segment, at_work.editor.add_segment()
    at_work.settle()
    assert np.array_equal(at_work.mask(first), only(LEFT, 5))
    for k in (7, 8):
        at_work.show(k)
        at_work.stroke(*ON_RIGHT)
        assert at_work.inference.requests[-1].prompts.mask_input is None
    assert [drawn.plane.voxel_slice for drawn in at_work.drawn(first).slices] == [(0, 5)]
    assert [drawn.plane.voxel_slice for drawn in at_work.drawn().slices] == [(0, 7), (0, 8)]
    at_work.stroke(*ON_LEFT, settle=False)
    at_work.segmenter.reset()
    assert not at_work.segmenter.busy
    assert not at_work.settle().changed
    assert np.array_equal(at_work.mask(), only(RIGHT, 7, 8))


def test_what_is_under_way_when_the_user_leaves_is_answered_on_return_as_a_step_of_its_own(at_work, box):
    by_hand = box(((8, 9), (2, 5), (2, 6)), SHAPE)
    at_work.stroke(*ON_LEFT, settle=False)
    at_work.segmenter.leave()
    at_work.inference.end()
    at_work.editor.logic.SaveStateForUndo()
    at_work.by_hand(by_hand)  # with another effect
    at_work.segmenter.poll()
    assert at_work.settle().changed
    assert np.array_equal(at_work.mask(), only(LEFT, 5) | by_hand)
    at_work.undo()
    assert np.array_equal(at_work.mask(), by_hand)


def test_a_failed_prediction_is_told_and_the_stroke_is_kept_for_another_try(at_work):
    at_work.inference.error = ScribbleSegmentError("The network is on holiday.")
    at_work.stroke(*ON_LEFT, settle=False)
    assert at_work.settle().problem == "The network is on holiday."
    assert not at_work.segmenter.busy
    at_work.inference.error = None
    assert at_work.segmenter.retry()
    at_work.settle()
    assert np.array_equal(at_work.mask(), only(LEFT, 5))
    assert not at_work.segmenter.retry()
    for k in (5, 7):
        at_work.show(k)
        at_work.stroke(*ON_LEFT, settle=False)
    at_work.editor.segment(at_work.segment).SetTag(TAG, "1damaged")
    assert any([at_work.settle().problem for _ in range(3)])
    assert not at_work.segmenter.busy


# Previews, options --------------------------------------------------------------------------------------------------


def test_without_automatic_the_result_waits_to_be_accepted_unless_it_is_undone(workplace):
    place = workplace(automatic=False)
    place.stroke(*ON_LEFT)
    assert not place.mask().any()
    assert place.segmenter.mask_of(place.segmenter.preview)[17, 15]
    assert place.segmenter.accept()
    assert np.array_equal(place.mask(), only(LEFT, 5))
    assert not place.segmenter.accept()
    place.undo()
    assert not place.mask().any()
    assert not place.drawn().is_empty
    place.undo()
    assert place.drawn().is_empty
    place.stroke(*ON_LEFT)
    place.undo()
    assert not place.segmenter.accept()
    assert place.accepted() == ()
    place.stroke(*ON_LEFT)
    place.segmenter.accept_slice(*place.here)  # with its slice
    assert place.accepted() == (5,)
    assert np.array_equal(place.mask(), only(LEFT, 5))
    assert place.finished == [(place.segment, 0, 5)]


def test_a_preview_is_written_where_it_was_made_for_and_leaves_what_was_painted_meanwhile(workplace, box):
    place, by_hand = workplace(automatic=False), box(((5, 6), (2, 5), (2, 6)), SHAPE)
    place.stroke(*ON_LEFT)
    preview = place.segmenter.preview
    place.by_hand(by_hand | only(RIGHT, 7))
    place.show(7)
    place.segmenter.accept_slice(*place.here)
    assert (place.accepted(), place.segmenter.preview) == ((7,), preview)
    place.show(5)
    place.segmenter.accept_slice(*place.here)
    assert place.accepted() == (5, 7)
    assert np.array_equal(place.mask(), by_hand | only(LEFT, 5) | only(RIGHT, 7))


def test_a_preview_of_another_image_is_made_anew(workplace):
    place = workplace(automatic=False)
    place.stroke(*ON_LEFT)
    slicer.util.updateVolumeFromArray(place.editor.volume, 0 * squares())
    before = place.state()
    assert not place.segmenter.accept()
    assert place.state() == before
    place.settle()
    assert place.segmenter.preview is not None
    assert not place.inference.requests[-1].image.any()


def test_a_slider_moved_on_one_slice_leaves_the_preview_of_another(workplace):
    place = workplace(automatic=False)
    place.stroke(*ON_LEFT)
    place.segmenter.accept()
    place.show(7)
    place.stroke(*ON_LEFT)
    preview, before = place.segmenter.preview, place.mask()
    place.show(5)
    place.use(clean_up=CleanUp(threshold=0.9))
    assert place.segmenter.reapply(*place.here)
    assert place.segmenter.preview is preview
    assert place.mask()[5].sum() < before[5].sum()


def test_a_new_threshold_needs_no_new_prediction_is_one_undo_step_and_accepts_nothing(at_work):
    assert not at_work.segmenter.reapply(*at_work.here)
    at_work.stroke(*ON_LEFT)
    at_work.segmenter.take_back_slice(*at_work.here)
    before = at_work.state()
    for threshold in (0.6, 0.8, 0.9):
        at_work.use(clean_up=CleanUp(threshold=threshold))
        at_work.segmenter.reapply(*at_work.here, finished=threshold == 0.9)
    assert len(at_work.inference.requests) == 1
    assert 0 < at_work.mask().sum() < only(LEFT, 5).sum()
    assert at_work.accepted() == ()
    at_work.undo()
    assert at_work.state() == before


def test_options_work_on_slices_of_an_earlier_session_and_leave_what_was_edited_by_hand(at_work, box):
    at_work.stroke(*ON_LEFT)
    at_work.segmenter.reset()  # as after loading a scene
    before = at_work.state()
    at_work.segmenter.look(*at_work.segmenter.place(*at_work.here))
    assert at_work.settle().changed
    assert at_work.state() == before
    assert at_work.segmenter.result_on(*at_work.segmenter.place(*at_work.here)) is not None
    at_work.segmenter.reset()
    at_work.use(clean_up=CleanUp(threshold=0.9))
    for finished in (False, True):
        assert not at_work.segmenter.reapply(*at_work.here, finished=finished)
    at_work.settle()
    assert 0 < at_work.mask().sum() < only(LEFT, 5).sum()
    by_hand = box(((5, 6), (2, 5), (2, 6)), SHAPE)
    at_work.by_hand(by_hand)
    at_work.use(clean_up=CleanUp(threshold=0.5))
    at_work.segmenter.reapply(*at_work.here)
    assert np.array_equal(at_work.mask(), only(LEFT, 5) | by_hand)


def test_looking_at_probabilities_leaves_what_was_painted_to_the_next_stroke(at_work, monkeypatch, box):
    monkeypatch.setattr(region_inference, "region_logits", going_on)
    at_work.use(clean_up=CleanUp(keep_touched=False))
    at_work.stroke(*ON_LEFT)
    at_work.by_hand(box(((5, 6), (2, 5), (2, 6)), SHAPE))
    erased = box(((5, 6), (20, 24), (9, 20)), SHAPE)
    at_work.editor.modify(at_work.segment, erased, at_work.editor.logic.ModificationModeRemove)
    expected = at_work.mask()
    at_work.segmenter.reset()  # as after loading a scene
    at_work.segmenter.look(*at_work.segmenter.place(*at_work.here))
    at_work.settle()
    at_work.stroke((12, 9), (14, 9), positive=False)
    expected[5, 11:16, 8:11] = at_work.mask()[5, 11:16, 8:11]  # around the stroke
    assert np.array_equal(at_work.mask(), expected)


@pytest.mark.parametrize(
    "draw",
    [
        lambda place: place.draw("click", (2, 2, 5), positive=False),
        lambda place: place.stroke(*ON_LEFT, settle=False),
        lambda place: place.draw("click", (15, 17, 5)),
        lambda place: place.draw("box", (6, 8, 5), (24, 27, 5)),
    ],
    ids=["a click beside what is there", "stroke", "click", "box"],
)
def test_pieces_nobody_touched_are_left_out_unless_wanted(at_work, monkeypatch, request, draw):
    monkeypatch.setattr(region_inference, "region_logits", everything_bright)
    if "beside" in request.node.callspec.id:
        at_work.by_hand(only(LEFT, 5))
    draw(at_work)
    at_work.settle()
    assert np.array_equal(at_work.mask(), only(LEFT, 5))
    at_work.use(clean_up=CleanUp(keep_touched=False))
    at_work.segmenter.reapply(*at_work.here)
    assert np.array_equal(at_work.mask(), only(LEFT, 5) | only(RIGHT, 5))


# Predicting again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_predicting_again_is_one_undo_step_that_brings_back_what_was_painted(at_work, box, together):
    at_work.stroke(*ON_LEFT)
    if together:
        at_work.segment = at_work.editor.add_segment()
        at_work.stroke(*ON_RIGHT)
    at_work.editor.logic.SaveStateForUndo()
    at_work.by_hand(box(((5, 6), (2, 5), (2, 6)), SHAPE))
    at_work.use(together=together, clean_up=CleanUp(threshold=0.9))
    before = at_work.state()
    at_work.segmenter.predict(*at_work.here)
    at_work.settle_all()
    assert all(at_work.state()[one] != before[one] for one in before)
    at_work.undo()
    assert at_work.state() == before


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("again", ["predict", "remove", "another segment"])
def test_the_same_strokes_give_the_same_answer_again(at_work, monkeypatch, box, positive, again):
    monkeypatch.setattr(region_inference, "region_logits", going_on)
    at_work.use(clean_up=CleanUp(keep_touched=False), together=True)
    first, by_hand = at_work.segment, box(((5, 6), (3, 30), (5, 28)), SHAPE)
    at_work.by_hand(by_hand)  # or by propagation
    at_work.stroke((25, 10), (28, 10), positive=positive)
    answer = at_work.mask()
    assert np.array_equal(answer | by_hand, by_hand)
    if again == "predict":
        at_work.segmenter.predict(*at_work.here)
        assert at_work.settle().changed  # the same result is news
    elif again == "remove":
        at_work.stroke((8, 10), (12, 10), positive=False)
        assert not np.array_equal(at_work.mask(), answer)
        at_work.segmenter.remove_gesture(*at_work.here)
    else:
        at_work.segment = at_work.editor.add_segment()
        at_work.stroke(*ON_RIGHT, settle=False)
    at_work.settle_all()
    assert np.array_equal(at_work.mask(first), answer)


def test_another_network_is_not_held_to_what_the_one_before_made_of_the_strokes(at_work):
    at_work.stroke(*ON_LEFT)
    at_work.stroke((20, 12), (20, 18))
    for model, newest in (("one", True), ("two", None)):
        at_work.inference.model = model
        at_work.segmenter.predict(*at_work.here)
        at_work.settle()
        assert at_work.inference.requests[-1].newest is newest


def test_a_preview_of_segments_together_is_that_of_the_one_drawn_in(workplace):
    place = workplace(together=True, automatic=False)
    for ends in (ON_LEFT, ON_RIGHT):
        place.segment = place.editor.add_segment()
        place.stroke(*ends, settle=False)
        place.settle_all()
    assert place.segmenter.preview.target.segment_id == place.segment
    place.segmenter.accept_slice(*place.here)
    assert place.mask()[5, 17, 36]
    assert place.accepted() == (5,)


def test_what_was_drawn_for_others_since_may_take_away_although_the_stroke_includes(at_work):
    at_work.stroke(*ON_LEFT)
    first, at_work.segment = at_work.segment, at_work.editor.add_segment()
    at_work.stroke(*ON_RIGHT)
    at_work.use(together=True)
    at_work.node.SetSelectedSegmentID(first)
    for _ in range(2):
        at_work.stroke((20, 12), (20, 18), settle=False)
        at_work.settle_all()
    ours = [one.newest for one in at_work.inference.requests if one.prompts.scribbles[0, 17, 15] == 1]
    assert ours == [None, None, True]


# Removing prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "left"), [(0, RIGHT), (-1, LEFT), (1, LEFT), (-2, RIGHT)])
def test_removing_a_prompt_predicts_from_the_others(at_work, index, left):
    at_work.stroke(*ON_LEFT)
    at_work.stroke(*ON_RIGHT)
    for beyond in (-3, 2):
        assert not at_work.segmenter.remove_gesture(*at_work.here, beyond)
    assert at_work.segmenter.remove_gesture(*at_work.here, index)
    at_work.settle()
    assert np.array_equal(at_work.mask(), only(left, 5))
    assert len(at_work.drawn().slices[0].gestures) == 1
    assert at_work.segmenter.remove_gesture(*at_work.here)
    assert at_work.drawn().is_empty


def test_clearing_keeps_the_segment_and_is_one_undo_step(at_work):
    assert not at_work.segmenter.clear_segment(at_work.node)
    for k in (5, 7):
        at_work.show(k)
        at_work.stroke(*ON_LEFT)
    before = at_work.state()
    assert at_work.segmenter.clear_slice(*at_work.here)
    assert not at_work.segmenter.clear_slice(*at_work.here)
    assert not at_work.segmenter.predict(*at_work.here)
    assert [drawn.plane.voxel_slice for drawn in at_work.drawn().slices] == [(0, 5)]
    at_work.undo()
    assert at_work.state() == before
    assert at_work.segmenter.clear_segment(at_work.node)
    assert at_work.drawn().is_empty
    assert np.array_equal(at_work.mask(), only(LEFT, 5, 7))
    at_work.undo()
    assert at_work.state() == before
    assert at_work.segmenter.predict(*at_work.here)


# Other segments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("protect", ["all", "visible", "none"])
def test_neighbours_are_protected_and_visible_ones_negative_prompts_when_wanted(at_work, box, protect, hidden):
    neighbour_mask = box(((0, 12), (10, 25), (18, 30)), SHAPE)
    neighbour = at_work.editor.add_segment(neighbour_mask)
    at_work.editor.segmentation_node.GetDisplayNode().SetSegmentVisibility(neighbour, not hidden)
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.node.SetOverwriteMode(at_work.node.OverwriteAllSegments)
    at_work.use(protect=protect, learn_from_others=True)
    kept = protect == "all" or (protect == "visible" and not hidden)
    for _ in range(2):
        at_work.stroke((17, 12), (17, 14))
        found = only(LEFT, 5)
        if not hidden:
            assert at_work.inference.requests[-1].prompts.scribbles[1].any()
            found &= at_work.mask() | neighbour_mask  # not where it was marked as background
        assert np.array_equal(at_work.mask() & neighbour_mask, found & neighbour_mask & (not kept) & at_work.mask())
        assert np.array_equal(at_work.editor.mask(neighbour), neighbour_mask & ~at_work.mask())
        assert (at_work.mask() & neighbour_mask).any() == (not kept)
    # What the writer kept from changing does not count as edited by hand.
    assert at_work.inference.requests[-1].prompts.mask_input[17, 18] > 0


def test_a_slice_where_nothing_may_be_written_is_told_and_not_accepted(at_work):
    area = at_work.editor.add_segment()
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.node.SetMaskMode(at_work.editor.segmentation_node.EditAllowedInsideSingleSegment)
    at_work.node.SetMaskSegmentID(area)
    at_work.stroke(*ON_LEFT, settle=False)
    assert "Change the Segment Editor's masking settings" in at_work.settle().problem
    assert not at_work.mask().any()
    assert not at_work.accepted()
    at_work.node.SetMaskMode(at_work.editor.segmentation_node.EditAllowedEverywhere)
    assert at_work.segmenter.predict(*at_work.here)
    assert at_work.settle().problem is None
    assert (list(at_work.accepted()), at_work.mask().any()) == ([5], True)


def test_segments_drawn_on_one_slice_are_answered_together_and_share_no_pixel(at_work, monkeypatch):
    monkeypatch.setattr(region_inference, "region_logits", nearer_to_its_strokes)
    at_work.use(together=True, clean_up=CleanUp(keep_touched=False))
    at_work.stroke(*ON_LEFT)
    first, at_work.segment = at_work.segment, at_work.editor.add_segment()
    alone = at_work.mask(first)
    assert alone[5, 17, 34], "nothing says that the other square is another structure"
    at_work.stroke(*ON_RIGHT, settle=False)
    at_work.settle_all()
    both = at_work.inference.requests[-2:]
    assert all(request.prompts.scribbles[1].any() for request in both)
    assert not (at_work.mask(first) & at_work.mask()).any()
    assert np.array_equal(at_work.mask(first) | at_work.mask(), alone)
    assert at_work.mask(first)[5, 17, 15]
    assert at_work.mask()[5, 17, 34]
    at_work.undo()
    assert np.array_equal(at_work.mask(first), alone)
    assert not at_work.mask().any()


def test_strokes_that_cannot_be_read_can_be_cleared(at_work):
    at_work.stroke(*ON_LEFT)
    at_work.editor.segment(at_work.segment).SetTag(TAG, "of a newer version")
    with pytest.raises(FileFormatError):
        at_work.stroke(*ON_LEFT)
    assert at_work.segmenter.clear_segment(at_work.node)
    assert not at_work.segmenter.clear_segment(at_work.node)
    at_work.stroke(*ON_LEFT)
    assert len(at_work.drawn().slices) == 1


# What cannot be segmented -------------------------------------------------------------------------------------------


def bend(place):
    transform = place.editor.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    place.editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda p: p.node.SetAndObserveSegmentationNode(None), PromptError, r"No segmentation is selected.*Choose"),
        (lambda p: setattr(p, "node", None), PromptError, "No segmentation is selected"),
        (lambda p: p.node.SetSelectedSegmentID(None), PromptError, r"No segment is selected.*Add.*select"),
        (lambda p: p.node.SetSelectedSegmentID("gone"), PromptError, "No segment is selected"),
        (lambda p: p.node.SetAndObserveSourceVolumeNode(None), ImageError, r"No source volume is selected.*Choose"),
        (lambda p: p.editor.volume.SetAndObserveImageData(None), ImageError, "is empty"),
        (lambda p: p.show(40), GeometryError, "does not cut"),
        (lambda p: None, PromptError, "outside"),
        (bend, GeometryError, "[Hh]arden"),
    ],
)
def test_what_cannot_be_segmented_is_refused_and_changes_nothing(at_work, spoil, error, message):
    spoil(at_work)
    with pytest.raises(error, match=message):
        at_work.stroke((217, 12), (217, 18))
    assert at_work.drawn().is_empty
    assert not at_work.editor.logic.CanUndo()
    assert not at_work.segmenter.busy


# Accepted slices ----------------------------------------------------------------------------------------------------


def test_a_slice_that_was_segmented_by_other_means_is_accepted_as_it_is_and_told_each_time(at_work, box):
    by_hand = box(((5, 6), (2, 5), (2, 6)), SHAPE)
    at_work.by_hand(by_hand)
    at_work.editor.logic.ClearUndoState()
    for _ in range(2):  # it may have changed since
        at_work.segmenter.accept_slice(*at_work.here)
    assert at_work.accepted() == (5,)
    assert at_work.finished == [(at_work.segment, 0, 5)] * 2
    assert np.array_equal(at_work.mask(), by_hand)
    assert at_work.segmenter.take_back_slice(*at_work.here)
    assert not at_work.segmenter.take_back_slice(*at_work.here)
    assert at_work.accepted() == ()
    for expected in ((5,), ()):
        at_work.undo()
        assert at_work.accepted() == expected
    assert not at_work.editor.logic.CanUndo()


@pytest.mark.parametrize(
    ("go_on", "told"),
    [
        (lambda p: (p.show(6), p.viewed()), True),
        (lambda p: p.segmenter.slice_viewed(), True),
        (lambda p: (p.editor.add_segment(), p.viewed()), True),
        (lambda p: (p.show(6), p.stroke(*ON_LEFT)), True),
        (lambda p: (p.undo(), p.undo()), False),
        (lambda p: p.editor.segmentation.RemoveSegment(p.segment), False),
        (lambda p: p.segmenter.take_back_slice(*p.here), False),
        (lambda p: p.segmenter.reset(), False),
    ],
)
def test_a_finished_slice_is_told_once_when_the_user_goes_on_unless_it_is_not_accepted_any_more(at_work, go_on, told):
    at_work.stroke(*ON_LEFT)
    at_work.stroke((20, 12), (20, 18))  # a correction
    at_work.viewed()
    assert at_work.finished == []
    go_on(at_work)
    expected = [(at_work.segment, 0, 5)] * told
    assert not told or at_work.finished == expected
    at_work.segmenter.slice_viewed()
    assert [one for one in at_work.finished if one[2] == 5] == expected


def test_a_result_that_nobody_corrected_is_told_only_between_slices_that_are_right(at_work):
    for k in (3, 5, 7, 9):
        at_work.show(k)
        at_work.stroke(*ON_LEFT)
    at_work.segmenter.slice_viewed()
    assert at_work.finished == []
    for k in (3, 7):
        at_work.show(k)
        at_work.segmenter.accept_slice(*at_work.here)
    assert [index for _segment, _axis, index in at_work.finished] == [3, 7, 5]
    at_work.show(5)
    at_work.stroke((20, 12), (20, 18))
    at_work.segmenter.slice_viewed()
    assert at_work.finished[-1] == (at_work.segment, 0, 5), "the newest takes the older one's place"


def test_slices_accepted_in_other_views_since_leave_a_stroke_its_direction(at_work):
    at_work.stroke(*ON_LEFT)
    at_work.view.SetOrientationToCoronal()
    at_work.view.JumpSliceByOffsetting(0.0, 17.0, 0.0)
    at_work.segmenter.accept_slice(*at_work.here)
    at_work.view.SetOrientationToAxial()
    at_work.show(5)
    for positive in (False, True):
        at_work.stroke((12, 9), (15, 9), positive=positive)
        assert at_work.inference.requests[-1].newest is positive


def test_accepted_slices_are_known_in_other_views_and_change_only_under_a_stroke(at_work):
    at_work.by_hand(only(LEFT, 5))
    at_work.segmenter.accept_slice(*at_work.here)
    accepted = at_work.mask()[5].copy()
    at_work.view.SetOrientationToCoronal()
    at_work.view.JumpSliceByOffsetting(0.0, 17.0, 0.0)
    at_work.draw("stroke", (31, 17, 4), (41, 17, 4))  # the other square, just below the accepted slice
    at_work.settle()
    scribbles = at_work.inference.requests[-1].prompts.scribbles
    assert np.array_equal(scribbles[0, 5] > 0, accepted[17] | (scribbles[0, 5] > 0) & ~accepted[17])
    assert scribbles[1, 5, 45:].all()
    assert at_work.mask()[4, 17, 34]
    assert at_work.mask()[8, 17, 34]
    row = accepted[17].copy()
    row[scribbles[0, 5] > 0] = True
    assert np.array_equal(at_work.mask()[5, 17], row)
    at_work.segmenter.slice_viewed()
    at_work.tilt()
    at_work.draw("click", (15, 17, 5))
    at_work.settle()
    assert np.array_equal(np.delete(at_work.mask()[5], 17, axis=0), np.delete(accepted, 17, axis=0))


def test_an_oblique_slice_is_not_accepted_and_a_damaged_list_is_replaced(at_work):
    at_work.editor.segment(at_work.segment).SetTag(ACCEPTED_TAG, "1damaged")
    assert not at_work.segmenter.take_back_slice(*at_work.here)
    at_work.tilt()
    with pytest.raises(GeometryError, match="Align view"):
        at_work.segmenter.accept_slice(*at_work.here)
    assert not at_work.segmenter.take_back_slice(*at_work.here)
    assert not at_work.editor.logic.CanUndo()
    at_work.view.SetOrientationToAxial()
    at_work.show(3)
    at_work.segmenter.accept_slice(*at_work.here)
    assert at_work.accepted() == (3,)


# Context ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_context(at_work, monkeypatch, box):
    """Slice 2 is an example of the left square, slice 5 was predicted like it; predictions find all that is bright."""
    monkeypatch.setattr(region_inference, "region_logits", everything_bright)
    at_work.show(2)
    with pytest.raises(PromptError, match="no context"):
        at_work.segmenter.predict_in_context(*at_work.here)
    at_work.by_hand(only(LEFT, 2))
    at_work.context = ContextSet("square", (context_entry(*at_work.segmenter.place(*at_work.here)),))
    at_work.show(5)
    at_work.by_hand(box(((5, 6), (2, 5), (2, 6)), SHAPE))  # does not lead it
    at_work.editor.logic.ClearUndoState()
    at_work.segmenter.predict_in_context(*at_work.here)
    return at_work


def test_a_slice_is_predicted_from_the_context_alone_as_one_undo_step(in_context):
    before = in_context.state()
    assert in_context.settle().changed
    (request,) = in_context.inference.requests
    assert request.prompts.is_empty
    assert request.prompts.mask_input is None
    assert request.context.entries is in_context.context
    assert (request.context.axis, request.context.index) == (0, 5)
    assert request.context.entries.entries[0].source == request.context.source
    # Also pieces that nobody has touched.
    assert np.array_equal(in_context.mask()[5], (only(LEFT, 5) | only(RIGHT, 5))[5])
    assert in_context.drawn().is_empty
    assert in_context.accepted() == ()
    in_context.undo()
    assert in_context.state() == before
    assert not in_context.editor.logic.CanUndo()


def test_a_turned_oblique_view_is_guessed_from_the_context_again(in_context):
    for angle in (0.0, 0.3):
        across = np.cos(angle), 0.8 * np.sin(angle), -0.6 * np.sin(angle)
        in_context.view.SetSliceToRASByNTP(0.0, 0.6, 0.8, *across, 15.0, 17.0, 5.0, 0)
        in_context.segmenter.predict_in_context(*in_context.here)
        assert in_context.settle().problem is None


def test_a_stroke_corrects_what_came_from_the_context(in_context):
    in_context.settle()
    in_context.stroke((12, 9), (23, 9), positive=False)
    assert in_context.inference.requests[1].prompts.mask_input[17, 15] == 5.0
    assert in_context.accepted() == (5,)
    in_context.segmenter.predict_in_context(*in_context.here)
    in_context.settle()
    assert in_context.inference.requests[2].prompts.scribbles[1].any()  # what was drawn counts besides the context


def test_what_came_from_the_context_can_be_previewed_and_cleaned_unless_it_was_undone(in_context):
    in_context.use(automatic=False)
    in_context.settle()
    assert not in_context.mask()[5, 10:25, 8:22].any()
    assert in_context.segmenter.result_on(*in_context.segmenter.place(*in_context.here)) is not None
    assert in_context.segmenter.accept()
    in_context.use(clean_up=CleanUp(smallest_island_mm2=200.0), automatic=True)
    assert in_context.segmenter.reapply(*in_context.here)
    assert in_context.mask()[5, 10:25, 8:22].all()
    assert not in_context.mask()[5, :, 30:].any()
    in_context.undo()
    in_context.undo()
    before = in_context.state()
    assert not in_context.segmenter.reapply(*in_context.here)
    assert in_context.state() == before
