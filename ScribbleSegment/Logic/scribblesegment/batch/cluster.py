"""A batch in several processes, on this computer or on many, by Dask (https://distributed.dask.org).

Dask hands images to workers, notices when one dies, and gives its image to another. What is done is known from the
records beside the results, whatever becomes of workers, scheduler and this program.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scribblesegment.batch.image_worker import do_in_worker, given_up
from scribblesegment.batch.images import BatchImage, files_of
from scribblesegment.batch.job import TRIES, BatchJob
from scribblesegment.batch.records import ImageRecord, RecordFolder
from scribblesegment.errors import ScribbleSegmentError, require_package

_REMEDY = "Install Dask with: pip install 'scribblesegment[batch]'. Without it, --workers 1 does one image at a time."

# One and the same from Python 3.11.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)

_LOST = "The connection to the scheduler was lost. Start the same command again to go on."

_PRELOAD = "scribblesegment.batch.local_worker"

# How often it is looked whether workers have joined.
_POLL_S = 2.0
_PATIENCE_S = 60.0

# A worker is PyTorch and this package, and an image takes some times its file: compressed voxels, the label map, and
# what reading needs.
_WORKER_BYTES, _BYTES_FOR_EACH_OF_FILE = 1 << 30, 8


class ClusterError(ScribbleSegmentError, RuntimeError):
    """A scheduler or workers that cannot be used."""


def has_dask() -> bool:
    """Whether Dask is installed."""
    return importlib.util.find_spec("distributed") is not None


def require_dask() -> None:
    """Raise MissingDependencyError if Dask cannot be imported, with the name of the extra that brings it."""
    _required("distributed")


def fitting_workers(images: Sequence[BatchImage]) -> int:
    """Choose how many processes suit this computer: one for each core, as far as there is memory and work for them."""
    system, psutil = _required("dask.system"), _required("psutil")
    largest = max((_file_bytes(image.path) for image in images), default=0)
    each = _WORKER_BYTES + _BYTES_FOR_EACH_OF_FILE * largest
    fitting = min(system.CPU_COUNT, psutil.virtual_memory().available // each, len(images))
    return max(1, int(fitting))


@contextmanager
def open_client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Connect to a scheduler, or start workers on this computer, which end with the block.

    Args:
        workers: How many to start, each a process that does one image at a time.
        scheduler: Address of a scheduler that is used instead.

    Yields:
        A `distributed.Client` with at least one worker.

    Raises:
        MissingDependencyError: Dask is not installed.
        ClusterError: The scheduler cannot be reached, or no worker comes up.
    """
    distributed, dask = _required("distributed"), _required("dask")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told by image
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
            _wait_for_workers(client, scheduler)
            yield client
        finally:
            cluster = client.cluster
            client.close()
            if scheduler is None:
                cluster.close()


def run_on_cluster(
    client: Any, job: BatchJob, images: Sequence[BatchImage], done: Callable[[ImageRecord], None]
) -> None:
    """Segment images on workers.

    There are as many images under way as workers. An image at which workers keep dying is given up after `TRIES` of
    them, and never holds up the others.

    Args:
        client: From `open_client`.
        job: How.
        images: In the order in which they are begun.
        done: Told each image's record when it is there.

    Raises:
        ScribbleSegmentError: A worker cannot do any image, or nothing more can be written.
    """
    distributed = _required("distributed")
    waiting = deque(images)
    under_way: dict[Any, BatchImage] = {}
    killed: dict[str, int] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < max(1, len(client.nthreads())):
                image = waiting.popleft()
                key = f"scribblesegment-{job.run}-{killed.get(image.name, 0)}-{image.name!a}"
                under_way[client.submit(do_in_worker, job, image, key=key, pure=False)] = image
            try:
                finished = distributed.wait(list(under_way), timeout=_POLL_S, return_when="FIRST_COMPLETED").done
            except _TIMEOUTS:
                continue
            except distributed.CancelledError as cause:
                raise ClusterError(_LOST) from cause
            for future in finished:
                image = under_way.pop(future)
                error = _error_of(future)
                if error is None:
                    done(future.result())
                elif not isinstance(error, distributed.scheduler.KilledWorker):
                    raise error
                else:
                    killed[image.name] = killed.get(image.name, 0) + 1
                    if killed[image.name] < TRIES:
                        waiting.append(image)
                        continue
                    record = given_up(image, job)
                    RecordFolder(job.output).write(record)
                    done(record)
    finally:
        client.cancel(list(under_way), force=True)


def _error_of(future: Any) -> BaseException | None:
    if future.status == "finished":
        return None
    if future.status != "error":
        return ClusterError(_LOST)
    error: BaseException = future.exception()
    if isinstance(error, (ImportError, AttributeError, EOFError)):  # what it was sent, it could not read
        told = f"A worker cannot do this work: {error!r}. Install the same version of the package everywhere."
        refusal = ClusterError(told)
        refusal.__cause__ = error
        return refusal
    return error


def _required(module: str) -> Any:
    return require_package(module, purpose="A batch with several workers", remedy=_REMEDY)


def _wait_for_workers(client: Any, scheduler: str | None) -> None:
    try:
        client.wait_for_workers(1, timeout=_PATIENCE_S)
    except _TIMEOUTS as cause:
        remedy = (
            f"Start some with: dask worker {scheduler} --nthreads 1"
            if scheduler is not None
            else "Try --workers 1, which needs none."
        )
        raise ClusterError(f"No worker came up within {_PATIENCE_S:.0f} s. {remedy}") from cause


def _file_bytes(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in files_of(path))
    except OSError:
        return 0
