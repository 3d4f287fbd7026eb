"""Tests of scribblesegment.mrml.propagation."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.propagation import PropagationReport, SegmentReport


def test_the_least_certain_slices_come_first_and_certain_ones_not_at_all():
    report = SegmentReport("s", "liver", confidence={3: 0.8, 4: 0.95, 5: 0.2, 6: 0.8})
    assert report.uncertain() == [(5, 0.2), (3, 0.8), (6, 0.8)]
    assert report.uncertain(most=1) == [(5, 0.2)]
    assert report.mean_confidence == pytest.approx(0.6875)


def test_several_segments_are_summed_up():
    first = SegmentReport("a", "liver", made=2, confidence={3: 0.8, 4: 1.0})
    second = SegmentReport("b", "spleen", made=1, confidence={3: 0.6}, next_slice=7)
    report = PropagationReport(0, (first, second))
    assert report.made == 3
    assert report.mean_confidence == pytest.approx(0.8)
    assert report.worth_correcting is second


def test_without_slices_there_is_no_confidence():
    report = PropagationReport(0, (SegmentReport("a", "liver"),))
    assert report.mean_confidence is None
    assert report.worth_correcting is None
    assert report.segments[0].uncertain() == []
