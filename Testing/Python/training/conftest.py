"""A tiny corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scribblesegment.training.corpus import SegmentationSet

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small wait longer for threads than they compute, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_discs(count: int, seed: int, *, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Bright disc (label 1) and grey disc (label 2) on noise, apart from each other; both in every image."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, size=(count, side, side)).astype(np.uint8)
    labels = np.zeros((count, side, side), dtype=np.uint8)
    rows, columns = np.mgrid[:side, :side] / side
    for index in range(count):
        for label, column in ((1, 0.28), (2, 0.74)):
            row, radius = rng.uniform(0.3, 0.7), rng.uniform(0.12, 0.2)
            disc = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
            images[index][disc] += np.uint8(180 // label)
            labels[index][disc] = label
    return images, labels


@pytest.fixture(scope="session")
def discs() -> SegmentationSet:
    images, labels = draw_discs(5, seed=1)
    images.flags.writeable = labels.flags.writeable = False  # all tests share them
    return SegmentationSet("discs", images, labels, instances=False, meta={})


@pytest.fixture
def save_set(tmp_path: Path) -> Callable[..., Path]:
    """Write a set; any array may be replaced, or left out by None."""

    def save(stem: str = "discs", **changes: Any) -> Path:
        images, labels = draw_discs(5, seed=1)
        arrays: dict[str, Any] = {"images": images, "labels": labels, "meta": json.dumps({"name": stem})}
        arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
        path = tmp_path / "corpus" / f"{stem}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        return path

    return save
