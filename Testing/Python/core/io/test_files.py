from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scribblesegment import io
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import read_labelmap, read_volume, write_labelmap

VOLUME_FORMATS = ("nrrd", "nhdr", "nii", "nii.gz", "mha", "mhd")
LABEL_FORMATS = ("nrrd", "nii", "nii.gz", "mha", "seg.nrrd")
OBLIQUE = np.array([[-0.4, 0.3, 0.0, 12.5], [0.3, 0.4, 0.0, -7.25], [0.0, 0.0, 3.0, 100.0], [0.0, 0.0, 0.0, 1.0]])
SHEARED = np.array([[1.0, 0.3, 0.0, 1.0], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 0.0, 1.0]])


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))).as_matrix()
    flips = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 20)] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * flips * spacing
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return matrix


def some_voxels(shape=(4, 5, 6), dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def an_image(array: np.ndarray, matrix: np.ndarray = OBLIQUE, vector: bool = False) -> sitk.Image:
    """Build with SimpleITK alone, so that the code under test does not check itself."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    lps = np.diag((-1.0, -1, 1, 1)) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


def a_file(folder: Path, extension: str, array: np.ndarray | None = None, compress: bool = True) -> Path:
    path = folder / f"image.{extension}"
    sitk.WriteImage(an_image(some_voxels() if array is None else array), str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("extension", VOLUME_FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_geometry_arrive_from_every_volume_format(tmp_path, extension, dtype):
    voxels = some_voxels(dtype=dtype)
    volume = read_volume(a_file(tmp_path, extension, voxels))
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.ijk_to_ras, OBLIQUE, atol=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("extension", VOLUME_FORMATS)
@given(matrix=matrices())
def test_oblique_flipped_anisotropic_grids_are_read_as_written_by_simpleitk(tmp_path, extension, matrix):
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(an_image(np.zeros((2, 3, 4), np.uint8), matrix), str(path))
    expected = Volume(np.zeros((2, 3, 4)), matrix)
    volume = read_volume(path)
    assert expected.same_grid(volume, 1e-3)
    for axis in range(3):
        np.testing.assert_allclose(volume.slice(axis, 0).spacing_mm, expected.slice(axis, 0).spacing_mm, rtol=1e-4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("extension", LABEL_FORMATS)
@given(matrix=matrices())
def test_written_labels_lie_where_they_were_for_us_and_for_simpleitk(tmp_path, extension, matrix):
    path = tmp_path / f"labels.{extension}"
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


@pytest.mark.parametrize("extension", ["nrrd", "mha", "seg.nrrd"])
def test_shear_survives_where_the_format_holds_it(tmp_path, extension):
    path = tmp_path / f"labels.{extension}"
    write_labelmap(path, Volume(np.ones((2, 3, 4), np.uint8), SHEARED))
    np.testing.assert_allclose(read_labelmap(path).ijk_to_ras, SHEARED, atol=1e-9)


@pytest.mark.parametrize("extension", ["nii", "nii.gz", "png", "tif"])
def test_shear_is_refused_where_the_format_would_lose_it(tmp_path, extension):
    with pytest.raises(GeometryError, match=r"right angles.*\.nrrd"):
        write_labelmap(tmp_path / f"labels.{extension}", Volume(np.ones((1, 3, 4), np.uint8), SHEARED))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "tif", "tiff"])
def test_a_grey_picture_is_one_slice(tmp_path, extension):
    picture = np.full((5, 7), 90, np.uint8)
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(path))
    volume = read_volume(path)
    assert volume.shape == (1, 5, 7)
    np.testing.assert_allclose(volume.array[0], picture, atol=1)
    assert volume.slice("k", 0).spacing_mm[0] == volume.slice("k", 0).spacing_mm[1]


@pytest.mark.parametrize("extension", ["png", "tif", "nrrd", "mha", "nii.gz"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_become_luminance_and_transparency_is_ignored(tmp_path, extension, channels):
    colors = np.random.default_rng(1).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(path))
    if extension == "nii.gz":
        retag_as_color(path, channels)
    volume = read_volume(path)
    assert volume.array.dtype == np.uint8
    np.testing.assert_allclose(volume.array[0], colors[..., :3] @ (0.299, 0.587, 0.114), atol=0.501)


def retag_as_color(path: Path, channels: int) -> None:
    """Make the vector image that SimpleITK wrote the RGB or RGBA image that other programs write."""
    import gzip

    data = bytearray(gzip.decompress(path.read_bytes()))
    shape = np.frombuffer(bytes(data[42:56]), "<i2")
    width, height = int(shape[0]), int(shape[1])
    planes = np.frombuffer(bytes(data[352:]), np.uint8).reshape(channels, height, width)
    data[40:56] = np.array([3, width, height, 1, 1, 1, 1, 1], "<i2").tobytes()
    data[70:74] = np.array([128 if channels == 3 else 2304, 8 * channels], "<i2").tobytes()
    data[68:70] = bytes(2)  # no longer a vector by intent
    path.write_bytes(gzip.compress(bytes(data[:352]) + np.moveaxis(planes, 0, -1).tobytes()))


def test_a_colour_jpeg_becomes_luminance(tmp_path):
    path = tmp_path / "image.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((8, 8, 3), (200, 100, 50), np.uint8), isVector=True), str(path))
    np.testing.assert_allclose(read_volume(path).array, 200 * 0.299 + 100 * 0.587 + 50 * 0.114, atol=3)


def test_a_vector_field_is_refused(tmp_path):
    path = tmp_path / "field.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.float32), isVector=True), str(path))
    with pytest.raises(ImageError, match="3 components of type float32"):
        read_volume(path)


@pytest.mark.parametrize("extension", ["nrrd", "nii", "nii.gz", "mha"])
def test_a_time_series_is_refused_and_a_single_time_point_read(tmp_path, extension):
    series = sitk.JoinSeries([an_image(some_voxels())] * 2)
    path = tmp_path / f"series.{extension}"
    sitk.WriteImage(series, str(path))
    with pytest.raises(ImageError, match="4 dimensions"):
        read_volume(path)
    sitk.WriteImage(sitk.JoinSeries([an_image(some_voxels())]), str(path))
    np.testing.assert_array_equal(read_volume(path).array, some_voxels())
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("extension", ["nrrd", "nii", "nii.gz", "mha", "png", "jpg", "tif"])
def test_a_truncated_file_is_refused(tmp_path, extension, compress, fraction):
    voxels = some_voxels((1, 64, 80) if extension in ("png", "jpg", "tif") else (8, 32, 40), np.uint8)
    image = an_image(voxels)
    path = tmp_path / f"image.{extension}"
    sitk.WriteImage(image[:, :, 0] if len(voxels) == 1 else image, str(path), useCompression=compress)
    assert read_volume(path).shape == voxels.shape
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
    path = a_file(tmp_path, extension, compress=compress)
    (data,) = (other for other in tmp_path.iterdir() if other != path)
    data.write_bytes(data.read_bytes()[:-30])
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_volume(path)
    data.unlink()
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_volume(path)


@pytest.mark.parametrize("extension", [*io.READ_EXTENSIONS])
def test_files_without_content_or_of_other_content_are_refused(tmp_path, extension):
    path = tmp_path / f"image{extension}"
    path.write_bytes(b"")
    with pytest.raises(FileFormatError, match="no content"):
        read_volume(path)
    path.write_bytes(b"This is a text, not an image.\n" * 40)
    with pytest.raises(FileFormatError, match=re.escape(str(path))):
        read_volume(path)


def test_an_unknown_extension_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "image.xyz"
    path.write_text("x")
    with pytest.raises(FileFormatError, match=r"unknown extension.*\.nrrd.*\.nii\.gz.*\.mha.*\.png"):
        read_volume(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        read_volume(tmp_path / "absent.nrrd")


def test_an_extension_in_capitals_is_known(tmp_path):
    a_file(tmp_path, "nii.gz").rename(tmp_path / "IMAGE.NII.GZ")
    assert read_volume(tmp_path / "IMAGE.NII.GZ").shape == (4, 5, 6)


@pytest.mark.parametrize("extension", ["nrrd", "nii.gz", "mha", "png", "seg.nrrd"])
def test_names_outside_ascii_work(tmp_path, extension):
    folder = tmp_path / "Jörg 医学"
    folder.mkdir()
    labels = Volume(np.ones((1, 3, 4), np.uint8), np.diag((-1.0, -1, 1, 1)))
    write_labelmap(folder / f"größe 肝.{extension}", labels)
    np.testing.assert_array_equal(read_labelmap(str(folder / f"größe 肝.{extension}")).array, labels.array)


@pytest.mark.parametrize("extension", [*LABEL_FORMATS, "png", "tif"])
def test_masks_are_stored_as_uint8(tmp_path, extension):
    mask = np.zeros((1, 5, 6), bool)
    mask[0, 2:4, 3] = True
    path = tmp_path / f"mask.{extension}"
    write_labelmap(path, Volume(mask, np.diag((-0.5, -0.5, 2, 1))))
    back = read_labelmap(path)
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, mask)
    np.testing.assert_allclose(back.slice("k", 0).spacing_mm, (0.5, 0.5), rtol=1e-6)


@pytest.mark.parametrize("extension", [*LABEL_FORMATS, "png", "tif"])
def test_labels_beyond_255_keep_their_numbers(tmp_path, extension):
    labels = np.array([[[0, 1, 1000]]], np.int64)
    path = tmp_path / f"labels.{extension}"
    write_labelmap(path, Volume(labels, np.eye(4)))
    back = read_labelmap(path)
    assert back.array.dtype == np.uint16
    np.testing.assert_array_equal(back.array, labels)


@pytest.mark.parametrize("extension", ["nrrd", "nii.gz", "mha"])
def test_labels_beyond_65535_keep_their_numbers(tmp_path, extension):
    labels = np.array([[[0, 70000]]])
    write_labelmap(tmp_path / f"labels.{extension}", Volume(labels, np.eye(4)))
    np.testing.assert_array_equal(read_labelmap(tmp_path / f"labels.{extension}").array, labels)


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        ("a.nrrd", np.zeros((1, 2, 2)), "whole numbers"),
        ("a.nrrd", np.full((1, 2, 2), -1), "from -1"),
        ("a.nrrd", np.full((1, 2, 2), 2**32), "cannot be stored"),
        ("a.png", np.zeros((2, 2, 2), np.uint8), "one slice"),
        ("a.tif", np.full((1, 2, 2), 70000), "70000"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused(tmp_path, name, array, complaint):
    with pytest.raises(ImageError, match=complaint):
        write_labelmap(tmp_path / name, Volume(array, np.eye(4)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.jpg", "a.mhd", "a.nhdr", "a", "a.txt"])
def test_formats_that_lose_labels_or_need_two_files_are_not_written(tmp_path, name):
    with pytest.raises(FileFormatError, match=r"choose one of the extensions \.seg\.nrrd"):
        write_labelmap(tmp_path / name, Volume(np.ones((1, 2, 2), bool), np.eye(4)))


def test_label_maps_stored_as_floating_point_are_read(tmp_path):
    path = a_file(tmp_path, "nii.gz", (some_voxels() % 4).astype(np.float32))
    back = read_labelmap(path)
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, some_voxels() % 4)


@pytest.mark.parametrize("value", [0.5, np.nan, -1.0, 1e12])
def test_images_that_are_no_label_map_are_refused(tmp_path, value):
    voxels = np.zeros((2, 3, 4), np.float32)
    voxels[1, 1, 1] = value
    with pytest.raises(ImageError):
        read_labelmap(a_file(tmp_path, "nrrd", voxels))


def test_negative_labels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="from -1"):
        read_labelmap(a_file(tmp_path, "nrrd", np.full((2, 3, 4), -1, np.int16)))


def test_a_grey_mask_saved_in_colour_is_read_and_a_coloured_one_refused(tmp_path):
    grey = np.zeros((4, 5, 3), np.uint8)
    grey[1, 2] = 255
    path = tmp_path / "mask.png"
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(path))
    np.testing.assert_array_equal(read_labelmap(path).array[0], grey[..., 0])
    grey[1, 2] = (255, 0, 0)
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(path))
    with pytest.raises(ImageError, match="one number"):
        read_labelmap(path)


def test_a_jpeg_is_no_label_map(tmp_path):
    path = tmp_path / "mask.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8), np.uint8)), str(path))
    with pytest.raises(FileFormatError, match=r"\.png"):
        read_labelmap(path)


@pytest.mark.parametrize("extension", [*LABEL_FORMATS, "png", "tif"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, extension, monkeypatch):
    path = tmp_path / f"labels.{extension}"
    old = Volume(np.ones((1, 3, 4), np.uint8), np.eye(4))
    write_labelmap(path, old)
    before = path.read_bytes()

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileFormatError, match="Permission denied"):
        write_labelmap(path, old.with_array(np.zeros((1, 3, 4), np.uint8)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to imitate a full disk")
@pytest.mark.parametrize("extension", [*LABEL_FORMATS, "png", "tif"])
def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path, extension):
    path = tmp_path / f"labels.{extension}"
    path.write_bytes(b"old")
    program = """
import resource, signal, sys
import numpy as np
from scribblesegment.errors import FileFormatError
from scribblesegment.io import write_labelmap
from scribblesegment.data.volume import Volume
labels = np.random.default_rng(0).integers(0, 200, (1, 400, 400)).astype(np.uint8)  # noise: hardly compressible
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_labelmap(sys.argv[1], Volume(labels, np.eye(4)))
except FileFormatError as error:
    print("refused:", error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.stdout.startswith("refused: Cannot write"), result.stdout + result.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", LABEL_FORMATS)
def test_a_missing_folder_is_refused(tmp_path, extension):
    with pytest.raises(FileFormatError, match="does not exist"):
        write_labelmap(tmp_path / "absent" / f"a.{extension}", Volume(np.ones((1, 2, 2), bool), np.eye(4)))


def test_a_label_volume_keeps_its_names_in_a_seg_nrrd_and_other_labels_get_default_ones(tmp_path):
    path = tmp_path / "labels.seg.nrrd"
    liver = Segment(2, "Leber", (0.5, 0.25, 0.0))
    write_labelmap(path, LabelVolume(np.array([[[0, 2, 7]]]), np.eye(4), (liver,)))
    back = read_labelmap(path)
    assert back.segments[0] == liver
    assert (back.segments[1].label, back.segments[1].name) == (7, "Segment_7")


def test_a_series_id_for_a_file_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="series_id"):
        read_volume(a_file(tmp_path, "nrrd"), series_id="1.2.3")


def test_importing_the_readers_loads_neither_torch_nor_vtk():
    program = (
        "import sys, scribblesegment.io, scribblesegment.data.prompts; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'vtk', 'slicer')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("name", ["image.nrrd", "image.nii", "image.nii.gz", "image.mha"])
def test_reading_a_large_volume_holds_one_copy_of_it(tmp_path, name):
    shape = (200, 512, 512)
    path = tmp_path / name
    sitk.WriteImage(sitk.Image(shape[::-1], sitk.sitkInt16), str(path), useCompression=name.endswith("gz"))
    program = """
import re, sys
import numpy as np
from scribblesegment.io import read_volume
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
volume = read_volume(sys.argv[1])
print((peak() - before) / volume.array.nbytes)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, env=environment, check=True
    )
    assert float(result.stdout) < 1.3
