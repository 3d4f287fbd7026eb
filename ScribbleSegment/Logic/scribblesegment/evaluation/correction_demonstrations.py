"""Two corrections that no other interactive method makes (Sambaturu et al., figure 2), as pictures on real images.

A structure that the network missed altogether is inserted, and an organ that it was never trained for is added.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import DatasetError
from scribblesegment.evaluation.correction_config import CorrectionTask
from scribblesegment.evaluation.correction_network import PlainUNet, normalised
from scribblesegment.evaluation.correction_pictures import Frame, write_frames
from scribblesegment.evaluation.correction_study import Study
from scribblesegment.evaluation.correction_tasks import TaskImages
from scribblesegment.evaluation.correction_user import CorrectingUser, correct
from scribblesegment.evaluation.metrics import dice
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.refiner import Refiner
from scribblesegment.simulation.fields import FloatArray
from scribblesegment.training.corpus import load_set

MISSING_LABEL = "refinement_missing_label.png"
NEW_LABEL = "refinement_new_label.png"

# Interactions, and after which of them the result is drawn.
_ROUNDS, _DRAWN = 5, (1, 3, 5)

# A structure that has at least so many pixels, of which the network found less than this share, was missed.
_LEAST_PIXELS, _MISSED = 400, 0.05

Labels = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One image that is corrected.

    Attributes:
        network: The network.
        image: float32 (H, W) in [0, 1].
        truth: (H, W); labels that the network lacks follow its own.
        names: Of all labels, the background first.
        shown: The label that it is about.
    """

    network: PlainUNet
    image: FloatArray
    truth: NDArray[np.integer]
    names: tuple[str, ...]
    shown: int


def find_missing_label(study: Study, images: TaskImages) -> Demonstration:
    """Take an image of another scanner or stain on which the network misses a structure.

    Of all such images it is the one in the middle, by the size of the structure.

    Raises:
        DatasetError: There is none.
    """
    network, _ = study.network(images.task.name)
    names = images.task.labels
    found: list[tuple[int, Demonstration]] = []
    for one in images.other_test:
        predicted = Refiner(network, normalised(one.image)).infer().argmax(axis=0)
        for label in range(1, len(names)):
            there = one.labels == label
            pixels = int(np.count_nonzero(there))
            if pixels >= _LEAST_PIXELS and (predicted[there] == label).mean() < _MISSED:
                found.append((pixels, Demonstration(network, one.image, one.labels, names, label)))
    if not found:
        raise DatasetError(f"The network of {images.task.name} misses no structure of an image of another scanner.")
    return sorted(found, key=lambda entry: entry[0])[len(found) // 2][1]


def take_new_label(study: Study, task: CorrectionTask, added: str, folder: Path, set_name: str) -> Demonstration:
    """Take the image of a set of one structure, which a task's network was not trained for, that shows most of it.

    What the network says of its own structures counts as the truth: the set's labels do not show them.

    Raises:
        DatasetError: The set is missing or damaged.
    """
    network, _ = study.network(task.name)
    entry = load_set(folder / set_name)
    index = int(np.argmax((entry.labels > 0).sum(axis=(1, 2))))
    image = entry.images[index].astype(np.float32) / np.float32(255)
    own = Refiner(network, normalised(image)).infer().argmax(axis=0)
    truth = np.where(entry.labels[index] > 0, len(task.labels), own).astype(np.int16)
    return Demonstration(network, image, truth, (*task.labels, added), len(task.labels))


def write_demonstration(
    path: Path, shown: Demonstration, config: RefinementConfig, user: CorrectingUser, seed: int
) -> list[float]:
    """Correct in a few interactions and draw them.

    Returns:
        Dice of the structure that it is about, before the first interaction and after each one.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        FileFormatError: If the file cannot be written.
    """
    # In float32, so that the picture is the same on every processor.
    exact = dataclasses.replace(config, precision="float32")
    refiner = Refiner(shown.network, torch.from_numpy(normalised(shown.image)), config=exact)
    labels = refiner.infer().argmax(axis=0).astype(np.int16)
    scribbles = LabelScribbles.empty(shown.truth.shape)
    frames = [Frame("image"), Frame("truth", shown.truth), _frame("network", labels, scribbles, shown)]
    reached = [_dice(labels, shown)]
    for number in range(1, _ROUNDS + 1):
        rng = np.random.default_rng((seed, number))
        scribbles, strokes = correct(scribbles, shown.truth, labels, rng, user, outputs=len(shown.names))
        if not strokes:
            break
        labels = refiner.refine(scribbles, new_labels=True).labels
        if number in _DRAWN:
            title = f"after {number} interaction{'s' if number > 1 else ''}"
            frames.append(_frame(title, labels, scribbles, shown))
        reached.append(_dice(labels, shown))
    write_frames(path, shown.image, frames, shown.names)
    return reached


def _frame(title: str, labels: Labels, scribbles: LabelScribbles, shown: Demonstration) -> Frame:
    note = f"{shown.names[shown.shown]} {_dice(labels, shown):.2f}"
    return Frame(title, labels, scribbles.labels, note)


def _dice(labels: Labels, shown: Demonstration) -> float:
    return dice(labels == shown.shown, shown.truth == shown.shown)
