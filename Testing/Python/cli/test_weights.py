"""`scribblesegment weights`: licence first, then the file, then the network at work."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import error_of, run, write_image
from weights_server import serving, write_registry

from scribblesegment import read_labelmap
from scribblesegment.models.factory import build_network
from scribblesegment.weights import registry


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_network_is_downloaded_after_its_licence_was_agreed_to(tmp_path, folder, monkeypatch, capsys):
    torch.save(build_network("universeg").state_dict(), tmp_path / "u.pt")
    content, answers, asked = (tmp_path / "u.pt").read_bytes(), ["n\n", "", "yes\n"], []
    with serving(content) as (address, requests):
        facts = {"architecture": "universeg", "bytes": len(content), "authors": "A, B", "citation": "A, B. C."}
        monkeypatch.setattr(registry, "_HERE", write_registry(tmp_path, url=f"{address}/good", **facts).parent)
        for watched, code in ((False, 2), (True, 2), (True, 2), (True, 0), (False, 0)):
            console = SimpleNamespace(
                isatty=lambda watched=watched: watched,
                readline=lambda: asked.append(capsys.readouterr().out) or answers.pop(0),
            )
            monkeypatch.setattr(sys, "stdin", console)
            assert run("weights", "fetch", "large") == code
            assert len(requests) == (code == 0)
    assert all("CC0-1.0" in text and "A, B. C." in text and f"{address}/good" in text for text in asked)
    assert len(asked) == 3
    capsys.readouterr()
    assert run("weights", "list") == 0
    assert registry.sha256_of(tmp_path / "u.pt") in capsys.readouterr().out
    assert run("weights", "remove", "large") == 0
    assert list(folder.glob("[!.]*")) == []


@pytest.mark.slow
def test_an_imported_network_segments_an_image(tmp_path, folder, capsys):
    torch.manual_seed(0)
    torch.save(build_network("scribble_unet").state_dict(), tmp_path / "from the authors.pt")
    assert run("weights", "import", tmp_path / "from the authors.pt") == 0
    assert capsys.readouterr().out.startswith("scribbleprompt-unet\n")
    image = write_image(tmp_path / "i.nrrd", np.random.default_rng(0).normal(size=(1, 30, 40)))
    arguments = ("segment", image, "--click", "15,20,+", "-o", tmp_path / "o.nrrd", "--device", "cpu", "--all-pieces")
    assert run(*arguments, "--weights", "scribbleprompt-unet") == 0
    assert read_labelmap(tmp_path / "o.nrrd").array.shape == (1, 30, 40)
    capsys.readouterr()
    assert run(*arguments, "--weights", "scribbleprompt-sam") == 2
    assert "licence is Apache-2.0" in error_of(capsys)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weights eat a", "'eat' is not an action. Give one of list, fetch, import, remove"),
        ("weights list a", "weights list takes no name"),
        ("weights fetch", "weights fetch takes a name or a file"),
        ("weights fetch nothing", "no weights named 'nothing'"),
        ("weights import gone.pt", "no weights file gone.pt"),
        ("weights remove default", "comes with the package"),
    ],
)
def test_wrong_use_is_one_line(folder, line, message, capsys):
    assert run(*line.split()) == 2
    assert message in error_of(capsys)
