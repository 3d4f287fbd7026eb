from __future__ import annotations

import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io.volumes import check_jpeg, check_tiff


def a_tiff(*pages: np.ndarray, order: str = "<", big: bool = False, tags: dict[int, int] | None = None) -> bytes:
    """Write uncompressed pages of one strip each, header and directory first, pixels after (as cameras do)."""
    word, head = ("Q", 16) if big else ("I", 8)
    count_code, entry = ("Q", 20) if big else ("H", 12)
    start = {"<": b"II", ">": b"MM"}[order]
    data = bytearray(start + struct.pack(order + "H", 43 if big else 42))
    data += struct.pack(order + "HHQ", 8, 0, head) if big else struct.pack(order + "I", head)
    for number, page in enumerate(pages):
        fields = {256: page.shape[1], 257: page.shape[0], 258: 8 * page.itemsize, 259: 1, 262: 1, 273: 0, 277: 1,
                  278: page.shape[0], 279: page.nbytes, **(tags or {})}  # fmt: skip
        directory_bytes = struct.calcsize("<" + count_code) + len(fields) * entry + struct.calcsize("<" + word)
        pixels_at = len(data) + directory_bytes
        fields[273] = pixels_at
        data += struct.pack(order + count_code, len(fields))
        for tag, value in sorted(fields.items()):
            data += struct.pack(order + "HH" + word + word, tag, 16 if big else 4, 1, value)
        data += struct.pack(order + word, pixels_at + page.nbytes if number < len(pages) - 1 else 0)
        data += page.astype(page.dtype.newbyteorder(order)).tobytes()
    return bytes(data)


PAGE = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_complete_tiffs_pass_and_any_missing_byte_is_noticed(tmp_path, order, big):
    content = a_tiff(PAGE, PAGE + 1, order=order, big=big)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    check_tiff(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), [PAGE, PAGE + 1])
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="again"):
            check_tiff(path)


def test_pages_in_a_circle_are_refused(tmp_path):
    content = bytearray(a_tiff(PAGE))
    next_page = 8 + 2 + 9 * 12
    struct.pack_into("<I", content, next_page, 8)
    (tmp_path / "a.tif").write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="circle"):
        check_tiff(tmp_path / "a.tif")


def test_tiles_that_itk_reduces_to_8_bits_are_refused(tmp_path):
    content = a_tiff(PAGE.astype(np.uint16), tags={322: 8, 323: 6, 324: 8, 325: 96})
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match="tiled"):
        check_tiff(tmp_path / "a.tif")


def test_other_files_are_no_tiff(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"\x89PNG and so on")
    with pytest.raises(FileFormatError, match="does not start like"):
        check_tiff(tmp_path / "a.tif")


def test_complete_jpegs_pass_and_any_missing_byte_is_noticed(tmp_path):
    path = tmp_path / "a.jpg"
    picture = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(path))
    content = path.read_bytes()
    check_jpeg(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="too early"):
            check_jpeg(path)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((16, 16), np.uint8)), str(path))
    content = path.read_bytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content  # an application segment holding a picture
    whole = content[:2] + thumbnail + content[2:]
    path.write_bytes(whole)
    check_jpeg(path)
    path.write_bytes(whole[:-2])
    with pytest.raises(FileFormatError):
        check_jpeg(path)


def test_bytes_after_the_end_and_fill_bytes_do_no_harm(tmp_path):
    path = tmp_path / "a.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((16, 16), np.uint8)), str(path))
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xff" + content[2:] + b"maker notes")
    check_jpeg(path)
