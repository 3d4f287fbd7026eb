"""A propagation under way: takes slices as they come and writes them, all of them as one undo step."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkOrientedImageData, vtkOrientedImageDataResample

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.data.masks import CleanUp
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.geometry import ReferenceGeometry
from scribblesegment.mrml.labelmaps import (
    is_empty,
    layers,
    on_lattice,
    overlap,
    segment_on_plane,
    segments_on_plane,
    visible_other_segments,
    voxels_of,
)
from scribblesegment.mrml.masking import in_intensity_range, mask_segments, masking_image
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import AcceptedSlices, accepted_text, read_accepted, read_tag, write_accepted, write_tag
from scribblesegment.mrml.target import EditTarget, grid_slice, resolve_target, shown_slice, source_name, target_of
from scribblesegment.mrml.writer import write_slices
from scribblesegment.propagation import AnnotatedSegment
from scribblesegment.service.service import InferenceService, PropagationJob
from scribblesegment.service.worker import Progress

if TYPE_CHECKING:
    from scribblesegment.propagation import PropagatedSlice, Propagation, PropagationEnd


def forbidden_voxels(
    target: EditTarget, segment_ids: Sequence[str], protect: Sequence[str]
) -> NDArray[np.bool_] | None:
    """Where segments may not grow, by masking settings and protected segments.

    Args:
        target: One of the segments that are edited together.
        segment_ids: Identifiers of all of them; they do not limit each other.
        protect: Identifiers of segments that must not change.

    Returns:
        bool (K, J, I) on the target's grid, or None when nothing is forbidden.

    Raises:
        ImageError: A segment cannot be converted to a label map.
    """
    node, editor_node, reference = target.segmentation_node, target.editor_node, target.reference
    limiting, inside = mask_segments(node, editor_node, segment_ids)
    protected = [other for other in protect if other not in segment_ids]
    forbidden: NDArray[np.bool_] | None = None
    if inside:
        forbidden = ~segments_in_volume(node, limiting, reference)
    elif limiting:
        forbidden = segments_in_volume(node, limiting, reference)
    if protected:
        kept = segments_in_volume(node, protected, reference)
        forbidden = kept if forbidden is None else np.logical_or(forbidden, kept, out=forbidden)
    if editor_node.GetSourceVolumeIntensityMask():
        outside = ~in_intensity_range(editor_node, masking_image(target.source.masking_array, reference))
        forbidden = outside if forbidden is None else np.logical_or(forbidden, outside, out=forbidden)
    return forbidden


def segments_in_volume(
    segmentation_node: Any, segment_ids: Sequence[str], reference: ReferenceGeometry
) -> NDArray[np.bool_]:
    """Which voxels of the whole grid belong to any of several segments, bool (K, J, I).

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    belongs = np.zeros(reference.grid.shape, bool)
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        if is_empty(labelmap):
            continue
        fitting = labelmap if on_lattice(labelmap, reference) else _resampled(labelmap, reference)
        here, there = overlap(fitting.GetExtent(), reference.extent)
        values = voxels_of(fitting)[here]
        for label in labels.values():
            belongs[there] |= values == label
    return belongs


def _resampled(labelmap: Any, reference: ReferenceGeometry) -> Any:
    resampled = vtkOrientedImageData()
    vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        labelmap, reference.image, resampled, False, False
    )
    return resampled


TAG = "ScribbleSegment.Propagation"


# Those of 300 slices of 512 x 512 pixels take 20 MB.
_MOST_RUNS = 8


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a propagation left in one segment.

    Attributes:
        run_id: Of the propagation.
        segment_id: Of the segment.
        made_from: What must be equal for its slices to be used again: image, grid, network, settings.
        result: Its slices and what they were made from.
        content: The segment on each slice that it wrote, packed, by index; see `packed_content`.
    """

    run_id: str
    segment_id: str
    made_from: Hashable
    result: Propagation
    content: Mapping[int, NDArray[np.uint8]]

    def as_previous(self, label: int) -> Propagation:
        """Its result under a label, with only the slices that are in the segment."""
        slices = {
            index: dataclasses.replace(found, label=label)
            for index, found in self.result.slices.items()
            if index in self.content
        }
        return dataclasses.replace(self.result, label=label, slices=slices)

    def edited_by_hand(self, target: EditTarget) -> list[int]:
        """Slices that the user has changed since by other means; what other segments have taken does not count."""
        edited = []
        for index, before in self.content.items():
            plane = grid_slice(target.reference.grid, self.result.axis, index)
            now = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
            if np.array_equal(np.packbits(now), before):
                continue
            then = np.unpackbits(before, count=now.size).reshape(now.shape).astype(bool)
            others = [
                other
                for other in target.segmentation_node.GetSegmentation().GetSegmentIDs()
                if other != target.segment_id
            ]
            taken = segments_on_plane(target.segmentation_node, others, target.reference, plane)
            if (now & ~then).any() or (then & ~now & ~taken).any():
                edited.append(index)
        return edited


class PropagationHistory:
    """The newest propagations."""

    def __init__(self) -> None:
        self._runs: list[FinishedRun] = []

    def add(self, run: FinishedRun) -> None:
        """Remember one; the oldest beyond the limit are forgotten."""
        self._runs = [*self._runs[-(_MOST_RUNS - 1) :], run]

    def of(self, target: EditTarget, axis: int, made_from: Hashable) -> FinishedRun | None:
        """The one whose slices a segment shows, if it was made along the axis and from the same."""
        run_id = run_of(target.segment)
        return next(
            (
                run
                for run in self._runs
                if (run.run_id, run.segment_id, run.result.axis, run.made_from)
                == (run_id, target.segment_id, axis, made_from)
            ),
            None,
        )

    def forget(self) -> None:
        """Let go of all, as when the scene closes."""
        self._runs.clear()


def packed_content(target: EditTarget, axis: int, index: int) -> NDArray[np.uint8]:
    """The segment on a slice of its grid, eight pixels a byte."""
    plane = grid_slice(target.reference.grid, axis, index)
    return np.packbits(segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane))


def run_of(segment: Any) -> str:
    """Identifier of the propagation that a vtkSegment shows; empty for none."""
    return read_tag(segment, TAG)


def note_run(segment: Any, run_id: str) -> None:
    """Store with a vtkSegment which propagation it shows."""
    write_tag(segment, TAG, run_id)


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PropagationOptions:
    """What the user set for propagating.

    Attributes:
        index_range: Half-open range of slices that may be segmented; None for all.
        protect_visible: Visible other segments are never overwritten.
        clean_up: Threshold, holes and islands as for single slices.
        model: What the slices are predicted with; slices of another one are not built on.
    """

    index_range: tuple[int, int] | None = None
    protect_visible: bool = True
    clean_up: CleanUp = field(default_factory=CleanUp)
    model: str = ""


@dataclass(frozen=True, eq=False)
class SegmentPlan:
    """What is to be done for one segment.

    Attributes:
        target: The segment.
        accepted: Its accepted slices, those edited by hand since the last propagation among them.
        masks: bool (H, W) of those along the axis, by index.
        frozen: bool (H, W), pixels of every slice of the axis that lie in slices accepted along other axes.
        finished: The propagation that is built on, or None.
    """

    target: EditTarget
    accepted: AcceptedSlices
    masks: dict[int, Mask]
    frozen: Mask
    finished: FinishedRun | None


@dataclass(frozen=True, eq=False)
class PropagationPlan:
    """What is to be done.

    Attributes:
        axis: Axis of the array.
        segments: By label.
        protect: Identifiers of segments that must not change.
        options: The user's settings.
        made_from: See `FinishedRun`.
        job: What the inference thread is given.
    """

    axis: int
    segments: dict[int, SegmentPlan]
    protect: tuple[str, ...]
    options: PropagationOptions
    made_from: Hashable
    job: PropagationJob


def plan_propagation(
    targets: Sequence[EditTarget],
    axis: int,
    options: PropagationOptions,
    *,
    context_of: Callable[[EditTarget], ContextSet | None],
    history: PropagationHistory,
) -> PropagationPlan:
    """Plan to propagate segments of one segmentation along an axis; segments without an accepted slice are left out.

    Raises:
        PromptError: No segment has an accepted slice along the axis that shows it.
        GeometryError: The range of slices is empty, or slices along the axis are sheared.
        FileFormatError: The list of accepted slices of a segment cannot be read.
    """
    first = targets[0]
    index_range = _checked_range(options.index_range, first.reference.grid.shape[axis])
    made_from = (first.source.token, options.model, options.clean_up.threshold)
    plans = [_segment_plan(target, axis, history.of(target, axis, made_from)) for target in targets]
    segments = {
        label: plan
        for label, plan in enumerate((p for p in plans if any(mask.any() for mask in p.masks.values())), start=1)
    }
    if not segments:
        raise PromptError(_nothing_accepted(plans))
    identifiers = [plan.target.segment_id for plan in segments.values()]
    protect: list[str] = []
    if options.protect_visible:
        visible = visible_other_segments(first.segmentation_node, "")
        protect = [other for other in visible if other not in identifiers]
    job = PropagationJob(
        Volume(first.source.array, first.reference.grid.ijk_to_mm),
        axis,
        {
            label: AnnotatedSegment(
                plan.masks,
                plan.target.segment.GetName(),
                context_of(plan.target),
                None if plan.finished is None else plan.finished.as_previous(label),
            )
            for label, plan in segments.items()
        },
        index_range=index_range,
        protected=forbidden_voxels(first, identifiers, protect),
        source=source_name(first),
        threshold=options.clean_up.threshold,
    )
    return PropagationPlan(axis, segments, tuple(protect), options, made_from, job)


def _segment_plan(target: EditTarget, axis: int, finished: FinishedRun | None) -> SegmentPlan:
    accepted = read_accepted(target.segment, target.reference.grid)
    if finished is not None:
        by_hand = [index for index in finished.edited_by_hand(target) if not accepted.holds(axis, index)]
        accepted = accepted.added(axis, *by_hand)
    masks = {
        index: segment_on_plane(
            target.segmentation_node,
            target.segment_id,
            target.reference,
            grid_slice(target.reference.grid, axis, index),
        )
        for index in accepted.indices[axis]
    }
    return SegmentPlan(target, accepted, masks, _frozen(accepted, axis), finished)


def _frozen(accepted: AcceptedSlices, axis: int) -> Mask:
    """Rows and columns of a slice of the axis in which it meets slices accepted along the two other axes."""
    row_axis, column_axis = (other for other in range(3) if other != axis)
    shape = accepted.grid.shape
    frozen = np.zeros((shape[row_axis], shape[column_axis]), bool)
    frozen[list(accepted.indices[row_axis]), :] = True
    frozen[:, list(accepted.indices[column_axis])] = True
    return frozen


def _checked_range(index_range: tuple[int, int] | None, length: int) -> tuple[int, int] | None:
    if index_range is None:
        return None
    start, stop = max(index_range[0], 0), min(index_range[1], length)
    if start >= stop:
        raise GeometryError(
            f"The range from slice {index_range[0]} to {index_range[1] - 1} holds no slice of the volume, which has "
            f"those from 0 to {length - 1} along this axis. Choose another range."
        )
    return start, stop


def _nothing_accepted(plans: Sequence[SegmentPlan]) -> str:
    names = ", ".join(repr(plan.target.segment.GetName()) for plan in plans)
    elsewhere = any(not plan.accepted.is_empty for plan in plans)
    return (
        f"No slice of {names} is accepted in this direction"
        + (", only in others. Choose the view the slices were accepted in" if elsewhere else "")
        + ". Segment a slice with a stroke, or press 'Accept slice' where the segment is right, and propagate then."
    )


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


# Slices are written together, and so rarely that writing and showing them takes a fifth of the time at most: where a
# surface is shown, one write takes seconds.
_LEAST_PAUSE_S = 0.2

_PAUSE_PER_WRITE = 4.0


_SURE_LOGIT = np.float32(20.0)


@dataclass(frozen=True)
class TaskUpdate:
    """What a look at a propagation brought.

    Attributes:
        changed: Whether a segment changed.
        problem: What went wrong and what to do about it, or None.
    """

    changed: bool = False
    problem: str | None = None


class PropagationTask:
    """Writes what a propagation brings, until it is done, stopped, or pointless.

    It is pointless once its segments are gone, another image was chosen, or its own undo step was taken back, which is
    seen by the segments' tags.
    """

    def __init__(
        self,
        plan: PropagationPlan,
        inference: InferenceService,
        *,
        save_state: Callable[[], object],
        images: SourceImages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            plan: What to do.
            inference: Where it is computed.
            save_state: Saves Slicer's undo state; called once, before anything changes.
            images: Where the image on the segmentation's grid is kept.
            clock: Seconds.
        """
        self.plan = plan
        self._save_state, self._images, self._clock = save_state, images, clock
        self._run_id = uuid.uuid4().hex
        self._pending: dict[tuple[int, int], PropagatedSlice] = {}
        self._expected: dict[int, str] = {
            label: accepted_text(one.target.segment) for label, one in plan.segments.items()
        }
        self._begun = self._closed = self._undone = self._complete = False
        self._next_write = clock()
        self._written: dict[int, set[int]] = {label: set() for label in plan.segments}
        self._content: dict[int, dict[int, NDArray[np.uint8]]] = {}
        self.task = inference.propagate(plan.job)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come or be written."""
        return self._closed and self.task.done

    def poll(self) -> TaskUpdate:
        """Take slices and write them when it is time."""
        if self._closed:
            return TaskUpdate()
        ended = self.task.done
        self._pending.update({(made.label, made.index): made for made in self.task.take()})
        if not ended and (not self._pending or self._clock() < self._next_write):
            return self._abandoned() if self._undone_meanwhile() else TaskUpdate()
        try:
            changed = self._write(finished=ended)
        except ScribbleSegmentError as error:
            self._close()
            return TaskUpdate(problem=f"{error} What was propagated until then is kept.")
        problem = self.task.exception() if ended else None
        if ended and not self._closed:
            results = (self.task.value or {}).values()
            self._complete = problem is None and not any(result.cancelled for result in results)
            self._close()
        if isinstance(problem, CancelledError):  # the service was ended before it began
            problem = None
        return TaskUpdate(changed, None if problem is None else str(problem))

    def stop(self) -> bool:
        """End it and keep what is done. Returns whether a segment changed."""
        if self._closed:
            return False
        self.task.cancel()
        self._pending.update({(made.label, made.index): made for made in self.task.take()})
        try:
            return self._write(finished=False)
        except ScribbleSegmentError:
            return False  # what it was about has gone
        finally:
            self._close()

    def drop(self) -> None:
        """End it and write nothing more, as when the scene closes."""
        self.task.cancel()
        self._closed = True

    def report(self) -> PropagationReport:
        """Tell what became of it; complete once `ended`."""
        results = self.task.value or {}
        return PropagationReport(
            self.plan.axis,
            tuple(self._segment_report(label, one, results.get(label)) for label, one in self.plan.segments.items()),
            max((result.slices_per_second for result in results.values()), default=0.0),
            cancelled=not self._complete,
            undone=self._undone,
        )

    def finished_runs(self) -> list[FinishedRun]:
        """What it left in each segment, to be built on."""
        return [
            FinishedRun(self._run_id, one.target.segment_id, self.plan.made_from, result, self._content[label])
            for label, one in self.plan.segments.items()
            if label in self._content and (result := (self.task.value or {}).get(label)) is not None
        ]

    # ------------------------------------------------------------------------------------------------------------

    def _undone_meanwhile(self) -> bool:
        """Whether segments are no longer what this goes on from; segments that were removed are left out."""
        return any(
            accepted_text(one.target.segment) != self._expected[label]
            or (self._begun and run_of(one.target.segment) != self._run_id)
            for label, one in self._existing()
        )

    def _existing(self) -> list[tuple[int, SegmentPlan]]:
        return [(label, one) for label, one in self.plan.segments.items() if one.target.exists]

    def _abandoned(self) -> TaskUpdate:
        self._undone = True
        self.drop()
        return TaskUpdate()

    def _write(self, *, finished: bool) -> bool:
        """Write what has come; with `finished`, also take out what an earlier propagation had and this one has not."""
        existing = self._existing()
        if not existing:
            self.drop()
            return False
        if self._undone_meanwhile():
            self._abandoned()
            return False
        self._check_image(existing[0][1])
        work = {label: self._masks(label, one, finished=finished) for label, one in existing}
        self._pending.clear()
        if not any(work.values()):
            return False
        began = self._clock()
        self._begin(existing)
        changed = False
        for label, one in existing:
            masks = [(plane, self._allowed(label, one, plane, mask)) for plane, mask in work[label]]
            changed |= write_slices(one.target, masks, protect=self.plan.protect)
        now = self._clock()
        self._next_write = now + max(_LEAST_PAUSE_S, _PAUSE_PER_WRITE * (now - began))
        return changed

    def _begin(self, existing: list[tuple[int, SegmentPlan]]) -> None:
        if self._begun:
            return
        self._save_state()
        self._begun = True
        for label, one in existing:
            write_accepted(one.target.segment, one.accepted)
            self._expected[label] = accepted_text(one.target.segment)
            note_run(one.target.segment, self._run_id)

    def _masks(self, label: int, one: SegmentPlan, *, finished: bool) -> list[tuple[SlicePlane, Mask]]:
        """Planes and masks (H, W) to write now."""
        grid = one.target.reference.grid
        found = {index: made.mask for (of, index), made in self._pending.items() if of == label}
        self._written[label] |= set(found)
        masks = []
        for index, mask in found.items():
            plane = grid_slice(grid, self.plan.axis, index)
            masks.append((plane, self._tidied(mask, plane.spacing_mm)))
        if finished:
            for index in self._outdated(label, one):
                plane = grid_slice(grid, self.plan.axis, index)
                masks.append((plane, np.zeros(plane.shape, bool)))
        return masks

    def _tidied(self, mask: Mask, spacing_mm: tuple[float, float]) -> Mask:
        clean_up = self.plan.options.clean_up
        if not (clean_up.fill_holes or clean_up.smallest_island_mm2 > 0):
            return mask
        return clean_up.mask(np.where(mask, _SURE_LOGIT, -_SURE_LOGIT), anchors=mask, spacing_mm=spacing_mm)

    def _outdated(self, label: int, one: SegmentPlan) -> list[int]:
        """Slices that an earlier propagation wrote, and that are not part of this one, which came to its end."""
        result = (self.task.value or {}).get(label)
        if one.finished is None or result is None or result.cancelled or self.task.exception() is not None:
            return []
        start, stop = self.plan.job.index_range or (0, one.target.reference.grid.shape[self.plan.axis])
        return [
            index
            for index in one.finished.content
            if index not in result.slices and index not in one.masks and start <= index < stop
        ]

    def _allowed(self, label: int, one: SegmentPlan, plane: SlicePlane, mask: Mask) -> Mask:
        """A mask that changes nothing in slices accepted along other axes, of this segment or of the others."""
        if not any(other.frozen.any() for other in self.plan.segments.values()):
            return mask
        allowed = mask.copy()
        for of, other in self._existing():
            if not other.frozen.any():
                continue
            target = other.target
            present = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
            if of == label:
                allowed[other.frozen] = present[other.frozen]
            else:
                allowed[other.frozen & present] = False
        return allowed

    def _check_image(self, one: SegmentPlan) -> None:
        """Raise an error unless the image is the one that the slices were made from."""
        target = one.target
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            self.task.cancel()
            raise ScribbleSegmentError("The source volume or the geometry of the segmentation was changed.")

    def _close(self) -> None:
        """Write no more, and note what is in the segments now, so that later edits can be told from it."""
        self.task.cancel()
        self._closed = True
        if not self._begun or self._undone:
            return
        axis = self.plan.axis
        for label, one in self._existing():
            earlier = set() if one.finished is None else set(one.finished.content)
            indices = (earlier | self._written[label]) - set(one.masks)
            self._content[label] = {index: packed_content(one.target, axis, index) for index in sorted(indices)}

    def _segment_report(self, label: int, one: SegmentPlan, result: Propagation | None) -> SegmentReport:
        segment = one.target.segment
        name = "" if segment is None else str(segment.GetName())
        made = len(self._written[label])
        if result is None:
            return SegmentReport(one.target.segment_id, name, made)
        confidence: Mapping[int, float] = {index: found.confidence for index, found in result.slices.items()}
        return SegmentReport(
            one.target.segment_id, name, made, len(result.reused), confidence, result.stopped, result.next_slice
        )


@dataclass(frozen=True)
class PropagationUpdate:
    """What `VolumePropagation.poll` brought.

    Attributes:
        changed: Whether a segment changed.
        problem: What went wrong and what to do about it, or None.
        report: What became of a propagation that has ended now, else None.
    """

    changed: bool = False
    problem: str | None = None
    report: PropagationReport | None = None


class VolumePropagation:
    """Propagates the selected segment, or all visible ones, one propagation at a time.

    All methods run on the main thread. The owner calls `poll` while `busy`, and `stop` before anything else edits the
    segmentation.
    """

    def __init__(
        self,
        inference: InferenceService,
        *,
        save_state: Callable[[], object],
        context_of: Callable[[EditTarget], ContextSet | None] = lambda target: None,
        images: SourceImages | None = None,
        history: PropagationHistory | None = None,
    ) -> None:
        """Connect to inference and to the editor's undo.

        Args:
            inference: Propagates on its own thread.
            save_state: Saves Slicer's undo state; called once for each propagation.
            context_of: Gives the context set of a segment, or None; must not wait for anything.
            images: Cache of images, shared with others that work on the same scene.
            history: Earlier propagations to build on; what is made here is added.
        """
        self._inference = inference
        self._save_state = save_state
        self._context_of = context_of
        self._images = images or SourceImages()
        self._history = history or PropagationHistory()
        self._task: PropagationTask | None = None

    @property
    def busy(self) -> bool:
        """Whether a propagation is under way or coming to its end, so that `poll` must be called."""
        return self._task is not None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress() if self._task is None else self._task.task.progress

    def start(
        self, editor_node: Any, slice_node: Any, options: PropagationOptions, *, all_segments: bool = False
    ) -> None:
        """Propagate along the axis of a slice view; a propagation that is under way is stopped.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode.
            options: The user's settings.
            all_segments: Whether all visible segments that have accepted slices are propagated, or the selected one.

        Raises:
            ScribbleSegmentError: Nothing can be propagated; the message says what to do, and nothing was changed.
        """
        self.stop()
        target = resolve_target(editor_node, self._images)
        axis, _ = shown_slice(slice_node, target)
        targets = [target]
        if all_segments:
            node = target.segmentation_node
            others = visible_other_segments(node, target.segment_id)
            targets += [target_of(editor_node, node, other, self._images) for other in others]
        plan = plan_propagation(targets, axis, options, context_of=self._context_of, history=self._history)
        self._task = PropagationTask(plan, self._inference, save_state=self._save_state, images=self._images)

    def poll(self) -> PropagationUpdate:
        """Take in what was made since the last call."""
        task = self._task
        if task is None:
            return PropagationUpdate()
        update = task.poll()
        if not task.ended:
            return PropagationUpdate(update.changed, update.problem)
        self._task = None
        for run in task.finished_runs():
            self._history.add(run)
        return PropagationUpdate(update.changed, update.problem, task.report())

    def stop(self) -> bool:
        """End the propagation and keep what is done; its report comes by `poll`. Returns whether a segment changed."""
        return self._task is not None and self._task.stop()

    def forget(self) -> None:
        """Let go of everything that is not in the scene, which is about to change or close."""
        if self._task is not None:
            self._task.drop()
            self._task = None
        self._history.forget()
