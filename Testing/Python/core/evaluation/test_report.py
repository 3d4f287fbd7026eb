from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from scribblesegment.evaluation.datasets import read_scribble_sets
from scribblesegment.evaluation.protocols import ExampleResult, run_manual_scribbles
from scribblesegment.evaluation.report import make_folder, markdown_table, results_csv, write_report
from scribblesegment.evaluation.summary import Estimate, MethodSummary, Scores
from scribblesegment.exceptions import ConfigError, FileFormatError


def scores(dice, distance):
    return Scores(Estimate(dice, dice - 0.1, dice + 0.1), Estimate(distance, distance - 1, distance + 1))


def summary(method, dice, distance):
    return MethodSummary(method, {"CAMUS": scores(dice, distance)}, scores(dice / 2, distance / 2), 12, 0.25)


@pytest.fixture
def evaluation(write_set, tmp_path):
    write_set("a")
    write_set("b")
    methods = {"bright": lambda image, _: image > 0.5, "strokes": lambda _, scribbles: scribbles[0] > 0}
    return run_manual_scribbles(read_scribble_sets(tmp_path / "data"), methods)


def cells(table, title):
    """Rows of the Markdown table under a heading, as lists of cells."""
    section = table.split(f"## {title}", 1)[1].split("##", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]


def test_tables_show_each_method_and_task_with_its_interval():
    table = markdown_table([summary("default", 0.8, 6.0), summary("other", 0.7, 4.0)])
    assert cells(table, "Dice")[0] == ["method", "mean of tasks", "CAMUS"]
    assert cells(table, "Dice")[2:] == [
        ["default", "**0.400** [0.300, 0.500]", "**0.800** [0.700, 0.900]"],
        ["other", "0.350 [0.250, 0.450]", "0.700 [0.600, 0.800]"],
    ]
    assert "12 examples" in table


def test_the_best_is_the_highest_dice_and_the_lowest_distance():
    table = markdown_table([summary("default", 0.8, 6.0), summary("other", 0.7, 4.0)])
    distances = cells(table, "95 % Hausdorff distance")
    assert [row[2] for row in distances[2:]] == ["6.0 [5.0, 7.0]", "**4.0** [3.0, 5.0]"]


def test_methods_that_look_equal_are_both_best():
    table = markdown_table([summary("one", 0.80001, 6.0), summary("two", 0.8, 6.0)])
    assert all(row[2].startswith("**0.800**") for row in cells(table, "Dice")[2:])


def test_a_method_left_out_is_named_with_the_reason():
    table = markdown_table([summary("default", 0.8, 6.0)], skipped={"grow-from-seeds": "no slicer-core."})
    assert table.endswith("## Left out\n\n- grow-from-seeds: no slicer-core.\n")


def test_a_bar_in_a_name_does_not_break_the_table():
    table = markdown_table([summary("a|b", 0.8, 6.0)])
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert any("a\\|b" in row for row in rows)
    assert len({row.replace("\\|", "").count("|") for row in rows[:3]}) == 1


def test_nothing_to_tabulate_is_refused():
    with pytest.raises(ConfigError, match="no results"):
        markdown_table([])


def test_every_result_is_a_line_of_the_csv():
    result = ExampleResult("a, b", "CAMUS", 'patient "1"', 2, 1, 0.25, 7.5, 0.125)
    (row,) = csv.DictReader(results_csv([result]).splitlines())
    assert row == {
        "method": "a, b",
        "task": "CAMUS",
        "subject": 'patient "1"',
        "image_index": "2",
        "annotator": "1",
        "dice": "0.25",
        "hausdorff95_mm": "7.5",
        "seconds": "0.125",
    }


def test_a_report_is_written_and_says_where(evaluation, tmp_path, rng):
    pytest.importorskip("matplotlib")
    report = write_report(tmp_path / "new" / "out", evaluation, rng, skipped={"grabcut": "no OpenCV."})
    assert [path.name for path in report.files] == ["results.csv", "table.md", "predictions.png"]
    assert all(path.parent == tmp_path / "new" / "out" for path in report.files)
    results, table, picture = (path.read_bytes() for path in report.files)
    assert len(results.splitlines()) == 1 + 2 * 2 * 2 * 2
    assert table.decode() == report.table
    assert picture.startswith(b"\x89PNG")
    assert report.notes == ("grabcut was left out: no OpenCV.",)
    assert cells(report.table, "Dice")[2][1] == "**1.000** [1.000, 1.000]"


def test_the_same_evaluation_gives_the_same_table(evaluation, tmp_path):
    first, second = (write_report(tmp_path, evaluation, np.random.default_rng(5)) for _ in range(2))
    assert first.table == second.table


def test_without_matplotlib_the_figures_are_written_all_the_same(evaluation, tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_report(tmp_path / "out", evaluation, rng)
    assert [path.name for path in report.files] == ["results.csv", "table.md"]
    assert "matplotlib" in report.notes[0]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        make_folder(tmp_path / "file" / "out")
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        make_folder(tmp_path / "file")
