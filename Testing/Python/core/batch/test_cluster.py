from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from batch_folders import BatchFolders, left_behind, table_of
from batch_networks import DEADLY_ONCE, NOTES, POISON, load_mortal, load_threshold
from scribblesegment.commands.batch import BatchError, batch

from scribblesegment.batch import cluster
from scribblesegment.batch.cluster import ClusterError, fitting_workers, open_client, run_on_cluster
from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.job import TRIES, BatchJob
from scribblesegment.batch.records import FOLDER, ImageRecord, RecordFolder
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.errors import MissingDependencyError, WeightsError

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


class KilledWorker(Exception):  # noqa: N818 - Dask's name
    pass


class Client:
    """Stands in for Dask: does the work when it is waited for, with the outcomes it is told, first in first out."""

    def __init__(self, workers=2, outcomes=()):
        self.workers, self.outcomes = workers, list(outcomes)
        self.submitted, self.most_under_way, self.cancelled = [], 0, None

    def nthreads(self):
        return dict.fromkeys(range(self.workers), 4)

    def submit(self, function, job, image, *, key, pure):
        self.submitted.append((image.name, key))
        future = SimpleNamespace(status="pending", image=image, key=key)
        # A SimpleNamespace cannot be a key of a dictionary.
        return type("Future", (), vars(future))()

    def cancel(self, futures, *, force):
        self.cancelled = list(futures)

    def wait(self, futures, *, timeout, return_when):
        self.most_under_way = max(self.most_under_way, len(futures))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome in (TimeoutError, CancelledError):
            raise outcome
        future = futures[0]
        if isinstance(outcome, Exception):
            future.status, future.exception = "error", lambda: outcome
        elif outcome == "lost":
            future.status = "cancelled"
        else:
            future.status, future.result = "finished", lambda: ImageRecord(future.image.name, {}, "done")
        return SimpleNamespace(done={future})


class CancelledError(Exception):
    pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / FOLDER).mkdir()
    job = BatchJob("run", tmp_path, "w", None, BatchConfig(), "cpu", 1, {}, load_threshold)

    def run_with(client: Client, count: int = 4) -> list[ImageRecord]:
        dask = SimpleNamespace(
            wait=client.wait, scheduler=SimpleNamespace(KilledWorker=KilledWorker), CancelledError=CancelledError
        )
        modules = {"distributed": dask}
        monkeypatch.setattr(cluster, "_required", modules.__getitem__)
        done: list[ImageRecord] = []
        run_on_cluster(client, job, [BatchImage(f"{n}.nrrd", Path()) for n in range(count)], done.append)
        return done

    return run_with


def test_all_images_are_done_with_one_under_way_for_each_worker(run):
    client = Client(workers=2)
    assert [record.name for record in run(client)] == ["0.nrrd", "1.nrrd", "2.nrrd", "3.nrrd"]
    assert client.most_under_way == 2
    assert len({key for _, key in client.submitted}) == 4


def test_while_there_is_no_worker_one_image_waits_for_it(run):
    client = Client(workers=0, outcomes=[TimeoutError, TimeoutError])
    assert len(run(client, 2)) == 2
    assert client.most_under_way == 1


def test_an_image_whose_worker_was_killed_is_done_again_after_the_others(run):
    client = Client(workers=1, outcomes=[KilledWorker()])
    assert [record.name for record in run(client, 3)] == ["1.nrrd", "2.nrrd", "0.nrrd"]
    assert len({key for _, key in client.submitted}) == 4


def test_an_image_that_dask_gives_up_too_often_is_given_up(run, tmp_path):
    done = run(Client(workers=1, outcomes=[KilledWorker()] * TRIES), 1)
    assert [record.status for record in done] == ["failed"]
    assert RecordFolder(tmp_path).read("0.nrrd") == done[0]


def test_what_is_wrong_with_every_worker_ends_the_batch(run):
    client = Client(outcomes=[None, WeightsError("another network")])
    with pytest.raises(WeightsError, match="another network"):
        run(client)
    assert len(client.cancelled) == 1


def test_a_worker_without_the_package_is_told(run):
    with pytest.raises(ClusterError, match="same version of the package"):
        run(Client(outcomes=[ModuleNotFoundError("No module named 'scribblesegment'")]))


@pytest.mark.parametrize("outcome", ["lost", CancelledError])
def test_a_lost_scheduler_is_told(run, outcome):
    with pytest.raises(ClusterError, match="connection to the scheduler was lost"):
        run(Client(outcomes=[outcome]))


def test_workers_are_as_many_as_cores_memory_and_images_allow(tmp_path, monkeypatch):
    memory = SimpleNamespace(available=10 << 30)
    modules = {
        "dask.system": SimpleNamespace(CPU_COUNT=8),
        "psutil": SimpleNamespace(virtual_memory=lambda: memory),
    }
    monkeypatch.setattr(cluster, "_required", modules.__getitem__)
    images = []
    for number in range(20):
        path = tmp_path / f"{number}.nrrd"
        path.touch()
        images.append(BatchImage(path.name, path))
    assert fitting_workers(images) == 8
    assert fitting_workers(images[:3]) == 3
    os.truncate(images[5].path, 512 << 20)
    assert fitting_workers(images) == 2
    memory.available = 1 << 29
    assert fitting_workers(images) == 1
    images[5].path.unlink()
    assert fitting_workers(images) == 1


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'scribblesegment\[batch\]'.*--workers 1"):
        cluster.require_dask()


@needs_dask
@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE_S", 0.5)
    with pytest.raises(ClusterError, match="Cannot connect to the scheduler"), open_client(None, "tcp://127.0.0.1:9"):
        pass


@needs_dask
@pytest.mark.slow
def test_a_scheduler_without_workers_is_told(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_PATIENCE_S", 1.0)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty,
        pytest.raises(ClusterError, match=r"No worker came up.*dask worker tcp://"),
        open_client(None, empty.scheduler_address),
    ):
        pass


def noted(folder) -> Counter[int]:
    """How often slices of the image with each corner were predicted, by all processes together."""
    return Counter(int(line) for path in folder.glob("*.txt") for line in path.read_text().split())


@needs_dask
@needs_signals
@pytest.mark.slow
def test_images_of_killed_workers_are_done_again_none_twice_and_a_deadly_one_is_given_up(tmp_path, monkeypatch):
    undisturbed, folders = BatchFolders(tmp_path / "one"), BatchFolders(tmp_path / "several")
    for corner, name in enumerate(("a.nrrd", "b.nii.gz", "c.mha", "d.nrrd"), start=1):
        for one in (undisturbed, folders):
            one.add(name, corner=corner, value=DEADLY_ONCE if name == "b.nii.gz" else None)
    (tmp_path / "usual").mkdir()
    monkeypatch.setenv(NOTES, str(tmp_path / "usual"))
    batch(undisturbed.request(), load=load_threshold, say=lambda line: None)
    expected = left_behind(undisturbed.output)
    usual = noted(tmp_path / "usual")

    folders.add("deadly.nrrd", corner=9, value=POISON)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    with pytest.raises(BatchError, match="no result for 1 of 5 images"):
        batch(folders.request(workers=2), load=load_mortal, say=lambda line: None)
    found = left_behind(folders.output)
    table = table_of(folders.output)
    assert {name: found[name] for name in found if name != "results.csv"} == {
        name: expected[name] for name in expected if name != "results.csv"
    }
    assert [row for row in table if row["status"] == "done"] == table_of(undisturbed.output)
    (failed,) = (row for row in table if row["status"] == "failed")
    assert failed["file"] == "deadly.nrrd"
    assert f"{TRIES} worker processes died" in failed["error"]
    # Each slice of an image is shown in the first look, and some of them again when slices are carried on.
    notes = noted(tmp_path / "notes")
    assert (tmp_path / "notes" / "killed").exists()
    assert notes[9] == TRIES
    assert {corner: notes[corner] for corner in (1, 2, 3, 4)} == usual | {2: usual[2] + 1}
    assert not list((folders.output / FOLDER).glob("context-*"))


@needs_dask
@pytest.mark.slow
def test_a_running_scheduler_is_used_and_left_running(tmp_path):
    distributed = pytest.importorskip("distributed")
    folders = BatchFolders(tmp_path)
    folders.add("a.nrrd")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as running:
        request = folders.request(workers=None, scheduler=running.scheduler_address)
        batch(request, load=load_threshold, say=lambda line: None)
        with distributed.Client(running) as client:
            assert len(client.nthreads()) == 1
    assert [row["status"] for row in table_of(folders.output)] == ["done"]
