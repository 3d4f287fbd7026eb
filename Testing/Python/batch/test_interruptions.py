"""Batches that are killed or interrupted at any moment leave, when resumed, what an undisturbed batch leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import batch_networks
import pytest
import torch
from batch_folders import BatchFolders, left_behind, table_of
from batch_networks import DEADLY_ONCE, NOTES, POISON, load_mortal, load_threshold

import scribblesegment
from scribblesegment.batch.records import FOLDER
from scribblesegment.batch.run import TRIES
from scribblesegment.cli.batch import BatchError
from scribblesegment.models.factory import build_network
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

HELPERS = Path(batch_networks.__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(scribblesegment.__file__).parents[1]), str(HELPERS)]),
}
COMMAND = (sys.executable, "-m", "scribblesegment")

pytestmark = pytest.mark.slow


def results(output: Path) -> list[Path]:
    return [path for path in output.rglob("*.seg.nrrd") if not path.name.startswith(".")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("mode", ["first", "second"])
def test_killed_at_any_step_that_changes_files(tmp_path, mode):
    command = [sys.executable, str(HELPERS / "kill_points.py"), str(tmp_path), mode]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def with_network(folders) -> BatchFolders:
    """A batch of 9 images whose network is a real one, with parameters by chance."""
    torch.manual_seed(0)
    options = {"features": [8, 16]}
    capabilities = ("boxes", "clicks", "context", "scribbles")
    description = NetworkDescription("context_unet", options, size=32, capabilities=capabilities)
    save_network(folders.weights, build_network("context_unet", options).state_dict(), description)
    for corner in range(9):
        folders.add(f"{corner}.nrrd", corner=corner)
    return folders


def start(folders, *more: str) -> subprocess.Popen[str]:
    command = [*COMMAND, *folders.arguments(*more)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folders, *more: str) -> dict[str, bytes]:
    process = start(folders, *more)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return left_behind(folders.output)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_a_batch_comes_to_the_same_end(with_network, tmp_path, workers):
    psutil = pytest.importorskip("psutil")
    if workers > 1:
        pytest.importorskip("distributed")
    expected, killed, done = finish(with_network), tmp_path / "killed", [0]
    arguments = ("-o", str(killed), "--workers", str(workers))
    for _ in range(3 if workers == 1 else 1):
        process = start(with_network, *arguments)
        while process.poll() is None and len(results(killed)) <= done[-1]:
            time.sleep(0.002)
        children = psutil.Process(process.pid).children(recursive=True) if workers > 1 else []
        process.kill()  # as kill -9 does
        process.communicate()
        assert psutil.wait_procs(children, timeout=20)[1] == []  # workers end with the program
        assert workers == 1 or len(children) >= 2
        done.append(len(results(killed)))
    assert 0 < done[1] < 9
    finish(with_network, *arguments)
    assert left_behind(killed) == expected


def noted(folder) -> Counter[int]:
    """How often slices of the image with each corner were predicted, by all processes together."""
    return Counter(int(line) for path in folder.glob("*.txt") for line in path.read_text().split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_images_of_killed_workers_are_done_again_none_twice_and_a_deadly_one_is_abandoned(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    undisturbed, folders = BatchFolders(tmp_path / "one"), BatchFolders(tmp_path / "several")
    for corner, name in enumerate(("a.nrrd", "b.nii.gz", "c.mha", "d.nrrd"), start=1):
        for one in (undisturbed, folders):
            one.add(name, corner=corner, value=DEADLY_ONCE if name == "b.nii.gz" else None)
    folders.add("deadly.nrrd", corner=9, value=POISON)
    for notes in ("usual", "notes"):
        (tmp_path / notes).mkdir()
    monkeypatch.setenv(NOTES, str(tmp_path / "usual"))
    undisturbed.run(load_threshold)
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    with pytest.raises(BatchError, match="no result for 1 of 5 images"):
        folders.run(load_mortal, workers=2)
    expected, found = left_behind(undisturbed.output), left_behind(folders.output)
    assert {**found, "results.csv": b""} == {**expected, "results.csv": b""}
    *done, failed = table_of(folders.output)
    assert done == table_of(undisturbed.output)
    assert (failed["file"], failed["status"]) == ("deadly.nrrd", "failed")
    assert f"{TRIES} worker processes died" in failed["error"]
    # Each slice of an image is predicted by itself first, and some of them again by propagation.
    usual, notes = noted(tmp_path / "usual"), noted(tmp_path / "notes")
    assert (tmp_path / "notes" / "killed").exists()
    assert notes == usual | {2: usual[2] + 1, 9: TRIES}
    assert not list((folders.output / FOLDER).glob("context-*"))


def test_a_running_scheduler_is_used_and_left_running(folders):
    distributed = pytest.importorskip("distributed")
    folders.add("a.nrrd")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as running:
        folders.run(load_threshold, workers=None, scheduler=running.scheduler_address)
        with distributed.Client(running) as client:
            assert len(client.nthreads()) == 1
    assert [row["status"] for row in table_of(folders.output)] == ["done"]
