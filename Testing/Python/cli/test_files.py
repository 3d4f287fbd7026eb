"""What commands say about slices, images and the installation, and the context sets they open."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from command_line import run, write_image

import scribblesegment
from scribblesegment import list_weights
from scribblesegment.cli import files, weights
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.inference import devices


def test_slices_are_listed_as_ranges():
    assert files.listed_slices(0, [4]) == "slice k:4"
    assert files.listed_slices(1, [3, 4, 5, 12]) == "4 slices j:3-5,12"
    assert files.listed_slices(2, range(0, 40, 2)) == "20 slices i:0,2,4,6,8,10,12,14,16,18,..."


def test_a_task_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    def context(name):
        return ContextSet(name, (ContextEntry(np.zeros((6, 6), np.float32), np.ones((6, 6), bool), (1.0, 1.0)),))

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    write_context_file("liver.context.zip", context("From the file"))
    assert files.open_context("liver.context.zip").label_name == "From the file"
    ContextStore().save("liver.context.zip", context("Of the task"))
    assert files.open_context("LIVER.context.zip").label_name == "Of the task"
    with pytest.raises(scribblesegment.ContextError, match=r"neither a file .* tasks are: 'liver.context.zip'"):
        files.open_context("spleen")


def test_progress_is_shown_to_a_person_only(monkeypatch, capsys):
    monkeypatch.setattr(files, "_PATIENCE_S", 0.0)
    for watched in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        with files.progress_bar(3, "refining", "update") as bar:
            bar.update(2)
            bar.refresh()
        weights.show_download(0.5, "default")
        shown = capsys.readouterr().err
        assert [text in shown for text in ("refining", "2/3", "\rdefault (50 %)")] == [watched] * 3


def info(capsys, *image):
    assert run("info", *image) == 0
    return capsys.readouterr().out


def test_the_installation_is_told(capsys, monkeypatch, tmp_path):
    text = info(capsys)
    assert f"scribblesegment {scribblesegment.__version__}" in text
    assert "torch           " in text
    assert ", computes" in text
    assert text.count("(default)") == 1
    assert all(f"  {entry.name}" in text and f"licence {entry.licence}" in text for entry in list_weights())
    assert "present, " in text
    monkeypatch.setattr(type(list_weights()[0]), "path", lambda entry: tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = info(capsys)
    assert f"missing: {tmp_path / 'none'}" in text
    assert "not installed: pip install 'scribblesegment[torch]'" in text


def test_a_report_identifies_the_networks_and_no_person(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRIBBLESEGMENT_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "liver-of-jane-doe.pt").write_bytes(b"weights")
    text = info(capsys, "--report")
    assert f"scribblesegment         {scribblesegment.__version__}\n" in text
    assert all(re.search(rf"^{name} +\S", text, re.MULTILINE) for name in ("python", "platform", "numpy", "device"))
    present = {entry.name: entry.path() for entry in list_weights() if entry.embedded}
    present["imported network 1"] = tmp_path / "liver-of-jane-doe.pt"
    for name, path in present.items():
        assert re.search(rf"^{name} +SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}$", text, re.MULTILINE)
    personal = ("jane", str(tmp_path), str(Path.home()), platform.node(), getpass.getuser())
    assert not [word for word in personal if len(word) > 2 and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    monkeypatch.setattr(devices, "torch_problem", lambda: f"PyTorch cannot be loaded: {tmp_path}/libtorch.so.")
    assert str(tmp_path) not in info(capsys, "--report")
    assert run("info", "i.nrrd", "--report") == 2


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "k to head, j to back, i to left"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "k to head, j to front, i to right"),
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), "k to back, j to feet, i to left"),
        ((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8), "k to head (oblique), j to back (oblique), i to left"),
    ],
)
def test_an_image_is_described(tmp_path, capsys, sides, expected):
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetDirection(sides)
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    text = info(capsys, tmp_path / "i.nrrd")
    assert "3, 4, 5 (k, j, i), int16" in text
    assert "2, 0.75, 0.5 mm (k, j, i)" in text
    assert f"orientation     {expected}\n" in text
    assert "0 to 59" in text
    picture = write_image(tmp_path / "i.png", np.zeros((4, 5), np.uint8))
    assert "not given by the file" in info(capsys, picture)
