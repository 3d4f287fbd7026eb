from __future__ import annotations

import errno
import os
import signal
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, call, patch

import numpy as np
import pytest
from batch_folders import a_ball, a_context
from batch_networks import POISON, Failing, Threshold, load_threshold

from scribblesegment import read_labelmap, read_volume
from scribblesegment.batch import dask_setup, run
from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.job import BatchJob, BatchPlan, fingerprints, weights_digest
from scribblesegment.batch.records import RESULTS, ImageRecord, RecordFolder, StructureResult
from scribblesegment.batch.run import (
    TRIES,
    BatchProgress,
    ClusterError,
    ImageWorker,
    fitting_workers,
    open_client,
    process_in_worker,
    run_on_cluster,
)
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.errors import FileFormatError, WeightsError


def a_job(folders, *contexts, run="run", load=load_threshold, output=None) -> BatchJob:
    digest, config = weights_digest(folders.weights), BatchConfig()
    made_by = fingerprints(contexts or [a_context()], digest, axis=None, config=config, threads=1)
    output, weights = output or folders.output, str(folders.weights)
    return BatchJob(run, output, weights, None, config, "cpu", 1, made_by, load, contexts=(folders.context,))


def a_worker(folders, *contexts, predictor=None, **options) -> ImageWorker:
    return ImageWorker(a_job(folders, *contexts, **options), predictor or Threshold(), contexts or [a_context()])


def an_image(folders, name="a.nrrd", structure=None, **options) -> BatchImage:
    return BatchImage(name, folders.add(name, structure, **options))


BALL, REST = a_context("Ball"), a_context("Rest", bright=False)


# One image.


def test_a_result_lies_on_the_grid_of_its_image_and_is_made_once_unless_it_is_removed(folders):
    image, records, contexts = an_image(folders, "sub/a.nrrd"), RecordFolder(folders.output), (BALL, REST)
    record, again, path = a_worker(folders, *contexts).process(image), Threshold(), folders.output / image.result_name
    result = read_labelmap(folders.output / "sub" / "a.nrrd.seg.nrrd")
    assert record.status == "done"
    assert [segment.name for segment in result.segments] == ["Ball", "Rest"]
    assert np.array_equal(result.array == 1, a_ball())
    assert result.same_grid(read_volume(image.path))
    assert records.read("sub/a.nrrd") == record
    assert not records.was_left("sub/a.nrrd")
    assert a_worker(folders, *contexts, predictor=again, run="other").process(image) == record
    assert again.calls == []  # what was done meanwhile is not done again
    content = path.read_bytes()
    path.unlink()
    a_worker(folders, *contexts).process(image)
    assert path.read_bytes() == content
    image.path.unlink()
    assert not record.is_current(image, folders.output, record.made_by)


@pytest.mark.parametrize(
    ("content", "error", "problem", "traceback"),
    [
        (b"", None, "no content", ""),
        (b"NRRD0004\nnonsense", None, "Cannot read", ""),
        (None, None, "o such file", ""),
        (POISON, MemoryError(), "not enough memory", ""),
        (POISON, ZeroDivisionError("what"), "ZeroDivisionError: what", "batch_networks.py"),
    ],
)
def test_what_is_wrong_with_an_image_is_recorded_and_others_go_on(folders, content, error, problem, traceback):
    image = BatchImage("bad.nrrd", folders.images / "bad.nrrd")
    if content == POISON:
        folders.add("bad.nrrd", value=POISON)
    elif content is not None:
        image.path.write_bytes(content)
    worker = a_worker(folders, predictor=Failing(error))
    record = worker.process(image)
    assert (record.status, record.structures, "\n" in record.error) == ("failed", (), False)
    assert problem in record.error
    assert traceback in record.traceback
    assert bool(traceback) == bool(record.traceback)
    assert not (folders.output / image.result_name).exists()
    assert worker.process(an_image(folders, "b.nrrd")).status == "done"


def test_a_full_disk_ends_the_batch_and_a_result_that_cannot_be_written_does_not(folders, monkeypatch):
    image = an_image(folders)
    (folders.output / image.result_name).mkdir()
    assert "it is a folder" in a_worker(folders).process(image).error
    (folders.output / "sub").touch()
    assert "Cannot create the folder" in a_worker(folders).process(an_image(folders, "sub/a.nrrd")).error

    def full(*args):
        raise FileFormatError("disk full") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "write_segmentation", full)
    with pytest.raises(FileFormatError, match="disk full"):
        a_worker(folders).process(image)


def test_an_image_at_which_processes_keep_dying_is_abandoned_until_the_next_run(folders):
    image, records, predictor = an_image(folders), RecordFolder(folders.output), Threshold()
    for _ in range(TRIES):
        records.begin(image.name, "run")
    record = a_worker(folders, predictor=predictor).process(image)
    assert f"{TRIES} worker processes died" in record.error
    assert predictor.calls == []
    assert a_worker(folders, run="next").process(image).status == "done"
    image = an_image(folders, "interrupted.nrrd", value=POISON)  # which is not held against the image
    with pytest.raises(KeyboardInterrupt):
        a_worker(folders, predictor=Failing(KeyboardInterrupt())).process(image)
    assert not records.was_left(image.name)


# Worker processes.


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        ("", ""),
        ("output", "does not see the folder"),
        ("weights", "another network"),
        ("context", r"ball\.context\.zip"),
    ],
)
def test_a_worker_process_loads_once_for_each_run_and_ends_the_batch_where_it_cannot(
    folders, tmp_path, monkeypatch, problem, match
):
    load = Mock(side_effect=load_threshold)
    monkeypatch.setattr(run, "_loaded", None)
    if problem:
        job = a_job(folders, output=tmp_path / "elsewhere" if problem == "output" else None)
        if problem != "output":
            getattr(folders, problem).write_bytes(b"others")
        with pytest.raises(WeightsError if problem == "weights" else FileFormatError, match=match):
            process_in_worker(job, an_image(folders))
        return
    for number, name in enumerate(("first", "first", "second")):
        image = an_image(folders, f"{number}.nrrd")
        assert process_in_worker(a_job(folders, run=name, load=load), image).status == "done"
    assert load.mock_calls == [call(folders.weights, device="cpu", threads=1)] * 2


class KilledWorker(Exception):  # noqa: N818 - Dask's name
    pass


class CancelledError(Exception):
    pass


class Client:
    """Stands in for Dask: does the work when it is waited for, with the given outcomes, first in first out."""

    def __init__(self, workers=2, outcomes=()):
        self.workers, self.outcomes = workers, list(outcomes)
        self.submitted, self.most_under_way, self.cancelled = [], 0, None

    def nthreads(self):
        return dict.fromkeys(range(self.workers), 4)

    def submit(self, function, job, image, *, key, pure):
        self.submitted.append(key)
        # A SimpleNamespace cannot be a key of a dictionary.
        return type("Future", (), {"status": "pending", "image": image})()

    def cancel(self, futures, *, force):
        self.cancelled = list(futures)

    def wait(self, futures, *, timeout, return_when):
        self.most_under_way = max(self.most_under_way, len(futures))
        outcome, future = self.outcomes.pop(0) if self.outcomes else None, futures[0]
        if outcome in (TimeoutError, CancelledError):
            raise outcome
        if isinstance(outcome, Exception):
            future.status, future.exception = "error", lambda: outcome
        elif outcome == "lost":
            future.status = "cancelled"
        else:
            future.status, future.result = "finished", lambda: ImageRecord(future.image.name, {}, "done")
        return SimpleNamespace(done={future})


@pytest.mark.parametrize(
    ("workers", "outcomes", "result"),
    [
        (2, [], "0 1 2 3"),
        (0, [TimeoutError, TimeoutError], "0 1 2 3"),  # while there is no worker one image waits for it
        (1, [KilledWorker()], "1 2 3 0"),  # an image whose worker was killed comes after the others
        (1, [KilledWorker(), None, None, None, KilledWorker(), KilledWorker()], "1 2 3 abandoned"),
        (2, [None, WeightsError("another network")], (WeightsError, "another network")),
        (2, [None, ModuleNotFoundError("scribblesegment")], (ClusterError, "same version of the package")),
        (2, [None, "lost"], (ClusterError, "connection to the scheduler was lost")),
        (2, [None, CancelledError], (ClusterError, "connection to the scheduler was lost")),
        (0, [TimeoutError] * 160, (ClusterError, "All workers are gone")),
    ],
)
def test_a_cluster_does_all_images_or_ends_the_batch(folders, monkeypatch, workers, outcomes, result):
    client, done = Client(workers, outcomes), []
    scheduler = SimpleNamespace(KilledWorker=KilledWorker)
    dask = SimpleNamespace(wait=client.wait, scheduler=scheduler, CancelledError=CancelledError)
    monkeypatch.setattr(run, "_required", {"distributed": dask}.__getitem__)
    images = [BatchImage(str(number), Path()) for number in range(4)]
    if isinstance(result, tuple):
        with pytest.raises(result[0], match=result[1]):
            run_on_cluster(client, a_job(folders), images, done.append)
        return
    run_on_cluster(client, a_job(folders), images, done.append)
    assert " ".join(one.name if one.status == "done" else "abandoned" for one in done) == result
    assert [RecordFolder(folders.output).read(one.name) == one for one in done] == [
        one.status == "failed" for one in done
    ]
    assert client.most_under_way == max(1, workers)
    assert len(set(client.submitted)) == len(client.submitted)
    assert client.cancelled == []


def test_workers_fit_the_machine_and_leave_ctrl_c_to_the_program(folders, monkeypatch):
    assert import_module(run._PRELOAD).dask_setup is dask_setup
    with patch("signal.signal") as handler:
        dask_setup(None)
    handler.assert_called_once_with(signal.SIGINT, signal.SIG_IGN)
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=10 << 30))
    monkeypatch.setattr(run, "_required", {"dask.system": SimpleNamespace(CPU_COUNT=8), "psutil": psutil}.__getitem__)
    images = [BatchImage(f"{number}.nrrd", folders.images / f"{number}.nrrd") for number in range(20)]
    assert [fitting_workers(images), fitting_workers(images[:3])] == [8, 3]  # missing ones have no size
    images[5].path.touch()
    os.truncate(images[5].path, 512 << 20)
    assert fitting_workers(images) == 2


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_or_has_no_workers_is_refused(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(run, "_PATIENCE_S", 1.0)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty:
        for address, problem in (
            ("tcp://127.0.0.1:9", "Cannot connect to the scheduler"),
            (empty.scheduler_address, r"No worker came up.*dask worker tcp://"),
        ):
            with pytest.raises(ClusterError, match=problem), open_client(None, address):
                pass


# Progress.

FOUND = StructureResult("Leber", 3, 1.23, None, 0.912, 0.5)
FLAT = StructureResult("Leber", 1, None, 12.34, 0.5, 0.5)
NOTHING = StructureResult("Milz", 0, 0.0, None, None, None)


def test_progress_is_reported_in_lines_in_the_bar_and_in_the_tables(tmp_path, capsys, monkeypatch):
    images, lines = [BatchImage(name, Path(name)) for name in "abcde"], []
    statuses = lambda: [row.split(",")[-2] for row in (tmp_path / RESULTS).read_text().splitlines()[1:]]  # noqa: E731
    progress = BatchProgress(tmp_path, images, BatchPlan(images[:4]), lines.append)
    assert progress._bar.postfix == "4 to go"
    with progress:
        progress.done(ImageRecord("a", {}, "done", (FOUND, NOTHING)))
        progress.done(ImageRecord("b", {}, "done", (FLAT,)))
        progress.done(ImageRecord("c", {}, "failed", error="damaged"))
        assert progress._bar.postfix == "1 to go, problems: 1"
        assert not (tmp_path / RESULTS).exists()
        monkeypatch.setattr(run, "_TABLES_EVERY_S", 0.0)
        progress.done(ImageRecord("d", {}, "failed", error="KeyError: x", traceback="Traceback ...\n"))
        assert statuses() == ["done", "done", "done", "failed", "failed", "to do"]
        (tmp_path / RESULTS).unlink()
    assert len(statuses()) == 6
    assert (progress.problems, progress.defects) == (2, 1)
    assert lines == ["a: Leber 1.2 ml, confidence 0.91; Milz not found", "b: Leber 12.3 mm2, confidence 0.50"]
    assert capsys.readouterr().err == "error: c: damaged\nTraceback ...\nerror: d: KeyError: x\n"
