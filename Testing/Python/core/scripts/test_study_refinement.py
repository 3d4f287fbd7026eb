from __future__ import annotations

import dataclasses
import json

import pytest
from correction_study import tiny_study, write_shapes
from scripts import load_script

from scribblesegment.evaluation.correction_methods import Variant


@pytest.fixture(scope="module")
def script():
    return load_script("study_refinement")


@pytest.fixture
def arguments(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_shapes(data)
    config = tiny_study(
        Variant("refinement", options={"layers": 1, "iterations": 3}), Variant("painting", kind="painting")
    )
    path = tmp_path / "study.json"
    path.write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    return ["-o", str(tmp_path / "out"), "--config", str(path), "--data", str(data)]


def test_networks_are_trained_and_then_corrected(script, arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["train", *arguments, "--quick"]) == 0
    assert (out / "networks" / "shapes.safetensors").exists()
    assert script.main(["run", *arguments, "--quick", "--pictures"]) == 0
    printed = capsys.readouterr().out
    assert "## Correction" in printed
    assert str(out / "refinement_table.md") in printed
    assert (out / "refinement_example_shapes.png").exists()
    log = (out / "rounds.jsonl").read_bytes()
    assert script.main(["run", *arguments, "--quick"]) == 0
    assert (out / "rounds.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    ("extra", "message"), [(["--experiments", "hue"], "No experiment hue"), (["--workers", "0"], "at least one worker")]
)
def test_what_cannot_be_run_ends_with_two(script, arguments, capsys, extra, message):
    script.main(["train", *arguments])
    assert script.main(["run", *arguments, *extra]) == 2
    assert message in capsys.readouterr().err


def test_without_networks_the_run_says_what_to_do(script, arguments, capsys):
    assert script.main(["run", *arguments]) == 2
    assert "Train it" in capsys.readouterr().err
