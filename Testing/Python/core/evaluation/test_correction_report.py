from __future__ import annotations

import csv
import json

import pytest
from correction_study import course, tiny_study

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_report import write_study

VARIANTS = (Variant("refinement"), Variant("painting", kind="painting"))


def results():
    rows = []
    for shift in ("none", "contrast"):
        for subject in ("a", "b"):
            rows += course(0.3, 0.6, 0.9, variant="refinement", shift=shift, subject=subject, image_index=ord(subject))
            rows += course(0.3, 0.4, 0.5, variant="painting", shift=shift, subject=subject, image_index=ord(subject))
    return rows


def test_every_method_has_its_row_and_its_figures(tmp_path):
    report = write_study(tmp_path, tiny_study(*VARIANTS), results())
    assert "## Correction" in report.table
    assert "### shapes, drawn: contrast shift" in report.table
    assert "+0.600 [+0.600, +0.600]" in report.table
    assert "0.900 [0.900, 0.900]" in report.table
    assert [path.name for path in report.files] == [
        "refinement_rounds.csv",
        "refinement_table.md",
        "refinement_summary.json",
        "refinement_main.png",
    ]
    assert len(list(csv.DictReader(report.files[0].open(encoding="utf-8")))) == 24
    figures = json.loads(report.files[2].read_text(encoding="utf-8"))["main"]
    assert figures["refinement"]["shifted"]["gain"]["mean"] == pytest.approx(0.6)
    assert figures["painting"]["shapes, none"]["dice"][2]["mean"] == pytest.approx(0.5)
    assert figures["refinement"]["all"]["interactions_to_target"]["mean"] == 2
    assert figures["painting"]["all"]["target_reached"]["mean"] == 0
    assert figures["refinement"]["all"]["cost"]["runs"] == 8


@pytest.mark.parametrize(("axis", "option"), [("layers", {"options": {"layers": 2}}), ("length", {"length": 16})])
def test_variants_may_lie_along_an_axis(tmp_path, axis, option):
    variants = (Variant("refinement", **option), Variant("painting", growing=False, **option))
    config = tiny_study(*variants, axis=axis)
    report = write_study(tmp_path, config, results())
    assert (tmp_path / "refinement_main.png").stat().st_size > 1000
    assert "### shapes" not in report.table


def test_an_experiment_without_results_is_left_out(tmp_path):
    rows = [entry for entry in results() if entry.shift == "none"]
    table = write_study(tmp_path, tiny_study(*VARIANTS), rows).table
    assert "contrast" not in table
    with pytest.raises(ConfigError, match="no results"):
        write_study(tmp_path, tiny_study(*VARIANTS), [])


def test_without_matplotlib_the_tables_are_still_written(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_study(tmp_path, tiny_study(*VARIANTS), results())
    assert len(report.files) == 3
    assert "refinement_main.png" in report.notes[0]
