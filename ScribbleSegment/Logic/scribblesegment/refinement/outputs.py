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
from torch.nn import functional

from scribblesegment.errors import ConfigError, NetworkError

ACTIVATIONS = ("softmax", "sigmoid")

# Probabilities of 0 and 1 become logits that are large but finite, and keep a gradient.
_SMALLEST_PROBABILITY = 1e-6

# How far the sum of probabilities may be from 1, as half precision leaves it.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Output:
    """How to read what a network returns.

    Attributes:
        activation: "softmax": the channels are labels that exclude each other, the background first; "sigmoid": each
            channel is one structure, without a background. One channel is always read as "sigmoid".
        probabilities: Whether the network already applied the activation; None finds out from its values.
        pick: Index or key of the logits when the network returns several outputs; None takes the first, which is the
            one at full resolution in networks with deep supervision.

    Raises:
        ConfigError: Another activation.
    """

    activation: str = "softmax"
    probabilities: bool | None = None
    pick: int | str | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")

    def tensor(self, returned: Any) -> Tensor:
        """Find the logits among what the network returned.

        Raises:
            NetworkError: No such output, or no tensor.
        """
        chosen = returned
        if isinstance(returned, dict):
            chosen = self._entry(returned, next(iter(returned), None) if self.pick is None else self.pick)
        elif isinstance(returned, (list, tuple)):
            chosen = self._entry(returned, 0 if self.pick is None else self.pick)
        if not isinstance(chosen, Tensor):
            raise NetworkError(
                f"The network returns {type(chosen).__name__} instead of a tensor of logits. Choose which of its "
                "outputs holds them with Output(pick=...), or wrap the network in a module that returns them."
            )
        return chosen

    @staticmethod
    def _entry(returned: Any, key: Any) -> Any:
        try:
            return returned[key]
        except (KeyError, IndexError, TypeError) as cause:
            known = ", ".join(map(repr, returned)) if isinstance(returned, dict) else f"0 to {len(returned) - 1}"
            raise NetworkError(f"The network returns no output {key!r}; it has {known or 'none'}.") from cause

    def require_logits(self, values: Tensor, network_input: Tensor) -> None:
        """Refuse what cannot be refined.

        Args:
            values: What the network returned.
            network_input: (B, C, *spatial), what it was given.

        Raises:
            NetworkError: Integers, as from an argmax; another number of axes, another image size, no channel, or NaN.
        """
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
            within = bool((values >= 0).all() and (values <= 1).all())
            sums_to_one = activation == "sigmoid" or bool(
                ((values.float().sum(dim=1) - 1).abs() < _SUM_TOLERANCE).all()
            )
            # A network that says 0 everywhere looks the same both ways.
            probabilities = within and sums_to_one and bool((values > 0).any())
        return dataclasses.replace(self, activation=activation, probabilities=probabilities)

    def class_logits(self, values: Tensor) -> Tensor:
        """Turn a network's output (B, K, *spatial) into class logits (B, labels, *spatial), with gradients."""
        logits = values
        if self.probabilities:
            bounded = values.clamp(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
            logits = bounded.log() if self.activation == "softmax" else torch.logit(bounded)
        if self.activation == "softmax":
            return logits
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def label_count(self, channels: int) -> int:
        """Number of labels, the background included, of a network with so many output channels."""
        return channels if self.activation == "softmax" else channels + 1


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the logarithm of the probability of labels.

    Args:
        logits: (n, labels) class logits.
        labels: (n,) int64.

    Returns:
        (n,), at most 0.
    """
    return -functional.cross_entropy(logits, labels, reduction="none")
