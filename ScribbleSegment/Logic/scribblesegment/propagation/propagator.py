"""One pass through a volume: slice by slice, all segments that are ready in a slice together."""

from __future__ import annotations

import dataclasses
import operator
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data import validation
from scribblesegment.data.masks import resolve_labels
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import SliceImage, Volume
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation.config import (
    AnnotatedSegment,
    FloatArray,
    Mask,
    PropagatedSlice,
    Propagation,
    PropagationConfig,
    StopReason,
)
from scribblesegment.propagation.evidence import ImageEvidence
from scribblesegment.propagation.expectation import Expectation, SliceSpacing, expect
from scribblesegment.propagation.fronts import Draft, SegmentState, Stretch

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor


_UNNAMED = "structure"


class SegmentContext:
    """Gathers the context of one segment and chooses from it for each slice.

    Accepted slices without the structure are not shown: they say where to stop, which is not left to the network.
    """

    def __init__(
        self,
        volume: Volume,
        accepted: Mapping[int, Mask],
        axis: int,
        *,
        name: str,
        elsewhere: ContextSet | None,
        source: str,
        intensity_range: IntensityRange,
        config: PropagationConfig,
    ) -> None:
        """Take the accepted slices of `volume` along `axis` and the context from elsewhere, which they may replace."""
        self._axis, self._source, self._intensity_range, self._config = axis, source, intensity_range, config
        gathered = elsewhere if elsewhere is not None else ContextSet(name.strip() or _UNNAMED)
        shown = {index: mask for index, mask in accepted.items() if mask.any()}
        for index, mask in shown.items():
            gathered = gathered.add(self._entry(volume.slice(axis, index), mask))
        self._gathered = gathered
        # Fronts advance in turn, two in each stretch: each keeps about as many of its own slices as are used.
        self._propagated: deque[ContextEntry] = deque(maxlen=2 * (len(shown) + 1) * config.propagated_context)

    def add(self, piece: SliceImage, mask: Mask, confidence: float) -> None:
        """Offer a propagated slice, which joins the context if it shows the structure with enough confidence."""
        wanted = self._config.propagated_context > 0 and confidence >= self._config.context_confidence
        if wanted and mask.any():
            self._propagated.append(self._entry(piece, mask))

    def select(self, piece: SliceImage) -> ContextSet:
        """Choose the context of a slice; the same set as before where there is nothing to choose."""
        near = sorted(self._propagated, key=lambda entry: abs((entry.index or 0) - piece.index))
        offered = self._gathered
        for entry in near[: self._config.propagated_context]:
            offered = offered.add(entry)
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
        # In one order, so that the same choice in the next slice is seen to be the same.
        taken = {entry.identifier for entry in chosen}
        return ContextSet(offered.label_name, tuple(entry for entry in offered if entry.identifier in taken))

    def _entry(self, piece: SliceImage, mask: Mask) -> ContextEntry:
        image = self._intensity_range.normalize(piece.image)
        return ContextEntry(image, mask, piece.spacing_mm, source=self._source, axis=self._axis, index=piece.index)


@dataclass(frozen=True, eq=False)
class _Task:
    """A stretch whose next slice is due."""

    state: SegmentState
    stretch: Stretch


class PropagationRun(Iterator[PropagatedSlice]):
    """Gives slices as they are made; made by `scribblesegment.Propagator`.

    The slice that the most segments are ready for comes next; of equals, the one whose front has come least far from an
    accepted slice, and then the lowest. So all fronts advance alike, and what was done when a run is left is the part
    nearest to the accepted slices.

    It may be left at any time: `result` tells what was done so far.
    """

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        axis: int,
        states: Sequence[SegmentState],
        contexts: Mapping[int, ContextSet | None],
        *,
        config: PropagationConfig,
        protected: Mask | None,
        source: str,
        progress: Callable[[float, str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        """Begin with nothing done. `states` are sorted by label, `protected` is bool (slices, H, W)."""
        self._predictor, self._volume, self._axis, self._states = predictor, volume, axis, states
        self._config, self._protected = config, protected
        self._progress, self._cancelled = progress, cancelled
        first = volume.slice(axis, 0)
        self._shape = (int(first.image.shape[0]), int(first.image.shape[1]))
        self._spacing = SliceSpacing(first.spacing_mm, volume.spacing_kji_mm[axis])
        self._intensity_range = IntensityRange.estimate(volume.array)
        in_context = "context" in predictor.capabilities
        self._contexts = {
            state.label: SegmentContext(
                volume,
                state.accepted,
                axis,
                name=state.name,
                elsewhere=contexts[state.label],
                source=source,
                intensity_range=self._intensity_range,
                config=config,
            )
            for state in states
            if in_context and state.remaining
        }
        self._evidence = {
            state.label: ImageEvidence(volume, state.accepted, axis, intensity_range=self._intensity_range)
            for state in states
            if config.image_weight > 0 and state.remaining
        }
        self._shown: ContextSet | None = None
        can_draw = "scribbles" in predictor.capabilities and not in_context
        self._draws_strokes = config.strokes == "always" or (config.strokes == "auto" and can_draw)
        self._claims: dict[int, dict[int, _Claim]] = {}
        self._ready: deque[PropagatedSlice] = deque()
        self._planned = sum(state.remaining for state in states)
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
            tasks = self._next_tasks()
            if not tasks or (self._cancelled is not None and self._cancelled()):
                raise StopIteration
            began = time.perf_counter()
            self._visit(tasks)
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
        """Tell what was done so far, by label; with slices left it counts as cancelled."""
        cancelled = self.remaining > 0
        return {
            state.label: state.result(cancelled=cancelled, slices_per_second=self.slices_per_second)
            for state in self._states
        }

    def _next_tasks(self) -> list[_Task]:
        """The stretches that are worked on next: those whose next slice is the same, at most one of each segment."""
        due: dict[int, list[tuple[int, _Task]]] = {}
        for state in self._states:
            for stretch in state.stretches:
                if stretch.next_index is not None:
                    due.setdefault(stretch.next_index, []).append((stretch.depth, _Task(state, stretch)))
        if not due:
            return []
        index = min(due, key=lambda one: (-len(due[one]), min(depth for depth, _ in due[one]), one))
        return [task for _, task in due[index]]

    def _visit(self, tasks: Sequence[_Task]) -> None:
        index = tasks[0].stretch.next_index
        if index is None:
            return
        piece = self._volume.slice(self._axis, index)
        chosen = {label: self._contexts[label].select(piece) for label in self._labels_in_context(tasks)}
        first = next(iter(chosen.values()), None)
        if first is not None and not self._is_shown(first):
            self._show(None)  # else a context that is about to be replaced would be matched with the new image
        self._predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=self._intensity_range)
        drafts = {}
        for task in tasks:
            context = chosen.get(task.state.label)
            if context is not None and not self._is_shown(context):
                self._show(context)
            drafts[task.state.label] = self._draft(task, piece)
        revised = self._share(index, tasks, drafts)
        for task in tasks:
            draft = drafts[task.state.label]
            found = task.state.take_over(task.stretch, draft)
            self._made += 1
            if found is None:
                continue
            self._ready.append(found)
            if task.state.label in self._contexts:
                self._contexts[task.state.label].add(piece, draft.mask, draft.confidence)
            if draft.mask.any() and len(self._states) > 1:
                self._claims.setdefault(index, {})[task.state.label] = _Claim.of(draft)
        self._ready.extend(revised)
        self._forget_claims()

    def _draft(self, task: _Task, piece: SliceImage) -> Draft:
        """Predict one segment in the slice whose image the predictor has."""
        config, stretch = self._config, task.stretch
        expectation = expect(
            stretch.neighbours, piece.index, spacing=self._spacing, config=config, area_ratio=stretch.area_ratio
        )
        prediction = self._predictor.predict(self._prompts(expectation))
        logits = prediction.logits + np.float32(config.expected_weight) * expectation.logits
        evidence = self._evidence[task.state.label].in_slice(piece.index) if self._evidence else None
        if evidence is not None:
            box, nearer = evidence
            logits[box] += np.float32(config.image_weight) * nearer
        return task.state.draft(piece.index, expectation, logits, self._forbidden(task.state, piece.index))

    def _labels_in_context(self, tasks: Sequence[_Task]) -> list[int]:
        return [task.state.label for task in tasks if task.state.label in self._contexts]

    def _is_shown(self, context: ContextSet) -> bool:
        """Whether the predictor has these entries already: what a network makes of them is expensive."""
        shown = self._shown
        return shown is not None and len(shown) == len(context) and all(map(operator.is_, shown, context))

    def _show(self, context: ContextSet | None) -> None:
        self._predictor.set_context(context)
        self._shown = context

    def _prompts(self, expectation: Expectation) -> Prompts:
        prompts = Prompts.empty(expectation.logits.shape).with_mask_input(expectation.logits)
        return dataclasses.replace(prompts, scribbles=expectation.strokes()) if self._draws_strokes else prompts

    def _forbidden(self, state: SegmentState, index: int) -> Mask | None:
        """Pixels that may not be segmented: protected ones, and what other segments have for certain."""
        taken = [other.fixed_mask(index) for other in self._states if other is not state]
        if self._protected is not None:
            taken.append(self._protected[index])
        masks = [mask for mask in taken if mask is not None]
        return np.logical_or.reduce(masks) if masks else None

    def _share(self, index: int, tasks: Sequence[_Task], drafts: dict[int, Draft]) -> list[PropagatedSlice]:
        """Give every pixel that several segments claim to the largest logit; returns earlier slices that lost some.

        A segment whose slice is refused claims nothing; they are shared again without it. One that leaks is refused
        first, since it may be why others find nothing.
        """
        held = {label: claim.whole(self._shape) for label, claim in self._claims.get(index, {}).items()}
        active = {task.state.label: task for task in tasks}
        while len(active) + len(held) > 1:
            claims = held | {label: _logits_inside(drafts[label]) for label in active}
            lost = _lost_pixels(claims, self._config.threshold)
            settled = {label: task.state.without(drafts[label], lost[label]) for label, task in active.items()}
            refused = {
                label: (reason is StopReason.UNCERTAIN, draft.expectation.out_of_reach(draft.mask))
                for label, draft in settled.items()
                if (reason := active[label].stretch.judge(draft)) is not None and draft.mask.any()
            }
            if not refused:
                drafts.update(settled)
                revised = [state.give_up(index, lost[state.label]) for state in self._states if state.label in held]
                return [one for one in revised if one is not None]
            worst = max(refused, key=lambda label: refused[label])
            drafts[worst] = settled[worst]
            del active[worst]
        return []

    def _forget_claims(self) -> None:
        """Keep claims only in slices that another segment may still come to."""
        for index in list(self._claims):
            claiming = self._claims[index]
            if not any(state.covers(index) for state in self._states if state.label not in claiming):
                del self._claims[index]


@dataclass(frozen=True, eq=False)
class _Claim:
    """Logits of a segment in a slice that other segments may still come to; only where its mask is."""

    box: tuple[slice, slice]
    logits: NDArray[np.float16]

    @classmethod
    def of(cls, draft: Draft) -> _Claim:
        rows, columns = np.flatnonzero(draft.mask.any(axis=1)), np.flatnonzero(draft.mask.any(axis=0))
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        return cls(box, _logits_inside(draft)[box].astype(np.float16))

    def whole(self, shape: tuple[int, ...]) -> FloatArray:
        logits = np.full(shape, -np.inf, np.float32)
        logits[self.box] = self.logits
        return logits


def _lost_pixels(claims: Mapping[int, FloatArray], threshold: float) -> dict[int, Mask]:
    """Which pixels, bool (H, W), each segment loses to others, by logits that are -inf where it claims nothing."""
    labels = sorted(claims)
    winners = resolve_labels(np.stack([claims[label] for label in labels]), threshold)
    return {label: (winners != number) & (winners > 0) for number, label in enumerate(labels, start=1)}


def _logits_inside(draft: Draft) -> FloatArray:
    return np.where(draft.mask, draft.logits, np.float32(-np.inf))


_ONLY = 1  # the label of a segment that is propagated alone


class Propagator:
    """Propagates accepted slices through volumes.

    A predictor that takes no context sets works too: it is given strokes through the expected shape and around it,
    besides the neighbour's logits (`PropagationConfig.strokes`).

    The predictor is left with the image and context of the last slice. Whoever shares it sets their own again.
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
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
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
            index_range: Half-open range of slices that may be segmented; all by default.
            protected: bool (K, J, I), voxels that are not segmented: other segments, or what is masked.
            source: Name of the volume, as in the entries of `context`; needed if these may show slices of it.
            keep_logits: Whether the slices of the result have their logits, 4 bytes a pixel.
            progress: Told the part done and a text with the speed after each slice.
            cancelled: Asked before each slice whether to stop; what is done is kept.

        Raises:
            PromptError: No accepted slice shows the structure.
            GeometryError: An unknown axis, a slice or range outside the volume, or a shape that does not fit.
            ImageError: An accepted mask or the protection is no mask.
            ConfigError: Context for a network that takes none, or an earlier result of something else.
        """
        run = self.iterate_segments(
            volume,
            {_ONLY: AnnotatedSegment(annotated, label_name, context, previous)},
            axis,
            index_range=index_range,
            protected=protected,
            source=source,
            keep_logits=keep_logits,
            progress=progress,
            cancelled=cancelled,
        )
        return run.finish()[_ONLY]

    def iterate(
        self,
        volume: Volume,
        annotated: Mapping[int, Mask],
        axis: int | str,
        *,
        label_name: str = "",
        context: ContextSet | None = None,
        previous: Propagation | None = None,
        **options: Any,
    ) -> PropagationRun:
        """Propagate one segment, slice by slice; as `run`, with its further options.

        Returns:
            An iterator of slices, whose `result` may be asked for at any time. To hand in a correction, leave off and
            start again with the mask added to `annotated` and the result as `previous`.
        """
        segments = {_ONLY: AnnotatedSegment(annotated, label_name, context, previous)}
        return self.iterate_segments(volume, segments, axis, **options)

    def iterate_segments(
        self,
        volume: Volume,
        segments: Mapping[int, AnnotatedSegment],
        axis: int | str,
        *,
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
        keep_logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> PropagationRun:
        """Propagate several segments in one pass, slice by slice.

        Segments whose fronts come to a slice at the same time share its image. Where two claim a pixel, the larger
        logit decides, also if they come to the slice at different times: a slice may then be given again, without the
        pixels it lost. Accepted slices, and those kept from earlier results, keep their pixels.

        Args:
            volume: The image.
            segments: By label, from 1; their order does not matter.
            axis: Axis of the array, 0, 1, 2 or "k", "j", "i".
            index_range: See `run`.
            protected: See `run`.
            source: See `run`.
            keep_logits: See `run`.
            progress: See `run`.
            cancelled: See `run`.

        Raises:
            ScribbleSegmentError: As `run`. Also PromptError without any segment.
        """
        first = volume.slice(axis, 0)
        length, shape = volume.shape[first.axis], (int(first.image.shape[0]), int(first.image.shape[1]))
        if not segments:
            raise PromptError("There is no segment to propagate. Give one at least, with an accepted slice.")
        if "context" not in self.predictor.capabilities and any(one.context for one in segments.values()):
            raise ConfigError(
                "The network in use takes no context sets, but one was given. Choose a network that segments in "
                "context, or leave the context out."
            )
        checked_range = _checked_range(index_range, length)
        states = [
            SegmentState(
                label,
                segments[label],
                axis=first.axis,
                axis_length=length,
                slice_shape=shape,
                index_range=checked_range,
                config=self.config,
                keep_logits=keep_logits,
            )
            for label in sorted(segments)
        ]
        return PropagationRun(
            self.predictor,
            volume,
            first.axis,
            states,
            {label: segment.context for label, segment in segments.items()},
            config=self.config,
            protected=_checked_protection(protected, volume, first.axis),
            source=source or f"volume {uuid.uuid4().hex}",
            progress=progress,
            cancelled=cancelled,
        )


def _checked_range(index_range: tuple[int, int] | None, length: int) -> tuple[int, int]:
    if index_range is None:
        return 0, length
    try:
        start, stop = (operator.index(bound) for bound in index_range)
    except (TypeError, ValueError) as cause:
        raise GeometryError(
            f"The range of slices is {index_range!r}; give two whole numbers, start and stop."
        ) from cause
    if not 0 <= start < stop <= length:
        raise GeometryError(
            f"The range of slices from {start} to {stop} (excluded) is empty or outside the volume; choose from 0 to "
            f"{length}."
        )
    return start, stop


def _checked_protection(protected: Mask | None, volume: Volume, axis: int) -> Mask | None:
    """Bring the slices of protected voxels to the front, without copying."""
    if protected is None:
        return None
    array = validation.image_array(protected, ndim=(3,), name="protected")
    if array.dtype != np.bool_:
        raise ImageError(f"protected holds {array.dtype} values, expected bool: (labels > 0).")
    validation.same_shape(array.shape, volume.shape, name="protected", reference="the volume")
    return np.moveaxis(array, axis, 0)
