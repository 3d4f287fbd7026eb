"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

# A shared or slow machine must not fail a property by its speed; CI repeats the same examples in every run.
hypothesis.settings.register_profile("scribblesegment", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("scribblesegment")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder `shared` beside the checkout, with golden vectors and data that are not redistributed."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
