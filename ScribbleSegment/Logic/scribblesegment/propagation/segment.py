"""One segment on its way through a volume: what is accepted, what is left to do, and what was found."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping

import numpy as np

from scribblesegment import checks
from scribblesegment.exceptions import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.postprocessing import logits_to_mask
from scribblesegment.propagation.confidence import confidence_of, next_slice_to_correct
from scribblesegment.propagation.definitions import (
    AnnotatedSegment,
    FloatArray,
    Mask,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    StopReason,
)
from scribblesegment.propagation.neighbours import Expectation, KnownSlice
from scribblesegment.propagation.stretches import Draft, Gap, Plan, Stretch


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
        mask = checks.image_array(slices[key], ndim=(2,), name=name)
        if mask.dtype.kind == "f":
            raise ImageError(f"{name} holds {mask.dtype} values, expected bool. Threshold it: (mask > 0.5).")
        checks.same_shape(mask.shape, slice_shape, name=name, reference="a slice of the volume")
        masks[index] = np.array(mask != 0)
        masks[index].flags.writeable = False
    return dict(sorted(masks.items()))
