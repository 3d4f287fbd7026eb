from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.data.volume import Segment, Volume
from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io import read_labelmap, read_volume
from scribblesegment.io.segmentation import default_segment, unsigned_labels, write_segmentation

MATRIX = np.array([[-0.4, 0.3, 0.0, 12.5], [0.3, 0.4, 0.0, -7.25], [0.0, 0.0, 3.0, 100.0], [0.0, 0.0, 0.0, 1.0]])
SEGMENTS = [
    Segment(1, "Leber (größer) 肝", (1.0, 0.5, 0.25)),
    Segment(3, "a\\b := c|d", (0.0, 0.2, 1.0)),
    Segment(7, "absent", (0.3, 0.3, 0.3)),
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


def test_a_line_break_in_a_name_does_not_break_the_header(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, some_labels(), [Segment(1, "two\nlines", (1, 0, 0)), Segment(3, "b", (0, 1, 0))])
    assert [segment.name for segment in read_labelmap(path).segments] == ["two\nlines", "b"]


def read_in_slicer(path) -> dict[str, object]:
    """Open a file as 3D Slicer does, and describe what is there."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core, the libraries of 3D Slicer", exc_type=ImportError)
    vtk_numpy = pytest.importorskip("vtk.util.numpy_support")
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    assert storage.GetUserMessages().GetNumberOfMessages() == 0
    segmentation = node.GetSegmentation()
    described = {}
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        labelmap = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(number), labelmap)
        scalars = labelmap.GetPointData().GetScalars()
        voxels = np.zeros((0, 3))
        if scalars is not None and scalars.GetNumberOfTuples():
            extent = labelmap.GetExtent()
            sides = labelmap.GetDimensions()[::-1]
            array = vtk_numpy.vtk_to_numpy(scalars).reshape(sides)
            kji = np.argwhere(array > 0) + np.array((extent[4], extent[2], extent[0]))
            matrix = slicer_matrix(labelmap)
            voxels = (np.column_stack([kji[:, ::-1], np.ones(len(kji))]) @ matrix.T)[:, :3]
        described[segment.GetName()] = (segment.GetColor(), segment.GetLabelValue(), voxels)
    geometry = segmentation.GetConversionParameter("Reference image geometry")
    return {"segments": described, "geometry": geometry}


def slicer_matrix(labelmap) -> np.ndarray:
    vtk = pytest.importorskip("vtk")
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def test_3d_slicer_opens_the_file_with_names_colours_and_voxels_in_place(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, some_labels(), SEGMENTS)
    found = read_in_slicer(path)
    assert list(found["segments"]) == [segment.name for segment in SEGMENTS]
    for segment in SEGMENTS:
        color, label, voxels_ras = found["segments"][segment.name]
        np.testing.assert_allclose(color, segment.color_rgb, atol=1e-6)
        assert label == segment.label
        kji = np.argwhere(some_labels().array == segment.label)
        expected = (np.column_stack([kji[:, ::-1], np.ones(len(kji))]) @ MATRIX.T)[:, :3]
        np.testing.assert_allclose(voxels_ras, expected, atol=1e-6)
    numbers = [float(part) for part in found["geometry"].split(";") if part]
    np.testing.assert_allclose(numbers, [*MATRIX.ravel(), 0, 4, 0, 5, 0, 3])


def save_in_slicer(path, masks: dict[str, np.ndarray], colors: dict[str, tuple[float, float, float]]) -> None:
    slicer = pytest.importorskip("slicer", reason="needs slicer-core, the libraries of 3D Slicer", exc_type=ImportError)
    vtk = pytest.importorskip("vtk")
    vtk_numpy = pytest.importorskip("vtk.util.numpy_support")
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(MATRIX.ravel().tolist())
    for name, mask in masks.items():
        labelmap = slicer.vtkOrientedImageData()
        labelmap.SetDimensions(*mask.shape[::-1])
        labelmap.GetPointData().SetScalars(vtk_numpy.numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=1))
        labelmap.SetImageToWorldMatrix(matrix)
        segment_id = node.GetSegmentation().AddEmptySegment("", name, colors[name])
        assert logic.SetBinaryLabelmapToSegment(labelmap, node, segment_id, 0)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node) == 1


def positions_ras(volume: Volume, label: int) -> np.ndarray:
    kji = np.argwhere(volume.array == label)
    return (np.column_stack([kji[:, ::-1], np.ones(len(kji))]) @ volume.ijk_to_ras.T)[:, :3]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_file_saved_by_3d_slicer_is_read_and_overlapping_segments_are_refused(tmp_path, overlap):
    path = tmp_path / "slicer.seg.nrrd"
    first, second = np.zeros((4, 6, 5), bool), np.zeros((4, 6, 5), bool)
    first[1, 2:4, 1:3] = True
    second[2, 4, 4] = True
    second[1, 3, 2] = overlap
    colors = {"Leber ä": (1.0, 0.0, 0.5), "Tumor": (0.0, 0.5, 0.0)}
    save_in_slicer(path, {"Leber ä": first, "Tumor": second}, colors)
    if overlap:
        with pytest.raises(ImageError, match=r"'Leber ä' and 'Tumor' overlap in 1 voxels"):
            read_labelmap(path)
        return
    back = read_labelmap(path)
    assert {segment.name: segment.color_rgb for segment in back.segments} == colors
    for segment, mask in zip(back.segments, (first, second), strict=True):
        expected = positions_ras(Volume(mask.astype(np.uint8), MATRIX), 1)
        np.testing.assert_allclose(positions_ras(back, segment.label), expected, atol=1e-6)


def layered_file(path, layers: np.ndarray, **metadata: str) -> None:
    image = sitk.GetImageFromArray(layers, isVector=True)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))


def test_layers_that_use_one_label_twice_are_renumbered(tmp_path):
    layers = np.zeros((2, 3, 4, 2), np.uint8)
    layers[0, 0, 0, 0] = layers[1, 1, 1, 1] = 1
    path = tmp_path / "a.seg.nrrd"
    layered_file(path, layers, Segment0_ID="a", Segment0_Name="A", Segment1_ID="b", Segment1_Name="B")
    back = read_labelmap(path)
    assert [(segment.label, segment.name) for segment in back.segments] == [(1, "A"), (2, "B")]
    assert back.array[0, 0, 0] == 1
    assert back.array[1, 1, 1] == 2
    assert back.array.sum() == 3


@pytest.mark.parametrize(
    "metadata",
    [
        {"Segment0_ID": "a", "Segment0_LabelValue": "x"},
        {"Segment0_ID": "a", "Segment0_LabelValue": "0"},
        {"Segment0_ID": "a", "Segment0_Color": "1 0"},
        {"Segment0_ID": "a", "Segment0_Layer": "5"},
    ],
)
def test_a_damaged_header_is_refused(tmp_path, metadata):
    path = tmp_path / "a.seg.nrrd"
    layered_file(path, np.zeros((2, 3, 4, 2), np.uint8), **metadata)
    with pytest.raises(FileFormatError):
        read_labelmap(path)


def test_one_label_for_two_segments_of_a_layer_is_refused(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    for key in ("Segment0_ID", "Segment1_ID"):
        image.SetMetaData(key, key)
    sitk.WriteImage(image, str(path))
    with pytest.raises(FileFormatError, match=r"\[1, 1\]"):
        read_labelmap(path)


def test_a_plain_nrrd_named_like_a_segmentation_has_no_segments(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.uint8)), str(path))
    assert read_labelmap(path).segments == ()


def test_a_label_without_a_segment_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"\[3\]"):
        write_segmentation(tmp_path / "a.seg.nrrd", some_labels(), SEGMENTS[:1])
    assert os.listdir(tmp_path) == []


def test_two_segments_of_one_label_are_refused(tmp_path):
    with pytest.raises(ImageError, match="share"):
        write_segmentation(tmp_path / "a.seg.nrrd", some_labels(), [*SEGMENTS, Segment(1, "again", (0, 0, 0))])


def test_another_extension_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"\.seg\.nrrd"):
        write_segmentation(tmp_path / "a.nrrd", some_labels(), SEGMENTS)


def test_labels_take_the_narrowest_type_and_masks_are_not_copied():
    mask = np.ones((1, 2, 2), bool)
    assert np.shares_memory(unsigned_labels(mask), mask)
    assert unsigned_labels(np.array([[[255]]])).dtype == np.uint8
    assert unsigned_labels(np.array([[[256]]])).dtype == np.uint16
    assert unsigned_labels(np.array([[[65536]]])).dtype == np.uint32


def test_default_segments_differ_in_name_and_colour():
    segments = [default_segment(label) for label in range(1, 20)]
    assert len({segment.name for segment in segments}) == 19
    colors = np.array([segment.color_rgb for segment in segments])
    distances = np.abs(colors[:, None] - colors[None]).max(axis=2) + np.eye(19)
    assert distances.min() > 0.05


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd", "a.nii.gz"])
def test_writing_a_large_mask_takes_little_memory(tmp_path, name):
    program = """
import re, sys
import numpy as np
from scribblesegment.io import write_labelmap
from scribblesegment.data.volume import Volume
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
mask = np.zeros((400, 512, 512), np.uint8)
mask[200] = 1
before = peak()
write_labelmap(sys.argv[1], Volume(mask, np.eye(4)))
print((peak() - before) / mask.nbytes)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / name)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert float(result.stdout) < 0.5  # a copy of the mask would make it 1
