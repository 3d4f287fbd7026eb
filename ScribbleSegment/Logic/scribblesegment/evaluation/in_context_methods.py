"""Methods that are shown segmented images of the same structure, and corrected step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation.baselines import FloatArray, Mask
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.label_transfer import LabelTransfer
from scribblesegment.evaluation.methods import load_network
from scribblesegment.evaluation.picture import short_name
from scribblesegment.evaluation.stepwise import (
    PIXEL_MM,
    PROMPT_KINDS,
    InteractiveMethod,
    NetworkMethod,
    SlicePredictor,
    StepPrediction,
    load_interactive,
)

LABEL_TRANSFER = "label-transfer"

# From fewer entries UniverSeg's prediction is worse than none to begin with (MultiverSeg, section 5.4 and figure 15).
LEAST_CONTEXT = 5


class InteractiveInContextMethod(InteractiveMethod, Protocol):
    """A method that is corrected step by step on one image, and may look at a context set.

    A predictor may serve several methods: who turns to another one sets context and image anew.
    """

    @property
    def least_context(self) -> int | None:
        """The fewest entries from which it predicts without prompts; None if it looks at no context."""

    def set_context(self, context: ContextSet | None) -> None:
        """Take what the next predictions are to be like; the previous prediction is forgotten."""

    def segment(self, prompts: Prompts) -> StepPrediction:
        """Segment the image from the context and all prompts so far, without `mask_input`; see `InteractiveMethod`.

        Without prompts the context alone decides; it has at least `least_context` entries then.
        """


class ContextPredictor(SlicePredictor, Protocol):
    """What is used of a `scribblesegment.Predictor` that takes context sets."""

    def set_context(self, context: ContextSet | None) -> None:
        """Take the context of the next predictions."""


class ContextFreeMethod:
    """The interactive method alone: whatever the context, it is not looked at."""

    least_context: int | None = None

    def __init__(self, method: InteractiveMethod) -> None:
        """Wrap a method."""
        self._method = method

    @property
    def prompts(self) -> frozenset[str]:
        """See `InteractiveMethod`."""
        return self._method.prompts

    def set_context(self, context: ContextSet | None) -> None:
        """Ignore the context."""

    def set_image(self, image: FloatArray) -> None:
        """See `InteractiveMethod`."""
        self._method.set_image(image)

    def segment(self, prompts: Prompts) -> StepPrediction:
        """See `InteractiveMethod`."""
        return self._method.segment(prompts)


class ContextNetworkMethod(NetworkMethod):
    """A network that takes prompts, its last logits and a context set; one that takes no prompts works as well."""

    least_context: int | None = 1

    def __init__(self, predictor: ContextPredictor) -> None:
        """Use a predictor."""
        super().__init__(predictor)
        self._in_context = predictor

    def set_context(self, context: ContextSet | None) -> None:
        """See `InteractiveInContextMethod`."""
        self._in_context.set_context(context)
        self._previous = None


class ContextFirstMethod:
    """A network without prompts predicts from the context, a network without context corrects (SP+UVS).

    The logits of the first are what the second takes for its own last prediction. A context of too few entries is not
    looked at (MultiverSeg, section 5.4).
    """

    def __init__(
        self, interactive: SlicePredictor, in_context: ContextPredictor, *, least_context: int = LEAST_CONTEXT
    ) -> None:
        """Put two predictors together.

        Raises:
            ConfigError: If `least_context` is below 1.
        """
        if least_context < 1:
            raise ConfigError(f"The fewest context entries are {least_context}; give at least 1.")
        self.least_context: int | None = least_context
        self._interactive, self._in_context, self._least = interactive, in_context, least_context
        self._shown = False
        self._image: FloatArray | None = None
        self._previous: FloatArray | None = None

    @property
    def prompts(self) -> frozenset[str]:
        """Kinds of prompts that the interactive network understands."""
        return PROMPT_KINDS & self._interactive.capabilities

    def set_context(self, context: ContextSet | None) -> None:
        """See `InteractiveInContextMethod`."""
        self._shown = context is not None and len(context) >= self._least
        if self._shown:
            self._in_context.set_context(context)
        self._previous = None

    def set_image(self, image: FloatArray) -> None:
        """See `InteractiveMethod`."""
        self._interactive.set_image(image, spacing_mm=PIXEL_MM)
        self._image, self._previous = image, None

    def segment(self, prompts: Prompts) -> StepPrediction:
        """See `InteractiveInContextMethod`."""
        if self._image is None:
            raise PromptError("No image was set; call set_image before segment.")
        if self._previous is None and self._shown:
            self._in_context.set_image(self._image, spacing_mm=PIXEL_MM)
            first = self._in_context.predict(Prompts.empty(self._image.shape))
            self._previous = first.logits
            if prompts.is_empty:
                return StepPrediction(first.mask(), first.probabilities(), first.logits)
        prediction = self._interactive.predict(prompts.with_mask_input(self._previous))
        self._previous = prediction.logits
        return StepPrediction(prediction.mask(), prediction.probabilities(), prediction.logits)


class LabelTransferMethod:
    """Segments from the context without a network: what a network in context should beat. It takes no prompts."""

    least_context: int | None = 1
    prompts: frozenset[str] = frozenset()

    def __init__(self, transfer: LabelTransfer | None = None) -> None:
        """Use a transfer of labels, with its default settings if none is given."""
        self._transfer = transfer or LabelTransfer()
        self._context: ContextSet | None = None
        self._image: FloatArray | None = None

    def set_context(self, context: ContextSet | None) -> None:
        """See `InteractiveInContextMethod`."""
        self._context = context

    def set_image(self, image: FloatArray) -> None:
        """See `InteractiveMethod`."""
        self._image = IntensityRange.estimate(image).normalize(image)

    def segment(self, prompts: Prompts) -> StepPrediction:
        """See `InteractiveInContextMethod`."""
        if self._image is None or self._context is None:
            raise PromptError("No image or no context was set; call set_context and set_image before segment.")
        if not prompts.is_empty:
            raise PromptError("Labels are transferred from the context alone; prompts are not understood.")
        return StepPrediction(self._transfer(self._image, PIXEL_MM, self._context))


class ShownImages:
    """Makes context entries of examples; the image of each is normalised once, as the predictor does with a target."""

    def __init__(self) -> None:
        """Begin without images."""
        self._images: dict[tuple[str, int], FloatArray] = {}

    def entry(self, example: LabelExample, mask: Mask) -> ContextEntry:
        """Pair the example's image with a mask, bool (H, W)."""
        key = (example.set_name, example.image_index)
        if key not in self._images:
            image = IntensityRange.estimate(example.image).normalize(example.image)
            self._images[key] = image = np.array(image)
            image.flags.writeable = False  # entries share what nobody can change
        return ContextEntry(self._images[key], mask, PIXEL_MM, source=f"{example.set_name} {example.image_index}")


@dataclass(frozen=True)
class InContextMethods:
    """Methods to compare.

    Attributes:
        alone: Name of the interactive method that looks at no context.
        methods: All by name, that one first. Some may take no prompts.
    """

    alone: str
    methods: dict[str, InteractiveInContextMethod]


def load_in_context_methods(
    interactive: str = "default",
    in_context: Sequence[str] = (),
    *,
    universeg: str | None = None,
    least_context: int = LEAST_CONTEXT,
    device: str = "auto",
) -> InContextMethods:
    """Load the interactive method alone, and what is compared with it.

    Args:
        interactive: A network by its name or the path of its weights, or a classical method. It is not shown context,
            also if it is a network that takes some.
        in_context: Networks that take context sets, likewise; `LABEL_TRANSFER` needs no network and takes no prompts.
        universeg: A network that takes context sets but no prompts, by the path of its weights. It is compared by
            itself and, put before the interactive network, as SP+UVS.
        least_context: The fewest entries that SP+UVS looks at.
        device: Where networks run: "auto" or a torch device name.

    Returns:
        The methods; networks are called by the file's name without its ending, the interactive one with "alone".

    Raises:
        ConfigError: If there is no such method, two would be called the same, a network takes no context, or SP+UVS is
            wanted with a classical method.
        MissingDependencyError: If a classical method's library is not installed.
        WeightsError: If a file of weights is damaged.
        DeviceError: If the device cannot run a network.
    """
    alone = f"{short_name(interactive)} alone"
    named: list[tuple[str, InteractiveInContextMethod]] = [
        (alone, ContextFreeMethod(load_interactive(interactive, device=device)))
    ]
    for name in in_context:
        if name == LABEL_TRANSFER:
            named.append((name, LabelTransferMethod()))
        else:
            named.append((short_name(name), ContextNetworkMethod(load_context_predictor(name, device=device))))
    if universeg is not None:
        first, second = load_context_predictor(universeg, device=device), load_network(interactive, device=device)
        named.append((short_name(universeg), ContextNetworkMethod(first)))
        combined = ContextFirstMethod(second, first, least_context=least_context)
        named.append((f"{short_name(interactive)} + {short_name(universeg)}", combined))
    methods = dict(named)
    if len(methods) < len(named):
        raise ConfigError(
            f"Two methods would be called the same: {', '.join(name for name, _ in named)}. Rename a file of weights."
        )
    return InContextMethods(alone, methods)


def load_context_predictor(name: str, *, device: str = "auto") -> ContextPredictor:
    """Load a network that takes context sets, by its name or the path of its weights.

    Raises:
        ConfigError: If there is none of that name, or it takes no context.
        WeightsError: If the file of weights is damaged.
        DeviceError: If the device cannot run the network.
    """
    predictor = load_network(name, device=device)
    if "context" not in predictor.capabilities:
        raise ConfigError(
            f"The network {name} takes no context sets, only {', '.join(sorted(predictor.capabilities))}. Name one "
            "that segments in context."
        )
    return predictor
