"""Networks by name, for configurations and weight files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from scribblesegment.exceptions import ConfigError
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig

_NETWORKS: dict[str, tuple[type[nn.Module], type[Any]]] = {"scribble_unet": (ScribbleUNet, ScribbleUNetConfig)}


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
    if name not in _NETWORKS:
        raise ConfigError(f"Unknown network {name!r}; known are {', '.join(network_names())}.")
    network, config = _NETWORKS[name]
    known = {entry.name for entry in dataclasses.fields(config)}
    unknown = sorted(set(options or {}) - known)
    if unknown:
        raise ConfigError(f"Network {name} has no options {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    return network(config(**(options or {})))
