"""Trained-model folders of nnU-Net v2: reading the plans and a checkpoint, and building the network."""

from __future__ import annotations

import contextlib
import inspect
import json
import pickle
import pydoc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.networks.network import (
    copies_of_image,
)
from scribblesegment.refinement.networks.trust import Confirm, require_confirmation, require_package

FloatArray = NDArray[np.float32]

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
_FILES = ("plans.json", "dataset.json")

# Where networks and their parts come from; plans that name anything else could call any function of this computer.
_NETWORKS, _PARTS = "dynamic_network_architectures.", "torch.nn."


def is_nnunet(folder: Path) -> bool:
    """Tell a trained-model folder by its files."""
    return all((folder / name).is_file() for name in _FILES)


def find_checkpoint(folder: Path, fold: str | None) -> Path:
    """Find the checkpoint of a fold, by default of the first that has one.

    Raises:
        NetworkError: There is none.
    """
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    wanted = [path for path in folds if fold is None or path.name == f"fold_{fold}"]
    found = [path / name for path in wanted for name in CHECKPOINTS if (path / name).is_file()]
    if found:
        return found[0]
    known = ", ".join(path.name for path in folds) or "no folds"
    raise NetworkError(
        f"{folder} has no {' or '.join(CHECKPOINTS)} in {'any fold' if fold is None else f'fold_{fold}'}; it has "
        f"{known}. Copy a fold of the training there, or choose another."
    )


@dataclass(frozen=True, eq=False)
class NnunetModel:
    """nnU-Net's description of a trained model.

    Attributes:
        name: What it is called.
        plans: Its `PlansManager`.
        configuration: Its `ConfigurationManager`.
        dataset: What dataset.json holds.
    """

    name: str
    plans: Any
    configuration: Any
    dataset: dict[str, Any]

    @property
    def labels(self) -> Any:
        """Its `LabelManager`."""
        return self.plans.get_label_manager(self.dataset)

    @property
    def channels(self) -> int:
        """Number of images it takes."""
        return len(self.dataset.get("channel_names") or self.dataset["modality"])


def read_nnunet(
    folder: Path, confirm: Confirm | None = None, *, fold: str | None = None
) -> tuple[nn.Module, NnunetModel]:
    """Read a trained-model folder and build its network.

    Args:
        folder: With plans.json, dataset.json and fold_X/checkpoint_*.pth.
        confirm: See `trust.require_confirmation`; asked only if the checkpoint holds more than plain data, or the plans
            name a network from elsewhere.
        fold: "0", "1", ... or "all"; by default the first there is.

    Raises:
        NetworkError: Damaged, not confirmed, of region-based labels, of a cascade's second stage, of several input
            images, or trained by a trainer that is not installed.
        MissingPackageError: nnU-Net is not installed.
    """
    checkpoint_path = find_checkpoint(folder, fold)
    try:
        plans, dataset = (json.loads((folder / name).read_text(encoding="utf-8")) for name in _FILES)
    except (OSError, ValueError) as error:
        raise NetworkError(f"{folder}: plans.json or dataset.json cannot be read: {error}. Copy them again.") from error
    handler = require_package(
        "nnunetv2.utilities.plans_handling.plans_handler", "nnunetv2", "A trained-model folder of nnU-Net"
    )
    checkpoint = _read_checkpoint(checkpoint_path, confirm)
    name = str(plans.get("dataset_name") or folder.name)
    try:
        manager = handler.PlansManager(plans)
        configuration = manager.get_configuration(checkpoint["init_args"]["configuration"])
        model = NnunetModel(name, manager, configuration, dataset)
        _require_supported(model)
        _require_known_parts(model, confirm)
        module = _built(model, str(checkpoint["trainer_name"]))
        module.load_state_dict(checkpoint["network_weights"])
    except NetworkError:
        raise
    except Exception as error:  # plans and checkpoints of other versions fail in arbitrary ways
        raise NetworkError(
            f"The nnU-Net model in {folder}, trained by {checkpoint['trainer_name']}, cannot be built: "
            f"{type(error).__name__}: {error}. Check that the installed nnunetv2 can predict with it."
        ) from error
    return module, model


def _read_checkpoint(path: Path, confirm: Confirm | None) -> dict[str, Any]:
    """Read a checkpoint as plain data if it is that, and else with the code in it, once that is confirmed."""
    with contextlib.ExitStack() as stack:
        if hasattr(torch.serialization, "safe_globals"):  # PyTorch 2.5
            stack.enter_context(torch.serialization.safe_globals(_harmless()))
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            require_confirmation(
                confirm,
                f"The checkpoint {path.name} in {path.parent} holds more than parameters ({_refused_object(error)}); "
                "reading that can run any code.",
            )
            content = None
        except Exception as error:  # arbitrary bytes make the unpickler fail in arbitrary ways
            raise NetworkError(f"{path} is damaged or no checkpoint: {error}. Copy it again.") from error
    if content is None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:  # as above, and whatever the code does
            raise NetworkError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error
    missing = {"network_weights", "init_args", "trainer_name"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise NetworkError(f"{path} is no checkpoint of nnU-Net v2: it lacks {', '.join(sorted(missing))}.")
    return dict(content)


def _harmless() -> list[Any]:
    """List what the trainer's log of numpy numbers is made of."""
    from _codecs import encode

    kinds = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)
    numbers = [type(np.dtype(kind)) for kind in kinds]
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    parts: list[Any] = [encode, np.dtype, np.ndarray, scalar, rebuild, *numbers]
    # numpy below 2 wrote its functions under this name.
    return [*parts, (scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]


def _refused_object(error: Exception) -> str:
    """Say which class it was, without the long advice of PyTorch."""
    return next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "code")


def _require_supported(model: NnunetModel) -> None:
    labels = model.labels
    if labels.has_regions:
        raise NetworkError(
            f"{model.name} predicts overlapping regions (region-based training), so that no pixel has one label. Only "
            "models with labels that exclude each other can be corrected."
        )
    if model.configuration.previous_stage_name is not None:
        raise NetworkError(
            f"{model.name} is the second stage of a cascade and needs the first stage's result beside the image. "
            "Correct the 3d_fullres or 2d configuration."
        )


def _require_known_parts(model: NnunetModel, confirm: Confirm | None) -> None:
    """Ask before anything but a network of nnU-Net's own library, made of PyTorch's layers, is called."""
    configuration = model.configuration
    options = configuration.network_arch_init_kwargs
    parts = [options.get(name) for name in configuration.network_arch_init_kwargs_req_import]
    named = [(configuration.network_arch_class_name, _NETWORKS)]
    named += [(part, _PARTS) for part in parts if part is not None]
    foreign = [str(name) for name, home in named if not _is_layer(str(name), home)]
    if foreign:
        require_confirmation(
            confirm, f"The plans of {model.name} call {', '.join(foreign)}, which is no part of nnU-Net: any code."
        )


def _is_layer(name: str, home: str) -> bool:
    """Whether a dotted name is a layer or network of a library; looking it up imports only modules of that library."""
    if not name.startswith(home):
        return False
    found = pydoc.locate(name)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _built(model: NnunetModel, trainer_name: str) -> nn.Module:
    """Build the network as its trainer does, without deep supervision."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    trainer = recursive_find_python_class(str(folder), trainer_name, "nnunetv2.training.nnUNetTrainer")
    if trainer is None:
        raise NetworkError(
            f"{model.name} was trained by {trainer_name}, which the installed nnunetv2 does not have. Copy the file of "
            "that trainer into it, as nnU-Net itself needs it too."
        )
    channels = copies_of_image(model.channels, len(model.configuration.patch_size), model.name)
    heads = model.labels.num_segmentation_heads
    configuration = model.configuration
    if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:  # nnunetv2 2.7
        network = trainer.build_network_architecture(
            model.plans, configuration, channels, heads, enable_deep_supervision=False
        )
    else:
        network = trainer.build_network_architecture(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            heads,
            enable_deep_supervision=False,
        )
    if not isinstance(network, nn.Module):
        raise NetworkError(f"The trainer {trainer_name} made {type(network).__name__}, which is no network.")
    return network
