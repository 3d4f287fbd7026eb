from __future__ import annotations

import csv
import sys
from math import nan

import pytest

from scribblesegment.evaluation.propagation_cases import PropagationPlan
from scribblesegment.evaluation.propagation_protocol import CaseResult, PropagationResults, SliceScore
from scribblesegment.evaluation.propagation_report import count_wins, mean_over_structures, write_propagation


def a_case(method, structure, axis, dice, *, between=0.9, proposed=-1, corrected=nan, change=nan):
    return CaseResult(
        "set",
        "one",
        structure,
        axis,
        method,
        10,
        dice,
        between,
        dice,
        0.25,
        0.5,
        1.5,
        12.0 if method == "network" else nan,
        proposed,
        corrected,
        change,
    )


@pytest.fixture
def results():
    """Two structures: above both methods in the first, below interpolation in one axis of the second."""
    cases = [
        a_case("network", 1, "k", 0.9, proposed=4, corrected=0.95, change=0.02),
        a_case("shapes", 1, "k", 0.5),
        a_case("seeds", 1, "k", 0.8),
        a_case("network", 2, "k", 0.4, proposed=-1, corrected=0.4, change=0.0),
        a_case("shapes", 2, "k", 0.7),
        a_case("seeds", 2, "k", 0.1),
        a_case("network", 2, "j", 0.8, proposed=2, corrected=0.9, change=-0.01),
        a_case("shapes", 2, "j", 0.6, between=0.95),
        a_case("seeds", 2, "j", 0.3),
    ]
    slices = [
        SliceScore("set", "one", 1, "k", "network", run, index, part, position, 0.9, True)
        for run in ("first", "corrected")
        for index, part, position in ((3, "outside", 0.0), (5, "between", 0.5), (9, "beyond", 1.2))
    ]
    return PropagationResults(PropagationPlan(), ("network",), ("shapes", "seeds"), cases, slices, {"set/x": "tiny"})


def test_axes_of_a_structure_count_as_one(results):
    own = [case for case in results.cases if case.method == "network"]
    assert mean_over_structures(own, "dice", seed=0).mean == pytest.approx((0.9 + 0.6) / 2)
    assert mean_over_structures(own, "dice", seed=0) == mean_over_structures(own, "dice", seed=0)
    assert mean_over_structures(own[:1], "dice", seed=0).low == pytest.approx(0.9)
    others = [case for case in results.cases if case.method == "seeds"]
    assert mean_over_structures(others, "change_elsewhere", seed=0) is None


def test_wins_are_counted_by_structure(results):
    wins = count_wins(results, "network")
    assert wins.structures == 2
    assert wins.above == {"shapes": 1, "seeds": 2}
    assert wins.above_all == 1
    assert wins.above_all_between == 0  # equal is not above


def test_results_a_table_and_a_picture_are_left(results, tmp_path, rng):
    pytest.importorskip("matplotlib")
    report = write_propagation(tmp_path, results, rng, skipped={"other": "not there"})
    assert [path.name for path in report.files] == [
        "propagation_structures.csv",
        "propagation_slices.csv",
        "propagation_table.md",
        "dice_by_position.png",
    ]
    assert all(path.is_file() for path in report.files)
    assert len(list(csv.DictReader(report.files[0].open(encoding="utf-8")))) == 9
    assert len(list(csv.DictReader(report.files[1].open(encoding="utf-8")))) == 6
    for text in (
        "Structures: 2, with their axes: 3. Annotated are the slices at 25%, 50%, 75%",
        "1 of 2 (50%)",
        "2 of 2 (100%)",
        "2 of 3",
        "1 of 2  ",
        "+0.0075",
        "| 12.0",
        "- set/x: tiny.",
        "- other: not there",
    ):
        assert text in report.table
    assert report.notes == ("other was left out: not there",)


def test_without_matplotlib_there_is_a_note(results, tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_propagation(tmp_path, results, rng)
    assert len(report.files) == 3
    assert "dice_by_position.png" in report.notes[0]
