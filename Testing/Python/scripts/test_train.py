"""scripts/train.py and scripts/export_weights.py, run as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scribblesegment.training.checkpoint import load_checkpoint
from scribblesegment.weights.checkpoints import load_network

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
CONFIG = {
    "seed": 3,
    "size": 32,
    "steps": 2,
    "batch_size": 2,
    "rounds": 2,
    "precision": "float32",
    "checkpoint_every": 1000,
    "log_every": 1,
    "network": {"options": {"features": [4, 8]}},
    "data": {"min_area": 4},
}

pytestmark = pytest.mark.slow


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)


@pytest.fixture
def train_arguments(tmp_path) -> Callable[..., list[str]]:
    """Arguments of a tiny run on a tiny corpus."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rng = np.random.default_rng(0)
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[:, 8:20, 10:22] = 1
    images = (120 * labels + rng.integers(0, 90, labels.shape)).astype(np.uint8)
    np.savez_compressed(corpus / "squares.npz", images=images, labels=labels, meta=json.dumps({"name": "squares"}))

    def arguments(**changes: object) -> list[str]:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
        return ["--config", str(config), "--data", str(corpus), "--output", str(tmp_path / "run"), "--device", "cpu"]

    return arguments


def test_a_network_is_trained_and_exported_with_two_commands(train_arguments, tmp_path):
    done = run("train.py", *train_arguments())
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert str(checkpoint) in done.stdout
    assert "2/2" in done.stderr  # the progress bar

    target = tmp_path / "net.safetensors"
    exported = run("export_weights.py", checkpoint, target, "--name", "Tiny", "--licence", "CC0-1.0")
    assert exported.returncode == 0, exported.stderr
    assert str(target) in exported.stdout
    network, description = load_network(target)
    assert (description.name, description.licence, description.size) == ("Tiny", "CC0-1.0", 32)
    averaged = load_checkpoint(checkpoint)["averaged"]
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value, averaged[name].half().float())


def test_mistakes_are_told_in_one_line(train_arguments, tmp_path):
    done = run("train.py", *train_arguments(stepps=3))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: Unknown fields: stepps.")
    assert "Traceback" not in done.stderr
    exported = run("export_weights.py", tmp_path / "none.pt", tmp_path / "net.safetensors")
    assert exported.returncode == 2
    assert exported.stderr.startswith("error: Cannot read the checkpoint")


def test_a_bad_set_stops_the_run_or_is_skipped_by_name(train_arguments, tmp_path):
    (tmp_path / "corpus" / "broken.npz").write_bytes(b"no archive")
    stopped = run("train.py", *train_arguments())
    assert stopped.returncode == 2
    assert "broken.npz cannot be read" in stopped.stderr
    done = run("train.py", *train_arguments(), "--skip-bad")
    assert done.returncode == 0, done.stderr
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 1
    assert "broken.npz" in skipped[0]
    (tmp_path / "corpus" / "squares.npz").write_bytes(b"no archive")
    none_left = run("train.py", *train_arguments(), "--skip-bad")
    assert none_left.returncode == 2
    assert "error: None of the 2 sets" in none_left.stderr


def start_and_wait_for_log(arguments: list[str], folder: Path, *, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPTS / "train.py"), *arguments, "--workers", str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    deadline = time.monotonic() + 300
    while not (folder / "log.csv").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.05)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="a console event ends the test run too")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupt_saves_the_run_and_says_how_to_continue(train_arguments, tmp_path, workers):
    arguments = train_arguments(steps=100_000)
    process = start_and_wait_for_log(arguments, tmp_path / "run", workers=workers)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert told.rstrip().endswith(f"Interrupted. {checkpoint} is intact: the same command continues from it.")
    assert "Traceback" not in told
    # No checkpoint was due: this one was written because of the interrupt, after the last step that was logged.
    steps = (tmp_path / "run" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert load_checkpoint(checkpoint)["step"] == int(steps[-1].split(",")[0])


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_continues(train_arguments, tmp_path):
    arguments = train_arguments(steps=100_000, checkpoint_every=1)
    process = start_and_wait_for_log(arguments, tmp_path / "run", workers=0)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    while not checkpoint.exists():
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    killed_at = load_checkpoint(checkpoint)["step"]
    assert killed_at >= 1
    again = start_and_wait_for_log(arguments, tmp_path / "run", workers=0)
    deadline = time.monotonic() + 300
    while load_checkpoint(checkpoint)["step"] <= killed_at and time.monotonic() < deadline:
        time.sleep(0.2)
    again.kill()
    again.communicate(timeout=60)
    assert load_checkpoint(checkpoint)["step"] > killed_at
