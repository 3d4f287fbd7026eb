"""From the accepted slices of segments to the rest of the volume: slices are written as they come, as one undo step."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box
from scribblesegment.data.geometry import SlicePlane, grid_slice, nearest_index, plane_voxels
from scribblesegment.data.masks import CleanUp, unpacked
from scribblesegment.data.rasterize import rasterize
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.labelmaps import (
    is_empty,
    layers,
    on_lattice,
    overlap,
    refresh_derived,
    segment_on_plane,
    segments_on_plane,
    visible_other_segments,
)
from scribblesegment.mrml.masking import Protect, forbidden_voxels, protected_segments
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import AcceptedSlices, accepted_text, read_accepted, read_tag, write_accepted, write_tag
from scribblesegment.mrml.target import EditTarget, resolve_target, shown_slice, source_name, target_of
from scribblesegment.mrml.writer import Derive, accepted_elsewhere, write_slices
from scribblesegment.propagation import AnnotatedSegment, VoxelPrompts
from scribblesegment.service.service import InferenceService, PropagationJob
from scribblesegment.service.worker import Progress

if TYPE_CHECKING:
    from scribblesegment.propagation import PropagatedSlice, Propagation, PropagationEnd

Mask = NDArray[np.bool_]

TAG = "ScribbleSegment.Propagation"  # which propagation a segment shows

# Those of 300 slices of 512 x 512 pixels take 20 MB.
_MOST_RUNS = 8

# Below this confidence a slice is worth a look.
_CERTAIN = 0.9

# Slices are written together, and so rarely that writing and showing them takes a fifth of the time at most: where a
# surface is shown, one write takes seconds.
_LEAST_PAUSE_S = 0.2
_PAUSE_PER_WRITE = 4.0

_SURE_LOGIT = np.float32(20.0)


@dataclass(frozen=True)
class PropagationOptions:
    """What the user set for propagating."""

    index_range: tuple[int, int] | None = None  # half-open range of slices that may be segmented; None for all
    protect: Protect = "all"  # which other segments are never overwritten
    clean_up: CleanUp = field(default_factory=CleanUp)  # threshold, holes and islands as for single slices
    model: str = ""  # what the slices are predicted with; slices of another one are not built on
    other_views: bool = True  # strokes in other views, and slices accepted there, are prompts of the slices they cross


@dataclass(frozen=True)
class SegmentReport:
    """What became of one segment."""

    segment_id: str
    name: str
    made: int = 0  # how many slices were segmented now
    kept: int = 0  # how many were kept from an earlier propagation
    confidence: Mapping[int, float] = field(default_factory=dict)  # in [0, 1], of all of them, by index
    ends: tuple[PropagationEnd, ...] = ()  # where and why it went no further
    next_slice: int | None = None  # the slice worth correcting most

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
    """What became of all segments of a propagation."""

    axis: int  # of the array, that it went along
    segments: tuple[SegmentReport, ...]  # in their order in the segmentation, the selected one first
    slices_per_second: float = 0.0  # slices of all segments for each second of work; 0 if there were none
    cancelled: bool = False  # whether it ended before it was done
    undone: bool = False  # whether it ended because the user took it back, or changed what it was built on

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


@dataclass(frozen=True)
class PropagationUpdate:
    """What `VolumePropagation.poll` brought."""

    changed: bool = False  # whether a segment changed
    problem: str | None = None  # what went wrong and what to do about it
    report: PropagationReport | None = None  # what became of a propagation that has ended now


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
        derive: Derive = refresh_derived,
    ) -> None:
        """Connect to inference and to the editor's undo.

        Args:
            inference: Propagates on its own thread.
            save_state: Saves Slicer's undo state; called once for each propagation, before anything changes.
            context_of: Gives the context set of a segment, or None; must not wait for anything.
            images: Cache of images, shared with others that work on the same scene.
            history: Earlier propagations to build on; what is made here is added.
            derive: Makes surfaces of changed segments again, perhaps later.
        """
        self._inference = inference
        self._save_state = save_state
        self._context_of = context_of
        self._images = images or SourceImages()
        self._history = history or PropagationHistory()
        self._derive = derive
        self._run: _Run | None = None

    @property
    def busy(self) -> bool:
        """Whether a propagation is under way or coming to its end, so that `poll` must be called."""
        return self._run is not None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress() if self._run is None else self._run.task.progress

    def start(
        self,
        editor_node: Any,
        slice_node: Any,
        options: PropagationOptions,
        *,
        all_segments: bool = False,
        own_step: bool = True,
    ) -> None:
        """Propagate along the axis of a slice view; a propagation that is under way is stopped.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode.
            options: The user's settings.
            all_segments: Whether all visible segments that have accepted slices are propagated, or the selected one.
            own_step: Whether this is an undo step, or belongs to the newest one, as to the stroke that it follows.

        Raises:
            ScribbleSegmentError: Nothing can be propagated; the message says what to do, and nothing was changed.
        """
        self.stop()
        first = resolve_target(editor_node, self._images)
        node, grid = first.segmentation_node, first.reference.grid
        axis, _ = shown_slice(slice_node, first)
        index_range = _checked_range(options.index_range, grid.shape[axis])
        others = visible_other_segments(node, first.segment_id) if all_segments else []
        targets = [first, *(target_of(editor_node, node, other, self._images) for other in others)]
        found = [_Segment.of(target, axis, self._history.of(target, axis)) for target in targets]
        segments = dict(enumerate((one for one in found if any(m.any() for m in one.masks.values())), start=1))
        if not segments:
            raise PromptError(_nothing_accepted(found, axis))
        ids = [one.target.segment_id for one in segments.values()]
        protect = protected_segments(node, editor_node, ids, options.protect)
        made_from = (options.model, options.clean_up.threshold, *_limits(editor_node, protect))
        prompts = other_view_prompts(segments, axis) if options.other_views else {}
        job = PropagationJob(
            Volume(first.source.array, grid.ijk_to_mm),
            axis,
            {
                label: one.annotated(label, self._context_of(one.target), prompts.get(label), made_from)
                for label, one in segments.items()
            },
            index_range=index_range,
            protected=forbidden_voxels(first, ids, protect),
            source=source_name(first),
            intensity_range=first.source.intensity_range,
            threshold=options.clean_up.threshold,
        )
        shared = self._inference, self._images, self._derive
        self._run = _Run(job, segments, protect, options.clean_up, made_from, own_step, *shared)
        if own_step:  # at once, so that undo takes back this and not what was before it, however soon it is stopped
            self._save_state()
        self._run.begin()

    def poll(self) -> PropagationUpdate:
        """Take in what was made since the last call."""
        run = self._run
        if run is None:
            return PropagationUpdate()
        update = run.poll()
        if not run.ended:
            return update
        self._run = None
        for finished in run.finished():
            self._history.add(finished)
        return dataclasses.replace(update, report=run.report(), problem=update.problem or run.problem)

    def stop(self) -> bool:
        """End the propagation and keep what is done; its report comes by `poll`. Returns whether a segment changed."""
        return self._run is not None and self._run.stop()

    def forget(self, target: EditTarget, plane: SlicePlane) -> None:
        """What a slice shows is nobody's work: its acceptance was taken back, or it came from examples alone."""
        if plane.voxel_slice is not None:
            self._history.forget(target, *plane.voxel_slice)

    def reset(self) -> None:
        """Let go of everything that is not in the scene, which is about to change or close."""
        if self._run is not None:
            self._run.drop()
            self._run = None
        self._history.clear()


# What earlier propagations left ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a propagation left in one segment."""

    run_id: str  # of the propagation
    segment_id: str
    token: Hashable  # of the image and its grid
    made_from: Hashable  # what else must be equal for its slices to be used again: network, settings
    result: Propagation  # its slices and what they were made from
    made: frozenset[int]  # indices of slices that it, or an earlier one that it built on, wrote
    content: Contents  # the segment then
    unclaimed: Contents = field(default_factory=dict)  # what was forgotten, see `PropagationHistory.forget`

    def as_previous(self, label: int) -> Propagation:
        """Its result under a label, with only the slices that are in the segment."""
        slices = {
            index: dataclasses.replace(found, label=label)
            for index, found in self.result.slices.items()
            if index in self.made
        }
        return dataclasses.replace(self.result, label=label, slices=slices)

    def shows(self, index: int, content: Contents) -> bool:
        """Whether a slice is as it was then."""
        return np.array_equal(self.content.get(index, ()), content.get(index, ()))

    def edited_by_hand(self, target: EditTarget, content: Contents, frozen: Mask | None = None) -> list[int]:
        """Slices that the user has changed since by other means.

        Neither what other segments have taken counts, nor what is `frozen`, bool (H, W), or was drawn on in planes
        across the axis. Whether there was something in them before does not matter.
        """
        node, axis, edited = target.segmentation_node, self.result.axis, []
        across = _drawn_across(target, axis)
        others = [other for other in node.GetSegmentation().GetSegmentIDs() if other != target.segment_id]
        for index in sorted(self.content.keys() | content.keys()):
            forgotten = self.unclaimed.get(index)
            if self.shows(index, content) or (
                forgotten is not None and np.array_equal(forgotten, content.get(index, ()))
            ):
                continue
            plane = grid_slice(target.reference.grid, axis, index)
            then, now = (
                unpacked(one[index], plane.shape) if index in one else np.zeros(plane.shape, bool)
                for one in (self.content, content)
            )
            taken = segments_on_plane(node, others, target.reference, plane)
            elsewhere = np.zeros(plane.shape, bool) if frozen is None else frozen.copy()
            elsewhere[tuple(np.delete(across[across[:, axis] == index], axis, axis=1).T)] = True
            then, now = then & ~elsewhere, now & ~elsewhere
            if (now & ~then).any() or (then & ~now & ~taken).any():
                edited.append(index)
        return edited


class PropagationHistory:
    """The newest propagations."""

    def __init__(self) -> None:
        self._runs: list[FinishedRun] = []

    def add(self, run: FinishedRun) -> None:
        """Remember one; the oldest beyond the limit are forgotten."""
        runs = [*self._runs, run]
        newest = {one.segment_id: one for one in runs}  # stays, or edits since would be taken for its own slices
        old = len(runs) - _MOST_RUNS
        self._runs = [one for index, one in enumerate(runs) if index >= old or newest[one.segment_id] is one]

    def forget(self, target: EditTarget, axis: int, index: int) -> None:
        """What is on a slice now is neither an edit by hand nor the run's."""
        run = self.of(target, axis)
        if run is not None:
            unclaimed = {**run.unclaimed, index: np.zeros(0, np.uint8), **contents(target, axis, only=index)}
            found = dataclasses.replace(run, made=run.made - {index}, unclaimed=unclaimed)
            self._runs = [found if one is run else one for one in self._runs]

    def of(self, target: EditTarget, axis: int) -> FinishedRun | None:
        """The one whose slices a segment shows, if it was made along the axis and in the same image."""
        wanted = (run_of(target.segment), target.segment_id, axis, target.source.token)
        found = (run for run in self._runs if (run.run_id, run.segment_id, run.result.axis, run.token) == wanted)
        return next(found, None)

    def clear(self) -> None:
        """Let go of all, as when the scene closes."""
        self._runs.clear()


def run_of(segment: Any) -> str:
    """Identifier of the propagation that a vtkSegment shows; empty for none."""
    return read_tag(segment, TAG)


# One propagation ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Segment:
    """A segment that is propagated."""

    target: EditTarget
    accepted: AcceptedSlices  # those edited by hand since the last propagation among them
    masks: dict[int, Mask]  # bool (H, W) of those along the axis, by index
    frozen: Mask | None  # bool (H, W), pixels of every slice of the axis that lie in slices accepted along others
    earlier: FinishedRun | None  # the propagation that is built on
    showed: str  # the propagation that it showed before
    content: dict[int, NDArray[np.uint8]]  # what is in it, see `FinishedRun`
    written: set[int] = field(default_factory=set)  # indices of slices
    closed: bool = False  # whether nothing more is written, and content and result are those of a `FinishedRun`
    tags: tuple[str, str] = ("", "")  # accepted slices and propagation, as they must stay
    segment: Any = None  # the vtkSegment that had these tags when it was last looked at
    changed: int = -1  # and when it had changed, by VTK's clock

    @classmethod
    def of(cls, target: EditTarget, axis: int, earlier: FinishedRun | None) -> _Segment:
        """What a segment can be propagated from.

        Raises:
            FileFormatError: The list of its accepted slices cannot be read.
            GeometryError: The slices along the axis are sheared.
        """
        accepted, content = read_accepted(target.segment, target.reference.grid), contents(target, axis)
        frozen = accepted_elsewhere(accepted.grid, grid_slice(accepted.grid, axis, 0), accepted)
        if earlier is not None:
            before = earlier.result.accepted
            redone = {one for one in accepted.indices[axis] if one not in before or not earlier.shows(one, content)}
            if earlier.content and earlier.content.keys() & content.keys() <= redone:
                # Nothing of it is left but what was accepted since: the segment was cleared, to start anew.
                for index in earlier.content.keys() - content.keys():
                    accepted = accepted.removed(axis, index)
            else:
                edited = earlier.edited_by_hand(target, content, frozen)
                by_hand = [index for index in edited if not accepted.holds(axis, index)]
                accepted = accepted.added(axis, *by_hand)
        masks = {index: _on_slice(target, axis, index) for index in accepted.indices[axis]}
        return cls(target, accepted, masks, frozen, earlier, run_of(target.segment), content)

    @property
    def made(self) -> frozenset[int]:
        """Slices that it shows as propagated."""
        earlier = frozenset() if self.earlier is None else self.earlier.made
        return (earlier | self.written) - self.masks.keys()

    def annotated(
        self, label: int, context: ContextSet | None, prompts: VoxelPrompts | None, made_from: Hashable
    ) -> AnnotatedSegment:
        same = self.earlier is not None and self.earlier.made_from == made_from
        previous = self.earlier.as_previous(label) if self.earlier is not None and same else None
        return AnnotatedSegment(self.masks, self.target.segment.GetName(), context, previous, prompts)

    def drawn(self) -> VoxelPrompts:
        """Voxels under strokes, lassos and clicks of any view; those of accepted slices count nowhere."""
        grid, parts = self.target.reference.grid, []
        for drawn in self.target.gestures.slices:
            prompts = rasterize((one for one in drawn.gestures if not isinstance(one, Box)), drawn.plane)
            clicks = prompts.point_coords
            for value in (False, True):
                pixels = np.argwhere(prompts.scribbles[1 - value] > 0)
                marked = np.concatenate([pixels, clicks[prompts.point_labels == value]])
                voxels = nearest_index(grid.to_kji(drawn.plane.to_mm(marked)))
                voxels = voxels[((voxels >= 0) & (voxels < grid.shape)).all(axis=1)]
                parts.append((voxels, np.full(len(voxels), value)))
        return VoxelPrompts.joined(parts)

    def known(self, axis: int) -> VoxelPrompts:
        """All voxels of the slices accepted along other axes, which stay as they are."""
        parts = []
        for other, indices in enumerate(self.accepted.indices):
            for index in indices if other != axis else ():
                content = _on_slice(self.target, other, index)
                parts.append((np.insert(np.argwhere(np.ones_like(content)), other, index, axis=1), content.ravel()))
        return VoxelPrompts.joined(parts)

    def note(self, plane: SlicePlane) -> None:
        """Take down what is on a slice that was written."""
        assert plane.voxel_slice is not None
        axis, index = plane.voxel_slice
        self.content.pop(index, None)
        self.content |= contents(self.target, axis, only=index)

    def begin(self, run_id: str) -> None:
        """Part of an undo step that was begun before."""
        write_accepted(self.target.segment, self.accepted)
        self.name(run_id)

    def name(self, run_id: str) -> None:
        """Name what it shows now, so that any older state that undo brings back is told from it."""
        self.segment = self.target.segment
        write_tag(self.segment, TAG, run_id)
        self.tags, self.changed = (accepted_text(self.segment), run_of(self.segment)), self.segment.GetMTime()

    def undone(self, *, thorough: bool) -> bool:
        """Whether it is no longer what this goes on from; a segment that was removed is not.

        Unless asked to be thorough, only a segment that has changed is looked at.
        """
        if not thorough and self.segment.GetMTime() == self.changed:
            return False
        segment = self.target.segment if self.target.exists else None
        if segment is None:
            return False
        self.segment, self.changed = segment, segment.GetMTime()
        return (accepted_text(segment), run_of(segment)) != self.tags


class _Run:
    """Writes what a propagation brings, until it is done, stopped, or pointless.

    It is pointless once its segments are gone, another image was chosen, or its own undo step was taken back, which is
    seen by the segments' tags.
    """

    def __init__(
        self,
        job: PropagationJob,
        segments: dict[int, _Segment],
        protect: Sequence[str],
        clean_up: CleanUp,
        made_from: Hashable,
        own_step: bool,
        inference: InferenceService,
        images: SourceImages,
        derive: Derive,
    ) -> None:
        self._job, self._segments, self._protect, self._clean_up = job, segments, protect, clean_up
        self._made_from, self._own_step, self._images, self._derive = made_from, own_step, images, derive
        self._run_id = uuid.uuid4().hex
        self._pending: dict[tuple[int, int], PropagatedSlice] = {}  # by label and index
        self._closed = self._undone = self._complete = False
        self._next_write = time.monotonic()
        self._writes = 0
        self.problem: str | None = None  # why it ended early, told with the report
        self.task = inference.propagate(job)

    def begin(self) -> None:
        """Mark the segments, as a part of an undo step that was begun before."""
        for one in self._segments.values():
            one.begin(self._run_id)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come or be written."""
        return self._closed and self.task.done

    def poll(self) -> PropagationUpdate:
        """Take slices and write them when it is time."""
        if self._closed:
            return PropagationUpdate()
        done = self.task.done
        self._take()
        if not done and (not self._pending or time.monotonic() < self._next_write):
            self._end_if_undone(thorough=False)
            return PropagationUpdate()
        try:
            changed = self._write(done=done)
        except ScribbleSegmentError as error:
            self._close()
            self.problem = f"{error} What was propagated until then is kept."
            return PropagationUpdate()
        problem = self.task.exception() if done else None
        if done and not self._closed:
            self._complete = problem is None and not any(result.cancelled for result in self._results.values())
            self._close()
        if problem is None or isinstance(problem, CancelledError):  # the service was ended before it began
            return PropagationUpdate(changed)
        return PropagationUpdate(changed, str(problem))

    def stop(self) -> bool:
        """End it and keep what is done. Returns whether a segment changed."""
        if self._closed:
            return False
        self.task.cancel()
        self._take()
        try:
            return self._write(done=False)
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
        results, segments = self._results, []
        for label, one in self._segments.items():
            name = str(one.target.segment.GetName()) if one.target.segment is not None else ""
            report = SegmentReport(one.target.segment_id, name, len(one.written))
            if (result := results.get(label)) is not None:
                report = dataclasses.replace(
                    report,
                    kept=len(result.reused),
                    confidence={index: found.confidence for index, found in result.slices.items()},
                    ends=result.stopped,
                    next_slice=result.next_slice,
                )
            segments.append(report)
        speed = max((result.slices_per_second for result in results.values()), default=0.0)
        return PropagationReport(
            self._job.axis, tuple(segments), speed, cancelled=not self._complete, undone=self._undone
        )

    def finished(self) -> list[FinishedRun]:
        """What it left in each segment, to be built on."""
        return [
            FinishedRun(
                one.tags[1],
                one.target.segment_id,
                one.target.source.token,
                self._made_from,
                result,
                one.made,
                one.content,
            )
            for label, one in self._segments.items()
            if one.closed and (result := self._results.get(label)) is not None
        ]

    @property
    def _results(self) -> dict[int, Propagation]:
        return self.task.value or {}

    def _take(self) -> None:
        self._pending.update({(made.label, made.index): made for made in self.task.take()})

    def _existing(self) -> dict[int, _Segment]:
        return {label: one for label, one in self._segments.items() if one.target.exists}

    def _end_if_undone(self, *, thorough: bool) -> bool:
        self._undone = any(one.undone(thorough=thorough) for one in self._segments.values())
        if self._undone:
            self.drop()
            for one in self._segments.values():
                one.closed = True  # redo brings back what was written
        return self._undone

    def _write(self, *, done: bool) -> bool:
        """Write what has come; when done, also take out what an earlier propagation had and this one has not."""
        existing = self._existing()
        if not existing:
            self.drop()
            return False
        if self._end_if_undone(thorough=True):
            return False
        self._check_image(next(iter(existing.values())).target)
        work = {label: self._masks(label, one, done=done) for label, one in existing.items()}
        self._pending.clear()
        if not any(work.values()):
            return False
        began = time.monotonic()
        changed = False
        for label, one in existing.items():
            masks = [(plane, self._allowed(one, existing, plane, mask)) for plane, mask in work[label]]
            changed |= write_slices(one.target, masks, protect=self._protect, derive=self._derive)
            for plane, _mask in masks:
                one.note(plane)
        self._writes += 1
        for one in existing.values():
            one.name(f"{self._run_id}.{self._writes}")
        now = time.monotonic()
        self._next_write = now + max(_LEAST_PAUSE_S, _PAUSE_PER_WRITE * (now - began))
        return changed

    def _check_image(self, target: EditTarget) -> None:
        """Raise an error unless the image is the one that the slices were made from."""
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            raise ScribbleSegmentError("The source volume or the geometry of the segmentation was changed.")

    def _masks(self, label: int, one: _Segment, *, done: bool) -> list[tuple[SlicePlane, Mask]]:
        """Planes and masks (H, W) to write now."""
        grid, axis, masks = one.target.reference.grid, self._job.axis, []
        for (of, index), made in self._pending.items():
            if of == label:
                one.written.add(index)
                plane, mask = grid_slice(grid, axis, index), made.mask
                if self._clean_up.fill_holes or self._clean_up.smallest_island_mm2 > 0:
                    logits = np.where(mask, _SURE_LOGIT, -_SURE_LOGIT)
                    mask = self._clean_up.mask(logits, anchors=mask, spacing_mm=plane.spacing_mm)
                masks.append((plane, mask))
        result = self._results.get(label)
        if done and one.earlier and result and not result.cancelled and self.task.exception() is None:
            start, stop = self._job.index_range or (0, grid.shape[axis])
            outdated = one.earlier.made - set(result.slices) - set(one.masks)
            planes = [grid_slice(grid, axis, index) for index in outdated if start <= index < stop]
            masks += [(plane, np.zeros(plane.shape, bool)) for plane in planes]
        return masks

    def _allowed(self, one: _Segment, existing: Mapping[int, _Segment], plane: SlicePlane, mask: Mask) -> Mask:
        """A mask that changes nothing in slices accepted along other axes, of this segment or of the others."""
        allowed = mask
        for other in existing.values():
            if other.frozen is None:
                continue
            target = other.target
            present = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
            kept = present if other is one else allowed & ~present
            allowed = np.where(other.frozen, kept, allowed)
        return allowed

    def _close(self) -> None:
        """Write no more, and note what is in the segments now, so that later edits can be told from it."""
        self.drop()
        if self._undone:
            return
        for one in self._existing().values():
            unknown = self._own_step or (self.task.done and self.task.value is None)  # it never began
            if unknown and not (one.written or self._complete):
                write_tag(one.target.segment, TAG, one.showed)
                continue
            one.closed = True


def other_view_prompts(segments: Mapping[int, _Segment], axis: int) -> dict[int, VoxelPrompts]:
    """The prompts of each segment besides its accepted slices; what marks one is not in the others."""
    marked = {label: (one.drawn(), one.known(axis)) for label, one in segments.items()}
    prompts = {}
    for label, own in marked.items():
        others = [part.kji[part.positive] for other, parts in marked.items() if other != label for part in parts]
        background = [(kji, np.zeros(len(kji), bool)) for kji in others]
        found = VoxelPrompts.joined([*background, *((part.kji, part.positive) for part in own)])
        if len(found.kji):
            prompts[label] = found
    return prompts


def _drawn_across(target: EditTarget, axis: int) -> NDArray[np.int64]:
    """Indices (N, 3) of the voxels of planes across the axis that were drawn on."""
    found = [np.zeros((0, 3), np.int64)]
    for plane in (drawn.plane for drawn in target.gestures.slices):
        if plane.voxel_slice is None or plane.voxel_slice[0] != axis:
            with contextlib.suppress(GeometryError):  # of another grid
                found.append(plane_voxels(target.reference.grid, plane).kji)
    return np.concatenate(found)


Contents = Mapping[int, NDArray[np.uint8]]
"""The slices of a segment in which something is, eight pixels a byte, by index."""


def contents(target: EditTarget, axis: int, *, only: int | None = None) -> dict[int, NDArray[np.uint8]]:
    """What is in a segment's slices along an axis of its grid, or in one of them."""
    reference = target.reference
    (labelmap,) = layers(target.segmentation_node, [target.segment_id])
    if is_empty(labelmap):
        return {}
    length = reference.grid.shape[axis]
    held = range(length)
    if on_lattice(labelmap, reference):
        held = held[overlap(labelmap.GetExtent(), reference.extent)[1][axis]]
    found = {}
    for index in held if only is None else {only} & set(held):
        content = _on_slice(target, axis, index)
        if content.any():
            found[index] = np.packbits(content)
    return found


def _limits(editor_node: Any, protect: Sequence[str]) -> tuple[Hashable, ...]:
    """What limits where segments may grow, as far as it is set in the editor."""
    intensities = editor_node.GetSourceVolumeIntensityMask() and tuple(editor_node.GetSourceVolumeIntensityMaskRange())
    return tuple(protect), editor_node.GetMaskMode(), editor_node.GetMaskSegmentID(), intensities


def _on_slice(target: EditTarget, axis: int, index: int) -> Mask:
    """The segment on a slice of its grid, bool (H, W)."""
    plane = grid_slice(target.reference.grid, axis, index)
    return segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)


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


def _nothing_accepted(plans: Sequence[_Segment], axis: int) -> str:
    names = ", ".join(repr(plan.target.segment.GetName()) for plan in plans)
    if any(plan.accepted.indices[axis] for plan in plans):
        what = f"The accepted slices of {names} in this direction are all empty"
    else:
        what = f"No slice of {names} is accepted in this direction"
        if any(not plan.accepted.is_empty for plan in plans):
            what += ", only in others. Choose the view the slices were accepted in"
    remedy = "Segment a slice with a stroke, or press 'Accept slice' where the segment is right, and propagate then."
    return f"{what}. {remedy}"
