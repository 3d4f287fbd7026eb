"""The slices of one segment that are to be propagated, in stretches between accepted slices and beyond the outermost.

A `Gap` lies between two slices that show the structure. It is worked off from both sides in turn, so that a neighbour
of each slice is known, and the fronts meet halfway between the accepted slices. A `Tail` has such a slice on one side
only, and goes on until the structure ends. What comes next in a stretch depends on that stretch alone.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

import numpy as np

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
)
from scribblesegment.propagation.expectation import AreaTrend, Expectation, KnownSlice

# Slices by which the confidence of the next one is judged.
_REMEMBERED = 5


@dataclass(frozen=True, eq=False)
class Draft:
    """A slice as predicted, before it is known whether it is taken over.

    Attributes:
        index: Position of the slice.
        expectation: What it was predicted from.
        logits: float32 (H, W).
        mask: bool (H, W).
        confidence: In [0, 1].
    """

    index: int
    expectation: Expectation
    logits: FloatArray
    mask: Mask
    confidence: float


class Gap:
    """Slices between two known ones, of which none is left out: the structure goes on behind them."""

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

    @property
    def area_ratio(self) -> float:
        """What part of its neighbours' area the next slice is expected to show: between two slices all of it."""
        return 1.0

    def covers(self, index: int) -> bool:
        """Whether a slice is still to come."""
        return self._first <= index <= self._last

    def judge(self, draft: Draft) -> StopReason | None:
        """Find no fault: a gap is filled whatever comes."""
        return None

    def refuse(self, draft: Draft, reason: StopReason) -> None:
        """Pass over a slice in which nothing was found; the next one is predicted from the one before it."""
        self._advance(draft.index)

    def accept(self, draft: Draft, known: KnownSlice) -> list[Gap]:
        """Go on from a slice; returns stretches that come up by that, here none."""
        overlaps = [_overlap_per_slice(neighbour, known) for neighbour in self.neighbours]
        if self._first == self._last:
            self._meeting = min(overlaps)
        elif draft.index == self._first:
            self._steps.append(overlaps[0])
            self._lower = known
        else:
            self._steps.append(overlaps[1])
            self._upper = known
        self._advance(draft.index)
        return []

    def end_if_cancelled(self) -> PropagationEnd | None:
        """Say where the propagation ends if it goes no further: a gap has no end."""
        return None

    def disagreements(self) -> dict[int, float]:
        """Say for each slice of a finished stretch how much the fronts disagreed; nothing of an unfinished one.

        Errors add up along a front: the value where they met is reduced in proportion towards both ends.
        """
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


class Tail:
    """Slices beyond the last one known to show the structure, in one direction.

    A slice that gives a reason to stop is not taken over at once: if one of the next `PropagationConfig.patience - 1`
    slices is good again, the propagation goes on from there, and what was left out becomes a gap.
    """

    def __init__(
        self,
        known: KnownSlice,
        indices: range,
        *,
        start: int,
        at_stop: StopReason,
        config: PropagationConfig,
        trend: AreaTrend | None = None,
    ) -> None:
        """Go on from `known` through `indices`, which end for the reason `at_stop`; it began at the slice `start`."""
        self.end: PropagationEnd | None = None
        self._known, self._indices, self._start = known, indices, start
        self._at_stop = at_stop
        self._config, self._trend = config, trend
        self._position = 0
        self._refused: list[tuple[int, StopReason, float]] = []
        self._confidences: deque[float] = deque(maxlen=_REMEMBERED)
        self._largest = int(known.mask.sum())
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
        """What part of its neighbour's area the next slice is expected to show."""
        index = self.next_index
        return 1.0 if self._trend is None or index is None else self._trend.ratio(self._known.index, index)

    def covers(self, index: int) -> bool:
        """Whether a slice may still come: those that were refused may come again as a gap."""
        return not self.end and index in self._indices[self._position - len(self._refused) :]

    def judge(self, draft: Draft) -> StopReason | None:
        """Say whether a slice gives a reason to stop, by its area and confidence compared with its neighbours'."""
        config = self._config
        if int(draft.mask.sum()) < max(1.0, config.stop_area * int(self._known.mask.sum())):
            return StopReason.ENDED
        usual = float(np.median(self._confidences)) if self._confidences else 0.0
        if draft.confidence < max(config.least_confidence, config.stop_confidence * usual):
            return StopReason.UNCERTAIN
        return StopReason.UNCERTAIN if draft.expectation.out_of_reach(draft.mask) > config.stop_leak else None

    def refuse(self, draft: Draft, reason: StopReason) -> None:
        """Leave a slice out, and stop if there were too many of them."""
        self._refused.append((draft.index, reason, draft.confidence))
        self._position += 1
        self._end_if_done()

    def accept(self, draft: Draft, known: KnownSlice) -> list[Gap]:
        """Go on from a slice; returns the slices that were left out before, as a gap."""
        before, skipped = self._known, [index for index, *_ in self._refused]
        self._known, self._refused = known, []
        self._position += 1
        self._confidences.append(draft.confidence)
        self._largest = max(self._largest, int(known.mask.sum()))
        self._end_if_done()
        if not skipped:
            return []
        lower, upper = sorted((before, known), key=lambda one: one.index)
        return [Gap(lower, upper, range(min(skipped), max(skipped) + 1))]

    def end_if_cancelled(self) -> PropagationEnd | None:
        """Say where the propagation ends if it goes no further."""
        return self.end or PropagationEnd(self._start, self._known.index, self._direction, StopReason.CANCELLED)

    @property
    def _direction(self) -> Literal[1, -1]:
        return 1 if self._indices.step > 0 else -1

    def _end_if_done(self) -> None:
        if self._refused and (len(self._refused) >= self._config.patience or self._position >= len(self._indices)):
            index, reason, confidence = self._refused[0]
            if reason is StopReason.ENDED:  # structures mostly end gradually
                confidence = 1.0 - (int(self._known.mask.sum()) / self._largest) ** 2
            self.end = PropagationEnd(self._start, self._known.index, self._direction, reason, index, confidence)
        elif self._position >= len(self._indices):
            self.end = PropagationEnd(self._start, self._known.index, self._direction, self._at_stop)


Stretch = Gap | Tail


class Plan:
    """What is to be done for one segment, and what an earlier result gives already.

    Attributes:
        stretches: Those with slices left.
        reused: Slices of the earlier result that hold, by index.
        ends: Ends that are known already.
    """

    def __init__(
        self,
        accepted: Mapping[int, Mask],
        index_range: tuple[int, int],
        *,
        config: PropagationConfig,
        previous: Propagation | None = None,
    ) -> None:
        """Divide the slices of a segment into stretches.

        Args:
            accepted: bool (H, W) masks by index; empty ones end the propagation.
            index_range: Half-open range of slices that may be segmented.
            config: Settings.
            previous: An earlier result; its slices are kept in stretches whose accepted neighbours are as they were.
        """
        self.stretches: list[Stretch] = []
        self.reused: dict[int, PropagatedSlice] = {}
        self.ends: list[PropagationEnd] = []
        self._config = config
        self._trend = AreaTrend({index: int(mask.sum()) for index, mask in accepted.items()}) if config.trend else None
        bounds: list[int | None] = [None, *sorted(accepted), None]
        for lower, upper in pairwise(bounds):
            below, above = _shown(accepted, lower), _shown(accepted, upper)
            start = index_range[0] if lower is None else max(index_range[0], lower + 1)
            stop = index_range[1] if upper is None else min(index_range[1], upper)
            indices = range(start, max(stop, start))
            same = previous if previous and _unchanged(previous.accepted, accepted, lower, upper) else None
            if below is not None and above is not None:
                self._add_gap(below, above, indices, same)
            elif below is not None:
                self._add_tail(below, indices, StopReason.ABSENT if stop == upper else StopReason.RANGE, same)
            elif above is not None:
                absent = lower is not None and start == lower + 1
                self._add_tail(above, indices[::-1], StopReason.ABSENT if absent else StopReason.RANGE, same)

    def _add_gap(self, below: KnownSlice, above: KnownSlice, indices: range, same: Propagation | None) -> None:
        from_below = self._keep(same, indices)
        from_above = self._keep(same, indices[len(from_below) :][::-1])
        left = indices[len(from_below) : len(indices) - len(from_above)]
        if left:
            lower, upper = self._last_shown(below, from_below), self._last_shown(above, from_above)
            self.stretches.append(Gap(lower, upper, left, origins=(below.index, above.index)))

    def _add_tail(self, known: KnownSlice, indices: range, at_stop: StopReason, same: Propagation | None) -> None:
        kept = self._keep(same, indices)
        direction = 1 if indices.step > 0 else -1
        for end in same.stopped if same else ():
            found_out = end.reason in (StopReason.ENDED, StopReason.UNCERTAIN)
            if (
                found_out
                and (end.start, end.direction) == (known.index, direction)
                and end.index in (known.index, *kept)
            ):
                self.ends.append(end)
                return
        last = self._last_shown(known, kept)
        left = indices[len(kept) :]
        tail = Tail(last, left, start=known.index, at_stop=at_stop, config=self._config, trend=self._trend)
        if tail.end is None:
            self.stretches.append(tail)
        else:
            self.ends.append(tail.end)

    def _keep(self, same: Propagation | None, indices: range) -> list[int]:
        """Take over the first slices of `indices` that an earlier result has."""
        if same is None:
            return []
        kept = list(takewhile(same.slices.__contains__, indices))
        self.reused.update({index: same.slices[index] for index in kept})
        return kept

    def _last_shown(self, known: KnownSlice, kept: list[int]) -> KnownSlice:
        """The last of the kept slices with a structure in it, or the accepted one before them."""
        for index in reversed(kept):
            mask = self.reused[index].mask
            if mask.any():
                return KnownSlice(index, mask)
        return known


def _shown(accepted: Mapping[int, Mask], index: int | None) -> KnownSlice | None:
    if index is None or not accepted[index].any():
        return None
    return KnownSlice(index, accepted[index])


def _unchanged(before: Mapping[int, Mask], after: Mapping[int, Mask], lower: int | None, upper: int | None) -> bool:
    """Whether two slices were next to each other among the accepted ones before, with the same masks."""
    bounds: list[int | None] = [None, *sorted(before), None]
    if (lower, upper) not in pairwise(bounds):
        return False
    return all(np.array_equal(before[index], after[index]) for index in (lower, upper) if index is not None)


def _overlap_per_slice(first: KnownSlice, second: KnownSlice) -> float:
    """The Dice coefficient of two slices, brought to a distance of one slice."""
    return overlap_of(first.mask, second.mask) ** (1.0 / abs(first.index - second.index))


class SegmentState:
    """What is known and what is left to do of one segment."""

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
        """Check what was annotated and plan what is to be done.

        Raises:
            PromptError: No accepted slice shows the structure.
            GeometryError: An accepted slice outside the volume, or a mask of another shape.
            ImageError: Something that is no mask.
            ConfigError: An earlier result along another axis or of another segment.
        """
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
        plan = Plan(self.accepted, index_range, config=config, previous=previous)
        self.stretches = plan.stretches
        self._slices, self._ends = dict(plan.reused), plan.ends
        self._reused = frozenset(plan.reused)

    @property
    def remaining(self) -> int:
        """How many slices are left at most."""
        return sum(stretch.remaining for stretch in self.stretches)

    def covers(self, index: int) -> bool:
        """Whether a slice is still to come, or may come again."""
        return any(stretch.covers(index) for stretch in self.stretches)

    def fixed_mask(self, index: int) -> Mask | None:
        """What other segments may not take in a slice: accepted pixels, and those kept from an earlier result."""
        if index in self.accepted:
            return self.accepted[index]
        return self._slices[index].mask if index in self._reused else None

    def draft(self, index: int, expectation: Expectation, logits: FloatArray, forbidden: Mask | None) -> Draft:
        """Make a mask of logits, float32 (H, W), leaving out the pixels of `forbidden`, bool (H, W)."""
        settled = logits if forbidden is None else _denied(logits, forbidden)
        mask = logits_to_mask(settled, self._config.threshold)
        if forbidden is not None:
            mask &= ~forbidden  # also below a threshold under one half
        if self._config.only_connected:
            mask = expectation.connected(mask)
        return self._assessed(Draft(index, expectation, settled, mask, 0.0))

    def without(self, draft: Draft, pixels: Mask) -> Draft:
        """Leave pixels, bool (H, W), of a draft to other segments."""
        if not (draft.mask & pixels).any():
            return draft
        return self._assessed(
            dataclasses.replace(draft, logits=_denied(draft.logits, pixels), mask=draft.mask & ~pixels)
        )

    def take_over(self, stretch: Stretch, draft: Draft) -> PropagatedSlice | None:
        """Note what became of a slice, and go on from there; returns None if the slice is left out."""
        reason = stretch.judge(draft)
        if reason is None and draft.mask.any():
            # Pieces that were left out shall not come back in the next slice.
            logits = _denied(draft.logits, ~draft.mask) if self._config.neighbour == "logits" else None
            known = KnownSlice(draft.index, draft.mask, logits)
            self.stretches.extend(stretch.accept(draft, known))
        else:
            stretch.refuse(draft, reason or StopReason.ENDED)
        found = None
        if reason is None:
            found = PropagatedSlice.of(
                draft.mask, label=self.label, index=draft.index, confidence=draft.confidence, logits=draft.logits
            )
            self._slices[draft.index] = found if self._keep_logits else dataclasses.replace(found, logits=None)
        self._drop_finished()
        return found

    def give_up(self, index: int, pixels: Mask) -> PropagatedSlice | None:
        """Leave pixels of a slice to another segment; returns the slice without them, None if it had none of them."""
        old = self._slices[index]
        mask = old.mask
        if not (mask & pixels).any():
            return None
        mask &= ~pixels
        changed = PropagatedSlice.of(mask, label=self.label, index=index, confidence=old.confidence, logits=old.logits)
        self._slices[index] = dataclasses.replace(changed, disagreement=old.disagreement)
        return self._slices[index]

    def result(self, *, cancelled: bool, slices_per_second: float) -> Propagation:
        """Put together what was done so far; what is left counts as cancelled."""
        stopped = [*self._ends]
        for stretch in self.stretches:
            end = stretch.end_if_cancelled()
            if end is not None:
                stopped.append(end)
        slices = {index: self._slices[index] for index in sorted(self._slices)}
        confidence = {index: found.confidence for index, found in slices.items()}
        for end in stopped:
            if end.refused is not None and end.confidence is not None and end.refused not in slices:
                confidence[end.refused] = end.confidence
        next_slice = next_slice_to_correct(
            confidence,
            {index: found.disagreement for index, found in slices.items()},
            self.accepted,
            certain=self._config.certain,
        )
        return Propagation(
            label=self.label,
            axis=self._axis,
            slices=slices,
            accepted=self.accepted,
            next_slice=next_slice,
            stopped=tuple(sorted(stopped, key=lambda end: (end.start, end.direction))),
            reused=self._reused & slices.keys(),
            cancelled=cancelled,
            slices_per_second=slices_per_second,
        )

    def _assessed(self, draft: Draft) -> Draft:
        confidence = confidence_of(draft.logits, draft.mask, draft.expectation, consistency=self._config.consistency)
        return dataclasses.replace(draft, confidence=confidence)

    def _drop_finished(self) -> None:
        """Note what finished stretches tell."""
        for stretch in self.stretches:
            if stretch.next_index is not None:
                continue
            if isinstance(stretch, Gap):
                for index, disagreement in stretch.disagreements().items():
                    self._slices[index] = dataclasses.replace(self._slices[index], disagreement=disagreement)
            elif stretch.end is not None:
                self._ends.append(stretch.end)
        self.stretches = [stretch for stretch in self.stretches if stretch.next_index is not None]


def _denied(logits: FloatArray, pixels: Mask) -> FloatArray:
    """Turn what speaks for the structure in some pixels, bool (H, W), into what speaks as much against it."""
    wrong = pixels & (logits > 0)
    return np.where(wrong, -logits, logits) if wrong.any() else logits


def _checked_masks(
    slices: Mapping[int, Mask], called: str, axis: int, axis_length: int, slice_shape: tuple[int, int]
) -> dict[int, Mask]:
    """Copy accepted masks, sorted by index."""
    masks: dict[int, Mask] = {}
    for key in slices:
        try:
            index = operator.index(key)
        except TypeError as cause:
            raise GeometryError(f"Slice index {key!r} of {called} is not a whole number.") from cause
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
