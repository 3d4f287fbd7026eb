"""scripts/train.py, run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scribblesegment.training.loop import load_checkpoint
from scribblesegment.weights.checkpoints import load_network

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "train.py"
CONFIG = {
    "steps": 2,
    "precision": "float32",
    "log_every": 1,
    "name": "Tiny",
    "licence": "CC0-1.0",
    "network": {"widths": [4, 6, 8, 8, 8], "decoder_widths": [4, 6, 8, 8, 8], "embedding": 6, "key": 4},
    "groups": {"size": 32, "kinds": [[1, 2], [2, 1]], "kind_shares": [0.5, 0.5], "shapes_pool": 1, "min_area": 8},
}

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a tiny run on a tiny corpus."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, 16:40, 20:44] = 1
    images = (120 * labels + np.random.default_rng(0).integers(0, 90, labels.shape)).astype(np.uint8)
    np.savez_compressed(corpus / "squares.npz", images=images, labels=labels, meta=json.dumps({"name": "squares"}))

    def make(**changes: object) -> list[str]:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
        return [str(SCRIPT), str(config), "--data", str(corpus), "-o", str(tmp_path / "run"), "--device", "cpu"]

    return make


def run(arguments: list[str], *more: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, *arguments, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=environment)


def test_a_network_is_trained_with_one_command(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    done = run(arguments())
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr  # the progress bar
    _, description = load_network(tmp_path / "run" / "network.safetensors")
    assert (description.name, description.licence, description.size) == ("Tiny", "CC0-1.0", 32)


def test_several_processes_train_one_network(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run(arguments(), launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert done.stdout.count("Finished") == 1


def test_mistakes_are_told_in_one_line(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    done = run(arguments(stepps=3))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "stepps" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "corpus" / "broken.npz").write_bytes(b"no archive")
    stopped = run(arguments())
    assert stopped.returncode == 2
    assert "broken.npz cannot be read" in stopped.stderr
    skipped = run(arguments(), "--skip-bad")
    assert skipped.returncode == 0, skipped.stderr
    assert "skipped: " in skipped.stderr


def started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a run and wait for its first report."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (folder / "log.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="a console event ends the test run too")
def test_an_interrupt_saves_the_run_and_a_kill_loses_little(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = arguments(steps=100_000)
    process = started(command, tmp_path / "run")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "The same command continues" in told
    steps = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
    (tmp_path / "run" / "log.csv").unlink()
    process = started(command, tmp_path / "run")
    process.kill()
    process.communicate(timeout=60)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] >= steps
