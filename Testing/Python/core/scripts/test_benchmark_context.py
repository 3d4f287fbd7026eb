from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import load_script

import scribblesegment
from scribblesegment.models.multiverseg import MultiverSeg, MultiverSegConfig

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "benchmark_context.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measures with the module resource")


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmark_context")


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_what_is_timed_on_both_sides_is_the_same_network(benchmark, entries):
    torch.manual_seed(0)
    network = MultiverSeg(MultiverSegConfig((4, 6, 5)))
    x, images, masks = torch.rand(1, 5, 16, 16), torch.rand(1, entries, 1, 16, 16), torch.ones(1, entries, 1, 16, 16)
    with torch.no_grad():
        ours = network(x, network.encode_context(images, masks))
    torch.testing.assert_close(benchmark.published_forward(network, x, images, masks), ours, atol=1e-4, rtol=1e-4)


def test_the_plain_pass_gives_the_published_logits(benchmark, shared_dir):
    with np.load(shared_dir / "golden" / "multiverseg.npz") as file:
        vectors = {name: torch.tensor(file[name]) for name in file}
    network = MultiverSeg(MultiverSegConfig((6,) * 4))
    network.load_state_dict({name[3:]: value for name, value in vectors.items() if name.startswith("w::")})
    for n in range(len(vectors["x"])):
        x, images, labels = (vectors[name][n : n + 1] for name in ("x", "context_images", "context_labels"))
        logits = benchmark.published_forward(network, x, images, labels)
        torch.testing.assert_close(logits, vectors["y"][n : n + 1], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_small_network_is_timed_and_weighed():
    arguments = ["--features", "4", "4", "--size", "16", "--entries", "0", "2", "--memory-entries", "3", "--runs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.match(r"memory with 3 entries, (bfloat16|float32): the process's peak is \d\.\d\d GB", lines[0])
    assert [int(line.split()[0]) for line in lines[-2:]] == [0, 2]


def test_numbers_that_make_no_sense_are_refused():
    result = subprocess.run([sys.executable, str(SCRIPT), "--runs", "-1"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "must not be negative" in result.stderr
