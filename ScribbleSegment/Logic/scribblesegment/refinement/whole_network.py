"""The fallback for networks that cannot be traced: all of the network is run in every iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.split_network import Features, Head, Layer, Weights, chosen_layers, grouped_layers


@dataclass(frozen=True, eq=False)
class WholeSplit:
    """A network whose refined layers are run together with all the others; a `SplitNetwork`."""

    layers: tuple[Layer, ...]
    pretrained: Weights
    _module: nn.Module
    _output: Output

    def features(self, network_input: Tensor) -> Features:
        """Give the input itself, (B, C, *spatial): nothing is known about what the network computes of it."""
        return (network_input,)

    def run(self, weights: Weights, features: Features) -> Tensor:
        """Run the network with other weights: its output (B, K, *spatial)."""
        # The call puts the weights in for its own duration, also when it fails; the module keeps its own. Those that
        # are not refined are handed over too, detached, so that nothing is written into their gradients.
        others = {name: parameter.detach() for name, parameter in self._module.named_parameters()}
        return self._output.tensor(functional_call(self._module, {**others, **weights}, features))

    @property
    def head(self) -> Head:
        """There is none.

        Raises:
            NetworkError: Always.
        """
        raise NetworkError(
            "No label can be added to this network: PyTorch cannot trace it, so its last convolution is not known. "
            "Correct the labels that it has, or export it with torch.export first."
        )


class WholeNetwork:
    """A network that is not traced; used like a `TracedNetwork`.

    Attributes:
        layers: All its layers, in the order in which they run.
    """

    def __init__(self, module: nn.Module, example: Tensor, output: Output) -> None:
        """Run a network once, to see in which order its layers run.

        Args:
            module: In evaluation mode.
            example: (1, C, *spatial).
            output: Which of the module's outputs to take.

        Raises:
            NetworkError: A TorchScript, whose weights cannot be exchanged for the duration of a call.
        """
        if isinstance(module, torch.jit.ScriptModule):
            raise NetworkError(
                "PyTorch cannot trace this TorchScript, as its flow of control depends on the image's values. Save the "
                "network with torch.jit.trace or torch.export instead."
            )
        self._module = module
        self._output = output
        self.layers = grouped_layers(_weights_by_use(module, example))

    def split(self, layers: int | tuple[str, ...]) -> WholeSplit:
        """Choose the layers to refine.

        Args:
            layers: How many of the last layers, or the names of layers or of modules that contain them.

        Raises:
            NetworkError: No layer has such a name, or the network has none.
        """
        chosen = chosen_layers(self.layers, layers)
        own = dict(self._module.named_parameters())
        pretrained = {name: own[name].detach() for layer in chosen for name in layer.weights}
        return WholeSplit(chosen, pretrained, self._module, self._output)


def _weights_by_use(module: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Give a module's parameters in the order in which the modules that own them run."""
    ordered: dict[str, Tensor] = {}

    def note(prefix: str, owner: nn.Module) -> None:
        for name, parameter in owner.named_parameters(recurse=False):
            ordered.setdefault(f"{prefix}.{name}" if prefix else name, parameter)

    hooks = [
        owner.register_forward_pre_hook(lambda owner, _inputs, prefix=prefix: note(prefix, owner))
        for prefix, owner in module.named_modules()
        if next(owner.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return ordered
