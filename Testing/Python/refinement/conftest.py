"""Settings and fixtures of the tests of refinement."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# A shared or slow machine must not fail a property by its speed; CI repeats the same examples in every run.
hypothesis.settings.register_profile("scribblesegment", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("scribblesegment")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


class Attack:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    """An object whose `folder` exists once something unpickled it."""
    return Attack(tmp_path / "mark")


@pytest.fixture(params=[None, lambda _: False], ids=["nobody to ask", "no"])
def refusal(request: pytest.FixtureRequest) -> object:
    return request.param
