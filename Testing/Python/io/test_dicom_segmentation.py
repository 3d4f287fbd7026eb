"""DICOM segmentations of series and multi-frame images, read back as other programs read them."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import error_of, paint, run
from dicom_files import a_series, some_voxels

from scribblesegment import LabelVolume, Segment, Volume, read_volume, write_labelmap
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import write_dicom_segmentation

highdicom = pytest.importorskip("highdicom", reason="needs the extra dicom")

PATIENT = {"PatientID": "P1", "FrameOfReferenceUID": "1.2.3.9", "PatientName": "A^B"}
LABELS = np.zeros((5, 6, 8), np.uint8)
LABELS[1:3, 2:4, 3:6], LABELS[4, 0, 0] = 3, 7
NAMES = (Segment(3, "Liver", (0.8, 0.5, 0.4)), Segment(5, "Empty", (0, 0, 0)), Segment(7, "Spleen", (0, 0, 1)))


@pytest.fixture
def series(tmp_path):
    return a_series(tmp_path / "series", some_voxels(), **PATIENT)


def read_back(path):
    """Names by number, and the labels with the slices in the order of their places."""
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
    from types import SimpleNamespace

    class Network:
        def set_image(self, image, **options): ...

        def predict(self, prompts):
            return SimpleNamespace(logits=np.where(prompts.scribbles[0] > 0, 4.0, -4.0).astype(np.float32))

    write_labelmap(tmp_path / "strokes.nrrd", Volume(LABELS, read_volume(series).ijk_to_ras))
    options = ("--scribbles", tmp_path / "strokes.nrrd", "-o", tmp_path / "r.dcm")
    assert run("segment", series, *options, load=lambda *names, **more: Network()) == 0
    assert np.array_equal(read_back(tmp_path / "r.dcm")[2], (LABELS == 3) + 2 * (LABELS == 7))
    assert run("segment", tmp_path / "strokes.nrrd", "--click", "1,1,1,+", "-o", tmp_path / "r.dcm") == 2
    assert "refers to DICOM images" in error_of(capsys)
