from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.corrections import Meaning, names_of_new_labels, segment_meanings, without_gaps

LABELS = ("background", "Liver", "Tumour")


@pytest.fixture
def painted(an_editor, box):
    """Adds a segment of a name, with a few voxels unless it is to be empty."""

    def add(name, *, empty=False, own_layer=False):
        corner = an_editor.segmentation.GetNumberOfSegments()
        mask = None if empty else box(((0, 1), (0, 1), (corner, corner + 1)))
        segment_id = an_editor.add_segment(mask, own_layer=own_layer)
        an_editor.segment(segment_id).SetName(name)
        return segment_id

    return add


def meanings(editor, **how):
    return [(row.name, row.meaning, row.label) for row in segment_meanings(editor.segmentation_node, LABELS, **how)]


def test_segments_stand_for_the_labels_of_their_names(an_editor, painted):
    for name in ("Tumour", "Background", "Liver"):
        painted(name)
    assert meanings(an_editor) == [
        ("Tumour", Meaning.LABEL, 2),
        ("Background", Meaning.LABEL, 0),
        ("Liver", Meaning.LABEL, 1),
    ]


def test_case_and_blanks_around_a_name_do_not_matter(an_editor, painted):
    painted("  LIVER ")
    assert meanings(an_editor) == [("  LIVER ", Meaning.LABEL, 1)]


def test_the_background_is_known_by_the_networks_name_for_it_and_by_its_plain_name(an_editor, painted):
    painted("Background")
    painted("nothing")
    rows = segment_meanings(an_editor.segmentation_node, ("nothing", "Liver"))
    assert [row.label for row in rows] == [0, 0]


def test_other_names_become_new_labels_in_the_order_of_the_segments(an_editor, painted):
    for name in ("Cyst", "Liver", "Vessel"):
        painted(name)
    assert meanings(an_editor) == [
        ("Cyst", Meaning.NEW_LABEL, 3),
        ("Liver", Meaning.LABEL, 1),
        ("Vessel", Meaning.NEW_LABEL, 4),
    ]
    rows = segment_meanings(an_editor.segmentation_node, LABELS)
    assert names_of_new_labels(rows) == {3: "Cyst", 4: "Vessel"}


def test_segments_of_one_name_are_one_new_label(an_editor, painted):
    for name in ("Cyst", "cyst ", "Vessel"):
        painted(name)
    rows = segment_meanings(an_editor.segmentation_node, LABELS)
    assert [row.label for row in rows] == [3, 3, 4]
    assert names_of_new_labels(rows) == {3: "Cyst", 4: "Vessel"}


def test_other_names_are_ignored_where_new_labels_are_not_wanted(an_editor, painted):
    painted("Cyst")
    painted("Liver")
    assert meanings(an_editor, new_labels=False) == [
        ("Cyst", Meaning.IGNORED, None),
        ("Liver", Meaning.LABEL, 1),
    ]


def test_a_new_label_needs_something_painted(an_editor, painted):
    painted("Cyst", empty=True)
    painted("Vessel")
    assert meanings(an_editor) == [("Cyst", Meaning.EMPTY, None), ("Vessel", Meaning.NEW_LABEL, 3)]


@pytest.mark.parametrize("own_layer", [False, True])
def test_an_empty_segment_is_told_from_one_with_voxels(an_editor, painted, own_layer):
    painted("Tumour", own_layer=own_layer)
    painted("Liver", empty=True)
    rows = segment_meanings(an_editor.segmentation_node, LABELS)
    assert [row.is_empty for row in rows] == [False, True]


def test_of_two_labels_of_one_name_the_first_counts(an_editor, painted):
    painted("Lobe")
    rows = segment_meanings(an_editor.segmentation_node, ("background", "Lobe", "Lobe"))
    assert [row.label for row in rows] == [1]


def test_a_segmentation_without_segments_says_nothing(an_editor):
    assert segment_meanings(an_editor.segmentation_node, LABELS) == ()


def test_new_labels_that_a_slice_lacks_leave_no_gap():
    painted = np.array([[-1, 0, 4], [5, 2, -1]], np.int16)
    names = {3: "Cyst", 4: "Vessel", 5: "Node"}
    numbered, left = without_gaps(painted, 3, names)
    assert numbered.tolist() == [[-1, 0, 3], [4, 2, -1]]
    assert left == {3: "Vessel", 4: "Node"}
    assert painted[0, 2] == 4


def test_without_gaps_nothing_changes():
    painted = np.array([[-1, 3], [4, 2]], np.int16)
    numbered, left = without_gaps(painted, 3, {3: "Cyst", 4: "Vessel"})
    assert numbered is painted
    assert left == {3: "Cyst", 4: "Vessel"}
    assert without_gaps(painted[:, :0], 3, {3: "Cyst"})[1] == {}
