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
        CancelledError,
        ConfigError,
        ContextError,
        DatasetError,
        DeviceError,
        FileFormatError,
        GeometryError,
        ImageError,
        MissingPackageError,
        NetworkError,
        PromptError,
        ScribbleSegmentError,
        WeightsError,
    )
    from .io import read_labelmap, read_volume, write_labelmap, write_segmentation
    from .label_scribbles import LabelScribbles
    from .predictor import Prediction, Predictor, load_predictor
    from .preprocessing import IntensityRange
    from .prompts import Prompts
    from .propagation import AnnotatedSegment, PropagatedSlice, Propagation, PropagationConfig, Propagator
    from .refinement.correction import Correction, CorrectionResult
    from .refinement.lagrangian import RefinementConfig
    from .refinement.networks import load_network
    from .refinement.refiner import RefinementResult, Refiner, refine
    from .refinement.region_growing import GrowthConfig, grow_scribbles
    from .session import InteractiveSession
    from .volume import LabelVolume, Segment, Volume
    from .weights.manager import fetch_weights, list_weights

__version__ = "0.1.0"

__all__ = [
    "AnnotatedSegment",
    "CancelledError",
    "ConfigError",
    "ContextEntry",
    "ContextError",
    "ContextSet",
    "ContextStore",
    "Correction",
    "CorrectionResult",
    "DatasetError",
    "DeviceError",
    "FileFormatError",
    "GeometryError",
    "GrowthConfig",
    "ImageError",
    "IntensityRange",
    "InteractiveSession",
    "LabelScribbles",
    "LabelVolume",
    "MissingPackageError",
    "NetworkError",
    "Prediction",
    "Predictor",
    "PromptError",
    "Prompts",
    "PropagatedSlice",
    "Propagation",
    "PropagationConfig",
    "Propagator",
    "RefinementConfig",
    "RefinementResult",
    "Refiner",
    "ScribbleSegmentError",
    "Segment",
    "Volume",
    "WeightsError",
    "__version__",
    "fetch_weights",
    "grow_scribbles",
    "list_weights",
    "load_network",
    "load_predictor",
    "read_labelmap",
    "read_volume",
    "refine",
    "write_labelmap",
    "write_segmentation",
]

_MODULE_OF = {
    "AnnotatedSegment": "propagation",
    "CancelledError": "exceptions",
    "ConfigError": "exceptions",
    "ContextEntry": "context",
    "ContextError": "exceptions",
    "ContextSet": "context",
    "ContextStore": "context_store",
    "Correction": "refinement.correction",
    "CorrectionResult": "refinement.correction",
    "DatasetError": "exceptions",
    "DeviceError": "exceptions",
    "FileFormatError": "exceptions",
    "GeometryError": "exceptions",
    "GrowthConfig": "refinement.region_growing",
    "ImageError": "exceptions",
    "IntensityRange": "preprocessing",
    "InteractiveSession": "session",
    "LabelScribbles": "label_scribbles",
    "LabelVolume": "volume",
    "MissingPackageError": "exceptions",
    "NetworkError": "exceptions",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "PromptError": "exceptions",
    "Prompts": "prompts",
    "PropagatedSlice": "propagation",
    "Propagation": "propagation",
    "PropagationConfig": "propagation",
    "Propagator": "propagation",
    "RefinementConfig": "refinement.lagrangian",
    "RefinementResult": "refinement.refiner",
    "Refiner": "refinement.refiner",
    "ScribbleSegmentError": "exceptions",
    "Segment": "volume",
    "Volume": "volume",
    "WeightsError": "exceptions",
    "fetch_weights": "weights.manager",
    "grow_scribbles": "refinement.region_growing",
    "list_weights": "weights.manager",
    "load_network": "refinement.networks",
    "load_predictor": "predictor",
    "read_labelmap": "io",
    "read_volume": "io",
    "refine": "refinement.refiner",
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
