"""Images, classes and subjects of the study of refinement: who is trained on, tuned on, and tested on."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import DatasetError
from scribblesegment.evaluation.correction_config import CorrectionTask
from scribblesegment.training.corpus import SegmentationSet, load_set, subjects_of

PARTS = ("train", "tune", "test")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its classes.

    Attributes:
        index: Its position in its set.
        subject: Whose it is.
        image: float32 (H, W) in [0, 1].
        labels: uint8 (H, W), the classes of the task; 0 is the background.
    """

    index: int
    subject: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class TaskImages:
    """The images of a task; no subject is in two parts.

    Attributes:
        task: What is segmented.
        train: What the network learns from.
        tune: What parameters of the correction are chosen on.
        test: What gives the figures.
        other_tune: Images of another scanner or stain, for choosing parameters; empty if the task has none.
        other_test: The same, for the figures.
        licence: Of the set.
    """

    task: CorrectionTask
    train: tuple[LabelledImage, ...]
    tune: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    other_tune: tuple[LabelledImage, ...]
    other_test: tuple[LabelledImage, ...]
    licence: str


def read_task(folder: str | Path, task: CorrectionTask) -> TaskImages:
    """Read and split the images of a task.

    Subjects are shuffled by a number that the task's name gives, so the split is the same wherever it is made.

    Args:
        folder: Holds `task.set`.
        task: What to read.

    Raises:
        DatasetError: If the set is bad, does not name its subjects as the task expects, or leaves a part empty.
    """
    entry = load_set(Path(folder) / task.set)
    images = [one for one in _images(entry, task) if np.count_nonzero(one.labels) >= task.least_pixels]
    inside = [one for one in images if _within(one, task.brightness)]
    train, tune, test = _split(inside, task, seed=0)
    other_tune: list[LabelledImage] = []
    other_test: list[LabelledImage] = []
    if task.other_brightness:
        taken = {one.subject for one in inside}
        others = [one for one in images if _within(one, task.other_brightness) and one.subject not in taken]
        # Nothing is trained on these, so what would be for training is for testing, too.
        rest, other_tune, other_test = _split(others, task, seed=1)
        other_test = sorted(rest + other_test, key=lambda one: one.index)
    return TaskImages(
        task,
        tuple(train),
        tuple(tune),
        tuple(test),
        tuple(other_tune),
        tuple(other_test),
        str(entry.meta.get("licence", "")),
    )


def _images(entry: SegmentationSet, task: CorrectionTask) -> list[LabelledImage]:
    subjects = subjects_of(entry.meta, len(entry.images))
    return [
        LabelledImage(
            index,
            _subject(name, index, entry.name, task),
            entry.images[index].astype(np.float32) / np.float32(255),
            _classes(entry.labels[index], task),
        )
        for index, name in enumerate(subjects)
    ]


def _subject(name: str, index: int, set_name: str, task: CorrectionTask) -> str:
    if not task.subject:
        return name or str(index)
    match = re.match(task.subject, name)
    if match is None:
        raise DatasetError(f"Set {set_name}, image {index}: subject {name!r} does not begin with {task.subject!r}.")
    return str(int(match[1]) // task.block) if task.block else match[1]


def _classes(labels: NDArray[np.integer[Any]], task: CorrectionTask) -> NDArray[np.uint8]:
    classes = np.zeros(labels.shape, dtype=np.uint8)
    for number, tissue in enumerate(task.classes, start=1):
        classes[np.isin(labels, tissue.values) if tissue.values else labels > 0] = number
    return classes


def _within(one: LabelledImage, brightness: tuple[float, ...]) -> bool:
    return bool(brightness[0] <= one.image.mean() <= brightness[1])


def _split(
    images: list[LabelledImage], task: CorrectionTask, *, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage], list[LabelledImage]]:
    subjects = sorted({one.subject for one in images})
    order = np.random.default_rng((zlib.crc32(task.name.encode()), seed)).permutation(len(subjects))
    test = round(task.test * len(subjects))
    tune = round(task.tune * len(subjects))
    part_of = {
        subjects[number]: "test" if rank < test else "tune" if rank < test + tune else "train"
        for rank, number in enumerate(order)
    }
    parts = {part: [one for one in images if part_of[one.subject] == part] for part in PARTS}
    empty = [part for part in PARTS if not parts[part]]
    if empty:
        raise DatasetError(
            f"Task {task.name}: {len(subjects)} subjects leave nothing for {', '.join(empty)}. Use a larger set, or "
            "other shares."
        )
    return parts["train"], parts["tune"], parts["test"]
