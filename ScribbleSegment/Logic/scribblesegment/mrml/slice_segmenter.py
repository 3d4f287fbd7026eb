"""From what is drawn in a slice view to the voxels of a segment: draw, predict, preview, write, accept. Without Qt.

The effect hands over what the user drew and calls `poll` while `busy`; everything else happens here. All methods run on
the main thread, because only it may touch MRML; inference runs elsewhere, in an `InferenceService`.

Prompts and accepted slices are kept in tags of their segment (`tags`), so Slicer's own undo, redo, copy, save and load
take them along with the voxels. Whether a result is stale is decided by comparing that tag with what was asked for:
there is no history and no observer of our own that could fall out of step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box, Click, Drawing, Gesture, Lasso, SliceDrawing, Stroke
from scribblesegment.data.geometry import SlicePlane, grid_slice, sample
from scribblesegment.data.masks import CleanUp, with_neighbours
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.rasterize import rasterize
from scribblesegment.errors import FileFormatError, GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.geometry import length_scale, transformed, view_plane, world_to_mm
from scribblesegment.mrml.labelmaps import (
    refresh_derived,
    segment_on_plane,
    segments_on_plane,
    visible_other_segments,
)
from scribblesegment.mrml.masking import Protect, protected_segments
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import TAG, AcceptedSlices, read_accepted, read_tag, write_accepted, write_drawing
from scribblesegment.mrml.target import EditTarget, resolve_target, slice_context, target_of
from scribblesegment.mrml.writer import Derive, accepted_elsewhere, write_mask
from scribblesegment.service.service import InferenceService, Logits, SliceRequest
from scribblesegment.service.worker import Task

# Slices of 512 x 512 take 1 MB of logits each.
_MOST_RESULTS = 64

_FORBIDDEN = (
    "Nothing of the result may be written here. Change the Segment Editor's masking settings, or which other segments "
    "are protected."
)

# Logit given to what is already in the segment but was not predicted: as sure as the network is well inside an object.
_CONTENT_LOGIT = np.float32(4.0)


@dataclass(frozen=True)
class SegmenterOptions:
    """What the user set in the effect's options."""

    automatic: bool = True  # write a result as soon as it is there; otherwise it becomes a preview until `accept`
    protect: Protect = "all"  # which other segments are never overwritten
    learn_from_others: bool = False  # other visible segments tell the network where the object is not
    together: bool = False  # visible segments drawn on the same slice are answered together and share no pixel
    clean_up: CleanUp = field(default_factory=CleanUp)  # from logits to mask


@dataclass(frozen=True)
class Update:
    """What `poll` brought."""

    changed: bool = False  # whether there is a new result, written or not
    written: bool = False  # whether it answers a gesture, and is in the segment
    problem: str | None = None  # what went wrong and what to do about it
    segment_id: str = ""  # of the gesture
    guessed: tuple[EditTarget, SlicePlane] | None = None  # where a result of a context alone was written


@dataclass(eq=False)
class SliceTask:
    """One slice of a segment, on its way from what was drawn to what was written."""

    target: EditTarget
    plane: SlicePlane
    gestures: tuple[Gesture, ...]  # what was drawn on it when the prediction was asked for
    added: bool = False  # whether the newest gesture was added, so that the prediction goes on from the state before it
    beside: bool = False  # whether it is answered anew only because another segment was drawn in
    writes: bool = True  # or whether it is only looked at
    own_step: bool = False  # whether writing is an undo step of its own, because the gesture's has been closed
    prediction: Task[Logits] | None = None  # None until it is handed over
    model: str = ""  # what predicts it
    # bool (H, W), where the object is for sure: positive prompts and earlier content; see `CleanUp.mask`.
    anchors: NDArray[np.bool_] = field(init=False)
    start: NDArray[np.bool_] = field(init=False)  # (H, W), the segment on the plane that it goes on from
    seen: NDArray[np.bool_] | None = None  # (H, W), the segment on the plane when it became the preview
    hints: NDArray[np.bool_] = field(init=False)  # (2, H, W), what other segments and slices add to its prompts
    painted: NDArray[np.bool_] = field(init=False)  # (H, W), pixels of either sign under its strokes and lassos
    logits: Logits = field(init=False)  # float32 (H, W), once it is predicted
    written: NDArray[np.bool_] | None = None  # (H, W), the segment on the plane after the result was written
    forbidden: bool = False  # whether masking or protected segments kept all of the result out

    def is_for(self, target: EditTarget, plane: SlicePlane | None = None) -> bool:
        """Whether it is about a segment, and about a slice of it if one is given."""
        return self.target.same_segment(target) and (plane is None or self.plane.matches(plane))

    @property
    def applies(self) -> bool:
        """Whether the segment still is where this was asked for, with the same gestures on the slice."""
        return self.target.exists and _drawn_on(self.target, self.plane) == self.gestures

    def content(self) -> NDArray[np.bool_]:
        """The segment on the plane as it is now, bool (H, W)."""
        target = self.target
        return segment_on_plane(target.segmentation_node, target.segment_id, target.reference, self.plane)


class SliceSegmenter:
    """Turns gestures into predictions, and predictions into segments.

    Predictions are made one after another, the newest first, so that the slice the user looks at comes before those
    left behind. Each is prepared when it is its turn, so that it builds on the results before it.
    """

    def __init__(
        self,
        inference: InferenceService,
        *,
        save_state: Callable[[], object],
        images: SourceImages | None = None,
        options: SegmenterOptions | None = None,
        context_of: Callable[[EditTarget], ContextSet | None] = lambda target: None,
        on_finished: Callable[[EditTarget, SlicePlane], object] = lambda target, plane: None,
        derive: Derive = refresh_derived,
    ) -> None:
        """Connect to inference and to the editor's undo.

        Args:
            inference: Predicts slices on its own thread.
            save_state: Saves Slicer's undo state; called once before each gesture changes anything.
            images: Cache of images, shared with others that work on the same scene.
            options: Defaults when absent.
            context_of: Gives the segmented images that a segment's slices are predicted like, or None; must not wait
                for anything.
            on_finished: Told of a slice along an axis that is right, once the user has gone on to another one: that
                was accepted or corrected, or left as it was while slices on both sides were.
            derive: Makes surfaces of changed segments again, perhaps later.
        """
        self.options = options or SegmenterOptions()  # may be replaced; `reapply` makes them count for what is shown
        self.preview: SliceTask | None = None  # the result that waits to be accepted
        self._inference = inference
        self._save_state = save_state
        self._context_of = context_of
        self._on_finished = on_finished
        self._derive = derive
        self._images = images or SourceImages()
        self._waiting: list[SliceTask] = []  # oldest first
        self._running: SliceTask | None = None
        self._failed: list[SliceTask] = []
        self._results: list[SliceTask] = []  # oldest first
        self._reapplied: SliceTask | None = None  # whose undo step goes on
        self._open: tuple[EditTarget, SlicePlane, bool] | None = None  # being worked on; whether it was accepted
        self._told: dict[Hashable, set[int]] = {}  # indices of the slices told of, by segment and axis

    @property
    def busy(self) -> bool:
        """Whether a result is on its way, so that `poll` must be called."""
        return self._running is not None or bool(self._waiting)

    @property
    def _unanswered(self) -> tuple[SliceTask, ...]:
        running = () if self._running is None else (self._running,)
        return *self._waiting, *self._failed, *running

    # What the user does: editor_node is a vtkMRMLSegmentEditorNode, slice_node a vtkMRMLSliceNode ------------------

    def target(self, editor_node: Any) -> EditTarget:
        """Read the editor's selections and get the image ready, which may take a while for the first time.

        Raises:
            ScribbleSegmentError: Something is missing or does not fit; the message says what to do.
        """
        return resolve_target(editor_node, self._images)

    def place(self, editor_node: Any, slice_node: Any) -> tuple[EditTarget, SlicePlane]:
        """Find the target, and what a slice view shows of it as a raster in its segmentation's millimetres.

        Raises:
            ScribbleSegmentError: Something is missing, or the view does not cut the volume.
        """
        target = self.target(editor_node)
        return target, view_plane(slice_node, target.segmentation_node, target.reference.grid)

    def expect(self, target: EditTarget, plane: SlicePlane) -> None:
        """Get ready for a gesture that has begun on a slice, unless something else is under way."""
        if target.exists and not self.busy:
            drawn = target.gestures.on(plane)
            plane = plane if drawn is None else drawn.plane
            self._inference.expect(self._about(target, plane, Prompts.empty(plane.shape)))

    def draw(self, target: EditTarget, plane: SlicePlane, drawn: Annotation, radius_mm: float = 1.0) -> None:
        """Add what the user drew on a slice, where `place` found it when the drawing began.

        Args:
            target: Segment.
            plane: Slice; what lies beside it is projected onto it.
            drawn: In world RAS millimetres.
            radius_mm: Half the brush's diameter in the world.

        Raises:
            ScribbleSegmentError: Nothing can be segmented here; nothing was changed.
        """
        if not target.exists:
            raise PromptError("The segment was removed while the stroke was drawn.")
        to_mm = world_to_mm(target.segmentation_node)
        points = _points(drawn.points, to_mm)
        gesture: Gesture
        if drawn.kind == "stroke":
            # A parent transform that scales makes a round brush in the world larger or smaller in the segmentation.
            gesture = Stroke(points, radius_mm * length_scale(to_mm), drawn.positive)
        elif drawn.kind == "lasso":
            gesture = Lasso(points, drawn.positive)
        elif drawn.kind == "box":
            gesture = Box(*points)
        else:
            gesture = Click(points[0], drawn.positive)
        before = target.gestures.on(plane)
        # The raster of the first gesture stays, however the view is turned since.
        plane = plane if before is None else before.plane
        if rasterize((gesture,), plane).is_empty:
            raise PromptError("Nothing was drawn on the image: the stroke lies outside of the volume.")
        self._record(target, target.gestures.added(plane, gesture))
        self._request(target, plane, added=True)

    def remove_gesture(self, editor_node: Any, slice_node: Any, index: int = -1) -> bool:
        """Remove one gesture of the shown slice, by its place in the order of drawing, and predict from the others.

        Returns:
            Whether there was one.
        """
        target, plane = self.place(editor_node, slice_node)
        count = len(_drawn_on(target, plane))
        if not -count <= index < count:
            return False
        self._record(target, target.gestures.removed(plane, index % count))
        if count > 1:
            self._request(target, plane)
        else:
            self._drop(target, plane)
        return True

    def clear_slice(self, editor_node: Any, slice_node: Any) -> bool:
        """Remove all gestures of the shown slice; the segment stays as it is. Returns whether there were any."""
        target, plane = self.place(editor_node, slice_node)
        if not _drawn_on(target, plane):
            return False
        self._record(target, target.gestures.cleared(plane))
        self._drop(target, plane)
        return True

    def clear_segment(self, editor_node: Any) -> bool:
        """Remove the gestures of all slices of the segment; it stays as it is. Returns whether there were any."""
        target = self.target(editor_node)
        if not read_tag(target.segment, TAG):
            return False
        self._record(target, Drawing())
        self._drop(target)
        return True

    def predict(self, editor_node: Any, slice_node: Any) -> bool:
        """Predict the shown slice again, as after a change of the network. Returns whether anything is drawn on it."""
        target, plane = self.place(editor_node, slice_node)
        drawn = bool(_drawn_on(target, plane))
        if drawn:
            self._request(target, plane, own_step=True)
        return drawn

    def predict_in_context(self, editor_node: Any, slice_node: Any) -> None:
        """Predict the shown slice from the context alone; where something was drawn, from that and the context.

        Raises:
            PromptError: There is no context, or nothing can be segmented here.
        """
        target, plane = self.place(editor_node, slice_node)
        if not self._context_of(target):
            raise PromptError(
                f"There is no context for {target.segment.GetName()!r} yet. Add slices that are segmented well."
            )
        self._request(target, plane, own_step=True)

    def accept(self) -> bool:
        """Write the preview to its segment, as one undo step. Returns whether there was one that still applies."""
        preview, self.preview = self.preview, None
        if preview is None or not preview.applies:
            return False
        target = preview.target
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:  # another image or other voxels since
            self._request(now, preview.plane, own_step=True)
            return False
        self._save_state()
        self._write(preview, accepted=True)
        return True

    def reapply(self, editor_node: Any, slice_node: Any, *, finished: bool = True) -> bool:
        """Make changed options count for the result of the shown slice, without a new prediction.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode.
            finished: False while a slider is being dragged: all calls until the one with True are one undo step.

        Returns:
            Whether the segment or the preview changed.
        """
        target, plane = self.place(editor_node, slice_node)
        result = self.result_on(target, plane)
        if result is None:
            if finished:  # an answer of an earlier session, or one too long ago: made anew with these options
                self._again(target, plane, writes=True)
            return False
        if self.preview is result or result.written is None:
            self.preview = result
            return True
        if self._reapplied is not result:
            self._save_state()
        self._reapplied = None if finished else result
        return self._write(result)

    def look(self, target: EditTarget, plane: SlicePlane) -> None:
        """Have the probabilities of a slice made, if something was drawn on it and they are not known."""
        if self.result_on(target, plane) is None:
            self._again(target, plane, writes=False)

    def leave(self) -> None:
        """The user turns to something else; what is under way is asked for again by the next `poll`."""
        self.slice_viewed()
        self._reapplied = None
        for task in self._unanswered:
            task.own_step = True

    def reset(self) -> None:
        """Let go of everything that is not in the scene: running predictions, previews, images."""
        if self._running is not None and self._running.prediction is not None:
            self._running.prediction.cancel()
        for kept in (self._waiting, self._failed, self._results, self._told):
            kept.clear()
        self._images.clear()
        self._running = self.preview = self._reapplied = self._open = None

    # Accepted slices ------------------------------------------------------------------------------------------------

    def accept_slice(self, editor_node: Any, slice_node: Any) -> None:
        """Accept the shown slice as it is, or write its preview if there is one.

        Raises:
            ScribbleSegmentError: The view is oblique or shows no slice of the volume; nothing was accepted.
        """
        target, plane = self.place(editor_node, slice_node)
        previewed = self.preview is not None and self.preview.is_for(target, plane) and self.accept()
        if plane.voxel_slice is None:
            if previewed:
                return
            raise GeometryError(
                "Only slices along the axes of the volume can be accepted, and this view is oblique. Press 'Align "
                "view', or add the slice to the context."
            )
        if not _is_accepted(target, plane):
            self._save_state()
            self._mark_accepted(target, plane)
        self._open = (target, plane, True)
        self.slice_viewed()

    def take_back_slice(self, editor_node: Any, slice_node: Any) -> bool:
        """Count the shown slice no longer among the accepted ones; the segment stays. Returns whether it was one."""
        target, plane = self.place(editor_node, slice_node)
        if plane.voxel_slice is None or not _is_accepted(target, plane):
            return False
        self._save_state()
        write_accepted(target.segment, _accepted(target).removed(*plane.voxel_slice))
        if self._is_open(target, plane):
            self._open = None
        return True

    def slice_viewed(self, target: EditTarget | None = None, plane: SlicePlane | None = None) -> None:
        """The user looks at a slice now, or at none; the one that was worked on is finished if it was left for it."""
        left = self._open
        if left is None or self._is_open(target, plane):
            return
        self._open = None
        worked_on, where, accepted = left
        # It may have been undone meanwhile.
        if worked_on.exists and _is_accepted(worked_on, where) and (accepted or len(_drawn_on(worked_on, where)) > 1):
            self._tell(worked_on, where)

    def _tell(self, target: EditTarget, plane: SlicePlane) -> None:
        """Tell of a slice that is right, and of those before it that were seen beside it and left as they are."""
        assert plane.voxel_slice is not None
        axis, index = plane.voxel_slice
        told = self._told.setdefault((target.segmentation_node, target.segment_id, axis), set())
        told.add(index)
        self._on_finished(target, plane)
        for other in _accepted(target).indices[axis]:
            if other not in told and min(told) < other < max(told):
                told.add(other)
                self._on_finished(target, grid_slice(target.reference.grid, axis, other))

    def _is_open(self, target: EditTarget | None, plane: SlicePlane | None) -> bool:
        if self._open is None or target is None or plane is None:
            return False
        return self._open[0].same_segment(target) and self._open[1].matches(plane)

    def _mark_accepted(self, target: EditTarget, plane: SlicePlane) -> None:
        """Part of an undo step that was begun before."""
        if plane.voxel_slice is not None:
            self.slice_viewed(target, plane)
            axis, index = plane.voxel_slice
            write_accepted(target.segment, _accepted(target).added(axis, index))
            self._open = (target, plane, False)

    # What comes back ------------------------------------------------------------------------------------------------

    def poll(self) -> Update:
        """Take in a finished prediction: write it, or make it the preview. A stale one is dropped."""
        taken, problem = None, None
        try:
            taken = self._take()
        except ScribbleSegmentError as error:
            problem = str(error)
        try:
            self._start_next()
        except ScribbleSegmentError as error:
            problem = str(error)
        if taken is None or not taken.writes or taken.written is None:
            return Update(taken is not None, problem=problem)
        if taken.forbidden and problem is None:
            problem = _FORBIDDEN
        if not taken.gestures:
            return Update(True, problem=problem, guessed=(taken.target, taken.plane))
        return Update(True, True, problem, taken.target.segment_id)

    def retry(self) -> bool:
        """Predict what failed before, as after the network was installed. Returns whether there was anything."""
        failed, self._failed = self._failed, []
        for task in failed:
            if task.applies:
                self._queue(task)
        return self.busy

    def result_on(self, target: EditTarget, plane: SlicePlane) -> SliceTask | None:
        """Give the prediction that answers what was drawn on a slice, if it is known.

        Where nothing was drawn, that is one from the context alone, as long as the segment still shows it.
        """
        gestures = _drawn_on(target, plane)
        result = self._find(target, plane, gestures)
        if gestures or result is None:
            return result
        if result.written is None:
            return result if result is self.preview else None
        return result if np.array_equal(result.content(), result.written) else None

    def mask_of(self, result: SliceTask) -> NDArray[np.bool_]:
        """Give a result's mask under the current options, bool (H, W); protected segments are not yet cut out."""
        return self.options.clean_up.mask(result.logits, anchors=result.anchors, spacing_mm=result.plane.spacing_mm)

    # From a gesture to a request ------------------------------------------------------------------------------------

    def _record(self, target: EditTarget, gestures: Drawing) -> None:
        self._save_state()
        self.preview = self._reapplied = None
        write_drawing(target.segment, gestures)

    def _request(self, target: EditTarget, plane: SlicePlane, *, added: bool = False, own_step: bool = False) -> None:
        drawn = target.gestures.on(plane)
        for other, others in self._drawn_beside(target, plane):
            self._queue(SliceTask(other, others.plane, others.gestures, beside=True, own_step=own_step))
        task = SliceTask(target, plane, ()) if drawn is None else SliceTask(target, drawn.plane, drawn.gestures, added)
        task.own_step = own_step
        self._queue(task)

    def _again(self, target: EditTarget, plane: SlicePlane, *, writes: bool) -> None:
        """Predict from what was drawn on a slice, unless that is under way."""
        drawn = target.gestures.on(plane)
        if drawn is not None and not any(task.is_for(target, plane) for task in self._unanswered):
            self._queue(SliceTask(target, drawn.plane, drawn.gestures, writes=writes, own_step=True))

    def _drawn_beside(self, target: EditTarget, plane: SlicePlane) -> list[tuple[EditTarget, SliceDrawing]]:
        """The other segments that are answered together with one on a slice, and what was drawn there for them."""
        if not self.options.together:
            return []
        node = target.segmentation_node
        others = [
            dataclasses.replace(target, segment_id=one) for one in visible_other_segments(node, target.segment_id)
        ]
        return [(other, drawn) for other in others if (drawn := other.gestures.on(plane)) is not None]

    def _queue(self, task: SliceTask) -> None:
        self._drop(task.target, task.plane)
        self._waiting.append(task)
        self._start_next()

    def _drop(self, target: EditTarget, plane: SlicePlane | None = None) -> None:
        self._waiting = [task for task in self._waiting if not task.is_for(target, plane)]

    def _start_next(self) -> None:
        while self._waiting and self._running is None:
            task = self._waiting.pop()
            if task.applies:
                task.prediction = self._inference.segment_slice(self._prepare(task))
                self._running = task

    def _prepare(self, task: SliceTask) -> SliceRequest:
        """The request of a task, from what is in the scene now."""
        target, plane = task.target, task.plane
        node, segment_id = target.segmentation_node, target.segment_id
        previous = self._find(target, plane, task.gestures[:-1]) if task.gestures else None
        content = segment_on_plane(node, segment_id, target.reference, plane)
        answered = None if task.added or not task.gestures else self._find(target, plane, task.gestures)
        if answered is not None:
            content = answered.start
            task.written = answered.written if task.beside else None
        elif not task.added and not task.beside:
            # Removing a gesture takes back what it had brought, so the content says nothing then.
            content = np.zeros_like(content) if previous is None or previous.written is None else previous.written
        own = prompts = rasterize(task.gestures, plane)
        task.painted = np.asarray(own.scribbles.any(axis=0))
        if self.options.learn_from_others:
            others = visible_other_segments(node, segment_id)
            prompts = with_neighbours(own, segments_on_plane(node, others, target.reference, plane))
        known = np.zeros((2, *plane.shape), bool)
        for _other, theirs in self._drawn_beside(target, plane):
            known[1] |= rasterize(theirs.gestures, plane).positive_pixels()
        frozen = accepted_elsewhere(target.reference.grid, plane, _accepted(target))
        if frozen is not None:
            known |= np.stack([content, ~content]) & frozen
        if known.any():
            prompts = prompts.replaced(scribbles=np.maximum(prompts.scribbles, known & ~task.painted))
        task.start, task.hints = content, prompts.scribbles > own.scribbles
        if frozen is not None:
            task.hints &= ~frozen  # whatever is predicted there, nothing changes
        newest, task.model = None, self._inference.state.model
        again = answered is not None and previous is not None and previous.model == task.model
        if (task.added or again) and previous is not None and previous.gestures:
            newest = getattr(task.gestures[-1], "positive", None)
            if newest is not None and (task.hints & ~previous.hints)[int(newest)].any():
                newest = None  # others have marked the opposite since
        # Without prompts, no piece of the result is wanted less than another.
        task.anchors = content | own.positive_pixels() if task.gestures else np.ones_like(content)
        return self._about(target, plane, prompts.with_mask_input(_prior_logits(previous, content)), newest)

    def _about(
        self, target: EditTarget, plane: SlicePlane, prompts: Prompts, newest: bool | None = None
    ) -> SliceRequest:
        source = target.source
        return SliceRequest(
            read=partial(sample, source.array, target.reference.grid, plane, outside=source.intensity_range.low),
            image_token=(source.token, *_raster_key(plane)),
            spacing_mm=plane.spacing_mm,
            intensity_range=source.intensity_range,
            prompts=prompts,
            context=slice_context(target, plane, self._context_of(target)),
            newest=newest,
        )

    # From a result to the segment -----------------------------------------------------------------------------------

    def _take(self) -> SliceTask | None:
        """Take in the prediction that came to its end. Returns it if there is a result that applies."""
        task = self._running
        if task is None or task.prediction is None or not task.prediction.done:
            return None
        self._running = None
        if task.prediction.cancelled:
            # The service was ended meanwhile. What is not asked for again waits for it to go on.
            if not any(newer.is_for(task.target, task.plane) for newer in self._waiting):
                self._waiting.append(task)
            return None
        target = task.target
        if not target.exists:
            return None
        applies, error = task.applies, task.prediction.exception()
        if error is not None:
            if not applies:
                return None
            self._failed = [*(one for one in self._failed if not one.is_for(target, task.plane)), task]
            raise error
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            # Another image since: what was drawn applies to that one now.
            if _drawn_on(now, task.plane):
                self._request(now, task.plane, added=task.added, own_step=task.own_step)
            return None
        task.logits = task.prediction.result()
        # Also when a newer gesture waits already: its prediction goes on from this one.
        older = self._find(target, task.plane, task.gestures)
        kept = [result for result in self._results if result is not older]
        self._results = [*kept[1 - _MOST_RESULTS :], task]
        if not applies:
            return None
        if not task.writes:
            task.written = self.mask_of(task)  # where the segment differs, it was edited by other means
        elif not self.options.automatic:
            task.seen = task.content()
            if not task.beside:  # accepting writes those beside it, too
                self.preview = task
        else:
            if task.own_step:  # else the gesture began the undo step
                self._save_state()
                for other in self._waiting:  # asked for together: one step
                    other.own_step &= not other.plane.matches(task.plane)
            self._write(task, accepted=bool(task.gestures))
        return task

    def _find(self, target: EditTarget, plane: SlicePlane, gestures: tuple[Gesture, ...]) -> SliceTask | None:
        """The newest result for exactly these gestures on the same image."""
        found = (one for one in reversed(self._results) if one.gestures == gestures and one.is_for(target, plane))
        return next((one for one in found if one.target.source.token == target.source.token), None)

    def _write(self, result: SliceTask, *, accepted: bool = False) -> bool:
        target, plane, node = result.target, result.plane, result.target.segmentation_node
        beside = self._drawn_beside(target, plane)
        found = [self._find(other, drawn.plane, drawn.gestures) for other, drawn in beside]
        rivals = [one for one in found if one is not None and _raster_key(one.plane) == _raster_key(plane)]
        ids = {one.target.segment_id for one in (result, *rivals)}
        protect = protected_segments(node, target.editor_node, ids, self.options.protect)
        masks = {one: self.mask_of(one) for one in (result, *rivals)}
        changed = False
        for one in (*rivals, result):
            mask = masks[one].copy()
            for other in masks:
                if other is not one:
                    mask &= ~(masks[other] & (other.logits > one.logits))
            known = one.seen if one.written is None else one.written
            if known is not None:  # what was edited by other means since stays
                content = one.content()
                mask = np.where(content == known, mask, content)
            kept = _accepted(one.target)
            changed |= write_mask(
                one.target, one.plane, mask, protect=protect, accepted=kept, touched=one.painted, derive=self._derive
            )
        written = {one: one.content() for one in masks}
        for one, content in written.items():
            one.written = content
        result.forbidden = bool(masks[result].any() and not written[result].any())
        if accepted and not result.forbidden:
            self._mark_accepted(target, plane)
        return changed


def _drawn_on(target: EditTarget, plane: SlicePlane) -> tuple[Gesture, ...]:
    drawn = target.gestures.on(plane)
    return () if drawn is None else drawn.gestures


def _accepted(target: EditTarget) -> AcceptedSlices:
    """The list, or a new one where it cannot be read."""
    try:
        return read_accepted(target.segment, target.reference.grid)
    except FileFormatError:
        return AcceptedSlices(target.reference.grid)


def _is_accepted(target: EditTarget, plane: SlicePlane) -> bool:
    return plane.voxel_slice is not None and _accepted(target).holds(*plane.voxel_slice)


def _prior_logits(previous: SliceTask | None, content: NDArray[np.bool_]) -> Logits | None:
    """What a prediction starts from: the one before, and where the segment was edited since, its content."""
    as_logits: Logits = np.where(content, _CONTENT_LOGIT, -_CONTENT_LOGIT)
    if previous is None:
        return as_logits if content.any() else None
    if previous.written is None:
        return previous.logits
    return np.where(content == previous.written, previous.logits, as_logits)


def _raster_key(plane: SlicePlane) -> tuple[Hashable, ...]:
    """What tells rasters apart, hashable."""
    if plane.voxel_slice is not None:
        return plane.voxel_slice
    steps = (plane.origin_mm, plane.row_step_mm, plane.column_step_mm)
    return (*plane.shape, np.array(steps).tobytes())  # not floats: NaN does not equal itself


def _points(world: ArrayLike, to_mm: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    """Bring (N, 3) world points to the segmentation's millimetres."""
    points = transformed(to_mm, np.asarray(world, float).reshape(-1, 3))
    return tuple((x, y, z) for x, y, z in points.tolist())
