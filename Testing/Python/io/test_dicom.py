"""DICOM series and multi-frame images, as scanners and archives write them, and segmentations of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from command_line import error_of, paint, run
from dicom_files import (
    AXIAL,
    CORONAL,
    DOSE,
    ENHANCED_CT,
    ENHANCED_MR,
    NUCLEAR,
    SPACING,
    ULTRASOUND,
    a_series,
    a_slice,
    expected_matrix,
    some_voxels,
    write,
)
from pydicom.dataset import Dataset
from slice_predictors import Brightness

from scribblesegment import LabelVolume, Segment, Volume, write_labelmap
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import list_series, read_labelmap, read_volume, write_dicom_segmentation

# --- Series ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "axes"),
    [
        ((0.0, 0.0, 3.0), AXIAL),
        ((0.0, 2.5, 0.0), CORONAL),
        ((0.0, 0.6, 3.0), AXIAL),  # tilted gantry
    ],
)
def test_a_series_is_read_in_the_order_and_at_the_place_of_its_slices(tmp_path, step, axes):
    volume = read_volume(a_series(tmp_path / "Jörg 医学", some_voxels(), step, axes))
    np.testing.assert_array_equal(volume.array, some_voxels())
    np.testing.assert_allclose(volume.ijk_to_ras, expected_matrix(step, axes), atol=1e-5)
    assert volume.is_sheared == (step[1] == 0.6)


@pytest.mark.parametrize(("slope", "intercept"), [("0.37", "0"), ("1", "-1024")])
def test_slices_may_be_rescaled_each_in_its_own_way(tmp_path, slope, intercept):
    a_series(tmp_path, some_voxels(), RescaleSlope="1", RescaleIntercept="0")
    position = (10.0, 20.0, 30.0 + 3.0 * len(some_voxels()))
    a_slice(tmp_path / "last", some_voxels()[0], position, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = np.concatenate([some_voxels(), some_voxels()[:1] * float(slope) + float(intercept)])
    np.testing.assert_allclose(read_volume(tmp_path).array, expected, rtol=1e-6)


def test_slices_without_positions_come_in_the_order_of_their_numbers(tmp_path):
    volume = read_volume(a_series(tmp_path, some_voxels(3), ImageOrientationPatient=None))
    np.testing.assert_array_equal(volume.array, some_voxels(3))


@pytest.mark.parametrize("name", ["slice.dcm", "IM0001"])
def test_a_single_file_is_one_slice_whatever_its_name(tmp_path, name):
    fields = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    volume = read_volume(a_slice(tmp_path / name, some_voxels()[0], (1.0, 2.0, 3.0), **fields))
    np.testing.assert_array_equal(volume.array[0], some_voxels()[0] * 2.0 - 1024)
    np.testing.assert_allclose(volume.origin_ras, (-1, -2, 3))
    assert volume.slice("k", 0).spacing_mm == SPACING


def test_several_series_are_listed_and_one_is_chosen_by_number_or_uid(tmp_path):
    thorax = {"SeriesInstanceUID": "1.2.3.1", "SeriesDescription": "Thorax", "SeriesNumber": 12}
    scout = {"SeriesInstanceUID": "1.2.3.2", "SeriesDescription": "", "SeriesNumber": 2}
    a_series(tmp_path, some_voxels(3), **thorax)
    a_series(tmp_path, some_voxels(2) + 1, **scout)
    listed = r"2 DICOM series: 2: without description \(CT, 8 x 6 x 2\), 1\.2\.3\.2; 12: Thorax \(CT, 8 x 6 x 3\), 1"
    with pytest.raises(FileFormatError, match=listed + r".*--series"):
        read_volume(tmp_path)
    for choice in ({"series": 2}, {"series": "2"}, {"series": "1.2.3.2"}):
        np.testing.assert_array_equal(read_volume(tmp_path, **choice).array, some_voxels(2) + 1)
    with pytest.raises(FileFormatError, match=r"No series 9.*Thorax"):
        read_volume(tmp_path, series=9)
    first, second = list_series(tmp_path)
    assert (first.number, first.description, first.size, first.files) == (2, "", (8, 6, 2), 2)
    assert (second.uid, second.modality, second.description) == ("1.2.3.1", "CT", "Thorax")
    a_series(tmp_path, some_voxels(1), SeriesInstanceUID="1.2.3.3", SeriesNumber=2)
    with pytest.raises(FileFormatError, match=r"2 series in .* have the number 2.*UID"):
        read_volume(tmp_path, series=2)


def test_a_folder_without_dicom_is_refused(tmp_path):
    for read in (read_volume, read_labelmap, list_series):
        with pytest.raises(FileFormatError, match="No DICOM series"):
            read(tmp_path)
        (tmp_path / "notes.txt").write_text("nothing")


def test_missing_repeated_and_turned_slices_are_noticed(tmp_path):
    a_series(tmp_path / "gap", some_voxels(6))
    (tmp_path / "gap" / "a_96.dcm").unlink()
    a_series(tmp_path / "twice", some_voxels(3))
    a_slice(tmp_path / "twice" / "again.dcm", some_voxels()[0], (10.0, 20.0, 33.0), InstanceNumber=9)
    a_series(tmp_path / "turned", some_voxels(2))
    a_slice(tmp_path / "turned" / "other.dcm", some_voxels()[0], (10.0, 20.0, 36.0), CORONAL)
    a_series(tmp_path / "zoomed", some_voxels(2))
    a_slice(tmp_path / "zoomed" / "other.dcm", some_voxels()[0], (10.0, 20.0, 36.0), PixelSpacing=[1.4, 1.8])
    a_series(tmp_path / "close", some_voxels(3))
    a_slice(tmp_path / "close" / "other.dcm", some_voxels()[0], (10.0, 20.0, 37.0))
    for name, error, message in (
        ("gap", GeometryError, r"mostly 3\.000 mm apart, but 6\.000 mm after slice 3"),
        ("twice", ImageError, r"2 slices at the position \[10.0, 20.0, 33.0\]"),
        ("turned", GeometryError, "not parallel"),
        ("zoomed", GeometryError, "several pixel spacings"),
        ("close", GeometryError, r"mostly 3\.000 mm apart, but 1\.000 mm after slice 3"),
    ):
        with pytest.raises(error, match=message):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1], ["nan", 1], ["1e-30", 1], ["1e30", 1]])
def test_an_impossible_pixel_spacing_is_refused(tmp_path, spacing):
    for name in ("a", "b"):
        a_slice(tmp_path / name, some_voxels()[0], (1.0, 2.0, 3.0 + (name == "b")), PixelSpacing=spacing)
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(GeometryError, match=r"pixel spacing|not possible"):
            read_volume(path)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_truncated_slice_is_refused(tmp_path, fraction):
    path = a_slice(tmp_path / "slice.dcm", some_voxels()[0], (1.0, 2.0, 3.0))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(FileFormatError, match="again"):
        read_volume(path)


@pytest.mark.parametrize("number", [99, 97, 95])
@pytest.mark.parametrize("cut", [-20, 500])
def test_a_truncated_slice_among_good_ones_is_named(tmp_path, number, cut):
    path = a_series(tmp_path, some_voxels(5)) / f"a_{number}.dcm"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=path.name):
        read_volume(tmp_path)


def test_files_of_another_kind_do_no_harm_and_slices_of_another_size_are_refused(tmp_path):
    a_series(tmp_path, some_voxels(3))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10")
    (tmp_path / "report").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "readme.txt").write_text("hello")
    assert read_volume(tmp_path).shape == (3, 6, 8)
    a_slice(tmp_path / "odd.dcm", np.zeros((9, 9), np.int16), (10.0, 20.0, 39.0), InstanceNumber=4)
    with pytest.raises(FileFormatError, match="again"):
        read_volume(tmp_path)


# --- Many frames in a file -------------------------------------------------------------------------------------------


def an_item(**fields: Any) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item


def a_multiframe(
    path: Path, voxels, positions, kind=ENHANCED_CT, scales=None, axes=AXIAL, turned=None, spacing=SPACING
) -> Path:
    """Write the frames as they come, with a functional group each."""
    volume = "Volume" if kind == ULTRASOUND else ""
    place, direction = f"ImagePosition{volume or 'Patient'}", f"ImageOrientation{volume or 'Patient'}"
    frames = []
    for number, position in enumerate(positions):
        frame = an_item(**{f"PlanePosition{volume}Sequence": [an_item(**{place: list(map(float, position))})]})
        if scales is not None:
            slope, intercept = scales[number]
            item = an_item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
            frame.PixelValueTransformationSequence = [item]
        if turned == number:
            frame.PlaneOrientationSequence = [an_item(ImageOrientationPatient=[*CORONAL[0], *CORONAL[1]])]
        frames.append(frame)
    shared = an_item(PixelMeasuresSequence=[an_item(PixelSpacing=list(spacing), SliceThickness=1)])
    setattr(shared, f"PlaneOrientation{volume}Sequence", [an_item(**{direction: [*axes[0], *axes[1]]})])
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    return write(path, voxels, kind, NumberOfFrames=len(voxels), **groups)


ORDER = [2, 0, 3, 1, 4]


@pytest.mark.parametrize("kind", [ENHANCED_CT, ENHANCED_MR, ULTRASOUND])
@pytest.mark.parametrize(("step", "axes"), [((0.0, 0.0, 5.0), AXIAL), ((0.0, 2.5, 0.0), CORONAL), ((0, 0.6, 3), AXIAL)])
@pytest.mark.parametrize("scaled", ["not", "alike", "each"])
def test_frames_are_sorted_placed_and_rescaled_by_their_functional_groups(tmp_path, kind, step, axes, scaled):
    positions = [np.array((10.0, 20.0, 30.0)) + k * np.asarray(step) for k in range(5)]
    scales = {"not": [(1, 0)] * 5, "alike": [(2, -1000)] * 5, "each": [(1, -1024), (2, 0), (0.5, 10), (1, 3), (3, 1)]}
    chosen = scales[scaled]
    a_multiframe(
        tmp_path / "a.dcm",
        some_voxels()[ORDER],
        [positions[k] for k in ORDER],
        kind,
        None if scaled == "not" else [chosen[k] for k in ORDER],
        axes,
    )
    for path in (tmp_path / "a.dcm", tmp_path):
        volume = read_volume(path)
        expected = np.stack([plane * slope + add for plane, (slope, add) in zip(some_voxels(), chosen, strict=True)])
        np.testing.assert_allclose(volume.array, expected, atol=1e-3)
        np.testing.assert_allclose(volume.ijk_to_ras, expected_matrix(step, axes), atol=1e-5)
    assert list_series(tmp_path)[0].size == (8, 6, 5)


@pytest.mark.parametrize(
    ("heights", "options", "error", "message"),
    [
        ((0, 1, 2, 4, 5), {}, GeometryError, r"frames .* not evenly spaced: mostly 1\.000 mm apart, but 2\.000 mm"),
        ((0, 1, 1, 2, 3), {}, ImageError, r"2 frames at the position \[0\.0, 0\.0, 1\.0\]"),
        ((0, 1, 2, 3, 4), {"turned": 2}, GeometryError, "frames .* not parallel"),
        ((0, 1, 2, 3, 4), {"spacing": (0, 1)}, GeometryError, "pixel spacing"),
    ],
)
def test_frames_that_form_no_volume_are_refused(tmp_path, heights, options, error, message):
    path = a_multiframe(tmp_path / "a.dcm", some_voxels(), [(0, 0, height) for height in heights], **options)
    with pytest.raises(error, match=message):
        read_volume(path)


def test_a_dose_is_placed_by_its_offsets_and_a_gap_in_it_is_noticed(tmp_path):
    place = {"ImagePositionPatient": [10, 20, 30], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "NumberOfFrames": 3}
    place |= {"PixelSpacing": list(SPACING), "DoseGridScaling": 1, "Modality": "RTDOSE"}
    for offsets in ([0, 2.5, 5], [30, 32.5, 35]):
        volume = read_volume(
            write(tmp_path / "a.dcm", abs(some_voxels(3)), DOSE, GridFrameOffsetVector=offsets, **place)
        )
        np.testing.assert_array_equal(volume.array, abs(some_voxels(3)))
        np.testing.assert_allclose(volume.ijk_to_ras, expected_matrix((0, 0, 2.5)), atol=1e-5)
    with pytest.raises(GeometryError, match="not evenly spaced"):
        read_volume(write(tmp_path / "a.dcm", some_voxels(3), DOSE, GridFrameOffsetVector=[0, 2.5, 7.5], **place))


def test_slices_of_nuclear_medicine_are_sorted_by_their_numbers(tmp_path):
    detector = an_item(ImagePositionPatient=[10, 20, 36], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    fields = {"NumberOfFrames": 3, "PixelSpacing": list(SPACING), "SpacingBetweenSlices": 3, "SliceVector": [3, 1, 2]}
    fields |= {"DetectorInformationSequence": [detector], "Modality": "NM"}
    volume = read_volume(write(tmp_path / "a.dcm", some_voxels(3), NUCLEAR, **fields))
    np.testing.assert_array_equal(volume.array, some_voxels(3)[[1, 2, 0]])
    np.testing.assert_allclose(volume.ijk_to_ras, expected_matrix((0, 0, 3)), atol=1e-5)
    fields["SliceVector"] = [1, 2, 2]
    with pytest.raises(ImageError, match="2 frames at the position"):
        read_volume(write(tmp_path / "a.dcm", some_voxels(3), NUCLEAR, **fields))


def test_frames_without_any_place_come_as_they_are_and_several_such_files_are_refused(tmp_path):
    volume = read_volume(write(tmp_path / "a.dcm", some_voxels(3), "7.3", NumberOfFrames=3))
    np.testing.assert_array_equal(volume.array, some_voxels(3))
    write(tmp_path / "b.dcm", some_voxels(3), "7.3", NumberOfFrames=3)
    with pytest.raises(ImageError, match="2 files, some with several frames"):
        read_volume(tmp_path)


# Segmentations, read back as other programs read them ---------------------------------------------------------------


PATIENT = {"PatientID": "P1", "FrameOfReferenceUID": "1.2.3.9", "PatientName": "A^B"}
LABELS = np.zeros((5, 6, 8), np.uint8)
LABELS[1:3, 2:4, 3:6], LABELS[4, 0, 0] = 3, 7
NAMES = (Segment(3, "Liver", (0.8, 0.5, 0.4)), Segment(5, "Empty", (0, 0, 0)), Segment(7, "Spleen", (0, 0, 1)))


@pytest.fixture
def series(tmp_path):
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    return a_series(tmp_path / "series", some_voxels(), **PATIENT)


def read_back(path):
    """Names by number, and the labels with the slices in the order of their places."""
    import highdicom

    found = highdicom.seg.segread(path)
    volume = found.get_volume(combine_segments=True)
    array = volume.array if volume.get_affine("RAS")[2, 0] > 0 else volume.array[::-1]
    whole = np.zeros(LABELS.shape, int)
    frames = found.PerFrameFunctionalGroupsSequence
    first = round((min(frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames) - 30) / 3)
    whole[first : first + len(array)] = array
    names = {number: found.get_segment_description(number).segment_label for number in found.segment_numbers}
    return found, names, whole


def test_labels_of_a_series_come_back_with_names_patient_and_study(series, tmp_path):
    volume = read_volume(series)
    write_dicom_segmentation(tmp_path / "r.dcm", LabelVolume(LABELS, volume.ijk_to_ras, NAMES), series)
    found, names, labels = read_back(tmp_path / "r.dcm")
    assert names == {1: "Liver", 2: "Spleen"}
    assert np.array_equal(labels, (LABELS == 3) + 2 * (LABELS == 7))
    assert (found.PatientID, found.StudyInstanceUID, found.Modality) == ("P1", "1.2.3", "SEG")
    with pytest.raises(FileFormatError, match="DICOM segmentation, which is not read as labels"):
        read_labelmap(tmp_path / "r.dcm")
    with pytest.raises(FileFormatError, match="holds no image"):
        read_volume((tmp_path / "r.dcm").rename(series / "r.dcm"))
    assert np.array_equal(read_volume(series).array, volume.array)


@pytest.mark.parametrize("written_in", [None, "ISO_IR 100", ["", "ISO 2022 IR 87"], "ISO_IR 192"])
def test_names_in_any_script_are_kept(series, tmp_path, written_in):
    for file in series.iterdir():
        data = pydicom.dcmread(file)
        data.SpecificCharacterSet = written_in
        data.save_as(file)
    names = (Segment(3, "\u809d\u81d3", (1, 0, 0)), Segment(7, "a\\b", (0, 1, 0)))
    labels = LabelVolume(LABELS, read_volume(series).ijk_to_ras, names)
    write_dicom_segmentation(tmp_path / "r.dcm", labels, series)
    found, names, _ = read_back(tmp_path / "r.dcm")
    assert (names, str(found.PatientName)) == ({1: "\u809d\u81d3", 2: "a/b"}, "A^B")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda labels, folder: (folder / "r.nrrd", labels, folder / "series"), FileFormatError, "must end in .dcm"),
        (lambda labels, folder: (folder / "r.dcm", labels, folder / "strokes.nrrd"), FileFormatError, "is none"),
        (lambda labels, folder: (folder / "r.dcm", labels.with_array(0 * LABELS), folder / "series"), ImageError, "No"),
        (lambda labels, folder: (folder / "r.dcm", LabelVolume(LABELS[1:], np.eye(4)), folder / "series"),
         GeometryError, "shape"),
        (lambda labels, folder: (folder / "r.dcm", labels, folder / "bare"), FileFormatError, "headers lack"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_dicom_segmentation_is_refused(series, tmp_path, change, error, words):
    a_series(tmp_path / "bare", some_voxels())
    paint(tmp_path / "strokes.nrrd", [], shape=LABELS.shape)
    labels = LabelVolume(LABELS, read_volume(series).ijk_to_ras, NAMES)
    path, volume, source = change(labels, tmp_path)
    with pytest.raises(error, match=words):
        write_dicom_segmentation(path, volume, source)
    assert not path.exists()


def test_a_command_writes_one_for_dicom_images_only(series, tmp_path, capsys):
    network = Brightness()
    network.see = lambda prompts: np.where(prompts.scribbles[0] > 0, 4.0, -4.0)
    write_labelmap(tmp_path / "strokes.nrrd", Volume(LABELS, read_volume(series).ijk_to_ras))
    options = ("--scribbles", tmp_path / "strokes.nrrd", "-o", tmp_path / "r.dcm")
    assert run("segment", series, *options, load=lambda *names, **more: network) == 0
    assert np.array_equal(read_back(tmp_path / "r.dcm")[2], (LABELS == 3) + 2 * (LABELS == 7))
    assert run("segment", tmp_path / "strokes.nrrd", "--click", "1,1,1,+", "-o", tmp_path / "r.dcm") == 2
    assert "refers to DICOM images" in error_of(capsys)
