"""Networks by name, for configurations and weight files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from scribblesegment.errors import ConfigError
from scribblesegment.models.context_unet import ContextUNet, ContextUNetConfig
from scribblesegment.models.efficient_unet import EfficientUNet, EfficientUNetConfig
from scribblesegment.models.multiverseg import MultiverSeg, MultiverSegConfig
from scribblesegment.models.residual_unet import ResidualUNet, ResidualUNetConfig
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.models.universeg import UniverSeg, UniverSegConfig

_NETWORKS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "context_unet": (ContextUNet, ContextUNetConfig),
    "efficient_unet": (EfficientUNet, EfficientUNetConfig),
    "multiverseg": (MultiverSeg, MultiverSegConfig),
    "residual_unet": (ResidualUNet, ResidualUNetConfig),
    "scribble_unet": (ScribbleUNet, ScribbleUNetConfig),
    "universeg": (UniverSeg, UniverSegConfig),
}


def network_names() -> tuple[str, ...]:
    """List the networks that `build_network` knows."""
    return tuple(sorted(_NETWORKS))


def build_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with fresh parameters.

    Args:
        name: One of `network_names()`.
        options: Fields of its configuration; missing ones keep their defaults.

    Raises:
        ConfigError: If the name or an option is unknown, or a value is refused.
    """
    options = options or {}
    if name not in _NETWORKS:
        raise ConfigError(f"Unknown network {name!r}; known are {', '.join(network_names())}.")
    network, config = _NETWORKS[name]
    known = {entry.name: entry.default for entry in dataclasses.fields(config)}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"Network {name} has no options {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    for option, value in options.items():
        _require_kind(f"Option {option} of network {name}", value, known[option])
    return network(config(**options))


def _require_kind(what: str, value: object, default: object) -> None:
    """Refuse a value of another kind than the default's: options come from files that people write."""
    if isinstance(default, tuple):
        fits, expected = isinstance(value, (list, tuple)) and all(map(_is_whole, value)), "a list of whole numbers"
    elif isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, expected = _is_whole(value), "a whole number"
    else:
        fits, expected = isinstance(value, type(default)), "a text"
    if not fits:
        raise ConfigError(f"{what} must be {expected}, got {value!r}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
