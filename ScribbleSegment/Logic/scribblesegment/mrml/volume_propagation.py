"""Between the effect and propagation: from accepted slices to the rest of the volume, without Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scribblesegment.context import ContextSet
from scribblesegment.mrml.edit_target import EditTarget, resolve_target, target_of
from scribblesegment.mrml.propagation_history import PropagationHistory
from scribblesegment.mrml.propagation_plan import PropagationOptions, plan_propagation
from scribblesegment.mrml.propagation_report import PropagationReport
from scribblesegment.mrml.propagation_task import PropagationTask
from scribblesegment.mrml.segments import visible_other_segments
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.volume_axes import shown_slice
from scribblesegment.propagation_request import PropagationProgress, VolumeInference


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
        inference: VolumeInference,
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
    def progress(self) -> PropagationProgress:
        """How far it is."""
        return PropagationProgress() if self._task is None else self._task.feed.progress

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
