"""Networks by name, for configurations and weight files; their modules are imported when they are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from scribblesegment.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

# Module and class; the class of the configuration has the same name with "Config" behind it.
_NETWORKS = {
    "context_unet": ("context_unet", "ContextUNet"),
    "efficient_unet": ("efficient_unet", "EfficientUNet"),
    "multiverseg": ("multiverseg", "MultiverSeg"),
    "ridge_unet": ("ridge_unet", "RidgeUNet"),
    "scribble_unet": ("unet", "ScribbleUNet"),
    "scribbleprompt_sam": ("sam", "ScribblePromptSAM"),
    "universeg": ("multiverseg", "UniverSeg"),
}


def network_names() -> tuple[str, ...]:
    """List the networks that `build_network` knows."""
    return tuple(_NETWORKS)


def build_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with fresh parameters; options are fields of its configuration.

    Raises:
        ConfigError: If the name or an option is unknown, or a value is refused.
    """
    if name not in _NETWORKS:
        raise ConfigError(f"Unknown network {name!r}; known are {', '.join(network_names())}.")
    module, network = _NETWORKS[name]
    classes = vars(import_module(f"scribblesegment.models.{module}"))
    config = classes[f"{network}Config"]
    options, known = options or {}, {entry.name: entry.default for entry in dataclasses.fields(config)}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"Network {name} has no options {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    for option, value in options.items():
        _require_kind(f"Option {option} of network {name}", value, known[option])
    built: nn.Module = classes[network](config(**options))
    return built


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
