"""Any network as two graphs: what comes before the refined layers, run once, and what is run in every iteration.

The network is traced into a graph of PyTorch's elementary operations. Every operation that no refined weight reaches
belongs to the prefix, whichever module it was written in: skip connections, shared modules and networks without any
module structure (TorchScript, exported programs) are all split at the right place.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from scribblesegment.errors import DeviceError, NetworkError
from scribblesegment.refinement.outputs import Output

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


# Largest difference, relative to the largest logit, between a network and its graph.
_TRACE_TOLERANCE = 1e-3


def prepare_network(
    module: nn.Module, example: Tensor, output: Output
) -> tuple[TracedNetwork | WholeNetwork, Output, int, tuple[str, ...]]:
    """Check a network, run it once, and trace it.

    Args:
        module: The network; it is as before afterwards, training flags included.
        example: (1, C, *spatial) float32; decides the device.
        output: How to read what it returns.

    Returns:
        The network as a graph, or as a whole where it cannot be traced; the output with everything decided; the number
        of labels, the background included; and what the user should know about it, as sentences.

    Raises:
        NetworkError: Quantised weights, outputs that cannot be refined, or an error of the network's own.
        DeviceError: Out of memory.
    """
    notes: list[str] = []
    _refuse_quantised(module)
    module = _on_device(module, example.device, notes)
    if any(entry.training for entry in module.modules()):
        notes.append(
            "The network was in training mode; it is refined in evaluation mode, with the statistics it has learnt and "
            "without dropout."
        )
    with evaluating(module):
        values = _own_prediction(module, example, output)
        output.require_logits(values, example)
        output = output.resolved(values)
        labels = output.label_count(values.shape[1])
        try:
            traced = TracedNetwork(module, example, output)
            difference = float((traced.run(example) - values).abs().max())
        except Exception as cause:  # anything a module can raise where it meets values that are not there
            reason = f"{type(cause).__name__}: {_first_line(cause)}"
        else:
            if difference <= _TRACE_TOLERANCE * float(values.abs().max().clamp_min(1.0)):
                return traced, output, labels, tuple(notes)
            reason = f"the traced network's result differs by {difference:.2g}"
        whole = WholeNetwork(module, example, output)
    notes.append(f"The network cannot be traced, so all of it runs in every iteration, which is slower ({reason}).")
    return whole, output, labels, tuple(notes)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and give every part of it back its own mode."""
    modes = [(entry, entry.training) for entry in module.modules()]
    # An exported program is in evaluation mode for good, and refuses to be told so.
    with contextlib.suppress(NotImplementedError):
        module.eval()
    try:
        yield
    finally:
        for entry, training in modes:
            entry.training = training


@contextlib.contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Turn a lack of memory into a DeviceError.

    Args:
        where: The device, as in the message.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        lacks_memory = isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or any(
            words in str(cause) for words in ("can't allocate memory", "not enough memory", "out of memory")
        )
        if not lacks_memory:
            raise
        raise DeviceError(
            f"There is not enough memory on {where} to run or refine the network. Refine fewer layers or one slice "
            "instead of the volume, use smaller patches, or choose another device. Nothing was changed."
        ) from cause


def _own_prediction(module: nn.Module, example: Tensor, output: Output) -> Tensor:
    try:
        with torch.no_grad(), memory_errors(str(example.device)):
            return output.tensor(module(example))
    except (NetworkError, DeviceError):
        raise
    except Exception as cause:  # whatever a network may raise is its answer to this input
        raise NetworkError(
            f"The network cannot run on an input of {tuple(example.shape)}: {_first_line(cause)} Check the number of "
            "channels and the patch size that it expects."
        ) from cause


def _refuse_quantised(module: nn.Module) -> None:
    for name, entry in module.named_modules():
        tensors = [*entry.parameters(recurse=False), *entry.buffers(recurse=False)]
        if ".quantized" in type(entry).__module__ or any(tensor.is_quantized for tensor in tensors):
            raise NetworkError(
                f"The network's weights are quantised (layer {name or 'of the network'}), and have no gradient. Use "
                "the network as it was before quantisation."
            )


def _on_device(module: nn.Module, device: torch.device, notes: list[str]) -> nn.Module:
    """Give the module itself if it can stay where and as it is, else a copy in float32 on the device."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    formats = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors} - {"float32"}
    if not formats and all(tensor.device == device for tensor in tensors):
        return module
    if formats:
        notes.append(f"The network's {', '.join(sorted(formats))} weights are refined as float32.")
    return copy.deepcopy(module).to(device=device, dtype=torch.float32)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
