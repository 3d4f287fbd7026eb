"""Interactive segmentation of medical images from scribbles, clicks and boxes.

The names below are the public interface. Each is imported when it is first used (PEP 562), so importing the package
costs next to nothing and does not load torch, SimpleITK or vtk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context.context_set import ContextEntry, ContextSet
    from .context.store import ContextStore
    from .data.labels import LabelScribbles
    from .data.preprocessing import IntensityRange
    from .data.prompts import Prompts
    from .data.volume import LabelVolume, Segment, Volume
    from .errors import (
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
    from .inference.predictor import Network, Prediction, Predictor, load_predictor
    from .inference.session import InteractiveSession
    from .io import read_labelmap, read_volume, write_labelmap, write_segmentation
    from .propagation import AnnotatedSegment, PropagatedSlice, Propagation, PropagationConfig, Propagator
    from .refinement.adapters import load_network
    from .refinement.correction import Correction, CorrectionResult
    from .refinement.lagrangian import RefinementConfig
    from .refinement.refiner import RefinementResult, Refiner, refine
    from .refinement.region_growing import GrowthConfig, grow_scribbles
    from .weights.registry import fetch_weights, list_weights

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
    "Network",
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
    "CancelledError": "errors",
    "ConfigError": "errors",
    "ContextEntry": "context.context_set",
    "ContextError": "errors",
    "ContextSet": "context.context_set",
    "ContextStore": "context.store",
    "Correction": "refinement.correction",
    "CorrectionResult": "refinement.correction",
    "DatasetError": "errors",
    "DeviceError": "errors",
    "FileFormatError": "errors",
    "GeometryError": "errors",
    "GrowthConfig": "refinement.region_growing",
    "ImageError": "errors",
    "IntensityRange": "data.preprocessing",
    "InteractiveSession": "inference.session",
    "LabelScribbles": "data.labels",
    "LabelVolume": "data.volume",
    "MissingPackageError": "errors",
    "Network": "inference.predictor",
    "NetworkError": "errors",
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "PromptError": "errors",
    "Prompts": "data.prompts",
    "PropagatedSlice": "propagation",
    "Propagation": "propagation",
    "PropagationConfig": "propagation",
    "Propagator": "propagation",
    "RefinementConfig": "refinement.lagrangian",
    "RefinementResult": "refinement.refiner",
    "Refiner": "refinement.refiner",
    "ScribbleSegmentError": "errors",
    "Segment": "data.volume",
    "Volume": "data.volume",
    "WeightsError": "errors",
    "fetch_weights": "weights.registry",
    "grow_scribbles": "refinement.region_growing",
    "list_weights": "weights.registry",
    "load_network": "refinement.adapters",
    "load_predictor": "inference.predictor",
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
