"""From what is drawn in a slice view to the voxels of a segment: draw, predict, preview, write, accept. Without Qt.

The effect hands over what the user drew and calls `poll` while `busy`; everything else happens here. All methods run on
the main thread, because only it may touch MRML; inference runs elsewhere, in an `InferenceService`.

Prompts and accepted slices are kept in tags of their segment (`tags`), so Slicer's own undo, redo, copy, save and load
take them along with the voxels. Whether a result is stale is decided by comparing that tag with what was asked for:
there is no history and no observer of our own that could fall out of step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Box, Click, Drawing, Gesture, Stroke
from scribblesegment.data.geometry import SlicePlane, sample
from scribblesegment.data.masks import CleanUp, with_neighbours
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

# Slices of 512 x 512 take 1 MB of logits each.
_MOST_RESULTS = 64

# Logit given to what is already in the segment but was not predicted: as sure as the network is well inside an object.
_CONTENT_LOGIT = np.float32(4.0)


@dataclass(frozen=True)
class SegmenterOptions:
    """What the user set in the effect's options."""

    automatic: bool = True  # write a result as soon as it is there; otherwise it becomes a preview until `accept`
    protect_visible: bool = True  # other visible segments are never overwritten
    learn_from_others: bool = False  # other visible segments tell the network where the object is not
    clean_up: CleanUp = field(default_factory=CleanUp)  # from logits to mask


@dataclass(frozen=True)
class Update:
    """What `poll` brought."""

    changed: bool = False  # whether a segment or the preview changed
    problem: str | None = None  # what went wrong and what to do about it


@dataclass(eq=False)
class SliceTask:
    """One slice of a segment, on its way from what was drawn to what was written."""

    target: EditTarget
    plane: SlicePlane
    gestures: tuple[Gesture, ...]  # what was drawn on it when the prediction was asked for
    added: bool = False  # whether the newest gesture was added, so that the prediction goes on from the state before it
    prediction: Task[Logits] | None = None  # None until it is handed over
    # bool (H, W), where the object is for sure: positive prompts and earlier content; see `CleanUp.mask`.
    anchors: NDArray[np.bool_] = field(init=False)
    logits: Logits = field(init=False)  # float32 (H, W), once it is predicted
    written: NDArray[np.bool_] | None = None  # (H, W), the segment on the plane after the result was written

    def is_for(self, target: EditTarget, plane: SlicePlane | None = None) -> bool:
        """Whether it is about a segment, and about a slice of it if one is given."""
        return self.target.same_segment(target) and (plane is None or self.plane.matches(plane))

    @property
    def applies(self) -> bool:
        """Whether the segment still is where this was asked for, with the same gestures on the slice."""
        return self.target.exists and _drawn_on(self.target, self.plane) == self.gestures


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
    ) -> None:
        """Connect to inference and to the editor's undo.

        Args:
            inference: Predicts slices on its own thread.
            save_state: Saves Slicer's undo state; called once before each gesture changes anything.
            images: Cache of images, shared with others that work on the same scene.
            options: Defaults when absent.
            context_of: Gives the segmented images that a segment's slices are predicted like, or None; must not wait
                for anything.
            on_finished: Told of an accepted slice along an axis when the user goes on to another one.
        """
        self.options = options or SegmenterOptions()  # may be replaced; `reapply` makes them count for what is shown
        self.preview: SliceTask | None = None  # the result that waits to be accepted
        self._inference = inference
        self._save_state = save_state
        self._context_of = context_of
        self._on_finished = on_finished
        self._images = images or SourceImages()
        self._waiting: list[SliceTask] = []  # oldest first
        self._running: SliceTask | None = None
        self._failed: list[SliceTask] = []
        self._results: list[SliceTask] = []  # oldest first
        self._reapplied: SliceTask | None = None  # whose undo step goes on
        self._open: tuple[EditTarget, SlicePlane] | None = None  # accepted, and not yet told of
        # The newest slice with its token: interpolating an oblique one takes as long as predicting it.
        self._image: tuple[Hashable, NDArray[Any]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a result is on its way, so that `poll` must be called."""
        return self._running is not None or bool(self._waiting)

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

    def paint(
        self, editor_node: Any, slice_node: Any, points_world: ArrayLike, radius_mm: float, *, positive: bool
    ) -> None:
        """Add a stroke through points (N, 3), world RAS millimetres, with half the brush's diameter.

        Raises:
            ScribbleSegmentError: Nothing can be segmented here; nothing was changed.
        """
        target, plane = self.place(editor_node, slice_node)
        to_mm = world_to_mm(target.segmentation_node)
        # A parent transform that scales makes a round brush in the world larger or smaller in the segmentation.
        radius = radius_mm * length_scale(to_mm)
        self._add(target, plane, Stroke(_points(points_world, to_mm), radius, positive))

    def click(self, editor_node: Any, slice_node: Any, point_world: ArrayLike, *, positive: bool) -> None:
        """Add a click at a point (3,) in world RAS millimetres; raises as `paint` does."""
        target, plane = self.place(editor_node, slice_node)
        (point,) = _points(point_world, world_to_mm(target.segmentation_node))
        self._add(target, plane, Click(point, positive))

    def drag_box(self, editor_node: Any, slice_node: Any, corner_world: ArrayLike, opposite_world: ArrayLike) -> None:
        """Add a box between two opposite corners (3,) in world RAS millimetres; raises as `paint` does."""
        target, plane = self.place(editor_node, slice_node)
        corners = np.stack([corner_world, opposite_world])
        self._add(target, plane, Box(*_points(corners, world_to_mm(target.segmentation_node))))

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
        if target.gestures.is_empty:
            return False
        self._record(target, Drawing())
        self._drop(target)
        return True

    def predict(self, editor_node: Any, slice_node: Any) -> bool:
        """Predict the shown slice again, as after a change of the network. Returns whether anything is drawn on it."""
        target, plane = self.place(editor_node, slice_node)
        drawn = bool(_drawn_on(target, plane))
        if drawn:
            self._request(target, plane)
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
        self._request(target, plane)

    def accept(self) -> bool:
        """Write the preview to its segment, as one undo step. Returns whether there was one that still applies."""
        preview, self.preview = self.preview, None
        if preview is None or not preview.applies:
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
        result = self.result_on(*self.place(editor_node, slice_node))
        if result is None:
            return False
        if self.preview is not None or result.written is None:
            self.preview = result
            return True
        if self._reapplied is not result:
            self._save_state()
        self._reapplied = None if finished else result
        return self._write(result)

    def reset(self) -> None:
        """Let go of everything that is not in the scene: running predictions, previews, images."""
        if self._running is not None and self._running.prediction is not None:
            self._running.prediction.cancel()
        for tasks in (self._waiting, self._failed, self._results):
            tasks.clear()
        self._images.clear()
        self._running = self.preview = self._reapplied = self._open = self._image = None

    # Accepted slices ------------------------------------------------------------------------------------------------

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
        if plane.voxel_slice is None:
            raise GeometryError(
                "Only slices along the axes of the volume can be accepted, and this view is oblique. Press 'Align "
                "view', or add the slice to the context."
            )
        if not _is_accepted(target, plane):
            self._save_state()
            self._mark_accepted(target, plane)
        self._open = (target, plane)
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
        """The user looks at a slice now, or at none; an accepted one that was left for it is finished."""
        left = self._open
        if left is None or self._is_open(target, plane):
            return
        self._open = None
        if left[0].exists and _is_accepted(*left):  # it may have been undone meanwhile
            self._on_finished(*left)

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
            self._open = (target, plane)

    # What comes back ------------------------------------------------------------------------------------------------

    def poll(self) -> Update:
        """Take in a finished prediction: write it, or make it the preview. A stale one is dropped."""
        changed, problem = False, None
        try:
            changed = self._take()
        except ScribbleSegmentError as error:
            problem = str(error)
        try:
            self._start_next()
        except ScribbleSegmentError as error:
            problem = str(error)
        return Update(changed, problem)

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
        content = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, result.plane)
        return result if np.array_equal(content, result.written) else None

    def mask_of(self, result: SliceTask) -> NDArray[np.bool_]:
        """Give a result's mask under the current options, bool (H, W); protected segments are not yet cut out."""
        return self.options.clean_up.mask(result.logits, anchors=result.anchors, spacing_mm=result.plane.spacing_mm)

    # From a gesture to a request ------------------------------------------------------------------------------------

    def _add(self, target: EditTarget, plane: SlicePlane, gesture: Gesture) -> None:
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
        task = SliceTask(target, plane, ()) if drawn is None else SliceTask(target, drawn.plane, drawn.gestures, added)
        self._queue(task)

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
        target, plane, source = task.target, task.plane, task.target.source
        node, segment_id = target.segmentation_node, target.segment_id
        previous = self._find(target, plane, task.gestures[:-1]) if task.gestures else None
        content = segment_on_plane(node, segment_id, target.reference, plane)
        if not task.added:
            # Removing a gesture takes back what it had brought, so the content says nothing then.
            content = np.zeros_like(content) if previous is None or previous.written is None else previous.written
        own = prompts = rasterize(task.gestures, plane)
        if self.options.learn_from_others:
            others = visible_other_segments(node, segment_id)
            prompts = with_neighbours(own, segments_on_plane(node, others, target.reference, plane))
        # Without prompts, no piece of the result is wanted less than another.
        task.anchors = content | own.positive_pixels() if task.gestures else np.ones_like(content)
        token = (source.token, *_raster_key(plane))
        if self._image is None or self._image[0] != token:
            outside = source.intensity_range.low
            self._image = token, sample(source.array, target.reference.grid, plane, outside=outside)
        return SliceRequest(
            image=self._image[1],
            image_token=token,
            spacing_mm=plane.spacing_mm,
            intensity_range=source.intensity_range,
            prompts=prompts.with_mask_input(_prior_logits(previous, content)),
            context=slice_context(target, plane, self._context_of(target)),
        )

    # From a result to the segment -----------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Take in the prediction that came to its end. Returns whether a segment or the preview changed."""
        task = self._running
        if task is None or task.prediction is None or not task.prediction.done:
            return False
        self._running = None
        if task.prediction.cancelled:
            # The service was ended meanwhile. What is not asked for again waits for it to go on.
            if not any(newer.is_for(task.target, task.plane) for newer in self._waiting):
                self._waiting.append(task)
            return False
        target = task.target
        if not target.exists:
            return False
        applies, error = task.applies, task.prediction.exception()
        if error is not None:
            if not applies:
                return False
            self._failed = [*(one for one in self._failed if not one.is_for(target, task.plane)), task]
            raise error
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            # Another image since: what was drawn applies to that one now.
            if _drawn_on(now, task.plane):
                self._request(now, task.plane, added=task.added)
            return False
        task.logits = task.prediction.result()
        # Also when a newer gesture waits already: its prediction goes on from this one.
        older = self._find(target, task.plane, task.gestures)
        kept = [result for result in self._results if result is not older]
        self._results = [*kept[1 - _MOST_RESULTS :], task]
        if not applies:
            return False
        if not self.options.automatic:
            self.preview = task
            return True
        if not task.gestures:
            self._save_state()  # else the gesture began the undo step
        return self._write(task, accepted=bool(task.gestures))

    def _find(self, target: EditTarget, plane: SlicePlane, gestures: tuple[Gesture, ...]) -> SliceTask | None:
        """The newest result for exactly these gestures."""
        found = (one for one in reversed(self._results) if one.gestures == gestures and one.is_for(target, plane))
        return next(found, None)

    def _write(self, result: SliceTask, *, accepted: bool = False) -> bool:
        target, plane, node = result.target, result.plane, result.target.segmentation_node
        protect = visible_other_segments(node, target.segment_id) if self.options.protect_visible else ()
        changed = write_mask(target, plane, self.mask_of(result), protect=protect)
        result.written = segment_on_plane(node, target.segment_id, target.reference, plane)
        if accepted:
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
