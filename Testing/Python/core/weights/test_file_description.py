"""Tests of reading what a weights file says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.weights.checkpoints import METADATA_KEY, FileDescription, describe_file, load_network
from scribblesegment.weights.registry import find_weights


def a_file(tmp_path: Path, header: object) -> Path:
    content = json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    return path


def test_it_reads_what_the_network_is_loaded_with() -> None:
    path = find_weights().path()
    description = load_network(path)[1]
    assert describe_file(path) == FileDescription(description.name, description.licence)
    assert describe_file(path).licence


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        {"__metadata__": None},
        {"__metadata__": {METADATA_KEY: "no JSON"}},
        {"__metadata__": {METADATA_KEY: "[1]"}},
        {"__metadata__": {METADATA_KEY: "{}"}},
    ],
)
def test_a_file_that_states_nothing_has_an_empty_description(tmp_path: Path, header: object) -> None:
    assert describe_file(a_file(tmp_path, header)) == FileDescription()


def test_a_missing_file_and_a_folder_have_an_empty_description(tmp_path: Path) -> None:
    assert describe_file(tmp_path / "gone.safetensors") == FileDescription()
    assert describe_file(tmp_path) == FileDescription()


def test_an_absurd_length_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert describe_file(path) == FileDescription()


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(content)
    assert describe_file(path) == FileDescription()
