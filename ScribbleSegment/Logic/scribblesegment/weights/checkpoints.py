"""Network files: safetensors with a description, or plain parameter files of published networks. Never code."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribblesegment.errors import ConfigError, MissingPackageError, WeightsError
from scribblesegment.io.fields import Fields, parse_json
from scribblesegment.io.storage import PathLike, atomic_file
from scribblesegment.weights.safetensors_numpy import read_header, read_safetensors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

METADATA_KEY = "scribblesegment"
CHECKSUM_KEY = "scribblesegment.sha256"  # of the description and all parameters; files before version 0.2 lack it

DEFAULT_CAPABILITIES = ("boxes", "clicks", "scribbles")
DEFAULT_SIZE = 128

_LARGEST_SIZE = 8192
_LARGEST_OPTION = 1 << 20
_DEEPEST_OPTION = 4

# Training tools wrap the parameters under one of these names.
_WRAPPERS = ("state_dict", "model", "averaged")


@dataclass(frozen=True)
class NetworkDescription:
    """What has to be known to run a parameter file; it travels inside the file.

    Raises:
        WeightsError: a value of another type or out of range.
    """

    architecture: str  # name of a network in `scribblesegment.models.factory`
    options: dict[str, Any] = field(default_factory=dict)  # of that network
    size: int = DEFAULT_SIZE  # side of the network's grid in pixels
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES  # prompts it understands: scribbles, clicks, boxes, context
    name: str = ""
    licence: str = ""  # of the parameters
    # Side of the largest grid of a second look at finer pixels (`data.preprocessing`); 0 for networks that were not
    # trained to take one.
    focus_size: int = 0
    # What logits are divided by, so that probabilities mean something (Guo et al. 2017); above 1 where the network is
    # surer than it is right. The mask at one half does not depend on it.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        given = Fields(vars(self), "The description of a network", WeightsError)
        for key in ("architecture", "name", "licence"):
            given.text(key, 1000)
        given.integer("size", 1, _LARGEST_SIZE)
        _check_option(self.options, "options", 0)
        if not isinstance(self.options, dict):
            raise WeightsError(f"The options of a network are named values, got {type(self.options).__name__}.")
        if not all(isinstance(capability, str) for capability in self.capabilities):
            raise WeightsError(f"The capabilities of a network are texts, got {self.capabilities!r:.80}.")
        focus, limit = self.focus_size, _LARGEST_SIZE
        if type(focus) is not int or (focus != 0 and not self.size <= focus <= limit):
            raise WeightsError(
                f"The focus size of a network is 0 or at least its grid's, {self.size}, and at most {limit}; got "
                f"{focus!r:.40}."
            )
        temperature = self.temperature
        if type(temperature) not in (int, float) or not 0 < temperature < 1e30 or not isfinite(temperature):
            raise WeightsError(
                f"The temperature of a network is a positive finite number, got {temperature!r:.40}; 1 leaves "
                "probabilities as they are."
            )


def _check_option(value: Any, name: str, depth: int) -> None:
    """Refuse options no network has, such as numbers or lists that would fill the memory."""
    if isinstance(value, (dict, list, tuple)) and len(value) <= 100 and depth < _DEEPEST_OPTION:
        for item in value.values() if isinstance(value, dict) else value:
            _check_option(item, name, depth + 1)
    elif isinstance(value, (int, float)) and abs(value) <= _LARGEST_OPTION:  # false for NaN
        return
    elif not (value is None or (isinstance(value, str) and len(value) <= 200)):
        raise WeightsError(f"The {name} of a network hold {value!r:.40}, which does not make sense.")


def load_network(path: PathLike) -> tuple[nn.Module, NetworkDescription]:
    """Build the network of a parameter file.

    Args:
        path: `.safetensors`, or a `.pt`/`.pth` file of tensors. Files without a description are recognised by their
            parameter names and shapes, among them the published ScribblePrompt-UNet, MultiverSeg and UniverSeg.

    Returns:
        The network with float32 parameters, in evaluation mode, and its description.

    Raises:
        WeightsError: the file is missing, damaged, would run code, or does not fit the network it names.
    """
    import torch

    from scribblesegment.models.factory import build_network

    path = _existing(path)
    if path.suffix == ".safetensors":
        parameters, metadata = open_safetensors(path)
        description = _parse_description(metadata, path)
    else:
        parameters, description = read_pickle(path), None
    if description is None:
        description = recognise(parameters, path)
    try:
        with torch.device("meta"):  # shapes without memory, which a hostile description could ask for without end
            check_parameters(build_network(description.architecture, description.options), parameters, path)
        network = build_network(description.architecture, description.options)
    except (ConfigError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} describes a network that this version cannot build: {error}") from error
    fill_parameters(network, parameters, path)
    return network.eval(), description


def load_arrays(path: PathLike) -> tuple[dict[str, NDArray[Any]], NetworkDescription]:
    """Read the parameters of a network that runs without PyTorch, as float32.

    Raises:
        WeightsError: The file is missing or damaged.
        MissingPackageError: It holds a network that needs PyTorch.
    """
    path = _existing(path)
    arrays, metadata = read_safetensors(path) if path.suffix == ".safetensors" else ({}, {})
    _compare_checksum(path, metadata)
    description = _parse_description(metadata, path)
    if description is None or description.architecture != "ridge_unet" or not description.options.get("folded"):
        raise MissingPackageError(
            f"The network of {path.name} needs PyTorch, which is missing or cannot be loaded. Install PyTorch, or "
            "use the embedded network, which runs without it."
        )
    return arrays, description


def save_network(path: PathLike, parameters: dict[str, torch.Tensor], description: NetworkDescription) -> None:
    """Write parameters in half precision as safetensors, with their description; whole or not at all.

    Raises:
        FileFormatError: the file cannot be written.
    """
    import torch

    halves = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in parameters.items()}
    _write_safetensors(path, halves, {}, description)


def redescribe_network(path: PathLike, output: PathLike, description: NetworkDescription) -> None:
    """Write the parameters of a file, unchanged to the bit, with another description; whole or not at all.

    Args:
        path: a `.safetensors` file, with or without a description.
        output: where to; may be the same file.
        description: takes the place of the file's own. What other tools wrote beside it stays.

    Raises:
        WeightsError: the file is missing, damaged, or no safetensors file.
        FileFormatError: the output cannot be written.
    """
    path = _existing(path)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not a safetensors file, so it has no room for a description. Give the network.safetensors "
            "that a training run ends with."
        )
    parameters, metadata = open_safetensors(path)
    _write_safetensors(output, parameters, metadata, description)


# --- Recognition -----------------------------------------------------------------------------------------------------


def recognise(parameters: dict[str, torch.Tensor], path: Path) -> NetworkDescription:
    """Tell the network from parameter names and shapes.

    Raises:
        WeightsError: they are not those of a known network.
    """
    patches = parameters.get("image_encoder.patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4:
        return _recognise_sam(parameters, path)
    crossing = parameters.get("enc_blocks.0.cross.cross_conv.weight")
    if crossing is not None and crossing.ndim == 4:
        widths = {
            int(found[1]): int(value.shape[0])
            for name, value in parameters.items()
            if (found := re.fullmatch(r"enc_blocks\.(\d+)\.cross\.cross_conv\.weight", name)) and value.ndim
        }
        options: dict[str, Any] = {"features": [widths[level] for level in sorted(widths)]}
        if "enc_blocks.0.target.vmapped.norml.weight" not in parameters:  # UniverSeg has no normalisation
            return NetworkDescription("universeg", options, capabilities=("context",), name=path.stem)
        options["in_channels"] = int(crossing.shape[1]) - 2  # without image and mask of a context entry
        capabilities = tuple(sorted((*DEFAULT_CAPABILITIES, "context")))
        return NetworkDescription("multiverseg", options, capabilities=capabilities, name=path.stem)
    levels = sum(1 for name in parameters if re.fullmatch(r"downs\.\d+\.conv\.0\.weight", name))
    ends = [*(f"downs.{level}.conv.0.weight" for level in range(levels)), "bottleneck.conv.0.weight"]
    if levels == 0 or any(name not in parameters or parameters[name].ndim != 4 for name in ends):
        some = ", ".join(sorted(parameters)[:4]) or "none"
        raise WeightsError(
            f"{path} holds no network that is known here (its parameters: {some}, ...). Supported are ScribblePrompt-"
            "UNet, ScribblePrompt-SAM, MultiverSeg and UniverSeg files and files written by this package."
        )
    options = {
        "features": [int(parameters[name].shape[0]) for name in ends],
        "convolutions": sum(
            1
            for name, value in parameters.items()
            if re.fullmatch(r"downs\.0\.conv\.\d+\.weight", name) and value.ndim == 4
        ),
        "in_channels": int(parameters[ends[0]].shape[1]),
        "activation": "prelu" if "downs.0.conv.1.weight" in parameters else "leaky_relu",
    }
    return NetworkDescription("scribble_unet", options, name=path.stem)


def _recognise_sam(parameters: dict[str, torch.Tensor], path: Path) -> NetworkDescription:
    sides = {  # of the window of each block, in patches
        int(found[1]): (int(value.shape[0]) + 1) // 2
        for name, value in parameters.items()
        if (found := re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h", name)) and value.ndim == 2
    }
    try:
        patches = parameters["image_encoder.patch_embed.proj.weight"].shape
        grid = int(parameters["image_encoder.pos_embed"].shape[1])
        options = {
            "image_size": grid * int(patches[2]),
            "patch_size": int(patches[2]),
            "width": int(patches[0]),
            "depth": len(sides),
            "heads": int(patches[0]) // int(parameters["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]),
            "global_blocks": [index for index, side in sorted(sides.items()) if side == grid],
            "window": min(sides.values()),
            "prompt_width": int(parameters["mask_decoder.iou_token.weight"].shape[1]),
            "decoder_hidden": int(parameters["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]),
        }
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"{path} looks like ScribblePrompt-SAM, but lacks {error}. Get it again.") from error
    return NetworkDescription("scribbleprompt_sam", options, size=4 * grid, name=path.stem)


# --- Files -----------------------------------------------------------------------------------------------------------


def open_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read all parameters, as they are stored, and the metadata.

    Raises:
        WeightsError: the file is damaged or of another format.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:  # PyTorch comes without it
        import torch

        arrays, metadata = read_safetensors(path)
        _compare_checksum(path, metadata)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        _compare_checksum(path, metadata)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}. Get it again.") from error
    return parameters, metadata


def _write_safetensors(
    path: PathLike, parameters: dict[str, torch.Tensor], metadata: dict[str, str], description: NetworkDescription
) -> None:
    from safetensors.torch import save

    described = {**metadata, METADATA_KEY: json.dumps(asdict(description), sort_keys=True)}
    described[CHECKSUM_KEY] = _checksum(save(parameters), described)  # the parameters' bytes are the same below
    content = save(parameters, metadata=described)
    with atomic_file(path, ".safetensors") as temporary:
        temporary.write_bytes(content)


def _existing(path: PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Check the path, or add the network again.")
    return path


def _compare_checksum(path: Path, metadata: dict[str, str]) -> None:
    if CHECKSUM_KEY in metadata and metadata[CHECKSUM_KEY] != _checksum(path.read_bytes(), metadata):
        raise WeightsError(f"{path} is damaged: its checksum is wrong. Get it again.")


def _checksum(content: bytes, metadata: dict[str, str]) -> str:
    """Return the SHA-256 of a file's description and parameters, which begin behind the header."""
    digest = hashlib.sha256(metadata.get(METADATA_KEY, "").encode())
    digest.update(memoryview(content)[8 + int.from_bytes(content[:8], "little") :])
    return digest.hexdigest()


def _parse_description(metadata: dict[str, str], path: Path) -> NetworkDescription | None:
    if METADATA_KEY not in metadata:
        return None
    try:
        values = parse_json(metadata[METADATA_KEY], "it", WeightsError)
        capabilities = Fields(values, "it", WeightsError).items("capabilities", 20)
        unknown = sorted(values.keys() - {known.name for known in fields(NetworkDescription)})
        if unknown or "architecture" not in values:
            raise WeightsError(f"it lacks the architecture, or has unknown fields {unknown}. Update the program.")
        return NetworkDescription(**{**values, "capabilities": tuple(capabilities)})
    except WeightsError as error:
        raise WeightsError(f"{path} has a description that cannot be read: {error}") from error


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a file of torch.save, without running what it may hold besides them.

    Raises:
        WeightsError: the file is damaged, or holds other objects than parameters.
    """
    import torch

    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith((b"PK", b"\x80")):
        raise WeightsError(
            f"{path} is not a torch file, or a damaged one: it begins with {start!r}. Give a weights file."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of other tools; what matters is whether they load
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()  # torch does not compare checksums
                if damaged is not None:
                    raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was not loaded: besides tensors it holds Python objects, which could run code on this computer. "
            "Ask for the parameters alone (a state_dict) or for a safetensors file."
        ) from error
    except Exception as error:  # arbitrary bytes make the unpickler fail in arbitrary ways
        raise WeightsError(f"{path} is damaged or not a torch file: {error}. Get it again.") from error
    if isinstance(content, dict):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} holds no parameters (a dictionary of tensors), but {type(content).__name__}. Give a weights file."
        )
    return {str(name): value for name, value in content.items()}


def check_parameters(network: nn.Module, parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Raise WeightsError unless names and shapes are the network's; `path` is the file in the message."""
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


def fill_parameters(network: nn.Module, parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Give a network its parameters, as float32.

    Raises:
        WeightsError: names or shapes are not the network's, or a parameter is NaN or infinite; `path` is the file in
            the message.
    """
    check_parameters(network, parameters, path)
    for name, value in parameters.items():
        if not bool(value.isfinite().all()):
            raise WeightsError(
                f"{path} holds NaN or infinite numbers in {name}: it is damaged, or its training failed. Get another "
                "file."
            )
    network.load_state_dict({name: value.float() for name, value in parameters.items()})


@dataclass(frozen=True)
class FileDescription:
    """What a weights file says about itself; empty where it says nothing."""

    name: str = ""
    licence: str = ""  # of the parameters


def describe_file(path: PathLike) -> FileDescription:
    """Read the description of a safetensors file, without torch.

    Returns:
        The description; empty for files of other formats, for damaged files and for missing ones: whether a file can
        be used is for `load_network` to find out.
    """
    try:
        with Path(path).open("rb") as file:
            values = json.loads(read_header(file)["__metadata__"][METADATA_KEY])
        return FileDescription(str(values.get("name", "")), str(values.get("licence", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return FileDescription()
