"""What became of a propagation, as the user is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scribblesegment.propagation import PropagationEnd

_CERTAIN = 0.9


@dataclass(frozen=True)
class SegmentReport:
    """What became of one segment.

    Attributes:
        segment_id: Of the segment.
        name: Its name.
        made: How many slices were segmented now.
        kept: How many were kept from an earlier propagation.
        confidence: In [0, 1], of all of them, by index.
        ends: Where and why it went no further.
        next_slice: The slice worth correcting most, or None.
    """

    segment_id: str
    name: str
    made: int = 0
    kept: int = 0
    confidence: Mapping[int, float] = field(default_factory=dict)
    ends: tuple[PropagationEnd, ...] = ()
    next_slice: int | None = None

    @property
    def mean_confidence(self) -> float | None:
        """In [0, 1]; None where nothing was segmented."""
        return float(np.mean(list(self.confidence.values()))) if self.confidence else None

    def uncertain(self, most: int = 10) -> list[tuple[int, float]]:
        """Indices and confidences of the slices that are least certain, the least certain first."""
        doubtful = [(index, value) for index, value in self.confidence.items() if value < _CERTAIN]
        return sorted(doubtful, key=lambda one: (one[1], one[0]))[:most]


@dataclass(frozen=True)
class PropagationReport:
    """What became of all segments of a propagation.

    Attributes:
        axis: Axis of the array it went along.
        segments: In their order in the segmentation, the selected one first.
        slices_per_second: Slices of all segments for each second of work; 0 if there were none.
        cancelled: Whether it ended before it was done.
        undone: Whether it ended because the user took it back, or changed what it was built on.
    """

    axis: int
    segments: tuple[SegmentReport, ...]
    slices_per_second: float = 0.0
    cancelled: bool = False
    undone: bool = False

    @property
    def made(self) -> int:
        """How many slices were segmented, those of each segment counted."""
        return sum(segment.made for segment in self.segments)

    @property
    def mean_confidence(self) -> float | None:
        """Of all slices of all segments; None where there are none."""
        values = [value for segment in self.segments for value in segment.confidence.values()]
        return float(np.mean(values)) if values else None

    @property
    def worth_correcting(self) -> SegmentReport | None:
        """The first segment that has a slice worth correcting, or None."""
        return next((segment for segment in self.segments if segment.next_slice is not None), None)
