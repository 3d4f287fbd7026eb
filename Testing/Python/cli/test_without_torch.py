"""The embedded network at work where PyTorch is missing: whole commands, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import missing_packages
import numpy as np
import pytest
from batch_folders import a_context, write_context
from command_line import paint, write_image

from scribblesegment import read_labelmap

HELPERS = str(Path(missing_packages.__file__).parent)
START = f"""
import sys
sys.path.append({HELPERS!r})
from missing_packages import hide
hide("torch")
from scribblesegment.cli import main
sys.exit(main())
"""
SHAPE = (12, 40, 48)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A bright ball, a stroke in its middle slice, and three of its slices segmented."""
    folder = tmp_path_factory.mktemp("without_torch")
    k, j, i = np.indices(SHAPE)
    ball = (((k - 6) / 4.5) ** 2 + ((j - 20) / 11) ** 2 + ((i - 24) / 12) ** 2) < 1
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    write_image(folder / "ball.nrrd", (100 + 90 * ball + noise).astype(np.int16))
    paint(
        folder / "stroke.nrrd",
        [((6, slice(19, 22), slice(17, 32)), 1), ((6, slice(3, 6), slice(4, 40)), 2)],
        shape=SHAPE,
    )
    paint(folder / "slices.nrrd", [((n, *np.nonzero(ball[n])), 1) for n in (4, 6, 8)], shape=SHAPE)
    return folder, ball


def run(folder, *arguments):
    return subprocess.run([sys.executable, "-c", START, *arguments], cwd=folder, capture_output=True, encoding="utf-8")


def overlap(path, expected):
    found = read_labelmap(path).array == 1
    return 2 * (found & expected).sum() / (found.sum() + expected.sum())


def test_a_slice_and_the_rest_of_its_volume_are_segmented(work):
    folder, ball = work
    done = run(folder, "segment", "ball.nrrd", "--scribbles", "stroke.nrrd", "--background", "2", "-o", "one.seg.nrrd")
    assert done.returncode == 0, done.stderr
    assert overlap(folder / "one.seg.nrrd", ball & (np.indices(SHAPE)[0] == 6)) > 0.85
    done = run(folder, "propagate", "ball.nrrd", "--annotated", "slices.nrrd", "-o", "all.seg.nrrd", "--axis", "k")
    assert done.returncode == 0, done.stderr
    assert overlap(folder / "all.seg.nrrd", ball) > 0.85


def test_a_folder_is_segmented_and_correcting_networks_says_what_it_needs(work):
    folder, _ = work
    (folder / "images").mkdir()
    (folder / "ball.nrrd").rename(folder / "images" / "ball.nrrd")
    write_context(folder / "ball.context.zip", a_context())
    done = run(folder, "batch", "images", "--context", "ball.context.zip", "-o", "results")
    assert done.returncode == 0, done.stderr
    (folder / "images" / "ball.nrrd").rename(folder / "ball.nrrd")
    refused = run(
        *(folder, "refine", "ball.nrrd", "--network", "scribblesegment"),
        *("--corrections", "stroke.nrrd", "-o", "refined.seg.nrrd"),
    )
    assert refused.returncode == 2
    assert "PyTorch" in refused.stderr
    assert "Traceback" not in refused.stderr
