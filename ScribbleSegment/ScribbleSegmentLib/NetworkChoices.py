"""The networks that the user can choose from: the embedded one, and those added from files."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from scribblesegment import list_weights
from scribblesegment.weights.checkpoints import describe_file
from scribblesegment.weights.registry import WeightsInfo, find_weights, import_weights, weights_folder

FILE_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ModelChoice:
    """A network to choose.

    Attributes:
        name: What it is loaded by.
        description: One sentence, in English.
        licence: Licence of its parameters; empty when nobody stated one.
        embedded: Whether it comes with the extension.
        missing: Whether its file has vanished.
        downloadMegabytes: What has to be downloaded before its first use.
    """

    name: str
    description: str
    licence: str
    embedded: bool
    missing: bool = False
    downloadMegabytes: int = 0


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

        Raises:
            WeightsError: It is no network that can be used here.
        """
        return self._choice(import_weights(file, name=self.freeName(file), weights_dir=self._folder))

    def freeName(self, file: str) -> str:
        """Make a name from a file's that no other network has."""
        stem = re.sub(r"[^\w.-]+", "-", Path(file).stem).strip("-.") or "model"
        taken = {entry.name for entry in list_weights(self._folder)}
        candidates = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
        return next(candidate for candidate in candidates if candidate not in taken)

    def _choice(self, entry: WeightsInfo) -> ModelChoice:
        path = entry.path(self._folder)
        exists = path.is_file()
        isAdded = not entry.embedded and not entry.url
        return ModelChoice(
            entry.name,
            entry.description,
            describe_file(path).licence if isAdded else entry.licence,
            entry.embedded,
            missing=not exists and not entry.url,
            downloadMegabytes=0 if exists or not entry.url else max(1, round(entry.bytes / 1e6)),
        )


_MODEL_KEY = "ScribbleSegment/Model"

_DEVICE_KEY = "ScribbleSegment/Device"


@dataclass(frozen=True)
class Selection:
    """A choice of network and device; an empty text is none.

    Attributes:
        model: Name of a network.
        device: "auto" or a torch device name.
    """

    model: str = ""
    device: str = ""

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

    def __init__(self, read: Callable[[str], object], write: Callable[[str, str], None]) -> None:
        """Use a store of settings.

        Args:
            read: Gives the value of a key, or None.
            write: Sets it.
        """
        self._read = read
        self._write = write

    def load(self) -> Selection:
        """Give what was chosen last."""
        return Selection(self._text(_MODEL_KEY), self._text(_DEVICE_KEY))

    def save(self, selection: Selection) -> None:
        """Remember a choice."""
        self._write(_MODEL_KEY, selection.model)
        self._write(_DEVICE_KEY, selection.device)

    def _text(self, key: str) -> str:
        value = self._read(key)
        return value if isinstance(value, str) else ""


def deviceNames(platform: str = sys.platform) -> list[str]:
    """List the devices to choose from on an operating system; whether they work is for a check to tell."""
    return ["auto", "cpu", "mps" if platform == "darwin" else "cuda"]
