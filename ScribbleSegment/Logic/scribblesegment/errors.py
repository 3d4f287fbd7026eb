"""Errors raised by the package.

Every message says what is wrong, with the values that were seen, and what to do about it. All of them derive from
`ScribbleSegmentError`, so a caller that only wants to report a problem catches one type.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


class ScribbleSegmentError(Exception):
    """Base class of every error the package raises on purpose."""


class ImageError(ScribbleSegmentError, ValueError):
    """An image that cannot be segmented: empty, of the wrong dimension, or not numeric."""


class GeometryError(ScribbleSegmentError, ValueError):
    """Shapes, spacings or matrices that contradict each other, or are degenerate."""


class PromptError(ScribbleSegmentError, ValueError):
    """Scribbles, clicks or boxes that cannot be used with the image they were given for."""


class ContextError(ScribbleSegmentError, ValueError):
    """Images with masks that cannot form a context set, or a context set that is not there."""


class FileFormatError(ScribbleSegmentError, OSError):
    """A file that cannot be read or written: unknown extension, truncated, damaged, or of unexpected content."""


class WeightsError(ScribbleSegmentError):
    """Network weights that are missing, damaged, of another architecture, or unsafe to load."""


class DeviceError(ScribbleSegmentError, RuntimeError):
    """A compute device that was asked for and cannot run the network."""


class ConfigError(ScribbleSegmentError, ValueError):
    """A configuration with unknown fields or values out of range."""


class TrainingError(ScribbleSegmentError, RuntimeError):
    """A training run that cannot go on; its last checkpoint is intact."""


class DatasetError(ScribbleSegmentError, ValueError):
    """A training or evaluation set that is missing, damaged, or of another layout."""


class NetworkError(ScribbleSegmentError):
    """A network to be corrected that cannot be loaded, run, or refined."""


class MissingPackageError(ScribbleSegmentError, ImportError):
    """A Python package that is needed here and cannot be imported.

    Attributes:
        package: Its name for pip, where installing it is all that is needed.
    """

    def __init__(self, message: str, package: str = "") -> None:
        super().__init__(message)
        self.package = package


class CancelledError(ScribbleSegmentError):
    """The user cancelled; everything is as it was before."""


def is_installed(module: str) -> bool:
    """Whether an optional library is there, without the time that importing it takes."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # a folder that is left of it has no origin


def require_package(module: str, *, purpose: str, remedy: str = "", package: str = "") -> ModuleType:
    """Import an optional library.

    Args:
        module: Its dotted name.
        purpose: What needs it; the message begins with this.
        remedy: What to do when it is missing; by default to install `package`.
        package: Its name for pip.

    Raises:
        MissingPackageError: If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as cause:
        remedy = remedy or f"Install the Python package {package} with: pip install {package}"
        raise MissingPackageError(f"{purpose} cannot be used here: {cause}. {remedy}", package) from cause
