from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import scribblesegment
from scribblesegment import FileFormatError, list_weights
from scribblesegment.commands.info import info
from scribblesegment.weights import registry


def told(image=None):
    lines = []
    info(image, lines.append)
    return "\n".join(lines)


def test_the_installation_is_told():
    text = told()
    assert f"scribblesegment {scribblesegment.__version__}" in text
    assert "torch           " in text
    assert ", computes" in text


def test_every_model_is_told_with_its_licence_and_whether_it_is_here():
    text = told()
    assert text.count("(default)") == 1
    for entry in list_weights():
        assert entry.name in text
        assert f"licence {entry.licence}" in text
    assert "present, " in text


def test_a_model_whose_file_is_missing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(registry.WeightsInfo, "path", lambda entry: tmp_path / "none")
    assert f"missing: {tmp_path / 'none'}" in told()


def test_a_missing_torch_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "not installed: pip install torch" in told()


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "k to head, j to back, i to left"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "k to head, j to front, i to right"),
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), "k to back, j to feet, i to left"),
        ((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8), "k to head (oblique), j to back (oblique), i to left"),
    ],
)
def test_an_image_is_described(tmp_path, direction, expected):
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    text = told(tmp_path / "i.nrrd")
    assert "3, 4, 5 (k, j, i), int16" in text
    assert "2, 0.75, 0.5 mm (k, j, i)" in text
    assert f"orientation     {expected}\n" in text
    assert "0 to 59" in text


def test_a_picture_has_no_orientation(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "i.png"))
    assert "not given by the file" in told(tmp_path / "i.png")


def test_an_image_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        told(tmp_path / "none.nrrd")
