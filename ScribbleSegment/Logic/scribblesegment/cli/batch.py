"""`scribblesegment batch`: the images of a folder, segmented as the images of context sets are."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scribblesegment.cli.files import open_context
from scribblesegment.cli.options import Argument, Device, DisplayWindow, Series, Threshold, read_axis
from scribblesegment.errors import ConfigError, ContextError, FileFormatError, ScribbleSegmentError

if TYPE_CHECKING:
    from scribblesegment.batch.images import BatchImage
    from scribblesegment.batch.job import BatchJob
    from scribblesegment.batch.records import ImageRecord
    from scribblesegment.context.context_set import ContextSet

_LOCK_S = 2.0


class BatchError(ScribbleSegmentError):
    """Some images of a batch have no result; the others do."""


def batch(
    folder: Annotated[Path, Argument("FOLDER", "folder of images, or of folders with one DICOM series each")],
    *,
    contexts: Annotated[
        tuple[str, ...],
        Argument(
            "--context TASK_OR_FILE",
            "segmented images to go by: the name of a task, or a context set's file or folder; given again for each "
            "further structure",
        ),
    ],
    output: Annotated[Path, Argument("-o, --output OUT", "folder of the results; made if need be")],
    recursive: Annotated[
        bool, Argument("-r, --recursive", "also take the images in folders inside FOLDER, however deep")
    ] = False,
    axis: Annotated[
        int | None,
        Argument(
            "--axis AXIS",
            "k, j or i: axis along which volumes are cut into slices. Default: that of the context sets, else the one "
            "with the largest spacing",
            read=read_axis,
        ),
    ] = None,
    series: Series = None,
    window: DisplayWindow = None,
    model: Annotated[
        str,
        Argument(
            "--weights, --model NAME",
            "name (see: scribblesegment info) or file of a network that takes context sets",
        ),
    ] = "default",
    threshold: Threshold = 0.5,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        Argument(
            "--workers N",
            "processes, each doing one image at a time; 1 needs no Dask. Default: as many as cores and memory allow, 1 "
            "without Dask or with a graphics card",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        Argument("--scheduler ADDRESS", "use the workers of this Dask scheduler instead, also on other computers"),
    ] = None,
    threads: Annotated[int, Argument("--threads N", "threads of the processor that each worker uses (default 1)")] = 1,
    redo: Annotated[
        bool, Argument("--redo", "do all images again, also those whose result was changed by hand")
    ] = False,
    load: Callable[..., Any] | None = None,
) -> None:
    """Segment all images of a folder as those of a context set are segmented.

    Results are OUT/<image>.seg.nrrd and OUT/results.csv. Images that are done already are left as they are, so after an
    interruption of any kind the same command goes on where it was left. A damaged image is reported and skipped.

    Examples:
      scribblesegment batch patients --context Liver -o livers
      scribblesegment batch patients --recursive --context Liver --context spleen.context.zip -o organs --workers 4
      scribblesegment batch patients --context Liver -o livers --scheduler tcp://10.0.0.5:8786
    """
    from scribblesegment.batch.images import find_images
    from scribblesegment.batch.job import BatchJob, BatchPlan, fingerprints, load_for_batch, weights_digest
    from scribblesegment.batch.records import RESULTS
    from scribblesegment.batch.run import BatchProgress, require_dask
    from scribblesegment.batch.segmentation import BatchConfig, context_axis
    from scribblesegment.propagation import PropagationConfig
    from scribblesegment.weights.registry import weights_file

    config = BatchConfig(PropagationConfig(threshold=threshold), window=window)
    if workers is not None and scheduler is not None:
        raise ConfigError("--workers starts processes here, --scheduler uses those of another. Give one of the two.")
    for name, number in (("--workers", workers), ("--threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; give at least 1.")
    if scheduler is not None or (workers or 1) > 1:
        require_dask()
    context_sets = _open_contexts(contexts)
    axis = context_axis(context_sets) if axis is None else axis
    images = find_images(folder.absolute(), recursive=recursive, leave_out=output)
    if not images:
        remedy = "" if recursive else " Images in folders inside it are found with --recursive."
        raise FileFormatError(f"There is no image in {folder}.{remedy}")
    path = weights_file(model, in_context=True)
    job = BatchJob(
        run=uuid.uuid4().hex,
        output=output.resolve(),
        weights=str(path.resolve()) if path == Path(model) else model,
        axis=axis,
        config=config,
        device=device,
        threads=threads,
        made_by=fingerprints(
            context_sets, weights_digest(path), axis=axis, config=config, threads=threads, series=series
        ),
        series=series,
        load=load or load_for_batch,
    )
    with _locked(job.output):
        _remove_leftovers(job.output, images)
        plan = BatchPlan.of(images, job, redo=redo)
        print(*plan.describe(), sep="\n")
        progress = BatchProgress(job.output, images, plan, print)
        try:
            with progress:
                if plan.to_do:
                    several = len(images) > 1
                    _process(job, context_sets, plan.to_do, progress.done, workers, scheduler, several=several)
        except KeyboardInterrupt:
            print(f"{len(progress.records)} of {len(images)} images are done; the same command goes on from there")
            raise
    print(f"wrote {output / RESULTS}")
    if progress.problems:
        told = f"no result for {progress.problems} of {len(images)} images; {output / RESULTS} says why"
        if progress.defects:
            raise RuntimeError(f"{told}. For {progress.defects} of them the reason was unexpected, see above.")
        raise BatchError(f"{told}. All others are done.")


def uses_workers(workers: int | None, scheduler: str | None, device: str, *, several: bool) -> bool:
    """Whether images are done in other processes.

    This must not depend on what is done already: a batch that goes on shall do the rest as it would have been done.
    """
    from scribblesegment.batch.run import has_dask
    from scribblesegment.inference.devices import resolve_device

    if scheduler is not None or workers is not None:
        return scheduler is not None or workers != 1
    # One process is enough to keep a graphics card busy.
    return several and has_dask() and resolve_device(device) == "cpu"


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


def _process(
    job: BatchJob,
    contexts: Sequence[ContextSet],
    images: Sequence[BatchImage],
    done: Callable[[ImageRecord], None],
    workers: int | None,
    scheduler: str | None,
    *,
    several: bool,
) -> None:
    """Do images one after the other in this process, or at once in others, here or of a scheduler."""
    from scribblesegment.batch.job import check_takes_context
    from scribblesegment.batch.run import ImageWorker, fitting_workers, open_client, run_on_cluster
    from scribblesegment.weights.registry import weights_file

    # Also where workers load their own: what is wrong with the network is told before any starts.
    predictor = job.load(weights_file(job.weights, in_context=True), device=job.device, threads=job.threads)
    check_takes_context(predictor, job.weights)
    if not uses_workers(workers, scheduler, job.device, several=several):
        worker = ImageWorker(job, predictor, contexts)
        for image in images:
            done(worker.process(image))
        return
    del predictor
    count = None if scheduler else workers or fitting_workers(images)
    with _written(contexts, job.output) as paths, open_client(count, scheduler) as client:
        run_on_cluster(client, replace(job, contexts=paths), images, done)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Make the output folder, and keep other programs from working on it."""
    from scribblesegment.batch.records import FOLDER
    from scribblesegment.io.storage import file_lock, system_errors

    remedy = "Choose an existing folder, or a new one in a folder with permission to write."
    with system_errors(f"Cannot create the folder {output}", remedy):
        output.mkdir(exist_ok=True)
        (output / FOLDER).mkdir(exist_ok=True)
    with file_lock(output / FOLDER / ".lock", timeout_s=_LOCK_S):
        yield


def _remove_leftovers(output: Path, images: Sequence[BatchImage]) -> None:
    """Remove what a killed program was writing; nothing else has such names."""
    from scribblesegment.batch.records import FOLDER
    from scribblesegment.context.files import EXTENSION
    from scribblesegment.io.storage import is_temporary

    snapshot = re.compile(rf"context-\d+{re.escape(EXTENSION)}")
    for folder in {output, output / FOLDER, *((output / image.result_name).parent for image in images)}:
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_temporary(path.name) or (folder.name == FOLDER and snapshot.fullmatch(path.name)):
                path.unlink(missing_ok=True)


@contextmanager
def _written(contexts: Sequence[ContextSet], output: Path) -> Iterator[tuple[Path, ...]]:
    """Write context sets where every worker finds them, and remove them afterwards: they show patients."""
    from scribblesegment.batch.records import FOLDER
    from scribblesegment.context.files import EXTENSION, write_context_file

    paths = tuple(output / FOLDER / f"context-{number}{EXTENSION}" for number in range(1, len(contexts) + 1))
    try:
        for path, context in zip(paths, contexts, strict=True):
            write_context_file(path, context)
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
