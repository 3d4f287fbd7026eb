"""Networks as TorchScript files, which carry their code with them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.networks.python_module import ModuleNetwork
from scribblesegment.refinement.networks.settings import NetworkSettings
from scribblesegment.refinement.networks.trust import Confirm, require_confirmation


def is_torchscript(path: Path) -> bool:
    """Tell a TorchScript file from one of parameters by what is in it, without loading it."""
    names = archive_names(path)
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def archive_names(path: Path) -> list[str]:
    """List what a zip archive holds; nothing for files of other formats."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return []


def load_torchscript(path: Path, settings: NetworkSettings, confirm: Confirm | None) -> ModuleNetwork:
    """Load a TorchScript network.

    Raises:
        NetworkError: Not confirmed, or the file cannot be loaded.
    """
    require_confirmation(
        confirm, f"{path.name} is a TorchScript file: it holds the network's code, which is run as it is."
    )
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # a damaged file fails in arbitrary ways
        raise NetworkError(f"{path} cannot be loaded as TorchScript: {error}. Get or export it again.") from error
    return ModuleNetwork(module, settings, name=settings.name or path.stem)
