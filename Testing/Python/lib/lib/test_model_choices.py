"""Tests of the networks that can be chosen, on real files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from weights_server import serving, write_registry

from scribblesegment.errors import WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.service.worker import Task
from scribblesegment.weights import registry
from scribblesegment.weights.registry import find_weights
from ScribbleSegmentLib.NetworkChoices import ModelChoice, ModelChoices


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


def test_a_published_network_is_downloaded_with_progress_cancelled_continued_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = build_network("universeg").state_dict()
    torch.save(state, tmp_path / "universeg.pt")
    content = (tmp_path / "universeg.pt").read_bytes()
    choices, task = ModelChoices(tmp_path / "added"), Task[ModelChoice]()
    offered = choices.find("universeg")
    assert offered is not None
    assert (offered.downloadMegabytes, offered.missing, offered.sha256) == (5, False, "")
    assert all((offered.authors, offered.paper, offered.citation, "research" in offered.licence))
    with serving(content) as (address, _):
        known = write_registry(
            tmp_path, name="universeg", url=f"{address}/good", architecture="universeg", bytes=len(content)
        )
        monkeypatch.setattr(registry, "_HERE", known.parent)
        task.cancel()
        with pytest.raises(WeightsError, match="cancelled"):
            choices.download("universeg", task)
        got = choices.download("universeg", task := Task[ModelChoice]())
    assert (got.downloadMegabytes, got.sha256) == (0, hashlib.sha256(content).hexdigest())
    assert task.progress.fraction == 1.0
    assert "4.7 of 4.7 MB" in task.progress.text
    choices.remove("universeg")
    assert list(choices.folder.iterdir()) == []


def test_a_file_that_is_no_network_is_refused_and_nothing_is_kept(choices: ModelChoices, tmp_path: Path) -> None:
    path = tmp_path / "picture.safetensors"
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"picture\.safetensors"):
        choices.add(str(path))
    assert all(choice.embedded or choice.downloadMegabytes for choice in choices.all())
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
