"""From a few accepted slices to the rest of a volume."""

from scribblesegment.propagation.config import (
    AnnotatedSegment,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    PropagationEnd,
    StopReason,
    VoxelPrompts,
)
from scribblesegment.propagation.propagator import PropagationRun, Propagator

__all__ = [
    "AnnotatedSegment",
    "PropagatedSlice",
    "Propagation",
    "PropagationConfig",
    "PropagationEnd",
    "PropagationRun",
    "Propagator",
    "StopReason",
    "VoxelPrompts",
]
