"""Two networks as one predictor: one for prompts, and one that joins it once there is a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context import ContextSet
from scribblesegment.postprocessing import changed_bbox
from scribblesegment.predictor import Prediction, Predictor
from scribblesegment.preprocessing import IntensityRange
from scribblesegment.prompts import Prompts
from scribblesegment.slice_view import Region, crop_prompts

if TYPE_CHECKING:
    from torch import nn

    from scribblesegment.devices import ExecutionPlan


class PairedPredictor(Predictor):
    """A predictor whose own network knows prompts only, with another one that knows contexts.

    Without a context it is the predictor of its own network. From a context alone the other network predicts. Where
    there are prompts as well, both predict and the mean of their logits counts: the other network has seen what the
    structure looks like elsewhere, and its own one does what it is told, also where the context is of little help.

    What it has of a `Predictor`, such as `network` and `plan`, is its own network's.
    """

    def __init__(
        self, network: nn.Module, *, load_in_context: Callable[[ExecutionPlan], Predictor], **options: Any
    ) -> None:
        """Get its own network ready.

        Args:
            network: Its own network.
            load_in_context: Loads the predictor of the other one, to be run as its own network is: to measure what is
                fastest takes seconds. Called when there is a context for the first time.
            options: As of `Predictor`.

        Raises:
            ScribbleSegmentError: As `Predictor`.
        """
        super().__init__(network, **options)
        self._load_in_context = load_in_context
        self._other: Predictor | None = None
        self._is_in_context = False
        self._give_image: Callable[[Predictor], None] | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """Prompts that its own network understands, and "context"."""
        return super().capabilities | {"context"}

    def set_context(self, context: ContextSet | None) -> None:
        """Take the segmented images that the next predictions are to be like; None or an empty set for none.

        Raises:
            ScribbleSegmentError: The other network cannot be loaded. The context is then none.
        """
        was_in_context, self._is_in_context = self._is_in_context, False
        if context is None or len(context) == 0:
            if self._other is not None:
                self._other.set_context(None)
            return
        if self._other is None:
            self._other = self._load_in_context(self.plan)
        if not was_in_context and self._give_image is not None:
            self._give_image(self._other)
        self._other.set_context(context)
        self._is_in_context = True

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Take the image that the next predictions are for; see `Predictor.set_image`."""

        def give(predictor: Predictor) -> None:
            predictor.set_image(image, spacing_mm=spacing_mm, intensity_range=intensity_range)

        super().set_image(image, spacing_mm=spacing_mm, intensity_range=intensity_range)
        self._give_image = give
        if self._is_in_context and self._other is not None:
            give(self._other)

    def predict(self, prompts: Prompts, *, region: Region | None = None) -> Prediction:
        """Segment the current image; see `Predictor.predict`."""
        if not self._is_in_context or self._other is None:
            return super().predict(prompts, region=region)
        before = self._previous_mask  # whichever network it came from
        in_context = self._other.predict(prompts, region=region)
        told = prompts if region is None else crop_prompts(prompts, region)
        if told.is_empty or not (told.has_positive or told.mask_input is not None):
            return self._told(in_context, before)  # nothing tells its own network where the structure is
        alone = super().predict(prompts, region=region)
        logits, grid_logits = (
            np.asarray((first + second) / 2, np.float32)
            for first, second in ((alone.logits, in_context.logits), (alone.grid_logits, in_context.grid_logits))
        )
        return self._told(Prediction(logits, grid_logits, None, alone.focus or in_context.focus), before)

    def _told(self, prediction: Prediction, before: NDArray[np.bool_] | None) -> Prediction:
        """Say what has changed since the last prediction, and remember this one."""
        self._previous_mask = prediction.mask()
        return replace(prediction, changed_bbox=changed_bbox(before, self._previous_mask))
