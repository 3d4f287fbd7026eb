"""What propagation is given and what it returns: settings, annotated segments, slices, and the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.geometry import Grid
from scribblesegment.data.masks import probability_to_logit, unpacked
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.data.volume import LabelVolume
from scribblesegment.errors import ConfigError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PropagationConfig:
    """How slices are propagated (docs/decisions/0005); a value out of range raises ConfigError."""

    context_limit: Annotated[int, Range(0)] = 8  # most context entries a slice is predicted from
    # mm that outlines are expected to move per mm between slices; the prior's logits are as soft
    drift: Annotated[float, Range(0)] = 0.5
    prior_limit: Annotated[float, Range(0)] = 4.0  # the prior's logits are clipped to plus and minus this
    # between two known slices each counts with its distance to minus this power
    distance_power: Annotated[float, Range(0)] = 1.0
    trend: bool = True  # beyond the outermost accepted slices the expected shape shrinks as their areas do
    prior_weight: Annotated[float, Range(0)] = 0.5  # this much of the prior's logits is added to the network's
    # at most this many logits are added by the geodesic prior; at 0 it is not computed
    image_weight: Annotated[float, Range(0)] = 4.0
    threshold: float = 0.5  # probability from which a pixel belongs to the structure
    # mm from the neighbours' outlines, per mm between slices, where the structure may be
    reach: Annotated[float, Range(0)] = 2.0
    only_connected: bool = True  # leave out components that lie nowhere near the neighbours' structure
    # exponent of the agreement with the expected shape in the confidence
    consistency: Annotated[float, Range(0)] = 0.5
    # the structure has ended where its area falls below this part of its neighbour's
    stop_area: Annotated[float, Range(0, 1)] = 0.1
    # going on is uncertain where more than the first part of the mask lies out of reach, or the confidence falls below
    # the second part of the latest slices' median, or below the third
    stop_leak: Annotated[float, Range(0, 1)] = 0.5
    stop_confidence: Annotated[float, Range(0, 1)] = 0.5
    least_confidence: Annotated[float, Range(0, 1)] = 0.5
    # so many slices in a row must give a reason before the propagation stops
    patience: Annotated[int, Range(1)] = 2
    certain: Annotated[float, Range(0, 1)] = 0.9  # from this confidence on a slice need not be checked

    def __post_init__(self) -> None:
        probability_to_logit(self.threshold)
        check_ranges(self)


@dataclass(frozen=True, eq=False)
class VoxelPrompts:
    """Voxels that strokes mark, in whatever view they were painted."""

    kji: NDArray[np.int64]  # (N, 3)
    positive: NDArray[np.bool_]  # (N,), whether each belongs to the structure; the last holds where a voxel comes twice

    @classmethod
    def joined(cls, parts: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]]) -> VoxelPrompts:
        """One after the other: voxels (N, 3), and whether each belongs to the structure."""
        kji, positive = zip(*parts, (np.zeros((0, 3), np.int64), np.zeros(0, bool)), strict=True)
        return cls(np.concatenate(kji), np.concatenate(positive))

    def by_slice(self, axis: int, slice_shape: tuple[int, int]) -> dict[int, NDArray[np.int64]]:
        """Marked pixels of each slice that has any: ascending, twice the flat index, plus 1 where positive."""
        rows, columns = np.delete(self.kji, axis, axis=1).T
        pixels = self.kji[:, axis] * math.prod(slice_shape) + rows * slice_shape[1] + columns
        _, last = np.unique(pixels[::-1], return_index=True)
        chosen = len(pixels) - 1 - last
        codes = 2 * (pixels[chosen] % math.prod(slice_shape)) + self.positive[chosen]
        indices, starts = np.unique(self.kji[chosen, axis], return_index=True)
        return dict(zip(indices.tolist(), np.split(codes, starts[1:]), strict=True))


@dataclass(frozen=True, eq=False)
class AnnotatedSegment:
    """One segment to propagate."""

    slices: Mapping[int, Mask]  # bool (H, W) by index; an empty mask says the structure is absent there, and ends it
    name: str = ""
    context: ContextSet | None = None  # images of the same structure from elsewhere
    # An earlier result in the same volume: its slices are kept where neither the accepted slices beside them nor the
    # prompts between these have changed.
    previous: Propagation | None = None
    prompts: VoxelPrompts | None = None  # strokes, besides those that the accepted slices answer


class StopReason(str, Enum):
    """Why a propagation went no further in one direction."""

    ENDED = "the structure ends"
    UNCERTAIN = "too uncertain to go on"
    ABSENT = "the next accepted slice is without the structure"
    RANGE = "end of the range"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class PropagationEnd:
    """Where a propagation went no further."""

    start: int  # the accepted slice it came from
    index: int  # the last slice it segmented, or `start`
    direction: Literal[1, -1]  # towards higher or lower indices
    reason: StopReason
    rejected: int | None = None  # the first slice that was predicted and not accepted, where the reason lies in it
    confidence: float | None = None  # in [0, 1], of the rejected slice, or of the structure's end


@dataclass(frozen=True, eq=False)
class PropagatedSlice:
    """One segment in one slice. The mask is kept packed, eight pixels a byte."""

    label: int
    index: int
    confidence: float  # in [0, 1]: the Dice coefficient to expect, less where the mask departs from its neighbours
    disagreement: float  # in [0, 1]: how much worse the fronts that met near here agree than slices elsewhere do
    logits: FloatArray | None = field(repr=False)  # (H, W), or None where they were not kept
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
        return unpacked(self.packed, self.shape)


@dataclass(frozen=True, eq=False)
class Propagation:
    """What became of one segment."""

    label: int
    axis: int  # of the array: 0 = K, 1 = J, 2 = I
    slices: Mapping[int, PropagatedSlice]  # by ascending index, the accepted ones not among them
    accepted: Mapping[int, Mask]  # bool (H, W) by ascending index
    next_slice: int | None  # the slice whose correction would help most; None when all are certain
    stopped: tuple[PropagationEnd, ...]  # by ascending start
    reused: frozenset[int]  # slices kept from an earlier result
    cancelled: bool  # what was done before is there
    slices_per_second: float  # of all segments together; 0 if nothing was predicted
    grid: Grid | None = None  # of the volume
    prompts: VoxelPrompts | None = None  # what was marked besides

    @property
    def confidence(self) -> dict[int, float]:
        """Confidences of the propagated slices by ascending index, in [0, 1]: the Dice coefficient to expect."""
        return {index: found.confidence for index, found in self.slices.items()}

    def to_labels(self) -> LabelVolume:
        """Give the structure in the whole volume: `label` in accepted and propagated slices, 0 elsewhere.

        Raises:
            ConfigError: The result was not made by a `Propagator`, so that the volume's grid is unknown.
        """
        if self.grid is None:
            raise ConfigError("The grid of the volume is not known. Take the result of Propagator.run.")
        labels = np.zeros(self.grid.shape, np.min_scalar_type(self.label))
        planes = np.moveaxis(labels, self.axis, 0)
        for index, mask in self.accepted.items():
            planes[index][mask] = self.label
        for index, found in self.slices.items():
            planes[index][found.mask] = self.label
        return LabelVolume(labels, self.grid.ijk_to_mm)
