"""The networks that the user can choose from: the embedded one, and those added from files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scribblesegment import list_weights
from scribblesegment.weights.file_description import describe_file
from scribblesegment.weights.manager import WeightsInfo, find_weights, import_weights, weights_folder

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
