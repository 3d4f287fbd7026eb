"""What a propagation is to do: which segments, from which accepted slices, and what it must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scribblesegment.clean_up import CleanUp
from scribblesegment.context import ContextSet
from scribblesegment.exceptions import GeometryError, PromptError
from scribblesegment.mrml.accepted_slices import AcceptedSlices, read_accepted
from scribblesegment.mrml.context_entries import source_name
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.forbidden_voxels import forbidden_voxels
from scribblesegment.mrml.propagation_history import FinishedRun, PropagationHistory
from scribblesegment.mrml.segments import segment_on_plane, visible_other_segments
from scribblesegment.mrml.volume_axes import grid_slice
from scribblesegment.propagation_request import PropagationRequest, SegmentToPropagate

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
        request: What the inference thread is given.
    """

    axis: int
    segments: dict[int, SegmentPlan]
    protect: tuple[str, ...]
    options: PropagationOptions
    made_from: Hashable
    request: PropagationRequest


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
    request = PropagationRequest(
        array=first.source.array,
        ijk_to_mm=first.reference.grid.ijk_to_mm,
        axis=axis,
        segments={
            label: SegmentToPropagate(
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
    return PropagationPlan(axis, segments, tuple(protect), options, made_from, request)


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
