from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

import scribblesegment
from scribblesegment import read_labelmap, read_volume

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measures with os.wait4")


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmark_memory")


@pytest.mark.parametrize("extension", ["nrrd", "mha"])
def test_volume_and_strokes_are_written_on_one_grid(benchmark, tmp_path, extension):
    benchmark.write_volume(tmp_path / f"image.{extension}", (6, 20, 24))
    benchmark.write_strokes(tmp_path / "strokes.seg.nrrd", (6, 20, 24))
    volume, strokes = read_volume(tmp_path / f"image.{extension}"), read_labelmap(tmp_path / "strokes.seg.nrrd")
    assert volume.same_grid(strokes)
    assert volume.array.dtype == np.int16
    assert volume.array[3, 10, 12] - volume.array[3, 0, 0] == pytest.approx(1000, abs=200)
    assert np.unique(np.nonzero(strokes.array)[0]).tolist() == [3]


@pytest.mark.slow
def test_a_small_volume_is_measured_in_a_process_of_its_own():
    # Not from here: a process starts with the peak of the one that started it, and this one has torch.
    arguments = ["--shape", "8", "40", "40", "--image", "nrrd", "--output", "seg.nrrd"]
    command = [sys.executable, str(SCRIPTS / "benchmark_memory.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode in (0, 1), result.stderr
    peak_mb, above_mb = map(float, result.stdout.splitlines()[-1].split()[2:4])
    assert 100 < peak_mb < 1500
    assert above_mb == pytest.approx(peak_mb, abs=1)
    assert result.returncode == int(above_mb > 500)
