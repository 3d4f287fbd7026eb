from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import read_labelmap, read_volume

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
SPACING = (0.9, 0.7)  # columns, rows


def some_voxels(planes: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (planes, 6, 8)).astype(np.int16)


def a_slice(
    path: Path, plane: np.ndarray, position, axes=AXIAL, series="1.2.3.1", number=1, description="Body"
) -> None:
    image = sitk.GetImageFromArray(plane[None])
    image.SetSpacing((*SPACING, 1.0))
    tags = {
        "0008|0060": "CT",
        "0008|103e": description,
        "0020|000d": "1.2.3",
        "0020|000e": series,
        "0020|0013": str(number),
        "0020|0032": "\\".join(f"{part:.6f}" for part in position),
        "0020|0037": "\\".join(f"{part:.6f}" for axis in axes for part in axis),
        "0008|0018": f"{series}.{number}.{abs(hash(path.name)) % 10**6}",
    }
    image.SetOrigin([float(part) for part in position])
    image.SetDirection(np.column_stack([*axes, np.cross(*axes)]).ravel())
    for key, value in tags.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


def a_series(folder: Path, voxels: np.ndarray, step=(0.0, 0.0, 3.0), axes=AXIAL, **options) -> Path:
    """Write slices whose file names run against the order in the patient."""
    folder.mkdir(exist_ok=True)
    prefix = options.get("series", "a").replace(".", "_")
    for k, plane in enumerate(voxels):
        position = np.array((10.0, 20.0, 30.0)) + k * np.asarray(step)
        a_slice(folder / f"{prefix}_{99 - k}.dcm", plane, position, axes, number=k + 1, **options)
    return folder


def expected_matrix(step, axes) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([np.array(axes[0]) * SPACING[0], np.array(axes[1]) * SPACING[1], step])
    lps[:3, 3] = (10, 20, 30)
    return np.diag((-1.0, -1, 1, 1)) @ lps


@pytest.mark.parametrize(
    ("step", "axes"),
    [
        ((0.0, 0.0, 3.0), AXIAL),
        ((0.0, 2.5, 0.0), CORONAL),
        ((0.0, 0.6, 3.0), AXIAL),  # tilted gantry
    ],
)
def test_a_series_is_read_in_the_order_and_at_the_place_of_its_slices(tmp_path, step, axes):
    volume = read_volume(a_series(tmp_path / "ct", some_voxels(), step, axes))
    np.testing.assert_array_equal(volume.array, some_voxels())
    np.testing.assert_allclose(volume.ijk_to_ras, expected_matrix(step, axes), atol=1e-5)
    assert volume.is_sheared == (step[1] == 0.6)


def test_a_folder_outside_ascii_is_read(tmp_path):
    assert read_volume(a_series(tmp_path / "Jörg 医学", some_voxels(2))).shape == (2, 6, 8)


@pytest.mark.parametrize("name", ["slice.dcm", "IM0001"])
def test_a_single_file_is_one_slice_whatever_its_name(tmp_path, name):
    a_slice(tmp_path / "slice.dcm", some_voxels()[0], (1.0, 2.0, 3.0))
    (tmp_path / "slice.dcm").rename(tmp_path / name)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array[0], some_voxels()[0])
    np.testing.assert_allclose(volume.origin_ras, (-1, -2, 3))
    assert volume.slice("k", 0).spacing_mm == (0.7, 0.9)


def test_several_series_are_listed_and_one_is_chosen_by_its_id(tmp_path):
    a_series(tmp_path, some_voxels(3), series="1.2.3.1", description="Thorax")
    a_series(tmp_path, some_voxels(2) + 1, series="1.2.3.2", description="Scout")
    with pytest.raises(FileFormatError, match=r"2 DICOM series: .*1\.2\.3\.1 \(Thorax, 3 files\).*series_id") as caught:
        read_volume(tmp_path)
    assert "1.2.3.2 (Scout, 2 files)" in str(caught.value)
    np.testing.assert_array_equal(read_volume(tmp_path, series_id="1.2.3.2").array, some_voxels(2) + 1)
    with pytest.raises(FileFormatError, match=r"No series 9\.9.*Thorax"):
        read_volume(tmp_path, series_id="9.9")


def test_a_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="No DICOM series"):
        read_volume(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileFormatError, match="No DICOM series"):
        read_labelmap(tmp_path)


def test_a_missing_slice_is_noticed(tmp_path):
    a_series(tmp_path, some_voxels(6))
    (tmp_path / "a_96.dcm").unlink()
    with pytest.raises(GeometryError, match=r"mostly 3\.000 mm apart, but 6\.000 mm after slice 3"):
        read_volume(tmp_path)


def test_two_images_at_one_position_are_noticed(tmp_path):
    a_series(tmp_path, some_voxels(3))
    a_slice(tmp_path / "again.dcm", some_voxels()[0], (10.0, 20.0, 33.0), number=9)
    with pytest.raises(ImageError, match=r"2 images at the position \[10.0, 20.0, 33.0\]"):
        read_volume(tmp_path)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_truncated_slice_is_refused(tmp_path, fraction):
    path = tmp_path / "slice.dcm"
    a_slice(path, some_voxels()[0], (1.0, 2.0, 3.0))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(FileFormatError, match="again"):
        read_volume(path)


@pytest.mark.parametrize("number", [99, 97, 95])
def test_a_truncated_slice_among_good_ones_is_named(tmp_path, number):
    a_series(tmp_path, some_voxels(5))
    path = tmp_path / f"a_{number}.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=path.name):
        read_volume(tmp_path)


def test_files_of_another_kind_beside_the_series_do_no_harm(tmp_path):
    a_series(tmp_path, some_voxels(3))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10")
    (tmp_path / "report").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "readme.txt").write_text("hello")
    assert read_volume(tmp_path).shape == (3, 6, 8)


def test_slices_of_different_size_are_refused(tmp_path):
    a_series(tmp_path, some_voxels(3))
    a_slice(tmp_path / "odd.dcm", np.zeros((9, 9), np.int16), (10.0, 20.0, 39.0), number=4)
    with pytest.raises(FileFormatError, match="again"):
        read_volume(tmp_path)
