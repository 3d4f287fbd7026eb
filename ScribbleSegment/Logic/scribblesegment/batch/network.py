"""The network of a batch: found once, and run so that the same image always gives the same result."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scribblesegment.errors import ConfigError, WeightsError
from scribblesegment.inference.predictor import Network, Predictor

if TYPE_CHECKING:
    from torch import nn

    from scribblesegment.inference.devices import ExecutionPlan


class LoadNetwork(Protocol):
    """What loads a network: `load_for_batch`, or a stand-in for it. Other processes import it by its name."""

    def __call__(self, weights: Path, /, *, device: str, threads: int) -> Predictor:
        """Load the network of a file onto a device; on the processor it uses so many threads."""


def weights_digest(path: Path) -> str:
    """Give 32 hexadecimal digits that tell a weights file from others.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError as cause:
        raise WeightsError(
            f"Cannot read the weights file {path}: {cause.strerror or cause}. Check the path."
        ) from cause


def load_for_batch(weights: Path, /, *, device: str, threads: int) -> Predictor:
    """Load a network that segments in context.

    Raises:
        WeightsError: The file is missing, damaged or unsafe.
        DeviceError: The device cannot run a network.
        ConfigError: The network takes no context sets.
    """
    from scribblesegment.weights.checkpoints import load_network

    network, description = load_network(weights)
    plan = repeatable_plan(network, device, threads)
    predictor = Predictor(Network.described(network, description, plan=plan, name=weights.stem))
    check_takes_context(predictor, str(weights))
    return predictor


def check_takes_context(predictor: Predictor, called: str) -> None:
    """Raise ConfigError if a network cannot segment in context."""
    if "context" not in predictor.capabilities:
        raise ConfigError(
            f"The network {called} takes no context sets. Give --weights a network that does: see scribblesegment info."
        )


def repeatable_plan(network: nn.Module, device: str, threads: int) -> ExecutionPlan:
    """Choose how a network is run, without measuring.

    What is measured comes out differently from time to time, and with another number format, layout or number of
    threads the last digits of the logits differ: an image done after an interruption would not be as without it.

    Raises:
        DeviceError: The device cannot run a network.
    """
    import torch

    from scribblesegment.inference.devices import ExecutionPlan, choose_plan, has_bfloat16_units, resolve_device
    from scribblesegment.models.encoding import CHANNELS

    resolved = resolve_device(device)
    if torch.device(resolved).type != "cpu":  # where nothing is measured
        return choose_plan(network, torch.zeros((1, CHANNELS, 16, 16)), device=resolved)
    return ExecutionPlan(resolved, bfloat16=has_bfloat16_units(), channels_last=True, threads=threads)
