from __future__ import annotations

import csv
import dataclasses
import sys

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, FileFormatError
from scribblesegment.evaluation.datasets import read_scribble_sets
from scribblesegment.evaluation.protocols import ExampleResult, run_manual_scribbles
from scribblesegment.evaluation.report import make_folder, manual_lines, write_report
from scribblesegment.evaluation.summary import Estimate, MethodSummary, Scores
from scribblesegment.evaluation.tables import csv_text


def scores(dice, distance):
    surface = Estimate(dice / 2, 0.0, 1.0)
    return Scores(Estimate(dice, dice - 0.1, dice + 0.1), Estimate(distance, distance - 1, distance + 1), surface)


def summary(method, dice, distance):
    return MethodSummary(method, {"CAMUS": scores(dice, distance)}, scores(dice / 2, distance / 2), 12, 0.25, {})


def markdown_table(summaries):
    return "\n".join(manual_lines(summaries))


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


def test_surface_dice_and_time_are_shown():
    table = markdown_table([summary("default", 0.8, 6.0)])
    assert cells(table, "Surface Dice at 1 mm")[2] == [
        "default",
        "**0.200** [0.000, 1.000]",
        "**0.400** [0.000, 1.000]",
    ]
    assert cells(table, "Time")[2] == ["default", "250"]


def test_a_bar_in_a_name_does_not_break_the_table():
    table = markdown_table([summary("a|b", 0.8, 6.0)])
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert any("a\\|b" in row for row in rows)
    assert len({row.replace("\\|", "").count("|") for row in rows[:3]}) == 1


def test_nothing_to_tabulate_is_refused():
    with pytest.raises(ConfigError, match="no results"):
        markdown_table([])


def test_every_result_is_a_line_of_the_csv():
    result = ExampleResult("a, b", "CAMUS", 'patient "1"', 2, 1, 0.25, 7.5, 0.5, 0.125, "no way")
    (row,) = csv.DictReader(csv_text(ExampleResult, [result]).splitlines())
    assert row == {
        "method": "a, b",
        "task": "CAMUS",
        "subject": 'patient "1"',
        "image_index": "2",
        "annotator": "1",
        "dice": "0.25",
        "hausdorff95_mm": "7.5",
        "surface_dice": "0.5",
        "seconds": "0.125",
        "failure": "no way",
    }


@pytest.fixture
def simulation(simulate):
    procedures = ("centerline-scribbles", "boxes")
    return simulate({(p, m, "a"): [0.5, 0.9][: 1 + (p != "boxes")] for p in procedures for m in ("bright", "strokes")})


def test_a_report_of_both_protocols_is_written_and_says_where(evaluation, simulation, tmp_path, rng):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "out"
    report = write_report(folder, rng, manual=evaluation, simulation=simulation, skipped={"grabcut": "no OpenCV."})
    assert [path.name for path in report.files] == [
        "manual_scribbles.csv",
        "simulated_steps.csv",
        "table.md",
        "predictions.png",
        "dice_by_step.png",
        "hd95_by_step.png",
        "surface_dice_by_step.png",
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in report.files)
    manual, steps, table, *pictures = (path.read_bytes() for path in report.files)
    assert len(manual.splitlines()) == 1 + 2 * 2 * 2 * 2
    assert len(steps.splitlines()) == 1 + 2 * 2 + 2
    assert table.decode() == report.table
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert report.notes == ("grabcut was left out: no OpenCV.",)
    assert cells(report.table, "Dice")[2][1] == "**1.000** [1.000, 1.000]"
    assert report.table.index("# Manual scribbles") < report.table.index("# Simulated prompts")
    assert report.table.endswith("## Left out\n\n- grabcut: no OpenCV.\n")


def test_one_protocol_alone_is_reported_alone(evaluation, simulation, tmp_path, rng):
    manual = write_report(tmp_path / "manual", rng, manual=evaluation)
    assert "Simulated" not in manual.table
    assert not any("step" in path.name for path in manual.files)
    simulated = write_report(tmp_path / "simulated", rng, simulation=simulation)
    assert "Manual" not in simulated.table
    assert not any(path.name in ("manual_scribbles.csv", "predictions.png") for path in simulated.files)


def test_without_curves_there_are_no_pictures_of_curves(simulate, tmp_path, rng):
    report = write_report(tmp_path, rng, simulation=simulate({("boxes", "one", "a"): [0.5]}))
    assert [path.name for path in report.files] == ["simulated_steps.csv", "table.md"]
    assert report.notes == ()


def test_failures_are_reported_under_their_protocol(evaluation, simulation, tmp_path, rng):
    manual = dataclasses.replace(
        evaluation, results=[dataclasses.replace(result, failure="no ink") for result in evaluation.results]
    )
    steps = dataclasses.replace(
        simulation, results=[dataclasses.replace(result, failure="no way") for result in simulation.results]
    )
    table = write_report(tmp_path, rng, manual=manual, simulation=steps).table
    assert "- bright, 8 predictions: no ink" in table.split("# Simulated")[0]
    boxes = table.split("## Failures, boxes")[1]
    assert "- strokes, 1 prediction: no way" in boxes


def test_the_same_results_give_the_same_table(evaluation, simulation, tmp_path):
    first, second = (
        write_report(tmp_path, np.random.default_rng(5), manual=evaluation, simulation=simulation) for _ in range(2)
    )
    assert first.table == second.table


def test_without_matplotlib_the_figures_are_written_all_the_same(evaluation, simulation, tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_report(tmp_path / "out", rng, manual=evaluation, simulation=simulation)
    assert [path.name for path in report.files] == ["manual_scribbles.csv", "simulated_steps.csv", "table.md"]
    assert [note.split(":")[0] for note in report.notes] == [
        "There is no predictions.png",
        "There is no dice_by_step.png",
        "There is no hd95_by_step.png",
        "There is no surface_dice_by_step.png",
    ]
    assert "matplotlib" in report.notes[0]


def test_nothing_to_report_is_refused(tmp_path, rng):
    with pytest.raises(ConfigError, match="no results to report"):
        write_report(tmp_path, rng)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        make_folder(tmp_path / "file" / "out")
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        make_folder(tmp_path / "file")
