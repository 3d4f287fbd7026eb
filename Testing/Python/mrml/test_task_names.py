"""Tests of scribblesegment.mrml.target: under which name a segment's context set is kept."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.target import choose_task, kept_task, task_of


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
