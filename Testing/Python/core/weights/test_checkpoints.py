"""Tests of network files: what is accepted, and that nothing in them runs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scribblesegment.errors import FileFormatError, WeightsError
from scribblesegment.models.multiverseg import MultiverSeg, MultiverSegConfig
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.models.universeg import UniverSeg, UniverSegConfig
from scribblesegment.weights.checkpoints import (
    METADATA_KEY,
    NetworkDescription,
    load_network,
    recognise,
    redescribe_network,
    save_network,
)

OPTIONS = {"features": [3, 4, 5], "convolutions": 2, "activation": "leaky_relu"}
DESCRIPTION = NetworkDescription("scribble_unet", OPTIONS, size=64, name="tiny", licence="CC0-1.0")


@pytest.fixture
def parameters() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ScribbleUNet(ScribbleUNetConfig(features=(3, 4, 5), convolutions=2, activation="leaky_relu")).state_dict()


class Attack:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_saved_network_comes_back_with_its_description(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "tiny.safetensors"
    save_network(path, parameters, DESCRIPTION)
    network, description = load_network(path)
    assert description == DESCRIPTION
    assert not network.training
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, parameters[name], atol=1e-3, rtol=1e-3)


def test_parameters_are_stored_in_half_precision(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "tiny.safetensors"
    save_network(path, parameters, DESCRIPTION)
    count = sum(value.numel() for value in parameters.values())
    assert 2 * count < path.stat().st_size < 2 * count + 5000


def test_saving_into_a_missing_folder_is_refused(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    with pytest.raises(FileFormatError, match="does not exist"):
        save_network(tmp_path / "no" / "tiny.safetensors", parameters, DESCRIPTION)


@pytest.mark.parametrize("features", [(4, 4, 4, 4, 4), (3, 5, 7)])
@pytest.mark.parametrize("activation", ["prelu", "leaky_relu"])
@pytest.mark.parametrize("convolutions", [1, 2])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_file_without_description_is_recognised_by_its_shapes(
    tmp_path: Path, features: tuple[int, ...], activation: str, convolutions: int, wrapper: str | None
) -> None:
    config = ScribbleUNetConfig(features, convolutions, activation=activation)
    state = ScribbleUNet(config).state_dict()
    path = tmp_path / "published.pt"
    torch.save({wrapper: state} if wrapper else state, path)
    network, description = load_network(path)
    assert isinstance(network, ScribbleUNet)
    assert network.config == config
    assert description.name == "published"
    assert description.size == 128


def test_the_published_network_is_recognised(shared_dir: Path) -> None:
    shapes = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    parameters = {name: torch.empty(shape) for name, shape in shapes["scribbleprompt_unet_v1_nf192"].items()}
    description = recognise(parameters, Path("published.pt"))
    assert ScribbleUNetConfig(**description.options) == ScribbleUNetConfig()


@pytest.mark.parametrize(
    ("published", "architecture", "config", "capabilities"),
    [
        ("multiverseg_v0_v1_nf256", "multiverseg", MultiverSegConfig(), {"boxes", "clicks", "context", "scribbles"}),
        ("universeg_v1_nf64", "universeg", UniverSegConfig(), {"context"}),
    ],
)
def test_the_published_networks_in_context_are_recognised(
    shared_dir: Path, published: str, architecture: str, config: object, capabilities: set[str]
) -> None:
    shapes = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    parameters = {name: torch.empty(shape) for name, shape in shapes[published].items()}
    description = recognise(parameters, Path("published.pt"))
    assert (description.architecture, set(description.capabilities)) == (architecture, capabilities)
    assert type(config)(**description.options) == config


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize(
    "network",
    [
        MultiverSeg(MultiverSegConfig((3, 4, 5))),
        MultiverSeg(MultiverSegConfig((3, 3), in_channels=2)),
        UniverSeg(UniverSegConfig((2, 3, 4, 5))),
    ],
    ids=lambda network: str(network.config),
)
def test_a_network_in_context_is_recognised_by_its_shapes(
    tmp_path: Path, network: MultiverSeg | UniverSeg, wrapper: str | None
) -> None:
    state = network.state_dict()
    path = tmp_path / "published.pt"
    torch.save({wrapper: state} if wrapper else state, path)
    loaded, description = load_network(path)
    assert type(loaded) is type(network)
    assert loaded.config == network.config
    assert description.name == "published"
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_a_network_in_context_with_parts_missing_is_refused_by_name(tmp_path: Path) -> None:
    state = MultiverSeg(MultiverSegConfig((3, 4))).state_dict()
    del state["dec_blocks.0.support.vmapped.norml.bias"]
    state["enc_blocks.1.cross.cross_conv.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"odd\.pt does not fit") as caught:
        load_network(tmp_path / "odd.pt")
    assert "missing: dec_blocks.0.support.vmapped.norml.bias" in str(caught.value)
    assert "enc_blocks.1.cross.cross_conv.bias (7,) instead of (4,)" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 2, 3, 3), "this version cannot build"), ((3,), "no network that is known here")]
)
def test_a_first_cross_convolution_that_makes_no_sense_is_refused(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    state = MultiverSeg(MultiverSegConfig((3, 3))).state_dict()
    state["enc_blocks.0.cross.cross_conv.weight"] = torch.zeros(shape)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / "odd.pt")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "attack.pt", tmp_path / "was-here"
    torch.save({"weights": Attack(trace)}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_network(path)
    assert not trace.exists()


def test_missing_extra_and_reshaped_parameters_are_named(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    parameters = dict(parameters)
    del parameters["final_conv.conv.0.bias"]
    parameters["surplus"] = torch.zeros(1)
    parameters["ups.1.conv.0.bias"] = torch.zeros(99)
    path = tmp_path / "odd.safetensors"
    save_network(path, parameters, DESCRIPTION)
    with pytest.raises(WeightsError) as caught:
        load_network(path)
    message = str(caught.value)
    assert "missing: final_conv.conv.0.bias" in message
    assert "unexpected: surplus" in message
    assert "ups.1.conv.0.bias (99,) instead of (4,)" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*gone\.pt"):
        load_network(tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_refused(tmp_path: Path, parameters: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    if suffix == ".pt":
        torch.save(parameters, path)
    else:
        save_network(path, parameters, DESCRIPTION)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match="damaged"):
        load_network(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "b"}}])
def test_a_file_without_parameters_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "list.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="holds no parameters"):
        load_network(path)


def test_parameters_of_an_unknown_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"no network that is known here .*encoder\.weight"):
        load_network(path)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{not json", "description that cannot be read"),
        ('{"architecture": "scribble_unet"}', "description that cannot be read"),
        ('{"architecture": "transformer", "capabilities": []}', "this version cannot build"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path, description: str, message: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={METADATA_KEY: description})
    with pytest.raises(WeightsError, match=message):
        load_network(path)


def test_a_temperature_travels_with_the_network(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "calibrated.safetensors"
    save_network(path, parameters, dataclasses.replace(DESCRIPTION, temperature=1.75))
    assert load_network(path)[1].temperature == 1.75


def test_a_description_without_temperature_leaves_probabilities_as_they_are(
    tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    old = dataclasses.asdict(DESCRIPTION)
    del old["temperature"]
    path = tmp_path / "old.safetensors"
    save_file(dict(parameters), path, metadata={METADATA_KEY: json.dumps(old)})
    assert load_network(path)[1].temperature == 1.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), "2", None, True])
def test_a_temperature_that_is_no_positive_number_is_refused(
    tmp_path: Path, parameters: dict[str, torch.Tensor], temperature: object
) -> None:
    with pytest.raises(WeightsError, match="positive finite number"):
        dataclasses.replace(DESCRIPTION, temperature=temperature)
    values = {**dataclasses.asdict(DESCRIPTION), "temperature": temperature}
    path = tmp_path / "odd.safetensors"
    save_file(dict(parameters), path, metadata={METADATA_KEY: json.dumps(values)})
    with pytest.raises(WeightsError, match=r"odd\.safetensors .*positive finite number"):
        load_network(path)


def test_a_focus_size_travels_with_the_network(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "focusing.safetensors"
    save_network(path, parameters, dataclasses.replace(DESCRIPTION, focus_size=128))
    assert load_network(path)[1].focus_size == 128
    old = dataclasses.asdict(DESCRIPTION)
    del old["focus_size"]
    save_file(dict(parameters), path, metadata={METADATA_KEY: json.dumps(old)})
    assert load_network(path)[1].focus_size == 0


@pytest.mark.parametrize("focus_size", [-1, 63, 128.0, "128", None])
def test_a_focus_size_that_is_no_finer_grid_is_refused(
    tmp_path: Path, parameters: dict[str, torch.Tensor], focus_size: object
) -> None:
    with pytest.raises(WeightsError, match="0 or at least its grid's, 64"):
        dataclasses.replace(DESCRIPTION, focus_size=focus_size)
    values = {**dataclasses.asdict(DESCRIPTION), "focus_size": focus_size}
    path = tmp_path / "odd.safetensors"
    save_file(dict(parameters), path, metadata={METADATA_KEY: json.dumps(values)})
    with pytest.raises(WeightsError, match=r"odd\.safetensors .*focus size"):
        load_network(path)


@pytest.mark.parametrize("in_place", [True, False])
def test_another_description_leaves_every_parameter_as_it_was(
    tmp_path: Path, parameters: dict[str, torch.Tensor], in_place: bool
) -> None:
    path = tmp_path / "source.safetensors"
    mixed = {name: value.half() if n % 2 else value for n, (name, value) in enumerate(parameters.items())}
    save_file(mixed, path, metadata={METADATA_KEY: "{}", "origin": "another tool"})
    before = path.read_bytes()
    output = path if in_place else tmp_path / "output.safetensors"
    redescribe_network(path, output, DESCRIPTION)
    written = load_file(output)
    assert written.keys() == mixed.keys()
    for name, value in mixed.items():
        assert written[name].dtype == value.dtype
        assert torch.equal(written[name], value)
    assert load_network(output)[1] == DESCRIPTION
    with safe_open(output, framework="pt") as file:
        assert file.metadata()["origin"] == "another tool"
    assert in_place or path.read_bytes() == before


def test_a_file_that_can_hold_no_description_is_not_redescribed(
    tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    torch.save(parameters, tmp_path / "plain.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    for name, message in (
        ("plain.pt", "no safetensors"),
        ("gone.safetensors", "no weights"),
        ("cut.safetensors", "damaged"),
    ):
        with pytest.raises(WeightsError, match=message):
            redescribe_network(tmp_path / name, tmp_path / "out.safetensors", DESCRIPTION)
    assert not (tmp_path / "out.safetensors").exists()
