"""What a network's output means: logits or probabilities, exclusive labels or one channel a structure.

Everything behind this module works on *class logits*: one channel a label, the background among them, whose softmax
gives the labels' probabilities. A network with K sigmoid channels gets a background channel of zeros in front, which
for K = 1 is the same distribution: softmax(0, z) = (1 - sigmoid(z), sigmoid(z)).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scribblesegment.errors import ConfigError, NetworkError

ACTIVATIONS = ("softmax", "sigmoid")

# Probabilities of 0 and 1 become logits that are large but finite, and keep a gradient.
_SMALLEST_PROBABILITY = 1e-6

# How far the sum of probabilities may be from 1, as half precision leaves it.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Output:
    """How to read what a network returns; raises ConfigError for another activation."""

    # "softmax": labels that exclude each other, the background first; "sigmoid": one structure a channel, no
    # background. A single channel is always read as "sigmoid".
    activation: str = "softmax"
    probabilities: bool | None = None  # whether the network already applied the activation; None: by its values
    # Index or key of the logits among several outputs; None: the first, which with deep supervision is the full size.
    pick: int | str | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")

    def tensor(self, returned: Any) -> Tensor:
        """Find the logits among what the network returned; raises NetworkError if they are not there."""
        chosen = returned
        if isinstance(returned, (dict, list, tuple)):
            names = list(returned) if isinstance(returned, dict) else list(range(len(returned)))
            key = self.pick if self.pick is not None else names[0] if names else None
            try:
                chosen = returned[key]  # type: ignore[index]
            except (KeyError, IndexError, TypeError) as cause:
                known = ", ".join(map(repr, names)) or "none"
                raise NetworkError(f"The network returns no output {key!r}; it has {known}.") from cause
        if not isinstance(chosen, Tensor):
            raise NetworkError(
                f"The network returns {type(chosen).__name__} instead of a tensor of logits. Choose which of its "
                "outputs holds them with Output(pick=...), or wrap the network in a module that returns them."
            )
        return chosen

    def require_logits(self, values: Tensor, network_input: Tensor) -> None:
        """Refuse, with a NetworkError, output `values` of (B, C, *spatial) that cannot be refined."""
        if not values.is_floating_point():
            raise NetworkError(
                f"The network returns {str(values.dtype).removeprefix('torch.')} values, which have no gradient. Take "
                "the logits before its argmax or threshold."
            )
        expected = tuple(network_input.shape[2:])
        if values.ndim != network_input.ndim or tuple(values.shape[2:]) != expected or values.shape[1] < 1:
            raise NetworkError(
                f"The network maps {tuple(network_input.shape)} to {tuple(values.shape)}; expected (batch, labels, "
                f"{', '.join(map(str, expected))}): logits for every pixel of its input."
            )
        if not bool(torch.isfinite(values).all()):
            raise NetworkError(
                "The network's own prediction of this image holds NaN or infinite values. Check the image's "
                "intensities and the network's weights."
            )

    def resolved(self, values: Tensor) -> Output:
        """Decide what was left open from a network's first output (B, K, *spatial)."""
        activation = "sigmoid" if values.shape[1] == 1 else self.activation
        probabilities = self.probabilities
        if probabilities is None:
            sums_to_one = (values.float().sum(dim=1) - 1).abs() < _SUM_TOLERANCE
            probabilities = (
                bool((values >= 0).all() and (values <= 1).all())
                and (activation == "sigmoid" or bool(sums_to_one.all()))
                and bool((values > 0).any())  # zeros everywhere look the same both ways: logits
            )
        return dataclasses.replace(self, activation=activation, probabilities=probabilities)

    def class_logits(self, values: Tensor) -> Tensor:
        """Turn a network's output (B, K, *spatial) into class logits (B, labels, *spatial), with gradients."""
        if self.probabilities:
            bounded = values.clamp(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
            values = bounded.log() if self.activation == "softmax" else torch.logit(bounded)
        if self.activation == "softmax":
            return values
        return torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)

    def label_count(self, channels: int) -> int:
        """Number of labels, the background included, of a network with so many output channels."""
        return channels if self.activation == "softmax" else channels + 1
