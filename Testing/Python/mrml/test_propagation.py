"""From accepted slices to the rest of the volume, and back.

The inference thread and the propagation are real; the network is a stand-in that sees what is bright.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from propagation_workplace import BELOW, LONG, OTHER, SHAPE, STRUCTURE, BrightNetwork, Workplace, phantom, region

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.geometry import grid_slice
from scribblesegment.data.masks import CleanUp
from scribblesegment.errors import FileFormatError, GeometryError, PromptError
from scribblesegment.mrml.propagation import PropagationReport, SegmentReport
from scribblesegment.mrml.tags import ACCEPTED_TAG
from scribblesegment.mrml.target import context_entry


@pytest.fixture
def workplace(new_editor):
    made = []

    def make(array=None, matrix=None, network=None):
        editor = new_editor(phantom() if array is None else array, np.eye(4) if matrix is None else matrix)
        made.append(Workplace(editor, network or BrightNetwork()))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def at_work(workplace):
    """Slice 7 of the structure is accepted."""
    place = workplace()
    place.accept(region(*STRUCTURE), 7)
    place.editor.logic.ClearUndoState()
    return place


@pytest.fixture
def gated(at_work):
    """The network makes slices only when told to."""
    at_work.network.gate = threading.Semaphore(0)
    return at_work


# What is found ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_step", [True, False])
def test_one_accepted_slice_becomes_the_whole_structure_as_one_undo_step_or_as_a_part_of_the_stroke_s(
    at_work, own_step
):
    before = at_work.state()
    if not own_step:
        at_work.save_state()  # as the stroke does
    report = at_work.run(own_step=own_step)
    assert np.array_equal(at_work.mask(), region(*STRUCTURE))
    assert not report.cancelled
    assert not report.undone
    assert report.axis == 0
    (segment,) = report.segments
    assert (segment.segment_id, segment.made, segment.kept) == (at_work.segment, 9, 0)
    assert sorted(segment.confidence) == [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert [(end.index, end.direction, end.reason.name) for end in segment.ends] == [(3, -1, "ENDED"), (12, 1, "ENDED")]
    assert 0 < report.mean_confidence <= 1
    assert report.slices_per_second > 0
    assert not at_work.propagation.busy
    after = at_work.state()
    assert at_work.saves == 1
    at_work.editor.logic.Undo()
    assert at_work.state() == before
    assert not at_work.editor.logic.CanUndo()
    at_work.editor.logic.Redo()
    assert at_work.state() == after


@pytest.mark.parametrize(("orientation", "axis", "middle"), [("Coronal", 1, 15), ("Sagittal", 2, 12), ("", 0, 7)])
def test_it_goes_along_the_axis_of_the_view_however_the_volume_is_turned(workplace, oblique, orientation, axis, middle):
    place = workplace(200 * region(*STRUCTURE).astype(np.int16), np.eye(4) if orientation else oblique)
    if orientation:
        place.look(orientation, 12.0, 15.0, 7.0)
    else:
        axes = oblique[:3, :3] / np.linalg.norm(oblique[:3, :3], axis=0)
        to_ras = np.column_stack([axes, (oblique @ (17, 15, 7, 1))[:3]])
        place.view.GetSliceToRAS().DeepCopy(np.vstack([to_ras, (0, 0, 0, 1)]).ravel().tolist())
        place.view.UpdateMatrices()
    place.accept(region(*STRUCTURE), middle, axis=axis)
    assert place.run().axis == axis
    assert np.array_equal(place.mask(), region(*STRUCTURE))


@pytest.mark.parametrize("takes_context", [True, False])
def test_the_context_set_is_shown_to_a_network_that_takes_one_and_strokes_to_another(workplace, takes_context):
    place = workplace(network=BrightNetwork(capabilities=("scribbles", "context")[: 1 + takes_context]))
    place.accept(region(*STRUCTURE), 7)
    entry = context_entry(place.target(), grid_slice(place.target().reference.grid, 0, 7))
    elsewhere = type(entry)(entry.image, entry.mask, entry.spacing_mm, source="another patient", axis=0, index=3)
    place.contexts[place.segment] = ContextSet("structure", (elsewhere,))
    place.run()
    assert np.array_equal(place.mask(), region(*STRUCTURE))
    if takes_context:
        shown = [context for context in place.network.contexts if context is not None]
        assert any(elsewhere in context.entries for context in shown)
        assert all(len(context) == 2 for context in shown)  # the accepted slice is the other
    else:
        assert place.network.contexts == []
        assert all(prompts.scribbles.any() for prompts in place.network.prompts)


def test_a_stroke_makes_its_slice_one_to_propagate_from_and_holes_are_filled_as_in_it(workplace):
    array = phantom()
    array[8:, 14:16, 11:13] = 0
    place = workplace(array)
    place.network.see = lambda prompts: np.where(place.network.normalized > 0.95, 5.0, -5.0)
    place.draw((8.0, 15.0, 7.0), (16.0, 15.0, 7.0))
    assert place.slices() == [7]
    place.run(clean_up=CleanUp(fill_holes=True))
    assert np.array_equal(place.mask(), region(*STRUCTURE))


def test_strokes_of_other_views_and_slices_accepted_there_are_prompts_unless_switched_off(at_work):
    at_work.network.see = lambda prompts: 20.0 * at_work.network.normalized - 10.0  # and no stroke is followed
    at_work.look("Sagittal", 10.0, 12.0, 2.0)
    at_work.draw((10.0, 12.0, 2.0), (10.0, 12.0, 13.0), radius=0.4)
    column = at_work.mask()[:, :, 10]
    assert np.array_equal(column, region(*STRUCTURE)[:, :, 10])
    at_work.segmenter.take_back_slice(at_work.node, at_work.view)
    at_work.look("Coronal", 20.0, 18.0, 2.0)
    at_work.draw((20.0, 18.0, 2.0), (20.0, 18.0, 13.0), positive=False, radius=0.4)
    row = at_work.mask()[:, 18]
    expected = np.zeros((2, *SHAPE), bool)
    expected[0, 2:14, 12, 10] = True  # a stroke on a slice that is not accepted
    expected[:, :, 18] = row, ~row  # an accepted slice
    at_work.look("Axial", 17.0, 15.0, 7.0)
    for other_views in (True, False):
        at_work.network.prompts.clear()
        at_work.network.images.clear()
        at_work.run(other_views=other_views)
        volume = at_work.target().source.array
        for (image, *_), prompts in zip(at_work.network.images, at_work.network.prompts, strict=True):
            index = next(n for n in range(SHAPE[0]) if np.shares_memory(image, volume[n]))
            assert np.array_equal(prompts.scribbles, expected[:, index] & other_views)
        assert len(at_work.network.prompts) >= 9
    assert np.array_equal(at_work.mask()[:, 18], row)


def test_what_marks_one_segment_does_not_belong_to_another_that_is_propagated_with_it(at_work):
    other = at_work.neighbour()
    at_work.accept(region(*OTHER), 7, segment_id=other)
    at_work.accept(region(*OTHER), 15, axis=1, segment_id=other)
    at_work.network.prompts.clear()
    at_work.run(all_segments=True)
    own, rival = (prompts.scribbles[:, 15] > 0 for prompts in at_work.network.prompts[:2])  # the one edited last first
    assert np.array_equal(np.flatnonzero(own[0]), np.arange(22, 32))
    assert np.array_equal(own[1], ~own[0])
    assert np.array_equal(rival, [np.zeros_like(own[0]), own[0]])


# What stays ---------------------------------------------------------------------------------------------------------


def test_accepted_slices_along_any_axis_are_never_changed_and_others_give_way(at_work):
    odd, coronal = region(*STRUCTURE), region(slice(2, 15), 12, slice(2, 9))
    odd[5, 8:15] = False  # the network would fill it
    at_work.accept(odd, 5)
    at_work.accept(coronal, 12, axis=1)
    at_work.add(region(9, slice(0, 5), slice(0, 5)))
    before = at_work.mask()
    at_work.run()
    mask = at_work.mask()
    assert np.array_equal(mask[5], before[5])
    assert np.array_equal(mask[:, 12], before[:, 12])
    assert mask[6].any()
    assert mask[8, 11, 6:18].all()
    assert not mask[9, :5, :5].any()


@pytest.mark.parametrize("grows", ["before", "during the run"])
@pytest.mark.parametrize("protects", [True, False])
def test_a_visible_neighbour_is_protected_unless_switched_off(gated, protects, grows):
    slices = BELOW if grows == "before" else (slice(9, 13), *BELOW[1:])
    neighbour = gated.neighbour(region(*BELOW) if grows == "before" else None)
    gated.start(protect="visible" if protects else "none")
    gated.made(1)
    if grows != "before":
        gated.add(region(*slices), neighbour)
    before = gated.mask(neighbour)
    gated.settle()
    assert np.array_equal(gated.mask(neighbour), before) == protects
    assert gated.mask()[10, 8:14, 6:18].all()
    assert gated.mask()[10, 14:22, 6:18].any() != protects
    if protects and grows == "before":  # nor does what the network sees of it lead the way
        assert all((prompts.mask_input[14:22, 6:18] < 0).all() for prompts in gated.network.prompts[4:])


def test_voxels_outside_the_editable_intensities_the_editable_area_or_the_range_are_not_touched(workplace):
    array = phantom()
    array[8, 10:12, 8:10] = 250
    place = workplace(array)
    place.accept(region(*STRUCTURE), 7)
    area = place.neighbour(region(slice(0, 16), slice(0, 30), slice(0, 12)))
    place.editor.show(area, False)
    place.node.SetOverwriteMode(place.node.OverwriteNone)
    place.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    place.node.SetMaskSegmentID(area)
    place.node.SourceVolumeIntensityMaskOn()
    place.node.SetSourceVolumeIntensityMaskRange(190.0, 220.0)
    report = place.run(index_range=(5, 10))
    assert place.slices() == [5, 6, 7, 8, 9]
    assert {end.reason.name for end in report.segments[0].ends} == {"RANGE"}
    mask = place.mask()
    assert not mask[8, 10:12, 8:10].any()
    assert mask[8, 12:22, 6:12].all()
    assert not mask[8, :, 12:].any()


@pytest.mark.parametrize("all_segments", [True, False])
def test_all_visible_segments_with_accepted_slices_go_together_or_the_selected_one(at_work, all_segments):
    other, hidden = at_work.editor.add_segment(), at_work.editor.add_segment()
    at_work.accept(region(*OTHER), 6, segment_id=other)
    at_work.accept(region(slice(0, 16), slice(24, 28), slice(24, 28)), 6, segment_id=hidden)
    at_work.editor.show(hidden, False)
    without = at_work.editor.add_segment(region(slice(0, 16), slice(0, 3), slice(0, 3)))
    at_work.node.SetSelectedSegmentID(at_work.segment)
    before = at_work.state()
    report = at_work.run(all_segments=all_segments)
    assert [segment.segment_id for segment in report.segments] == [at_work.segment, other][: 1 + all_segments]
    assert np.array_equal(at_work.mask(), region(*STRUCTURE))
    assert at_work.mask(other).sum() == region(*OTHER).sum() // (1 if all_segments else 10)
    assert all(at_work.state()[each] == before[each] for each in (hidden, without))
    at_work.editor.logic.Undo()
    assert at_work.state() == before


# Corrections --------------------------------------------------------------------------------------------------------


def test_after_a_correction_only_slices_near_it_are_made_again(at_work):
    at_work.accept(region(*STRUCTURE), 4, 10)
    at_work.run()
    at_work.mark(8)
    images = len(at_work.network.images)
    report = at_work.run()
    assert len(at_work.network.images) - images == 1  # between the accepted slices 7 and 10
    assert (report.segments[0].made, report.segments[0].kept) == (1, 5)
    assert np.array_equal(at_work.mask(), region(*STRUCTURE))


@pytest.mark.parametrize("reason", ["no correction", "another network", "undo"])
def test_sometimes_everything_is_made_again(at_work, reason):
    at_work.accept(region(*STRUCTURE), 10)
    first = at_work.run(model="one")
    if reason == "undo":
        at_work.editor.logic.Undo()
    if reason != "no correction":
        at_work.accept(region(*STRUCTURE), 8)
    report = at_work.run(model="two" if reason == "another network" else "one")
    assert report.segments[0].kept == 0
    assert report.made == first.made - (reason != "no correction")
    assert np.array_equal(at_work.mask(), region(*STRUCTURE))


def test_slices_that_a_neighbour_took_from_do_not_count_as_accepted(at_work):
    at_work.run()
    at_work.add(region(9, slice(8, 12), slice(6, 18)), at_work.neighbour())
    at_work.node.SetSelectedSegmentID(at_work.segment)
    at_work.run()
    assert at_work.accepted() == (7,)


@pytest.mark.parametrize("runs", [2, 12])
@pytest.mark.parametrize("together", [True, False])
def test_edits_by_hand_stay_however_many_other_segments_were_propagated_since(at_work, runs, together):
    first = at_work.segment
    others = [at_work.editor.add_segment() for _ in range(runs)]
    for number, other in enumerate(others):
        at_work.accept(region(slice(3, 13), slice(24, 28), 20 + number), 7, segment_id=other)
    for segment in [first] if together else [first, *others]:
        at_work.node.SetSelectedSegmentID(segment)
        at_work.run(all_segments=together)
    at_work.node.SetSelectedSegmentID(first)
    at_work.remove(region(9, slice(8, 12), slice(6, 18)))
    before = at_work.mask()[9]
    at_work.run(all_segments=together)
    assert np.array_equal(at_work.mask()[9], before)
    assert at_work.accepted() == (7, 9)


@pytest.mark.parametrize("view", ["Coronal", "oblique"])
def test_a_stroke_in_another_view_makes_no_slice_it_crosses_an_accepted_one(at_work, view):
    made = at_work.run().made
    at_work.network.see = lambda prompts: np.where(prompts.scribbles[1] > 0, -5.0, 10 * at_work.network.normalized - 5)
    along = np.array([0.0, 0.0, 1.0])
    if view == "oblique":
        along = np.array([0.0, np.sin(0.35), np.cos(0.35)])
        at_work.view.SetSliceToRASByNTP(0.0, -along[2], along[1], 1.0, 0.0, 0.0, 12.0, 15.0, 7.0, 0)
    else:
        at_work.look(view, 12.0, 15.0, 7.0)
    before = at_work.mask()
    at_work.draw((7.0, 15.0, 7.0) - 3 * along, (7.0, 15.0, 7.0) + 4 * along, positive=False, radius=0.6)
    assert (before != at_work.mask()).any(axis=(1, 2)).sum() > 4
    at_work.look("Axial", 17.0, 15.0, 7.0)
    assert at_work.run().made == made
    assert at_work.accepted() == (7,)


def guess(place, index):
    """Fill an axial slice from a context alone; the update."""
    place.look("Axial", 17.0, 15.0, float(index))
    entry = context_entry(place.target(), grid_slice(place.target().reference.grid, 0, 7))
    place.contexts[place.segment] = ContextSet("structure", (entry,))
    place.network.see = lambda prompts: np.full(prompts.shape, 5.0)
    place.segmenter.predict_in_context(place.node, place.view)
    (update,) = place.answer()
    return update


def test_what_is_not_accepted_any_more_or_was_only_guessed_is_made_anew(at_work):
    at_work.run()
    at_work.look("Axial", 17.0, 15.0, 9.0)
    at_work.network.see = lambda prompts: np.where(prompts.scribbles[1] > 0, -5.0, 10 * at_work.network.normalized - 5)
    at_work.draw((7.0, 10.0, 9.0), (7.0, 20.0, 9.0), positive=False)
    assert at_work.accepted() == (7, 9)
    assert at_work.segmenter.take_back_slice(at_work.node, at_work.view)
    at_work.propagation.forget(*at_work.segmenter.place(at_work.node, at_work.view))
    at_work.run()
    assert at_work.accepted() == (7,)
    update = guess(at_work, 10)
    assert not update.written
    at_work.propagation.forget(*update.guessed)
    del at_work.network.see
    at_work.run()
    assert at_work.accepted() == (7,)
    assert np.array_equal(at_work.mask()[10], region(*STRUCTURE)[10])


@pytest.mark.parametrize("index", [7, 8])
def test_a_segment_that_was_cleared_is_started_anew(at_work, index):
    at_work.run()
    at_work.remove(np.ones(SHAPE, bool))
    again = region(*STRUCTURE)
    again[index, 8] = False  # not to the pixel what it was
    at_work.accept(again, index)
    at_work.run()
    assert at_work.accepted() == (index,)
    assert np.array_equal(np.delete(at_work.mask(), index, axis=0), np.delete(region(*STRUCTURE), index, axis=0))


def test_a_guess_that_was_undone_leaves_the_slice_to_the_run(at_work):
    at_work.run()
    update = guess(at_work, 10)
    at_work.propagation.forget(*update.guessed)
    at_work.editor.logic.Undo()
    del at_work.network.see
    at_work.run()
    assert at_work.accepted() == (7,)


@pytest.mark.parametrize("index_range", [None, (4, 11)])
def test_slices_beyond_a_new_end_are_taken_out_again_unless_outside_of_the_range(at_work, index_range):
    at_work.run()
    at_work.remove(region(10))
    at_work.mark(10)
    report = at_work.run(index_range=index_range)
    assert "ABSENT" in {end.reason.name for end in report.segments[0].ends}
    assert at_work.slices() == [3, 4, 5, 6, 7, 8, 9] + ([] if index_range is None else [11, 12])


# Cancelling, and what ends it ---------------------------------------------------------------------------------------


def test_stopping_keeps_what_is_done_as_one_undo_step_and_it_goes_on_from_there(gated):
    before = gated.state()
    gated.start()
    assert not gated.propagation.stop()  # before the first slice
    report, _ = gated.settle()
    assert report.cancelled
    assert (report.made, gated.saves, gated.state()) == (0, 1, before)
    gated.editor.logic.Undo()
    assert gated.state() == before, "what was drawn before it stays"
    gated.network.gate, gated.network.entered = threading.Semaphore(0), 0
    gated.start()
    gated.made(3)
    assert gated.propagation.stop()
    assert not gated.propagation.stop()
    report, problem = gated.settle()
    assert problem is None
    assert report.cancelled
    assert report.made == 3
    assert gated.slices() in ([5, 6, 7, 8], [6, 7, 8, 9])
    gated.editor.logic.Undo()
    assert gated.state() == before
    gated.editor.logic.Redo()
    assert gated.run().segments[0].kept == 3
    assert np.array_equal(gated.mask(), region(*STRUCTURE))


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("idle", [True, False])
def test_undo_during_a_run_ends_it_and_nothing_is_written_after(gated, written, idle):
    gated.save_state()
    gated.mark(15)  # what is undone if nothing was written yet
    before = gated.state()
    gated.start()
    gated.made(2, written=written)
    gated.editor.logic.Undo()
    if not written:
        before = gated.state()
    if idle:  # noticed although nothing comes any more
        until = time.monotonic() + LONG
        while not gated.propagation._run.task.cancelled:
            assert time.monotonic() < until
            gated.propagation.poll()
    report, problem = gated.settle()
    assert report.undone
    assert report.cancelled
    assert problem is None
    assert gated.state() == before


def test_undo_to_a_state_that_was_saved_during_a_run_ends_it_and_the_next_one_fills_the_structure(gated):
    gated.start()
    gated.made(2, written=True)
    gated.editor.logic.AddEmptySegment()
    gated.network.entered = 1  # waits at the next one
    gated.made(3, written=True)
    gated.editor.logic.Undo()
    report, problem = gated.settle()
    assert report.undone
    assert problem is None
    gated.node.SetSelectedSegmentID(gated.segment)
    gated.run()
    assert gated.accepted() == (7,)
    assert np.array_equal(gated.mask(), region(*STRUCTURE))


def test_a_run_that_was_interrupted_before_it_began_takes_nothing_from_the_history(at_work):
    at_work.run()
    at_work.save_state()
    at_work.accept(region(*STRUCTURE), 9)
    wait = threading.Event()
    at_work.service._submit(lambda task: wait.wait(LONG))
    at_work.start(own_step=False)
    at_work.propagation.stop()
    wait.set()
    at_work.settle()
    at_work.save_state()
    at_work.remove(region(11))
    at_work.mark(11)
    report = at_work.run()
    assert report.segments[0].kept > 0
    assert max(at_work.slices()) == 10


@pytest.mark.parametrize("gone", ["segment", "segmentation", "scene", "scene, as the application closes it", "other"])
def test_a_run_whose_segment_has_gone_ends_by_itself(gated, gone):
    other = gated.editor.add_segment()
    gated.accept(region(*OTHER), 7, segment_id=other)
    gated.node.SetSelectedSegmentID(gated.segment)
    gated.start(all_segments=gone == "other")
    gated.made(2)
    if gone.endswith("closes it"):
        gated.propagation.reset()
        assert not gated.propagation.busy
        assert gated.propagation.poll().report is None
    {
        "segment": lambda: gated.editor.segmentation.RemoveSegment(gated.segment),
        "segmentation": lambda: gated.editor.scene.RemoveNode(gated.editor.segmentation_node),
        "other": lambda: gated.editor.segmentation.RemoveSegment(other),
    }.get(gone, lambda: gated.editor.scene.Clear(0))()
    report, problem = gated.settle()
    assert problem is None
    if gone == "other":  # that one of several is removed does not end the others
        assert np.array_equal(gated.mask(), region(*STRUCTURE))
    elif report is not None:
        assert report.cancelled
        assert (report.made, gated.saves) == (0, 1)


def test_another_source_volume_ends_a_run_and_what_is_done_stays(gated):
    gated.start()
    gated.made(2, written=True)
    assert gated.propagation.busy
    assert (gated.propagation.progress.count, gated.saves) == (2, 1)
    assert 0 < gated.propagation.progress.fraction < 1
    volume = gated.editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volume.CopyContent(gated.editor.volume)
    volume.GetImageData().Modified()
    gated.node.SetAndObserveSourceVolumeNode(volume)
    kept = gated.mask()
    report, problem = gated.settle()
    assert "kept" in problem
    assert report.cancelled
    assert np.array_equal(gated.mask(), kept)


def test_a_network_that_fails_says_so_and_what_was_done_stays(gated):
    gated.start()
    gated.made(2, written=True)
    gated.network.failing = True
    report, problem = gated.settle()
    assert "ZeroDivisionError" in problem
    assert report.cancelled
    assert len(gated.slices()) == 3
    gated.network.failing = False
    gated.run()
    assert np.array_equal(gated.mask(), region(*STRUCTURE))


# What cannot be propagated ------------------------------------------------------------------------------------------


def tilt(place):
    turn = np.radians(20.0)
    place.view.SetSliceToRASByNTP(0.0, -np.sin(turn), np.cos(turn), 1.0, 0.0, 0.0, 17.0, 15.0, 7.0, 0)


def damage(place):
    place.editor.segment(place.segment).SetTag(ACCEPTED_TAG, "1damaged")


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (lambda place: place.add(region(*STRUCTURE)), {}, PromptError, "Accept slice"),
        (lambda place: place.mark(4), {}, PromptError, "are all empty"),
        (lambda place: place.accept(region(*STRUCTURE), 12, axis=1), {}, PromptError, "only in others"),
        (tilt, {}, GeometryError, r"20°.*Align view"),
        (lambda place: None, {"index_range": (16, 30)}, GeometryError, "holds no slice"),
        (damage, {}, FileFormatError, "accept its slices again"),
    ],
)
def test_what_cannot_be_propagated_is_refused_with_the_remedy(workplace, spoil, options, error, message):
    place = workplace()
    spoil(place)
    with pytest.raises(error, match=message):
        place.start(**options)
    assert not place.propagation.busy
    assert place.saves == 0


# Reports ------------------------------------------------------------------------------------------------------------


def test_reports_sum_up_several_segments_and_name_the_least_certain_slices():
    first = SegmentReport("a", "liver", made=2, confidence={3: 0.8, 4: 0.95, 5: 0.2, 6: 0.8})
    second = SegmentReport("b", "spleen", made=1, confidence={3: 0.6}, next_slice=7)
    assert (first.uncertain(), first.uncertain(most=1)) == ([(5, 0.2), (3, 0.8), (6, 0.8)], [(5, 0.2)])
    assert first.mean_confidence == pytest.approx(0.6875)
    report = PropagationReport(0, (first, second))
    assert (report.made, report.mean_confidence) == (3, pytest.approx(0.67))
    assert report.worth_correcting is second
    empty = PropagationReport(0, (SegmentReport("a", "liver"),))
    assert (empty.mean_confidence, empty.worth_correcting, empty.segments[0].uncertain()) == (None, None, [])
