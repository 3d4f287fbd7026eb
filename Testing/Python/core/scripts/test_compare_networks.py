from __future__ import annotations

import json

import numpy as np
import pytest
from scripts import load_script

CONFIG = {
    "size": 32,
    "steps": 2,
    "batch_size": 2,
    "rounds": 1,
    "precision": "float32",
    "log_every": 1,
    "data": {"min_area": 4, "synthetic_p": 0.0},
}
NETWORKS = {
    "one": {"name": "scribble_unet", "options": {"features": [2, 2]}},
    "another": {"name": "efficient_unet", "options": {"features": [2, 2], "norm_groups": 2}},
}


@pytest.fixture(scope="module")
def script():
    return load_script("compare_networks")


@pytest.fixture
def run(script, tmp_path):
    """Run the script on a tiny corpus; any argument may be replaced."""
    data = tmp_path / "data"
    data.mkdir()
    labels = np.zeros((2, 32, 32), np.uint8)
    labels[:, 8:22, 10:24] = 1
    np.savez(data / "squares.npz", images=40 + 200 * labels, labels=labels, meta=json.dumps({"name": "squares"}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "networks.json").write_text(json.dumps(NETWORKS), encoding="utf-8")

    def call(**changes):
        arguments = {
            "data": data,
            "validation": data,
            "config": tmp_path / "config.json",
            "networks": tmp_path / "networks.json",
            "examples": 1,
            "output": tmp_path / "out",
            "device": "cpu",
            "workers": 0,
        }
        return script.main([f"--{name}={value}" for name, value in {**arguments, **changes}.items()])

    return call


def test_the_table_is_printed_and_the_files_are_named(run, tmp_path, capsys):
    assert run() == 0
    told = capsys.readouterr()
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table in told.out
    assert "| another " in table
    assert str(tmp_path / "out" / "table.csv") in told.out
    assert "4/4" in told.err  # the progress bar


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("networks", '{"a": {"name": "residual_unet", "options": {"depth": 3}}}', "has no options depth"),
        ("networks", '{"a": ', "not valid JSON"),
        ("config", "{]", "not valid JSON"),
        ("config", '{"stepps": 1}', "Unknown fields: stepps"),
    ],
)
def test_mistakes_in_files_are_told_in_one_line_before_training(run, tmp_path, capsys, name, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    assert run(**{name: path}) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert message in told[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["data", "validation"])
def test_a_missing_folder_is_told(run, tmp_path, capsys, name):
    assert run(**{name: tmp_path / "none"}) == 2
    assert f"error: No training set (*.npz) in {tmp_path / 'none'}" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(run, script, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "compare_networks", interrupt)
    assert run() == 130
    assert "The same command continues" in capsys.readouterr().err


def test_the_default_files_exist(script):
    defaults = script._parser().parse_args(["--data=a", "--validation=b", "-o=c"])
    assert defaults.config.is_file()
    assert defaults.networks.is_file()
