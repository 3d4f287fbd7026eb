"""Between the Segment Editor effect and the package: gestures in, segments out, without Qt.

The effect hands over what the user drew and calls `poll` while `busy`; everything else happens here. All methods run on
the main thread, because only it may touch MRML; inference runs elsewhere, in an `InferenceService`.

Prompts are kept in a tag of their segment (`prompt_tags`), so Slicer's own undo, redo, copy, save and load take them
along with the voxels. Whether a result is stale is decided by comparing that tag with what was asked for: there is no
history and no observer of our own that could fall out of step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box, Click, Drawing, Gesture, Stroke
from scribblesegment.data.geometry import SlicePlane, sample
from scribblesegment.data.masks import CleanUp, with_neighbours
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.rasterize import rasterize
from scribblesegment.errors import FileFormatError, GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.geometry import length_scale, transformed, view_plane, world_to_mm
from scribblesegment.mrml.labelmaps import segment_on_plane, segments_on_plane, visible_other_segments
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import AcceptedSlices, read_accepted, write_accepted, write_drawing
from scribblesegment.mrml.target import EditTarget, resolve_target, slice_context, target_of
from scribblesegment.mrml.writer import write_mask
from scribblesegment.service.service import InferenceService, Logits, SliceRequest
from scribblesegment.service.worker import Task


@dataclass(frozen=True, eq=False)
class SliceJob:
    """A slice to predict.

    Attributes:
        target: Segment and image.
        plane: The slice.
        gestures: What was drawn on it when the prediction was asked for.
        added: Whether the newest gesture was added, so that the prediction goes on from the state before it; False when
            one was removed or nothing changed.
    """

    target: EditTarget
    plane: SlicePlane
    gestures: tuple[Gesture, ...]
    added: bool

    def is_for(self, target: EditTarget, plane: SlicePlane | None = None) -> bool:
        """Whether it is about a segment, and about a slice of it if one is given."""
        return self.target.same_segment(target) and (plane is None or self.plane.matches(plane))


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A job that is being predicted.

    Attributes:
        job: What it is about.
        request: What inference was given.
        anchors: bool (H, W): positive prompts and earlier content of the segment; see `CleanUp.mask`.
    """

    job: SliceJob
    request: SliceRequest
    anchors: NDArray[np.bool_]


class PredictionQueue:
    """Hands jobs to inference, newest first, so that the slice the user looks at comes before those left behind."""

    def __init__(self, inference: InferenceService, prepare: Callable[[SliceJob], PreparedJob | None]) -> None:
        """Make an empty queue.

        Args:
            inference: Where predictions are made.
            prepare: Called right before a job is handed over, so that it can build on the results before it; None
                drops a job that has become pointless.
        """
        self._inference = inference
        self._prepare = prepare
        self._waiting: list[SliceJob] = []  # oldest first
        self._running: tuple[PreparedJob, Task[Logits]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return self._running is not None or bool(self._waiting)

    def add(self, job: SliceJob) -> None:
        """Queue a job; one that waits for the same segment and slice gives way."""
        self.drop(job.target, job.plane)
        self._waiting.append(job)
        self.go_on()

    def drop(self, target: EditTarget, plane: SlicePlane | None = None) -> None:
        """Take back jobs that have not begun, of a segment or of one of its slices."""
        self._waiting = [job for job in self._waiting if not job.is_for(target, plane)]

    def clear(self) -> None:
        """Take back all jobs; the result of the running one is ignored."""
        self._waiting.clear()
        if self._running is not None:
            self._running[1].cancel()
            self._running = None

    def poll(self) -> list[tuple[PreparedJob, Task[Logits]]]:
        """Give the job that came to an end, with its task. Follow with `go_on`, once its result is taken in."""
        if self._running is None or not self._running[1].done:
            return []
        (prepared, task), self._running = self._running, None
        if not task.cancelled:
            return [(prepared, task)]
        # The service was ended meanwhile. What is not asked for again waits for it to go on.
        job = prepared.job
        if not any(newer.is_for(job.target, job.plane) for newer in self._waiting):
            self._waiting.append(job)
        return []

    def go_on(self) -> None:
        """Hand over the next job."""
        while self._waiting and self._running is None:
            prepared = self._prepare(self._waiting.pop())
            if prepared is not None:
                self._running = (prepared, self._inference.segment_slice(prepared.request))


# Slices of 512 x 512 take 1 MB of logits each.
_MOST_RESULTS = 64


# Logit given to what is already in the segment but was not predicted: as sure as the network is well inside an object.
_CONTENT_LOGIT = 4.0


@dataclass(eq=False)
class SliceResult:
    """A prediction for one segment on one slice.

    Attributes:
        target: What it was made for.
        plane: The slice.
        gestures: The gestures it answers, in their order.
        logits: float32 (H, W) on the plane's raster.
        anchors: bool (H, W): positive prompts and earlier content; see `CleanUp.mask`.
        written: bool (H, W): the segment's content on the plane after the result was written, None before.
    """

    target: EditTarget
    plane: SlicePlane
    gestures: tuple[Gesture, ...]
    logits: NDArray[np.float32]
    anchors: NDArray[np.bool_]
    written: NDArray[np.bool_] | None = None

    def is_for(self, target: EditTarget, plane: SlicePlane) -> bool:
        """Whether it belongs to this segment and slice."""
        return self.target.same_segment(target) and self.plane.matches(plane)


class SliceResults:
    """The newest results, by segment, slice and gestures."""

    def __init__(self) -> None:
        self._results: list[SliceResult] = []

    def add(self, result: SliceResult) -> None:
        """Remember a result; an older one for the same gestures, and the oldest beyond the limit, are forgotten."""
        older = self.find(result.target, result.plane, result.gestures)
        self._results = [kept for kept in self._results if kept is not older][-(_MOST_RESULTS - 1) :]
        self._results.append(result)

    def find(self, target: EditTarget, plane: SlicePlane, gestures: tuple[Gesture, ...]) -> SliceResult | None:
        """Find the result for exactly these gestures."""
        return next(
            (
                result
                for result in reversed(self._results)
                if result.gestures == gestures and result.is_for(target, plane)
            ),
            None,
        )

    def clear(self) -> None:
        """Forget everything."""
        self._results.clear()


def prior_logits(previous: SliceResult | None, content: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Give the logits that a new prediction starts from.

    Args:
        previous: Result before the newest gesture, if there is one.
        content: bool (H, W), the segment on the plane now.

    Returns:
        float32 (H, W): the previous logits, except where the segment was edited since by other means, and there its
        content; the content alone without a previous result; None when there is neither.
    """
    as_logits = np.where(content, np.float32(_CONTENT_LOGIT), np.float32(-_CONTENT_LOGIT))
    if previous is None:
        return as_logits if content.any() else None
    if previous.written is None:
        return previous.logits
    return np.where(content == previous.written, previous.logits, as_logits)


def anchors_of(prompts: Prompts, content: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark what says "the object is here": positive strokes and clicks, inside boxes, and earlier content.

    Args:
        prompts: On the raster, (H, W).
        content: bool (H, W), the segment on the plane before the prediction.

    Returns:
        bool (H, W).
    """
    return content | prompts.positive_pixels()


class SliceRequests:
    """Makes requests, and keeps the newest image."""

    def __init__(self, context_of: Callable[[EditTarget], ContextSet | None]) -> None:
        """`context_of` gives the segmented images that a segment's slices are predicted like, or None."""
        self._context_of = context_of
        # The newest slice with its token: interpolating an oblique one takes as long as predicting it.
        self._image: tuple[Hashable, NDArray[Any]] | None = None

    def make(self, job: SliceJob, previous: SliceResult | None, *, learn_from_others: bool) -> PreparedJob:
        """Make the request of a job, from what is in the scene now.

        Args:
            job: What to predict; without gestures, from the context alone.
            previous: The prediction before its newest gesture, if it is known.
            learn_from_others: Whether visible other segments tell where the object is not.
        """
        target, plane = job.target, job.plane
        node, segment_id = target.segmentation_node, target.segment_id
        content = segment_on_plane(node, segment_id, target.reference, plane)
        if not job.gestures:
            content = np.zeros_like(content)
        # Removing a gesture takes back what it had brought, so the content says nothing then.
        elif not job.added:
            content = np.zeros_like(content) if previous is None or previous.written is None else previous.written
        own = rasterize(job.gestures, plane)
        prompts = own
        if learn_from_others:
            others = visible_other_segments(node, segment_id)
            prompts = with_neighbours(own, segments_on_plane(node, others, target.reference, plane))
        token = (target.source.token, *_raster_key(plane))
        if self._image is None or self._image[0] != token:
            outside = target.source.intensity_range.low
            self._image = token, sample(target.source.array, target.reference.grid, plane, outside=outside)
        request = SliceRequest(
            image=self._image[1],
            image_token=token,
            spacing_mm=plane.spacing_mm,
            intensity_range=target.source.intensity_range,
            prompts=prompts.with_mask_input(prior_logits(previous, content)),
            context=slice_context(target, plane, self._context_of(target)),
        )
        # Without prompts, no piece of the result is wanted less than another.
        anchors = anchors_of(own, content) if job.gestures else np.ones_like(content)
        return PreparedJob(job, request, anchors)

    def forget(self) -> None:
        """Let go of the image."""
        self._image = None


def _raster_key(plane: SlicePlane) -> tuple[Hashable, ...]:
    """What tells rasters apart, hashable."""
    if plane.voxel_slice is not None:
        return plane.voxel_slice
    steps = (plane.origin_mm, plane.row_step_mm, plane.column_step_mm)
    return (*plane.shape, *(float(value) for vector in steps for value in vector))


class SliceAcceptance:
    """Keeps the list of accepted slices of segments, and tells of slices that are finished."""

    def __init__(
        self,
        *,
        save_state: Callable[[], object],
        on_finished: Callable[[EditTarget, SlicePlane], object] = lambda target, plane: None,
    ) -> None:
        """Begin with nothing left open.

        Args:
            save_state: Saves Slicer's undo state.
            on_finished: Told of an accepted slice along an axis when it is finished.
        """
        self._save_state = save_state
        self._on_finished = on_finished
        self._open: tuple[EditTarget, SlicePlane] | None = None

    def is_accepted(self, target: EditTarget, plane: SlicePlane) -> bool:
        """Whether a slice is accepted; a list that cannot be read holds none."""
        return plane.voxel_slice is not None and _readable(target).holds(*plane.voxel_slice)

    def written(self, target: EditTarget, plane: SlicePlane) -> None:
        """The result of a prompt was written, in an undo step that was begun before."""
        if plane.voxel_slice is None:
            return
        if self._open is not None and not _same(self._open, (target, plane)):
            self._finish()
        write_accepted(target.segment, _readable(target).added(plane.voxel_slice[0], plane.voxel_slice[1]))
        self._open = (target, plane)

    def accept(self, target: EditTarget, plane: SlicePlane) -> None:
        """The user accepts a slice as it is.

        Raises:
            GeometryError: The plane is oblique.
        """
        if plane.voxel_slice is None:
            raise GeometryError(
                "Only slices along the axes of the volume can be accepted, and this view is oblique. Press 'Align "
                "view', or add the slice to the context."
            )
        if not self.is_accepted(target, plane):
            self._save_state()
            self.written(target, plane)
        self._open = (target, plane)
        self._finish()

    def unaccept_slice(self, target: EditTarget, plane: SlicePlane) -> bool:
        """The slice is no longer accepted; the segment stays as it is. Returns whether it was."""
        if plane.voxel_slice is None or not self.is_accepted(target, plane):
            return False
        self._save_state()
        write_accepted(target.segment, _readable(target).removed(*plane.voxel_slice))
        if self._open is not None and _same(self._open, (target, plane)):
            self._open = None
        return True

    def slice_viewed(self, target: EditTarget | None = None, plane: SlicePlane | None = None) -> None:
        """The user looks at a slice now, or at none; one that was left for it is finished."""
        if self._open is None:
            return
        if target is None or plane is None or not _same(self._open, (target, plane)):
            self._finish()

    def forget(self) -> None:
        """Let go of what is open, as when the scene closes."""
        self._open = None

    def _finish(self) -> None:
        left, self._open = self._open, None
        # It may have been undone meanwhile.
        if left is not None and left[0].exists and self.is_accepted(*left):
            self._on_finished(*left)


def _readable(target: EditTarget) -> AcceptedSlices:
    """The list, or a new one where it cannot be read."""
    try:
        return read_accepted(target.segment, target.reference.grid)
    except FileFormatError:
        return AcceptedSlices(target.reference.grid)


def _same(one: tuple[EditTarget, SlicePlane], other: tuple[Any, Any]) -> bool:
    return one[0].same_segment(other[0]) and one[1].matches(other[1])


@dataclass(frozen=True)
class ControllerOptions:
    """What the user set in the effect's options.

    Attributes:
        automatic: Write a result as soon as it is there; otherwise it becomes a preview until `accept`.
        protect_visible: Other visible segments are never overwritten.
        learn_from_others: Other visible segments tell the network where the object is not.
        clean_up: From logits to mask.
    """

    automatic: bool = True
    protect_visible: bool = True
    learn_from_others: bool = False
    clean_up: CleanUp = field(default_factory=CleanUp)


@dataclass(frozen=True)
class Update:
    """What `poll` brought.

    Attributes:
        changed: Whether a segment or the preview changed.
        problem: What went wrong and what to do about it, or None.
    """

    changed: bool = False
    problem: str | None = None


class ScribbleController:
    """Turns gestures into predictions, and predictions into segments.

    Attributes:
        options: May be replaced at any time; `reapply` makes new ones count for the current result.
        preview: The result that waits to be accepted, or None.
        acceptance: Which slices are accepted.
    """

    def __init__(
        self,
        inference: InferenceService,
        *,
        save_state: Callable[[], object],
        images: SourceImages | None = None,
        options: ControllerOptions | None = None,
        context_of: Callable[[EditTarget], ContextSet | None] = lambda target: None,
        on_finished: Callable[[EditTarget, SlicePlane], object] = lambda target, plane: None,
    ) -> None:
        """Connect to inference and to the editor's undo.

        Args:
            inference: Predicts slices on its own thread.
            save_state: Saves Slicer's undo state; called once before each gesture changes anything.
            images: Cache of images, shared when several controllers work on the same scene.
            options: Defaults when absent.
            context_of: Gives the segmented images that a segment's slices are predicted like, or None; must not wait
                for anything.
            on_finished: Told of slices that the user has finished, see `SliceAcceptance`.
        """
        self.options = options or ControllerOptions()
        self.preview: SliceResult | None = None
        self.acceptance = SliceAcceptance(save_state=save_state, on_finished=on_finished)
        self._save_state = save_state
        self._context_of = context_of
        self._images = images or SourceImages()
        self._results = SliceResults()
        self._requests = SliceRequests(context_of)
        self._queue = PredictionQueue(inference, self._prepare)
        self._unanswered: list[SliceJob] = []
        self._reapplied: SliceResult | None = None

    @property
    def busy(self) -> bool:
        """Whether a result is on its way, so that `poll` must be called."""
        return self._queue.busy

    # What the user does -----------------------------------------------------------------------------------------

    def target(self, editor_node: Any) -> EditTarget:
        """Read the editor's selections and get the image ready, which may take a while for the first time.

        Raises:
            ScribbleSegmentError: Something is missing or does not fit; the message says what to do.
        """
        return resolve_target(editor_node, self._images)

    def place(self, editor_node: Any, slice_node: Any) -> tuple[EditTarget, SlicePlane]:
        """Find what a slice view shows of the target.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode.

        Returns:
            The target, and the slice as a raster in its segmentation's millimetres.

        Raises:
            ScribbleSegmentError: Something is missing, or the view does not cut the volume.
        """
        target = self.target(editor_node)
        return target, view_plane(slice_node, target.segmentation_node, target.reference.grid)

    def paint(
        self, editor_node: Any, slice_node: Any, points_world: ArrayLike, radius_mm: float, *, positive: bool
    ) -> None:
        """Add a stroke.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode of the view it was drawn in.
            points_world: (N, 3) RAS millimetres in the world, in drawing order.
            radius_mm: Half the brush's diameter.
            positive: Whether it marks the object or the background.

        Raises:
            ScribbleSegmentError: Nothing can be segmented here; nothing was changed.
        """

        def stroke(to_mm: NDArray[np.float64]) -> Gesture:
            # A parent transform that scales makes a round brush in the world larger or smaller in the segmentation.
            return Stroke(_points(points_world, to_mm), radius_mm * length_scale(to_mm), positive)

        self._add(editor_node, slice_node, stroke)

    def click(self, editor_node: Any, slice_node: Any, point_world: ArrayLike, *, positive: bool) -> None:
        """Add a click at a point (3,) in world RAS millimetres.

        Raises:
            ScribbleSegmentError: Nothing can be segmented here; nothing was changed.
        """
        self._add(editor_node, slice_node, lambda to_mm: Click(_points(point_world, to_mm)[0], positive))

    def drag_box(self, editor_node: Any, slice_node: Any, corner_world: ArrayLike, opposite_world: ArrayLike) -> None:
        """Add a box between two opposite corners (3,) in world RAS millimetres.

        Raises:
            ScribbleSegmentError: Nothing can be segmented here; nothing was changed.
        """
        self._add(editor_node, slice_node, lambda to_mm: Box(*_points(np.stack([corner_world, opposite_world]), to_mm)))

    def remove_gesture(self, editor_node: Any, slice_node: Any, index: int = -1) -> bool:
        """Remove one gesture of the shown slice, and predict anew from the others.

        Args:
            editor_node: vtkMRMLSegmentEditorNode.
            slice_node: vtkMRMLSliceNode.
            index: Which, in drawing order; the newest by default.

        Returns:
            Whether there was one.
        """
        target, plane = self.place(editor_node, slice_node)
        drawn = target.gestures.on(plane)
        if drawn is None or not -len(drawn.gestures) <= index < len(drawn.gestures):
            return False
        self._record(target, target.gestures.removed(plane, index % len(drawn.gestures)))
        if target.gestures.on(plane) is None:
            self._queue.drop(target, plane)
        else:
            self._request(target, drawn.plane)
        return True

    def clear_slice(self, editor_node: Any, slice_node: Any) -> bool:
        """Remove all gestures of the shown slice; the segment stays as it is. Returns whether there were any."""
        target, plane = self.place(editor_node, slice_node)
        if target.gestures.on(plane) is None:
            return False
        self._record(target, target.gestures.cleared(plane))
        self._queue.drop(target, plane)
        return True

    def clear_segment(self, editor_node: Any) -> bool:
        """Remove the gestures of all slices of the segment; it stays as it is. Returns whether there were any."""
        target = self.target(editor_node)
        if target.gestures.is_empty:
            return False
        self._record(target, Drawing())
        self._queue.drop(target)
        return True

    def predict(self, editor_node: Any, slice_node: Any) -> bool:
        """Predict the shown slice anew from its gestures, as after a change of the network.

        Returns:
            Whether there are gestures to predict from.
        """
        target, plane = self.place(editor_node, slice_node)
        drawn = target.gestures.on(plane)
        if drawn is None:
            return False
        self._request(target, drawn.plane)
        return True

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
        drawn = target.gestures.on(plane)
        if drawn is not None:
            self._request(target, drawn.plane)
        else:
            self._queue.add(SliceJob(target, plane, (), added=False))

    def accept_slice(self, editor_node: Any, slice_node: Any) -> None:
        """Accept the shown slice as it is, or write the preview if there is one, which accepts its slice.

        Raises:
            ScribbleSegmentError: The view is oblique or shows no slice of the volume; nothing was accepted.
        """
        previewed = self.preview
        if previewed is not None and self.accept():
            target, plane = previewed.target, previewed.plane
            if plane.voxel_slice is None:
                return
        else:
            target, plane = self.place(editor_node, slice_node)
        self.acceptance.accept(target, plane)

    def take_back_slice(self, editor_node: Any, slice_node: Any) -> bool:
        """Count the shown slice no longer among the accepted ones. Returns whether it was one."""
        return self.acceptance.unaccept_slice(*self.place(editor_node, slice_node))

    def accept(self) -> bool:
        """Write the preview to its segment, as one undo step. Returns whether there was one that still applies."""
        preview, self.preview = self.preview, None
        if preview is None or not self._applies(preview.target, preview.plane, preview.gestures):
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
            return False
        if self.preview is not None or result.written is None:
            self.preview = result
            return True
        if self._reapplied is not result:
            self._save_state()
        self._reapplied = None if finished else result
        return self._write(result)

    def forget(self) -> None:
        """Let go of everything that is not in the scene: running predictions, previews, images."""
        self._queue.clear()
        self._unanswered.clear()
        self._results.clear()
        self._images.forget()
        self.acceptance.forget()
        self._requests.forget()
        self.preview = self._reapplied = None

    # What comes back --------------------------------------------------------------------------------------------

    def poll(self) -> Update:
        """Take in finished predictions: write them, or make them the preview. Stale ones are dropped."""
        changed, problem = False, None
        for prepared, task in self._queue.poll():
            try:
                changed |= self._take(prepared, task)
            except ScribbleSegmentError as error:
                problem = str(error)
        try:
            self._queue.go_on()
        except ScribbleSegmentError as error:
            problem = str(error)
        return Update(changed, problem)

    def retry(self) -> bool:
        """Predict what failed before, as after the network was installed. Returns whether there was anything."""
        unanswered, self._unanswered = self._unanswered, []
        for job in unanswered:
            if self._applies(job.target, job.plane, job.gestures):
                self._queue.add(job)
        return self._queue.busy

    # What to show -----------------------------------------------------------------------------------------------

    def result_on(self, target: EditTarget, plane: SlicePlane) -> SliceResult | None:
        """Give the prediction that answers what was drawn on a slice, if it is known.

        Where nothing was drawn, that is one from the context alone, as long as the segment still shows it.
        """
        drawn = target.gestures.on(plane)
        if drawn is not None:
            return self._results.find(target, drawn.plane, drawn.gestures)
        result = self._results.find(target, plane, ())
        if result is None or result.written is None:
            return result if result is self.preview else None
        content = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, result.plane)
        return result if np.array_equal(content, result.written) else None

    def mask_of(self, result: SliceResult) -> NDArray[np.bool_]:
        """Give a result's mask under the current options, bool (H, W); protected segments are not yet cut out."""
        return self.options.clean_up.mask(result.logits, anchors=result.anchors, spacing_mm=result.plane.spacing_mm)

    # ------------------------------------------------------------------------------------------------------------

    def _add(self, editor_node: Any, slice_node: Any, make: Callable[[NDArray[np.float64]], Gesture]) -> None:
        target, plane = self.place(editor_node, slice_node)
        gesture = make(world_to_mm(target.segmentation_node))
        drawn = target.gestures.on(plane)
        # The raster of the first gesture stays, however the view is turned since.
        plane = plane if drawn is None else drawn.plane
        if rasterize((gesture,), plane).is_empty:
            raise PromptError("Nothing was drawn on the image: the stroke lies outside of the volume.")
        self._record(target, target.gestures.added(plane, gesture))
        self._request(target, plane, added=True)

    def _record(self, target: EditTarget, gestures: Drawing) -> None:
        self._save_state()
        self.preview = self._reapplied = None
        write_drawing(target.segment, gestures)

    def _request(self, target: EditTarget, plane: SlicePlane, *, added: bool = False) -> None:
        drawn = target.gestures.on(plane)
        if drawn is not None:
            self._queue.add(SliceJob(target, drawn.plane, drawn.gestures, added))

    def _prepare(self, job: SliceJob) -> PreparedJob | None:
        if not self._applies(job.target, job.plane, job.gestures):
            return None
        previous = self._results.find(job.target, job.plane, job.gestures[:-1]) if job.gestures else None
        return self._requests.make(job, previous, learn_from_others=self.options.learn_from_others)

    def _take(self, prepared: PreparedJob, task: Task[Logits]) -> bool:
        job = prepared.job
        if not job.target.exists:
            return False
        applies = self._applies(job.target, job.plane, job.gestures)
        error = task.exception()
        if error is not None:
            if not applies:
                return False
            self._unanswered = [*(kept for kept in self._unanswered if not kept.is_for(job.target, job.plane)), job]
            raise error
        target = job.target
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            # Another image since: what was drawn applies to that one now.
            self._request(now, job.plane, added=job.added)
            return False
        result = SliceResult(job.target, job.plane, job.gestures, task.result(), prepared.anchors)
        # Also when a newer gesture waits already: its prediction goes on from this one.
        self._results.add(result)
        if not applies:
            return False
        if not self.options.automatic:
            self.preview = result
            return True
        if not job.gestures:
            self._save_state()  # else the gesture began the undo step
        return self._write(result, accepted=bool(job.gestures))

    def _applies(self, target: EditTarget, plane: SlicePlane, gestures: tuple[Gesture, ...]) -> bool:
        """Whether the segment still is where this was asked for, with the same gestures on the slice."""
        if not target.exists:
            return False
        drawn = target.gestures.on(plane)
        return (() if drawn is None else drawn.gestures) == gestures

    def _write(self, result: SliceResult, *, accepted: bool = False) -> bool:
        target, plane = result.target, result.plane
        changed = write_mask(target, plane, self.mask_of(result), protect=self._protected(target))
        result.written = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
        if accepted:
            self.acceptance.written(target, plane)
        return changed

    def _protected(self, target: EditTarget) -> Sequence[str]:
        if not self.options.protect_visible:
            return ()
        return visible_other_segments(target.segmentation_node, target.segment_id)


def _points(world: ArrayLike, to_mm: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    """Bring (N, 3) world points to the segmentation's millimetres."""
    points = transformed(to_mm, np.asarray(world, float).reshape(-1, 3))
    return tuple((x, y, z) for x, y, z in points.tolist())
