"""Reading trained-model folders that nnU-Net's own classes wrote."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_models import LABELS, make_dataset, make_plans, write_model

from scribblesegment.errors import MissingPackageError, NetworkError
from scribblesegment.refinement.adapters import load_network

pytest.importorskip("nnunetv2")


def test_labels_are_those_of_the_data_set(tmp_path: Path) -> None:
    labels = {**LABELS, "ignore": 3}
    network = load_network(write_model(tmp_path / "model", "2d", make_plans(), make_dataset(labels=labels)))
    assert (network.name, network.ndim, network.labels) == (
        "Dataset001_Small",
        2,
        ("background", "liver", "tumour"),
    )
    assert not network.module.training


def test_the_first_fold_is_taken_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset(), folds=("1", "3"))
    other = folder / "fold_3" / "checkpoint_final.pth"
    content = torch.load(other, weights_only=False)
    for value in content["network_weights"].values():
        value.fill_(0.5)
    torch.save(content, other)
    first, third = load_network(folder), load_network(folder, fold="3")
    same = load_network(other)
    assert not all(torch.equal(a, b) for a, b in zip(first.module.parameters(), third.module.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(same.module.parameters(), third.module.parameters(), strict=True))
    with pytest.raises(NetworkError, match="in fold_7; it has fold_1, fold_3"):
        load_network(folder, fold="7")


class Attack:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_with_code_runs_nothing_before_it_is_confirmed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset())
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "extra": Attack(tmp_path / "mark")}, path)
    reasons: list[str] = []

    def refuse(reason: str) -> bool:
        reasons.append(reason)
        assert not (tmp_path / "mark").exists()
        return False

    with pytest.raises(NetworkError, match="not confirmed"):
        load_network(folder, confirm=refuse)
    with pytest.raises(NetworkError, match="can run any code"):
        load_network(folder)
    assert not (tmp_path / "mark").exists()
    assert "mkdir" in reasons[0]
    assert load_network(folder, confirm=lambda _: True).labels == tuple(LABELS)
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("network_class_name", "subprocess.Popen"),
        ("conv_op", "os.system"),
        ("conv_op", "torch.nn.modules.module.torch.hub.load"),
        ("nonlin", "torch.nn.functional.relu"),
    ],
)
def test_plans_that_call_something_else_are_confirmed_first(tmp_path: Path, entry: str, value: str) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset())
    plans = make_plans()
    architecture = plans["configurations"]["2d"]["architecture"]
    place = architecture if entry == "network_class_name" else architecture["arch_kwargs"]
    place[entry] = value
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(NetworkError, match=f"call {value}"):
        load_network(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}, "regions"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "2 channels"),
    ],
)
def test_a_model_that_cannot_be_corrected_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    plans, dataset = make_plans(), make_dataset(**changes)
    for each in plans["configurations"].values():
        channels = len(dataset["channel_names"])
        each["normalization_schemes"] *= channels
        each["use_mask_for_norm"] *= channels
    folder = write_model(tmp_path / "model", "2d", plans, dataset)
    with pytest.raises(NetworkError, match=message):
        load_network(folder)


def test_the_second_stage_of_a_cascade_is_refused(tmp_path: Path) -> None:
    plans = make_plans()
    folder = write_model(tmp_path / "model", "3d_fullres", plans, make_dataset())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(NetworkError, match="second stage of a cascade"):
        load_network(folder)


def test_a_trainer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset())
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), "trainer_name": "nnUNetTrainerOfMine"}, path)
    with pytest.raises(NetworkError, match="trained by nnUNetTrainerOfMine"):
        load_network(folder)


@pytest.mark.parametrize("damage", ["plans", "checkpoint", "not nnunet", "no checkpoint", "weights"])
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset())
    path = folder / "fold_0" / "checkpoint_final.pth"
    if damage == "plans":
        (folder / "plans.json").write_text("{")
    elif damage == "checkpoint":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "not nnunet":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "no checkpoint":
        path.unlink()
    else:
        content = torch.load(path, weights_only=False)
        content["network_weights"].popitem()
        torch.save(content, path)
    with pytest.raises(NetworkError):
        load_network(folder)


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(), make_dataset())
    monkeypatch.setitem(sys.modules, "nnunetv2.utilities.plans_handling.plans_handler", None)
    with pytest.raises(MissingPackageError, match="pip install nnunetv2") as caught:
        load_network(folder)
    assert caught.value.package == "nnunetv2"
