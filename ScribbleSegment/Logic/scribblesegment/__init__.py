"""Interactive segmentation of medical images from scribbles, clicks and boxes.

The names below are the public interface. Each is imported when it is first used (PEP 562), so importing the package
costs next to nothing and does not load torch, SimpleITK or vtk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context import ContextEntry, ContextSet
    from .context_store import ContextStore
    from .exceptions import (
        ConfigError,
        ContextError,
        DatasetError,
        DeviceError,
        FileFormatError,
        GeometryError,
        ImageError,
        PromptError,
        ScribbleSegmentError,
        WeightsError,
    )
    from .io import read_labelmap, read_volume, write_labelmap, write_segmentation
    from .predictor import Prediction, Predictor, load_predictor
    from .preprocessing import IntensityRange
    from .prompts import Prompts
    from .propagation import AnnotatedSegment, PropagatedSlice, Propagation, PropagationConfig, Propagator
    from .session import InteractiveSession
    from .volume import LabelVolume, Segment, Volume
    from .weights.manager import fetch_weights, list_weights

__version__ = "0.1.0"

__all__ = [
    "AnnotatedSegment",
    "ConfigError",
    "ContextEntry",
    "ContextError",
    "ContextSet",
    "ContextStore",
    "DatasetError",
    "DeviceError",
    "FileFormatError",
    "GeometryError",
    "ImageError",
    "IntensityRange",
    "InteractiveSession",
    "LabelVolume",
    "Prediction",
    "Predictor",
    "PromptError",
    "Prompts",
    "PropagatedSlice",
    "Propagation",
    "PropagationConfig",
    "Propagator",
    "ScribbleSegmentError",
    "Segment",
    "Volume",
    "WeightsError",
    "__version__",
    "fetch_weights",
    "list_weights",
    "load_predictor",
    "read_labelmap",
    "read_volume",
    "write_labelmap",
    "write_segmentation",
]

_MODULE_OF = {
    "AnnotatedSegment": "propagation",
    "ConfigError": "exceptions",
    "ContextEntry": "context",
    "ContextError": "exceptions",
    "ContextSet": "context",
    "ContextStore": "context_store",
    "DatasetError": "exceptions",
    "DeviceError": "exceptions",
    "FileFormatError": "exceptions",
    "GeometryError": "exceptions",
    "ImageError": "exceptions",
    "IntensityRange": "preprocessing",
    "InteractiveSession": "session",
    "LabelVolume": "volume",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "PromptError": "exceptions",
    "Prompts": "prompts",
    "PropagatedSlice": "propagation",
    "Propagation": "propagation",
    "PropagationConfig": "propagation",
    "Propagator": "propagation",
    "ScribbleSegmentError": "exceptions",
    "Segment": "volume",
    "Volume": "volume",
    "WeightsError": "exceptions",
    "fetch_weights": "weights.manager",
    "list_weights": "weights.manager",
    "load_predictor": "predictor",
    "read_labelmap": "io",
    "read_volume": "io",
    "write_labelmap": "io",
    "write_segmentation": "io",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
