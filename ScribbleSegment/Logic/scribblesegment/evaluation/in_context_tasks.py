"""Tasks to go through image by image: a structure with all images of a set that show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.label_tasks import MIN_AREA, LabelExample, read_label_sets
from scribblesegment.training.corpus import SegmentationSet, subjects_of

# The label of an example whose structure is all objects of an image together.
ALL_OBJECTS = 0

_OBJECTS = "objects"


@dataclass(frozen=True, eq=False)
class ContextTask:
    """One structure.

    Attributes:
        set_name: The set it comes from.
        name: What is segmented in what: `<set>/<label's name>`; in instance sets `<set>/objects`.
        examples: Every image that shows enough of it, in the set's order.
    """

    set_name: str
    name: str
    examples: tuple[LabelExample, ...]


@dataclass(frozen=True)
class TaskChoice:
    """Tasks, and what was left out.

    Attributes:
        tasks: In the order of the sets' file names and of labels.
        left_out: By the name of a task, why.
    """

    tasks: list[ContextTask]
    left_out: dict[str, str]


def read_context_tasks(
    folder: str | Path, *, least_images: int, per_set: int | None = None, min_area: int = MIN_AREA
) -> TaskChoice:
    """Read every structure that enough images of its set show; sets with strokes drawn by people are passed over.

    In instance sets, where label numbers mean nothing across images, all objects of an image are the structure.

    Args:
        folder: Holds the sets, `*.npz`, in the format of `scribblesegment.training.corpus`.
        least_images: Structures that fewer images show are left out.
        per_set: Most structures of a set, those that the most images show; None for all.
        min_area: Images with less of the structure, in pixels, do not count; nor do those that it fills.

    Raises:
        ConfigError: If a number is out of range.
        DatasetError: If there is no set, two have the same name, one is bad, or no structure is left.
    """
    if least_images < 1 or min_area < 1 or (per_set is not None and per_set < 1):
        raise ConfigError(
            f"least_images, per_set and min_area are at least 1; got {least_images}, {per_set} and {min_area}."
        )
    tasks: list[ContextTask] = []
    left_out: dict[str, str] = {}
    for entry in read_label_sets(folder):
        enough = []
        for task in _tasks(entry, min_area):
            if len(task.examples) >= least_images:
                enough.append(task)
            else:
                left_out[task.name] = f"{len(task.examples)} images show it, {least_images} are needed"
        kept = sorted(enough, key=lambda task: -len(task.examples))[:per_set]
        tasks += [task for task in enough if task in kept]
        left_out |= {task.name: "others of its set are shown by more images" for task in enough if task not in kept}
    if not tasks:
        raise DatasetError(
            f"No structure in {folder} is shown by {least_images} images with at least {min_area} pixels of it. Ask "
            "for fewer images."
        )
    return TaskChoice(tasks, left_out)


def _tasks(entry: SegmentationSet, min_area: int) -> Iterator[ContextTask]:
    subjects = [name or str(n) for n, name in enumerate(subjects_of(entry.meta, len(entry.images)))]
    images = entry.images.astype(np.float32) / np.float32(255)
    for label in [ALL_OBJECTS] if entry.instances else np.unique(entry.labels[entry.labels > 0]).tolist():
        name = f"{entry.name}/{_OBJECTS if entry.instances else entry.label_name(label)}"
        masks = entry.labels > 0 if entry.instances else entry.labels == label
        areas = masks.sum(axis=(1, 2))
        shown = np.flatnonzero((areas >= min_area) & (areas < masks[0].size)).tolist()
        yield ContextTask(
            entry.name,
            name,
            tuple(LabelExample(entry.name, name, subjects[n], n, label, images[n], masks[n]) for n in shown),
        )
