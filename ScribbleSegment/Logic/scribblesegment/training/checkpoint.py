"""Training state on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from scribblesegment.errors import ConfigError, FileFormatError, WeightsError
from scribblesegment.io.storage import atomic_file
from scribblesegment.training.config import TrainingConfig, config_from_dict, config_to_dict, differing_fields
from scribblesegment.weights.checkpoints import DEFAULT_CAPABILITIES, NetworkDescription, load_network, save_network

# Fields that may differ when a run is continued: they change how it is watched, not what it computes.
_FREE_FIELDS = ("log_every", "checkpoint_every")

_KEYS = frozenset({"config", "step", "network", "averaged", "optimizer"})


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state; an earlier file stays until the new one is complete.

    Args:
        path: A file in an existing folder.
        state: Plain values and tensors under `config`, `step`, `network`, `averaged` and `optimizer`.

    Raises:
        WeightsError: If the file cannot be written (disk full, no permission).
    """
    try:
        with atomic_file(path, path.suffix) as temporary:
            torch.save(state, temporary)
    except (FileFormatError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
        raise WeightsError(
            f"The checkpoint was not written: {error} An earlier checkpoint is intact; free space or get permission, "
            "then continue the run from it."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training state; pickled code is refused, not run.

    Raises:
        WeightsError: If the file is missing, damaged, no training state, or holds anything but plain values and
            tensors.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"Cannot read the checkpoint {path}: {error.strerror or error}. Check the path.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"The checkpoint {path} was not loaded: it is damaged, or holds Python objects, which could run code."
        ) from error
    except Exception as error:  # torch's unpickler raises whatever its damaged instructions lead to
        raise WeightsError(f"The checkpoint {path} is damaged: {error}. Remove it to start anew.") from error
    if not isinstance(state, dict) or not _KEYS.issubset(state):
        raise WeightsError(f"{path} is no checkpoint of a training run (it needs {', '.join(sorted(_KEYS))}).")
    return state


def check_same_run(state: dict[str, Any], config: TrainingConfig, path: Path) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        ConfigError: Naming the fields that differ.
    """
    differences = [
        entry
        for entry in differing_fields(state["config"], config_to_dict(config))
        if entry.split(":")[0] not in _FREE_FIELDS
    ]
    if differences:
        raise ConfigError(
            f"{path} belongs to a run with another configuration: {'; '.join(differences)}. Use the same configuration "
            "to continue it, or another output folder to start anew."
        )


# Side of the largest grid of a second look, in sides of the network's own. It takes a bit more than twice the time of a
# first look; twice the side would take four times, and was no better on the manual scribbles.
_FOCUS = 1.5


def export_network(
    checkpoint: Path, target: Path, *, name: str = "", licence: str = "", mean_with: Path | None = None
) -> None:
    """Write the averaged parameters of a training state as a weights file.

    A network that was trained to take second looks (`focus_p`) or context sets is described as taking them.

    Args:
        checkpoint: File of `save_checkpoint`.
        target: A `.safetensors` file.
        name: What the model is called; the target's stem by default.
        licence: Licence of the parameters.
        mean_with: A weights file of the same network, of an earlier run that this one went on from: the mean of both
            is written. Such means are often good at what either is good at (Wortsman et al. 2022, Model soups).

    Raises:
        WeightsError: If the checkpoint or the weights file cannot be read, or they are of different networks.
        FileFormatError: If the target cannot be written.
    """
    state = load_checkpoint(checkpoint)
    config = config_from_dict(state["config"])
    description = NetworkDescription(
        config.network.name,
        dict(config.network.options),
        size=config.size,
        name=name or target.stem,
        licence=licence,
        focus_size=round(_FOCUS * config.size) if config.focus_p > 0 else 0,
        capabilities=(*DEFAULT_CAPABILITIES, "context") if config.data.context.max_size > 0 else DEFAULT_CAPABILITIES,
    )
    parameters: dict[str, torch.Tensor] = state["averaged"]
    if mean_with is not None:
        other = load_network(mean_with)[0].state_dict()
        if {key: value.shape for key, value in other.items()} != {key: v.shape for key, v in parameters.items()}:
            raise WeightsError(f"{mean_with} and {checkpoint} are of different networks; there is no mean of them.")
        parameters = {key: (value.cpu().float() + other[key].float()) / 2 for key, value in parameters.items()}
    save_network(target, parameters, description)
