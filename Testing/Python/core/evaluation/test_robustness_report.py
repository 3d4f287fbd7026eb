from __future__ import annotations

import csv
import re
import sys
import warnings

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, FileFormatError, MissingDependencyError
from scribblesegment.evaluation.robustness import FACTORS, RobustnessResult
from scribblesegment.evaluation.robustness_report import plot_robustness, robustness_table, write_robustness
from scribblesegment.evaluation.summary import Estimate

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def a_summary(methods=("default", "runs/best|one.safetensors"), factors=FACTORS):
    return {
        factor.name: {
            level: {method: Estimate(0.9 - 0.1 * m - 0.01 * n, 0.5, 0.95) for m, method in enumerate(methods)}
            for n, level in enumerate(factor.levels)
        }
        for factor in factors
    }


@pytest.fixture
def results():
    return [
        RobustnessResult(method, "off_target", level, "s", "s/t", subject, 0, 1, dice - level, 0.1)
        for subject, dice in (("a", 0.7), ("b", 0.9))
        for level in (0.0, 0.05)
        for method in ("default", "random-walker")
    ]


def pixels(path):
    return np.round(255 * pytest.importorskip("matplotlib.image").imread(path)[..., :3]).astype(int)


def test_every_factor_has_a_table_of_its_levels():
    table = robustness_table(a_summary(), skipped={"grabcut": "no OpenCV"})
    for factor in FACTORS:
        assert f"## {factor.title} ({factor.unit})" in table
    headers = [re.sub(" +", " ", line) for line in table.splitlines() if "method" in line]
    assert "| method | 0 % | 5 % | 10 % | 15 % | 20 % |" in headers
    assert "| method | no | yes |" in headers
    assert "| method | 1/8 | 1/4 | 1/2 | 1 | 2 | 4 |" in headers
    assert "0.890 [0.500, 0.950]" in table
    assert "runs/best\\|one.safetensors" in table
    assert "- grabcut: no OpenCV" in table


def test_the_defaults_of_the_other_factors_are_said():
    table = " ".join(robustness_table(a_summary()).split())
    assert "stroke thickness 5, number of positive strokes 1, off-target strokes 0 %, resolution 256" in table


def test_files_are_written_and_named(tmp_path, results, rng):
    pytest.importorskip("matplotlib")
    report = write_robustness(tmp_path / "out", results, rng, skipped={"grabcut": "no OpenCV"})
    assert [path.name for path in report.files] == ["results.csv", "table.md", "robustness.png"]
    assert all(path.is_file() for path in report.files)
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == report.table
    assert report.notes == ("grabcut was left out: no OpenCV",)
    assert "0.800" in report.table
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open(encoding="utf-8")))
    assert [float(row["dice"]) for row in rows] == [result.dice for result in results]
    assert (rows[2]["factor"], rows[2]["level"], rows[2]["method"]) == ("off_target", "0.05", "default")


def test_without_matplotlib_the_rest_is_written_and_the_note_says_what_to_install(tmp_path, results, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_robustness(tmp_path, results, rng)
    assert [path.name for path in report.files] == ["results.csv", "table.md"]
    assert "scribblesegment[evaluation]" in report.notes[0]
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        plot_robustness(tmp_path / "out.png", a_summary())


def test_the_picture_is_1200_pixels_wide_with_a_line_for_each_method(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_robustness(tmp_path / "two.png", a_summary())
        plot_robustness(tmp_path / "one.png", a_summary(methods=("default",)))
    two, one = pixels(tmp_path / "two.png"), pixels(tmp_path / "one.png")
    assert two.shape[1] == one.shape[1] == 1200

    def count(picture, color):
        return int((np.abs(picture - color).max(axis=2) < 30).sum())

    assert count(two, BLUE) > 2000
    assert count(two, ORANGE) > 2000
    assert count(one, ORANGE) == 0
    # Every one of the eight panels has its line: two rows of four.
    for row in np.array_split(two[60:], 2):
        for panel in np.array_split(row, 4, axis=1):
            assert count(panel, BLUE) > 100


def test_a_single_factor_makes_a_single_plot(tmp_path):
    plot_robustness(tmp_path / "out.png", a_summary(factors=FACTORS[:1]))
    assert pixels(tmp_path / "out.png").shape[1] == 300


def test_more_methods_than_can_be_told_apart_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="at most 6"):
        plot_robustness(tmp_path / "out.png", a_summary(methods=tuple("abcdefg")))


def test_nothing_to_show_is_refused(tmp_path, rng):
    for show in (robustness_table, lambda summary: plot_robustness(tmp_path / "out.png", summary)):
        with pytest.raises(ConfigError, match="nothing to show"):
            show({})
    with pytest.raises(ConfigError, match="no results"):
        write_robustness(tmp_path / "out", [], rng)


def test_a_file_in_the_folder_s_place_is_refused(tmp_path, results, rng):
    (tmp_path / "out").write_text("")
    with pytest.raises(FileFormatError, match="Choose another"):
        write_robustness(tmp_path / "out", results, rng)
