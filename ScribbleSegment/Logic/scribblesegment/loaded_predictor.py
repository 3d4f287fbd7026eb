"""A predictor on the inference thread, which is given images and contexts only when they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context import ContextSet
from scribblesegment.preprocessing import IntensityRange
from scribblesegment.propagation_request import PropagationFeed, PropagationProgress
from scribblesegment.slice_context import same_entries
from scribblesegment.slice_request import SliceRequest

if TYPE_CHECKING:
    from scribblesegment.devices import ExecutionPlan
    from scribblesegment.predictor import Prediction
    from scribblesegment.prompts import Prompts
    from scribblesegment.propagation import PropagationRun


class SlicePredictor(Protocol):
    """What inference needs of a predictor; `scribblesegment.Predictor` has it.

    One that segments in context has `capabilities` with "context" among them, and `set_context`.
    """

    @property
    def plan(self) -> ExecutionPlan:
        """Where and how it runs."""

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Takes the image (H, W) that the following predictions are about."""

    def predict(self, prompts: Prompts, /) -> Prediction:
        """Segments the image."""


class LoadedPredictor:
    """Predicts slices and propagates them; remembers what the predictor was given last.

    Attributes:
        predictor: The predictor.
        takes_context: Whether its network segments in context.
    """

    def __init__(self, predictor: SlicePredictor) -> None:
        """Take a predictor that was given nothing yet."""
        self.predictor: Any = predictor
        self.takes_context = "context" in getattr(predictor, "capabilities", ())
        self._image_token: Hashable = None
        self._shown: ContextSet | None = None
        self._shown_is_known = True
        self._choice: tuple[Hashable, ContextSet, ContextSet] | None = None

    def predict(self, request: SliceRequest) -> NDArray[np.float32]:
        """Segment a slice; returns logits (H, W)."""
        token, self._image_token = self._image_token, None
        is_new = token is None or token != request.image_token
        if self.takes_context:
            chosen = self._chosen(request)
            known, self._shown_is_known = self._shown_is_known, False
            changes = not (known and same_entries(chosen, self._shown))
            if changes and is_new and (self._shown or not known):
                self.predictor.set_context(None)  # else it would be matched with an image it is not for
            if is_new:
                self._set_image(request)
            if changes:
                self.predictor.set_context(chosen)
            self._shown, self._shown_is_known = chosen, True
        elif is_new:
            self._set_image(request)
        self._image_token = request.image_token
        logits: NDArray[np.float32] = self.predictor.predict(request.prompts).logits
        return logits

    def propagate(self, feed: PropagationFeed) -> None:
        """Propagate what a feed asks for until it is done or cancelled; goes on from what the feed has already."""
        self._image_token, self._shown_is_known = None, False

        def tell(part: float, text: str) -> None:
            feed.tell(PropagationProgress(part, run.made, run.slices_per_second))

        run = self._run(feed, tell)
        try:
            for made in run:
                feed.put(made)
        finally:
            feed.leave(run.result())

    def _set_image(self, request: SliceRequest) -> None:
        self.predictor.set_image(request.image, spacing_mm=request.spacing_mm, intensity_range=request.intensity_range)

    def _chosen(self, request: SliceRequest) -> ContextSet | None:
        context = request.context
        if context is None:
            return None
        known = self._choice
        if known is not None and known[:2] == (request.image_token, context.entries):
            return known[2]
        intensities = request.intensity_range or IntensityRange.estimate(request.image)
        chosen = context.chosen(intensities.normalize(request.image), spacing_mm=request.spacing_mm)
        self._choice = (request.image_token, context.entries, chosen)
        return chosen

    def _run(self, feed: PropagationFeed, progress: Callable[[float, str], None]) -> PropagationRun:
        # Here, because it is only needed for this.
        from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, Propagator
        from scribblesegment.volume import Volume

        request, done = feed.request, feed.result
        volume = Volume(request.array, request.ijk_to_mm)
        propagator = Propagator(self.predictor, config=PropagationConfig(threshold=request.threshold))

        def run(*, anew: bool) -> PropagationRun:
            segments = {
                label: AnnotatedSegment(
                    segment.slices,
                    segment.name,
                    segment.context if self.takes_context else None,
                    None if anew else done.get(label, segment.previous),
                )
                for label, segment in request.segments.items()
            }
            return propagator.iterate_segments(
                volume,
                segments,
                request.axis,
                index_range=request.index_range,
                protected=request.protected,
                source=request.source,
                progress=progress,
                cancelled=feed.cancelled,
            )

        first = run(anew=False)
        return first if first.remaining or done else run(anew=True)
