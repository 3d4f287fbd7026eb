"""Predictions of the slices that are being worked on, remembered so that corrections build on them.

Nothing here is needed to show or save a segmentation; a lost entry costs the next prediction its head start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.gestures import Gesture
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.prompts import Prompts
from scribblesegment.slice_plane import SlicePlane

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
