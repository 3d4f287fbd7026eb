from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scripts import load_script

from scribblesegment.weights.checkpoints import load_network, save_network
from scribblesegment.weights.registry import find_weights


@pytest.fixture(scope="module")
def calibrate():
    return load_script("calibrate")


@pytest.fixture
def data(tmp_path, rng):
    """Squares in noise that is too strong for any network to be sure of their outline."""
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, 16:44, 20:48] = 1
    images = np.clip(100 + 40 * labels + rng.normal(scale=40, size=labels.shape), 0, 255).astype(np.uint8)
    np.savez(folder / "squares.npz", images=images, labels=labels, meta=json.dumps({"name": "squares"}))
    return folder


@pytest.fixture(scope="module")
def weights():
    return find_weights().path()


def run(calibrate, *arguments):
    return calibrate.main([str(argument) for argument in arguments])


def temperature_in(printed):
    return float(re.search(r"Temperature ([\d.]+)", printed).group(1))


def test_the_temperature_is_printed_and_written_and_nothing_else_changes(calibrate, weights, data, tmp_path, capsys):
    output = tmp_path / "calibrated.safetensors"
    arguments = (weights, "-o", output, "--data", data, "--per-set", 2, "--steps", 2, "--device", "cpu")
    assert run(calibrate, *arguments) == 0
    printed = capsys.readouterr().out
    before, after = load_network(weights)[1], load_network(output)[1]
    assert after.temperature == pytest.approx(temperature_in(printed), abs=6e-4)
    assert after.temperature != 1.0
    assert dataclasses.replace(after, temperature=before.temperature) == before
    old, new = load_file(weights), load_file(output)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "2 structures of 1 sets (squares)" in printed
    assert "ECE around the structure, before" in printed
    assert "step 2" in printed


def test_logits_twice_as_large_give_twice_the_temperature(calibrate, weights, data, tmp_path, capsys):
    network, description = load_network(weights)
    parameters = network.state_dict()
    last = [name for name in parameters if name.startswith("final_conv")]
    doubled = {name: 2 * value if name in last else value for name, value in parameters.items()}
    save_network(tmp_path / "doubled.safetensors", doubled, description)
    temperatures = []
    for path in (weights, tmp_path / "doubled.safetensors"):
        # One step: later ones feed the logits back, and the doubled network would answer differently.
        arguments = (path, "-o", tmp_path / "out.safetensors", "--data", data, "--steps", 1, "--device", "cpu")
        assert run(calibrate, *arguments) == 0
        temperatures.append(temperature_in(capsys.readouterr().out))
    assert temperatures[1] / temperatures[0] == pytest.approx(2, rel=0.03)


def test_other_data_are_measured_and_not_fitted_on(calibrate, weights, data, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "circles.npz").write_bytes((data / "squares.npz").read_bytes())
    (other / "medscribble_x.npz").write_bytes(b"")  # figures are reported on such folders
    arguments = (weights, "--data", data, "--per-set", 1, "--steps", 1, "--device", "cpu")
    assert run(calibrate, *arguments, "-o", tmp_path / "alone.safetensors") == 0
    alone = temperature_in(capsys.readouterr().out)
    assert run(calibrate, *arguments, "-o", tmp_path / "both.safetensors", "--report-on", other) == 0
    printed = capsys.readouterr().out
    # Not to the digit: how the network is run, and so its rounding, is measured anew at each call.
    assert temperature_in(printed) == pytest.approx(alone, rel=0.05)
    assert f"The same temperature on {other}" in printed
    assert printed.count("ECE whole image, after") == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": "network.pt"}, "only safetensors"),
        ({"output": "out.pt"}, "only safetensors"),
        ({"output": "no/out.safetensors"}, "does not exist"),
        ({"weights": "gone.safetensors"}, "no weights file"),
        ({"data": "nowhere"}, "no folder"),
    ],
)
def test_what_cannot_be_calibrated_ends_with_two(calibrate, weights, data, tmp_path, capsys, changed, message):
    paths = {"weights": weights, "output": "out.safetensors", "data": data} | changed
    paths = {name: tmp_path / path for name, path in paths.items()}
    assert run(calibrate, paths["weights"], "-o", paths["output"], "--data", paths["data"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_data_that_figures_are_reported_on_are_not_fitted_on(calibrate, weights, data, tmp_path, capsys):
    (data / "medscribble_CAMUS.npz").write_bytes(b"")
    assert run(calibrate, weights, "-o", tmp_path / "out.safetensors", "--data", data) == 2
    assert "flatter" in capsys.readouterr().err


def test_an_interruption_ends_with_130_and_writes_nothing(calibrate, weights, data, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "collect_pixels", interrupt)
    assert run(calibrate, weights, "-o", tmp_path / "out.safetensors", "--data", data) == 130
    assert not (tmp_path / "out.safetensors").exists()
