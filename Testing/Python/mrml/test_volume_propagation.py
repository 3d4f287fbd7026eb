"""Tests of scribblesegment.mrml.propagation: from accepted slices to the rest of the volume, and back.

The inference thread and the propagation are real; the network is a stand-in that sees what is bright.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from slice_predictors import Brightness

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.masks import CleanUp
from scribblesegment.errors import FileFormatError, GeometryError, PromptError
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.mrml.propagation import PropagationHistory, PropagationOptions, VolumePropagation, run_of
from scribblesegment.mrml.slice_segmenter import SliceSegmenter
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import ACCEPTED_TAG as TAG
from scribblesegment.mrml.tags import read_accepted, write_accepted
from scribblesegment.mrml.target import context_entry, grid_slice, target_of
from scribblesegment.service.service import InferenceService

SHAPE = (16, 30, 34)
FIRST, LAST = 3, 12  # slices that show the structure
STRUCTURE = (slice(FIRST, LAST + 1), slice(8, 22), slice(6, 18))
OTHER = (slice(FIRST, LAST + 1), slice(8, 22), slice(22, 32))
LONG = 60.0  # seconds that no test reaches unless it fails


class BrightNetwork(Brightness):
    """Sees what is bright; waits before each slice while its gate is closed."""

    plan = ExecutionPlan("cpu", milliseconds=1.0)

    def __init__(self, **options) -> None:
        super().__init__(trust=1.0, **options)
        self.gate = threading.Semaphore(10**9)
        self.failing = False
        self.entered = 0

    def predict(self, prompts):
        self.entered += 1
        assert self.gate.acquire(timeout=LONG)
        if self.failing:
            raise ZeroDivisionError("a network with a fault")
        return super().predict(prompts)


def phantom() -> np.ndarray:
    array = np.zeros(SHAPE, np.int16)
    array[STRUCTURE] = 200
    array[OTHER] = 180
    return array


class Workplace:
    """A user with an editor, an axial view, and a network."""

    def __init__(self, editor, network=None) -> None:
        self.editor = editor
        self.network = network or BrightNetwork()
        self.service = InferenceService(lambda model, device: self.network)
        self.saves = 0
        self.history = PropagationHistory()
        self.contexts: dict[str, ContextSet] = {}
        self.images = SourceImages()
        self.propagation = self.new_propagation()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(editor.scene)
        self.view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
        self.view.SetLayoutName("Red")
        self.view.SetOrientationToAxial()
        self.view.JumpSliceByOffsetting(17.0, 15.0, 7.0)

    def new_propagation(self):
        return VolumePropagation(
            self.service,
            save_state=self.save_state,
            context_of=lambda target: self.contexts.get(target.segment_id),
            images=self.images,
            history=self.history,
        )

    def save_state(self):
        self.saves += 1
        self.editor.logic.SaveStateForUndo()

    def accept(self, segment_id, mask, *slices, axis=0):
        """Put slices of a mask (K, J, I) into a segment, and accept them."""
        part = np.zeros(SHAPE, bool)
        for index in slices:
            np.moveaxis(part, axis, 0)[index] = np.moveaxis(mask, axis, 0)[index]
        if part.any():
            self.editor.modify(segment_id, part, self.editor.logic.ModificationModeAdd)
        self.mark(segment_id, *slices, axis=axis)

    def mark(self, segment_id, *slices, axis=0):
        target = self.target(segment_id)
        accepted = read_accepted(target.segment, target.reference.grid)
        write_accepted(target.segment, accepted.added(axis, *slices))

    def target(self, segment_id):
        return target_of(self.editor.node, self.editor.segmentation_node, segment_id, self.images)

    def start(self, *, all_segments=False, **options):
        self.propagation.start(self.editor.node, self.view, PropagationOptions(**options), all_segments=all_segments)

    def settle(self):
        """Let it come to its end; returns its report and problem."""
        until = time.monotonic() + LONG
        problem = None
        while self.propagation.busy:
            assert time.monotonic() < until
            self.service.wait(0.01)
            update = self.propagation.poll()
            problem = update.problem or problem
            if update.report is not None:
                return update.report, problem
        return None, problem

    def run(self, **options):
        self.start(**options)
        report, problem = self.settle()
        assert problem is None
        return report

    def made(self, count):
        """Let the network make so many slices, and wait until it has made them."""
        self.network.gate.release(count)
        until = time.monotonic() + LONG
        while self.network.entered <= count:  # at the next one, those before it have been handed over
            assert time.monotonic() < until
            self.service.wait(0.001)

    def written(self, segment_id, count):
        """Poll until so many slices of a segment have something in them."""
        until = time.monotonic() + LONG
        while self.mask(segment_id).any(axis=(1, 2)).sum() < count:
            assert time.monotonic() < until
            self.propagation.poll()
            time.sleep(0.005)

    def mask(self, segment_id):
        return self.editor.mask(segment_id)

    def state(self):
        """Everything that undo brings back, comparable."""
        tags = {}
        for segment_id in self.editor.segmentation.GetSegmentIDs():
            segment = self.editor.segment(segment_id)
            accepted = read_accepted(segment, self.target(segment_id).reference.grid)
            tags[segment_id] = (accepted.indices, run_of(segment), self.mask(segment_id).tobytes())
        return tags

    def close(self):
        self.network.gate.release(1000)
        self.propagation.forget()
        assert self.service.close(LONG)


@pytest.fixture
def workplace(new_editor):
    made = []

    def make(array=None, matrix=None, network=None):
        made.append(
            Workplace(
                new_editor(phantom() if array is None else array, np.eye(4) if matrix is None else matrix), network
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def box(place, extra=None):
    mask = np.zeros(SHAPE, bool)
    mask[place] = True
    return mask if extra is None else mask & extra


@pytest.fixture
def at_work(workplace):
    """One segment with slice 7 accepted, selected; a network that stops before the first slice is `gated`."""
    place = workplace()
    place.segment = place.editor.add_segment()
    place.accept(place.segment, box(STRUCTURE), 7)
    place.editor.logic.ClearUndoState()
    return place


@pytest.fixture
def gated(at_work):
    """The network makes slices only when told to."""
    at_work.network.gate = threading.Semaphore(0)
    return at_work


# What is found ------------------------------------------------------------------------------------------------------


def test_one_accepted_slice_becomes_the_whole_structure(at_work):
    report = at_work.run()
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))
    assert not report.cancelled
    assert report.axis == 0
    (segment,) = report.segments
    assert segment.made == LAST - FIRST
    assert sorted(segment.confidence) == [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert [(end.index, end.direction, end.reason.name) for end in segment.ends] == [(3, -1, "ENDED"), (12, 1, "ENDED")]
    assert 0 < report.mean_confidence <= 1
    assert report.slices_per_second > 0
    assert not at_work.propagation.busy


@pytest.mark.parametrize(("orientation", "axis"), [("Coronal", 1), ("Sagittal", 2)])
def test_it_goes_along_the_axis_of_the_view(workplace, orientation, axis):
    place = workplace()
    segment = place.editor.add_segment()
    getattr(place.view, f"SetOrientationTo{orientation}")()
    place.view.JumpSliceByOffsetting(12.0, 15.0, 7.0)
    middle = (STRUCTURE[axis].start + STRUCTURE[axis].stop) // 2
    place.accept(segment, box(STRUCTURE), middle, axis=axis)
    report = place.run()
    assert report.axis == axis
    assert np.array_equal(place.mask(segment), box(STRUCTURE))


def test_volumes_that_are_turned_in_space_are_no_different(workplace, oblique):
    place = workplace(200 * box(STRUCTURE).astype(np.int16), oblique)
    segment = place.editor.add_segment()
    place.accept(segment, box(STRUCTURE), 7)
    for row in range(3):
        for column in range(3):
            step = oblique[:3, column] / np.linalg.norm(oblique[:3, column])
            place.view.GetSliceToRAS().SetElement(row, column, step[row])
        place.view.GetSliceToRAS().SetElement(row, 3, (oblique @ (17, 15, 7, 1))[row])
    place.view.UpdateMatrices()
    place.run()
    assert np.array_equal(place.mask(segment), box(STRUCTURE))


def test_a_range_is_kept_to(at_work):
    report = at_work.run(index_range=(5, 10))
    assert np.flatnonzero(at_work.mask(at_work.segment).any(axis=(1, 2))).tolist() == [5, 6, 7, 8, 9]
    assert {end.reason.name for end in report.segments[0].ends} == {"RANGE"}


def test_an_accepted_slice_without_the_structure_ends_it(at_work):
    at_work.mark(at_work.segment, 10)
    report = at_work.run()
    assert np.flatnonzero(at_work.mask(at_work.segment).any(axis=(1, 2))).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert "ABSENT" in {end.reason.name for end in report.segments[0].ends}


def test_the_context_set_of_a_segment_is_shown_to_a_network_that_takes_one(at_work):
    entry = context_entry(
        at_work.target(at_work.segment), grid_slice(at_work.target(at_work.segment).reference.grid, 0, 7)
    )
    elsewhere = type(entry)(entry.image, entry.mask, entry.spacing_mm, source="another patient", axis=0, index=3)
    at_work.contexts[at_work.segment] = ContextSet("structure", (elsewhere,))
    at_work.run()
    shown = [context for context in at_work.network.contexts if context is not None]
    assert any(elsewhere in context.entries for context in shown)
    # The accepted slice is another entry, and only one.
    assert all(len(context) == 2 for context in shown)


def test_a_network_that_takes_no_context_is_given_strokes_instead(workplace):
    place = workplace(network=BrightNetwork(capabilities=("scribbles",)))
    segment = place.editor.add_segment()
    place.accept(segment, box(STRUCTURE), 7)
    place.contexts[segment] = ContextSet(
        "structure", (context_entry(place.target(segment), grid_slice(place.target(segment).reference.grid, 0, 7)),)
    )
    place.run()
    assert np.array_equal(place.mask(segment), box(STRUCTURE))
    assert place.network.contexts == []
    assert all(prompts.scribbles.any() for prompts in place.network.prompts)


def test_holes_and_islands_are_treated_as_for_single_slices(workplace):
    array = phantom()
    array[:, 14:16, 11:13] = 0
    place = workplace(array)
    segment = place.editor.add_segment()
    place.accept(segment, array > 190, 7)
    place.run(clean_up=CleanUp(fill_holes=True))
    mask = place.mask(segment)
    assert mask[8, 14:16, 11:13].all()
    assert not mask[7, 14:16, 11:13].any()  # accepted as it is


# Undo, and what stays -----------------------------------------------------------------------------------------------


def test_the_whole_run_is_one_undo_step_and_comes_back_by_redo(at_work):
    before = at_work.state()
    at_work.run()
    after = at_work.state()
    assert at_work.saves == 1
    at_work.editor.logic.Undo()
    assert at_work.state() == before
    assert not at_work.editor.logic.CanUndo()
    at_work.editor.logic.Redo()
    assert at_work.state() == after


def test_accepted_slices_are_never_changed(at_work):
    odd = box(STRUCTURE)
    odd[5, 8:15] = False  # the network would fill it
    at_work.accept(at_work.segment, odd, 5)
    at_work.run()
    mask = at_work.mask(at_work.segment)
    assert np.array_equal(mask[5], odd[5])
    assert mask[6].any()


def test_slices_accepted_along_other_axes_are_never_changed(at_work):
    coronal = np.zeros(SHAPE, bool)
    coronal[2:15, 12, 2:9] = True
    at_work.accept(at_work.segment, coronal, 12, axis=1)
    before = at_work.mask(at_work.segment)[:, 12]
    at_work.run()
    assert np.array_equal(at_work.mask(at_work.segment)[:, 12], before)
    assert at_work.mask(at_work.segment)[8, 11, 6:18].all()


def test_a_visible_neighbour_is_protected_whatever_the_overwrite_mode(at_work):
    neighbour = at_work.editor.add_segment(box((slice(0, 16), slice(14, 30), slice(0, 34))), own_layer=True)
    before = at_work.mask(neighbour)
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    at_work.editor.node.SetOverwriteMode(at_work.editor.node.OverwriteAllSegments)
    at_work.run()
    assert np.array_equal(at_work.mask(neighbour), before)
    mask = at_work.mask(at_work.segment)
    assert not mask[8, 14:].any()
    assert mask[8, 8:14, 6:18].all()
    # Nor does what the network sees of it lead the way.
    assert all((prompts.mask_input[14:22, 6:18] < 0).all() for prompts in at_work.network.prompts[4:])


def test_a_neighbour_that_grows_during_a_run_is_protected(gated):
    neighbour = gated.editor.add_segment(own_layer=True)
    gated.editor.node.SetSelectedSegmentID(gated.segment)
    gated.editor.node.SetOverwriteMode(gated.editor.node.OverwriteAllSegments)
    gated.start()
    gated.made(1)
    gated.editor.modify(
        neighbour, box((slice(9, 13), slice(14, 30), slice(0, 34))), gated.editor.logic.ModificationModeAdd
    )
    before = gated.mask(neighbour)
    gated.network.gate.release(1000)
    gated.settle()
    assert np.array_equal(gated.mask(neighbour), before)
    assert gated.mask(gated.segment)[10, 8:14, 6:18].all()


def test_a_neighbour_that_is_not_protected_is_overwritten_as_the_editor_says(at_work):
    neighbour = at_work.editor.add_segment(box((slice(0, 16), slice(14, 30), slice(0, 34))), own_layer=True)
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    at_work.editor.node.SetOverwriteMode(at_work.editor.node.OverwriteAllSegments)
    at_work.run(protect_visible=False)
    assert at_work.mask(at_work.segment)[8, 8:22, 6:18].all()
    assert not at_work.mask(neighbour)[8, 14:22, 6:18].any()


def test_voxels_outside_the_editable_intensity_range_are_not_touched(workplace):
    array = phantom()
    array[8, 10:12, 8:10] = 250
    place = workplace(array)
    segment = place.editor.add_segment()
    place.accept(segment, box(STRUCTURE), 7)
    place.editor.node.SourceVolumeIntensityMaskOn()
    place.editor.node.SetSourceVolumeIntensityMaskRange(190.0, 220.0)
    place.run()
    mask = place.mask(segment)
    assert not mask[8, 10:12, 8:10].any()
    assert mask[8, 12:22, 6:18].all()


def test_voxels_outside_the_editable_area_are_not_touched(at_work):
    area = at_work.editor.add_segment(box((slice(0, 16), slice(0, 30), slice(0, 12))), own_layer=True)
    at_work.editor.show(area, False)
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    at_work.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    at_work.editor.node.SetMaskSegmentID(area)
    at_work.editor.node.SetOverwriteMode(at_work.editor.node.OverwriteNone)
    at_work.run()
    mask = at_work.mask(at_work.segment)
    assert mask[8, 8:22, 6:12].all()
    assert not mask[8, :, 12:].any()


def test_what_was_in_a_slice_before_gives_way(at_work):
    at_work.editor.modify(
        at_work.segment, box((slice(9, 10), slice(0, 5), slice(0, 5))), at_work.editor.logic.ModificationModeAdd
    )
    at_work.run()
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))


def test_accepted_slices_and_the_run_are_saved_with_the_segmentation(at_work, tmp_path):
    at_work.accept(at_work.segment, box(STRUCTURE), 4, 9)
    at_work.run()
    storage = slicer.vtkMRMLSegmentationStorageNode()
    at_work.editor.scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "Segmentation.seg.nrrd"))
    assert storage.WriteData(at_work.editor.segmentation_node)
    read = at_work.editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(read)
    segment = read.GetSegmentation().GetNthSegment(0)
    assert read_accepted(segment, at_work.target(at_work.segment).reference.grid).indices == ((4, 7, 9), (), ())
    assert run_of(segment) == run_of(at_work.editor.segment(at_work.segment))


# Several segments ---------------------------------------------------------------------------------------------------


def test_all_visible_segments_with_accepted_slices_go_together_as_one_undo_step(at_work):
    other = at_work.editor.add_segment()
    at_work.accept(other, box(OTHER), 6)
    hidden = at_work.editor.add_segment()
    at_work.accept(hidden, box((slice(0, 16), slice(24, 28), slice(24, 28))), 6)
    at_work.editor.show(hidden, False)
    without = at_work.editor.add_segment(box((slice(0, 16), slice(0, 3), slice(0, 3))))
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    before = at_work.state()
    report = at_work.run(all_segments=True)
    assert [segment.segment_id for segment in report.segments] == [at_work.segment, other]
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))
    assert np.array_equal(at_work.mask(other), box(OTHER))
    assert at_work.state()[hidden] == before[hidden]
    assert at_work.state()[without] == before[without]
    at_work.editor.logic.Undo()
    assert at_work.state() == before


def test_only_the_selected_segment_goes_unless_all_are_wanted(at_work):
    other = at_work.editor.add_segment()
    at_work.accept(other, box(OTHER), 6)
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    report = at_work.run()
    assert [segment.segment_id for segment in report.segments] == [at_work.segment]
    assert np.array_equal(at_work.mask(other), box(OTHER) & box((slice(6, 7), slice(None), slice(None))))


# Corrections --------------------------------------------------------------------------------------------------------


def test_after_a_correction_only_slices_near_it_are_made_again(at_work):
    at_work.accept(at_work.segment, box(STRUCTURE), 4, 10)
    at_work.run()
    at_work.mark(at_work.segment, 8)
    images = len(at_work.network.images)
    report = at_work.run()
    # Between the accepted slices 7 and 10.
    assert len(at_work.network.images) - images == 1
    assert report.segments[0].made == 1
    assert report.segments[0].kept == 5
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))


def test_propagating_again_without_a_correction_makes_everything_anew(at_work):
    first = at_work.run()
    again = at_work.run()
    assert again.segments[0].made == first.segments[0].made
    assert again.segments[0].kept == 0


def test_another_network_makes_everything_anew(at_work):
    at_work.accept(at_work.segment, box(STRUCTURE), 10)
    at_work.run(model="one")
    at_work.mark(at_work.segment, 8)
    assert at_work.run(model="two").segments[0].kept == 0


def test_after_undo_nothing_of_the_run_is_built_on(at_work):
    at_work.accept(at_work.segment, box(STRUCTURE), 10)
    at_work.run()
    at_work.editor.logic.Undo()
    at_work.accept(at_work.segment, box(STRUCTURE), 5)
    report = at_work.run()
    assert report.segments[0].kept == 0
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))


def test_slices_that_were_edited_by_other_means_count_as_accepted(at_work):
    at_work.run()
    by_hand = box((slice(9, 10), slice(8, 12), slice(6, 18)))
    at_work.editor.modify(at_work.segment, by_hand, at_work.editor.logic.ModificationModeRemove)
    before = at_work.mask(at_work.segment)[9]
    at_work.run()
    assert np.array_equal(at_work.mask(at_work.segment)[9], before)
    accepted = read_accepted(at_work.editor.segment(at_work.segment), at_work.target(at_work.segment).reference.grid)
    assert accepted.indices[0] == (7, 9)


def test_slices_that_another_segment_took_voxels_from_do_not_count_as_edited(at_work):
    at_work.run()
    other = at_work.editor.add_segment()
    at_work.editor.node.SetOverwriteMode(at_work.editor.node.OverwriteAllSegments)
    at_work.editor.modify(
        other, box((slice(9, 10), slice(8, 12), slice(6, 18))), at_work.editor.logic.ModificationModeAdd
    )
    at_work.editor.node.SetSelectedSegmentID(at_work.segment)
    at_work.run()
    accepted = read_accepted(at_work.editor.segment(at_work.segment), at_work.target(at_work.segment).reference.grid)
    assert accepted.indices[0] == (7,)


def test_slices_beyond_a_new_end_are_taken_out_again(at_work):
    at_work.run()
    empty = box((slice(10, 11), slice(None), slice(None)))
    at_work.editor.modify(at_work.segment, empty, at_work.editor.logic.ModificationModeRemove)
    at_work.mark(at_work.segment, 10)
    at_work.run()
    assert np.flatnonzero(at_work.mask(at_work.segment).any(axis=(1, 2))).tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_slices_outside_of_a_later_range_stay(at_work):
    at_work.run()
    at_work.mark(at_work.segment, 6)
    at_work.run(index_range=(4, 9))
    assert np.array_equal(at_work.mask(at_work.segment), box(STRUCTURE))


# Cancelling, and what ends it ---------------------------------------------------------------------------------------


def test_slices_are_written_as_they_come(gated):
    gated.start()
    gated.made(2)
    gated.written(gated.segment, 3)
    assert gated.propagation.busy
    assert gated.propagation.progress.count == 2
    assert 0 < gated.propagation.progress.fraction < 1
    gated.network.gate.release(2)
    gated.written(gated.segment, 5)
    assert gated.propagation.busy
    assert gated.saves == 1


def test_stopping_keeps_what_is_done_as_one_undo_step(gated):
    before = gated.state()
    gated.start()
    gated.made(3)
    assert gated.propagation.stop()
    gated.network.gate.release(1000)
    report, problem = gated.settle()
    assert problem is None
    assert report.cancelled
    kept = np.flatnonzero(gated.mask(gated.segment).any(axis=(1, 2))).tolist()
    assert kept == [5, 6, 7, 8] or kept == [6, 7, 8, 9]
    assert report.made == 3
    gated.editor.logic.Undo()
    assert gated.state() == before


def test_a_stopped_run_goes_on_where_it_was(gated):
    gated.start()
    gated.made(3)
    gated.propagation.stop()
    gated.network.gate.release(1000)
    gated.settle()
    made = len(gated.network.images)
    report = gated.run()
    assert report.segments[0].kept == 3
    assert np.array_equal(gated.mask(gated.segment), box(STRUCTURE))
    assert len(gated.network.images) - made < made + 12


def test_stopping_before_the_first_slice_changes_nothing(gated):
    before = gated.state()
    gated.start()
    assert not gated.propagation.stop()
    gated.network.gate.release(1000)
    report, _ = gated.settle()
    assert report.cancelled
    assert report.made == 0
    assert gated.state() == before
    assert gated.saves == 0


def test_undo_during_a_run_ends_it_and_nothing_is_written_after(gated):
    before = gated.state()
    gated.start()
    gated.made(2)
    gated.written(gated.segment, 3)
    gated.editor.logic.Undo()
    gated.network.gate.release(1000)
    report, problem = gated.settle()
    assert report.undone
    assert problem is None
    assert gated.state() == before


def test_a_scene_that_closes_during_a_run_ends_it(gated):
    gated.start()
    gated.made(2)
    gated.propagation.forget()
    gated.editor.scene.Clear(0)
    gated.network.gate.release(1000)
    assert not gated.propagation.busy
    assert gated.propagation.poll().report is None
    while gated.service.busy:
        gated.service.wait(LONG)


@pytest.mark.parametrize("gone", ["segment", "segmentation", "scene"])
def test_a_run_whose_segment_has_gone_ends_by_itself(gated, gone):
    gated.start()
    gated.made(2)
    {
        "segment": lambda: gated.editor.segmentation.RemoveSegment(gated.segment),
        "segmentation": lambda: gated.editor.scene.RemoveNode(gated.editor.segmentation_node),
        "scene": lambda: gated.editor.scene.Clear(0),
    }[gone]()
    gated.network.gate.release(1000)
    report, problem = gated.settle()
    assert problem is None
    assert report.cancelled
    assert report.made == 0
    assert gated.saves == 0


def test_one_of_several_segments_that_is_removed_does_not_end_the_others(gated):
    other = gated.editor.add_segment()
    gated.accept(other, box(OTHER), 7)
    gated.start(all_segments=True)
    gated.made(2)
    gated.editor.segmentation.RemoveSegment(other)
    gated.network.gate.release(1000)
    gated.settle()
    assert np.array_equal(gated.mask(gated.segment), box(STRUCTURE))


def test_another_source_volume_ends_a_run_and_what_is_done_stays(gated):
    gated.start()
    gated.made(2)
    gated.written(gated.segment, 3)
    volume = gated.editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volume.CopyContent(gated.editor.volume)
    volume.GetImageData().Modified()
    gated.editor.node.SetAndObserveSourceVolumeNode(volume)
    kept = gated.mask(gated.segment)
    gated.network.gate.release(1000)
    report, problem = gated.settle()
    assert "kept" in problem
    assert report.cancelled
    assert np.array_equal(gated.mask(gated.segment), kept)


def test_a_run_that_is_replaced_before_it_has_begun_is_begun_again(gated):
    blocker = gated.service
    gated.network.gate = threading.Semaphore(10**9)
    held = threading.Event()
    original = gated.network.set_image

    def slow(*arguments, **options):
        held.wait(LONG)
        return original(*arguments, **options)

    gated.network.set_image = slow
    first = VolumePropagation(blocker, save_state=lambda: None, images=gated.images)
    first.start(gated.editor.node, gated.view, PropagationOptions(index_range=(8, 9)))
    gated.start()
    blocker.propagate(
        type("Feed", (), {"begin": lambda self: None, "end": lambda self, error=None: None, "result": {}})()
    )
    held.set()
    report, _ = gated.settle()
    assert np.array_equal(gated.mask(gated.segment), box(STRUCTURE))
    assert not report.cancelled


def test_a_network_that_fails_says_so_and_what_was_done_stays(gated):
    gated.start()
    gated.made(2)
    gated.written(gated.segment, 3)
    gated.network.failing = True
    gated.network.gate.release(1000)
    report, problem = gated.settle()
    assert "ZeroDivisionError" in problem
    assert report.cancelled
    assert gated.mask(gated.segment).any(axis=(1, 2)).sum() == 3
    gated.network.failing = False
    gated.run()
    assert np.array_equal(gated.mask(gated.segment), box(STRUCTURE))


# What cannot be propagated ------------------------------------------------------------------------------------------


def test_without_an_accepted_slice_the_user_is_told_what_to_do(workplace):
    place = workplace()
    place.editor.add_segment(box(STRUCTURE))
    with pytest.raises(PromptError, match="Accept slice"):
        place.start()
    assert not place.propagation.busy


def test_slices_accepted_in_another_direction_are_pointed_out(workplace):
    place = workplace()
    segment = place.editor.add_segment()
    place.accept(segment, box(STRUCTURE), 12, axis=1)
    with pytest.raises(PromptError, match="only in others"):
        place.start()


def test_accepted_slices_that_are_all_empty_are_not_enough(workplace):
    place = workplace()
    place.mark(place.editor.add_segment(), 4)
    with pytest.raises(PromptError, match="No slice"):
        place.start()


def test_an_oblique_view_is_refused_with_its_angle_and_a_way_out(at_work):
    turn = np.radians(20.0)
    at_work.view.GetSliceToRAS().SetElement(1, 1, np.cos(turn))
    at_work.view.GetSliceToRAS().SetElement(2, 1, np.sin(turn))
    at_work.view.GetSliceToRAS().SetElement(1, 2, -np.sin(turn))
    at_work.view.GetSliceToRAS().SetElement(2, 2, np.cos(turn))
    at_work.view.UpdateMatrices()
    with pytest.raises(GeometryError, match=r"20°.*Align view"):
        at_work.start()


def test_a_range_without_slices_is_refused(at_work):
    with pytest.raises(GeometryError, match="holds no slice"):
        at_work.start(index_range=(16, 30))


def test_a_damaged_list_of_accepted_slices_is_reported(at_work):
    at_work.editor.segment(at_work.segment).SetTag(TAG, "1damaged")
    with pytest.raises(FileFormatError, match="accept its slices again"):
        at_work.start()


# With the controller ------------------------------------------------------------------------------------------------


def test_a_stroke_makes_its_slice_one_to_propagate_from(workplace):
    place = workplace()
    segment = place.editor.add_segment()
    controller = SliceSegmenter(place.service, save_state=place.save_state, images=place.images)
    ends = np.linspace((8.0, 15.0, 7.0), (16.0, 15.0, 7.0), 10)
    place.network.see = lambda prompts: np.where(place.network.normalized > 0.95, 5.0, -5.0)
    controller.paint(place.editor.node, place.view, ends, 1.5, positive=True)
    while controller.busy:
        place.service.wait(LONG)
        controller.poll()
    assert np.array_equal(place.mask(segment), box(STRUCTURE) & box((slice(7, 8), slice(None), slice(None))))
    place.run()
    assert np.array_equal(place.mask(segment), box(STRUCTURE))
