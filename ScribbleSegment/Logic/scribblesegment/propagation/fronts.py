"""The slices of one segment that are to be propagated, in spans between accepted slices and beyond the outermost.

A `BoundedSpan` is worked off from both sides in turn, and its fronts meet halfway. An `OpenSpan` goes on until the
structure ends. What comes next in a span depends on that span alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data import validation
from scribblesegment.data.masks import logits_to_mask
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation.confidence import (
    confidence_of,
    disagreement_of_fronts,
    next_slice_to_correct,
    overlap_of,
)
from scribblesegment.propagation.config import (
    AnnotatedSegment,
    FloatArray,
    Mask,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    PropagationEnd,
    StopReason,
    VoxelPrompts,
)
from scribblesegment.propagation.prior import AreaExtrapolation, KnownSlice, ShapePrior

_REMEMBERED = 5  # slices by which the confidence of the next one is judged


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """A slice as predicted, before it is known whether it is accepted."""

    index: int
    prior: ShapePrior
    logits: FloatArray  # (H, W)
    mask: Mask  # (H, W)
    confidence: float
    likeness: float = 1.0  # of what is in the mask to the nearest accepted slice
    marked: bool = False  # whether a prompt says that the structure is where the mask is


class BoundedSpan:
    """Slices between two known ones, of which none is left out: the structure goes on behind them."""

    area_ratio = 1.0  # between two slices the whole area is expected

    def __init__(
        self, lower: KnownSlice, upper: KnownSlice, indices: range, *, origins: tuple[int, int] | None = None
    ) -> None:
        """Fill ascending `indices` from `lower` and `upper`; the accepted slices are these, or else at `origins`."""
        self.end: PropagationEnd | None = None
        self._lower, self._upper = lower, upper
        self._origins = origins or (lower.index, upper.index)
        self._indices = indices
        self._first, self._last = indices.start, indices.stop - 1
        self._steps: list[float] = []
        self._meeting: float | None = None

    @property
    def remaining(self) -> int:
        """How many slices are left."""
        return max(self._last - self._first + 1, 0)

    @property
    def next_index(self) -> int | None:
        """The slice that comes next: on the side that has come less far."""
        if not self.remaining:
            return None
        lower, upper = self._origins
        return self._first if self._first - lower <= upper - self._last else self._last

    @property
    def depth(self) -> int:
        """How far the next slice is from the slice its front began at."""
        lower, upper = self._origins
        return min(self._first - lower, upper - self._last)

    @property
    def neighbours(self) -> list[KnownSlice]:
        """What the next slice is predicted from."""
        return [self._lower, self._upper]

    def covers(self, index: int) -> bool:
        """Whether a slice is still to come."""
        return self._first <= index <= self._last

    def check(self, found: SlicePrediction) -> StopReason | None:
        """Find no reason to stop: the span is filled whatever comes."""
        return None

    def reject(self, found: SlicePrediction, reason: StopReason) -> None:
        """Pass over a slice in which nothing was found; the next one is predicted from the one before it."""
        self._advance(found.index)

    def accept(self, found: SlicePrediction) -> list[BoundedSpan]:
        """Go on from a slice; returns spans that come up by that, here none."""
        known = KnownSlice(found.index, found.mask)
        overlaps = [_overlap_per_slice(neighbour, known) for neighbour in self.neighbours]
        if self._first == self._last:
            self._meeting = min(overlaps)
        elif found.index == self._first:
            self._steps.append(overlaps[0])
            self._lower = known
        else:
            self._steps.append(overlaps[1])
            self._upper = known
        self._advance(found.index)
        return []

    def end_if_cancelled(self) -> PropagationEnd | None:
        """A bounded span has no end."""
        return None

    def disagreements(self) -> dict[int, float]:
        """For each slice of a finished span how much the fronts disagreed, reduced towards both ends."""
        if not self._steps or self.remaining:
            return {}
        meeting = _overlap_per_slice(self._lower, self._upper) if self._meeting is None else self._meeting
        most = disagreement_of_fronts(self._steps, meeting)
        lower, upper = self._origins
        depths = {index: min(index - lower, upper - index) for index in self._indices}
        deepest = max(depths.values())
        return {index: most * depth / deepest for index, depth in depths.items()}

    def _advance(self, index: int) -> None:
        if index == self._first:
            self._first += 1
        else:
            self._last -= 1


class OpenSpan:
    """Slices beyond the last one known to show the structure, in one direction.

    A slice that gives a reason to stop is rejected for the time being: if one of the next
    `PropagationConfig.patience - 1` slices is good again, the propagation goes on from there, and what was left out
    becomes a bounded span.
    """

    def __init__(
        self,
        known: KnownSlice,
        indices: range,
        *,
        start: int,
        at_stop: StopReason,
        config: PropagationConfig,
        trend: AreaExtrapolation | None = None,
        marked: Collection[int] = (),
        passed: Sequence[PropagatedSlice] = (),
    ) -> None:
        """Go on from `known` through `indices`, which end for the reason `at_stop`; it began at the slice `start`.

        It does not stop before it has come to the last of the slices that are `marked` as showing the structure. The
        slices that were `passed` before count as if it had made them.
        """
        self.end: PropagationEnd | None = None
        self._least = max((place + 1 for place, index in enumerate(indices) if index in marked), default=0)
        self._known, self._indices, self._start = known, indices, start
        self._at_stop, self._config, self._trend = at_stop, config, trend
        self._position = 0
        self._rejected: list[tuple[int, StopReason, float]] = []
        self._confidences = deque((one.confidence for one in passed), maxlen=_REMEMBERED)
        self._largest = max(int(mask.sum()) for mask in (known.mask, *(one.mask for one in passed)))
        self._direction: Literal[1, -1] = 1 if indices.step > 0 else -1
        self._end_if_done()

    @property
    def remaining(self) -> int:
        """How many slices are left at most."""
        return 0 if self.end else len(self._indices) - self._position

    @property
    def next_index(self) -> int | None:
        """The slice that comes next."""
        return None if self.end else self._indices[self._position]

    @property
    def depth(self) -> int:
        """How far the next slice is from the slice it began at."""
        return 0 if self.end else abs(self._indices[self._position] - self._start)

    @property
    def neighbours(self) -> list[KnownSlice]:
        """What the next slice is predicted from."""
        return [self._known]

    @property
    def area_ratio(self) -> float:
        """Part of its neighbour's area that the next slice is expected to show."""
        index = self.next_index
        return 1.0 if self._trend is None or index is None else self._trend.ratio(self._known.index, index)

    def covers(self, index: int) -> bool:
        """Whether a slice may still come: rejected ones may come again."""
        return not self.end and index in self._indices[self._position - len(self._rejected) :]

    def check(self, found: SlicePrediction) -> StopReason | None:
        """Say whether a slice gives a reason to stop, by its area and confidence compared with its neighbours'."""
        config = self._config
        if found.marked:
            return None
        if int(found.mask.sum()) < max(1.0, config.stop_area * int(self._known.mask.sum())):
            return StopReason.ENDED
        usual = float(np.median(self._confidences)) if self._confidences else 0.0
        if found.confidence < max(config.least_confidence, config.stop_confidence * usual):
            return StopReason.UNCERTAIN
        return StopReason.UNCERTAIN if found.prior.out_of_reach(found.mask) > config.stop_leak else None

    def reject(self, found: SlicePrediction, reason: StopReason) -> None:
        """Leave a slice out, and stop if there were too many of them."""
        self._rejected.append((found.index, reason, found.confidence))
        self._position += 1
        self._end_if_done()

    def accept(self, found: SlicePrediction) -> list[BoundedSpan]:
        """Go on from a slice; returns the slices that were left out before, as a span."""
        before, skipped = self._known, [index for index, *_ in self._rejected]
        self._known, self._rejected = KnownSlice(found.index, found.mask), []
        self._position += 1
        self._confidences.append(found.confidence)
        self._largest = max(self._largest, int(found.mask.sum()))
        self._end_if_done()
        if not skipped:
            return []
        lower, upper = sorted((before, self._known), key=lambda one: one.index)
        return [BoundedSpan(lower, upper, range(min(skipped), max(skipped) + 1))]

    def end_if_cancelled(self) -> PropagationEnd | None:
        """Where the propagation ends if it goes no further."""
        return self.end or PropagationEnd(self._start, self._known.index, self._direction, StopReason.CANCELLED)

    def _end_if_done(self) -> None:
        done = self._position >= len(self._indices)
        enough = len(self._rejected) >= self._config.patience and self._position >= self._least
        if self._rejected and (enough or done):
            index, reason, confidence = self._rejected[0]
            if reason is StopReason.ENDED:  # structures mostly end gradually
                confidence = 1.0 - (int(self._known.mask.sum()) / self._largest) ** 2
            self.end = PropagationEnd(self._start, self._known.index, self._direction, reason, index, confidence)
        elif done:
            self.end = PropagationEnd(self._start, self._known.index, self._direction, self._at_stop)


Span = BoundedSpan | OpenSpan


class SegmentState:
    """What is known and what is left to do of one segment; refuses masks, names and results that do not fit."""

    def __init__(
        self,
        label: int,
        annotated: AnnotatedSegment,
        *,
        axis: int,
        axis_length: int,
        slice_shape: tuple[int, int],
        index_range: tuple[int, int],
        config: PropagationConfig,
        keep_logits: bool,
    ) -> None:
        """Check what was annotated, and divide the range into spans."""
        self.label, self.name = label, annotated.name
        called = repr(annotated.name) if annotated.name else f"label {label}"
        self.accepted = _checked_masks(annotated.slices, called, axis, axis_length, slice_shape)
        if not any(mask.any() for mask in self.accepted.values()):
            raise PromptError(
                f"None of the {len(self.accepted)} accepted slices shows {called}. Accept at least one in which the "
                "structure is marked."
            )
        previous = annotated.previous
        if previous is not None and (previous.label, previous.axis) != (label, axis):
            raise ConfigError(
                f"The earlier result is of label {previous.label} along axis {previous.axis}, and not of label {label} "
                f"along axis {axis}. Start without it."
            )
        self._axis, self._config, self._keep_logits = axis, config, keep_logits
        self.spans: list[Span] = []
        self._slices: dict[int, PropagatedSlice] = {}
        self._ends: list[PropagationEnd] = []
        self._shape, self._prompts = slice_shape, annotated.prompts
        self._marked = _marked(annotated.prompts, called, axis, axis_length, slice_shape)
        before = _marked(None if previous is None else previous.prompts, called, axis, axis_length, slice_shape)
        # Slices that hold other prompts than before.
        changed = {
            index
            for index in {*self._marked, *before}
            if not np.array_equal(self._marked.get(index, ()), before.get(index, ()))
        }
        areas = {index: int(mask.sum()) for index, mask in self.accepted.items()}
        self._trend = AreaExtrapolation(areas) if config.trend else None
        bounds: list[int | None] = [None, *self.accepted, None]
        for lower, upper in pairwise(bounds):
            start = index_range[0] if lower is None else max(index_range[0], lower + 1)
            stop = index_range[1] if upper is None else min(index_range[1], upper)
            indices = range(start, max(stop, start))
            same = previous if previous and _unchanged(previous.accepted, self.accepted, lower, upper) else None
            if not changed.isdisjoint(indices):
                same = None
            below, above = self._shows(lower), self._shows(upper)
            if below is not None and above is not None:
                self._add_bounded(below, above, indices, same)
            elif below is not None:
                self._add_open(below, indices, StopReason.ABSENT if stop == upper else StopReason.RANGE, same)
            elif above is not None:
                absent = lower is not None and start == lower + 1
                self._add_open(above, indices[::-1], StopReason.ABSENT if absent else StopReason.RANGE, same)
        self._reused = frozenset(self._slices)

    @property
    def remaining(self) -> int:
        """How many slices are left at most."""
        return sum(span.remaining for span in self.spans)

    def covers(self, index: int) -> bool:
        """Whether a slice is still to come, or may come again."""
        return any(span.covers(index) for span in self.spans)

    def fixed_mask(self, index: int) -> Mask | None:
        """What other segments may not take in a slice: accepted pixels, and those kept from an earlier result."""
        if index in self.accepted:
            return self.accepted[index]
        return self._slices[index].mask if index in self._reused else None

    def scribbles(self, index: int) -> Mask | None:
        """What is marked in a slice, positive and negative, bool (2, H, W); None where nothing is."""
        pixels = self._marked.get(index)
        if pixels is None:
            return None
        drawn = np.zeros((2, math.prod(self._shape)), bool)
        drawn[1 - pixels % 2, pixels // 2] = True
        return drawn.reshape(2, *self._shape)

    def prediction(
        self,
        index: int,
        prior: ShapePrior,
        logits: FloatArray,
        forbidden: Mask | None,
        likeness: Callable[[Mask], float],
    ) -> SlicePrediction:
        """Make a mask of logits, float32 (H, W), leaving out the pixels of `forbidden`, bool (H, W)."""
        settled = logits if forbidden is None else _denied(logits, forbidden)
        mask = logits_to_mask(settled, self._config.threshold)
        if forbidden is not None:
            mask &= ~forbidden  # also below a threshold under one half
        scribbles = self.scribbles(index)
        positive = None if scribbles is None else scribbles[0]
        if self._config.only_connected:
            mask = prior.connected(mask, positive)
        marked = positive is not None and bool((mask & positive).any())
        alike = likeness(mask)
        confidence = confidence_of(settled, mask, prior, consistency=self._config.consistency, likeness=alike)
        return SlicePrediction(index, prior, settled, mask, confidence, alike, marked)

    def without(self, found: SlicePrediction, pixels: Mask) -> SlicePrediction:
        """Leave pixels, bool (H, W), to other segments."""
        if not (found.mask & pixels).any():
            return found
        logits, mask = _denied(found.logits, pixels), found.mask & ~pixels
        consistency = self._config.consistency
        confidence = confidence_of(logits, mask, found.prior, consistency=consistency, likeness=found.likeness)
        return dataclasses.replace(found, logits=logits, mask=mask, confidence=confidence)

    def settle(self, span: Span, found: SlicePrediction) -> PropagatedSlice | None:
        """Accept or reject a slice and go on from there; returns None if it is left out."""
        reason = span.check(found)
        if reason is None and found.mask.any():
            self.spans.extend(span.accept(found))
        else:
            span.reject(found, reason or StopReason.ENDED)
        result = None
        if reason is None:
            result = PropagatedSlice.of(
                found.mask, label=self.label, index=found.index, confidence=found.confidence, logits=found.logits
            )
            self._slices[found.index] = result if self._keep_logits else dataclasses.replace(result, logits=None)
        for one in self.spans:
            if one.next_index is None and isinstance(one, BoundedSpan):
                for index, disagreement in one.disagreements().items():
                    self._slices[index] = dataclasses.replace(self._slices[index], disagreement=disagreement)
            elif one.end is not None:
                self._ends.append(one.end)
        self.spans = [one for one in self.spans if one.next_index is not None]
        return result

    def release_pixels(self, index: int, pixels: Mask) -> PropagatedSlice | None:
        """Leave pixels of a finished slice to another segment; returns it without them, None if it had none of them."""
        old = self._slices[index]
        mask = old.mask
        if not (mask & pixels).any():
            return None
        self._slices[index] = dataclasses.replace(old, packed=np.packbits(mask & ~pixels))
        return self._slices[index]

    def result(self, *, cancelled: bool, slices_per_second: float) -> Propagation:
        """What was done so far; what is left counts as cancelled."""
        ends = [*self._ends, *(end for span in self.spans if (end := span.end_if_cancelled()) is not None)]
        slices = {index: self._slices[index] for index in sorted(self._slices)}
        confidence = {index: found.confidence for index, found in slices.items()}
        for end in ends:
            if end.rejected is not None and end.confidence is not None and end.rejected not in slices:
                confidence[end.rejected] = end.confidence
        disagreement = {index: found.disagreement for index, found in slices.items()}
        return Propagation(
            label=self.label,
            axis=self._axis,
            slices=slices,
            accepted=self.accepted,
            next_slice=next_slice_to_correct(confidence, disagreement, self.accepted, certain=self._config.certain),
            stopped=tuple(sorted(ends, key=lambda end: (end.start, end.direction))),
            reused=self._reused & slices.keys(),
            cancelled=cancelled,
            slices_per_second=slices_per_second,
            prompts=self._prompts,
        )

    def _shows(self, index: int | None) -> KnownSlice | None:
        shows = index is not None and self.accepted[index].any()
        return KnownSlice(index, self.accepted[index]) if shows and index is not None else None

    def _add_bounded(self, below: KnownSlice, above: KnownSlice, indices: range, same: Propagation | None) -> None:
        from_below = self._keep(same, indices)
        from_above = self._keep(same, indices[len(from_below) :][::-1])
        left = indices[len(from_below) : len(indices) - len(from_above)]
        if left:
            lower, upper = self._last_known(below, from_below), self._last_known(above, from_above)
            self.spans.append(BoundedSpan(lower, upper, left, origins=(below.index, above.index)))

    def _add_open(self, known: KnownSlice, indices: range, at_stop: StopReason, same: Propagation | None) -> None:
        kept = self._keep(same, indices)
        direction = 1 if indices.step > 0 else -1
        for end in same.stopped if same else ():
            by_itself = end.reason in (StopReason.ENDED, StopReason.UNCERTAIN)
            if (
                by_itself
                and (end.start, end.direction) == (known.index, direction)
                and end.index in (known.index, *kept)
            ):
                self._ends.append(end)
                return
        last, left = self._last_known(known, kept), indices[len(kept) :]
        marked = {index for index, pixels in self._marked.items() if (pixels % 2).any()}
        span = OpenSpan(
            last,
            left,
            start=known.index,
            at_stop=at_stop,
            config=self._config,
            trend=self._trend,
            marked=marked,
            passed=[self._slices[index] for index in kept],
        )
        if span.end is None:
            self.spans.append(span)
        else:
            self._ends.append(span.end)

    def _keep(self, same: Propagation | None, indices: range) -> list[int]:
        """Take the first slices of `indices` that an earlier result has from it."""
        if same is None:
            return []
        kept = list(takewhile(same.slices.__contains__, indices))
        self._slices.update({index: same.slices[index] for index in kept})
        return kept

    def _last_known(self, known: KnownSlice, kept: list[int]) -> KnownSlice:
        """The last of the kept slices with a structure in it, or the accepted one before them."""
        masks = ((index, self._slices[index].mask) for index in reversed(kept))
        return next((KnownSlice(index, mask) for index, mask in masks if mask.any()), known)


def _unchanged(before: Mapping[int, Mask], after: Mapping[int, Mask], lower: int | None, upper: int | None) -> bool:
    """Whether two slices were next to each other among the accepted ones before, with the same masks."""
    if (lower, upper) not in pairwise([None, *sorted(before), None]):
        return False
    return all(np.array_equal(before[index], after[index]) for index in (lower, upper) if index is not None)


def _marked(
    prompts: VoxelPrompts | None, called: str, axis: int, axis_length: int, slice_shape: tuple[int, int]
) -> dict[int, NDArray[np.int64]]:
    """Marked pixels by slice, see `VoxelPrompts.by_slice`."""
    if prompts is None or not len(prompts.kji):
        return {}
    shape = np.insert(slice_shape, axis, axis_length)
    if prompts.kji.ndim != 2 or prompts.kji.shape != (len(prompts.positive), 3):
        raise GeometryError(
            f"The prompts of {called} have voxels of the shape {prompts.kji.shape} and {len(prompts.positive)} signs; "
            "give (N, 3) and (N,)."
        )
    if (prompts.kji < 0).any() or (prompts.kji >= shape).any():
        raise GeometryError(f"A voxel in the prompts of {called} is outside the volume of shape {tuple(shape)}.")
    return prompts.by_slice(axis, slice_shape)


def _overlap_per_slice(first: KnownSlice, second: KnownSlice) -> float:
    """The Dice coefficient of two slices, brought to a distance of one slice."""
    return overlap_of(first.mask, second.mask) ** (1.0 / abs(first.index - second.index))


def _denied(logits: FloatArray, pixels: Mask) -> FloatArray:
    """Turn what speaks for the structure in some pixels into what speaks as much against it."""
    wrong = pixels & (logits > 0)
    return np.where(wrong, -logits, logits) if wrong.any() else logits


def _checked_masks(
    slices: Mapping[int, Mask], called: str, axis: int, axis_length: int, slice_shape: tuple[int, int]
) -> dict[int, Mask]:
    """Copy accepted masks, sorted by index."""
    masks: dict[int, Mask] = {}
    for key in slices:
        index = validation.whole_number(key, name=f"The index of an accepted slice of {called}")
        if not 0 <= index < axis_length:
            raise GeometryError(
                f"The accepted slice {index} of {called} is outside the volume; along axis {axis} choose from 0 to "
                f"{axis_length - 1}."
            )
        name = f"The accepted mask of {called} in slice {index}"
        mask = validation.image_array(slices[key], ndim=(2,), name=name)
        if mask.dtype.kind == "f":
            raise ImageError(f"{name} holds {mask.dtype} values, expected bool. Threshold it: (mask > 0.5).")
        validation.same_shape(mask.shape, slice_shape, name=name, reference="a slice of the volume")
        masks[index] = np.array(mask != 0)
        masks[index].flags.writeable = False
    return dict(sorted(masks.items()))
