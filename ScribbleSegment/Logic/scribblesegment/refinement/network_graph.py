"""Any network in two parts: what comes before the refined layers, run once, and what is run in every iteration.

The network is traced into a graph of PyTorch's elementary operations. Every operation that no refined weight reaches
belongs to the prefix, whichever module it was written in: skip connections, shared modules and networks without any
module structure (TorchScript, exported programs) are all split at the right place. Networks that cannot be traced run
as a whole.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from scribblesegment.errors import DeviceError, NetworkError
from scribblesegment.refinement.outputs import Output

Weights = Mapping[str, Tensor]

Features = tuple[Tensor, ...]

# Largest difference, relative to the largest logit, between a network and its graph.
_TRACE_TOLERANCE = 1e-3

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten._convolution.default)

# Operations that multiply by a weight, and which of their arguments may be weights: where a network hides its
# parameters (a frozen TorchScript has only constants), these are taken for them.
_WEIGHT_ARGUMENTS = {
    **dict.fromkeys(_CONVOLUTIONS, (1, 2)),
    torch.ops.aten.addmm.default: (0, 2),
    torch.ops.aten.mm.default: (1,),
}


@dataclass(frozen=True)
class Layer:
    """Weights that are refined together: a convolution or a linear map with the normalisation behind it."""

    name: str  # path of the module, as in its state dict
    weights: tuple[str, ...]  # names of its parameters


@dataclass(frozen=True, eq=False)
class Head:
    """The last convolution, whose output channels are the labels."""

    weight: str  # name of its weight (K, C, *kernel)
    bias: str | None  # name of its bias (K,)
    ends: fx.GraphModule  # maps refined weights and features to its input (B, C, *grid) and output (B, K, *grid)


@dataclass(frozen=True, eq=False)
class SplitNetwork:
    """A network cut in front of the layers that are refined."""

    layers: tuple[Layer, ...]  # those that are refined, in the order in which they run
    pretrained: Weights  # their weights by name; the network's own tensors, never written to
    features: Callable[[Tensor], Features]  # what the refined layers need of an input (B, C, *spatial); no gradients
    run: Callable[[Weights, Features], Tensor]  # everything behind the cut: the network's output (B, K, *spatial)
    _head: Head | str  # a str says why there is none

    @property
    def head(self) -> Head:
        """The last convolution; raises NetworkError if none is known whose output channels are the labels."""
        if isinstance(self._head, str):
            raise NetworkError(f"No label can be added to this network: {self._head}")
        return self._head


class TracedNetwork:
    """A network as a graph that is valid for inputs of one shape."""

    def __init__(self, module: nn.Module, example: Tensor, output: Output) -> None:
        """Trace a module in evaluation mode, on fake tensors, which cost neither time nor memory.

        Raises whatever the module or PyTorch raises where the flow of control depends on values.
        """
        with _differentiable_attention():
            self._module: fx.GraphModule = make_fx(
                # In-place operations would write into the cached features: they are replaced by ordinary ones.
                functionalize(lambda network_input: output.tensor(module(network_input))),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(example)
        self._weights = self._named_weights(module)
        used: dict[str, fx.Node] = {}  # by the first operation that uses them, one node a name
        for node in self._module.graph.nodes:
            for item in node.all_input_nodes:
                if item in self._weights and node.op == "call_function":
                    used.setdefault(self._weights[item], item)
        self.layers = _grouped_layers({name: self._constant(node) for name, node in used.items()})

    def run(self, network_input: Tensor) -> Tensor:
        """Run the whole graph with the pretrained weights, without gradients."""
        with torch.no_grad():
            output: Tensor = self._module(network_input)
        return output

    def split(self, layers: int | tuple[str, ...]) -> SplitNetwork:
        """Cut the network in front of the last layers, or of layers named by themselves or by a module around them.

        Raises:
            NetworkError: No layer has such a name, or the network has none.
        """
        chosen = _chosen_layers(self.layers, layers)
        names = [name for layer in chosen for name in layer.weights]
        refined = {node: name for node, name in self._weights.items() if name in set(names)}
        nodes = self._module.graph.nodes
        reached = set(refined)
        for node in nodes:
            if any(item in reached for item in node.all_input_nodes):
                reached.add(node)
        boundary = [
            node
            for node in nodes
            if node not in reached and node.op != "get_attr" and any(user in reached for user in node.users)
        ]
        (last,) = (node.all_input_nodes[0] for node in nodes if node.op == "output")
        tensors = {name: self._constant(node) for node, name in refined.items()}
        prefix = self._prefix(boundary)
        suffix = self._suffix(refined, names, boundary, last)

        def features(network_input: Tensor) -> Features:
            with torch.no_grad():
                return tuple(prefix(network_input))

        def run(weights: Weights, features: Features) -> Tensor:
            output: Tensor = suffix(*(weights[name] for name in names), *features)
            return output

        head = self._find_head(refined, names, boundary)
        return SplitNetwork(chosen, {name: tensors[name] for name in names}, features, run, head)

    def _named_weights(self, module: nn.Module) -> dict[fx.Node, str]:
        """Name the graph's weights as the module does."""
        # By memory: a loaded TorchScript hands out new tensor objects for the same weights at each access.
        names = {parameter.data_ptr(): name for name, parameter in module.named_parameters() if parameter.numel()}
        constants = {node: self._constant(node) for node in self._module.graph.nodes if node.op == "get_attr"}
        found = {
            node: names[value.data_ptr()]
            for node, value in constants.items()
            if isinstance(value, Tensor) and value.numel() and value.data_ptr() in names
        }
        if names:
            return found
        hidden = 0
        for node in self._module.graph.nodes:
            arguments = _WEIGHT_ARGUMENTS.get(node.target, ()) if node.op == "call_function" else ()
            hidden += bool(arguments)
            for position, kind in zip(arguments, ("weight", "bias"), strict=False):
                if node.args[position] in constants:
                    found.setdefault(node.args[position], f"operation{hidden}.{kind}")
        return found

    def _constant(self, node: fx.Node) -> Tensor:
        value = operator.attrgetter(str(node.target))(self._module)
        return value.detach() if isinstance(value, Tensor) else value

    def _prefix(self, boundary: list[fx.Node]) -> fx.GraphModule:
        """The graph from the input to the boundary."""
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(self._module.graph, copied)
        return self._completed(graph, tuple(copied[node] for node in boundary))

    def _suffix(
        self, refined: Mapping[fx.Node, str], order: list[str], boundary: list[fx.Node], *ends: fx.Node
    ) -> fx.GraphModule:
        """The graph from the weights, in this order, and the boundary to some ends."""
        graph = fx.Graph()
        holders = {name: graph.placeholder(f"weight_{number}") for number, name in enumerate(order)}
        copied = {node: holders[name] for node, name in refined.items()}
        copied.update({node: graph.placeholder(f"feature_{number}") for number, node in enumerate(boundary)})
        for node in self._module.graph.nodes:
            computed = node.op not in ("output", "placeholder") and node not in copied
            if computed and all(argument in copied for argument in node.all_input_nodes):
                copied[node] = graph.node_copy(node, lambda argument: copied[argument])
        results = tuple(copied[node] for node in ends)
        return self._completed(graph, results if len(ends) > 1 else results[0])

    def _completed(self, graph: fx.Graph, results: tuple[fx.Node, ...] | fx.Node) -> fx.GraphModule:
        graph.output(results)
        graph.eliminate_dead_code()
        return fx.GraphModule(self._module, graph)

    def _find_head(self, refined: Mapping[fx.Node, str], order: list[str], boundary: list[fx.Node]) -> Head | str:
        """Find the last convolution, if its weights are refined and it is no transposed one."""
        convolutions = [node for node in self._module.graph.nodes if node.target in _CONVOLUTIONS]
        if convolutions:
            values, weight, bias, *_, transposed = convolutions[-1].args[:7]
            if not transposed and weight in refined and (bias is None or bias in refined):
                ends = self._suffix(refined, order, boundary, values, convolutions[-1])
                return Head(refined[weight], None if bias is None else refined[bias], ends)
        return "it does not end in a refined convolution with one output channel a label. Correct the labels it has."


class WholeNetwork:
    """A network that is not traced: the refined layers run together with all the others."""

    def __init__(self, module: nn.Module, example: Tensor, output: Output) -> None:
        """Run a module in evaluation mode once, to see in which order its layers run.

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
        self.layers = _grouped_layers(ordered)

    def split(self, layers: int | tuple[str, ...]) -> SplitNetwork:
        """Choose the layers to refine as `TracedNetwork.split` does; the features are the input itself."""
        chosen = _chosen_layers(self.layers, layers)
        own = {name: parameter.detach() for name, parameter in self._module.named_parameters()}

        def run(weights: Weights, features: Features) -> Tensor:
            # The call puts the weights in for its own duration, also when it fails; the module keeps its own. Those
            # that are not refined are handed over too, detached, so that nothing is written into their gradients.
            with evaluating(self._module):
                return self._output.tensor(functional_call(self._module, {**own, **weights}, features))

        reason = (
            "PyTorch cannot trace it, so its last convolution is not known. Correct the labels that it has, or export "
            "it with torch.export first."
        )
        pretrained = {name: own[name] for layer in chosen for name in layer.weights}
        return SplitNetwork(chosen, pretrained, lambda network_input: (network_input,), run, reason)


def _grouped_layers(weights: Weights) -> tuple[Layer, ...]:
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


def _chosen_layers(layers: tuple[Layer, ...], choice: int | tuple[str, ...]) -> tuple[Layer, ...]:
    def within(layer: Layer, name: str) -> bool:
        return any(f"{weight}.".startswith(f"{name}.") for weight in (layer.name, *layer.weights))

    if not layers:
        raise NetworkError("The network has no weights that can be refined.")
    if isinstance(choice, int):
        return layers[-choice:]
    for name in choice:
        if not any(within(layer, name) for layer in layers):
            raise NetworkError(
                f"The network has no layer {name!r}. Its last layers are "
                f"{', '.join(layer.name for layer in layers[-8:])}."
            )
    return tuple(layer for layer in layers if any(within(layer, name) for name in choice))


def prepare_network(
    module: nn.Module, example: Tensor, output: Output
) -> tuple[TracedNetwork | WholeNetwork, Output, int, tuple[str, ...]]:
    """Check a network, run it once on an example (1, C, *spatial), which decides the device, and trace it.

    It is as before afterwards, training flags included.

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
    # An exported program is in evaluation mode for good, and refuses any change of it.
    with contextlib.suppress(NotImplementedError):
        module.eval()
    try:
        yield
    finally:
        for entry, training in modes:
            entry.training = training


@contextlib.contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Turn a lack of memory on the device `where` into a DeviceError."""
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


@contextlib.contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Keep attention modules from a fast path for inference, which has no gradient."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _own_prediction(module: nn.Module, example: Tensor, output: Output) -> Tensor:
    try:
        with torch.no_grad(), memory_errors(str(example.device)):
            return output.tensor(module(example))
    except (NetworkError, DeviceError):
        raise
    except ModuleNotFoundError as cause:  # not installed on its word: the network may be anybody's
        raise NetworkError(
            f"The network needs a Python package that is not installed: {_first_line(cause)} Install it, in 3D Slicer "
            "with slicer.util.pip_install(NAME) in the Python console, and load the network again."
        ) from cause
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
