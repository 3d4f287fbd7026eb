"""Tests of scribblesegment.mrml.slice_segmenter: when a slice counts as accepted, and who is told."""

from __future__ import annotations

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.geometry import plane_through
from scribblesegment.errors import GeometryError
from scribblesegment.mrml.slice_segmenter import SliceAcceptance
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import ACCEPTED_TAG as TAG
from scribblesegment.mrml.tags import read_accepted
from scribblesegment.mrml.target import grid_slice, target_of


class User:
    """Works on the slices of one segment; remembers what was told to be finished."""

    def __init__(self, editor) -> None:
        self.editor = editor
        self.finished = []
        self.saves = 0
        self.acceptance = SliceAcceptance(save_state=self.save, on_finished=lambda *what: self.finished.append(what))
        self.target = target_of(editor.node, editor.segmentation_node, editor.add_segment(), SourceImages())
        editor.logic.ClearUndoState()

    def save(self):
        self.saves += 1
        self.editor.logic.SaveStateForUndo()

    def plane(self, index, axis=0):
        return grid_slice(self.target.reference.grid, axis, index)

    def accepted(self):
        return read_accepted(self.target.segment, self.target.reference.grid).indices

    def told(self):
        return [plane.voxel_slice for _, plane in self.finished]


@pytest.fixture
def user(an_editor):
    return User(an_editor)


@pytest.fixture
def an_oblique_plane(user):
    grid = user.target.reference.grid
    return plane_through(grid, grid.to_mm((3, 4, 5)), (0.3, 0.4, 1.0))


def test_a_written_result_is_accepted_without_an_undo_step_and_told_when_it_is_left(user):
    user.acceptance.written(user.target, user.plane(2))
    assert user.accepted() == ((2,), (), ())
    assert user.acceptance.is_accepted(user.target, user.plane(2))
    assert user.saves == 0
    user.acceptance.slice_viewed(user.target, user.plane(2))
    assert user.told() == []
    user.acceptance.slice_viewed(user.target, user.plane(3))
    user.acceptance.slice_viewed(user.target, user.plane(4))
    assert user.told() == [(0, 2)]


def test_leaving_for_no_slice_at_all_is_leaving(user):
    user.acceptance.written(user.target, user.plane(2, axis=1))
    user.acceptance.slice_viewed()
    assert user.told() == [(1, 2)]


def test_going_to_another_segment_on_the_same_slice_is_leaving(user):
    user.acceptance.written(user.target, user.plane(2))
    other = target_of(user.editor.node, user.editor.segmentation_node, user.editor.add_segment(), SourceImages())
    user.acceptance.slice_viewed(other, user.plane(2))
    assert user.told() == [(0, 2)]


def test_a_result_on_the_next_slice_finishes_the_one_before(user):
    user.acceptance.written(user.target, user.plane(2))
    user.acceptance.written(user.target, user.plane(2))
    assert user.told() == []
    user.acceptance.written(user.target, user.plane(3))
    assert user.told() == [(0, 2)]
    assert user.accepted() == ((2, 3), (), ())


def test_what_was_undone_meanwhile_is_not_told(user):
    user.save()
    user.acceptance.written(user.target, user.plane(2))
    user.editor.logic.Undo()
    user.acceptance.slice_viewed(user.target, user.plane(3))
    assert user.told() == []
    assert user.accepted() == ((), (), ())


def test_a_segment_that_was_removed_is_not_told(user):
    user.acceptance.written(user.target, user.plane(2))
    user.editor.segmentation.RemoveSegment(user.target.segment_id)
    user.acceptance.slice_viewed()
    assert user.told() == []


def test_accepting_is_an_undo_step_and_told_at_once(user):
    user.acceptance.accept(user.target, user.plane(2))
    assert user.accepted() == ((2,), (), ())
    assert user.told() == [(0, 2)]
    assert user.saves == 1
    user.editor.logic.Undo()
    assert user.accepted() == ((), (), ())


def test_accepting_again_is_no_undo_step_but_told_since_the_slice_may_have_changed(user):
    user.acceptance.accept(user.target, user.plane(2))
    user.acceptance.accept(user.target, user.plane(2))
    assert user.saves == 1
    assert user.told() == [(0, 2), (0, 2)]
    user.acceptance.slice_viewed()
    assert len(user.finished) == 2


def test_acceptance_is_taken_back_as_an_undo_step(user):
    user.acceptance.written(user.target, user.plane(2))
    assert user.acceptance.unaccept_slice(user.target, user.plane(2))
    assert user.accepted() == ((), (), ())
    user.acceptance.slice_viewed()
    assert user.told() == []
    user.editor.logic.Undo()
    assert user.accepted() == ((2,), (), ())
    assert not user.acceptance.unaccept_slice(user.target, user.plane(3))
    assert user.saves == 1


def test_an_oblique_slice_is_not_accepted_and_the_user_told(user, an_oblique_plane):
    user.acceptance.written(user.target, an_oblique_plane)
    assert not user.acceptance.is_accepted(user.target, an_oblique_plane)
    assert not user.acceptance.unaccept_slice(user.target, an_oblique_plane)
    with pytest.raises(GeometryError, match="Align view"):
        user.acceptance.accept(user.target, an_oblique_plane)
    assert user.saves == 0


def test_a_damaged_list_is_replaced_by_a_new_one(user):
    user.target.segment.SetTag(TAG, "1damaged")
    assert not user.acceptance.is_accepted(user.target, user.plane(2))
    user.acceptance.written(user.target, user.plane(3))
    assert user.accepted() == ((3,), (), ())


def test_forgetting_tells_nobody(user):
    user.acceptance.written(user.target, user.plane(2))
    user.acceptance.forget()
    user.acceptance.slice_viewed()
    assert user.told() == []
