from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scribblesegment import LabelVolume, PromptError, Segment
from scribblesegment.commands.corrections_file import network_corrections

KNOWN = ("background", "Liver", "left kidney")
FILE = Path("fix.seg.nrrd")


def corrections(values, segments=(), *, background=255, new_labels=None):
    painted = LabelVolume(np.array([[values]]), np.eye(4), tuple(segments))
    return network_corrections(painted, FILE, KNOWN, background=background, new_labels=new_labels or {})


def a_segment(label, name, color=(0.5, 0.5, 0.5)):
    return Segment(label, name, color)


def test_values_are_the_networks_numbers_and_0_marks_nothing():
    found = corrections([0, 1, 2, 255, 0])
    assert found.labels.tolist() == [[[-1, 1, 2, 0, -1]]]
    assert found.labels.dtype == np.int16
    assert not found.new_names


def test_the_value_of_the_background_can_be_chosen():
    assert corrections([0, 1, 9], background=9).labels.tolist() == [[[-1, 1, 0]]]
    assert corrections([0, 1, 2], background=1).labels.tolist() == [[[-1, 0, 2]]]


def test_a_segment_with_a_labels_name_is_that_label_whatever_its_number_and_case():
    found = corrections([1, 2, 3], [a_segment(1, "Left Kidney "), a_segment(2, "liver"), a_segment(3, "BACKGROUND")])
    assert found.labels.tolist() == [[[2, 1, 0]]]


def test_a_segment_with_another_name_goes_by_its_number():
    assert corrections([1, 2], [a_segment(1, "Segment_1"), a_segment(2, "mine")]).labels.tolist() == [[[1, 2]]]


def test_new_labels_are_numbered_after_the_networks_in_the_order_of_their_values():
    found = corrections([1, 90, 40, 0], new_labels={90: "tumour", 40: " cyst "})
    assert found.labels.tolist() == [[[1, 4, 3, -1]]]
    assert found.new_names == {3: "cyst", 4: "tumour"}


def test_colours_go_with_the_labels_that_segments_mean():
    segments = [a_segment(1, "left kidney", (0.1, 0.2, 0.3)), a_segment(7, "cyst", (1.0, 0.0, 0.0))]
    assert corrections([1, 7], segments, new_labels={7: "cyst"}).colors == {2: (0.1, 0.2, 0.3), 3: (1.0, 0.0, 0.0)}


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, 0], {}, "holds no correction"),
        ([3], {}, r"asks for label 3, .* 0 background, 1 Liver, 2 left kidney.*--new-label 3=NAME"),
        ([1, 2], {"new_labels": {2: "cyst"}}, "is the network's 'left kidney'"),
        ([255], {"new_labels": {255: "cyst"}}, "marks the background"),
        ([1], {"new_labels": {5: "cyst"}}, "nowhere painted"),
        ([5], {"new_labels": {5: " "}}, "has no name"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, options, message):
    with pytest.raises(PromptError, match=message):
        corrections(values, **options)
