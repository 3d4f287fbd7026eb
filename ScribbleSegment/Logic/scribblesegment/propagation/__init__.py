"""From a few accepted slices to the rest of a volume."""

from scribblesegment.propagation.definitions import (
    AnnotatedSegment,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    PropagationEnd,
    StopReason,
)
from scribblesegment.propagation.propagator import Propagator
from scribblesegment.propagation.run import PropagationRun, SlicePredictor

__all__ = [
    "AnnotatedSegment",
    "PropagatedSlice",
    "Propagation",
    "PropagationConfig",
    "PropagationEnd",
    "PropagationRun",
    "Propagator",
    "SlicePredictor",
    "StopReason",
]
