"""The parts of the module's panel that other parts of the extension add, each as a collapsible section.

A part registers its class when its module is imported:

    @registerPanel(order=10)
    class ContextPanel: ...

The panel shows what is registered, and nothing for what is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


class Panel(Protocol):
    """A section of the module's panel. It is made without arguments when the panel is shown for the first time."""

    @property
    def title(self) -> str:
        """Its headline, translated."""

    def setup(self, layout: Any) -> None:
        """Builds its widgets in a QVBoxLayout."""

    def enter(self) -> None:
        """Called when the module is shown; until `exit`, the panel may observe and poll."""

    def exit(self) -> None:
        """Called when another module is shown."""

    def cleanup(self) -> None:
        """Called before the widgets are destroyed; nothing may be left behind."""


P = TypeVar("P", bound=Callable[[], Any])


@dataclass(frozen=True)
class _Entry:
    order: int
    name: str
    make: Callable[[], Panel]


_entries: dict[str, _Entry] = {}


def registerPanel(*, order: int) -> Callable[[P], P]:
    """Decorate a class of panels to have it shown.

    Args:
        order: Sections are shown by rising order. A class of the same name replaces the earlier one, as when a module
            is reloaded.
    """

    def register(panelClass: P) -> P:
        name = panelClass.__name__
        _entries[name] = _Entry(order, name, panelClass)
        return panelClass

    return register


def unregisterPanel(panelClass: Callable[[], Any]) -> None:
    """Show a class of panels no longer; nothing happens when it is not registered."""
    _entries.pop(panelClass.__name__, None)


def registeredPanels() -> list[Callable[[], Panel]]:
    """Give the classes to show, in order."""
    return [entry.make for entry in sorted(_entries.values(), key=lambda entry: (entry.order, entry.name))]
