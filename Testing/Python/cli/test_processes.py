"""Commands in processes of their own: killed, interrupted, run twice at once, and where PyTorch is missing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import missing_packages
import numpy as np
import pytest
from batch_folders import a_context, write_context
from command_line import paint, write_image

import scribblesegment
from scribblesegment import read_labelmap

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1]), "OMP_NUM_THREADS": "1"}

# A whole file is left: the old one or a new one --------------------------------------------------------------------

SHAPE = (24, 40, 44)
BALL = ((np.indices(SHAPE) - np.reshape((12, 20, 22), (3, 1, 1, 1))) ** 2).sum(axis=0) < 9**2
COMMANDS = {
    "segment": "segment {image} --scribbles {few} -o {out}",
    "propagate": "propagate {image} --annotated {few} -o {out}",
    "refine": "refine {image} --network default --corrections {few} -o {out}",
}
TIMEOUT_S = 300


@pytest.fixture
def start(tmp_path):
    rng = np.random.default_rng(0)
    image = write_image(tmp_path / "image.nrrd", (100 * BALL + rng.normal(0, 5, SHAPE)).astype(np.int16))
    few = np.zeros(SHAPE, np.uint8)
    few[12] = BALL[12]
    paths = {"image": image, "few": paint(tmp_path / "few.nrrd", [(..., few)], shape=SHAPE), "out": out_of(tmp_path)}

    def start(command):
        line = [sys.executable, "-u", "-m", "scribblesegment", *COMMANDS[command].format(**paths).split()]
        return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def out_of(folder):
    return folder / "out.seg.nrrd"


def is_whole(path):
    labels = read_labelmap(path).array  # reads to the end and compares the checksum
    return labels.shape == SHAPE and labels.any()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of Unix")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_at_any_moment_leaves_the_old_result_or_a_whole_new_one(start, tmp_path, command, name):
    number = getattr(signal, name)
    before = paint(out_of(tmp_path), [(0, 1)], shape=SHAPE).read_bytes()
    process = start(command)
    if command == "propagate":
        process.stdout.readline()  # the network is loaded next
    time.sleep(random.Random(f"{command} {name}").uniform(0.0, 8.0))
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in (0, -number, 130)
    assert "Traceback" not in errors or process.returncode != 130
    assert out_of(tmp_path).read_bytes() == before or is_whole(out_of(tmp_path))
    left = {path.name for path in tmp_path.iterdir()} - {"image.nrrd", "few.nrrd", "out.seg.nrrd"}
    assert len(left) <= (1 if number == signal.SIGKILL else 0)


@pytest.mark.slow
def test_two_programs_on_one_output_leave_a_whole_file(start, tmp_path):
    both = [start("propagate"), start("propagate")]
    assert [process.wait(TIMEOUT_S) for process in both] == [0, 0]
    assert is_whole(out_of(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"image.nrrd", "few.nrrd", "out.seg.nrrd"}


# Without PyTorch ----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = f"""
import sys
sys.path.append({str(Path(missing_packages.__file__).parent)!r})
from missing_packages import hide
hide("torch")
from scribblesegment.cli import main
sys.exit(main())
"""
SMALL = (12, 40, 48)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A bright ball, a stroke in its middle slice, and three of its slices segmented."""
    folder = tmp_path_factory.mktemp("without_torch")
    k, j, i = np.indices(SMALL)
    ball = (((k - 6) / 4.5) ** 2 + ((j - 20) / 11) ** 2 + ((i - 24) / 12) ** 2) < 1
    noise = np.random.default_rng(0).normal(0, 8, SMALL)
    write_image(folder / "ball.nrrd", (100 + 90 * ball + noise).astype(np.int16))
    paint(
        folder / "stroke.nrrd",
        [((6, slice(19, 22), slice(17, 32)), 1), ((6, slice(3, 6), slice(4, 40)), 2)],
        shape=SMALL,
    )
    paint(folder / "slices.nrrd", [((n, *np.nonzero(ball[n])), 1) for n in (4, 6, 8)], shape=SMALL)
    return folder, ball


def run(folder, *arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, encoding="utf-8")


def overlap(path, expected):
    found = read_labelmap(path).array == 1
    return 2 * (found & expected).sum() / (found.sum() + expected.sum())


def test_a_slice_and_the_rest_of_its_volume_are_segmented(work):
    folder, ball = work
    done = run(folder, "segment", "ball.nrrd", "--scribbles", "stroke.nrrd", "--background", "2", "-o", "one.seg.nrrd")
    assert done.returncode == 0, done.stderr
    assert overlap(folder / "one.seg.nrrd", ball & (np.indices(SMALL)[0] == 6)) > 0.85
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
