"""Every benchmark with sizes that take seconds."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from scripts import SCRIPTS, load_script

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="measures with resource and wait4")]


@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        ("predict --side 64 --runs 1 --threads 1", r"forward / predict +[\d.]+"),
        ("context --side 64 --runs 1 --entries 0 2", r"2 entries +from the context +median +[\d.]+ ms"),
        ("published --entries 2 --runs 1 --width 4", r"MultiverSeg, 2 entries +ratio [\d.]+"),
        ("propagation --slices 12 --side 48 --entries 2", r"slices from 2 accepted ones, Dice 0\.[5-9]"),
        ("refinement --side 32 --features 4 8 --layers 2 --runs 1", r"difference of gradients [\d.e-]+"),
        ("effect --shape 12 48 48 --gestures 2 --hand 0.1 --oblique --masked", r"network, on its thread +[\d.]+"),
        ("follow --shape 12 48 48 --gestures 8 --hand 0.1 --pause 0.1", r"ratio [\d.]+, difference -?[\d.]+ ms"),
        ("simulation --processes 1 --seconds 0.5 --data SETS", r"rate +[\d.]+ sets a second"),
        ("memory --shape 8 40 40 --image nrrd mha --output seg.nrrd", r"mha  seg.nrrd +\d+ +\d+"),
        ("context --model none", r"^error: "),
    ],
)
def test_a_benchmark_tells_its_figure(capfd, monkeypatch, sets, command, pattern):
    if command.startswith(("effect", "follow")):
        pytest.importorskip("slicer")
    arguments = command.replace("SETS", str(sets)).split()
    if command.startswith("simulation"):  # its processes import the module by its name
        subprocess.run([sys.executable, str(SCRIPTS / "benchmark.py"), *arguments], check=True)
    else:  # the limit of memory may be passed, as this process is large
        assert load_script("benchmark").main(arguments) in ((2,) if "none" in command else (0, 1))
    assert re.search(pattern, "".join(capfd.readouterr()), re.MULTILINE)
