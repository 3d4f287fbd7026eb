"""Network files: safetensors with a description, or plain parameter files of published networks. Never code."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribblesegment.atomic_file import atomic_file
from scribblesegment.exceptions import ConfigError, WeightsError

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
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int = DEFAULT_SIZE
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    name: str = ""
    licence: str = ""


def load_network(path: str | os.PathLike[str]) -> tuple[nn.Module, NetworkDescription]:
    """Build the network of a parameter file.

    Args:
        path: `.safetensors`, or a `.pt`/`.pth` file of tensors. Files without a description are recognised by their
            parameter names and shapes, among them the published ScribblePrompt-UNet.

    Returns:
        The network with float32 parameters, in evaluation mode, and its description.

    Raises:
        WeightsError: If the file is missing, damaged, would run code, or does not fit the network it names.
    """
    from scribblesegment.models.factory import build_network

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Check the path, or add the model again.")
    parameters, description = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), None)
    if description is None:
        description = recognise(parameters, path)
    try:
        network = build_network(description.architecture, description.options)
    except ConfigError as error:
        raise WeightsError(f"{path} describes a network this version cannot build: {error}") from error
    _fill(network, parameters, path)
    return network.eval(), description


def save_network(
    path: str | os.PathLike[str], parameters: dict[str, torch.Tensor], description: NetworkDescription
) -> None:
    """Write parameters in half precision as safetensors, with their description; whole or not at all.

    Raises:
        FileFormatError: If the file cannot be written.
    """
    import dataclasses

    import torch
    from safetensors.torch import save

    halves = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in parameters.items()}
    content = save(halves, metadata={METADATA_KEY: json.dumps(dataclasses.asdict(description), sort_keys=True)})
    with atomic_file(path, ".safetensors") as temporary:
        temporary.write_bytes(content)


def recognise(parameters: dict[str, torch.Tensor], path: Path) -> NetworkDescription:
    """Tell the network from parameter names and shapes.

    Raises:
        WeightsError: If they are not those of a known network.
    """
    levels = sum(1 for name in parameters if re.fullmatch(r"downs\.\d+\.conv\.0\.weight", name))
    bottleneck = parameters.get("bottleneck.conv.0.weight")
    if levels == 0 or bottleneck is None:
        some = ", ".join(sorted(parameters)[:4]) or "none"
        raise WeightsError(
            f"{path} holds no network that is known here (its parameters: {some}, ...). Supported are ScribblePrompt-"
            "UNet files and files written by this package."
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


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], NetworkDescription | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}. Get it again.") from error
    if METADATA_KEY not in metadata:
        return parameters, None
    try:
        values = json.loads(metadata[METADATA_KEY])
        values["capabilities"] = tuple(values["capabilities"])
        return parameters, NetworkDescription(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} has a description that cannot be read: {error}. Get it again.") from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
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


def _fill(network: nn.Module, parameters: dict[str, torch.Tensor], path: Path) -> None:
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
