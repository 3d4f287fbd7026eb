"""What inference is given for a slice: image, prompts, what is known already, and context."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context import ContextSet
from scribblesegment.mrml.context_entries import slice_context
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.prediction_queue import PreparedJob, SliceJob
from scribblesegment.mrml.segments import segment_on_plane, segments_on_plane, visible_other_segments
from scribblesegment.mrml.slice_result import SliceResult, anchors_of, prior_logits
from scribblesegment.neighbours import with_neighbours
from scribblesegment.rasterization import rasterize
from scribblesegment.slice_plane import SlicePlane, sample
from scribblesegment.slice_request import SliceRequest


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
