"""Network files: what is saved comes back, what is published is recognised, what is damaged or hostile is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scribblesegment.errors import FileFormatError, WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.weights.checkpoints import (
    METADATA_KEY,
    FileDescription,
    NetworkDescription,
    describe_file,
    load_network,
    redescribe_network,
    save_network,
)
from scribblesegment.weights.registry import find_weights

Parameters = dict[str, torch.Tensor]

OPTIONS: dict[str, Any] = {"features": [3, 4, 5], "convolutions": 2, "activation": "leaky_relu"}
CROSSING, PATCHES = "enc_blocks.0.cross.cross_conv.weight", "image_encoder.patch_embed.proj.weight"
DESCRIPTION = NetworkDescription("scribble_unet", OPTIONS, size=64, name="tiny", licence="CC0-1.0", temperature=1.75)


@pytest.fixture
def parameters() -> Parameters:
    torch.manual_seed(0)
    return build_network("scribble_unet", OPTIONS).state_dict()


def described(path: Path, parameters: Parameters, changes: object) -> Path:
    """Write a file whose description was changed by hand; it has no checksum, as those of older versions."""
    text = changes if isinstance(changes, str) else json.dumps({**dataclasses.asdict(DESCRIPTION), **changes})
    save_file(dict(parameters), path, metadata={METADATA_KEY: text})
    return path


# --- Saved and loaded ------------------------------------------------------------------------------------------------


def test_a_saved_network_comes_back_in_half_precision_with_its_description(tmp_path, parameters):
    path = tmp_path / "tiny.safetensors"
    description = dataclasses.replace(DESCRIPTION, focus_size=128)
    save_network(path, parameters, description)
    network, read = load_network(path)
    assert read == description
    assert not network.training
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, parameters[name], atol=1e-3, rtol=1e-3)
    count = sum(value.numel() for value in parameters.values())
    assert 2 * count < path.stat().st_size < 2 * count + 5000
    with pytest.raises(FileFormatError, match="does not exist"):
        save_network(tmp_path / "no" / "tiny.safetensors", parameters, description)


def test_files_are_read_without_the_package_safetensors_too(tmp_path, parameters, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_network(path, parameters, DESCRIPTION)
    expected = load_network(path)[0].state_dict()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    found = load_network(path)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_description_of_older_versions_is_completed(tmp_path, parameters):
    old = dataclasses.asdict(DESCRIPTION)
    for field in ("temperature", "focus_size"):
        del old[field]
    description = load_network(described(tmp_path / "old.safetensors", parameters, json.dumps(old)))[1]
    assert (description.temperature, description.focus_size) == (1.0, 0)


@pytest.mark.parametrize("in_place", [True, False])
def test_another_description_leaves_every_parameter_as_it_was(tmp_path, parameters, in_place):
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


# --- Recognised ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scribble_unet", {"features": [4] * 5, "convolutions": 1, "activation": "prelu"}),
        ("scribble_unet", {"features": [3, 5, 7], "convolutions": 2, "activation": "leaky_relu"}),
        ("multiverseg", {"features": [3, 4, 5]}),
        ("multiverseg", {"features": [3, 3], "in_channels": 2}),
        ("universeg", {"features": [2, 3, 4, 5]}),
    ],
)
def test_a_file_without_description_is_recognised_by_its_names_and_shapes(tmp_path, name, options, wrapper):
    network = build_network(name, options)
    state = network.state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "published.pt")
    loaded, description = load_network(tmp_path / "published.pt")
    assert (type(loaded), loaded.config) == (type(network), network.config)
    assert (description.name, description.size) == ("published", 128)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


# --- Refused ---------------------------------------------------------------------------------------------------------


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path, trace = tmp_path / "attack.pt", tmp_path / "was-here"
    attack = type("Attack", (), {"__reduce__": lambda self: (os.mkdir, (str(trace),))})  # run when it is loaded
    torch.save({"weights": attack()}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_network(path)
    assert not trace.exists()


def test_parameters_that_do_not_fit_are_named(tmp_path, parameters):
    changed = {**parameters, "surplus": torch.zeros(1), "ups.1.conv.0.bias": torch.zeros(99)}
    del changed["final_conv.conv.0.bias"]
    save_network(tmp_path / "odd.safetensors", changed, DESCRIPTION)
    problems = "missing: final_conv.conv.0.bias; unexpected: surplus; of another shape: ups.1.conv.0.bias (99,) instead"
    with pytest.raises(WeightsError, match=rf"odd\.safetensors does not fit .*{re.escape(problems)}"):
        load_network(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_parameters_that_are_no_numbers_are_refused_as_such(tmp_path, parameters, suffix, value):
    parameters["bottleneck.conv.0.weight"][0, 0, 0, 0] = value
    path = tmp_path / f"diverged{suffix}"
    if suffix == ".pt":
        torch.save(parameters, path)
    else:
        save_network(path, parameters, DESCRIPTION)
    with pytest.raises(WeightsError, match=r"NaN or infinite numbers in bottleneck\.conv\.0\.weight"):
        load_network(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pt", None, r"no weights file .*gone\.pt"),
        ("a.pt", b"\x89PNG\r\n\x1a\n" + bytes(100), r"not a torch file.*begins with b'\\x89PNG"),
        ("a.pt", b"", "not a torch file"),
        ("a.pt", b"PK\x03\x04" + bytes(100), "damaged or not a torch file"),
        ("a.safetensors", b"1234", "damaged or not a safetensors file"),
        ("a.pt", [1, 2], "holds no parameters .* but list"),
        ("a.pt", {"a": 1}, "holds no parameters"),
        ("a.pt", {"state_dict": {"a": "b"}}, "holds no parameters"),
        ("a.pt", {"encoder.weight": torch.zeros(2)}, r"no network that is known here .*encoder\.weight"),
        ("a.pt", {"downs.0.conv.0.weight": torch.zeros(2), "bottleneck.conv.0.weight": torch.zeros(2)}, "no network"),
        ("a.pt", {CROSSING: torch.zeros(3)}, "no network that is known here"),
        ("a.pt", {CROSSING: torch.zeros(3, 2, 3, 3)}, "this version cannot build"),
        (
            "a.pt",
            {PATCHES: torch.zeros(8, 3, 4, 4)},
            r"looks like ScribblePrompt-SAM, but lacks 'image_encoder\.pos_emb",
        ),
    ],
)
def test_files_that_hold_no_network_are_refused(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_is_cut_off_or_has_another_bit_is_refused(tmp_path, parameters, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(parameters, path)
    else:
        save_network(path, parameters, DESCRIPTION)
    expected = load_network(path)[0].state_dict()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        load_network(path)
    refused = 0
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 150).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = load_network(path)[0].state_dict()
        except WeightsError:
            refused += 1
        else:  # padding of a zip file, for instance
            assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert refused > (120 if suffix == ".safetensors" else 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{not json", "description that cannot be read.*not valid JSON"),
        ("[" * 100_000, "description that cannot be read.*not valid JSON"),
        (json.dumps(dataclasses.asdict(DESCRIPTION)).replace("[3, 4, 5]", "[" * 5000 + "]" * 5000), "cannot be read"),
        ("[]", "description that cannot be read"),
        ('{"capabilities": []}', "lacks the architecture"),
        ('{"architecture": "scribble_unet"}', "lacks 'capabilities'"),
        ({"colour": "red"}, r"unknown fields \['colour'\]"),
        ({"architecture": "transformer"}, "this version cannot build"),
        ({"architecture": 3}, "expected a text"),
        ({"capabilities": "boxes"}, "expected a list"),
        ({"capabilities": [1]}, "capabilities"),
        ({"name": "x" * 2000}, "at most 1000 characters"),
        *(({"size": size}, "whole number from 1 to 8192") for size in (0, -5, 128.5, "128", None, True, 10**400)),
        *(({"options": options}, "options|cannot build|does not fit") for options in (
            [], "x", {"features": [10**9] * 5}, {"features": [1 << 20] * 5}, {"features": [[[[[[1]]]]]]},
            {"activation": "x" * 300}, {"unknown": 1}, {"features": [3] * 200}, {"features": ["a"]},
            {"convolutions": -1},
        )),
        *(({"temperature": number}, "positive finite number|not a number") for number in (
            0.0, -1.0, float("nan"), float("inf"), 1e300, "2", None, True,
        )),
        *(({"focus_size": size}, "0 or at least its grid's, 64") for size in (-1, 63, 128.0, "128", None, 10**400)),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(tmp_path, parameters, changes, message):
    path = described(tmp_path / "odd.safetensors", parameters, changes)
    with pytest.raises(WeightsError, match=rf"odd\.safetensors (?s:.*)({message})"):
        load_network(path)


def test_a_file_that_can_hold_no_description_is_not_redescribed(tmp_path, parameters):
    torch.save(parameters, tmp_path / "plain.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    for name, message in (
        ("plain.pt", "not a safetensors"),
        ("gone.safetensors", "no weights"),
        ("cut.safetensors", "damaged"),
    ):
        with pytest.raises(WeightsError, match=message):
            redescribe_network(tmp_path / name, tmp_path / "out.safetensors", DESCRIPTION)
    assert not (tmp_path / "out.safetensors").exists()


# --- Described without torch -----------------------------------------------------------------------------------------


def test_a_file_says_what_its_network_is_loaded_with_and_others_say_nothing(tmp_path):
    path = find_weights().path()
    description = load_network(path)[1]
    assert describe_file(path) == FileDescription(description.name, description.licence)
    assert describe_file(path).licence
    for number, metadata in enumerate([None, {METADATA_KEY: "no JSON"}, {METADATA_KEY: "[1]"}, {METADATA_KEY: "{}"}]):
        content = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / f"{number}.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    (tmp_path / "long.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "gone.safetensors"):
        assert describe_file(path) == FileDescription()


@given(st.binary(max_size=200))
def test_no_bytes_make_the_description_fail(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(content)
    assert describe_file(path) == FileDescription()
