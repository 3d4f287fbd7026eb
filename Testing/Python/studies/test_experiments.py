"""Every experiment from the command line, on two tiny sets; a second run goes on from the first."""

from __future__ import annotations

import pandas as pd
import pytest

from scribblesegment.weights.checkpoints import load_network
from scribblesegment.weights.registry import weights_file
from studies import data, refinement
from studies.__main__ import main
from studies.common import read_rows

WITHOUT_NETWORK = ["--methods", "random-walker"]


def run(tmp_path, name, folder, *options, rows=True):
    assert main([name, "-o", str(tmp_path), "--data", str(folder), *map(str, options)]) == 0
    return read_rows(tmp_path / f"{name}.csv") if rows else None, (tmp_path / f"{name}.md").read_text("utf-8")


def test_manual_scribbles_are_measured_once_and_joined_by_further_methods(tmp_path, sets, network):
    rows, text = run(tmp_path, "manual", sets, "--methods", network)
    assert len(rows) == 3  # of four, an annotator drew nothing
    assert set(rows.method) == {"make"}
    assert rows.dice.min() > 0.85
    more, text = run(tmp_path, "manual", sets, "--methods", network, "random-walker", "grabcut")
    pd.testing.assert_frame_equal(more[more.method == "make"], rows)  # with its seconds: not measured again
    assert len(more) == 9
    assert "| make " in text
    assert "random-walker" in text
    assert (tmp_path / "predictions.png").stat().st_size > 10_000
    shown = data.manual_examples(sets, include_only=True)
    assert all(one.scribbles[0].any() and not one.scribbles[1].any() for one in shown)


def test_what_is_plain_to_see_is_measured_by_the_stroke(tmp_path, sets):
    rows, text = run(tmp_path, "manual", sets, "--plain", "--per-set", 2, "--methods", "grow-from-seeds")
    assert rows.groupby("set").dice.count().to_dict() == {
        name: 2 for name in ("dot", "half", "three quarters", "half and beside")
    }
    assert "# Plain ellipses, 8 examples" in text
    for one in data.plain_examples(per_set=2):
        assert not (one.scribbles[0] > one.reference).any()
        assert not (one.scribbles[1] * one.reference).any()


def test_simulated_prompts_come_to_the_target(tmp_path, sets, network):
    options = ["--per-set", 2, "--steps", 3, "--most-steps", 4, "--procedures"]
    options += ["centerline-scribbles", "line-scribbles", "contour-scribbles", "center-clicks", "random-clicks"]
    rows, text = run(
        tmp_path, "simulated", sets, "--methods", network, "grabcut", *options, "warm-start-clicks", "boxes"
    )
    assert rows.procedure.nunique() == 7
    assert set(rows[rows.procedure == "boxes"].step) == {1}
    assert rows.step.max() in (3, 4)
    assert rows[rows.step == 3].dice.mean() > 0.6
    assert "## Steps to 90 % Dice" in text
    assert "## Sets on which a method is best, center-clicks, step 3" in text
    assert (tmp_path / "surface_dice_by_step.png").exists()


def test_sequences_and_sizes_are_measured_in_context(tmp_path, sets, network):
    options = ["--alone", network, "--images", 3, "--tasks-per-set", 1, "--methods", network]
    rows, text = run(tmp_path, "sequences", sets, *options, "--simulations", 1, "--least-confidence", 0.99)
    assert rows.groupby(["procedure", "task", "method"]).context.agg(list).tolist() == [[1, 2, 3]] * 8
    assert rows.steps.notna().all()
    assert "## Change against the method alone" in text
    sizes = ["--sizes", 1, 2, "--corrected", 0, 2, "--steps", 2, "--targets", 2, "--draws", 1]
    rows, text = run(tmp_path, "sizes", sets, *options, "label-fusion", *sizes)
    alone = rows[rows.procedure == "context-alone"]
    assert set(alone.step) == {0}
    assert set(alone.method) == {"make", "label-fusion"}
    assert set(rows[rows.method == "make alone"].context) == {0}
    assert "## context-alone" in text


def test_propagation_starts_from_three_slices_and_from_one(tmp_path, volumes, network):
    rows, text = run(tmp_path, "propagation", volumes, "--methods", network, "--per-volume", 1, "--one-axis")
    assert set(rows.procedure) == {"three slices", "one slice"}
    assert set(rows.part) >= {"between", "outside", "beyond"}
    first = rows[(rows.step == 0) & (rows.procedure == "three slices") & (rows.part == "between")]
    assert first[first.method == "make"].dice.mean() > 0.9
    assert first[first.method == "interpolation"].dice.mean() > 0.8
    for title in ("False extent", "Missed extent", "Dice after one correction", "best, one slice"):
        assert title in text


def test_strokes_in_one_slice_are_followed_and_grown_and_corrected_where_it_is_proposed(tmp_path, volumes, network):
    pytest.importorskip("slicer", reason="needs slicer-core")
    rows, text = run(tmp_path, "follow", volumes, "--methods", network, "--corrections", 1)
    assert set(zip(rows.method, rows.step, strict=True)) == {
        (method, step) for method in ("make", "grow-from-seeds (make)") for step in (0, 1)
    }
    assert rows[rows.method == "make"].dice.min() > 0.9
    assert rows[rows.method != "make"].dice.between(0.01, 1).all()
    assert "best, after 1 corrections" in text


def test_absence_goes_through_what_a_batch_accepts(tmp_path, sets, network):
    rows, text = run(tmp_path, "absence", sets, "--methods", network, "--entries", 1)
    halves = rows.groupby("task").part.value_counts().unstack()
    assert halves.loc["cells/objects"].tolist() == [5, 5]
    assert halves.loc["discs/other"].tolist() == [4, 4]
    cells = rows[rows.task == "cells/objects"]
    assert cells[cells.part == "present"].found.eq(1).all()
    assert "## Images in which something was found" in text


def test_robustness_changes_one_thing_at_a_time(tmp_path, sets):
    factors = ["thickness", "strokes", "off_target", "resolution", "noise", "inverted", "gamma", "contrast"]
    rows, text = run(tmp_path, "robustness", sets, *WITHOUT_NETWORK, "--per-set", 1, "--factors", *factors)
    assert len(rows) == 2 * 39
    assert all(f"## {factor}" in text for factor in factors)
    default = rows[rows.apply(lambda row: row.level == {"thickness": "5", "gamma": "1.0"}.get(row.procedure), axis=1)]
    assert default.groupby("task").dice.nunique().eq(1).all()


def test_calibration_is_told_with_and_without_context_and_written(tmp_path, sets, network):
    run(
        tmp_path, "calibration", sets, "--methods", network, "--per-set", 2, "--steps", 2, "--context", 0, 2, rows=False
    )
    rows = pd.read_csv(tmp_path / "calibration.csv")
    assert set(rows.context) == {0, 2}
    assert rows.ece.between(0, 1).all()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cells.npz").write_bytes((sets / "cells.npz").read_bytes())
    weights, options = weights_file("default"), ["--per-set", 4, "--steps", 2, "--context", 0]
    options += ["--weights", weights, "--write", tmp_path / "new.safetensors"]
    run(tmp_path, "calibration", tmp_path / "train", *options, rows=False)
    old, new = (load_network(path)[1].temperature for path in (weights, tmp_path / "new.safetensors"))
    assert old != new


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["manual", "--data", "NOWHERE"], "Name the folder that does by --data"),
        (["propagation", "--data", "NOWHERE"], "No volumes"),
        (["manual", "--methods", "nothing"], "No method 'nothing'"),
        (["manual", "--methods", "nothing.py:make"], "no file nothing.py"),
        (["manual", "--methods"], "There is no method to measure"),
        (["simulated", "--per-set", "0"], "at least 1"),
        (["sequences", "--methods", "random-walker", "--alone", "label-fusion", "--images", "3"], "no scribbles"),
        (["sequences", "--images", "99"], "Ask for fewer"),
        (["absence", "--methods", "random-walker", "--entries", "1"], "no network among the methods"),
        (["absence", "--entries", "99"], "Ask for fewer"),
        (["calibration", "--methods", "random-walker"], "no probabilities"),
        (["calibration", "--write", "FILE"], "figures are reported on this data"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(tmp_path, sets, capsys, options, message):
    data = [] if "--data" in options else ["--data", str(sets)]
    assert main([*options, *data, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_small_study_of_refinement_corrects_what_it_trained(tmp_path, training_set, network, monkeypatch):
    options = ["--methods", network, "--tasks", "lumbar_mri", "--per-set", 1, "--training-steps", 2]
    monkeypatch.setattr(refinement, "LEAST_PIXELS", 400)
    rows, text = run(tmp_path, "refinement", training_set, *options)
    last = rows[rows.step == 5].set_index(["procedure", "method"])
    assert len(last) == 16
    assert (last.violations.xs("painting", level="method") == 0).all()
    assert "interactive from the result" in text
