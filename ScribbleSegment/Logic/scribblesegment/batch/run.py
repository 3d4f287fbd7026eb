"""Segmenting the images of a batch: in this process, or in several on one computer or many.

Several processes are run by Dask (https://distributed.dask.org), which hands images to workers, notices when one dies,
and gives its image to another. What is done is known from the records beside the results, whatever becomes of workers,
scheduler and this program.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from scribblesegment.batch.images import BatchImage, files_of
from scribblesegment.batch.job import BatchJob, BatchPlan, weights_digest
from scribblesegment.batch.records import (
    FOLDER,
    FileState,
    ImageRecord,
    RecordFolder,
    StructureResult,
    state_of,
    write_tables,
)
from scribblesegment.batch.segmentation import SegmentedImage, image_axis, segment_image
from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.files import read_context
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, ScribbleSegmentError, WeightsError, is_installed, require_package
from scribblesegment.inference.devices import torch_problem
from scribblesegment.inference.predictor import Predictor
from scribblesegment.io import default_segment, read_volume, write_segmentation
from scribblesegment.io.storage import system_errors
from scribblesegment.weights.registry import weights_file

TRIES = 3
"""An image is abandoned when so many worker processes died while they were at it."""

# Nothing more can be written, whatever the image.
_NOWHERE_TO_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

_REMEDY = "Install Dask with: pip install 'scribblesegment[batch]'. Without it, --workers 1 does one image at a time."
_LOST = "The connection to the scheduler was lost. Start the same command again to go on."
_PRELOAD = "scribblesegment.batch"  # whose `dask_setup` each local worker calls
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # one and the same from Python 3.11

_POLL_S = 2.0  # how often it is looked whether workers have joined
_PATIENCE_S = 60.0  # for a scheduler and its first worker
_DESERTED_S = 300.0  # without a worker, after which the batch ends
_TABLES_EVERY_S = 30.0  # the tables are brought up to date this often, for whoever looks at them meanwhile

# A worker is PyTorch and this package, and an image takes some times its file: compressed voxels, the label map, and
# what reading needs.
_WORKER_BYTES, _BYTES_FOR_EACH_OF_FILE = 1 << 30, 8


class ClusterError(ScribbleSegmentError, RuntimeError):
    """A scheduler or workers that cannot be used."""


# One image.


class ImageWorker:
    """Segments images one after the other with one network."""

    def __init__(self, job: BatchJob, predictor: Predictor, contexts: Sequence[ContextSet]) -> None:
        self._job, self._predictor, self._contexts = job, predictor, contexts
        self._records = RecordFolder(job.output)

    def process(self, image: BatchImage) -> ImageRecord:
        """Segment an image and write its result and record, which also holds whatever is wrong with the image.

        An image that was done in the meantime, by a worker that died before it could report so, is not done again.

        Raises:
            FileFormatError: Nothing more can be written to the output folder.
        """
        before = self._records.read(image.name)
        if before is not None and before.is_current(image, self._job.output, self._job.made_by):
            return before
        deaths = self._records.begin(image.name, self._job.run)
        try:
            record = _abandoned(image, self._job) if deaths >= TRIES else self._segment(image)
            self._records.write(record)
        finally:  # whatever ends it without ending the process at once was not the image's fault
            self._records.end(image.name)
        return record

    def _segment(self, image: BatchImage) -> ImageRecord:
        began = time.perf_counter()
        record = ImageRecord(image.name, self._job.made_by, "failed")
        try:
            record = dataclasses.replace(record, source=state_of(files_of(image.path)))
            series = self._job.series if image.path.is_dir() else None
            volume = read_volume(image.path, series=series)
            axis = image_axis(volume, self._job.axis)
            found = segment_image(self._predictor, volume, self._contexts, axis, self._job.config)
            structures = _measure(found, volume, axis, self._contexts)
            result = self._write(image, found, volume)
            record = dataclasses.replace(record, status="done", structures=structures, result=result)
        except (ScribbleSegmentError, OSError) as error:
            if getattr(error.__cause__ or error, "errno", None) in _NOWHERE_TO_WRITE:
                raise
            record = dataclasses.replace(record, error=_one_line(error))
        except MemoryError:
            problem = "There is not enough memory for this image. Crop or resample it."
            record = dataclasses.replace(record, error=problem)
        except (
            Exception
        ) as error:  # a defect: recorded with its traceback, and the program ends with 1 after the others
            problem = f"{type(error).__name__}: {_one_line(error)}"
            record = dataclasses.replace(record, error=problem, traceback=traceback.format_exc())
        return dataclasses.replace(record, seconds=round(time.perf_counter() - began, 3))

    def _write(self, image: BatchImage, found: SegmentedImage, volume: Volume) -> FileState:
        path = self._job.output / image.result_name
        segments = [
            Segment(label, context.label_name, default_segment(label).color_rgb)
            for label, context in enumerate(self._contexts, start=1)
        ]
        self._records.remove(image.name)  # first: a result that was replaced must not be taken for one edited by hand
        with system_errors(f"Cannot create the folder {path.parent}", "Check the permissions of the output folder."):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_segmentation(path, LabelVolume(found.labels, volume.ijk_to_ras), segments)
        return state_of([path])


def _abandoned(image: BatchImage, job: BatchJob) -> ImageRecord:
    """The record of an image at which workers keep dying."""
    error = (
        f"{TRIES} worker processes died while they were at this image, so it was given up. It may need more memory "
        "than there is: try it alone with --workers 1."
    )
    return ImageRecord(image.name, job.made_by, "failed", error=error)


def _measure(
    found: SegmentedImage, volume: Volume, axis: int, contexts: Sequence[ContextSet]
) -> tuple[StructureResult, ...]:
    # Plane by plane: counting makes a copy of eight bytes a voxel.
    counts = sum(np.bincount(plane.ravel(), minlength=len(contexts) + 1) for plane in found.labels)
    is_flat = volume.shape[axis] == 1
    unit = (
        float(np.prod(volume.slice(axis, 0).spacing_mm))
        if is_flat
        else abs(float(np.linalg.det(volume.ijk_to_ras[:3, :3]))) / 1000.0
    )
    measured = []
    for context, count, by_slice in zip(contexts, np.asarray(counts)[1:], found.confidence, strict=True):
        confidence, size = list(by_slice.values()), int(count) * unit
        measured.append(
            StructureResult(
                context.label_name,
                slices=len(confidence),
                volume_ml=None if is_flat else size,
                area_mm2=size if is_flat else None,
                mean_confidence=sum(confidence) / len(confidence) if confidence else None,
                lowest_confidence=min(confidence, default=None),
            )
        )
    return tuple(measured)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# Worker processes.


_ONE_AT_A_TIME = threading.Lock()
_loaded: tuple[str, ImageWorker] | None = None


def process_in_worker(job: BatchJob, image: BatchImage) -> ImageRecord:
    """Segment an image in a worker process, which keeps the network and the context sets for the next one.

    A worker with several threads still does one image at a time: a predictor holds one image only.

    Raises:
        ScribbleSegmentError: The worker cannot do any image: it lacks the output folder, or has another network.
    """
    global _loaded
    with _ONE_AT_A_TIME:
        if _loaded is None or _loaded[0] != job.run:
            _loaded = None  # before the next is loaded: both may not have room
            _loaded = job.run, _load(job)
        return _loaded[1].process(image)


def _load(job: BatchJob) -> ImageWorker:
    if not (job.output / FOLDER).is_dir():
        raise FileFormatError(
            f"A worker does not see the folder {job.output / FOLDER}. Images, output and weights must lie on a drive "
            "that every worker reaches by the same path."
        )
    path = weights_file(job.weights, in_context=True)
    if weights_digest(path) != job.made_by["network"]:
        raise WeightsError(f"A worker has another network in {path}. Install the same version everywhere.")
    if torch_problem() is None:
        import torch

        torch.set_num_threads(job.threads)
    predictor = job.load(path, device=job.device, threads=job.threads)
    return ImageWorker(job, predictor, [read_context(one) for one in job.contexts])


def has_dask() -> bool:
    """Whether Dask is installed."""
    return is_installed("distributed")


def require_dask() -> None:
    """Raise MissingPackageError if Dask cannot be imported, with the name of the extra that brings it."""
    _required("distributed")


def _required(module: str) -> Any:
    return require_package(module, purpose="A batch with several workers", remedy=_REMEDY)


def fitting_workers(images: Sequence[BatchImage]) -> int:
    """Choose how many processes suit this computer: one for each core, as far as there is memory and work for them."""
    system, psutil = _required("dask.system"), _required("psutil")

    def file_bytes(path: Path) -> int:
        try:
            return sum(file.stat().st_size for file in files_of(path))
        except OSError:
            return 0

    largest = max((file_bytes(image.path) for image in images), default=0)
    each = _WORKER_BYTES + _BYTES_FOR_EACH_OF_FILE * largest
    return max(1, int(min(system.CPU_COUNT, psutil.virtual_memory().available // each, len(images))))


@contextmanager
def open_client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Yield a `distributed.Client` with at least one worker.

    Args:
        workers: How many to start on this computer, each a process that does one image at a time and ends with the
            block.
        scheduler: Address of a scheduler that is used instead.

    Raises:
        MissingPackageError: Dask is not installed.
        ClusterError: The scheduler cannot be reached, or no worker comes up.
    """
    distributed, dask = _required("distributed"), _required("dask")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is reported by image
    settings = {
        # Deaths are counted by image (`RecordFolder.begin`): Dask also blames images that only waited in that process.
        "distributed.scheduler.allowed-failures": 100,
        "distributed.logging": {"distributed": "critical"},
    }
    with dask.config.set(settings):
        try:
            if scheduler is not None:
                client = distributed.Client(scheduler, timeout=_PATIENCE_S)
            else:
                # Only on this computer, without a web page, and without a memory limit: Dask would pause for good a
                # process that keeps memory after a large image. How many there are is chosen by memory instead.
                cluster = distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=None,
                    preload=_PRELOAD,
                    silence_logs=logging.CRITICAL,
                )
                client = distributed.Client(cluster)
        except (OSError, ValueError, *_TIMEOUTS) as cause:
            where = f"the scheduler {scheduler}" if scheduler is not None else "a local scheduler"
            raise ClusterError(
                f"Cannot connect to {where}: {cause}. Check the address and that 'dask scheduler' runs there."
            ) from cause
        try:
            _wait_for_worker(client, scheduler)
            yield client
        finally:
            cluster = client.cluster
            client.close()
            if scheduler is None:
                cluster.close()


def _wait_for_worker(client: Any, scheduler: str | None) -> None:
    try:
        client.wait_for_workers(1, timeout=_PATIENCE_S)
    except _TIMEOUTS as cause:
        remedy = f"Start some with: dask worker {scheduler} --nthreads 1"
        if scheduler is None:
            remedy = "Try --workers 1, which needs none."
        raise ClusterError(f"No worker came up within {_PATIENCE_S:.0f} s. {remedy}") from cause


def run_on_cluster(
    client: Any, job: BatchJob, images: Sequence[BatchImage], done: Callable[[ImageRecord], None]
) -> None:
    """Segment images on the workers of a client from `open_client`, as many at a time as there are workers.

    An image at which workers keep dying is abandoned after `TRIES` of them, and never holds up the others. `done` is
    called with each record.

    Raises:
        ScribbleSegmentError: A worker cannot do any image, or nothing more can be written.
    """
    distributed = _required("distributed")
    waiting = deque(images)
    under_way: dict[Any, BatchImage] = {}
    killed: dict[str, int] = {}
    polls_alone = 0
    try:
        while waiting or under_way:
            while waiting and len(under_way) < max(1, len(client.nthreads())):
                image = waiting.popleft()
                key = f"scribblesegment-{job.run}-{killed.get(image.name, 0)}-{image.name!a}"
                under_way[client.submit(process_in_worker, job, image, key=key, pure=False)] = image
            try:
                finished = distributed.wait(list(under_way), timeout=_POLL_S, return_when="FIRST_COMPLETED").done
            except _TIMEOUTS as cause:
                polls_alone = 0 if client.nthreads() else polls_alone + 1
                if polls_alone * _POLL_S > _DESERTED_S:
                    raise ClusterError(
                        f"All workers are gone, and none came back for {_DESERTED_S:.0f} s. Look why they ended, and "
                        "start the same command again to go on."
                    ) from cause
                continue
            except distributed.CancelledError as cause:
                raise ClusterError(_LOST) from cause
            for future in finished:
                image = under_way.pop(future)
                if future.status == "finished":
                    done(future.result())
                    continue
                if future.status != "error":
                    raise ClusterError(_LOST)
                error = future.exception()
                if isinstance(error, (ImportError, AttributeError, EOFError)):  # what it was sent, it could not read
                    raise ClusterError(
                        f"A worker cannot do this work: {error!r}. Install the same version of the package everywhere."
                    ) from error
                if not isinstance(error, distributed.scheduler.KilledWorker):
                    raise error
                killed[image.name] = killed.get(image.name, 0) + 1
                if killed[image.name] < TRIES:
                    waiting.append(image)
                    continue
                record = _abandoned(image, job)
                RecordFolder(job.output).write(record)
                done(record)
    finally:
        client.cancel(list(under_way), force=True)


# Progress.


class BatchProgress:
    """What is done, what is left and what went wrong, on the terminal and in the tables, which are written on exit."""

    records: dict[str, ImageRecord]  # of the images so far, by name
    problems: int  # images without a result, in this run
    defects: int  # those of them that are not the image's fault

    def __init__(
        self, output: Path, images: Sequence[BatchImage], plan: BatchPlan, report: Callable[[str], None]
    ) -> None:
        self.records, self.problems, self.defects = dict(plan.records), 0, 0
        self._output, self._names, self._edited = output, [image.name for image in images], tuple(plan.edited)
        self._report, self._left, self._written = report, len(plan.to_do), time.monotonic()
        # disable=None: silent unless standard error is a terminal.
        self._bar = tqdm(total=self._left, desc="segmenting", unit="image", disable=None, leave=False)
        self._show()

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        self._write()

    def done(self, record: ImageRecord) -> None:
        """Report the record of an image."""
        self.records[record.name] = record
        with tqdm.external_write_mode(file=sys.stderr):
            if record.status == "done":
                self._report(f"{record.name}: {'; '.join(map(_summary, record.structures))}")
            else:
                self.problems += 1
                self.defects += bool(record.traceback)
                print(f"{record.traceback}error: {record.name}: {record.error}", file=sys.stderr, flush=True)
        self._left -= 1
        self._bar.update()
        self._show()
        if time.monotonic() - self._written > _TABLES_EVERY_S:
            self._write()

    def _show(self) -> None:
        self._bar.set_postfix_str(f"{self._left} to go" + (f", problems: {self.problems}" if self.problems else ""))

    def _write(self) -> None:
        write_tables(self._output, self._names, self.records, self._edited)
        self._written = time.monotonic()


def _summary(found: StructureResult) -> str:
    if not found.slices:
        return f"{found.name} not found"
    size = f"{found.area_mm2:.1f} mm2" if found.volume_ml is None else f"{found.volume_ml:.1f} ml"
    return f"{found.name} {size}, confidence {found.mean_confidence:.2f}"
