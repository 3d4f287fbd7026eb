"""What refinement needs to know of a network: its layers, and the part of it that is run in every iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, fx

from scribblesegment.exceptions import NetworkError

Weights = Mapping[str, Tensor]
Features = tuple[Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """Weights that are refined together: a convolution or a linear map with the normalisation behind it.

    Attributes:
        name: Path of the module, as in its state dict.
        weights: Names of its parameters.
    """

    name: str
    weights: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Head:
    """The last convolution, whose output channels are the labels.

    Attributes:
        weight: Name of its weight (K, C, *kernel).
        bias: Name of its bias (K,), or None.
        ends: Maps the refined weights and the cached features to its input (B, C, *grid) and output (B, K, *grid).
    """

    weight: str
    bias: str | None
    ends: fx.GraphModule


class SplitNetwork(Protocol):
    """A network cut in front of the layers that are refined."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The refined layers, in the order in which they run."""

    @property
    def pretrained(self) -> Weights:
        """Their weights, by name; the network's own tensors, never written to."""

    @property
    def head(self) -> Head:
        """The last convolution.

        Raises:
            NetworkError: The network does not end in one whose output channels are the labels.
        """

    def features(self, network_input: Tensor) -> Features:
        """Compute what the refined layers need of an input (B, C, *spatial), without gradients."""

    def run(self, weights: Weights, features: Features) -> Tensor:
        """Run the refined layers and what lies between and behind them: the network's output (B, K, *spatial)."""


def grouped_layers(weights: Weights) -> tuple[Layer, ...]:
    """Group weights, in the order in which they are first used, into layers.

    A module with a weight of two or more dimensions begins a layer; one that only scales and shifts channels, as a
    normalisation or a parametric activation, belongs to the layer before it.
    """
    owners: dict[str, list[str]] = {}
    for name in weights:
        owners.setdefault(name.rpartition(".")[0] or name, []).append(name)
    layers: list[Layer] = []
    for owner, names in owners.items():
        if layers and all(weights[name].ndim < 2 for name in names):
            layers[-1] = Layer(layers[-1].name, (*layers[-1].weights, *names))
        else:
            layers.append(Layer(owner, tuple(names)))
    return tuple(layers)


def chosen_layers(layers: tuple[Layer, ...], choice: int | tuple[str, ...]) -> tuple[Layer, ...]:
    """Choose the last layers by their number, or layers by name or by the name of a module that contains them.

    Raises:
        NetworkError: There is no layer to refine, or none of that name.
    """
    if not layers:
        raise NetworkError("The network has no weights that can be refined.")
    if isinstance(choice, int):
        return layers[-choice:]
    for name in choice:
        if not any(_belongs(layer, name) for layer in layers):
            raise NetworkError(
                f"The network has no layer {name!r}. Its last layers are "
                f"{', '.join(layer.name for layer in layers[-8:])}."
            )
    return tuple(layer for layer in layers if any(_belongs(layer, name) for name in choice))


def _belongs(layer: Layer, name: str) -> bool:
    return any(f"{weight}.".startswith(f"{name}.") for weight in (layer.name, *layer.weights))
