"""Any network as two graphs: what comes before the refined layers, run once, and what is run in every iteration.

The network is traced into a graph of PyTorch's elementary operations. Every operation that no refined weight reaches
belongs to the prefix, whichever module it was written in: skip connections, shared modules and networks without any
module structure (TorchScript, exported programs) are all split at the right place.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.split_network import Features, Head, Layer, Weights, chosen_layers, grouped_layers

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten._convolution.default)

# Operations that multiply by a weight, and which of their arguments may be weights: where a network hides its
# parameters (a frozen TorchScript has only constants), these are taken for them.
_WEIGHT_ARGUMENTS = {
    **dict.fromkeys(_CONVOLUTIONS, (1, 2)),
    torch.ops.aten.addmm.default: (0, 2),
    torch.ops.aten.mm.default: (1,),
}


@dataclass(frozen=True, eq=False)
class TracedSplit:
    """A traced network, cut in two; a `SplitNetwork`."""

    layers: tuple[Layer, ...]
    pretrained: Weights
    _prefix: fx.GraphModule
    _suffix: fx.GraphModule
    _head: Head | None

    def features(self, network_input: Tensor) -> Features:
        """Compute what the refined layers need of an input (B, C, *spatial), without gradients."""
        with torch.no_grad():
            return tuple(self._prefix(network_input))

    def run(self, weights: Weights, features: Features) -> Tensor:
        """Run the refined layers and what lies between and behind them: the network's output (B, K, *spatial)."""
        output: Tensor = self._suffix(*(weights[name] for name in self.pretrained), *features)
        return output

    @property
    def head(self) -> Head:
        """The last convolution.

        Raises:
            NetworkError: The network does not end in one whose output channels are the labels.
        """
        if self._head is None:
            raise NetworkError(
                "This network does not end in a convolution with one output channel a label, so no label can be "
                "added to it. Correct the labels that it has."
            )
        return self._head


class TracedNetwork:
    """A network as a graph.

    Attributes:
        layers: All its layers, in the order in which they run.
    """

    def __init__(self, module: nn.Module, example: Tensor, output: Output) -> None:
        """Trace a network.

        Args:
            module: In evaluation mode; it is run on fake tensors, which cost neither time nor memory.
            example: (1, C, *spatial); the graph is valid for inputs of this shape.
            output: Which of the module's outputs to take.

        Raises:
            Exception: Whatever the module or PyTorch raises where the flow of control depends on values.
        """
        with _differentiable_attention():
            traced = make_fx(
                # In-place operations would write into the cached features: they are replaced by ordinary ones.
                functionalize(lambda network_input: output.tensor(module(network_input))),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(example)
        self._module: fx.GraphModule = traced
        self._weights = _weights_of(traced, module)
        self._uses = _first_uses(traced.graph, self._weights)
        self.layers = grouped_layers({self._weights[node]: self._tensor(node) for node in self._uses})

    def run(self, network_input: Tensor) -> Tensor:
        """Run the whole graph with the pretrained weights, without gradients."""
        with torch.no_grad():
            output: Tensor = self._module(network_input)
        return output

    def split(self, layers: int | tuple[str, ...]) -> TracedSplit:
        """Cut the network in front of some layers.

        Args:
            layers: How many of the last layers are refined (all, if there are fewer), or the names of layers or of
                modules that contain them.

        Raises:
            NetworkError: No layer has such a name, or the network has none.
        """
        chosen = chosen_layers(self.layers, layers)
        names = [name for layer in chosen for name in layer.weights]
        refined = {node: name for node, name in self._weights.items() if name in set(names)}
        reached = _reached(self._module.graph, refined)
        boundary = [
            node
            for node in self._module.graph.nodes
            if node not in reached and node.op != "get_attr" and any(user in reached for user in node.users)
        ]
        tensors = {name: self._tensor(node) for node, name in refined.items()}
        (last,) = (node.all_input_nodes[0] for node in self._module.graph.nodes if node.op == "output")
        return TracedSplit(
            chosen,
            {name: tensors[name] for name in names},
            self._subgraph({}, [], boundary),
            self._subgraph(refined, names, boundary, last),
            self._find_head(refined, names, boundary),
        )

    def _tensor(self, node: fx.Node) -> Tensor:
        value = operator.attrgetter(str(node.target))(self._module)
        return value.detach() if isinstance(value, Tensor) else value

    def _subgraph(
        self,
        refined: Mapping[fx.Node, str],
        order: list[str],
        boundary: list[fx.Node],
        *ends: fx.Node,
    ) -> fx.GraphModule:
        """Build the prefix (no ends: from the input to the boundary) or the suffix (from there to the ends)."""
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        if ends:
            holders = {name: graph.placeholder(f"weight_{number}") for number, name in enumerate(order)}
            copied.update({node: holders[name] for node, name in refined.items()})
            copied.update({node: graph.placeholder(f"feature_{number}") for number, node in enumerate(boundary)})
        wanted = list(ends) or boundary
        for node in self._module.graph.nodes:
            if node in copied or node.op == "output":
                continue
            if not ends or all(argument in copied for argument in node.all_input_nodes):
                if ends and node.op == "placeholder":
                    continue
                copied[node] = graph.node_copy(node, lambda argument: copied[argument])
        results = tuple(copied[node] for node in wanted)
        graph.output(results if not ends or len(ends) > 1 else results[0])
        graph.eliminate_dead_code()
        return fx.GraphModule(self._module, graph)

    def _find_head(self, refined: Mapping[fx.Node, str], order: list[str], boundary: list[fx.Node]) -> Head | None:
        """Find the last convolution, if its weights are refined and it is no transposed one."""
        convolutions = [node for node in self._module.graph.nodes if node.target in _CONVOLUTIONS]
        if not convolutions:
            return None
        values, weight, bias, *_, transposed = convolutions[-1].args[:7]
        refines_all = weight in refined and (bias is None or bias in refined)
        if transposed or not refines_all:
            return None
        ends = self._subgraph(refined, order, boundary, values, convolutions[-1])
        return Head(refined[weight], None if bias is None else refined[bias], ends)


@contextlib.contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Keep attention modules from a fast path for inference, which has no gradient."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _weights_of(traced: fx.GraphModule, module: nn.Module) -> dict[fx.Node, str]:
    """Name the graph's weights as the module does."""
    # By memory: a loaded TorchScript hands out new tensor objects for the same weights at each access.
    names = {parameter.data_ptr(): name for name, parameter in module.named_parameters() if parameter.numel()}
    found: dict[fx.Node, str] = {}
    hidden = 0
    constants = {node for node in traced.graph.nodes if node.op == "get_attr"}
    for node in traced.graph.nodes:
        arguments = _WEIGHT_ARGUMENTS.get(node.target, ()) if node.op == "call_function" else ()
        matched = {item: names.get(_pointer(traced, item)) for item in node.all_input_nodes if item in constants}
        found.update({item: name for item, name in matched.items() if name is not None})
        if names or not arguments:
            continue
        hidden += 1
        for position, kind in zip(arguments, ("weight", "bias"), strict=False):
            if node.args[position] in constants:
                found.setdefault(node.args[position], f"operation{hidden}.{kind}")
    return found


def _pointer(traced: fx.GraphModule, node: fx.Node) -> int:
    value = operator.attrgetter(str(node.target))(traced)
    return value.data_ptr() if isinstance(value, Tensor) and value.numel() else 0


def _first_uses(graph: fx.Graph, weights: Mapping[fx.Node, str]) -> list[fx.Node]:
    """List the nodes of weights by the first operation that uses them, one node a name."""
    seen: dict[str, fx.Node] = {}
    for node in graph.nodes:
        for item in node.all_input_nodes:
            if item in weights and node.op == "call_function":
                seen.setdefault(weights[item], item)
    return list(seen.values())


def _reached(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """Find everything that depends on some nodes, themselves included."""
    reached = set(sources)
    for node in graph.nodes:
        if any(item in reached for item in node.all_input_nodes):
            reached.add(node)
    return reached
