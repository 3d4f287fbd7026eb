"""What propagation is given and what it gives: settings, annotated segments, slices, and the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.masks import probability_to_logit
from scribblesegment.errors import ConfigError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PropagationConfig:
    """How slices are carried on. Distances between slices are meant in millimetres along the axis.

    Attributes:
        context_limit: Most context entries a slice is predicted from.
        propagated_context: How many of the latest confident slices of a front join its context, besides the accepted
            ones; 0 for none.
        context_confidence: Confidence from which a propagated slice may join.
        neighbour: What a propagated neighbour hands on: the "distance" to its outline, as accepted slices do, or its
            "logits", blurred. Logits that are fed on from slice to slice can talk a network into anything.
        drift: How far outlines are expected to move from slice to slice, in millimetres for each millimetre. What the
            neighbours hand on is softened by as much: a pixel this far inside of the outline has logit 1, and logits
            are blurred with this standard deviation.
        neighbour_limit: What is handed on is clipped to plus and minus this logit.
        nearness: Between two known slices each counts with its distance to the power of minus this. At 1 the outline is
            interpolated linearly; the higher, the more the nearer one decides.
        trend: Whether the shape that is expected beyond the outermost accepted slices shrinks as the areas of these
            lead to expect (`scribblesegment.propagation.expectation`).
        expected_weight: So much of the expected logits is added to the network's.
        image_weight: So many logits at most are added by the volume's image evidence
            (`scribblesegment.propagation.evidence`); at 0 it is not computed.
        strokes: Whether strokes are drawn into the expected shape and around it: "always", "never", or "auto", which
            draws them for networks that take no context and would otherwise have the neighbour's logits only.
        threshold: Probability from which a pixel belongs to the structure.
        reach: Where the structure may be: up to this many millimetres from the neighbours' outlines for each
            millimetre between the slices, and two pixels more.
        only_connected: Whether pieces that do not touch that area are left out.
        consistency: Weight of the expected shape in the confidence, as an exponent; 0 leaves it out.
        stop_area: The structure has ended where its area falls below this part of its neighbour's.
        stop_leak: Going on is uncertain where more than this part of the mask lies out of reach,
        stop_confidence: or where the confidence falls below this part of the latest slices' median,
        least_confidence: or below this.
        patience: So many slices in a row must give such a reason before the propagation stops there.
        certain: From this confidence on a slice need not be checked.

    Raises:
        ConfigError: A value out of range.
    """

    context_limit: int = 8
    propagated_context: int = 0
    context_confidence: float = 0.9
    neighbour: Literal["logits", "distance"] = "distance"
    drift: float = 0.5
    neighbour_limit: float = 4.0
    nearness: float = 1.0
    trend: bool = True
    expected_weight: float = 0.5
    image_weight: float = 4.0
    strokes: Literal["auto", "always", "never"] = "auto"
    threshold: float = 0.5
    reach: float = 2.0
    only_connected: bool = True
    consistency: float = 0.5
    stop_area: float = 0.1
    stop_leak: float = 0.5
    stop_confidence: float = 0.5
    least_confidence: float = 0.5
    patience: int = 2
    certain: float = 0.9

    def __post_init__(self) -> None:
        """Check the values."""
        probability_to_logit(self.threshold)
        for name, lowest in (("context_limit", 0), ("propagated_context", 0), ("patience", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise ConfigError(f"{name} is {value!r}; give a whole number of slices, at least {lowest}.")
        weights = ("expected_weight", "image_weight")
        for name in ("drift", "neighbour_limit", "nearness", "reach", "consistency", *weights):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} is {value!r}; give a finite number from 0.")
        parts = ("context_confidence", "stop_area", "stop_leak", "stop_confidence", "least_confidence", "certain")
        for name in parts:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; give a part, from 0 to 1.")
        for name, known in (("neighbour", ("logits", "distance")), ("strokes", ("auto", "always", "never"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")


@dataclass(frozen=True, eq=False)
class AnnotatedSegment:
    """One segment to propagate.

    Attributes:
        slices: bool (H, W) masks of the accepted slices by index. They are never changed. An empty one says that the
            structure is absent there, which ends the propagation.
        name: What the structure is called.
        context: Segmented images of the same structure from elsewhere; None if there are none.
        previous: An earlier result of the same segment in the same volume. Its slices are kept where no accepted slice
            before, behind or among them was added, taken away or changed.
    """

    slices: Mapping[int, Mask]
    name: str = ""
    context: ContextSet | None = None
    previous: Propagation | None = None


class StopReason(str, Enum):
    """Why a propagation went no further in one direction."""

    ENDED = "the structure ends"
    UNCERTAIN = "too uncertain to go on"
    ABSENT = "the next accepted slice is without the structure"
    RANGE = "end of the range"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class PropagationEnd:
    """Where a propagation went no further.

    Attributes:
        start: The accepted slice it came from.
        index: The last slice it segmented, or `start`.
        direction: 1 towards higher indices, -1 towards lower ones.
        reason: Why.
        refused: The first slice that was predicted but not taken over, where the reason lies in it; else None.
        confidence: How sure that is, in [0, 1]: the confidence of the refused slice, or where the structure ends, 1
            less the square of the last slice's part of the largest area on the way, since structures mostly end
            gradually. None where no slice was refused.
    """

    start: int
    index: int
    direction: Literal[1, -1]
    reason: StopReason
    refused: int | None = None
    confidence: float | None = None


@dataclass(frozen=True, eq=False)
class PropagatedSlice:
    """One segment in one slice, as propagation found it. The mask is kept packed, eight pixels a byte.

    Attributes:
        label: The segment.
        index: Position of the slice on the axis.
        confidence: In [0, 1]: what the network expects the Dice coefficient to be, reduced where the mask departs from
            what the neighbouring slices lead to expect.
        disagreement: In [0, 1]: how much less the two fronts that met near this slice agree than slices of the same
            stretch do; known once the stretch is done.
        logits: float32 (H, W), or None where they were not kept.
        shape: (H, W).
        packed: uint8, the mask's bits.
    """

    label: int
    index: int
    confidence: float
    disagreement: float
    logits: FloatArray | None = field(repr=False)
    shape: tuple[int, int]
    packed: NDArray[np.uint8] = field(repr=False)

    @classmethod
    def of(
        cls, mask: Mask, *, label: int, index: int, confidence: float, logits: FloatArray | None = None
    ) -> PropagatedSlice:
        """Pack a mask, bool (H, W)."""
        height, width = mask.shape
        return cls(label, index, confidence, 0.0, logits, (height, width), np.packbits(mask))

    @property
    def mask(self) -> Mask:
        """The structure's pixels, a new array bool (H, W)."""
        height, width = self.shape
        return np.unpackbits(self.packed, count=height * width).reshape(self.shape).astype(bool)


@dataclass(frozen=True, eq=False)
class Propagation:
    """What became of one segment.

    Attributes:
        label: The segment.
        axis: Axis of the array (0 = K, 1 = J, 2 = I).
        slices: Propagated slices by ascending index; the accepted ones are not among them.
        accepted: bool (H, W), the accepted masks by ascending index.
        next_slice: The slice whose correction would help most, never an accepted one; None when all are certain.
        stopped: Where and why the propagation ended, by ascending index.
        reused: Indices of the slices that were kept from an earlier result.
        cancelled: Whether it was cancelled; what was done before is there.
        slices_per_second: Slices of all segments together for each second of work; 0 if nothing was predicted.
    """

    label: int
    axis: int
    slices: Mapping[int, PropagatedSlice]
    accepted: Mapping[int, Mask]
    next_slice: int | None
    stopped: tuple[PropagationEnd, ...]
    reused: frozenset[int]
    cancelled: bool
    slices_per_second: float
