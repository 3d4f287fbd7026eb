"""Commands that are killed, interrupted or run twice at once leave a whole file: the old one or a new one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import paint, write_image

import scribblesegment
from scribblesegment import read_labelmap

SHAPE = (24, 40, 44)
BALL = ((np.indices(SHAPE) - np.reshape((12, 20, 22), (3, 1, 1, 1))) ** 2).sum(axis=0) < 9**2
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
COMMANDS = {
    "segment": "segment {image} --scribbles {few} -o {out}",
    "propagate": "propagate {image} --annotated {few} -o {out}",
    "refine": "refine {image} --network default --corrections {few} -o {out}",
}
TIMEOUT_S = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of Unix"),
]


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_at_any_moment_leaves_the_old_result_or_a_whole_new_one(start, tmp_path, command, number):
    before = paint(out_of(tmp_path), [(0, 1)], shape=SHAPE).read_bytes()
    process = start(command)
    if command == "propagate":
        process.stdout.readline()  # the network is loaded next
    time.sleep(random.Random(f"{command} {number}").uniform(0.0, 8.0))
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in (0, -number, 130)
    assert "Traceback" not in errors or process.returncode != 130
    assert out_of(tmp_path).read_bytes() == before or is_whole(out_of(tmp_path))
    left = {path.name for path in tmp_path.iterdir()} - {"image.nrrd", "few.nrrd", "out.seg.nrrd"}
    assert len(left) <= (1 if number == signal.SIGKILL else 0)


def test_two_programs_on_one_output_leave_a_whole_file(start, tmp_path):
    both = [start("propagate"), start("propagate")]
    assert [process.wait(TIMEOUT_S) for process in both] == [0, 0]
    assert is_whole(out_of(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"image.nrrd", "few.nrrd", "out.seg.nrrd"}
