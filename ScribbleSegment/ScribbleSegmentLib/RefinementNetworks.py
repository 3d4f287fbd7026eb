"""The networks whose results can be corrected: the extension's own, and those that the user has added."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_KEY = "ScribbleSegment/CorrectedNetworks"


@dataclass(frozen=True)
class NetworkEntry:
    """A network to choose.

    Attributes:
        source: What it is loaded from: a path, `file.py:function`, or the name of one of the extension's own.
        name: As it is listed.
        added: Whether the user has added it, and can remove it.
        missing: Whether its file or folder has vanished.
    """

    source: str
    name: str
    added: bool
    missing: bool = False


class RefinementNetworks:
    """Remembers where added networks lie. Their files stay where they are: a trained-model folder may be large."""

    def __init__(
        self,
        read: Callable[[str], object],
        write: Callable[[str, str], None],
        own: Callable[[], list[str]],
    ) -> None:
        """Use a store of settings.

        Args:
            read: Gives the value of a key, or None.
            write: Sets it.
            own: Gives the names of the extension's own networks.
        """
        self._read = read
        self._write = write
        self._own = own

    def all(self) -> list[NetworkEntry]:
        """List them: those that were added, the newest first, then the extension's own."""
        added = [
            NetworkEntry(source, nameOf(source), added=True, missing=not fileOf(source).exists())
            for source in self._added()
        ]
        return [*added, *(NetworkEntry(name, name, added=False) for name in self._own())]

    def find(self, source: str) -> NetworkEntry | None:
        """Give the one that is loaded from somewhere, or None."""
        return next((entry for entry in self.all() if entry.source == source), None)

    def add(self, source: str) -> NetworkEntry:
        """Remember one; one that is known already becomes the newest."""
        path, function = _split(source)
        source = str(Path(path).expanduser().absolute()) + (f":{function}" if function else "")
        self._save([source, *(other for other in self._added() if other != source)])
        return NetworkEntry(source, nameOf(source), added=True, missing=not fileOf(source).exists())

    def remove(self, source: str) -> None:
        """Forget one; its file stays."""
        self._save([other for other in self._added() if other != source])

    def _added(self) -> list[str]:
        value = self._read(_KEY)
        try:
            stored = json.loads(value) if isinstance(value, str) else []
        except ValueError:
            return []
        return [one for one in stored if isinstance(one, str) and one] if isinstance(stored, list) else []

    def _save(self, sources: list[str]) -> None:
        self._write(_KEY, json.dumps(sources))


def nameOf(source: str) -> str:
    """Give a network's name in the list, from where it lies."""
    path, function = _split(source)
    file = Path(path)
    if function:
        return f"{file.stem}:{function}"
    # nnU-Net calls the folders of one data set by trainer, plans and configuration.
    parts = [file.parent.name, file.name] if file.name.count("__") >= 2 else [file.name]
    return " / ".join(part for part in parts if part) or source


def fileOf(source: str) -> Path:
    """Give the file or folder of a network."""
    return Path(_split(source)[0])


def _split(source: str) -> tuple[str, str]:
    """Take the function off `file.py:function`; a drive's colon is none."""
    path, colon, function = source.rpartition(":")
    return (path, function) if colon and path.endswith(".py") else (source, "")
