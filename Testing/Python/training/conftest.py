"""A tiny corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small wait longer for threads than they compute, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def save_set(tmp_path: Path) -> Callable[..., Path]:
    """Write a set; any array may be replaced, or left out by None."""

    def save(stem: str = "blocks", **changes: Any) -> Path:
        labels = np.zeros((5, 32, 32), np.uint8)
        labels[:, 8:20, 8:20] = 1
        arrays: dict[str, Any] = {"images": 90 * labels, "labels": labels, "meta": json.dumps({"name": stem})}
        arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
        path = tmp_path / "corpus" / f"{stem}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        return path

    return save
