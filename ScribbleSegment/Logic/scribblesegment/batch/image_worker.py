"""The work on one image, in this process or in another one."""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
import traceback
from collections.abc import Sequence

import numpy as np

from scribblesegment.batch.file_state import FileState, is_unchanged, state_of
from scribblesegment.batch.images import BatchImage, files_of
from scribblesegment.batch.job import TRIES, BatchJob
from scribblesegment.batch.network import weights_digest
from scribblesegment.batch.records import FOLDER, ImageRecord, RecordFolder, StructureResult
from scribblesegment.batch.segmentation import SegmentedImage, image_axis, segment_image
from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.files import read_context
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, ScribbleSegmentError, WeightsError
from scribblesegment.inference.predictor import Predictor
from scribblesegment.io import default_segment, read_volume, write_segmentation
from scribblesegment.weights.registry import weights_file

# Nothing more can be written, whatever the image.
_NOWHERE_TO_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class ImageWorker:
    """Segments images one after the other with one network."""

    def __init__(self, job: BatchJob, predictor: Predictor, contexts: Sequence[ContextSet]) -> None:
        """Take what was loaded for a job."""
        self._job, self._predictor, self._contexts = job, predictor, contexts
        self._records = RecordFolder(job.output)

    def do(self, image: BatchImage) -> ImageRecord:
        """Segment an image and write its result and record; what is wrong with the image is told by the record.

        An image that was done in the meantime, by a worker that died before it could say so, is not done again.

        Raises:
            FileFormatError: Nothing more can be written to the output folder.
        """
        before = self._records.read(image.name)
        if before is not None and is_current(before, image, self._job):
            return before
        deaths = self._records.begin(image.name, self._job.run)
        try:
            record = given_up(image, self._job) if deaths >= TRIES else self._segment(image)
            self._records.write(record)
        finally:  # whatever ends it without ending the process at once was not the image's fault
            self._records.end(image.name)
        return record

    def _segment(self, image: BatchImage) -> ImageRecord:
        began = time.perf_counter()
        record = ImageRecord(image.name, self._job.made_by, "failed")
        try:
            record = dataclasses.replace(record, source=state_of(files_of(image.path)))
            volume = read_volume(image.path)
            found = segment_image(
                self._predictor,
                volume,
                self._contexts,
                image_axis(volume, self._job.axis),
                self._job.config,
            )
            structures = _measured(found, volume, self._contexts)
            result = self._write(image, found, volume)
            record = dataclasses.replace(record, status="done", structures=structures, result=result)
        except (ScribbleSegmentError, OSError) as error:
            if getattr(error.__cause__ or error, "errno", None) in _NOWHERE_TO_WRITE:
                raise
            record = dataclasses.replace(record, error=_one_line(error))
        except MemoryError:
            record = dataclasses.replace(
                record, error="There is not enough memory for this image. Crop or resample it."
            )
        except Exception as error:  # a defect is told with its traceback, and ends the program with 1 after the others
            told = f"{type(error).__name__}: {_one_line(error)}"
            record = dataclasses.replace(record, error=told, traceback=traceback.format_exc())
        return dataclasses.replace(record, seconds=round(time.perf_counter() - began, 3))

    def _write(self, image: BatchImage, found: SegmentedImage, volume: Volume) -> FileState:
        path = self._job.output / image.result_name
        segments = [
            Segment(label, context.label_name, default_segment(label).color_rgb)
            for label, context in enumerate(self._contexts, start=1)
        ]
        # First: a result that was replaced must not be taken for one that somebody changed.
        self._records.forget(image.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise FileFormatError(f"Cannot create the folder {path.parent}: {cause.strerror or cause}.") from cause
        write_segmentation(path, LabelVolume(found.labels, volume.ijk_to_ras), segments)
        return state_of([path])


def is_current(record: ImageRecord, image: BatchImage, job: BatchJob) -> bool:
    """Whether an image has a result that was made from its present content as the job would make it."""
    if record.status != "done" or record.source is None or record.made_by != job.made_by:
        return False
    try:
        return (job.output / image.result_name).is_file() and is_unchanged(files_of(image.path), record.source)
    except OSError:  # the image cannot be read: doing it will tell why
        return False


def given_up(image: BatchImage, job: BatchJob) -> ImageRecord:
    """Record an image at which workers keep dying."""
    error = (
        f"{TRIES} worker processes died while they were at this image, so it was given up. It may need more memory "
        "than there is: try it alone with --workers 1."
    )
    return ImageRecord(image.name, job.made_by, "failed", error=error)


_ONE_AT_A_TIME = threading.Lock()
_loaded: tuple[str, ImageWorker] | None = None


def do_in_worker(job: BatchJob, image: BatchImage) -> ImageRecord:
    """Segment an image in a worker process, which keeps the network and the context sets for the next one.

    A worker with several threads still does one image at a time: a network can be shown one image only.

    Raises:
        ScribbleSegmentError: The worker cannot do any image: it lacks the output folder, or has another network.
    """
    global _loaded
    with _ONE_AT_A_TIME:
        if _loaded is None or _loaded[0] != job.run:
            _loaded = None  # before the next is loaded: both may not have room
            _loaded = job.run, _load(job)
        return _loaded[1].do(image)


def _load(job: BatchJob) -> ImageWorker:
    import torch

    if not (job.output / FOLDER).is_dir():
        raise FileFormatError(
            f"A worker does not see the folder {job.output / FOLDER}. Images, output and weights must lie on a drive "
            "that every worker reaches by the same path."
        )
    path = weights_file(job.weights, in_context=True)
    if weights_digest(path) != job.made_by["network"]:
        raise WeightsError(f"A worker has another network in {path}. Install the same version everywhere.")
    torch.set_num_threads(job.threads)
    predictor = job.load(path, device=job.device, threads=job.threads)
    return ImageWorker(job, predictor, [read_context(one) for one in job.contexts])


def _measured(found: SegmentedImage, volume: Volume, contexts: Sequence[ContextSet]) -> tuple[StructureResult, ...]:
    """Measure the structures, in the order of their context sets."""
    counts = _counts(found, len(contexts))
    is_flat = volume.shape[found.axis] == 1
    unit = (
        float(np.prod(volume.slice(found.axis, 0).spacing_mm))
        if is_flat
        else abs(float(np.linalg.det(volume.ijk_to_ras[:3, :3]))) / 1000.0
    )
    measured = []
    for number, context in enumerate(contexts):
        sure = list(found.confidence[number].values())
        size = counts[number] * unit
        measured.append(
            StructureResult(
                context.label_name,
                slices=len(sure),
                volume_ml=None if is_flat else size,
                area_mm2=size if is_flat else None,
                mean_confidence=sum(sure) / len(sure) if sure else None,
                lowest_confidence=min(sure) if sure else None,
            )
        )
    return tuple(measured)


def _counts(found: SegmentedImage, structures: int) -> list[int]:
    """Voxels of each structure, counted plane by plane."""
    total = np.zeros(structures + 1, np.int64)
    for plane in found.labels:
        total += np.bincount(plane.ravel(), minlength=structures + 1)
    return [int(count) for count in total[1:]]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
