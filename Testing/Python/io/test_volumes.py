"""Every format in and out: voxels, geometry, labels, and refusals."""

from __future__ import annotations

import gzip
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import READ_EXTENSIONS, read_labelmap, read_volume, write_labelmap

VOLUME_FORMATS = ("nrrd", "nhdr", "nii", "nii.gz", "mha", "mhd")
LABEL_FORMATS = ("nrrd", "nii", "nii.gz", "mha", "seg.nrrd")
OBLIQUE = np.array([[-0.4, 0.3, 0.0, 12.5], [0.3, 0.4, 0.0, -7.25], [0.0, 0.0, 3.0, 100.0], [0.0, 0.0, 0.0, 1.0]])
SHEARED = np.array([[1.0, 0.3, 0.0, 1.0], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
WITH_FILES = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))).as_matrix()
    flips = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * flips * draw(st.tuples(*[st.floats(0.1, 20)] * 3))
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return matrix


def some_voxels(shape=(4, 5, 6), dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def an_image(array: np.ndarray, matrix: np.ndarray = OBLIQUE) -> sitk.Image:
    """Build with SimpleITK alone, so that the code under test does not check itself."""
    image = sitk.GetImageFromArray(array)
    lps = np.diag((-1.0, -1, 1, 1)) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


def a_file(path: Path, array: np.ndarray | None = None, compress: bool = True) -> Path:
    sitk.WriteImage(an_image(some_voxels() if array is None else array), str(path), useCompression=compress)
    return path


def a_picture(path: Path, pixels: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))
    return path


def patched(path: Path, offset: int, code: str, *values: float) -> Path:
    """Overwrite a field of an uncompressed NIfTI header."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(bytes(data))
    return path


def run_python(program: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


# --- Images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("extension", VOLUME_FORMATS)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_voxels_and_geometry_arrive_from_every_volume_format(tmp_path, extension, dtype, compress):
    voxels = some_voxels(dtype=dtype)
    volume = read_volume(a_file(tmp_path / f"Jörg 医学.{extension}", voxels, compress))
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.array.dtype == dtype
    assert not volume.array.flags.writeable
    np.testing.assert_allclose(volume.ijk_to_ras, OBLIQUE, atol=1e-5)


@WITH_FILES
@pytest.mark.parametrize("extension", VOLUME_FORMATS)
@given(matrix=matrices())
def test_oblique_flipped_anisotropic_grids_are_read_as_simpleitk_wrote_them(tmp_path, extension, matrix):
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(an_image(np.zeros((2, 3, 4), np.uint8), matrix), str(path))
    assert Volume(np.zeros((2, 3, 4)), matrix).same_grid(read_volume(path), 1e-3)


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "tif", "tiff"])
def test_a_grey_picture_is_one_slice(tmp_path, extension):
    volume = read_volume(a_picture(tmp_path / f"image.{extension}", np.full((5, 7), 90, np.uint8)))
    np.testing.assert_allclose(volume.array, np.full((1, 5, 7), 90), atol=1)
    assert volume.slice("k", 0).spacing_mm[0] == volume.slice("k", 0).spacing_mm[1]


def test_transparency_of_a_grey_picture_is_ignored(tmp_path):
    grey, path = some_voxels((5, 7), np.uint8), tmp_path / "image.png"
    pixels = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)])
    Image.fromarray(grey).save(path, transparency=7)
    np.testing.assert_array_equal(read_volume(path).array, grey[None])
    pixels.save(path)
    np.testing.assert_array_equal(read_volume(path).array, grey[None])
    patched(path, 24, "B", 16)
    checksum = zlib.crc32(path.read_bytes()[12:29]).to_bytes(4, "big")
    patched(path, 29, "I", int.from_bytes(checksum, "little"))
    with pytest.raises(FileFormatError, match="16-bit grey with transparency"):
        read_volume(path)


@pytest.mark.parametrize("extension", ["png", "tif", "nrrd", "mha"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_become_luminance_and_transparency_is_ignored(tmp_path, extension, channels):
    colors = some_voxels((5, 7, channels), np.uint8)
    volume = read_volume(a_picture(tmp_path / f"image.{extension}", colors))
    assert volume.array.dtype == np.uint8
    np.testing.assert_allclose(volume.array[0], colors[..., :3] @ (0.299, 0.587, 0.114), atol=0.501)


def test_a_colour_jpeg_and_a_coloured_nifti_become_luminance(tmp_path):
    grey = 200 * 0.299 + 100 * 0.587 + 50 * 0.114
    path = a_picture(tmp_path / "image.jpg", np.full((8, 8, 3), (200, 100, 50), np.uint8))
    np.testing.assert_allclose(read_volume(path).array, grey, atol=3)
    path = patched(a_file(tmp_path / "image.nii", np.zeros((4, 8, 8), np.uint8)), 70, "2h", 128, 24)
    path.write_bytes(path.read_bytes()[:352] + bytes((200, 100, 50)) * 256)
    np.testing.assert_allclose(read_volume(path).array, np.full((4, 8, 8), grey), atol=0.501)


@pytest.mark.parametrize("extension", ["nrrd", "nii", "nii.gz", "mha"])
def test_a_time_series_is_refused_and_a_single_time_point_read(tmp_path, extension):
    path = tmp_path / f"series.{extension}"
    sitk.WriteImage(sitk.JoinSeries([an_image(some_voxels())] * 2), str(path))
    with pytest.raises(ImageError, match="4 dimensions"):
        read_volume(path)
    sitk.WriteImage(sitk.JoinSeries([an_image(some_voxels())]), str(path))
    np.testing.assert_array_equal(read_volume(path).array, some_voxels())
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, OBLIQUE, atol=1e-5)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "image.xyz").write_text("x")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.float32), isVector=True), str(tmp_path / "f.nrrd"))
    for name, error, message in (
        ("absent.nrrd", FileFormatError, "no such file"),
        ("image.xyz", FileFormatError, r"unknown extension.*\.nrrd.*\.nii\.gz.*\.mha.*\.png"),
        ("f.nrrd", ImageError, "3 components of type float32"),
    ):
        with pytest.raises(error, match=message):
            read_volume(tmp_path / name)
    with pytest.raises(FileFormatError, match="is a file; a series is chosen"):
        read_volume(tmp_path / "f.nrrd", series="1.2.3")


@pytest.mark.parametrize("extension", READ_EXTENSIONS)
def test_files_without_content_or_of_other_content_are_refused(tmp_path, extension):
    path = tmp_path / f"image{extension}"
    for content, message in ((b"", "no content"), (b"This is a text, not an image.\n" * 40, re.escape(str(path)))):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=message) as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)
        assert "it for reading" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode")
def test_a_name_that_is_not_unicode_is_refused_where_simpleitk_would_end_the_process(tmp_path):
    path = a_file(tmp_path / "a.nii").rename(tmp_path / os.fsdecode(b"J\xf6rg.nii"))
    np.testing.assert_array_equal(read_volume(path).array, some_voxels())
    path = a_file(tmp_path / "a.mha").rename(path.with_suffix(".mha"))
    with pytest.raises(FileFormatError, match="Rename"):
        read_volume(path)


# --- NIfTI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", [(0.5, -1024.0), (0.0, 5.0), (1.0, 0.0), (np.nan, 0.0)])
def test_a_nifti_is_read_as_the_numbers_it_stands_for(tmp_path, scaling):
    path = patched(a_file(tmp_path / "a.nii"), 112, "2f", *scaling)
    volume = read_volume(path)
    scales = scaling == (0.5, -1024.0)
    assert volume.array.dtype == (np.float32 if scales else np.int16)
    np.testing.assert_array_equal(volume.array, some_voxels() * 0.5 - 1024 if scales else some_voxels())


def test_a_nifti_in_the_other_byte_order_is_read(tmp_path):
    data = a_file(tmp_path / "a.nii").read_bytes()
    header = np.frombuffer(data[:348], np.uint8)
    swapped = header.copy()
    # Offset, end and width of nifti1.h's multi-byte fields.
    for start, end, width in [(0, 4, 4), (32, 36, 4), (36, 38, 2), (40, 56, 2), (56, 68, 4), (68, 76, 2), (76, 120, 4),
                              (120, 122, 2), (124, 148, 4), (252, 256, 2), (256, 328, 4)]:  # fmt: skip
        swapped[start:end] = header[start:end].reshape(-1, width)[:, ::-1].ravel()
    (tmp_path / "a.nii").write_bytes(swapped.tobytes() + bytes(4) + some_voxels(dtype=">i2").tobytes())
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, some_voxels())
    np.testing.assert_allclose(volume.ijk_to_ras, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("extension", [*VOLUME_FORMATS, "png"])
@pytest.mark.parametrize("case", [str.upper, str.title])
def test_extensions_may_be_in_capitals(tmp_path, extension, case):
    written = a_file(tmp_path / f"a.{extension}", some_voxels((1, 5, 6), np.uint8))
    expected = read_volume(written)
    found = read_volume(written.rename(tmp_path / f"B.{case(extension)}"))
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.same_grid(expected)


def test_compression_of_a_nifti_is_recognised_by_content_and_may_have_several_members(tmp_path):
    data = a_file(tmp_path / "a.nii").read_bytes()
    for content in (data, gzip.compress(data[:500]) + gzip.compress(data[500:]) + bytes(700)):
        for name in ("B.NII.GZ", "b.nii"):
            (tmp_path / name).write_bytes(content)
            np.testing.assert_array_equal(read_volume(tmp_path / name).array, some_voxels())
            np.testing.assert_allclose(read_volume(tmp_path / name).ijk_to_ras, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize(
    ("offset", "code", "values", "error", "message"),
    [
        (40, "2h", (3, -4), FileFormatError, "size"),
        (40, "h", (9,), FileFormatError, "size"),
        (40, "2h", (3, 0), ImageError, "empty"),
        (40, "4h", (3, 30000, 30000, 30000), FileFormatError, "54000000000000 bytes of voxels are announced"),
        (70, "2h", (32, 64), ImageError, "type 32"),
        (0, "i", (540,), FileFormatError, "Convert it to NIfTI-1"),
        (344, "4s", (b"ni1",), FileFormatError, "Convert it to NIfTI-1"),
        (108, "f", (np.nan,), FileFormatError, "begin at byte nan"),
        (108, "f", (1e30,), FileFormatError, r"begin at byte 1e\+30"),
        (108, "f", (-352.0,), FileFormatError, "begin at byte -352"),
        (80, "f", (np.nan,), GeometryError, "numbers above zero"),
        (84, "f", (0.0,), GeometryError, "numbers above zero"),
        (88, "f", (np.inf,), GeometryError, "numbers above zero"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_hostile_nifti_header_is_refused_and_takes_no_memory(tmp_path, name, offset, code, values, error, message):
    data = patched(a_file(tmp_path / "plain.nii"), offset, code, *values).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(error, match=message):
        read_volume(tmp_path / name)


def test_the_geometry_of_a_nifti_is_that_of_slicer_but_for_shear(tmp_path):
    path = patched(patched(a_file(tmp_path / "a.nii"), 252, "2h", 0, 1), 280, "12f", *SHEARED[:3].ravel())
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, SHEARED, atol=1e-6)
    patched(path, 252, "2h", 1, 0)
    patched(path, 256, "6f", 0.0, 0.0, np.sqrt(0.5), 10.0, 20.0, 30.0)  # a quarter turn about z
    patched(path, 76, "4f", 1.0, 2.0, 3.0, 4.0)
    expected = [[0, -3, 0, 10], [2, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, expected, atol=1e-5)
    path = patched(a_file(tmp_path / "slice.nii", some_voxels((1, 5, 6))), 40, "h", 2)
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1)])
def test_both_forms_of_the_matrix_of_a_written_nifti_agree(tmp_path, flip, codes):
    matrix = np.array([[0.0, -2, 0, 5], [0.5 * flip, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    write_labelmap(tmp_path / "a.nii", Volume(np.ones((2, 3, 4), np.uint8), matrix))
    np.testing.assert_allclose(
        read_volume(patched(tmp_path / "a.nii", 252, "2h", *codes)).ijk_to_ras, matrix, atol=1e-5
    )


# --- Spacings --------------------------------------------------------------------------------------------------------


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 6 5 4\nElementType = MET_SHORT\n"


@pytest.mark.parametrize("value", ["0", "nan", "inf", "1e-30", "1e30"])
@pytest.mark.parametrize(
    ("extension", "header"),
    [
        ("mha", META + "ElementSpacing = {} 1 1\nElementDataFile = LOCAL\n"),
        ("nrrd", NRRD + "space: left-posterior-superior\nspace directions: ({},0,0) (0,1,0) (0,0,1)\n\n"),
        ("nrrd", NRRD + "spacings: {} 1 1\n\n"),
    ],
)
def test_impossible_spacings_are_refused_with_a_sentence(tmp_path, extension, header, value):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(header.format(1).encode() + some_voxels().tobytes())
    np.testing.assert_array_equal(read_volume(path).array, some_voxels())
    path.write_bytes(header.format(value).encode() + some_voxels().tobytes())
    with pytest.raises((GeometryError, FileFormatError), match=re.escape(str(path))):
        read_volume(path)


# --- Label maps ------------------------------------------------------------------------------------------------------


@WITH_FILES
@pytest.mark.parametrize("extension", LABEL_FORMATS)
@given(matrix=matrices())
def test_written_labels_lie_where_they_were_for_us_and_for_simpleitk(tmp_path, extension, matrix):
    path = tmp_path / f"größe 肝.{extension}"
    labels = Volume(some_voxels((2, 3, 4), np.uint8) % 3, matrix)
    write_labelmap(path, labels)
    back = read_labelmap(path)
    np.testing.assert_array_equal(back.array, labels.array)
    assert labels.same_grid(back, 1e-3)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels.array)
    for index in [(0, 0, 0), (3, 2, 1)]:
        position_ras = np.diag((-1, -1, 1)) @ image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        np.testing.assert_allclose(position_ras, (matrix @ (*index, 1))[:3], atol=2e-3)


@pytest.mark.parametrize("extension", ["nrrd", "mha", "seg.nrrd", "nii", "nii.gz", "png", "tif"])
def test_shear_survives_where_the_format_holds_it_and_is_refused_elsewhere(tmp_path, extension):
    path = tmp_path / f"labels.{extension}"
    labels = Volume(np.ones((1, 3, 4), np.uint8), SHEARED)
    if extension in ("nrrd", "mha", "seg.nrrd"):
        write_labelmap(path, labels)
        np.testing.assert_allclose(read_labelmap(path).ijk_to_ras, SHEARED, atol=1e-9)
        return
    with pytest.raises(GeometryError, match=r"right angles.*\.nrrd"):
        write_labelmap(path, labels)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extension", [*LABEL_FORMATS, "png", "tif"])
@pytest.mark.parametrize(
    ("largest", "dtype"), [(True, np.uint8), (255, np.uint8), (1000, np.uint16), (70000, np.uint32)]
)
def test_labels_keep_their_numbers_in_the_narrowest_type(tmp_path, extension, largest, dtype):
    path = tmp_path / f"labels.{extension}"
    labels = np.array([[[0, largest, 0], [1, 0, largest]]])
    volume = Volume(labels, np.diag((-0.5, -0.5, 2, 1)))
    if dtype is np.uint32 and extension in ("png", "tif"):
        with pytest.raises(ImageError, match="70000"):
            write_labelmap(path, volume)
        return
    write_labelmap(path, volume)
    back = read_labelmap(path)
    assert back.array.dtype == dtype
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.slice("k", 0).spacing_mm, (0.5, 0.5), rtol=1e-6)


@pytest.mark.parametrize("extension", ["nrrd", "nii.gz"])
def test_a_view_that_is_not_contiguous_is_written_in_order_and_the_same_file_each_time(tmp_path, extension):
    labels = np.arange(60, dtype=">u2").reshape(5, 4, 3).transpose(2, 1, 0)[::-1]
    paths = [tmp_path / f"{name}.{extension}" for name in "ab"]
    for path in paths:
        write_labelmap(path, Volume(labels, np.eye(4)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), labels)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "array", "error", "complaint"),
    [
        ("a.nrrd", np.zeros((1, 2, 2)), ImageError, "whole numbers"),
        ("a.nrrd", np.full((1, 2, 2), -1), ImageError, "from -1"),
        ("a.nrrd", np.full((1, 2, 2), 2**32), ImageError, "cannot be stored"),
        ("a.png", np.zeros((2, 2, 2), np.uint8), ImageError, "one slice"),
        ("a.nii", np.zeros((1, 1, 40000), np.uint8), GeometryError, "32767"),
        *((f"a{end}", np.ones((1, 2, 2), bool), FileFormatError, "choose one") for end in (".jpg", ".mhd", "", ".txt")),
        *((f"no/a.{end}", np.ones((1, 2, 2), bool), FileFormatError, "does not exist") for end in LABEL_FORMATS),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, name, array, error, complaint):
    with pytest.raises(error, match=complaint):
        write_labelmap(tmp_path / name, Volume(array, np.eye(4)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -1.0, 1e12])
def test_images_that_are_no_label_map_are_refused_and_whole_floats_read(tmp_path, value):
    voxels = some_voxels((2, 3, 4), np.float32) % 4
    labels = read_labelmap(a_file(tmp_path / "a.nii.gz", voxels * 0.9999999)).array  # what scaling leaves behind
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, voxels)
    voxels[1, 1, 1] = value
    with pytest.raises(ImageError, match=r"a\.nrrd holds"):
        read_labelmap(a_file(tmp_path / "a.nrrd", voxels))
    with pytest.raises(ImageError, match="from -1"):
        read_labelmap(a_file(tmp_path / "a.nrrd", np.full((2, 3, 4), -1, np.int16)))


def test_a_grey_mask_saved_in_colour_is_read_and_a_coloured_one_or_a_jpeg_refused(tmp_path):
    grey = np.zeros((4, 5, 3), np.uint8)
    grey[1, 2] = 255
    np.testing.assert_array_equal(read_labelmap(a_picture(tmp_path / "mask.png", grey)).array[0], grey[..., 0])
    grey[1, 2] = (255, 0, 0)
    with pytest.raises(ImageError, match="one number"):
        read_labelmap(a_picture(tmp_path / "mask.png", grey))
    with pytest.raises(FileFormatError, match=r"\.png"):
        read_labelmap(a_picture(tmp_path / "mask.jpg", grey[..., 0]))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_nothing_is_painted_where_a_picture_is_transparent(tmp_path, mode):
    painted = some_voxels((4, 5), np.uint8) % 2
    layers = [Image.new("L", (5, 4), 255)] * (len(mode) - 1) + [Image.fromarray(255 * painted)]
    Image.merge(mode, layers).save(tmp_path / "layer.png")
    np.testing.assert_array_equal(read_labelmap(tmp_path / "layer.png").array[0], 255 * painted)


# --- On the grid of an image -----------------------------------------------------------------------------------------


@WITH_FILES
@given(data=st.data())
def test_labels_on_an_aligned_part_of_a_grid_come_on_the_whole_of_it(tmp_path, data):
    """Also where the file counts voxels from other corners or along other axes."""
    grid = Volume(np.zeros((6, 7, 8), np.uint8), data.draw(matrices()))
    whole = np.zeros(grid.shape, np.uint8)
    low = np.array([data.draw(st.integers(0, side - 2)) for side in grid.shape])
    high = np.array([data.draw(st.integers(start + 1, side)) for start, side in zip(low, grid.shape, strict=True)])
    part = tuple(slice(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True))
    whole[part] = some_voxels(tuple(high - low), np.uint8) % 5
    order = data.draw(st.permutations(range(3)))  # of i, j, k
    flips = data.draw(st.tuples(*[st.booleans()] * 3))
    index_map = np.zeros((4, 4))
    index_map[3, 3] = 1
    sides = (high - low)[::-1][list(order)]
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        index_map[old, new] = -1 if flip else 1
        index_map[old, 3] = low[::-1][old] + (sides[new] - 1 if flip else 0)
    turned = whole[part].T.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)].T
    path = tmp_path / "part.nrrd"
    write_labelmap(path, Volume(np.ascontiguousarray(turned), grid.ijk_to_ras @ index_map))
    placed = read_labelmap(path, grid=grid)
    np.testing.assert_array_equal(placed.array, whole)
    assert placed.same_grid(grid)


def test_labels_off_the_grid_or_outside_of_it_are_refused(tmp_path):
    grid = Volume(np.zeros((3, 4, 5), np.uint8), np.diag((2.0, 2, 2, 1)))
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1, 4] = 1
    for shift, spacing, message in (
        ((1.0, 0, 0), 2.0, "not on the grid"),
        ((0.0, 0, 0.6), 2.0, "not on the grid"),
        ((0.0, 0, 0), 1.0, "not on the grid"),
        ((2.0, 0, 0), 2.0, "not on the grid.*1 labelled voxels lie outside"),
    ):
        matrix = np.diag((spacing, spacing, spacing, 1))
        matrix[:3, 3] = shift
        write_labelmap(tmp_path / "a.nrrd", Volume(labels, matrix))
        with pytest.raises(GeometryError, match=message):
            read_labelmap(tmp_path / "a.nrrd", grid=grid)
    matrix = np.diag((2.0, 2, 2, 1))
    matrix[0, 3] = -4  # nothing is painted in what sticks out
    write_labelmap(tmp_path / "a.nrrd", Volume(labels, matrix))
    assert np.argwhere(read_labelmap(tmp_path / "a.nrrd", grid=grid).array).tolist() == [[1, 1, 2]]


def test_strokes_of_slicer_fit_a_nifti_that_it_straightened(tmp_path):
    matrix = OBLIQUE.copy()
    matrix[0, 2] = 3 * 4e-4  # a shear that is kept here
    grid = Volume(np.zeros((2, 400, 400), np.uint8), matrix)
    straight = matrix.copy()
    straight[0, 2] = 0
    path = a_file(tmp_path / "strokes.nrrd", labels := np.ones((2, 400, 400), np.uint8))
    assert grid.is_sheared
    np.testing.assert_array_equal(read_labelmap(path, grid=grid).array, labels)


def test_labels_without_any_voxel_lie_on_every_grid_and_pictures_have_none(tmp_path):
    grid = Volume(np.zeros((1, 4, 5), np.uint8), OBLIQUE)
    write_labelmap(
        tmp_path / "a.seg.nrrd", LabelVolume(np.zeros((1, 1, 1), np.uint8), np.eye(4), (Segment(1, "L", (1, 0, 0)),))
    )
    empty = read_labelmap(tmp_path / "a.seg.nrrd", grid=grid)
    assert (empty.shape, empty.labels_present(), empty.segments[0].name) == ((1, 4, 5), (), "L")
    mask = np.zeros((1, 4, 5), np.uint8)
    mask[0, 1, 2] = 1
    write_labelmap(tmp_path / "a.png", Volume(mask, np.eye(4)))
    placed = read_labelmap(tmp_path / "a.png", grid=grid)
    np.testing.assert_array_equal(placed.array, mask)
    np.testing.assert_array_equal(placed.ijk_to_ras, OBLIQUE)
    for size in ((1, 5, 5), (1, 8, 10)):
        with pytest.raises(GeometryError, match=r"has shape \(1, 4, 5\)"):
            read_labelmap(tmp_path / "a.png", grid=Volume(np.zeros(size), np.eye(4)))


# --- Resources -------------------------------------------------------------------------------------------------------

PEAK = """
import re, sys
import numpy as np
from scribblesegment.data.volume import Volume
from scribblesegment.io import read_volume, write_labelmap
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("extension", ["nrrd", "nii", "nii.gz", "mha"])
def test_reading_a_large_volume_holds_one_copy_of_it(tmp_path, extension, compress):
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(sitk.Image((512, 512, 200), sitk.sitkInt16), str(path), useCompression=compress)
    program = "before = peak(); volume = read_volume(sys.argv[1]); print((peak() - before) / volume.array.nbytes)"
    assert float(run_python(PEAK + program, path)) < 1.3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd", "a.nii.gz"])
def test_writing_a_large_mask_takes_little_memory(tmp_path, name):
    program = """
mask = np.zeros((400, 512, 512), np.uint8)
mask[200] = 1
before = peak()
write_labelmap(sys.argv[1], Volume(mask, np.eye(4)))
print((peak() - before) / mask.nbytes)
"""
    assert float(run_python(PEAK + program, tmp_path / name)) < 0.5  # a copy of the mask would make it 1
