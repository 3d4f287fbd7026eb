"""Telling what lies somewhere, consent before foreign code runs, settings beside a network, and refusals."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from refinable_networks import SmallNet
from safetensors.torch import save_file
from torch import Tensor, nn

from scribblesegment.errors import ConfigError, FileFormatError, MissingPackageError, NetworkError, WeightsError
from scribblesegment.refinement.adapters import EmbeddedNetwork, ModuleNetwork, load_network
from scribblesegment.refinement.adapters.base import NetworkSettings, read_settings, settings_path
from scribblesegment.refinement.adapters.modules import (
    load_parameters,
    make_module,
    names_function,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CODE = """
from pathlib import Path
from torch import nn
Path({mark!r}).mkdir(exist_ok=True)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 1)
    def forward(self, image):
        return self.second(self.first(image).relu())
def fail():
    raise KeyError("no such thing")
def number():
    return 3
"""


def agree(_: str) -> bool:
    return True


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    return tmp_path / "network.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a network in every format of one file."""
    torch.jit.script(SmallNet()).save(str(tmp_path / "script.pt"))
    torch.jit.trace(SmallNet(), torch.zeros(1, 1, 8, 8)).save(str(tmp_path / "trace.pt"))
    write_program(tmp_path / "export.pt2", SmallNet(), torch.zeros(1, 1, 24, 16))
    write_program(tmp_path / "free.pt2", SmallNet(), torch.zeros(2, 1, 24, 16), free=(0, 2, 3))
    torch.save(SmallNet(seed=5).state_dict(), tmp_path / "parameters.pt")
    return tmp_path


def write_program(path: Path, module: nn.Module, *images: Tensor, free: tuple[int, ...] = ()) -> None:
    shapes = ({axis: torch.export.Dim(f"d{axis}", min=1, max=512) for axis in free},)
    program = torch.export.export(module.eval(), images, dynamic_shapes=shapes if free else None)
    torch.export.save(program, path)


def has_parameters(module: nn.Module, seed: int) -> bool:
    expected = SmallNet(seed=seed).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


# Files with their code -----------------------------------------------------------------------------------------------


def test_files_are_told_apart_and_predict_as_the_module_they_were_made_from(folder: Path):
    image = torch.rand(1, 1, 24, 16)
    for name in ("script.pt", "trace.pt", "export.pt2", "free.pt2"):
        network = load_network(folder / name, confirm=agree)
        torch.testing.assert_close(network.module(image), SmallNet()(image))
        network.module(image).sum().backward()
        assert sum(value.grad is not None for value in network.module.parameters()) == 4
        stem = name.partition(".")[0]
        assert (network.name, network.ndim, network.labels) == (stem, 2, ("background", "label 1", "label 2"))
        assert network.settings.patch_size == ((24, 16) if name == "export.pt2" else None)
    module = load_network(str(folder / "export.pt2"), confirm=agree).module  # no change of mode does harm
    assert module.train().training
    assert not any(part.training for part in module.eval().modules())


@pytest.mark.parametrize("name", ["script.pt", "export.pt2"])
def test_unconfirmed_no_file_is_loaded(folder: Path, name: str, refusal: Any, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.jit, "load", fail)
    monkeypatch.setattr(torch.export, "load", fail)
    with pytest.raises(NetworkError, match=r"holds the network's code|torch\.export file"):
        load_network(folder / name, confirm=refusal)


class TwoImages(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


def test_programs_of_other_inputs_and_damaged_files_are_refused(tmp_path: Path):
    image = torch.zeros(1, 1, 8, 8)
    write_program(tmp_path / "two.pt2", TwoImages(), image, image)
    write_program(tmp_path / "batch.pt2", SmallNet(), torch.zeros(4, 1, 8, 8))
    for name, entries in (("export.pt2", ["models/model.json"]), ("script.pt", ["constants.pkl", "code/x.py"])):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry in entries:
                archive.writestr(f"net/{entry}", b"{}")
    for name, message in (
        ("two.pt2", "takes 2 inputs"),
        ("batch.pt2", "exported for 4 images"),
        ("export.pt2", r"cannot be loaded by torch\.export"),
        ("script.pt", "cannot be loaded as TorchScript"),
    ):
        with pytest.raises(NetworkError, match=message):
            load_network(tmp_path / name, confirm=agree)


# Functions and parameters --------------------------------------------------------------------------------------------


FUNCTIONS = ["folder/network.py:make", "C:\\networks\\network.py:make", "package.module:make", "pkg:make"]
PATHS = ["network.py", "network.py:", "network.pt", "C:network", "C:\\network.pt", "module:not a name", ":make"]


@pytest.mark.parametrize(("source", "is_one"), [*((one, True) for one in FUNCTIONS), *((one, False) for one in PATHS)])
def test_a_function_is_told_from_a_path(source: str, is_one: bool):
    assert names_function(source) == is_one


def test_code_of_a_file_runs_only_when_it_is_confirmed(tmp_path: Path, code: Path, refusal: Any):
    with pytest.raises(NetworkError, match=r"function Net of .*Python code"):
        make_module(f"{code}:Net", refusal)
    assert not (tmp_path / "ran").exists()
    assert type(make_module("network.py:Net", agree, folder=tmp_path)).__name__ == "Net"
    assert (tmp_path / "ran").is_dir()
    assert "network" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("network.py:fail", "KeyError: 'no such thing'"),
        ("network.py:number", "returns int"),
        ("network.py:nothing", "has no attribute 'nothing'"),
        ("missing.py:make", "no file"),
        ("not_a_package_at_all:make", "No module named"),
        ("network.py", "names no function"),
    ],
)
def test_a_function_that_makes_no_network_is_refused(tmp_path: Path, code: Path, source: str, message: str):
    with pytest.raises(NetworkError, match=message):
        make_module(source, agree, folder=tmp_path)


def test_a_function_is_filled_with_parameters_that_are_given_or_named_beside_it(folder: Path, code: Path):
    torch.save(SmallNet(seed=6).state_dict(), folder / "named.pt")
    settings_path(code).write_text(json.dumps({"weights": "named.pt", "name": "Named"}))
    named = load_network(f"{code}:Net", confirm=agree)
    assert named.name == "Named"
    assert has_parameters(named.module, 6)
    assert has_parameters(load_network(f"{code}:Net", confirm=agree, weights=folder / "parameters.pt").module, 5)
    beside = folder / "parameters.pt"
    settings_path(beside).write_text(json.dumps({"function": f"{code.name}:Net"}))
    with pytest.raises(NetworkError, match="Python code"):
        load_network(beside)
    network = load_network(beside, confirm=agree)
    assert network.name == "parameters"
    assert has_parameters(network.module, 5)
    with pytest.raises(ConfigError, match="has its own"):
        load_network(beside, weights=folder / "parameters.pt")
    packaged = load_network("torch.nn:Identity", confirm=agree, ndim=2, channels=1, labels=("a", "b"))
    assert packaged.name == "Identity"


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
def test_parameters_of_training_tools_fit(tmp_path: Path, suffix: str, prefix: str):
    state = {prefix + name: value for name, value in SmallNet(seed=1).state_dict().items()}
    path = tmp_path / f"parameters{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == ".ckpt" else state, path)
    module = SmallNet(seed=2)
    load_parameters(module, path)
    assert has_parameters(module, 1)


def test_parameters_with_code_missing_ones_and_those_of_another_network_are_refused(tmp_path: Path, attack: Any):
    path = tmp_path / "parameters.pt"
    with pytest.raises(WeightsError, match="no file of parameters"):
        load_parameters(SmallNet(), path)
    torch.save(SmallNet(labels=5).state_dict(), path)
    with pytest.raises(WeightsError, match="of another shape"):
        load_parameters(SmallNet(), path)
    torch.save({"state_dict": attack}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_parameters(SmallNet(), path)
    for suffix in (".pt", ".pth", ".ckpt"):
        torch.save(attack, tmp_path / f"network{suffix}")
        with pytest.raises(NetworkError, match="could run code"):
            load_network(tmp_path / f"network{suffix}", confirm=agree)
    assert not attack.folder.exists()


# Settings, consent, and everything else ------------------------------------------------------------------------------


def test_settings_lie_beside_the_network_and_options_take_precedence(folder: Path):
    path = folder / "script.pt"
    assert settings_path(path) == folder / "script.pt.json"
    assert read_settings(path) == NetworkSettings()
    values = {"name": "Liver", "labels": ["background", "a", "b"], "spacing_mm": [1, 1.5], "normalise": [-100, 300]}
    settings_path(path).write_text(json.dumps({**values, "activation": "sigmoid", "output": "x", "licence": "CC0"}))
    found = read_settings(path)
    assert (found.labels, found.spacing_mm, found.normalise) == (("background", "a", "b"), (1, 1.5), (-100.0, 300.0))
    reading = found.reading()
    assert (reading.activation, reading.probabilities, reading.pick) == ("sigmoid", None, "x")
    network = load_network(path, confirm=agree, name="Mine")
    assert (network.name, network.labels, network.licence) == ("Mine", ("background", "a", "b"), "CC0")
    in_memory = load_network(SmallNet(), labels=("background", "a", "b"))
    assert isinstance(in_memory, ModuleNetwork)
    assert in_memory.labels == ("background", "a", "b")


WRONG: dict[str, list[Any]] = {
    "color": ["red"],
    "labels": [["background"], ["background", " "], "background, liver", [0, 1]],
    "ndim": [4],
    "channels": [0, True],
    "spacing_mm": [[1.0], [1.0, -1.0], 1.0],
    "patch_size": [[64, 64.5]],
    "overlap": [1.0, -0.1, "half"],
    "multiple_of": [0],
    "normalise": ["percentile", [1, 1], [0, "1"], [0, float("nan")], 3],
    "activation": ["relu"],
    "probabilities": ["yes"],
    "name": [3],
    "function": [None],
    "licence": [1],
}
TOGETHER = [{"spacing_mm": [1.0, 1.0, 1.0], "ndim": 2}, {"patch_size": [64, 64], "ndim": 3}]


@pytest.mark.parametrize("wrong", [*({name: value} for name, values in WRONG.items() for value in values), *TOGETHER])
def test_a_wrong_setting_is_refused_and_the_file_is_named(tmp_path: Path, wrong: dict[str, Any]):
    settings_path(tmp_path / "liver.pt").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError, match=r"liver\.pt\.json.*" + next(iter(wrong))):
        read_settings(tmp_path / "liver.pt")
    for text in (b"{", b"[1, 2]", b"\xff"):
        settings_path(tmp_path / "liver.pt").write_bytes(text)
        with pytest.raises(FileFormatError, match=r"liver\.pt\.json"):
            read_settings(tmp_path / "liver.pt")


def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    for path in (model / "fold_0" / "checkpoint_final.pth", bundle / "configs" / "inference.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    for name in ("plans.json", "dataset.json"):
        (model / name).write_text("{}")
    for module in ("nnunetv2", "nnunetv2.utilities.plans_handling.plans_handler", "monai.bundle"):
        monkeypatch.setitem(sys.modules, module, None)
    for folder, package in ((model, "nnunetv2"), (bundle, "monai")):
        with pytest.raises(MissingPackageError, match=f"pip install {package}") as caught:
            load_network(folder, confirm=agree)
        assert caught.value.package == package


def test_a_place_that_holds_no_network_is_refused_with_what_there_could_be(folder: Path, code: Path):
    (folder / "notes.txt").write_text("no network")
    (folder / "noise.pt").write_bytes(b"PK\x03\x04 no archive")
    model = folder / "nnUNetTrainer__nnUNetPlans__2d"
    model.mkdir()
    (folder / "empty").mkdir()
    for name in ("plans.json", "dataset.json"):
        (model / name).write_text("{}")
    for name, entry in (("model.zip", "Dataset001/plans.json"), ("other.zip", "readme")):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(entry, "{}")
    for source, message in (
        (folder / "nothing.pt", "no file"),
        (folder / "noise.pt", r"'function' in noise\.pt\.json"),
        (folder / "folder" / "nothing", "no file"),
        (f"{folder}/nothing.py:make", "no file"),
        (folder / "empty", "MONAI bundle"),
        (folder, "nnUNetTrainer__nnUNetPlans__2d"),
        (folder / "notes.txt", "MONAI bundle"),
        (code, r"network\.py:function"),
        (folder / "parameters.pt", r"'function' in parameters\.pt\.json"),
        (folder / "model.zip", "an nnU-Net that has to be unpacked"),
        (folder / "other.zip", "an archive that has to be unpacked"),
    ):
        with pytest.raises(NetworkError, match=message):
            load_network(source, confirm=agree)
    with pytest.raises(WeightsError, match="no weights named"):
        load_network("nothing")
    assert isinstance(load_network("default"), EmbeddedNetwork)
    with pytest.raises(ConfigError, match="takes no settings labels"):
        load_network("default", labels=("a", "b"))
