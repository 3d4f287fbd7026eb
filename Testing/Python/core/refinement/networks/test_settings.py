from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scribblesegment.errors import ConfigError, FileFormatError
from scribblesegment.refinement.adapters.base import NetworkSettings, read_settings, settings_path


def test_settings_lie_beside_the_network_under_its_name(tmp_path: Path) -> None:
    network = tmp_path / "liver.pt"
    values = {"labels": ["background", "liver"], "ndim": 2, "spacing_mm": [1, 1.5], "normalise": [-100, 300]}
    settings_path(network).write_text(json.dumps(values))
    found = read_settings(network)
    assert settings_path(network) == tmp_path / "liver.pt.json"
    assert (found.labels, found.spacing_mm, found.normalise) == (("background", "liver"), (1, 1.5), (-100.0, 300.0))
    assert found.overlap == NetworkSettings().overlap


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "liver.pt") == NetworkSettings()


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    settings_path(tmp_path / "liver.pt").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"liver\.pt\.json"):
        read_settings(tmp_path / "liver.pt")


@pytest.mark.parametrize(
    "wrong",
    [
        {"color": "red"},
        {"labels": ["background"]},
        {"labels": ["background", " "]},
        {"labels": "background, liver"},
        {"labels": [0, 1]},
        {"ndim": 4},
        {"channels": 0},
        {"channels": True},
        {"spacing_mm": [1.0]},
        {"spacing_mm": [1.0, -1.0]},
        {"spacing_mm": 1.0},
        {"spacing_mm": [1.0, 1.0, 1.0], "ndim": 2},
        {"patch_size": [64, 64.5]},
        {"patch_size": [64, 64], "ndim": 3},
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"overlap": "half"},
        {"multiple_of": 0},
        {"normalise": "percentile"},
        {"normalise": [1, 1]},
        {"normalise": [0, "1"]},
        {"normalise": [0, float("nan")]},
        {"normalise": 3},
        {"activation": "relu"},
        {"probabilities": "yes"},
        {"name": 3},
        {"function": None},
        {"licence": 1},
    ],
)
def test_a_wrong_setting_is_refused_and_the_file_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    settings_path(tmp_path / "liver.pt").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError, match=r"liver\.pt\.json"):
        read_settings(tmp_path / "liver.pt")
    with pytest.raises(ConfigError):
        NetworkSettings().replaced(**wrong)


def test_how_the_output_is_read_comes_from_the_settings() -> None:
    reading = NetworkSettings(activation="sigmoid", probabilities=True, output="logits").reading()
    assert (reading.activation, reading.probabilities, reading.pick) == ("sigmoid", True, "logits")
