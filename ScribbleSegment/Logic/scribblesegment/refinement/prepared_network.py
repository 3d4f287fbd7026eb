"""A module made ready for refinement: checked, in evaluation mode while it is looked at, and traced."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scribblesegment.exceptions import DeviceError, NetworkError
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.traced_network import TracedNetwork
from scribblesegment.refinement.whole_network import WholeNetwork

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
