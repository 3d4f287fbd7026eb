"""Tests of the list of networks whose results can be corrected."""

from __future__ import annotations

from pathlib import Path

import pytest

from ScribbleSegmentLib.RefinementPanel import NetworkEntry, RefinementNetworks, fileOf, nameOf


@pytest.fixture
def settings() -> dict[str, str]:
    return {}


@pytest.fixture
def networks(settings: dict[str, str]) -> RefinementNetworks:
    return RefinementNetworks(settings.get, settings.__setitem__, lambda: ["default"])


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "liver.pt2"
    path.write_bytes(b"network")
    return path


def test_at_first_there_are_the_extensions_own(networks: RefinementNetworks) -> None:
    assert networks.all() == [NetworkEntry("default", "default", added=False)]
    assert networks.find("default") == networks.all()[0]
    assert networks.find("liver") is None


def test_an_added_network_is_listed_first_and_found_again_in_the_next_session(
    networks: RefinementNetworks, settings: dict[str, str], a_file: Path
) -> None:
    entry = networks.add(str(a_file))
    assert entry == NetworkEntry(str(a_file), "liver.pt2", added=True)
    later = RefinementNetworks(settings.get, settings.__setitem__, lambda: ["default"])
    assert later.all() == [entry, NetworkEntry("default", "default", added=False)]


def test_a_network_that_is_added_again_is_the_newest_and_there_once(
    networks: RefinementNetworks, a_file: Path, tmp_path: Path
) -> None:
    for source in (a_file, tmp_path, a_file):
        networks.add(str(source))
    assert [entry.source for entry in networks.all()] == [str(a_file), str(tmp_path), "default"]


def test_a_network_whose_file_has_vanished_is_said_to_be_missing(networks: RefinementNetworks, a_file: Path) -> None:
    networks.add(str(a_file))
    a_file.unlink()
    assert networks.all()[0].missing


def test_a_removed_network_is_forgotten_and_its_file_stays(networks: RefinementNetworks, a_file: Path) -> None:
    networks.add(str(a_file))
    networks.remove(str(a_file))
    assert [entry.source for entry in networks.all()] == ["default"]
    assert a_file.exists()


def test_a_function_in_a_file_is_a_network_of_its_own(networks: RefinementNetworks, tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text("")
    entry = networks.add(f"{file}:make_liver")
    assert entry == NetworkEntry(f"{file}:make_liver", "nets:make_liver", added=True)
    assert fileOf(entry.source) == file


def test_a_relative_path_becomes_a_full_one(
    networks: RefinementNetworks, a_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(a_file.parent)
    assert networks.add("liver.pt2").source == str(a_file)


@pytest.mark.parametrize("stored", ["", "{", '{"a": 1}', "7", '[3, "", null]', 5])
def test_damaged_settings_count_as_none(settings: dict[str, object], stored: object) -> None:
    settings["ScribbleSegment/CorrectedNetworks"] = stored
    networks = RefinementNetworks(settings.get, settings.__setitem__, lambda: [])
    assert networks.all() == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/nets/liver.pt2", "liver.pt2"),
        ("/nets/Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres", None),
        ("/nets/spleen_ct_segmentation", "spleen_ct_segmentation"),
        ("C:/nets/liver.pt", "liver.pt"),
        ("default", "default"),
    ],
)
def test_the_name_tells_networks_apart(source: str, name: str | None) -> None:
    assert nameOf(source) == (name or "Dataset003_Liver / nnUNetTrainer__nnUNetPlans__3d_fullres")
