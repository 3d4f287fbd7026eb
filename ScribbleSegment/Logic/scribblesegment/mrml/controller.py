"""Between the Segment Editor effect and the package: gestures in, segments out, without Qt.

The effect hands over what the user drew and calls `poll` while `busy`; everything else happens here. All methods run on
the main thread, because only it may touch MRML; inference runs elsewhere, behind `SliceInference`.

Prompts are kept in a tag of their segment (`prompt_tags`), so Slicer's own undo, redo, copy, save and load take them
along with the voxels. Whether a result is stale is decided by comparing that tag with what was asked for: there is no
history and no observer of our own that could fall out of step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.context import ContextSet
from scribblesegment.exceptions import PromptError, ScribbleSegmentError
from scribblesegment.gestures import Box, Click, Gesture, SegmentGestures, Stroke
from scribblesegment.mrml.controller_options import ControllerOptions
from scribblesegment.mrml.edit_target import EditTarget, resolve_target, target_of
from scribblesegment.mrml.geometry import length_scale, transformed, view_plane, world_to_mm
from scribblesegment.mrml.prediction_queue import PredictionQueue, PreparedJob, SliceJob
from scribblesegment.mrml.prompt_tags import write_gestures
from scribblesegment.mrml.segments import segment_on_plane, visible_other_segments
from scribblesegment.mrml.slice_acceptance import SliceAcceptance
from scribblesegment.mrml.slice_requests import SliceRequests
from scribblesegment.mrml.slice_result import SliceResult, SliceResults
from scribblesegment.mrml.slice_writer import write_mask
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.rasterization import rasterize
from scribblesegment.slice_plane import SlicePlane
from scribblesegment.slice_request import SliceInference, SliceOutcome

__all__ = ["ControllerOptions", "ScribbleController", "Update"]


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
        inference: SliceInference,
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
        self._record(target, SegmentGestures())
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
        return self.acceptance.take_back(*self.place(editor_node, slice_node))

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
        for prepared, outcome in self._queue.poll():
            try:
                changed |= self._take(prepared, outcome)
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

    def _record(self, target: EditTarget, gestures: SegmentGestures) -> None:
        self._save_state()
        self.preview = self._reapplied = None
        write_gestures(target.segment, gestures)

    def _request(self, target: EditTarget, plane: SlicePlane, *, added: bool = False) -> None:
        drawn = target.gestures.on(plane)
        if drawn is not None:
            self._queue.add(SliceJob(target, drawn.plane, drawn.gestures, added))

    def _prepare(self, job: SliceJob) -> PreparedJob | None:
        if not self._applies(job.target, job.plane, job.gestures):
            return None
        previous = self._results.find(job.target, job.plane, job.gestures[:-1]) if job.gestures else None
        return self._requests.make(job, previous, learn_from_others=self.options.learn_from_others)

    def _take(self, prepared: PreparedJob, outcome: SliceOutcome) -> bool:
        job = prepared.job
        if not job.target.exists:
            return False
        applies = self._applies(job.target, job.plane, job.gestures)
        if outcome.error is not None:
            if not applies:
                return False
            self._unanswered = [*(kept for kept in self._unanswered if not kept.is_for(job.target, job.plane)), job]
            raise outcome.error
        target = job.target
        now = target_of(target.editor_node, target.segmentation_node, target.segment_id, self._images)
        if now.source.token != target.source.token:
            # Another image since: what was drawn applies to that one now.
            self._request(now, job.plane, added=job.added)
            return False
        if outcome.logits is None:
            return False
        result = SliceResult(job.target, job.plane, job.gestures, outcome.logits, prepared.anchors)
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
