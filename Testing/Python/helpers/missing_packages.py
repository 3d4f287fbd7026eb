"""Lets packages that are installed be missing, as in Slicer before anybody has installed them."""

from __future__ import annotations

import sys
from typing import Any


class _Missing:
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide(*names: str) -> None:
    """Refuse to import packages from now on."""
    sys.meta_path.insert(0, _Missing(names))  # type: ignore[arg-type]
