"""Methods that are corrected step by step: they are given all prompts so far, and give a mask.

A network remembers its last logits and gets them back with the next prompts; a classical method starts anew from all
strokes each time, as *Grow from seeds* does in Slicer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, MissingDependencyError, PromptError
from scribblesegment.evaluation import baselines
from scribblesegment.evaluation.baselines import FloatArray, Mask, Method
from scribblesegment.evaluation.methods import classical_names, load_classical, load_network

PROMPT_KINDS = frozenset({"scribbles", "clicks", "boxes"})

# The sets hold resampled pictures that do not say how large a pixel was.
PIXEL_MM = (1.0, 1.0)

# As wide as a stroke drawn by hand on these images (4 to 5 pixels of 256, see docs/evaluation.md).
CLICK_RADIUS = 2.0


@dataclass(frozen=True, eq=False)
class StepPrediction:
    """What a method makes of the prompts so far.

    Attributes:
        mask: bool (H, W).
        probabilities: float32 (H, W) in [0, 1], calibrated by the model's temperature; None for classical methods.
        logits: float32 (H, W), calibrated like the probabilities; None for classical methods.
    """

    mask: Mask
    probabilities: FloatArray | None = None
    logits: FloatArray | None = None


class InteractiveMethod(Protocol):
    """A method that is corrected step by step on one image."""

    @property
    def prompts(self) -> frozenset[str]:
        """Which of `PROMPT_KINDS` can be all that it is given."""

    def set_image(self, image: FloatArray) -> None:
        """Take an image (H, W) in [0, 1]; the previous prediction is forgotten."""

    def segment(self, prompts: Prompts) -> StepPrediction:
        """Segment the image from all prompts so far, without `mask_input`.

        Raises:
            PromptError: If no image was set, or nothing can be segmented from these prompts.
        """


class _Prediction(Protocol):
    @property
    def logits(self) -> FloatArray: ...

    def mask(self) -> Mask: ...

    def probabilities(self) -> FloatArray: ...


class SlicePredictor(Protocol):
    """What is used of `scribblesegment.Predictor`."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What it understands; names of `PROMPT_KINDS` among others."""

    def set_image(self, image: NDArray[Any], *, spacing_mm: tuple[float, float]) -> None:
        """Take the image (H, W) that the next predictions are for."""

    def predict(self, prompts: Prompts) -> _Prediction:
        """Segment the current image."""


class NetworkMethod:
    """A network that gets its last logits back with the next prompts."""

    def __init__(self, predictor: SlicePredictor) -> None:
        """Use a predictor, which may serve other images in between."""
        self._predictor = predictor
        self._previous: FloatArray | None = None

    @property
    def prompts(self) -> frozenset[str]:
        """Kinds of prompts that the network understands."""
        return PROMPT_KINDS & self._predictor.capabilities

    def set_image(self, image: FloatArray) -> None:
        """See `InteractiveMethod`."""
        self._predictor.set_image(image, spacing_mm=PIXEL_MM)
        self._previous = None

    def segment(self, prompts: Prompts) -> StepPrediction:
        """See `InteractiveMethod`."""
        prediction = self._predictor.predict(prompts.with_mask_input(self._previous))
        self._previous = prediction.logits
        return StepPrediction(prediction.mask(), prediction.probabilities(), prediction.logits)


class ClassicalMethod:
    """A classical method, made to understand clicks and boxes.

    A click becomes a disc of seeds of `CLICK_RADIUS` pixels; where discs of both signs overlap the later click holds,
    and every clicked pixel itself holds. Pixels outside of all boxes become background. A box without anything
    positive inside is enough for a method only that has a way to start from it.
    """

    def __init__(self, method: Method, *, from_box: Method | None = None) -> None:
        """Wrap a method.

        Args:
            method: Segments from strokes on object and background.
            from_box: Segments from strokes on the background alone, which a box leaves; None if there is no way.
        """
        self._method = method
        self._from_box = from_box
        self._image: FloatArray | None = None

    @property
    def prompts(self) -> frozenset[str]:
        """Scribbles and clicks; boxes, if the method can start from one alone."""
        return PROMPT_KINDS if self._from_box is not None else PROMPT_KINDS - {"boxes"}

    def set_image(self, image: FloatArray) -> None:
        """See `InteractiveMethod`."""
        self._image = image

    def segment(self, prompts: Prompts) -> StepPrediction:
        """See `InteractiveMethod`."""
        if self._image is None:
            raise PromptError("No image was set; call set_image before segment.")
        scribbles = _with_clicks_and_boxes(prompts)
        starts_from_box = self._from_box is not None and len(prompts.boxes) > 0 and not scribbles[0].any()
        method = self._from_box if starts_from_box and self._from_box is not None else self._method
        return StepPrediction(method(self._image, scribbles))


def one_prediction(method: InteractiveMethod) -> Method:
    """Give a method that makes a single prediction from all strokes; its time includes taking the image."""

    def segment(image: FloatArray, scribbles: FloatArray) -> Mask:
        method.set_image(image)
        return method.segment(dataclasses.replace(Prompts.empty(image.shape), scribbles=scribbles)).mask

    return segment


def load_interactive(name: str, *, device: str = "auto") -> InteractiveMethod:
    """Load a method, once; it then serves one image after another.

    Args:
        name: One of `classical_names()`, the name of a network ("default" is the embedded one), or the path of its
            weights.
        device: Where a network runs: "auto" or a torch device name.

    Raises:
        MissingDependencyError: If the method's library is not installed.
        ConfigError: If there is no such method.
        WeightsError: If the file of weights is damaged.
        DeviceError: If the device cannot run the network.
    """
    if name not in classical_names():
        return NetworkMethod(load_network(name, device=device))
    from_box = partial(baselines.grabcut, unmarked="object") if name == "grabcut" else None
    return ClassicalMethod(load_classical(name), from_box=from_box)


def load_interactive_methods(
    names: Iterable[str], *, device: str = "auto"
) -> tuple[dict[str, InteractiveMethod], dict[str, str]]:
    """Load methods, leaving out those whose library is not installed.

    Args:
        names: As for `load_interactive`; a repeated name counts once.
        device: Where networks run.

    Returns:
        The methods by name, and for each that was left out the reason.

    Raises:
        ConfigError: If there is no such method, or none is left.
        WeightsError: If a file of weights is damaged.
        DeviceError: If the device cannot run a network.
    """
    methods: dict[str, InteractiveMethod] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            methods[name] = load_interactive(name, device=device)
        except MissingDependencyError as error:
            skipped[name] = str(error)
    if not methods:
        reasons = " ".join(skipped.values()) or "No method was named."
        raise ConfigError(f"There is no method to measure. {reasons}")
    return methods, skipped


def _with_clicks_and_boxes(prompts: Prompts) -> FloatArray:
    """Turn all prompts into strokes, float32 (2, H, W)."""
    scribbles = np.array(prompts.scribbles)
    rows, columns = np.ogrid[: prompts.shape[0], : prompts.shape[1]]
    clicks = list(zip(prompts.point_coords.tolist(), prompts.point_labels.tolist(), strict=True))
    for (row, column), label in clicks:
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= CLICK_RADIUS**2
        scribbles[:, disc] = _channels(label)
    for (row, column), label in clicks:
        scribbles[:, row, column] = _channels(label)[:, 0]
    if len(prompts.boxes):
        outside = np.ones(prompts.shape, dtype=bool)
        for (top, left), (bottom, right) in prompts.boxes.tolist():
            outside[top:bottom, left:right] = False
        scribbles[1, outside] = 1
    return scribbles


def _channels(label: int) -> FloatArray:
    """Give what a click paints, (2, 1): object, background."""
    return np.array([[label], [1 - label]], dtype=np.float32)
