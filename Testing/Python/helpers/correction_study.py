"""A study of refinement small enough for tests: bright squares and discs, and a network of two levels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import torch

from scribblesegment.evaluation.correction_config import (
    CorrectionTask,
    Experiment,
    NetworkTraining,
    Shift,
    StudyConfig,
    TissueClass,
)
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_network import PlainUNet, save_plain_unet
from scribblesegment.evaluation.correction_study import RoundResult

SIDE = 64
TASK = CorrectionTask(
    "shapes",
    "shapes, drawn",
    "shapes.npz",
    (TissueClass("square", (1,)), TissueClass("bar", (2, 3))),
    subject=r"(\w+)-",
    shifts=(Shift("none"), Shift("contrast", 0.5)),
    tune=0.25,
    test=0.25,
    least_pixels=10,
)


def write_shapes(folder, *, subjects=8, images=2):
    """Writes the set of `TASK`: in every image a bright square and a grey bar."""
    rng = np.random.default_rng(0)
    count = subjects * images
    pictures = rng.integers(0, 20, (count, SIDE, SIDE)).astype(np.uint8)
    labels = np.zeros((count, SIDE, SIDE), np.uint8)
    for n in range(count):
        row, column = 4 + n % 5, 4 + n % 7
        labels[n, row : row + 20, column : column + 20] = 1
        labels[n, 40:50, 10:50] = 2 + n % 2
    pictures[labels == 1] += 200
    pictures[labels > 1] += 100
    meta = {"name": "shapes", "licence": "CC0", "subjects": [f"p{n // images}-{n % images}" for n in range(count)]}
    np.savez(folder / "shapes.npz", images=pictures, labels=labels, meta=json.dumps(meta))
    return folder


def write_network(folder, *, seed=0):
    """Writes a network of `TASK` with random weights."""
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PlainUNet(len(TASK.labels), (4, 4))
    save_plain_unet(folder / "shapes.safetensors", network, labels=TASK.labels, licence="CC0")
    return folder


def tiny_study(*variants, **options):
    """A study of one experiment with `TASK`."""
    experiment = Experiment(
        "main",
        "Correction",
        variants or (Variant("painting", kind="painting"),),
        ("shapes",),
        ("none", "contrast"),
        images=2,
        rounds=2,
    )
    changes = {name: options.pop(name) for name in list(options) if hasattr(experiment, name)}
    experiment = dataclasses.replace(experiment, **changes)
    training = NetworkTraining(steps=4, batch_size=2, features=(4, 4), checkpoint_every=2)
    return StudyConfig((TASK,), (experiment,), **{"training": training, **options})


def result(**changes):
    """One result, made up."""
    values = RoundResult(
        experiment="main",
        task="shapes",
        shift="none",
        variant="painting",
        subject="p0",
        image_index=0,
        repetition=0,
        interaction=0,
        strokes=0,
        dice=0.5,
        class_dice=(0.5, float("nan")),
        far_pixels=100,
        far_dice_before=0.5,
        far_dice=0.5,
        far_wrong_before=0.1,
        far_wrong=0.1,
        seconds=0.0,
        iterations=0,
        satisfied=True,
        violations=0,
        g=0.0,
        stopped="",
        marked=0,
    )
    return dataclasses.replace(values, **changes)


def course(*dice, **changes):
    """Results of one image whose Dice takes these values."""
    return [result(interaction=n, dice=value, strokes=int(n > 0), **changes) for n, value in enumerate(dice)]
