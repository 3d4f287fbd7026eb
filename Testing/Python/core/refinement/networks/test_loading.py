from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from small_networks import SmallNet

from scribblesegment.errors import ConfigError, MissingPackageError, NetworkError, WeightsError
from scribblesegment.refinement.adapters import EmbeddedNetwork, ModuleNetwork, load_network

CODE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 1)
    def forward(self, image):
        return self.second(self.first(image).relu())
"""


def trust(_: str) -> bool:
    return True


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(CODE)
    return tmp_path / "network.py"


def same_parameters(network: ModuleNetwork, seed: int) -> bool:
    expected = SmallNet(seed=seed).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in network.module.state_dict().items())


def test_a_module_in_memory_is_taken_with_its_settings() -> None:
    network = load_network(SmallNet(), labels=("background", "a", "b"))
    assert isinstance(network, ModuleNetwork)
    assert network.labels == ("background", "a", "b")


def test_a_torchscript_file_is_loaded_with_the_settings_beside_it(tmp_path: Path) -> None:
    torch.jit.script(SmallNet()).save(str(tmp_path / "liver.pt"))
    (tmp_path / "liver.pt.json").write_text(json.dumps({"labels": ["background", "a", "b"], "name": "Liver"}))
    network = load_network(tmp_path / "liver.pt", confirm=trust)
    assert (network.name, network.labels) == ("Liver", ("background", "a", "b"))
    other = load_network(tmp_path / "liver.pt", confirm=trust, name="Mine")
    assert (other.name, other.labels) == ("Mine", ("background", "a", "b"))


def test_an_exported_file_is_loaded(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(SmallNet(), (torch.zeros(1, 1, 8, 8),)), tmp_path / "net.pt2")
    assert load_network(str(tmp_path / "net.pt2"), confirm=trust).name == "net"


def test_a_function_of_a_file_is_filled_with_parameters_that_are_given_or_named_beside_it(
    tmp_path: Path, code: Path
) -> None:
    torch.save(SmallNet(seed=5).state_dict(), tmp_path / "given.pt")
    torch.save(SmallNet(seed=6).state_dict(), tmp_path / "named.pt")
    (tmp_path / "network.py.json").write_text(json.dumps({"weights": "named.pt", "name": "Named"}))
    named = load_network(f"{code}:Net", confirm=trust)
    given = load_network(f"{code}:Net", confirm=trust, weights=tmp_path / "given.pt")
    assert isinstance(named, ModuleNetwork)
    assert isinstance(given, ModuleNetwork)
    assert same_parameters(named, 6)
    assert same_parameters(given, 5)
    assert named.name == "Named"


def test_parameters_name_the_function_they_are_for_beside_them(tmp_path: Path, code: Path) -> None:
    path = tmp_path / "liver.pt"
    torch.save(SmallNet(seed=7).state_dict(), path)
    path.with_name("liver.pt.json").write_text(json.dumps({"function": f"{code.name}:Net"}))
    with pytest.raises(NetworkError, match="Python code"):
        load_network(path)
    network = load_network(path, confirm=trust)
    assert isinstance(network, ModuleNetwork)
    assert same_parameters(network, 7)
    assert network.name == "liver"


def test_a_function_of_a_package_is_loaded() -> None:
    network = load_network("torch.nn:Identity", confirm=trust, ndim=2, channels=1, labels=("a", "b"))
    assert network.name == "Identity"


def test_a_name_of_the_package_is_its_network() -> None:
    assert isinstance(load_network("default"), EmbeddedNetwork)


@pytest.mark.parametrize("name", ["nothing.pt", "folder/nothing", "nothing.py:make"])
def test_a_path_where_nothing_lies_is_told_from_an_unknown_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetworkError, match="no file"):
        load_network(f"{tmp_path}/{name}", confirm=trust)
    with pytest.raises(WeightsError, match="no weights named"):
        load_network("nothing")


def test_parameters_of_an_unknown_network_ask_for_its_function(tmp_path: Path) -> None:
    torch.save(SmallNet().state_dict(), tmp_path / "liver.pt")
    with pytest.raises(NetworkError, match=r"'function' in liver\.pt\.json"):
        load_network(tmp_path / "liver.pt", confirm=trust)


class Attack:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_pickled_object_runs_nothing_even_when_everything_is_confirmed(tmp_path: Path, suffix: str) -> None:
    torch.save(Attack(tmp_path / "mark"), tmp_path / f"network{suffix}")
    with pytest.raises(NetworkError, match="could run code"):
        load_network(tmp_path / f"network{suffix}", confirm=trust)
    assert not (tmp_path / "mark").exists()


def test_a_folder_or_file_of_no_known_kind_is_refused_with_a_list_of_kinds(tmp_path: Path, code: Path) -> None:
    (tmp_path / "notes.txt").write_text("no network")
    with pytest.raises(NetworkError, match="MONAI bundle"):
        load_network(tmp_path)
    with pytest.raises(NetworkError, match="MONAI bundle"):
        load_network(tmp_path / "notes.txt")
    with pytest.raises(NetworkError, match=r"network\.py:function"):
        load_network(code)


def test_a_folder_above_a_network_names_the_one_below(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    model.mkdir()
    (model / "plans.json").write_text("{}")
    (model / "dataset.json").write_text("{}")
    with pytest.raises(NetworkError, match="nnUNetTrainer__nnUNetPlans__2d"):
        load_network(tmp_path)


def test_an_archive_of_an_nnunet_has_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("Dataset001/plans.json", "{}")
    with pytest.raises(NetworkError, match="unpacked"):
        load_network(tmp_path / "model.zip")


def test_settings_of_a_network_that_knows_about_itself_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes no settings labels"):
        load_network("default", labels=("a", "b"))


def test_a_format_whose_package_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("nnunetv2", "monai"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("nnunetv2.utilities.plans_handling.plans_handler", "monai.bundle"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    for path in (model / "fold_0" / "checkpoint_final.pth", bundle / "configs" / "inference.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    (model / "plans.json").write_text("{}")
    (model / "dataset.json").write_text("{}")
    for folder, package in ((model, "nnunetv2"), (bundle, "monai")):
        with pytest.raises(MissingPackageError, match=f"pip install {package}") as caught:
            load_network(folder, confirm=trust)
        assert caught.value.package == package
