"""One user correcting one slice: prompts, predictions, and a history in which both go back together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.inference.predictor import Prediction, Predictor


@dataclass(frozen=True, eq=False)
class SessionState:
    """Where a session stands."""

    prompts: Prompts  # everything drawn so far, without `mask_input`: `predict` fills that in
    prediction: Prediction | None  # the prediction made from precisely these prompts
    can_undo: bool
    can_redo: bool
    accepted: bool  # whether the prediction was accepted


@dataclass(frozen=True, eq=False)
class _Step:
    """One entry of the history."""

    prompts: Prompts
    previous: Prediction | None = None  # the newest one made before the newest of the prompts was given
    newest: bool | None = None  # whether the prompts given since mark the object; None for both kinds, and for boxes
    prediction: Prediction | None = None
    accepted: bool = False


class InteractiveSession:
    """Segments one image interactively.

    Every stroke, click, box and reset is one undo step. `predict` adds its result to the current step, so that undo and
    redo restore prompts and prediction together, unchanged to the bit. Several sessions, also of several threads, may
    share a predictor: each hands its image and context over again when another has used the predictor in between.
    """

    def __init__(
        self,
        predictor: Predictor,
        image: ArrayLike,
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
        context: ContextSet | None = None,
        max_history: int = 100,
    ) -> None:
        """Begin without prompts.

        Args:
            predictor: Segments; may be shared.
            image: (H, W) real numbers. Kept, not copied: do not change it during the session.
            spacing_mm: Distance between neighbouring (rows, columns) in millimetres.
            intensity_range: The range of the volume the slice belongs to, so that neighbouring slices look alike to the
                network; None estimates it from `image`.
            context: Images of the same structure that are segmented already. With some, the first prediction needs no
                prompts.
            max_history: How many steps can be undone, from 0. Older ones are dropped.

        Raises:
            ImageError: The image is not 2D, empty, or not numeric.
            GeometryError: The spacing is not two positive numbers.
            ConfigError: `max_history` is negative, or the predictor takes no context.
        """
        if not max_history >= 0:
            raise ConfigError(f"max_history is {max_history}; give how many gestures can be undone, from 0.")
        self._image = validation.image_array(image, ndim=(2,))
        row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
        self._spacing_mm, self._intensity_range = (row_mm, column_mm), intensity_range
        self._predictor, self._context = predictor, context
        self._max_history = max_history
        self._history = [_Step(Prompts.empty(self._image.shape))]
        self._position = 0
        self._token = object()
        self._set_inputs()

    @property
    def state(self) -> SessionState:
        """A snapshot that later prompts do not change."""
        step = self._step
        can_redo = self._position + 1 < len(self._history)
        return SessionState(step.prompts, step.prediction, self._position > 0, can_redo, step.accepted)

    def add_scribble(self, mask: ArrayLike, positive: bool = True) -> None:
        """Add a stroke: bool, or values in [0, 1], of the image's shape. A PromptError leaves the session unchanged."""
        self._record(self._step.prompts.with_scribble(mask, positive), positive)

    def add_click(self, index: Sequence[int], positive: bool = True) -> None:
        """Add a click at (row, column). A PromptError leaves the session unchanged."""
        self._record(self._step.prompts.with_click(index, positive), positive)

    def add_box(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Add a box: first (row, column) inside, and one past the last. A PromptError leaves the session unchanged."""
        self._record(self._step.prompts.with_box(start, stop), None)

    def reset_prompts(self) -> None:
        """Start over without prompts or previous logits; `undo` brings them back. Nothing happens without any."""
        if not self._step.prompts.is_empty:
            self._append(_Step(Prompts.empty(self._image.shape)))

    def predict(self) -> Prediction:
        """Segment the image from all prompts so far; the prediction becomes part of `state`.

        The logits of the newest prediction made before the newest prompts are fed back as `mask_input`; predicting
        twice without a prompt in between therefore gives the same result twice. Strokes and clicks that mark the object
        only add to that prediction, and those that mark background only take away from it.

        Raises:
            PromptError: Without a context, there are no prompts, or only negative ones and no earlier prediction that
                they could correct.
        """
        step = self._step
        if not self._context:
            if step.prompts.is_empty:
                raise PromptError("There is nothing to predict from: add a stroke, a click or a box first.")
            if step.previous is None and not step.prompts.has_positive:
                raise PromptError(
                    "Only background is marked: mark the object with a positive stroke, a click or a box."
                )
        self._set_inputs()
        logits = None if step.previous is None else step.previous.logits
        prompts = step.prompts.replaced(mask_input=None if logits is None else logits.view())
        prediction = self._predictor.predict(prompts, newest=step.newest)
        self._history[self._position] = replace(step, prediction=prediction, accepted=False)
        return prediction

    def accept(self) -> NDArray[np.bool_]:
        """Mark the current prediction as the final result, and return its mask (H, W).

        The next prompt or prediction starts from it, and is not accepted by itself.

        Raises:
            PromptError: There is no prediction for the current prompts.
        """
        step = self._step
        if step.prediction is None:
            raise PromptError("There is no prediction for the current prompts that could be accepted: predict first.")
        self._history[self._position] = replace(step, accepted=True)
        return step.prediction.mask()

    def undo(self) -> bool:
        """Take the newest prompt back, with the prediction that followed it. Returns whether there was one."""
        if self._position == 0:
            return False
        self._position -= 1
        return True

    def redo(self) -> bool:
        """Restore what was undone last, with its prediction. Returns whether there was anything."""
        if self._position + 1 == len(self._history):
            return False
        self._position += 1
        return True

    @property
    def _step(self) -> _Step:
        return self._history[self._position]

    def _record(self, prompts: Prompts, positive: bool | None) -> None:
        step = self._step
        if step.prediction is not None:
            # What a context alone gave is a first guess, which any prompt may change everywhere.
            self._append(_Step(prompts, step.prediction, None if step.prompts.is_empty else positive))
        else:
            self._append(_Step(prompts, step.previous, positive if positive == step.newest else None))

    def _append(self, step: _Step) -> None:
        self._history = [*self._history[: self._position + 1], step][-(self._max_history + 1) :]
        self._position = len(self._history) - 1

    def _set_inputs(self) -> None:
        """Give the predictor image and context, unless it has them still."""
        self._predictor.set_context(self._context)
        if self._predictor.image_token is not self._token:
            self._predictor.set_image(self._image, spacing_mm=self._spacing_mm, intensity_range=self._intensity_range)
            self._predictor.image_token = self._token
