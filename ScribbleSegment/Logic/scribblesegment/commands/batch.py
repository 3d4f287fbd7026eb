"""The job behind `scribblesegment batch`: the images of a folder, segmented as the images of context sets are."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from scribblesegment.batch.cluster import fitting_workers, has_dask, open_client, require_dask, run_on_cluster
from scribblesegment.batch.image_worker import ImageWorker
from scribblesegment.batch.images import BatchImage, find_images
from scribblesegment.batch.job import BatchJob, fingerprints
from scribblesegment.batch.network import LoadNetwork, check_takes_context, weights_digest
from scribblesegment.batch.plan import BatchPlan
from scribblesegment.batch.progress import BatchProgress
from scribblesegment.batch.records import FOLDER, LEFTOVER
from scribblesegment.batch.results_table import RESULTS
from scribblesegment.batch.segmentation import BatchConfig, context_axis
from scribblesegment.commands.context_choice import open_context
from scribblesegment.commands.job_files import show_download
from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.files import EXTENSION, write_context_file
from scribblesegment.errors import ConfigError, ContextError, FileFormatError, ScribbleSegmentError
from scribblesegment.io.storage import file_lock
from scribblesegment.propagation import PropagationConfig
from scribblesegment.weights.registry import weights_file

_LOCK = ".lock"
_LOCK_S = 2.0
_SNAPSHOT = re.compile(rf"context-\d+{re.escape(EXTENSION)}")


class BatchError(ScribbleSegmentError):
    """Some images of a batch have no result; the others do."""


@dataclass(frozen=True)
class BatchRequest:
    """What the user asked for.

    Attributes:
        folder: Folder of images.
        output: Folder of results.
        contexts: Tasks, files or folders of context sets, one for each structure.
        recursive: Whether folders in the folder are searched too.
        axis: Axis of the array slices are taken along (0 = K, 1 = J, 2 = I); None finds it.
        model: Name or path of the network.
        threshold: Probability in (0, 1) from which a pixel belongs to a structure.
        device: "auto" or a torch device name.
        threads: Threads of the processor that each worker uses.
        workers: Processes on this computer; None for as many as suit it.
        scheduler: Address of a Dask scheduler to use instead.
        redo: Whether images that are done are done again.
    """

    folder: Path
    output: Path
    contexts: Sequence[str]
    recursive: bool = False
    axis: int | None = None
    model: str = "default"
    threshold: float = 0.5
    device: str = "auto"
    threads: int = 1
    workers: int | None = None
    scheduler: str | None = None
    redo: bool = False


def batch(request: BatchRequest, *, load: LoadNetwork, say: Callable[[str], None]) -> None:
    """Segment the images of a folder; those that are done already are left as they are.

    Args:
        request: What to do.
        load: Loads the network.
        say: Told, line by line, what was done.

    Raises:
        BatchError: Some images could not be segmented; all others were.
        RuntimeError: The same, and it was not the images' fault for all of them.
        ScribbleSegmentError: Whatever is wrong with folders, context sets, network, scheduler or disk.
        KeyboardInterrupt: The user interrupted. What is done stays, and the next call goes on from there.
    """
    config = BatchConfig(PropagationConfig(threshold=request.threshold))
    _check_workers(request)
    contexts = _open_contexts(request.contexts)
    axis = context_axis(contexts) if request.axis is None else request.axis
    images = find_images(request.folder.absolute(), recursive=request.recursive, leave_out=request.output)
    if not images:
        remedy = "" if request.recursive else " Images in folders inside it are found with --recursive."
        raise FileFormatError(f"There is no image in {request.folder}.{remedy}")
    path = weights_file(request.model, in_context=True, progress=show_download)
    made_by = fingerprints(contexts, weights_digest(path), axis=axis, config=config, threads=request.threads)
    job = BatchJob(
        run=uuid.uuid4().hex,
        output=request.output.resolve(),
        weights=str(path.resolve()) if path == Path(request.model) else request.model,
        axis=axis,
        config=config,
        device=request.device,
        threads=request.threads,
        made_by=made_by,
        load=load,
    )
    with _locked(job.output):
        _remove_leftovers(job.output, images)
        plan = BatchPlan.of(images, job, redo=request.redo)
        plan.tell(say)
        progress = BatchProgress(
            job.output, images, records=plan.records, changed=plan.changed, to_do=len(plan.to_do), say=say
        )
        try:
            with progress:
                if plan.to_do:
                    _run(request, job, plan.to_do, contexts, progress, several=len(images) > 1)
        except KeyboardInterrupt:
            say(f"{len(progress.records)} of {len(images)} images are done; the same command goes on from there")
            raise
    say(f"wrote {request.output / RESULTS}")
    if progress.problems:
        told = f"no result for {progress.problems} of {len(images)} images; {request.output / RESULTS} says why"
        if progress.defects:
            raise RuntimeError(f"{told}. For {progress.defects} of them the reason was unexpected, see above.")
        raise BatchError(f"{told}. All others are done.")


def _run(
    request: BatchRequest,
    job: BatchJob,
    to_do: Sequence[BatchImage],
    contexts: Sequence[ContextSet],
    progress: BatchProgress,
    *,
    several: bool,
) -> None:
    # Also where workers load their own: what is wrong with the network is told before any of them starts.
    predictor = job.load(weights_file(job.weights, in_context=True), device=job.device, threads=job.threads)
    check_takes_context(predictor, job.weights)
    if not _uses_workers(request, several=several):
        worker = ImageWorker(job, predictor, contexts)
        for image in to_do:
            progress.done(worker.do(image))
        return
    del predictor
    workers = None if request.scheduler else (request.workers or fitting_workers(to_do))
    with _written(contexts, job.output) as paths, open_client(workers, request.scheduler) as client:
        run_on_cluster(client, replace(job, contexts=paths), to_do, progress.done)


def _uses_workers(request: BatchRequest, *, several: bool) -> bool:
    """Whether images are done in other processes.

    This must not depend on what is done already: a batch that goes on shall do the rest as it would have been done.
    """
    if request.scheduler is not None or request.workers is not None:
        return request.scheduler is not None or request.workers != 1
    if not several or not has_dask():
        return False
    from scribblesegment.inference.devices import resolve_device

    return resolve_device(request.device) == "cpu"  # one process is enough to keep a graphics card busy


def _check_workers(request: BatchRequest) -> None:
    """Refuse numbers that make no sense, and Dask where it is missing, before any work."""
    if request.workers is not None and request.scheduler is not None:
        raise ConfigError("--workers starts processes here, --scheduler uses those of another. Give one of the two.")
    for name, number in (("--workers", request.workers), ("--threads", request.threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; give at least 1.")
    if request.scheduler is not None or (request.workers or 1) > 1:
        require_dask()


def _open_contexts(chosen: Sequence[str]) -> list[ContextSet]:
    contexts = [open_context(one) for one in chosen]
    seen: dict[str, str] = {}
    for name, context in zip(chosen, contexts, strict=True):
        if not len(context):
            raise ContextError(f"The context set {name!r} is empty. Add segmented images to it.")
        other = seen.setdefault(context.label_name.casefold(), name)
        if other != name or chosen.count(name) > 1:
            raise ContextError(
                f"Two context sets are for {context.label_name!r}: {other!r} and {name!r}. Give one for each structure."
            )
    return contexts


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Make the output folder, and keep other programs from working on it."""
    try:
        output.mkdir(exist_ok=True)
        (output / FOLDER).mkdir(exist_ok=True)
    except OSError as cause:
        raise FileFormatError(
            f"Cannot create the folder {output}: {cause.strerror or cause}. Choose an existing folder, or a new one in "
            "a folder with permission to write."
        ) from cause
    with file_lock(output / FOLDER / _LOCK, timeout_s=_LOCK_S):
        yield


def _remove_leftovers(output: Path, images: Sequence[BatchImage]) -> None:
    """Remove what a killed program was writing; nothing else has such names."""
    folders = {output, output / FOLDER, *((output / image.result_name).parent for image in images)}
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if LEFTOVER.fullmatch(path.name) or (folder.name == FOLDER and _SNAPSHOT.fullmatch(path.name)):
                path.unlink(missing_ok=True)


@contextmanager
def _written(contexts: Sequence[ContextSet], output: Path) -> Iterator[tuple[Path, ...]]:
    """Write context sets where every worker finds them, and remove them afterwards: they show patients."""
    paths = tuple(output / FOLDER / f"context-{number}{EXTENSION}" for number in range(1, len(contexts) + 1))
    try:
        for path, context in zip(paths, contexts, strict=True):
            write_context_file(path, context)
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
