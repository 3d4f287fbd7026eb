"""Tests of which network and device are used."""

from __future__ import annotations

import pytest

from ScribbleSegmentLib.NetworkChoices import RememberedSelection, Selection, deviceNames


def test_what_the_scene_says_comes_before_what_was_chosen_last() -> None:
    scene, last, default = Selection("a", ""), Selection("b", "cpu"), Selection("c", "auto")
    assert scene.completedBy(last).completedBy(default) == Selection("a", "cpu")
    assert Selection().completedBy(Selection()).completedBy(default) == default


def test_what_does_not_exist_here_is_dropped() -> None:
    selection = Selection("from-another-computer", "mps")
    assert selection.restrictedTo(["embedded"], ["auto", "cpu"]) == Selection()
    assert selection.restrictedTo(["from-another-computer"], ["auto", "cpu"]).model == "from-another-computer"


def test_a_choice_is_remembered() -> None:
    store: dict[str, str] = {}
    RememberedSelection(store.get, store.__setitem__).save(Selection("a", "cuda"))
    assert RememberedSelection(store.get, store.__setitem__).load() == Selection("a", "cuda")
    assert all(key.startswith("ScribbleSegment/") for key in store)


@pytest.mark.parametrize("value", [None, 3, ["a", "b"], ""])
def test_settings_of_another_kind_count_as_none(value: object) -> None:
    assert RememberedSelection(lambda key: value, lambda key, text: None).load() == Selection()


@pytest.mark.parametrize(("platform", "own"), [("darwin", "mps"), ("linux", "cuda"), ("win32", "cuda")])
def test_every_system_offers_its_own_graphics(platform: str, own: str) -> None:
    assert deviceNames(platform) == ["auto", "cpu", own]
