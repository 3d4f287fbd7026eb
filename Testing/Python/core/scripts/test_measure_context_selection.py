from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def measure():
    return load_script("measure_context_selection")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.zeros((8, 32, 32), np.uint8)
    labels[::2, 8:22, 2:12] = 1
    labels[1::2, 8:22, 20:30] = 1
    meta = {"name": "squares", "subjects": [f"s{n}" for n in range(8)]}
    np.savez(folder / "squares.npz", images=40 + 200 * labels, labels=labels, meta=json.dumps(meta))
    return folder


def run(measure, *arguments):
    return measure.main([str(argument) for argument in arguments])


def test_the_table_the_time_and_the_results_are_given(measure, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "_timing", lambda rng: "no time")
    arguments = ("--sets", data, "--volumes", tmp_path, "--limits", 2, "--targets", 3, "-o", tmp_path / "out.csv")
    assert run(measure, *arguments) == 0
    printed = capsys.readouterr().out
    assert "| images  | 2       | 1    | 3" in printed
    assert "no time" in printed
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert len(rows) == 3
    assert all(float(row["chosen"]) >= float(row["random"]) for row in rows)


def test_a_network_is_measured_by_its_name(measure, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "_timing", lambda rng: "no time")
    arguments = ("--sets", data, "--volumes", tmp_path, "--limits", 1, "--targets", 1)
    assert run(measure, *arguments, "--network", "context-unet-embedded") == 0
    assert "| images  | 1       | 1    | 1" in capsys.readouterr().out
    assert run(measure, *arguments, "--network", "no-such-network") == 2
    assert "no-such-network" in capsys.readouterr().err


def test_the_time_of_a_choice_is_told(measure):
    assert measure._timing(np.random.default_rng(0), entries=12, limit=4).startswith("Choosing 4 of 12 entries")


def test_an_error_is_one_line(measure, tmp_path, capsys):
    assert run(measure, "--sets", tmp_path, "--volumes", tmp_path) == 2
    assert "error: There are no sets" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(measure, data, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure_choice", interrupted)
    assert run(measure, "--sets", data) == 130
    assert "Interrupted" in capsys.readouterr().err
