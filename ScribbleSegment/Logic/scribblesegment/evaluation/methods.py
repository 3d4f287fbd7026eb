"""Methods by the names under which they are compared: the classical ones, and any network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.evaluation import baselines
from scribblesegment.evaluation.baselines import FloatArray, Mask, Method
from scribblesegment.evaluation.dependencies import MissingDependencyError
from scribblesegment.exceptions import ConfigError, WeightsError
from scribblesegment.prompts import Prompts


class _HasMask(Protocol):
    def mask(self) -> NDArray[np.bool_]: ...


class SlicePredictor(Protocol):
    """What is used of `scribblesegment.Predictor`."""

    def set_image(self, image: FloatArray, *, spacing_mm: tuple[float, float]) -> None:
        """Take the image (H, W) that the next predictions are for."""

    def predict(self, prompts: Prompts) -> _HasMask:
        """Segment the current image."""


def _random_walker() -> Method:
    return baselines.random_walker


def _grabcut() -> Method:
    baselines.load_opencv()
    return baselines.grabcut


def _grow_from_seeds() -> Method:
    baselines.load_grow_from_seeds()
    return baselines.grow_from_seeds


_CLASSICAL: dict[str, Callable[[], Method]] = {
    "grow-from-seeds": _grow_from_seeds,
    "random-walker": _random_walker,
    "grabcut": _grabcut,
}


def classical_names() -> tuple[str, ...]:
    """List the classical methods that `load_method` knows."""
    return tuple(_CLASSICAL)


def network_method(predictor: SlicePredictor) -> Method:
    """Give a method that makes one prediction from all strokes; its time includes taking the image."""

    def segment(image: FloatArray, scribbles: FloatArray) -> Mask:
        predictor.set_image(image, spacing_mm=(1.0, 1.0))
        prompts = dataclasses.replace(Prompts.empty(image.shape), scribbles=scribbles)
        return predictor.predict(prompts).mask()

    return segment


def load_method(name: str, *, device: str = "auto") -> Method:
    """Load a method, once; it is then called for every example.

    Args:
        name: One of `classical_names()`, the name of a network ("default" is the embedded one), or the path of its
            weights.
        device: Where a network runs: "auto" or a torch device name.

    Raises:
        MissingDependencyError: If the method's library is not installed.
        ConfigError: If there is no such method.
        WeightsError: If the file of weights is missing or damaged.
        DeviceError: If the device cannot run the network.
    """
    if name in _CLASSICAL:
        return _CLASSICAL[name]()
    from scribblesegment.predictor import load_predictor

    try:
        return network_method(load_predictor(name, device=device))
    except WeightsError as cause:
        if Path(name).exists():
            raise
        raise ConfigError(
            f"No method {name!r}. The classical methods are {', '.join(_CLASSICAL)}; other names are networks, and "
            f"there: {cause}"
        ) from cause


def load_methods(names: Iterable[str], *, device: str = "auto") -> tuple[dict[str, Method], dict[str, str]]:
    """Load methods, leaving out those whose library is not installed.

    Args:
        names: As for `load_method`; a repeated name counts once.
        device: Where networks run.

    Returns:
        The methods by name, and for each that was left out the reason.

    Raises:
        ConfigError: If there is no such method, or none is left.
        WeightsError: If a file of weights is missing or damaged.
        DeviceError: If the device cannot run a network.
    """
    methods: dict[str, Method] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            methods[name] = load_method(name, device=device)
        except MissingDependencyError as error:
            skipped[name] = str(error)
    if not methods:
        reasons = " ".join(skipped.values()) or "No method was named."
        raise ConfigError(f"There is no method to measure. {reasons}")
    return methods, skipped
