"""Sets and volumes of a few bright discs, and a network that thresholds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from scribblesegment import Volume
from scribblesegment.io import write_labelmap

SIDE = 64

NETWORK = """
import numpy as np
from types import SimpleNamespace

class Threshold:
    capabilities = frozenset({"scribbles", "clicks", "boxes", "context"})
    def set_context(self, context):
        pass
    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        self.image = image if intensity_range is None else intensity_range.normalize(image)
    def predict(self, prompts):
        logits = 12 * (self.image - 0.45)
        for place, label in zip(prompts.point_coords, prompts.point_labels):
            logits[tuple(place)] = 9 if label else -9
        positive, negative = prompts.scribbles > 0.5
        logits = np.where(positive, 9, np.where(negative, -9, logits)).astype(np.float32)
        return SimpleNamespace(logits=logits, mask=lambda threshold=0.5: logits > 0)

make = Threshold
"""


def pictures(count, *, labels=2, lacking=0):
    """Grey discs of several labels in noise; the last `lacking` images show label 1 only."""
    rng, (rows, columns) = np.random.default_rng(0), np.ogrid[:SIDE, :SIDE]
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for n in range(count):
        for label in range(1, 1 + (1 if n >= count - lacking else labels)):
            masks[n][np.hypot(rows - 18 - 25 * (label - 1) - n % 4, columns - 20 - 3 * (n % 5)) < 9] = label
    noise = ndimage.gaussian_filter(rng.normal(0, 120, masks.shape), (0, 2, 2))
    return np.clip(60 + 110 * (masks > 0) + noise, 0, 255).astype(np.uint8), masks


def write_set(path, images, masks, *, meta=None, **arrays):
    names, subjects = {"1": "disc", "2": "other"}, [f"p{n}" for n in range(len(images))]
    described = {"name": path.stem, "label_names": names, "subjects": subjects} | (meta or {})
    np.savez(path, images=images, labels=masks, meta=json.dumps(described), **arrays)


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """A folder with a set of strokes, a set of two labels, one lacking some, and one of instances with negatives."""
    folder = tmp_path_factory.mktemp("sets")
    images, masks = pictures(2, labels=1)
    scribbles = np.zeros((2, 2, 2, SIDE, SIDE), np.uint8)
    for n in range(2):
        scribbles[n, :, 0] = ndimage.binary_erosion(masks[n] > 0, iterations=6)
        scribbles[n, :, 1, -4:] = 1
    scribbles[1, 1] = 0  # an annotator who drew nothing
    write_set(folder / "medscribble_A.npz", images, masks, scribbles=scribbles)
    write_set(folder / "discs.npz", *pictures(10, lacking=4))
    negatives = np.full((5, SIDE, SIDE), 50, np.uint8)
    write_set(folder / "cells.npz", *pictures(6), meta={"instances": True}, negatives=negatives)
    return folder


@pytest.fixture(scope="session")
def training_set(tmp_path_factory):
    folder, masks = tmp_path_factory.mktemp("train"), np.zeros((9, 32, 32), np.uint8)
    masks[:, 4:22, 3:22], masks[:, 24:30, 2:30] = 1, 8
    images = np.clip(40 + 150 * (masks > 0) + np.arange(9)[:, None, None], 0, 255).astype(np.uint8)
    write_set(folder / "spider_lumbar_mri.npz", images, masks, meta={"subjects": [f"{n}_0" for n in range(9)]})
    return folder


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes") / "balls"
    folder.mkdir()
    k, j, i = np.ogrid[-1:1:16j, -1:1:32j, -1:1:32j]
    ball = k**2 + j**2 + i**2 < 0.5
    image = 100 * ball + np.random.default_rng(0).normal(20, 5, ball.shape).clip(0)
    for name, array in (("image", image), ("label", ball)):
        volume = Volume(array.astype(np.uint8), np.diag((1.0, 1.0, 3.0, 1.0)))
        write_labelmap(folder / f"one_{name}.nii.gz", volume)
    return folder.parent


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "threshold.py"
    path.write_text(NETWORK)
    return f"{path}:make"
