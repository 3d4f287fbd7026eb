from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from small_networks import SmallNet

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.adapters.base import NetworkSettings
from scribblesegment.refinement.adapters.modules import archive_names, is_torchscript, load_torchscript


@pytest.fixture(params=["script", "trace"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    module = SmallNet().eval()
    image = torch.zeros(1, 1, 8, 8)
    scripted = torch.jit.script(module) if request.param == "script" else torch.jit.trace(module, image)
    scripted.save(str(tmp_path / "liver.pt"))
    return tmp_path / "liver.pt"


def test_a_torchscript_file_is_told_from_parameters_without_loading_it(path: Path, tmp_path: Path) -> None:
    torch.save(SmallNet().state_dict(), tmp_path / "parameters.pt")
    (tmp_path / "noise.pt").write_bytes(b"PK\x03\x04 no archive")
    assert is_torchscript(path)
    assert not is_torchscript(tmp_path / "parameters.pt")
    assert not is_torchscript(tmp_path / "noise.pt")
    assert archive_names(tmp_path / "missing.pt") == []


def test_a_torchscript_network_predicts_as_the_module_it_was_made_from(path: Path) -> None:
    network = load_torchscript(path, NetworkSettings(), lambda _: True)
    image = torch.rand(1, 1, 20, 31)
    torch.testing.assert_close(network.module(image), SmallNet()(image))
    assert (network.name, network.ndim, network.labels) == ("liver", 2, ("background", "label 1", "label 2"))


def test_settings_name_what_the_file_does_not_say(path: Path) -> None:
    settings = NetworkSettings(name="Liver", labels=("background", "liver", "tumour"), licence="CC0-1.0")
    network = load_torchscript(path, settings, lambda _: True)
    assert (network.name, network.labels, network.licence) == ("Liver", settings.labels, "CC0-1.0")


@pytest.mark.parametrize("confirm", [None, lambda _: False])
def test_unconfirmed_it_is_not_loaded(path: Path, confirm: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.jit, "load", fail)
    with pytest.raises(NetworkError, match="holds the network's code"):
        load_torchscript(path, NetworkSettings(), confirm)  # type: ignore[arg-type]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "liver.pt", "w") as archive:
        archive.writestr("liver/constants.pkl", b"")
        archive.writestr("liver/code/x.py", b"")
    assert is_torchscript(tmp_path / "liver.pt")
    with pytest.raises(NetworkError, match="cannot be loaded as TorchScript"):
        load_torchscript(tmp_path / "liver.pt", NetworkSettings(), lambda _: True)
