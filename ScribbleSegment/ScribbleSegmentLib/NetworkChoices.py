"""The networks that the user can choose from: the embedded one, the published ones, and those added from files."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scribblesegment import fetch_weights, list_weights
from scribblesegment.service.worker import Task
from scribblesegment.weights.checkpoints import describe_file
from scribblesegment.weights.registry import (
    WeightsInfo,
    find_weights,
    import_weights,
    remove_weights,
    weights_folder,
)

FILE_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ModelChoice:
    """A network to choose."""

    info: WeightsInfo  # what the list of networks says of it
    licence: str  # of its parameters; empty when nobody stated one
    missing: bool  # whether its file has vanished
    downloadMegabytes: int  # what has to be downloaded before its first use, about; 0 if nothing has
    sha256: str  # what its file had when it came, hexadecimal; empty if that is not known

    @property
    def name(self) -> str:
        """What it is loaded by."""
        return self.info.name


class ModelChoices:
    """Lists and adds networks. Added files are copied to the user's data folder, so they outlive the session."""

    def __init__(self, weightsFolder: Path | None = None) -> None:
        """Use a folder of added networks; the user's own by default."""
        self._folder = weightsFolder

    @property
    def folder(self) -> Path:
        """Where added networks are kept."""
        return weights_folder(self._folder)

    @property
    def defaultName(self) -> str:
        """Name of the network that is used unless another one is chosen.

        Raises:
            WeightsError: The package's list of networks cannot be read.
        """
        return find_weights(weights_dir=self._folder).name

    def all(self) -> list[ModelChoice]:
        """List them, the extension's own first.

        Raises:
            WeightsError: The package's list of networks cannot be read.
        """
        return [self._choice(entry) for entry in list_weights(self._folder)]

    def find(self, name: str) -> ModelChoice | None:
        """Give the network of a name, or None."""
        return next((choice for choice in self.all() if choice.name == name), None)

    def statedLicence(self, file: str) -> str:
        """Give the licence that a file states, or an empty text."""
        return describe_file(file).licence

    def add(self, file: str) -> ModelChoice:
        """Check a file and copy it to the user's networks. Takes seconds, and needs PyTorch.

        The files of published networks are recognised; others get a name that no other network has.

        Raises:
            WeightsError: It is no network that can be used here.
        """
        return self._choice(import_weights(file, weights_dir=self._folder))

    def download(self, name: str, task: Task[ModelChoice]) -> ModelChoice:
        """Download a published network, whose licence the user has agreed to; needs PyTorch.

        A download that was cancelled or broke off goes on where it stopped.

        Args:
            name: The network's name.
            task: Is told how far it is, and may be cancelled.

        Raises:
            WeightsError: It cannot be downloaded, or the task was cancelled.
        """
        fetch_weights(
            name,
            weights_dir=self._folder,
            progress=lambda fraction, text: task.set_progress(fraction, text),
            cancelled=lambda: task.cancelled,
        )
        return self._choice(find_weights(name, self._folder))

    def remove(self, name: str) -> None:
        """Remove the file of a network that was downloaded or added.

        Raises:
            WeightsError: It comes with the extension, or is not there.
        """
        remove_weights(name, weights_dir=self._folder)

    def _choice(self, entry: WeightsInfo) -> ModelChoice:
        path = entry.path(self._folder)
        exists = path.is_file()
        isAdded = not entry.embedded and not entry.url
        return ModelChoice(
            entry,
            licence=describe_file(path).licence if isAdded else entry.licence,
            missing=not exists and not entry.url,
            downloadMegabytes=0 if exists or not entry.url else max(1, round(entry.bytes / 1e6)),
            sha256=entry.recorded_sha256(self._folder),
        )


_MODEL_KEY = "ScribbleSegment/Model"

_DEVICE_KEY = "ScribbleSegment/Device"


@dataclass(frozen=True)
class Selection:
    """A choice of network and device; an empty text is none."""

    model: str = ""  # name of a network
    device: str = ""  # "auto" or a torch device name

    def completedBy(self, other: Selection) -> Selection:
        """Fill what is not chosen from another selection."""
        return Selection(self.model or other.model, self.device or other.device)

    def restrictedTo(self, models: Collection[str], devices: Collection[str]) -> Selection:
        """Drop what does not exist here, as in a scene from another computer."""
        return Selection(
            self.model if self.model in models else "",
            self.device if self.device in devices else "",
        )


class RememberedSelection:
    """Keeps the last choice in the user's settings."""

    def __init__(self, settings: Any) -> None:
        """Use a QSettings, or what has its `value` and `setValue`."""
        self._settings = settings

    def load(self) -> Selection:
        """Give what was chosen last."""
        return Selection(self._text(_MODEL_KEY), self._text(_DEVICE_KEY))

    def save(self, selection: Selection) -> None:
        """Remember a choice."""
        self._settings.setValue(_MODEL_KEY, selection.model)
        self._settings.setValue(_DEVICE_KEY, selection.device)

    def _text(self, key: str) -> str:
        value = self._settings.value(key)
        return value if isinstance(value, str) else ""


def deviceNames(platform: str = sys.platform) -> list[str]:
    """List the devices to choose from on an operating system; whether they work is for a check to tell."""
    return ["auto", "cpu", "mps" if platform == "darwin" else "cuda"]
