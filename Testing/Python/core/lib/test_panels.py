"""Tests of the sections that other parts of the extension add to the module's panel."""

from __future__ import annotations

import pytest

from ScribbleSegmentLib import Widget as Panels
from ScribbleSegmentLib.Widget import registeredPanels, registerPanel, unregisterPanel


@pytest.fixture(autouse=True)
def only_what_the_test_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panels, "_entries", {})


def a_panel(name: str) -> type:
    return type(name, (), {})


def test_sections_are_shown_by_rising_order() -> None:
    late, early, also_early = a_panel("Late"), a_panel("Early"), a_panel("AlsoEarly")
    for panel, order in ((late, 20), (early, 10), (also_early, 10)):
        assert registerPanel(order=order)(panel) is panel
    assert registeredPanels() == [also_early, early, late]


def test_a_class_that_is_reloaded_is_shown_once() -> None:
    registerPanel(order=10)(a_panel("Context"))
    reloaded = registerPanel(order=5)(a_panel("Context"))
    assert registeredPanels() == [reloaded]


def test_a_section_can_be_taken_away() -> None:
    panel = registerPanel(order=1)(a_panel("Context"))
    unregisterPanel(panel)
    unregisterPanel(panel)
    assert registeredPanels() == []
