"""What a cable, a disk or an upload does to files: cut off, or one bit another."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from scribblesegment.errors import FileFormatError, ImageError, ScribbleSegmentError
from scribblesegment.io import read_labelmap, read_volume

LABEL_FORMATS = ("nrrd", "nii", "nii.gz", "mha", "seg.nrrd", "png", "tif")


def some_voxels(shape=(6, 24, 30)) -> np.ndarray:
    """Smooth with a little noise, as images are, so that compression has something to do."""
    rng = np.random.default_rng(0)
    return (np.add.outer(np.arange(shape[0]) * 9, np.arange(shape[1] * shape[2]) // 8) + rng.integers(0, 9)).astype(
        np.uint8
    ).reshape(shape)  # fmt: skip


def a_file(path, shape=(6, 24, 30), compress=True):
    image = sitk.GetImageFromArray(some_voxels(shape))
    sitk.WriteImage(image[:, :, 0] if shape[0] == 1 else image, str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("extension", ["nrrd", "nii", "nii.gz", "mha", "png", "jpg", "tif"])
def test_a_truncated_file_is_refused(tmp_path, extension, compress, fraction):
    shape = (1, 64, 80) if extension in ("png", "jpg", "tif") else (8, 32, 40)
    path = a_file(tmp_path / f"image.{extension}", shape, compress)
    assert read_volume(path).shape == shape
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(FileFormatError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path) in message
    assert "again" in message  # the remedy
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("extension", ["nhdr", "mhd"])
def test_a_truncated_or_missing_data_file_beside_the_header_is_refused(tmp_path, extension, compress):
    path = a_file(tmp_path / f"image.{extension}", compress=compress)
    np.testing.assert_array_equal(read_volume(path).array, some_voxels())
    (data,) = (other for other in tmp_path.iterdir() if other != path)
    data.write_bytes(data.read_bytes()[:-30])
    with pytest.raises(FileFormatError, match="again"):
        read_volume(path)
    data.unlink()
    with pytest.raises(FileFormatError, match="again"):
        read_volume(path)


@pytest.mark.parametrize("extension", ["mha", "nrrd", "nii.gz", "mhd", "nhdr", "seg.nrrd", "png"])
def test_a_flipped_bit_in_compressed_data_is_never_read_as_other_voxels(tmp_path, extension):
    path = a_file(tmp_path / f"image.{extension}", (1, 64, 80) if extension == "png" else (6, 24, 30))
    expected = read_labelmap(path).array
    (damaged,) = [other for other in tmp_path.iterdir() if other != path] or [path]
    content = damaged.read_bytes()
    mark = {"mha": b"LOCAL\n", "nrrd": b"\n\n", "seg.nrrd": b"\n\n"}.get(extension)
    start = content.index(mark) + len(mark) if mark else 0
    rng = np.random.default_rng(1)
    refused = 0
    for bit in rng.integers(8 * start, 8 * len(content), 250).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        try:
            found = read_labelmap(path).array
        except ScribbleSegmentError:
            refused += 1
        else:  # the name in a gzip header, for instance, is no voxel
            np.testing.assert_array_equal(found, expected)
    assert refused > 200


def test_damage_that_lengthens_a_compressed_nifti_is_noticed(tmp_path):
    """The checksum lies behind voxels that the header does not announce."""
    data = gzip.decompress(a_file(tmp_path / "a.nii.gz").read_bytes())
    whole = bytearray(gzip.compress(data + bytes(5_000_000)))
    (tmp_path / "a.nii.gz").write_bytes(whole)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, some_voxels())
    whole[-8] ^= 1
    for content, problem in ((whole, "incorrect data check"), (gzip.compress(data) + b"more", "other bytes follow")):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(FileFormatError, match=problem):
            read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("surplus", [-30, 30])
@pytest.mark.parametrize("extension", ["mha", "nrrd"])
def test_sound_data_of_another_length_than_announced_are_refused(tmp_path, extension, surplus):
    path = a_file(tmp_path / f"a.{extension}")
    header, mark, _ = path.read_bytes().partition(b"LOCAL\n" if extension == "mha" else b"\n\n")
    voxels = some_voxels().tobytes()
    voxels = voxels + bytes(surplus) if surplus > 0 else voxels[:surplus]
    path.write_bytes(header + mark + (zlib.compress(voxels) if extension == "mha" else gzip.compress(voxels)))
    with pytest.raises(FileFormatError, match="bytes of voxels are there"):
        read_volume(path)


@pytest.mark.parametrize("compress", [False, True])
def test_a_header_that_asks_for_more_than_the_file_can_hold_takes_no_memory(tmp_path, compress):
    path = a_file(tmp_path / "a.nrrd", compress=compress)
    path.write_bytes(path.read_bytes().replace(b"sizes: 30 24 6", b"sizes: 30000 30000 30000"))
    with pytest.raises(FileFormatError, match="27000000000000 bytes of voxels are announced"):
        read_volume(path)


@pytest.mark.parametrize("big", [False, True])
def test_compressed_voxels_of_either_byte_order_and_with_layers_are_read(tmp_path, big):
    voxels = some_voxels((3, 4, 10)).astype(">u2" if big else "<u2") * 257
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {big}\nCompressedData = True\n"
    )
    header += "DimSize = 10 4 3\nElementType = MET_USHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + zlib.compress(voxels.tobytes()))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, voxels)
    header = f"NRRD0004\ntype: ushort\ndimension: 4\nsizes: 2 5 4 3\nendian: {'big' if big else 'little'}\n"
    layered = voxels.reshape(3, 4, 5, 2)
    for kinds, stored in (("list domain domain domain", layered), ("domain domain domain list", layered)):
        sizes = "2 5 4 3" if kinds.startswith("list") else "5 4 3 2"
        data = stored if kinds.startswith("list") else np.moveaxis(stored, -1, 0)
        text = (
            header.replace("2 5 4 3", sizes)
            + f"kinds: {kinds}\nencoding: gzip\nSegment0_ID:=a\nSegment0_LabelValue:=257\n\n"
        )
        (tmp_path / "a.seg.nrrd").write_bytes(text.encode() + gzip.compress(np.ascontiguousarray(data).tobytes()))
        labels = read_labelmap(tmp_path / "a.seg.nrrd").array
        np.testing.assert_array_equal(labels, 257 * (layered[..., 0] == 257))


# --- Pictures --------------------------------------------------------------------------------------------------------

PAGE = np.arange(48, dtype=np.uint8).reshape(6, 8)


def a_tiff(*pages: np.ndarray, order: str = "<", big: bool = False, tags: dict[int, int] | None = None) -> bytes:
    """Write uncompressed pages of one strip each, header and directory first, pixels after (as cameras do)."""
    word, head = ("Q", 16) if big else ("I", 8)
    count_code, entry = ("Q", 20) if big else ("H", 12)
    data = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42))
    data += struct.pack(order + "HHQ", 8, 0, head) if big else struct.pack(order + "I", head)
    for number, page in enumerate(pages):
        stored = page.astype(page.dtype.newbyteorder(order)).tobytes()
        if (tags or {}).get(259) == 8:
            stored = zlib.compress(stored)
        fields = {256: page.shape[1], 257: page.shape[0], 258: 8 * page.itemsize, 259: 1, 262: 1, 273: 0, 277: 1,
                  278: page.shape[0], 279: len(stored), **(tags or {})}  # fmt: skip
        pixels_at = len(data) + struct.calcsize("<" + count_code) + len(fields) * entry + struct.calcsize("<" + word)
        fields[273] = pixels_at
        data += struct.pack(order + count_code, len(fields))
        for tag, value in sorted(fields.items()):
            data += struct.pack(order + "HH" + word + word, tag, 16 if big else 4, 1, value)
        data += struct.pack(order + word, pixels_at + len(stored) if number < len(pages) - 1 else 0)
        data += stored
    return bytes(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_complete_tiffs_are_read_and_any_missing_byte_is_noticed(tmp_path, order, big):
    content = a_tiff(PAGE, PAGE + 1, order=order, big=big)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path).array, [PAGE, PAGE + 1])
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="again"):
            read_volume(path)


def test_a_flipped_bit_in_a_deflated_tiff_is_noticed(tmp_path):
    content = a_tiff(PAGE, tags={259: 8})
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, [PAGE])
    for place in range(8 * content.index(zlib.compress(PAGE.tobytes())), 8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "a.tif").write_bytes(flipped)
        with contextlib.suppress(FileFormatError):
            np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, [PAGE])


def test_an_orientation_that_means_nothing_is_none(tmp_path):
    content, path = a_tiff(PAGE, tags={274: 0}), tmp_path / "a.tif"
    none_at_all = content.replace(struct.pack("<HHI", 274, 4, 1), struct.pack("<HHI", 274, 4, 0))
    for data in (content, none_at_all):
        path.write_bytes(data)
        np.testing.assert_array_equal(read_volume(path).array, [PAGE])


def test_tiffs_that_lead_nowhere_or_would_be_read_wrongly_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    circle = bytearray(a_tiff(PAGE))
    struct.pack_into("<I", circle, 8 + 2 + 9 * 12, 8)
    tiled = a_tiff(PAGE.astype(np.uint16), tags={322: 8, 323: 6, 324: 8, 325: 96})
    for content, error, message in (
        (circle, FileFormatError, "circle"),
        (tiled, ImageError, "tiles"),
        (a_tiff(PAGE.astype(np.uint16), tags={277: 3, 284: 2}), ImageError, "colour by colour"),
        (a_tiff(PAGE, tags={277: 2}), ImageError, "2 values in every pixel"),
        (a_tiff(PAGE.astype(np.float16), tags={339: 3}), ImageError, "16-bit floating point"),
        (a_tiff(PAGE, tags={274: 6}), ImageError, "viewers turn"),
        (a_tiff(), FileFormatError, "again"),
    ):
        path.write_bytes(bytes(content))
        with pytest.raises(error, match=message):
            read_volume(path)


def test_complete_jpegs_are_read_and_any_missing_byte_is_noticed(tmp_path):
    path = tmp_path / "a.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(some_voxels((1, 16, 16))[0]), str(path))
    content = path.read_bytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content  # an application segment holding a picture
    for whole in (content, content[:2] + thumbnail + content[2:], content[:2] + b"\xff\xff" + content[2:]):
        path.write_bytes(whole + b"maker notes")
        assert read_volume(path).shape == (1, 16, 16)
        for length in range(0, len(whole), 1 if whole is content else 29):
            path.write_bytes(whole[:length])
            with pytest.raises(FileFormatError, match=r"again|no content"):
                read_volume(path)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_only_a_jpeg_that_viewers_turn_is_refused_for_its_exif_entries(tmp_path, kind):
    path, picture = tmp_path / "a.jpg", Image.fromarray(PAGE)
    several = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {}
    upright, odd, turned = (struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, n, 0, 0) for n in (1, 9, 6))
    for directory in (b"no directory", b"II*\0\xff\xff\xff\xff", upright, odd):
        picture.save(path, kind, exif=b"Exif\0\0" + directory, **several)
        assert read_volume(path).shape == (1, *PAGE.shape)
    picture.save(path, kind, exif=b"Exif\0\0" + turned, **several)
    with pytest.raises(FileFormatError, match="stored turned"):
        read_volume(path)


def test_a_picture_of_absurd_size_takes_no_memory(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(PAGE).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FileFormatError, match="larger than pictures may be"):
        read_volume(tmp_path / "a.png")


# --- Writing ---------------------------------------------------------------------------------------------------------


FULL_DISK = """
import resource, signal, sys
import numpy as np
from scribblesegment.errors import FileFormatError
from scribblesegment.io import write_labelmap
from scribblesegment.data.volume import Volume
labels = np.random.default_rng(0).integers(0, 200, (1, 400, 400)).astype(np.uint8)  # noise: hardly compressible
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for path in sys.argv[1:]:
    try:
        write_labelmap(path, Volume(labels, np.eye(4)))
    except FileFormatError as error:
        print("refused:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to imitate a full disk")
def test_a_disk_that_fills_up_leaves_the_old_files_and_nothing_else(tmp_path):
    paths = [tmp_path / f"labels.{extension}" for extension in LABEL_FORMATS]
    for path in paths:
        path.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, paths)], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.count("refused: Cannot write") == len(paths), result.stdout + result.stderr
    assert all(path.read_bytes() == b"old" for path in paths)
    assert len(os.listdir(tmp_path)) == len(paths)
