from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.nifti import read_nifti, write_nifti

SHEARED = np.array([[1.0, 0.3, 0.0, 1.0], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 0.0, 1.0]])


def some_voxels(dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(-100, 100, (3, 4, 5)).astype(dtype)


def a_file(path: Path, voxels: np.ndarray | None = None) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(some_voxels() if voxels is None else voxels), str(path))
    return path


def patched(path: Path, **fields: tuple[int, str, tuple[float, ...]]) -> Path:
    """Overwrite header fields, given as (offset, struct format, values)."""
    data = bytearray(path.read_bytes())
    for offset, code, values in fields.values():
        struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(bytes(data))
    return path


def test_a_scaled_file_is_read_as_the_numbers_it_stands_for(tmp_path):
    path = patched(a_file(tmp_path / "a.nii"), slope=(112, "2f", (0.5, -1024.0)))
    voxels, _ = read_nifti(path)
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, some_voxels() * 0.5 - 1024)
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("scaling", [(0.0, 5.0), (1.0, 0.0), (np.nan, 0.0)])
def test_a_file_without_scaling_keeps_its_type(tmp_path, scaling):
    voxels, _ = read_nifti(patched(a_file(tmp_path / "a.nii"), slope=(112, "2f", scaling)))
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, some_voxels())


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_number_type_is_read(tmp_path, dtype):
    voxels, _ = read_nifti(a_file(tmp_path / "a.nii.gz", some_voxels(dtype)))
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, some_voxels(dtype))


def test_a_file_in_the_other_byte_order_is_read(tmp_path):
    path = a_file(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    header = np.frombuffer(bytes(data[:348]), np.uint8)
    swapped = header.copy()
    # Offset, length and width of nifti1.h's multi-byte fields.
    for start, end, width in [(0, 4, 4), (32, 36, 4), (36, 38, 2), (40, 56, 2), (56, 68, 4), (68, 76, 2), (76, 120, 4),
                              (120, 122, 2), (124, 148, 4), (252, 256, 2), (256, 328, 4)]:  # fmt: skip
        swapped[start:end] = header[start:end].reshape(-1, width)[:, ::-1].ravel()
    path.write_bytes(swapped.tobytes() + bytes(data[348:352]) + some_voxels(">i2").tobytes())
    voxels, matrix = read_nifti(path)
    assert voxels.dtype.isnative
    np.testing.assert_array_equal(voxels, some_voxels())
    np.testing.assert_allclose(matrix, np.diag((-1, -1, 1, 1)))


def test_compression_is_recognised_by_content(tmp_path):
    path = a_file(tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii.gz")[0], some_voxels())


def test_a_damaged_compressed_file_is_refused(tmp_path):
    path = a_file(tmp_path / "a.nii.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # within the checksum
    path.write_bytes(bytes(data))
    with pytest.raises(FileFormatError, match="CRC"):
        read_nifti(path)
    path.write_bytes(gzip.compress(path.read_bytes())[:10] + b"no deflate stream")
    with pytest.raises(FileFormatError, match="again"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_asks_for_more_than_the_file_can_hold_takes_no_memory(tmp_path, name):
    path = tmp_path / "plain.nii"
    patched(a_file(path), dim=(40, "4h", (3, 30000, 30000, 30000)))
    data = path.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(FileFormatError, match="54000000000000 bytes of voxels are announced"):
        read_nifti(tmp_path / name)


def test_a_damaged_size_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="size"):
        read_nifti(patched(a_file(tmp_path / "a.nii"), dim=(40, "2h", (3, -4))))
    with pytest.raises(FileFormatError, match="size"):
        read_nifti(patched(a_file(tmp_path / "a.nii"), dim=(40, "h", (9,))))


def test_an_empty_image_is_refused(tmp_path):
    with pytest.raises(ImageError, match="empty"):
        read_nifti(patched(a_file(tmp_path / "a.nii"), dim=(40, "2h", (3, 0))))


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="type 32"):
        read_nifti(patched(a_file(tmp_path / "a.nii"), datatype=(70, "2h", (32, 64))))


def test_other_members_of_the_family_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(FileFormatError, match="Convert it to NIfTI-1"):
        read_nifti(patched(a_file(tmp_path / "a.nii"), sizeof_hdr=(0, "i", (540,))))
    with pytest.raises(FileFormatError, match="Convert it to NIfTI-1"):
        read_nifti(patched(a_file(tmp_path / "b.nii"), magic=(344, "4s", (b"ni1",))))


def test_the_geometry_of_a_sheared_file_is_the_one_it_states(tmp_path):
    path = patched(a_file(tmp_path / "a.nii"), codes=(252, "2h", (0, 1)), srow=(280, "12f", tuple(SHEARED[:3].ravel())))
    np.testing.assert_allclose(read_nifti(path)[1], SHEARED, atol=1e-6)


def test_a_file_with_a_quaternion_only_is_placed_by_it(tmp_path):
    path = patched(
        a_file(tmp_path / "a.nii"),
        codes=(252, "2h", (1, 0)),
        quatern=(256, "6f", (0.0, 0.0, np.sqrt(0.5), 10.0, 20.0, 30.0)),  # a quarter turn about z
        pixdim=(76, "4f", (1.0, 2.0, 3.0, 4.0)),
    )
    expected = [[0, -3, 0, 10], [2, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_nifti(path)[1], expected, atol=1e-5)


@pytest.mark.parametrize("flip", [1, -1])
def test_both_forms_of_the_written_matrix_agree(tmp_path, flip):
    matrix = np.array([[0.0, -2, 0, 5], [0.5 * flip, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    for codes in [(1, 0), (0, 1)]:
        path = tmp_path / "a.nii"
        write_nifti(path, np.ones((2, 3, 4), np.uint8), matrix)
        patched(path, codes=(252, "2h", codes))
        np.testing.assert_allclose(read_nifti(path)[1], matrix, atol=1e-5)


def test_a_side_too_long_for_the_header_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="32767"):
        write_nifti(tmp_path / "a.nii", np.zeros((1, 1, 40000), np.uint8), np.eye(4))


def test_equal_labels_give_equal_files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, np.ones((2, 3, 4), np.uint8), np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
