"""Asking before foreign code runs, and for packages that are not there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from scribblesegment.exceptions import MissingPackageError, NetworkError

Confirm = Callable[[str], bool]
"""Shows its argument, the reason, to the user; returns whether to go on."""


def require_confirmation(confirm: Confirm | None, reason: str) -> None:
    """Ask whether code that comes with a network may run.

    Args:
        confirm: Asks the user; None is a no.
        reason: What would run, and why.

    Raises:
        NetworkError: The answer is no.
    """
    if confirm is None:
        raise NetworkError(
            f"{reason} Nothing was run. If you trust where it comes from, confirm it (confirm=... of load_network, "
            "--trust on the command line)."
        )
    if not confirm(reason):
        raise NetworkError(f"{reason} It was not confirmed, so nothing was run.")


def require_package(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        package: Name of the package for pip.
        purpose: What needs it; the message begins with this.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as cause:
        raise MissingPackageError(
            f"{purpose} needs the Python package {package}, which cannot be imported here ({cause}). Install it with: "
            f"pip install {package}",
            package,
        ) from cause
