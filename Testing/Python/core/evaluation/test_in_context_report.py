from __future__ import annotations

import csv
import sys

import pytest

from scribblesegment.errors import ConfigError, FileFormatError
from scribblesegment.evaluation.in_context_report import write_in_context
from scribblesegment.evaluation.in_context_sequences import SequencePlan, SequenceResult, Sequences
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, SizePlan, SizeResult, Sizes


def sequence_result(method, task, example, steps):
    set_name = task.partition("/")[0]
    return SequenceResult(
        "center-clicks", method, set_name, task, "p", example, 0, example, steps, True, 0.5, 0.92, 3.0, 0.9, 0.2
    )


@pytest.fixture
def sequences():
    results = [
        sequence_result(method, task, example, steps)
        for method, steps in (("alone", 4), ("context", 3))
        for task in ("a/x", "b/y")
        for example in (1, 2)
    ]
    plan = SequencePlan(("center-clicks",), images=2, simulations=1)
    return Sequences(plan, "alone", results, [("center-clicks", "label-transfer")])


@pytest.fixture
def sizes():
    def result(procedure, method, size, step, dice):
        return SizeResult(procedure, method, "a", "a/x", "p", 0, 0, size, step, dice, 0.5)

    results = [
        result("center-clicks", "alone", 0, 1, 0.6),
        *(result(CONTEXT_ALONE, "context", size, 0, 0.1 * size) for size in (1, 4)),
        *(result("center-clicks", "context", size, 1, 0.7) for size in (1, 4)),
    ]
    return Sizes(SizePlan(sizes=(1, 4), corrected_sizes=(1, 4), procedures=("center-clicks",)), "alone", results)


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_both_experiments_leave_results_a_table_and_pictures(sequences, sizes, tmp_path, rng):
    pytest.importorskip("matplotlib")
    report = write_in_context(tmp_path, rng, sequences=sequences, sizes=sizes, left_out={"a/w": "too few"})
    assert {path.name for path in report.files} == {
        "in_context_sequences.csv",
        "in_context_sizes.csv",
        "in_context_table.md",
        "steps_by_example_center-clicks.png",
        "dice_by_context_size.png",
        "dice_by_step_in_context.png",
    }
    assert all(path.is_file() for path in report.files)
    assert len(rows(tmp_path / "in_context_sequences.csv")) == 8
    assert len(rows(tmp_path / "in_context_sizes.csv")) == 5
    assert (tmp_path / "in_context_table.md").read_text(encoding="utf-8") == report.table
    assert report.notes == ()


def test_the_table_of_sequences_tells_the_change_and_the_worst_set(sequences, tmp_path, rng):
    table = write_in_context(tmp_path, rng, sequences=sequences).table
    line = next(line for line in table.splitlines() if line.startswith("| context") and "-25%" in line)
    assert "6.0 [6.0, 6.0]" in line
    assert "-25% [-25, -25]" in line
    assert "a -25%" in line
    assert "| 8.0" in table
    assert "6.0 (-25%)" in table
    assert "each gone through once" in table
    assert "label-transfer does not understand clicks: not in center-clicks" in table
    assert "Dice by context size" not in table


def test_the_table_of_sizes_has_a_row_for_each_size_that_is_corrected(sizes, tmp_path, rng):
    table = write_in_context(tmp_path, rng, sizes=sizes, left_out={"a/w": "too few"}).table
    assert "0.400 [0.400, 0.400]" in table
    corrected = [line for line in table.splitlines() if "0.700 [0.700, 0.700]" in line]
    assert [line.split("|")[2].strip() for line in corrected] == ["1 (1)", "4 (1)"]
    assert "| alone   | 0 (1)           |                      | 0.600" in table
    assert "- a/w: too few." in table


def test_without_matplotlib_there_are_notes(sequences, sizes, tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_in_context(tmp_path, rng, sequences=sequences, sizes=sizes)
    assert [path.suffix for path in report.files] == [".csv", ".csv", ".md"]
    assert len(report.notes) == 3


def test_nothing_to_report_and_a_bad_folder_are_refused(sequences, tmp_path, rng):
    with pytest.raises(ConfigError, match="no results"):
        write_in_context(tmp_path, rng)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError):
        write_in_context(tmp_path / "file", rng, sequences=sequences)
