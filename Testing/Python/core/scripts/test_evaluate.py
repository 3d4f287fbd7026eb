from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    images = np.full((1, 16, 16), 40, np.uint8)
    images[:, 4:10, 4:10] = 255
    scribbles = np.zeros((1, 2, 2, 16, 16), np.uint8)
    scribbles[:, :, 0, 6, 5:9] = scribbles[:, :, 1, 1, 2:14] = 1
    np.savez(
        folder / "medscribble_square.npz",
        images=images,
        labels=(images > 100).astype(np.uint8),
        scribbles=scribbles,
        meta=json.dumps({}),
    )
    return folder


def run(evaluate, *arguments):
    return evaluate.main([str(argument) for argument in arguments])


def test_the_table_is_printed_and_the_files_are_named(evaluate, data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", output) == 0
    printed = capsys.readouterr().out
    assert "random-walker" in printed
    assert "**1.000** [1.000, 1.000]" in printed
    for name in ("results.csv", "table.md"):
        assert str(output / name) in printed
        assert (output / name).is_file()


def test_the_embedded_network_is_measured(evaluate, data, tmp_path):
    assert run(evaluate, "--data", data, "--methods", "default", "--device", "cpu", "-o", tmp_path / "out") == 0
    assert "default" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_an_unknown_method_ends_with_two(evaluate, data, tmp_path, capsys):
    assert run(evaluate, "--data", data, "--methods", "grabcat", "-o", tmp_path / "out") == 2
    assert "error: No method 'grabcat'" in capsys.readouterr().err


def test_a_missing_folder_ends_with_two(evaluate, tmp_path, capsys):
    assert run(evaluate, "--data", tmp_path / "nowhere", "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_damaged_set_ends_with_two(evaluate, data, tmp_path, capsys):
    path = data / "medscribble_square.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "medscribble_square.npz" in capsys.readouterr().err


def test_without_data_the_option_is_named(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "DEFAULT_DATA", tmp_path / "nowhere")
    assert run(evaluate, "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "--data" in capsys.readouterr().err


def test_an_interruption_ends_with_130(evaluate, data, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run_manual_scribbles", interrupt)
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", tmp_path / "out") == 130
