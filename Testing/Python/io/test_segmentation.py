"""Segmentations (.seg.nrrd): names, colours and layers, as 3D Slicer and other programs write them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io import default_segment, read_labelmap, read_volume, write_labelmap, write_segmentation

MATRIX = np.array([[-0.4, 0.3, 0.0, 12.5], [0.3, 0.4, 0.0, -7.25], [0.0, 0.0, 3.0, 100.0], [0.0, 0.0, 0.0, 1.0]])
SEGMENTS = [
    Segment(1, "Leber (größer) 肝", (1.0, 0.5, 0.25)),
    Segment(3, "a\\b := c|d", (0.0, 0.2, 1.0)),
    Segment(7, "absent\nin two lines", (0.3, 0.3, 0.3)),
]


def some_labels() -> Volume:
    labels = np.zeros((4, 6, 5), np.uint8)
    labels[1, 2:4, 1:3] = 1
    labels[2:, 5, 4] = 3
    return Volume(labels, MATRIX)


def test_labels_names_and_colours_come_back(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, some_labels(), SEGMENTS)
    back = read_labelmap(path)
    np.testing.assert_array_equal(back.array, some_labels().array)
    np.testing.assert_allclose(back.ijk_to_ras, MATRIX)
    assert list(back.segments) == SEGMENTS
    assert type(read_volume(path)) is Volume


# --- 3D Slicer -------------------------------------------------------------------------------------------------------


@pytest.fixture
def slicer():
    pytest.importorskip("slicer", reason="needs slicer-core, the libraries of 3D Slicer", exc_type=ImportError)
    import slicer

    return slicer


def a_segmentation_node(slicer, path):
    """Return a node of 3D Slicer with its storage node, which reads or writes the file."""
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    return scene, logic, node, storage


def labelled_positions(slicer, node, number: int) -> np.ndarray:
    """Return the voxels of a segment as 3D Slicer places them, in RAS millimetres."""
    from vtk import vtkMatrix4x4
    from vtk.util.numpy_support import vtk_to_numpy

    labelmap, matrix = slicer.vtkOrientedImageData(), vtkMatrix4x4()
    node.GetBinaryLabelmapRepresentation(node.GetSegmentation().GetNthSegmentID(number), labelmap)
    labelmap.GetImageToWorldMatrix(matrix)
    scalars = labelmap.GetPointData().GetScalars()
    if scalars is None or not scalars.GetNumberOfTuples():
        return np.zeros((0, 3))
    first_kji = labelmap.GetExtent()[4::-2]
    kji = np.argwhere(vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1]) > 0) + np.array(first_kji)
    elements = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    return (np.column_stack([kji[:, ::-1], np.ones(len(kji))]) @ elements.T)[:, :3]


def test_3d_slicer_opens_the_file_with_names_colours_and_voxels_in_place(tmp_path, slicer):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, some_labels(), SEGMENTS)
    _scene, _logic, node, storage = a_segmentation_node(slicer, path)
    assert storage.ReadData(node) == 1
    assert storage.GetUserMessages().GetNumberOfMessages() == 0
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(SEGMENTS)
    for number, expected in enumerate(SEGMENTS):
        segment = segmentation.GetNthSegment(number)
        assert (segment.GetName(), segment.GetLabelValue()) == (expected.name, expected.label)
        np.testing.assert_allclose(segment.GetColor(), expected.color_rgb, atol=1e-6)
        positions = positions_ras(some_labels(), expected.label)
        np.testing.assert_allclose(labelled_positions(slicer, node, number), positions, atol=1e-6)
    numbers = segmentation.GetConversionParameter("Reference image geometry").strip(";").split(";")
    np.testing.assert_allclose([float(part) for part in numbers], [*MATRIX.ravel(), 0, 4, 0, 5, 0, 3])


def save_in_slicer(slicer, path, masks: dict[str, np.ndarray], colors: dict[str, tuple[float, float, float]]) -> None:
    from vtk import vtkMatrix4x4
    from vtk.util.numpy_support import numpy_to_vtk

    _scene, logic, node, storage = a_segmentation_node(slicer, path)
    matrix = vtkMatrix4x4()
    matrix.DeepCopy(MATRIX.ravel().tolist())
    for name, mask in masks.items():
        labelmap = slicer.vtkOrientedImageData()
        labelmap.SetDimensions(*mask.shape[::-1])
        labelmap.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=1))
        labelmap.SetImageToWorldMatrix(matrix)
        segment_id = node.GetSegmentation().AddEmptySegment("", name, colors[name])
        assert logic.SetBinaryLabelmapToSegment(labelmap, node, segment_id, 0)
    assert storage.WriteData(node) == 1


def positions_ras(volume: Volume, label: int) -> np.ndarray:
    kji = np.argwhere(volume.array == label)
    return (np.column_stack([kji[:, ::-1], np.ones(len(kji))]) @ volume.ijk_to_ras.T)[:, :3]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_file_saved_by_3d_slicer_is_read_and_overlapping_segments_are_refused(tmp_path, slicer, overlap):
    path = tmp_path / "slicer.seg.nrrd"
    first, second = np.zeros((4, 6, 5), bool), np.zeros((4, 6, 5), bool)
    first[1, 2:4, 1:3] = True
    second[2, 4, 4] = True
    second[1, 3, 2] = overlap
    colors = {"Leber ä": (1.0, 0.0, 0.5), "Tumor": (0.0, 0.5, 0.0)}
    save_in_slicer(slicer, path, {"Leber ä": first, "Tumor": second}, colors)
    if overlap:
        with pytest.raises(ImageError, match=r"'Leber ä' and 'Tumor' overlap in 1 voxels"):
            read_labelmap(path)
        return
    back = read_labelmap(path)
    assert {segment.name: segment.color_rgb for segment in back.segments} == colors
    for segment, mask in zip(back.segments, (first, second), strict=True):
        expected = positions_ras(Volume(mask.astype(np.uint8), MATRIX), 1)
        np.testing.assert_allclose(positions_ras(back, segment.label), expected, atol=1e-6)


# --- Other programs --------------------------------------------------------------------------------------------------


def a_file(path, labels: np.ndarray, *segments: dict[str, str]):
    """Write with SimpleITK; the fields of each segment are in addition to its ID."""
    image = sitk.GetImageFromArray(labels, isVector=labels.ndim == 4)
    for number, fields in enumerate(segments):
        for key, value in {"ID": f"id{number}", **fields}.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


DEFAULT = default_segment(1)


@pytest.mark.parametrize(
    ("fields", "name", "color"),
    [
        ({"Name": "Leber – links ✓", "Color": "1 0 0.5"}, "Leber – links ✓", (1, 0, 0.5)),
        ({"Name": " ", "Color": "1 0 0.5"}, "id0", (1, 0, 0.5)),
        ({"Color": "1.0000001 0 0"}, "id0", (1, 0, 0)),
        ({"Color": "255 51 0"}, "id0", (1, 0.2, 0)),
        ({"Color": "1 0 0 1"}, "id0", (1, 0, 0)),
        ({"DefaultColor": "0 1 0"}, "id0", (0, 1, 0)),
        ({"Color": "red", "DefaultColor": "0 1 0"}, "id0", (0, 1, 0)),
        ({"ID": "", "Color": "1 0"}, DEFAULT.name, DEFAULT.color_rgb),
        ({"Color": "-1 0 0"}, "id0", DEFAULT.color_rgb),
        ({"Color": "nan 0 0"}, "id0", DEFAULT.color_rgb),
        ({"Color": "1000 0 0"}, "id0", DEFAULT.color_rgb),
        ({"Color": "0,5 0 0"}, "id0", DEFAULT.color_rgb),
        ({"LabelValue": "1.0", "Layer": "0.0", "Extent": "rubbish"}, "id0", DEFAULT.color_rgb),
    ],
)
def test_what_is_only_decoration_never_makes_a_file_damaged(tmp_path, fields, name, color):
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[1, 2:5, 2:5] = 1
    back = read_labelmap(a_file(tmp_path / "a.seg.nrrd", labels, fields))
    np.testing.assert_array_equal(back.array, labels)
    (segment,) = back.segments
    assert (segment.label, segment.name) == (1, name)
    np.testing.assert_allclose(segment.color_rgb, color, atol=1e-6)


def test_a_name_in_another_encoding_can_be_written_again(tmp_path):
    path = a_file(tmp_path / "a.seg.nrrd", np.ones((2, 4, 4), np.uint8), {"Name": "Laesion"})
    path.write_bytes(path.read_bytes().replace(b"Name:=Laesion", b"Name:=L\xe4sion ", 1))  # Latin-1
    back = read_labelmap(path)
    write_labelmap(path, back)
    assert read_labelmap(path).segments[0].name == back.segments[0].name == "L\ufffdsion"


def test_two_segments_may_have_one_name_and_numbers_or_all_of_them_may_be_missing(tmp_path):
    labels = np.zeros((3, 8, 8), np.uint8)
    assert read_labelmap(a_file(tmp_path / "a.seg.nrrd", labels)).segments == ()
    image = sitk.GetImageFromArray(labels)
    for key, value in {"Segment0_ID": "x", "Segment4_Name": "x", "Segment4_LabelValue": "2"}.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    assert [(s.label, s.name) for s in read_labelmap(tmp_path / "a.seg.nrrd").segments] == [(1, "x"), (2, "x")]


def test_layers_that_use_one_label_twice_are_renumbered(tmp_path):
    layers = np.zeros((2, 3, 4, 2), np.uint8)
    layers[0, 0, 0, 0] = layers[1, 1, 1, 1] = 1
    back = read_labelmap(a_file(tmp_path / "a.seg.nrrd", layers, {"Name": "A"}, {"Name": "B"}))
    assert [(segment.label, segment.name) for segment in back.segments] == [(1, "A"), (2, "B")]
    assert (back.array[0, 0, 0], back.array[1, 1, 1], back.array.sum()) == (1, 2, 3)


@pytest.mark.parametrize(
    ("layers", "segments", "message"),
    [
        (2, [{"LabelValue": "x"}], "could not convert"),
        (2, [{"LabelValue": "0"}], "below 1"),
        (2, [{"LabelValue": "1.5"}], "not a whole number"),
        (2, [{"LabelValue": "1e400"}], "not a whole number"),
        (2, [{"LabelValue": "nan"}], "not a whole number"),
        (2, [{"Layer": "5"}], "in layer 5"),
        (1, [{}, {}], r"\[1, 1\]"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, layers, segments, message):
    labels = np.zeros((2, 3, 4, layers) if layers > 1 else (2, 3, 4), np.uint8)
    with pytest.raises(FileFormatError, match=message):
        read_labelmap(a_file(tmp_path / "a.seg.nrrd", labels, *segments))


@pytest.mark.parametrize(
    ("name", "segments", "error", "message"),
    [
        ("a.seg.nrrd", SEGMENTS[:1], ImageError, r"\[3\]"),
        ("a.seg.nrrd", [*SEGMENTS, Segment(1, "again", (0, 0, 0))], ImageError, "share"),
        ("a.nrrd", SEGMENTS, FileFormatError, r"\.seg\.nrrd"),
    ],
)
def test_segments_that_do_not_fit_the_labels_are_refused(tmp_path, name, segments, error, message):
    with pytest.raises(error, match=message):
        write_segmentation(tmp_path / name, some_labels(), segments)
    assert os.listdir(tmp_path) == []


def test_default_segments_differ_in_name_and_colour_and_are_those_of_labels_without_a_name(tmp_path):
    write_labelmap(tmp_path / "a.seg.nrrd", LabelVolume(np.array([[[0, 1, 7]]]), np.eye(4), tuple(SEGMENTS[:1])))
    named, other = read_labelmap(tmp_path / "a.seg.nrrd").segments
    assert (named, other.label, other.name) == (SEGMENTS[0], 7, default_segment(7).name)
    segments = [default_segment(label) for label in range(1, 20)]
    assert len({segment.name for segment in segments}) == 19
    colors = np.array([segment.color_rgb for segment in segments])
    distances = np.abs(colors[:, None] - colors[None]).max(axis=2) + np.eye(19)
    assert distances.min() > 0.05
