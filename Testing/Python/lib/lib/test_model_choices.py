"""Tests of the networks that can be chosen, on real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scribblesegment.errors import WeightsError
from scribblesegment.weights.registry import find_weights
from ScribbleSegmentLib.NetworkChoices import ModelChoices


@pytest.fixture
def choices(tmp_path: Path) -> ModelChoices:
    return ModelChoices(tmp_path / "added")


@pytest.fixture
def a_network(tmp_path: Path) -> Path:
    path = tmp_path / "My network (v2).safetensors"
    shutil.copy(find_weights().path(), path)
    return path


def test_the_embedded_network_comes_first_with_its_licence(choices: ModelChoices) -> None:
    first = choices.all()[0]
    assert first.name == choices.defaultName
    assert first.embedded
    assert first.licence == "CC-BY-SA-4.0"
    assert not first.missing
    assert first.downloadMegabytes == 0


def test_an_added_network_is_copied_and_keeps_the_licence_it_states(choices: ModelChoices, a_network: Path) -> None:
    stated = choices.statedLicence(str(a_network))
    added = choices.add(str(a_network))
    a_network.unlink()
    assert added.name == "My-network-v2"
    assert not added.embedded
    assert added.licence == stated == "CC-BY-SA-4.0"
    assert choices.find(added.name) == added
    assert (choices.folder / "My-network-v2.safetensors").is_file()
    assert ModelChoices(choices.folder).find(added.name) == added


def test_the_same_file_may_be_added_twice(choices: ModelChoices, a_network: Path) -> None:
    assert choices.add(str(a_network)).name == "My-network-v2"
    assert choices.add(str(a_network)).name == "My-network-v2-2"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("scribble-unet-embedded.pt", "scribble-unet-embedded-2"),
        ("Leber & Milz.pth", "Leber-Milz"),
        ("....pt", "model"),
        ("räumlich.pt", "räumlich"),
    ],
)
def test_a_free_name_is_found_for_any_file(choices: ModelChoices, file: str, name: str) -> None:
    assert choices.freeName(f"/some/where/{file}") == name


def test_a_file_that_is_no_network_is_refused_and_nothing_is_kept(choices: ModelChoices, tmp_path: Path) -> None:
    path = tmp_path / "picture.safetensors"
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"picture\.safetensors"):
        choices.add(str(path))
    assert all(choice.embedded for choice in choices.all())
    assert not choices.folder.exists()


def test_a_network_whose_file_vanished_is_no_longer_listed(choices: ModelChoices, a_network: Path) -> None:
    name = choices.add(str(a_network)).name
    (choices.folder / f"{name}.safetensors").unlink()
    assert choices.find(name) is None


def test_a_file_without_a_licence_is_said_to_have_none(choices: ModelChoices, tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    path = tmp_path / "plain.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert choices.statedLicence(str(path)) == ""
    assert choices.statedLicence(str(tmp_path / "gone.pt")) == ""
