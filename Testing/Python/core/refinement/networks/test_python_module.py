from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import Identity, SmallNet
from tiled_inference import tiled_logits
from torch import nn

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, GeometryError, NetworkError, PromptError, WeightsError
from scribblesegment.refinement.adapters.modules import (
    ModuleNetwork,
    load_parameters,
    make_module,
    names_function,
    normalised,
)

SPACING = (3.0, 1.0, 0.8)  # K, J, I

CODE = """
from pathlib import Path
from torch import nn
Path({mark!r}).mkdir()
def make():
    return nn.Conv2d(1, 2, 1)
def fail():
    raise KeyError("no such thing")
def number():
    return 3
"""


@pytest.fixture
def volume() -> Volume:
    array = np.random.default_rng(0).normal(100, 20, (5, 20, 27)).astype(np.float32)
    return Volume(array, np.diag([*SPACING[::-1], 1.0]))


def write_code(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    return tmp_path / "network.py"


def test_dimension_channels_and_labels_are_found(volume: Volume) -> None:
    flat, solid = ModuleNetwork(SmallNet(2)), ModuleNetwork(SmallNet(3, labels=2))
    assert (flat.ndim, flat.labels) == (2, ("background", "label 1", "label 2"))
    assert (solid.ndim, solid.labels) == (3, ("background", "label 1"))
    assert not flat.module.training
    assert flat.name == "SmallNet"


def test_one_channel_is_a_structure_and_its_background() -> None:
    assert ModuleNetwork(SmallNet(labels=1)).labels == ("background", "label 1")


def test_named_labels_need_no_trial_run() -> None:
    network = ModuleNetwork(nn.Conv2d(1, 2, 999), labels=("background", "liver"))
    assert network.labels == ("background", "liver")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Identity(), "ndim"),
        (SmallNet(channels=4), "4 channels"),
        (SmallNet(3, channels=3), "3 channels"),
        (nn.Conv2d(1, 2, 999), "trial run"),
        (nn.Conv2d(1, 2, 3), "logits for every pixel"),
    ],
)
def test_a_network_that_does_not_explain_itself_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        ModuleNetwork(module)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="normalize"):
        ModuleNetwork(SmallNet(), normalize="none")


def test_sizes_must_have_a_side_for_each_axis() -> None:
    with pytest.raises(ConfigError, match="spacing_mm"):
        ModuleNetwork(SmallNet(2), spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("index", [None, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_slices_of_an_image_that_is_left_as_it_is(
    volume: Volume, axis: int, index: int | None
) -> None:
    network = ModuleNetwork(Identity(), normalise="none")
    prepared = network.prepare(volume, axis=axis, index=index)
    expected = volume.array if index is None else volume.slice(axis, index).image
    assert prepared.shape == expected.shape
    assert np.array_equal(prepared.tensor[0].numpy(), expected)
    found = prepared.to_image(tiled_logits(network, prepared))
    np.testing.assert_allclose(found, np.stack([expected, -expected]), rtol=1e-6)
    assert found.dtype == np.float32
    assert {len(window) for window in prepared.tiling.windows} == {expected.ndim}


def test_a_3d_network_sees_patches_of_the_volume(volume: Volume) -> None:
    network = ModuleNetwork(Identity(3), normalise="none", patch_size=(4, 16, 16))
    prepared = network.prepare(volume)
    assert len(prepared.tiling.windows) > 1
    found = prepared.to_image(tiled_logits(network, prepared))
    np.testing.assert_allclose(found[0], volume.array, rtol=1e-5)


def test_images_are_brought_to_the_spacing_of_the_network_and_back(volume: Volume) -> None:
    smooth = np.add.outer(np.arange(20.0), np.arange(27.0)).astype(np.float32)
    image = volume.with_array(np.repeat(smooth[None], 5, axis=0))
    network = ModuleNetwork(Identity(), normalise="none", spacing_mm=(0.5, 0.4))
    prepared = network.prepare(image)
    assert prepared.grid == (5, 40, 54)
    np.testing.assert_allclose(prepared.spacing_mm, (3.0, 0.5, 0.4))
    found = prepared.to_image(tiled_logits(network, prepared))
    np.testing.assert_allclose(found[0, :, 1:-1, 1:-1], image.array[:, 1:-1, 1:-1], atol=0.01)
    one = network.prepare(image, axis=0, index=3)
    assert one.grid == (40, 54)


def test_inputs_are_padded_to_the_multiple_and_results_cropped(volume: Volume) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(Identity):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(image.shape))
            return super().forward(image)

    network = ModuleNetwork(Watched(), labels=("a", "b"), multiple_of=32)
    prepared = network.prepare(volume, index=0)
    assert tiled_logits(network, prepared).shape == (2, 20, 27)
    assert seen == [(1, 1, 32, 32)]


def test_a_large_volume_is_cut_into_patches_by_default() -> None:
    network = ModuleNetwork(Identity(3), labels=("a", "b"))
    image = Volume(np.zeros((3, 200, 130), np.int16), np.eye(4))
    assert network.prepare(image).tiling.patch_size == (16, 128, 128)


def test_a_network_of_colour_images_sees_the_grey_image_three_times(volume: Volume) -> None:
    prepared = ModuleNetwork(SmallNet(channels=3)).prepare(volume, index=1)
    assert prepared.tensor.shape == (3, 20, 27)
    assert torch.equal(prepared.tensor[0], prepared.tensor[2])


def test_slices_of_a_volume_are_normalised_alike(volume: Volume) -> None:
    bright = np.array(volume.array)
    bright[4] += 1000
    network = ModuleNetwork(SmallNet(), normalise="robust")
    whole = network.prepare(volume.with_array(bright))
    one = network.prepare(volume.with_array(bright), axis=0, index=1)
    assert torch.equal(whole.tensor[:, 1], one.tensor)


@pytest.mark.parametrize("how", ["robust", "zscore", "none", (90.0, 110.0)])
def test_normalised_intensities_are_finite_whatever_the_image_holds(how: Any) -> None:
    array = np.array([[np.nan, np.inf, -np.inf], [100.0, 3e38, -4.0]])
    assert np.isfinite(normalised(array, array, how)).all()
    constant = np.full((3, 3), 7, np.int16)
    assert np.isfinite(normalised(constant, constant, how)).all()


def test_each_normalisation_does_what_it_says() -> None:
    array = np.random.default_rng(0).normal(50, 5, (4, 50, 50))
    part = array[1]
    standard = normalised(part, array, "zscore")
    np.testing.assert_allclose(standard, (part - array.mean()) / array.std(), atol=1e-4)
    np.testing.assert_allclose(normalised(part, array, (40.0, 60.0)), np.clip((part - 40) / 20, 0, 1), atol=1e-5)
    np.testing.assert_allclose(normalised(part, array, "none"), part, rtol=1e-6)
    robust = normalised(part, array, "robust")
    assert (robust.min(), robust.max()) == (0.0, 1.0)


def test_a_3d_network_refuses_a_slice(volume: Volume) -> None:
    with pytest.raises(NetworkError, match="sees volumes"):
        ModuleNetwork(SmallNet(3)).prepare(volume, index=0)


def test_a_slice_outside_of_the_volume_is_refused(volume: Volume) -> None:
    with pytest.raises(GeometryError, match="outside the volume"):
        ModuleNetwork(SmallNet()).prepare(volume, index=5)


def test_corrections_and_logits_of_another_shape_are_refused(volume: Volume) -> None:
    prepared = ModuleNetwork(SmallNet()).prepare(volume, index=0)
    with pytest.raises(PromptError, match="shape"):
        prepared.to_grid(LabelScribbles.empty(volume.shape))
    with pytest.raises(GeometryError, match="shape"):
        prepared.to_image(np.zeros((3, 20, 26), np.float32))


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("network.py:make", True),
        ("folder/network.py:make", True),
        ("C:\\networks\\network.py:make", True),
        ("package.module:make", True),
        ("package:make", True),
        ("network.py", False),
        ("network.py:", False),
        ("network.pt", False),
        ("C:network", False),
        ("C:\\network.pt", False),
        ("module:not a name", False),
        (":make", False),
    ],
)
def test_a_function_is_told_from_a_path(source: str, is_one: bool) -> None:
    assert names_function(source) == is_one


def test_code_of_a_file_runs_only_when_it_is_confirmed(tmp_path: Path) -> None:
    path = write_code(tmp_path)
    reasons: list[str] = []

    def refuse(reason: str) -> bool:
        reasons.append(reason)
        return False

    for confirm in (None, refuse):
        with pytest.raises(NetworkError, match="Python code"):
            make_module(f"{path}:make", confirm)
    assert not (tmp_path / "mark").exists()
    assert "make" in reasons[0]
    assert isinstance(make_module(f"{path}:make", lambda _: True), nn.Conv2d)
    assert (tmp_path / "mark").is_dir()


def test_a_relative_file_is_found_from_its_folder(tmp_path: Path) -> None:
    write_code(tmp_path)
    assert isinstance(make_module("network.py:make", lambda _: True, folder=tmp_path), nn.Conv2d)


def test_a_function_of_a_package_makes_a_network() -> None:
    assert isinstance(make_module("torch.nn:Identity", lambda _: True), nn.Identity)


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
def test_a_function_that_makes_no_network_is_refused(tmp_path: Path, source: str, message: str) -> None:
    write_code(tmp_path)
    with pytest.raises(NetworkError, match=message):
        make_module(source, lambda _: True, folder=tmp_path)
    assert "network" not in sys.modules


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "wrapped"])
def test_parameters_of_training_tools_fit(tmp_path: Path, suffix: str, prefix: str) -> None:
    state = {prefix + name: value for name, value in SmallNet(seed=1).state_dict().items()}
    path = tmp_path / f"parameters{suffix if suffix != 'wrapped' else '.ckpt'}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == "wrapped" else state, path)
    module = SmallNet(seed=2)
    load_parameters(module, path)
    assert all(torch.equal(value, SmallNet(seed=1).state_dict()[name]) for name, value in module.state_dict().items())


class Attack:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.folder,)


def test_parameters_with_code_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Attack(tmp_path / "mark")}, tmp_path / "parameters.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_parameters(SmallNet(), tmp_path / "parameters.pt")
    assert not (tmp_path / "mark").exists()


def test_parameters_that_are_missing_or_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file of parameters"):
        load_parameters(SmallNet(), tmp_path / "parameters.pt")
    torch.save(SmallNet(labels=5).state_dict(), tmp_path / "parameters.pt")
    with pytest.raises(WeightsError, match="of another shape"):
        load_parameters(SmallNet(), tmp_path / "parameters.pt")
