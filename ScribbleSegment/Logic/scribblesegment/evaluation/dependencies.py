"""Libraries that only comparisons and pictures need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from scribblesegment.exceptions import ScribbleSegmentError


class MissingDependencyError(ScribbleSegmentError, ImportError):
    """An optional library that is needed here and cannot be imported."""


def require(module: str, *, purpose: str, remedy: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Its dotted name.
        purpose: What needs it; the message begins with this.
        remedy: What to do when it is missing.

    Raises:
        MissingDependencyError: If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as cause:
        raise MissingDependencyError(f"{purpose} cannot be used here: {cause}. {remedy}") from cause
