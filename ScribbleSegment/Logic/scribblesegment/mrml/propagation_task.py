"""A propagation under way: takes slices as they come and writes them, all of them as one undo step."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import ScribbleSegmentError
from scribblesegment.mrml.accepted_slices import accepted_text, write_accepted
from scribblesegment.mrml.edit_target import target_of
from scribblesegment.mrml.propagation_history import FinishedRun, note_run, packed_content, run_of
from scribblesegment.mrml.propagation_plan import Mask, PropagationPlan, SegmentPlan
from scribblesegment.mrml.propagation_report import PropagationReport, SegmentReport
from scribblesegment.mrml.segments import segment_on_plane
from scribblesegment.mrml.slice_writer import write_slices
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.volume_axes import grid_slice
from scribblesegment.propagation_request import PropagationFeed, VolumeInference
from scribblesegment.slice_plane import SlicePlane

if TYPE_CHECKING:
    from scribblesegment.propagation import PropagatedSlice, Propagation

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
        inference: VolumeInference,
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
        self.feed = PropagationFeed(plan.request)
        self._inference, self._save_state, self._images, self._clock = inference, save_state, images, clock
        self._run_id = uuid.uuid4().hex
        self._pending: dict[tuple[int, int], PropagatedSlice] = {}
        self._expected: dict[int, str] = {
            label: accepted_text(one.target.segment) for label, one in plan.segments.items()
        }
        self._begun = self._closed = self._undone = self._complete = False
        self._next_write = clock()
        self._written: dict[int, set[int]] = {label: set() for label in plan.segments}
        self._content: dict[int, dict[int, NDArray[np.uint8]]] = {}
        inference.propagate(self.feed)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come or be written."""
        return self._closed and (self.feed.ended or self._is_lost)

    def poll(self) -> TaskUpdate:
        """Take slices and write them when it is time."""
        if self._closed:
            return TaskUpdate()
        if self._is_lost:
            self.feed = PropagationFeed(self.plan.request)
            self._inference.propagate(self.feed)
        ended = self.feed.ended
        self._pending.update({(made.label, made.index): made for made in self.feed.take()})
        if not ended and (not self._pending or self._clock() < self._next_write):
            return self._abandoned() if self._undone_meanwhile() else TaskUpdate()
        try:
            changed = self._write(finished=ended)
        except ScribbleSegmentError as error:
            self._close()
            return TaskUpdate(problem=f"{error} What was propagated until then is kept.")
        problem = self.feed.error if ended else None
        if ended and not self._closed:
            results = self.feed.result.values()
            self._complete = problem is None and not any(result.cancelled for result in results)
            self._close()
        return TaskUpdate(changed, None if problem is None else str(problem))

    def stop(self) -> bool:
        """End it and keep what is done. Returns whether a segment changed."""
        if self._closed:
            return False
        self.feed.cancel()
        self._pending.update({(made.label, made.index): made for made in self.feed.take()})
        try:
            return self._write(finished=False)
        except ScribbleSegmentError:
            return False  # what it was about has gone
        finally:
            self._close()

    def drop(self) -> None:
        """End it and write nothing more, as when the scene closes."""
        self.feed.cancel()
        self._closed = True

    def report(self) -> PropagationReport:
        """Tell what became of it; complete once `ended`."""
        results = self.feed.result
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
            if label in self._content and (result := self.feed.result.get(label)) is not None
        ]

    # ------------------------------------------------------------------------------------------------------------

    @property
    def _is_lost(self) -> bool:
        """Whether inference has dropped it for something newer before it had begun."""
        return not (self.feed.begun or self.feed.ended or self._inference.busy)

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
        result = self.feed.result.get(label)
        if one.finished is None or result is None or result.cancelled or self.feed.error is not None:
            return []
        start, stop = self.plan.request.index_range or (0, one.target.reference.grid.shape[self.plan.axis])
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
            self.feed.cancel()
            raise ScribbleSegmentError("The source volume or the geometry of the segmentation was changed.")

    def _close(self) -> None:
        """Write no more, and note what is in the segments now, so that later edits can be told from it."""
        self.feed.cancel()
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
