from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.io.segmentation import write_nrrd


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, ">u2"])
def test_simpleitk_reads_what_is_written(tmp_path, dtype):
    labels = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(dtype)
    write_nrrd(tmp_path / "a.nrrd", labels, np.eye(4))
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels)


def test_a_view_that_is_not_contiguous_is_written_in_order(tmp_path):
    labels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3).transpose(2, 1, 0)[::-1]
    write_nrrd(tmp_path / "a.nrrd", labels, np.eye(4))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nrrd"))), labels)


def test_metadata_with_line_breaks_and_backslashes_come_back(tmp_path):
    metadata = {"Key": "two\nlines", "Other": r"back\slash \n", "Unicode": "größer 肝"}
    write_nrrd(tmp_path / "a.nrrd", np.ones((1, 1, 2), np.uint8), np.eye(4), metadata)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert {key: image.GetMetaData(key) for key in metadata} == metadata


def test_equal_labels_give_equal_files(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        write_nrrd(tmp_path / name, np.ones((2, 3, 4), np.uint8), np.eye(4))
    assert (tmp_path / "a.nrrd").read_bytes() == (tmp_path / "b.nrrd").read_bytes()
