"""One user correcting one slice: gestures, predictions, and a history in which both go back together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet
    from scribblesegment.data.preprocessing import IntensityRange


class PredictionLike(Protocol):
    """What a session needs of a prediction, which must never change; `scribblesegment.Prediction` has it."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """(H, W), unthresholded, on the pixels of the image."""

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Returns (H, W), true where the probability exceeds `threshold`."""


AnyPrediction = TypeVar("AnyPrediction", bound=PredictionLike)
_AnyPredictionCo = TypeVar("_AnyPredictionCo", bound=PredictionLike, covariant=True)


class InteractivePredictor(Protocol[_AnyPredictionCo]):
    """What a session needs of a predictor: an ordinary (hashable) object, such as `scribblesegment.Predictor`."""

    def set_image(
        self,
        image: NDArray[Any],
        /,
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> object:
        """Takes the image (H, W) that the following predictions are about."""

    def predict(self, prompts: Prompts, /) -> _AnyPredictionCo:
        """Segments the image; `prompts.mask_input` holds the logits of the previous round, or None."""


@dataclass(frozen=True, eq=False)
class SessionState(Generic[AnyPrediction]):
    """Where a session stands.

    Attributes:
        prompts: Everything drawn so far, for an image (H, W). Without `mask_input`: `predict` fills that in.
        prediction: The prediction made from precisely these prompts, or None while there is none.
        can_undo: Whether `undo` has something to go back to.
        can_redo: Whether `redo` has something to restore.
        accepted: Whether the prediction was accepted.
    """

    prompts: Prompts
    prediction: AnyPrediction | None
    can_undo: bool
    can_redo: bool
    accepted: bool


@dataclass(frozen=True, eq=False)
class _Step(Generic[AnyPrediction]):
    """One entry of the history. `previous` is the newest prediction made before the newest of `prompts` was given."""

    prompts: Prompts
    previous: AnyPrediction | None = None
    prediction: AnyPrediction | None = None
    accepted: bool = False


class InteractiveSession(Generic[AnyPrediction]):
    """Segments one image interactively.

    Every gesture (stroke, click, box, reset) is one undo step. `predict` adds its result to the current step, so that
    undo and redo restore prompts and prediction together, unchanged to the bit. Several sessions may share a predictor:
    each hands its image and context over again when another session has used the predictor in between. Whoever sets
    another image or context directly on a predictor that a session uses calls `release_predictor`.

    Args:
        predictor: Anything with `set_image` and `predict`, normally a `scribblesegment.Predictor`.
        image: (H, W) real numbers. Kept, not copied: do not change it during the session.
        spacing_mm: Distance between neighbouring (rows, columns) in millimetres.
        intensity_range: The range of the volume the slice belongs to, so that neighbouring slices look alike to the
            network; None estimates it from `image`.
        context: Images of the same structure that are segmented already; for predictors with `set_context`. With one,
            the first prediction needs no prompts.
        max_history: How many gestures can be undone, from 0. Older ones are forgotten.

    Raises:
        ImageError: The image is not 2D, empty, or not numeric.
        GeometryError: The spacing is not two positive numbers.
        ConfigError: `max_history` is negative, or the predictor takes no context.
    """

    def __init__(
        self,
        predictor: InteractivePredictor[AnyPrediction],
        image: ArrayLike,
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
        context: ContextSet | None = None,
        max_history: int = 100,
    ) -> None:
        if not max_history >= 0:
            raise ConfigError(f"max_history is {max_history}; give how many gestures can be undone, from 0.")
        self._image = validation.image_array(image, ndim=(2,))
        row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
        self._spacing_mm = (row_mm, column_mm)
        self._intensity_range = intensity_range
        self._predictor = predictor
        self._context = context
        if self._has_context and not hasattr(predictor, "set_context"):
            raise ConfigError(f"A {type(predictor).__name__} takes no context set. Leave the context out.")
        self._max_history = max_history
        self._history: list[_Step[AnyPrediction]] = [_Step(Prompts.empty(self._image.shape))]
        self._position = 0
        self._claim_predictor()

    @property
    def state(self) -> SessionState[AnyPrediction]:
        """A snapshot that later gestures do not change."""
        step = self._step
        return SessionState(
            prompts=step.prompts,
            prediction=step.prediction,
            can_undo=self._position > 0,
            can_redo=self._position + 1 < len(self._history),
            accepted=step.accepted,
        )

    def add_scribble(self, mask: ArrayLike, positive: bool = True) -> None:
        """Adds a stroke.

        Args:
            mask: (H, W), bool or values in [0, 1].
            positive: Whether it marks the object or the background.

        Raises:
            PromptError: Empty, of another shape, or with values out of range. The session is unchanged then.
        """
        self._record(self._step.prompts.with_scribble(mask, positive))

    def add_click(self, index: Sequence[int], positive: bool = True) -> None:
        """Adds a click.

        Args:
            index: (row, column).
            positive: Whether it marks the object or the background.

        Raises:
            PromptError: Outside the image, or not two whole numbers. The session is unchanged then.
        """
        self._record(self._step.prompts.with_click(index, positive))

    def add_box(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Adds a box around the object.

        Args:
            start: First (row, column) inside.
            stop: One past the last (row, column) inside.

        Raises:
            PromptError: Reversed, empty, or outside the image. The session is unchanged then.
        """
        self._record(self._step.prompts.with_box(start, stop))

    def reset_prompts(self) -> None:
        """Starts over without prompts or previous logits; `undo` brings them back. Nothing happens without any."""
        if not self._step.prompts.is_empty:
            self._append(_Step(Prompts.empty(self._image.shape)))

    def predict(self) -> AnyPrediction:
        """Segments the image from all prompts so far.

        The logits of the newest prediction made before the newest prompts are fed back as `mask_input`; predicting
        twice without a gesture in between therefore gives the same result twice.

        Returns:
            The prediction, which is also part of `state` from now on.

        Raises:
            PromptError: Without a context, there are no prompts, or only negative ones and no earlier prediction that
                they could correct.
        """
        step = self._step
        if step.prompts.is_empty and not self._has_context:
            raise PromptError("There is nothing to predict from: add a stroke, a click or a box first.")
        if step.previous is None and not step.prompts.has_positive and not self._has_context:
            raise PromptError("All prompts are negative: mark the object with a positive stroke, a click or a box.")
        self._claim_predictor()
        logits = None if step.previous is None else step.previous.logits
        prediction = self._predictor.predict(step.prompts.with_mask_input(logits))
        self._history[self._position] = replace(step, prediction=prediction, accepted=False)
        return prediction

    def accept(self) -> NDArray[np.bool_]:
        """Marks the current prediction as the final result.

        The next gesture or prediction starts from it, and is not accepted by itself.

        Returns:
            Its mask, bool (H, W).

        Raises:
            PromptError: There is no prediction for the current prompts.
        """
        step = self._step
        if step.prediction is None:
            raise PromptError("There is no prediction for the current prompts that could be accepted: predict first.")
        self._history[self._position] = replace(step, accepted=True)
        return step.prediction.mask()

    def undo(self) -> bool:
        """Takes the newest gesture back, with the prediction that followed it.

        Returns:
            Whether there was one; False leaves everything as it is.
        """
        if self._position == 0:
            return False
        self._position -= 1
        return True

    def redo(self) -> bool:
        """Restores the gesture that was taken back last, with its prediction.

        Returns:
            Whether there was one; False leaves everything as it is.
        """
        if self._position + 1 == len(self._history):
            return False
        self._position += 1
        return True

    @property
    def _step(self) -> _Step[AnyPrediction]:
        return self._history[self._position]

    @property
    def _has_context(self) -> bool:
        return self._context is not None and len(self._context) > 0

    def _record(self, prompts: Prompts) -> None:
        step = self._step
        self._append(_Step(prompts, previous=step.prediction if step.prediction is not None else step.previous))

    def _append(self, step: _Step[AnyPrediction]) -> None:
        del self._history[self._position + 1 :]
        self._history.append(step)
        del self._history[: max(0, len(self._history) - (self._max_history + 1))]
        self._position = len(self._history) - 1

    def _claim_predictor(self) -> None:
        owner = _session_of.get(self._predictor)
        if owner is None or owner() is not self:
            _session_of.pop(self._predictor, None)  # should set_image fail, nobody's image is in the predictor
            set_context = getattr(self._predictor, "set_context", None)
            if set_context is not None:
                set_context(self._context)
            self._predictor.set_image(self._image, spacing_mm=self._spacing_mm, intensity_range=self._intensity_range)
            _session_of[self._predictor] = ref(self)


_session_of: WeakKeyDictionary[InteractivePredictor[Any], ref[InteractiveSession[Any]]] = WeakKeyDictionary()
"""The session whose image each predictor holds; both may be collected at any time."""


def release_predictor(predictor: InteractivePredictor[Any]) -> None:
    """Say that another image or context is set on a predictor: a session that uses it hands its own over again."""
    _session_of.pop(predictor, None)
