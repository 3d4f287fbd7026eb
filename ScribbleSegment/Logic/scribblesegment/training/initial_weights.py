"""What a network begins its training with, where that is not chance: the parameters of another one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn

from scribblesegment.exceptions import ConfigError
from scribblesegment.models.context_unet import ContextUNet
from scribblesegment.models.scribble_unet import ScribbleUNet
from scribblesegment.weights.checkpoints import load_network


def start_from(network: nn.Module, path: str) -> None:
    """Take the parameters of a weights file: of the same network, or of one that lacks some cue channels, or contexts.

    What is new, the weights of channels added behind the input's, starts at zero: the network computes what it did.

    Args:
        network: What is changed.
        path: The weights file.

    Raises:
        ConfigError: If the weights are of another network.
        WeightsError: If the file is missing, damaged, or unsafe.
    """
    source = load_network(path)[0]
    given, wanted = source.state_dict(), network.state_dict()
    for name, value in given.items():
        target = wanted.get(name)
        if target is not None and target.ndim == 4 and target.shape[1] > value.shape[1]:
            added = target.shape[1] - value.shape[1]
            given[name] = torch.cat([value, value.new_zeros(len(value), added, *value.shape[2:])], dim=1)
    if type(source) is not type(network):
        given.update({name: value for name, value in wanted.items() if name.startswith("matching.")})
    has_shapes = {name: value.shape for name, value in given.items()}
    if has_shapes != {name: value.shape for name, value in wanted.items()} or not _only_adds_cues(source, network):
        raise ConfigError(f"initial_weights {path} is of another network than the configuration's; use its options.")
    network.load_state_dict(given)


def _only_adds_cues(source: nn.Module, network: nn.Module) -> bool:
    """Tell whether two networks of the same parameters differ at most by cues that come after those of the first."""
    old, new = (asdict(cast(Any, one).config) for one in (source, network))
    gains_context = type(source) is ScribbleUNet and type(network) is ContextUNet
    if gains_context:
        new = {name: value for name, value in new.items() if name in old}
    added = [name for name in ("intensity_cues", "geodesic_cues") if new.get(name) and not old.get(name)]
    if added == ["intensity_cues"] and old.get("geodesic_cues"):
        return False  # they would come before the geodesic ones, whose weights would read them
    return (gains_context or type(source) is type(network)) and {**old, **dict.fromkeys(added, True)} == new
