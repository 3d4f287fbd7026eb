"""Methods by the names under which they are compared: the classical ones, and any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scribblesegment.errors import ConfigError, WeightsError
from scribblesegment.evaluation import baselines
from scribblesegment.evaluation.baselines import Method

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor


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
    """List the classical methods that `load_classical` knows."""
    return tuple(_CLASSICAL)


def load_classical(name: str) -> Method:
    """Load a classical method, one of `classical_names()`.

    Raises:
        MissingDependencyError: If the method's library is not installed.
        ConfigError: If there is no such method.
    """
    if name not in _CLASSICAL:
        raise ConfigError(f"No classical method {name!r}; there are {', '.join(_CLASSICAL)}.")
    return _CLASSICAL[name]()


def load_network(name: str, *, device: str = "auto") -> Predictor:
    """Load a network by its name ("default" is the embedded one) or by the path of its weights.

    Raises:
        ConfigError: If there is neither a network nor a file of that name.
        WeightsError: If the file of weights is damaged.
        DeviceError: If the device cannot run the network.
    """
    from scribblesegment.inference.predictor import load_predictor

    try:
        return load_predictor(name, device=device)
    except WeightsError as cause:
        if Path(name).exists():
            raise
        raise ConfigError(
            f"No method {name!r}. The classical methods are {', '.join(_CLASSICAL)}; other names are networks, and "
            f"there: {cause}"
        ) from cause
