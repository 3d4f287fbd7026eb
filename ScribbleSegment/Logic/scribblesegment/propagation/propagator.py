"""One pass through a volume: slice by slice, all segments that are ready in a slice together."""

from __future__ import annotations

import dataclasses
import operator
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data import validation
from scribblesegment.data.masks import resolve_labels
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts, box_of
from scribblesegment.data.volume import SliceImage, Volume
from scribblesegment.errors import CancelledError, ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation.confidence import Appearance
from scribblesegment.propagation.config import (
    AnnotatedSegment,
    FloatArray,
    Mask,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    StopReason,
    VoxelPrompts,
)
from scribblesegment.propagation.fronts import SegmentState, SlicePrediction, Span
from scribblesegment.propagation.geodesic import GeodesicPrior
from scribblesegment.propagation.prior import shape_prior

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor

_ONLY = 1  # the label of a segment that is propagated alone


class Propagator:
    """Propagates accepted slices through volumes.

    A predictor that takes no context sets works too: it is given strokes through the expected shape and around it,
    besides the neighbour's logits. The predictor is left with the image and context of the last slice.
    """

    def __init__(self, predictor: Predictor, *, config: PropagationConfig | None = None) -> None:
        """Use a predictor, with the default settings if none are given."""
        self.predictor = predictor
        self.config = config or PropagationConfig()

    def run(
        self,
        volume: Volume,
        annotated: Mapping[int, Mask],
        axis: int | str,
        *,
        label_name: str = "",
        context: ContextSet | None = None,
        previous: Propagation | None = None,
        prompts: VoxelPrompts | None = None,
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
        intensity_range: IntensityRange | None = None,
        keep_logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Propagation:
        """Propagate one segment to the end.

        Args:
            volume: The image.
            annotated: bool (H, W), the accepted masks by slice index; an empty one says that the structure is absent
                there, and ends the propagation.
            axis: Axis of the array, 0, 1, 2 or "k", "j", "i".
            label_name: What the structure is called.
            context: Segmented images of the same structure from elsewhere, for example other patients.
            previous: An earlier result for the same volume and axis; what it has is kept where a change of the accepted
                slices cannot reach, and goes on where it was cancelled. Range and protection should be the same.
            prompts: Strokes of other views, which cross the slices; each is a prompt of the voxels it covers.
            index_range: Half-open range of slices that may be segmented; all by default.
            protected: bool (K, J, I), voxels that are not segmented: other segments, or what is masked.
            source: Name of the volume, as in the entries of `context`; needed if these may show slices of it.
            intensity_range: What is mapped to 0 and 1, as for `Predictor.set_image`; estimated if absent.
            keep_logits: Whether the slices of the result have their logits, 4 bytes a pixel.
            progress: Called with the part done and a text with the speed after each slice.
            cancelled: Asked before each slice and several times within it whether to stop; whole slices are kept.

        Raises:
            PromptError: No accepted slice shows the structure.
            GeometryError: An unknown axis, a slice, range or prompt outside the volume, or a shape that does not fit.
            ImageError: An accepted mask or the protection is no mask.
            ConfigError: Context for a network that takes none, or an earlier result of something else.
        """
        run = PropagationRun(
            self.predictor,
            volume,
            {_ONLY: AnnotatedSegment(annotated, label_name, context, previous, prompts)},
            axis,
            config=self.config,
            index_range=index_range,
            protected=protected,
            source=source,
            intensity_range=intensity_range,
            keep_logits=keep_logits,
            progress=progress,
            cancelled=cancelled,
        )
        return run.finish()[_ONLY]


class PropagationRun(Iterator[PropagatedSlice]):
    """Propagates segments in one pass and gives slices as they are made; it may be left at any time.

    Segments whose fronts come to a slice at the same time share its image. Where two claim a pixel, the larger logit
    decides, also if they come to the slice at different times: a slice may then be given again, without the pixels it
    lost. Accepted slices, and those kept from earlier results, keep their pixels.

    The slice that the most segments are ready for comes next; of equals, the one whose front has come least far from an
    accepted slice, and then the lowest. So all fronts advance alike. To correct a slice, leave off and start again with
    its mask among the accepted ones and `result` as `AnnotatedSegment.previous`.
    """

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        segments: Mapping[int, AnnotatedSegment],
        axis: int | str,
        *,
        config: PropagationConfig | None = None,
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
        intensity_range: IntensityRange | None = None,
        keep_logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Take segments by label, from 1; the other arguments, and the errors, are those of `Propagator.run`."""
        config = config or PropagationConfig()
        first = volume.slice(axis, 0)
        self._predictor, self._config, self._volume, self._axis = predictor, config, volume, first.axis
        self._progress, self._cancelled = progress, cancelled
        self._shape = (int(first.image.shape[0]), int(first.image.shape[1]))
        length = volume.shape[first.axis]
        if not segments:
            raise PromptError("There is no segment to propagate. Give one at least, with an accepted slice.")
        in_context = "context" in predictor.capabilities
        if not in_context and any(one.context for one in segments.values()):
            raise ConfigError(
                "The network in use takes no context sets, but one was given. Choose a network that segments in "
                "context, or leave the context out."
            )
        checked_range = _checked_range(index_range, length)
        self._protected = None if protected is None else _checked_protection(protected, volume, first.axis)
        self._states = [
            SegmentState(
                label,
                segments[label],
                axis=first.axis,
                axis_length=length,
                slice_shape=self._shape,
                index_range=checked_range,
                config=config,
                keep_logits=keep_logits,
            )
            for label in sorted(segments)
        ]
        self._spacing_mm = (volume.spacing_kji_mm[first.axis], *first.spacing_mm)
        self._intensity_range = intensity_range or IntensityRange.estimate(volume.array)
        self._source = source or f"volume {uuid.uuid4().hex}"
        unfinished = [state for state in self._states if state.remaining]
        images: dict[int, FloatArray] = {}
        self._contexts = {
            state.label: self._gathered_context(state, segments[state.label].context, images)
            for state in unfinished
            if in_context
        }
        self._appearance = {
            state.label: Appearance({index: self._inside(index, mask) for index, mask in state.accepted.items()})
            for state in unfinished
        }
        self._geodesic = {
            state.label: GeodesicPrior(
                volume,
                state.accepted,
                first.axis,
                intensity_range=self._intensity_range,
                scribbles=state.scribbles,
                cancelled=cancelled,
            )
            for state in unfinished
            if config.image_weight > 0
        }
        self._active_context: ContextSet | None = None
        self._takes_strokes = "scribbles" in predictor.capabilities
        self._draws_strokes = self._takes_strokes and not in_context
        self._claims: dict[int, dict[int, _Claim]] = {}
        self._ready: deque[PropagatedSlice] = deque()
        self._planned = self.remaining
        self._made = 0
        self._seconds = 0.0

    @property
    def remaining(self) -> int:
        """How many slices are left at most, those of each segment counted."""
        return sum(state.remaining for state in self._states)

    @property
    def made(self) -> int:
        """How many slices were predicted, those of each segment counted."""
        return self._made

    @property
    def slices_per_second(self) -> float:
        """Slices predicted for each second of work; 0 before the first."""
        return self._made / self._seconds if self._seconds > 0 else 0.0

    def __next__(self) -> PropagatedSlice:
        while not self._ready:
            due = self._next_spans()
            if not due or (self._cancelled is not None and self._cancelled()):
                raise StopIteration
            began = time.perf_counter()
            try:
                self._visit(*due)
            except CancelledError:
                raise StopIteration from None
            self._seconds += time.perf_counter() - began
            if self._progress is not None:
                done = 1.0 - self.remaining / self._planned
                self._progress(done, f"{self._made} slices, {self.slices_per_second:.1f} per second")
        return self._ready.popleft()

    def finish(self) -> dict[int, Propagation]:
        """Go on to the end, or until cancelled; returns the result of each segment by label."""
        for _ in self:
            pass
        return self.result()

    def result(self) -> dict[int, Propagation]:
        """What was done so far, by label; with slices left it counts as cancelled."""
        cancelled, speed = self.remaining > 0, self.slices_per_second
        results = [one.result(cancelled=cancelled, slices_per_second=speed) for one in self._states]
        return {one.label: dataclasses.replace(one, grid=self._volume.grid) for one in results}

    def _next_spans(self) -> tuple[int, dict[int, Span]] | None:
        """The slice that comes next, and the spans it belongs to by label."""
        due: dict[int, dict[int, Span]] = {}
        for state in self._states:
            for span in state.spans:
                if span.next_index is not None:
                    due.setdefault(span.next_index, {}).setdefault(state.label, span)
        if not due:
            return None
        index = min(due, key=lambda one: (-len(due[one]), min(span.depth for span in due[one].values()), one))
        return index, due[index]

    def _visit(self, index: int, spans: dict[int, Span]) -> None:
        piece = self._volume.slice(self._axis, index)
        states = {state.label: state for state in self._states if state.label in spans}
        chosen = {label: self._context_for(piece, label) for label in states if label in self._contexts}
        first = next(iter(chosen.values()), None)
        if first is not None and not self._is_active(first):
            self._set_context(None)  # else a context that is about to be replaced would be matched with the new image
        self._predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=self._intensity_range)
        found = {}
        for label, state in states.items():
            context = chosen.get(label)
            if context is not None and not self._is_active(context):
                self._set_context(context)
            found[label] = self._predict(state, spans[label], index)
        revised = self._share(index, states, spans, found)
        for label, state in states.items():
            result = state.settle(spans[label], found[label])
            self._made += 1
            if result is not None:
                self._ready.append(result)
                if found[label].mask.any() and len(self._states) > 1:
                    self._claims.setdefault(index, {})[label] = _Claim(found[label])
        self._ready.extend(revised)
        for done in list(self._claims):  # claims matter only where another segment may still come
            if not any(state.covers(done) for state in self._states if state.label not in self._claims[done]):
                del self._claims[done]

    def _predict(self, state: SegmentState, span: Span, index: int) -> SlicePrediction:
        """Predict one segment in the slice whose image the predictor has."""
        config = self._config
        prior = shape_prior(
            span.neighbours, index, spacing_mm=self._spacing_mm, config=config, area_ratio=span.area_ratio
        )
        prompts = Prompts.empty(self._shape).with_mask_input(prior.logits)
        scribbles = prior.strokes() if self._draws_strokes else None
        painted = state.scribbles(index) if self._takes_strokes else None
        if painted is not None:
            marked = painted.any(axis=0)
            scribbles = np.where(marked, painted, 0.0 if scribbles is None else scribbles).astype(np.float32)
        if scribbles is not None:
            prompts = dataclasses.replace(prompts, scribbles=scribbles)
        how: dict[str, Any] = {} if self._cancelled is None else {"cancelled": self._cancelled}
        logits = self._predictor.predict(prompts, **how).logits
        logits = logits + np.float32(config.prior_weight) * prior.logits
        geodesic = self._geodesic[state.label].in_slice(index) if self._geodesic else None
        if geodesic is not None:
            box, nearer = geodesic
            logits[box] += np.float32(config.image_weight) * nearer
        # Protected pixels, and what other segments have for certain.
        taken = [mask for other in self._states if other is not state if (mask := other.fixed_mask(index)) is not None]
        if self._protected is not None:
            taken.append(self._protected[index])
        forbidden = np.logical_or.reduce(taken) if taken else None
        appearance = self._appearance[state.label]
        return state.prediction(
            index, prior, logits, forbidden, lambda mask: appearance.likeness(index, self._inside(index, mask))
        )

    def _inside(self, index: int, mask: Mask) -> FloatArray:
        """The intensities of a slice in [0, 1] where a mask is."""
        return self._intensity_range.normalize(self._volume.slice(self._axis, index).image[mask])

    def _gathered_context(
        self, state: SegmentState, elsewhere: ContextSet | None, images: dict[int, FloatArray]
    ) -> ContextSet:
        """The accepted slices that show the structure, and entries from elsewhere; segments share `images`."""
        gathered = elsewhere if elsewhere is not None else ContextSet(state.name.strip() or "structure")
        for index, mask in state.accepted.items():
            if mask.any():
                piece = self._volume.slice(self._axis, index)
                if index not in images:
                    images[index] = validation.read_only(self._intensity_range.normalize(piece.image), np.float32)
                entry = ContextEntry(
                    images[index], mask, piece.spacing_mm, source=self._source, axis=self._axis, index=piece.index
                )
                gathered = gathered.add(entry)
        return gathered

    def _context_for(self, piece: SliceImage, label: int) -> ContextSet:
        """Choose the context of a slice; the same set as before where there is nothing to choose."""
        offered = self._contexts[label]
        if len(offered) <= self._config.context_limit:
            return offered
        chosen = offered.select(
            self._intensity_range.normalize(piece.image),
            spacing_mm=piece.spacing_mm,
            limit=self._config.context_limit,
            axis=self._axis,
            index=piece.index,
            source=self._source,
        )
        # In one order, so that the same choice in the next slice is recognised.
        taken = {entry.identifier for entry in chosen}
        return ContextSet(offered.label_name, tuple(entry for entry in offered if entry.identifier in taken))

    def _is_active(self, context: ContextSet) -> bool:
        """Whether the predictor has these entries already: encoding them is expensive."""
        active = self._active_context
        return active is not None and len(active) == len(context) and all(map(operator.is_, active, context))

    def _set_context(self, context: ContextSet | None) -> None:
        self._predictor.set_context(context)
        self._active_context = context

    def _share(
        self,
        index: int,
        states: Mapping[int, SegmentState],
        spans: Mapping[int, Span],
        found: dict[int, SlicePrediction],
    ) -> list[PropagatedSlice]:
        """Give every pixel that several segments claim to the largest logit; returns earlier slices that lost some.

        A segment whose slice is rejected claims nothing, and pixels are shared again without it. One that leaks is
        rejected first, since it may be why others find nothing.
        """
        held = {label: claim.logits(self._shape) for label, claim in self._claims.get(index, {}).items()}
        active = dict(states)
        while len(active) + len(held) > 1:
            lost = _lost_pixels(
                held | {label: _logits_inside(found[label]) for label in active}, self._config.threshold
            )
            settled = {label: state.without(found[label], lost[label]) for label, state in active.items()}
            rejected = {
                label: (reason is StopReason.UNCERTAIN, one.prior.out_of_reach(one.mask))
                for label, one in settled.items()
                if (reason := spans[label].check(one)) is not None and one.mask.any()
            }
            if not rejected:
                found.update(settled)
                revised = [one.release_pixels(index, lost[one.label]) for one in self._states if one.label in held]
                return [one for one in revised if one is not None]
            worst = max(rejected, key=lambda label: rejected[label])
            found[worst] = settled[worst]
            del active[worst]
        return []


class _Claim:
    """Logits of a segment in a slice that other segments may still come to; only where its mask is."""

    def __init__(self, found: SlicePrediction) -> None:
        self._box = box_of(found.mask)
        self._logits = _logits_inside(found)[self._box].astype(np.float16)

    def logits(self, shape: tuple[int, int]) -> FloatArray:
        whole = np.full(shape, -np.inf, np.float32)
        whole[self._box] = self._logits
        return whole


def _lost_pixels(claims: Mapping[int, FloatArray], threshold: float) -> dict[int, Mask]:
    """Which pixels, bool (H, W), each segment loses to others, by logits that are -inf where it claims nothing."""
    labels = sorted(claims)
    winners = resolve_labels(np.stack([claims[label] for label in labels]), threshold)
    return {label: (winners != number) & (winners > 0) for number, label in enumerate(labels, start=1)}


def _logits_inside(found: SlicePrediction) -> FloatArray:
    return np.where(found.mask, found.logits, np.float32(-np.inf))


def _checked_range(index_range: tuple[int, int] | None, length: int) -> tuple[int, int]:
    if index_range is None:
        return 0, length
    start, stop = validation.whole_numbers(index_range, 2, name="The range of slices")
    if not start < stop <= length:
        raise GeometryError(
            f"The range of slices from {start} to {stop} (excluded) is empty or outside the volume; choose from 0 to "
            f"{length}."
        )
    return start, stop


def _checked_protection(protected: Mask, volume: Volume, axis: int) -> Mask:
    """Bring the slices of protected voxels to the front, without copying."""
    array = validation.image_array(protected, ndim=(3,), name="protected")
    if array.dtype != np.bool_:
        raise ImageError(f"protected holds {array.dtype} values, expected bool: (labels > 0).")
    validation.same_shape(array.shape, volume.shape, name="protected", reference="the volume")
    return np.moveaxis(array, axis, 0)
