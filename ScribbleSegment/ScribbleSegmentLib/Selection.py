"""Which network is used on which device: what the scene says, else what the user chose last, else the defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

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
