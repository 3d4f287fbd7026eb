"""Network files: safetensors with a description, or plain parameter files of published networks. Never code."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribblesegment.errors import ConfigError, WeightsError
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    import torch
    from torch import nn


METADATA_KEY = "scribblesegment"

DEFAULT_CAPABILITIES = ("boxes", "clicks", "scribbles")

DEFAULT_SIZE = 128


@dataclass(frozen=True)
class NetworkDescription:
    """What has to be known to run a parameter file; it travels inside the file.

    Attributes:
        architecture: Name of a network in `scribblesegment.models.factory`.
        options: Options of that network.
        size: Side of the network's grid in pixels.
        capabilities: Which prompts it understands: "scribbles", "clicks", "boxes", "context".
        name: What it is called.
        licence: Licence of the parameters.
        focus_size: Side of the largest grid of a second look at finer pixels (`data.preprocessing`); 0 for
            networks that were not trained to take one.
        temperature: What its logits are divided by, so that their probabilities mean something (Guo et al. 2017); above
            1 where the network is surer than it is right. The mask at one half does not depend on it.

    Raises:
        WeightsError: If the temperature is not a positive finite number, or the focus size does not fit the grid's.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int = DEFAULT_SIZE
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    name: str = ""
    licence: str = ""
    focus_size: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that logits cannot be divided by, and a grid that is no finer."""
        if not isinstance(self.focus_size, int) or (self.focus_size != 0 and self.focus_size < self.size):
            raise WeightsError(
                f"The focus size of a network is 0 or at least its grid's, {self.size}; got {self.focus_size!r}."
            )
        # Its type is checked because it may come from a file; True would pass for 1.
        is_number = isinstance(self.temperature, (int, float)) and not isinstance(self.temperature, bool)
        if not is_number or not isfinite(self.temperature) or self.temperature <= 0:
            raise WeightsError(
                f"The temperature of a network is a positive finite number, got {self.temperature!r}; 1 leaves "
                "probabilities as they are."
            )


def load_network(path: str | os.PathLike[str]) -> tuple[nn.Module, NetworkDescription]:
    """Build the network of a parameter file.

    Args:
        path: `.safetensors`, or a `.pt`/`.pth` file of tensors. Files without a description are recognised by their
            parameter names and shapes, among them the published ScribblePrompt-UNet, MultiverSeg and UniverSeg.

    Returns:
        The network with float32 parameters, in evaluation mode, and its description.

    Raises:
        WeightsError: If the file is missing, damaged, would run code, or does not fit the network it names.
    """
    from scribblesegment.models.factory import build_network

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Check the path, or add the model again.")
    parameters, description = _read_safetensors(path) if path.suffix == ".safetensors" else (read_pickle(path), None)
    if description is None:
        description = recognise(parameters, path)
    try:
        network = build_network(description.architecture, description.options)
    except ConfigError as error:
        raise WeightsError(f"{path} describes a network this version cannot build: {error}") from error
    fill_parameters(network, parameters, path)
    return network.eval(), description


def save_network(
    path: str | os.PathLike[str], parameters: dict[str, torch.Tensor], description: NetworkDescription
) -> None:
    """Write parameters in half precision as safetensors, with their description; whole or not at all.

    Raises:
        FileFormatError: If the file cannot be written.
    """
    import torch

    halves = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in parameters.items()}
    _write_safetensors(path, halves, {}, description)


def redescribe_network(
    path: str | os.PathLike[str], output: str | os.PathLike[str], description: NetworkDescription
) -> None:
    """Write the parameters of a file, unchanged to the bit, with another description; whole or not at all.

    Args:
        path: A `.safetensors` file, with or without a description.
        output: Where to; may be the same file.
        description: Takes the place of the file's own. What other tools wrote beside it stays.

    Raises:
        WeightsError: If the file is missing, damaged, or no safetensors file.
        FileFormatError: If the output cannot be written.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Check the path.")
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is no safetensors file, so there is no place in it for a description. Write it as one first "
            "(scripts/export_weights.py makes it from a training checkpoint)."
        )
    parameters, metadata = open_safetensors(path)
    _write_safetensors(output, parameters, metadata, description)


def recognise(parameters: dict[str, torch.Tensor], path: Path) -> NetworkDescription:
    """Tell the network from parameter names and shapes.

    Raises:
        WeightsError: If they are not those of a known network.
    """
    crossing = parameters.get("enc_blocks.0.cross.cross_conv.weight")
    if crossing is not None and crossing.ndim == 4:
        return _recognise_in_context(parameters, crossing, path)
    levels = sum(1 for name in parameters if re.fullmatch(r"downs\.\d+\.conv\.0\.weight", name))
    bottleneck = parameters.get("bottleneck.conv.0.weight")
    if levels == 0 or bottleneck is None:
        some = ", ".join(sorted(parameters)[:4]) or "none"
        raise WeightsError(
            f"{path} holds no network that is known here (its parameters: {some}, ...). Supported are ScribblePrompt-"
            "UNet, MultiverSeg and UniverSeg files and files written by this package."
        )
    first = parameters["downs.0.conv.0.weight"]
    features = [int(parameters[f"downs.{level}.conv.0.weight"].shape[0]) for level in range(levels)]
    convolutions = sum(
        1
        for name, value in parameters.items()
        if re.fullmatch(r"downs\.0\.conv\.\d+\.weight", name) and value.ndim == 4
    )
    options: dict[str, Any] = {
        "features": [*features, int(bottleneck.shape[0])],
        "convolutions": convolutions,
        "in_channels": int(first.shape[1]),
        "activation": "prelu" if "downs.0.conv.1.weight" in parameters else "leaky_relu",
    }
    return NetworkDescription("scribble_unet", options, name=path.stem)


def _recognise_in_context(parameters: dict[str, torch.Tensor], first: torch.Tensor, path: Path) -> NetworkDescription:
    """Tell MultiverSeg from UniverSeg, which has no normalisation; `first` is the first cross-convolution."""
    widths = {
        int(found[1]): int(value.shape[0])
        for name, value in parameters.items()
        if (found := re.fullmatch(r"enc_blocks\.(\d+)\.cross\.cross_conv\.weight", name))
    }
    options: dict[str, Any] = {"features": [widths[level] for level in sorted(widths)]}
    if "enc_blocks.0.target.vmapped.norml.weight" not in parameters:
        return NetworkDescription("universeg", options, capabilities=("context",), name=path.stem)
    options["in_channels"] = int(first.shape[1]) - 2  # without image and mask of a context entry
    capabilities = tuple(sorted((*DEFAULT_CAPABILITIES, "context")))
    return NetworkDescription("multiverseg", options, capabilities=capabilities, name=path.stem)


def _write_safetensors(
    path: str | os.PathLike[str],
    parameters: dict[str, torch.Tensor],
    metadata: dict[str, str],
    description: NetworkDescription,
) -> None:
    from safetensors.torch import save

    described = {**metadata, METADATA_KEY: json.dumps(asdict(description), sort_keys=True)}
    content = save(parameters, metadata=described)
    with atomic_file(path, ".safetensors") as temporary:
        temporary.write_bytes(content)


def open_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read all parameters, as they are stored, and the metadata.

    Raises:
        WeightsError: If the file is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}. Get it again.") from error


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], NetworkDescription | None]:
    parameters, metadata = open_safetensors(path)
    if METADATA_KEY not in metadata:
        return parameters, None
    try:
        values = json.loads(metadata[METADATA_KEY])
        values["capabilities"] = tuple(values["capabilities"])
        return parameters, NetworkDescription(**values)
    except (ValueError, KeyError, TypeError, WeightsError) as error:
        raise WeightsError(f"{path} has a description that cannot be read: {error}. Get it again.") from error


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a file of torch.save, without running what it may hold besides them.

    Raises:
        WeightsError: If the file is damaged, or holds other objects than parameters.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of other tools; what matters is whether they load
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was not loaded: besides tensors it holds Python objects, which could run code on this computer. "
            "Ask for the parameters alone (a state_dict) or for a safetensors file."
        ) from error
    except Exception as error:  # arbitrary bytes make the unpickler fail in arbitrary ways
        raise WeightsError(f"{path} is damaged or not a torch file: {error}. Get it again.") from error
    if isinstance(content, dict):
        # Training tools wrap the parameters under one of these names.
        for key in ("state_dict", "model", "averaged"):
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no parameters (a dictionary of tensors), but {type(content).__name__}.")
    return {str(name): value for name, value in content.items()}


def fill_parameters(network: nn.Module, parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Give a network its parameters, as float32.

    Raises:
        WeightsError: If names or shapes are not the network's; `path` is the file in the message.
    """
    expected = network.state_dict()
    missing = sorted(set(expected) - set(parameters))
    extra = sorted(set(parameters) - set(expected))
    reshaped = sorted(
        f"{name} {tuple(parameters[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in set(expected) & set(parameters)
        if expected[name].shape != parameters[name].shape
    )
    problems = [
        f"{what}: {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit the network it is for; parameters {'; '.join(problems)}. Use a file that was made "
            "for this network."
        )
    network.load_state_dict({name: value.float() for name, value in parameters.items()})


# The format's own limit; a longer header is a damaged or hostile file.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class FileDescription:
    """What is written in a weights file; empty where it says nothing.

    Attributes:
        name: What the network is called.
        licence: Licence of the parameters.
    """

    name: str = ""
    licence: str = ""


def describe_file(path: str | os.PathLike[str]) -> FileDescription:
    """Read the description of a safetensors file.

    The file begins with the header's length (8 bytes, little endian) and the header (JSON), whose entry
    `__metadata__` holds strings only (https://github.com/huggingface/safetensors, "Format").

    Returns:
        The description; empty for files of other formats, for damaged files and for missing ones: whether a file can
        be used is for `checkpoints.load_network` to find out.
    """
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                return FileDescription()
            header = json.loads(file.read(length))
        values = json.loads(header["__metadata__"][METADATA_KEY])
        return FileDescription(str(values.get("name", "")), str(values.get("licence", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return FileDescription()
