"""Tests of volumes as training sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imwrite

from scribblesegment import Volume, write_labelmap
from scribblesegment.errors import DatasetError
from scribblesegment.io.nifti import write_nifti
from scribblesegment.training.corpus import load_corpus, load_folders


def write_pair(folder: Path, name: str = "head", shape: tuple[int, int, int] = (12, 40, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.diag([1.0, 1.0, 3.0, 1.0])
    array = np.random.default_rng(1).integers(0, 100, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[4:9, 10:30, 5:25] = 7
    array[labels > 0] += 400
    write_nifti(folder / f"{name}_image.nii.gz", array, matrix)
    write_nifti(folder / f"{name}_label.nii.gz", labels, matrix)
    return folder


def test_slices_of_all_axes_that_show_something_are_images_of_a_set(tmp_path):
    write_pair(tmp_path / "heads")
    (entry,) = load_folders(tmp_path)
    assert entry.name == "heads volumes"
    assert not entry.instances
    assert entry.images.shape == entry.labels.shape == (5 + 20 + 20, 256, 256)
    assert entry.meta["axis"] == [0] * 5 + [1] * 20 + [2] * 20
    assert entry.meta["index"][:5] == [4, 5, 6, 7, 8]
    assert set(entry.meta["subjects"]) == {"head"}
    assert set(np.unique(entry.labels)) == {0, 7}
    for image, labels in zip(entry.images, entry.labels, strict=True):
        assert np.median(image[labels == 7]) > 150


def test_slices_have_square_pixels(tmp_path):
    write_pair(tmp_path / "heads")
    (entry,) = load_folders(tmp_path)
    rows, columns = np.nonzero(entry.labels[30])  # 5 slices of 3 mm by 20 or so of 1 mm
    assert (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(15 / 20, rel=0.05)


def test_volumes_of_other_licences_and_other_folders_are_passed_over(tmp_path):
    write_pair(tmp_path / "heads")
    write_pair(tmp_path / "nc")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("about")
    assert [entry.name for entry in load_folders(tmp_path)] == ["heads volumes"]


@pytest.mark.parametrize(("name", "instances"), [("stardist_3d", True), ("some_nuclei", True), ("brain", False)])
def test_nuclei_are_instances(tmp_path, name, instances):
    write_pair(tmp_path / name)
    assert load_folders(tmp_path)[0].instances is instances


def test_images_of_two_dimensions_are_sets_too(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    image = np.zeros((60, 80), np.uint8)
    image[10:40, 20:60] = 200
    imwrite(folder / "one_image.png", image)
    imwrite(folder / "one_label.png", (image > 0).astype(np.uint8))
    (entry,) = load_corpus(tmp_path)
    assert entry.images.shape == (1, 256, 256)
    assert entry.labels.sum() == pytest.approx(30 * 40 * (256 / 80) ** 2, rel=0.05)


def test_bad_pairs_are_skipped_by_name(tmp_path):
    folder = write_pair(tmp_path / "heads")
    write_pair(folder, "other")
    (folder / "head_label.nii.gz").write_bytes(b"no image")
    told = []
    (entry,) = load_folders(tmp_path, skip_bad=told.append)
    assert set(entry.meta["subjects"]) == {"other"}
    assert len(told) == 1
    assert "head_image.nii.gz" in told[0]


def test_a_volume_without_labels_is_named(tmp_path):
    folder = write_pair(tmp_path / "heads")
    (folder / "head_label.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"head_image\.nii\.gz cannot be used"):
        load_folders(tmp_path)


def test_labels_of_another_shape_are_named(tmp_path):
    folder = write_pair(tmp_path / "heads")
    write_labelmap(folder / "head_label.nii.gz", Volume(np.ones((3, 3, 3), np.uint8), np.eye(4)))
    with pytest.raises(DatasetError, match=r"labels have shape \(3, 3, 3\)"):
        load_folders(tmp_path)


def test_volumes_that_show_next_to_nothing_are_refused(tmp_path):
    folder = write_pair(tmp_path / "heads")
    write_labelmap(folder / "head_label.nii.gz", Volume(np.zeros((12, 40, 30), np.uint8), np.eye(4)))
    with pytest.raises(DatasetError, match="show no structure of 30 pixels"):
        load_folders(tmp_path)
