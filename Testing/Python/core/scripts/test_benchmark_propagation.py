from __future__ import annotations

import re
import sys

import pytest
from scripts import load_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measures with the Unix-only resource module")


def test_the_phantom_is_brighter_where_the_structure_is():
    volume, structure = load_script("benchmark_propagation").phantom(12, 32)
    assert volume.shape == structure.shape == (12, 32, 32)
    assert volume.array[structure].mean() - volume.array[~structure].mean() == pytest.approx(200, abs=10)
    assert not structure[0].any()


def test_a_small_volume_is_propagated(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark_propagation.py", "--slices", "12", "--side", "48", "--entries", "2"])
    assert load_script("benchmark_propagation").main() == 0
    told = capsys.readouterr().out
    assert float(re.search(r"a second +([\d.]+)", told)[1]) > 0
    assert 0 < float(re.search(r"network +(\d+) %", told)[1]) <= 100
    assert float(re.search(r"from 2 accepted ones, Dice ([\d.]+)", told)[1]) > 0.5


def test_an_unknown_network_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark_propagation.py", "--slices", "12", "--side", "48", "--model", "none"])
    assert load_script("benchmark_propagation").main() == 2
    assert capsys.readouterr().err.startswith("error: ")
