"""Loading a network whose result is to be corrected, of whatever kind lies somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from scribblesegment.errors import ConfigError, NetworkError, WeightsError
from scribblesegment.refinement.adapters.base import (
    Confirm,
    NetworkAdapter,
    NetworkSettings,
    PreparedImage,
    read_settings,
    settings_path,
)
from scribblesegment.refinement.adapters.embedded import EmbeddedNetwork, load_embedded
from scribblesegment.refinement.adapters.modules import (
    ModuleNetwork,
    archive_names,
    is_exported,
    is_torchscript,
    load_exported,
    load_parameters,
    load_torchscript,
    make_module,
    names_function,
)
from scribblesegment.refinement.adapters.monai import is_bundle, load_bundle
from scribblesegment.refinement.adapters.nnunet import is_nnunet, load_nnunet

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor

_KINDS = (
    "a TorchScript or torch.export file, file.py:function or package.module:function, the trained-model folder of an "
    "nnU-Net v2 (with plans.json), a MONAI bundle (with configs/inference.json), or a name of list_weights()"
)

_PARAMETERS = (".safetensors", ".pt", ".pth", ".ckpt")


def load_network(
    source: str | Path | nn.Module | Predictor,
    *,
    confirm: Confirm | None = None,
    weights: str | Path | None = None,
    fold: str | None = None,
    **settings: Any,
) -> NetworkAdapter:
    """Load a network that is to be corrected, of any kind.

    Args:
        source: A module or predictor in memory; the path of a TorchScript or torch.export file, of an nnU-Net v2
            trained-model folder, or of a MONAI bundle; "file.py:function" or "package.module:function", which makes a
            module; or a name of `list_weights`, or "default".
        confirm: Called with the reason why foreign code would run; returns whether it may. Without it, none does.
        weights: File of parameters, for a function that makes an empty module.
        fold: Fold of an nnU-Net; the first there is by default.
        **settings: Fields of `NetworkSettings` that differ from those in the file beside the network, for modules,
            functions, TorchScript and torch.export. The other kinds describe themselves.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        NetworkError: Nothing of a known kind is there, it was not confirmed, or it cannot be loaded or corrected.
        MissingPackageError: Its format needs a package that is not installed.
        WeightsError: Parameters or named weights are missing, damaged, or do not fit.
        ConfigError: An unknown setting, or a value out of range.
        FileFormatError: The settings beside the network cannot be read.
    """
    if isinstance(source, nn.Module):
        return ModuleNetwork(source, **settings)
    if not isinstance(source, (str, Path)):
        _refuse(settings, "a predictor")
        return EmbeddedNetwork.of_predictor(source)
    path = Path(source)
    if weights is not None and not names_function(str(source)):
        raise ConfigError(
            f"Parameters ({weights}) go with file.py:function or package.module:function; {source} has its own."
        )
    if path.is_dir():
        return _load_folder(path, confirm, fold, settings)
    if path.is_file():
        return _load_file(path, confirm, fold, settings)
    if names_function(str(source)):
        return _load_function(str(source), confirm, weights, settings)
    if path.suffix or len(path.parts) > 1:
        raise NetworkError(f"There is no file or folder {path}. Check the path; a network is {_KINDS}.")
    return _load_embedded(str(source), settings)


def _load_folder(folder: Path, confirm: Confirm | None, fold: str | None, settings: dict[str, Any]) -> NetworkAdapter:
    for home, chosen in ((folder, fold), (folder.parent, _fold_of(folder))):
        if is_nnunet(home) and (home == folder or chosen is not None):
            _refuse(settings, "an nnU-Net")
            return load_nnunet(home, confirm, fold=chosen)
    if is_bundle(folder):
        _refuse(settings, "a MONAI bundle")
        return load_bundle(folder, confirm)
    inside = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and (is_nnunet(each) or is_bundle(each))]
    hint = f" There are networks in its folders {', '.join(inside)}." if inside else ""
    raise NetworkError(f"The folder {folder} holds no network that is known here.{hint} A network is {_KINDS}.")


def _load_file(path: Path, confirm: Confirm | None, fold: str | None, settings: dict[str, Any]) -> NetworkAdapter:
    if is_bundle(path):
        _refuse(settings, "a MONAI bundle")
        return load_bundle(path, confirm)
    if path.suffix == ".zip":
        packed = any(name.endswith("plans.json") for name in archive_names(path))
        raise NetworkError(
            f"{path} is {'an nnU-Net' if packed else 'an archive'} that has to be unpacked first; give the folder."
        )
    if path.suffix == ".py":
        raise NetworkError(f"{path} is Python code; name the function that makes the network, {path.name}:function.")
    known = read_settings(path).replaced(**settings)
    if is_exported(path):
        return load_exported(path, known, confirm)
    if is_torchscript(path):
        return load_torchscript(path, known, confirm)
    if known.function:
        module = make_module(known.function, confirm, folder=path.parent)
        load_parameters(module, path)
        return ModuleNetwork(module, known, name=known.name or path.stem)
    if _fold_of(path.parent) is not None and is_nnunet(path.parents[1]):
        _refuse(settings, "an nnU-Net")
        return load_nnunet(path.parents[1], confirm, fold=_fold_of(path.parent))
    if path.suffix not in _PARAMETERS:
        raise NetworkError(f"{path} is not a network that is known here. A network is {_KINDS}.")
    try:
        return _load_embedded(path, settings)
    except WeightsError as error:
        raise NetworkError(
            f"{path} holds no network of this package ({error}) To load parameters of another one, name the function "
            f"that makes it: 'function' in {settings_path(path).name}, or file.py:function with these as weights."
        ) from error


def _load_embedded(source: str | Path, settings: dict[str, Any]) -> NetworkAdapter:
    window = settings.pop("normalise", None) if not isinstance(settings.get("normalise"), str) else None
    _refuse(settings, "a network of the package")
    return load_embedded(source, window)


def _load_function(
    source: str, confirm: Confirm | None, weights: str | Path | None, settings: dict[str, Any]
) -> ModuleNetwork:
    place = Path(source.rpartition(":")[0])
    beside = place.suffix == ".py"
    known = (read_settings(place) if beside else NetworkSettings()).replaced(**settings)
    module = make_module(source, confirm)
    if weights is not None:
        load_parameters(module, Path(weights))
    elif known.weights:
        load_parameters(module, (place.parent if beside else Path()) / known.weights)
    return ModuleNetwork(module, known, name=known.name or source.rpartition(":")[2])


def _fold_of(folder: Path) -> str | None:
    """The fold of an nnU-Net that a folder of this name holds."""
    found = re.fullmatch(r"fold_(\w+)", folder.name)
    return found[1] if found else None


def _refuse(settings: dict[str, Any], kind: str) -> None:
    if settings:
        raise ConfigError(f"{kind} describes itself; it takes no settings {', '.join(sorted(settings))}.")


__all__ = ["EmbeddedNetwork", "ModuleNetwork", "NetworkAdapter", "NetworkSettings", "PreparedImage", "load_network"]
