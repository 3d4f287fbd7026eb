"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

# A shared or slow machine must not fail a property by its speed; CI repeats the same examples in every run.
hypothesis.settings.register_profile("scribblesegment", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("scribblesegment")


_IMPORTS_TORCH = re.compile(r"^(import|from) (torch|scribblesegment\.(models|training|refinement))\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run as where PyTorch is missing; files that import it are left out"
    parser.addoption("--without-torch", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-torch"):
        from missing_packages import hide

        hide("torch")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--without-torch"):
        return None
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    return True if file.is_file() and _IMPORTS_TORCH.search(file.read_text(encoding="utf-8")) else None


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
