"""Fixtures of the tests of refinement."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
