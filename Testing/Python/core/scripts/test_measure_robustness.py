from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def measure():
    return load_script("measure_robustness")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[:, 8:22, 10:24] = 1
    np.savez(folder / "squares.npz", images=40 + 200 * labels, labels=labels, meta=json.dumps({"name": "squares"}))
    return folder


def run(measure, *arguments):
    return measure.main([str(argument) for argument in arguments])


def test_the_table_is_printed_and_the_files_are_named(measure, data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ("--data", data, "--methods", "random-walker", "--factors", "inverted", "strokes", "--per-set", 2)
    assert run(measure, *arguments, "-o", output) == 0
    printed = capsys.readouterr().out
    assert "## Contrast inversion" in printed
    assert "## Number of positive strokes" in printed
    assert "Stroke thickness (" not in printed
    assert "1.000 [1.000, 1.000]" in printed
    for name in ("results.csv", "table.md"):
        assert str(output / name) in printed
    rows = list(csv.DictReader((output / "results.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * (2 + 6)


def test_the_embedded_network_is_measured(measure, data, tmp_path):
    arguments = ("--data", data, "--methods", "default", "--factors", "inverted", "--per-set", 1, "--device", "cpu")
    assert run(measure, *arguments, "-o", tmp_path / "out") == 0
    assert "default" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "grabcat"), "No method 'grabcat'"),
        (("--factors", "hue"), "Unknown factors hue"),
        (("--data", "nowhere"), "nowhere"),
        (("--per-set", "0"), "per_set"),
    ],
)
def test_what_cannot_be_measured_ends_with_two(measure, data, tmp_path, capsys, arguments, message):
    defaults = ("--data", data, "--methods", "random-walker", "-o", tmp_path / "out")
    assert run(measure, *defaults, *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_data_the_option_is_named(measure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "DEFAULT_DATA", tmp_path / "nowhere")
    assert run(measure, "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "--data" in capsys.readouterr().err


def test_an_interruption_ends_with_130(measure, data, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure_robustness", interrupt)
    assert run(measure, "--data", data, "--methods", "random-walker", "-o", tmp_path / "out") == 130
    assert not list((tmp_path / "out").iterdir())
