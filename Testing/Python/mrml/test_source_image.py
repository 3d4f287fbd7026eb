from __future__ import annotations

import gc

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.source_image import SourceImages

SHAPE = (6, 8, 10)


def moved_by(i, j, k):
    matrix = np.eye(4)
    matrix[:3, 3] = (i, j, k)
    return matrix


def turned():
    matrix = moved_by(1.0, 2.0, -1.5)
    matrix[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    return matrix


def voxels_in(volume):
    """The volume's own memory, (K, J, I)."""
    image = volume.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def source_of(editor, images=None, volume=None):
    reference = reference_geometry(editor.segmentation_node)
    return (images or SourceImages()).get(volume or editor.volume, editor.segmentation_node, reference)


def as_slicer_aligns_it(editor):
    assert editor.logic.UpdateAlignedSourceVolume()
    aligned = editor.logic.GetAlignedSourceVolume()
    return vtk_to_numpy(aligned.GetPointData().GetScalars()).reshape(aligned.GetDimensions()[::-1])


def test_the_volume_s_own_memory_is_used_and_cannot_be_written_to(an_editor):
    source = source_of(an_editor)
    assert np.shares_memory(source.array, voxels_in(an_editor.volume))
    assert np.array_equal(source.array, voxels_in(an_editor.volume))
    assert source.array.dtype == np.int16
    assert not source.array.flags.writeable
    assert source.masking_array is source.array or np.shares_memory(source.masking_array, source.array)
    assert source.note is None


def test_the_range_of_intensities_is_that_of_the_volume(an_editor):
    assert source_of(an_editor).intensity_range == IntensityRange.estimate(voxels_in(an_editor.volume))


def test_an_image_that_did_not_change_is_made_once(an_editor):
    images = SourceImages()
    assert source_of(an_editor, images) is source_of(an_editor, images)


@pytest.mark.parametrize("node", ["volume", "segmentation_node"])
def test_drawing_and_displaying_keep_the_image(an_editor, box, node):
    images = SourceImages()
    before = source_of(an_editor, images)
    an_editor.add_segment(box(((1, 3), (1, 3), (1, 3))))
    getattr(an_editor, node).SetName("Another name")
    assert source_of(an_editor, images) is before


def change_voxels(editor):
    voxels_in(editor.volume)[3] = 7
    editor.volume.GetImageData().GetPointData().GetScalars().Modified()


def change_image(editor):
    image = vtkImageData()
    image.DeepCopy(editor.volume.GetImageData())
    editor.volume.SetAndObserveImageData(image)


def move_volume(editor):
    editor.put_under(editor.volume, moved_by(1.0, 0.0, 0.0))


def move_segmentation(editor):
    editor.put_under(editor.segmentation_node, moved_by(1.0, 0.0, 0.0))


def change_geometry(editor):
    editor.volume.SetOrigin(1.0, 2.0, 100.0)


def change_reference(editor):
    reference = editor.reference_image()
    reference.SetExtent(0, 9, 0, 7, 0, 4)
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(reference)
    editor.segmentation.SetConversionParameter("Reference image geometry", text)


@pytest.mark.parametrize(
    "change", [change_voxels, change_image, move_volume, move_segmentation, change_geometry, change_reference]
)
def test_every_change_of_the_content_changes_the_token(an_editor, change):
    images = SourceImages()
    before = source_of(an_editor, images)
    change(an_editor)
    after = source_of(an_editor, images)
    assert after.token != before.token
    assert hash(after.token) != hash(before.token)
    assert np.array_equal(after.array, as_slicer_aligns_it(an_editor))


def test_a_moved_transform_is_noticed(an_editor, matrix_of):
    transform = an_editor.put_under(an_editor.volume, moved_by(1.0, 0.0, 0.0))
    images = SourceImages()
    before = source_of(an_editor, images).token
    transform.SetMatrixTransformToParent(matrix_of(moved_by(2.0, 0.0, 0.0)))
    assert source_of(an_editor, images).token != before


def test_another_volume_has_another_token(an_editor, new_volume):
    images = SourceImages()
    before = source_of(an_editor, images)
    other = new_volume(voxels_in(an_editor.volume).copy())
    assert source_of(an_editor, images, other).token != before.token


def test_a_common_transform_needs_no_resampling(an_editor):
    transform = an_editor.put_under(an_editor.volume, turned())
    an_editor.segmentation_node.SetAndObserveTransformNodeID(transform.GetID())
    assert np.shares_memory(source_of(an_editor).array, voxels_in(an_editor.volume))


def test_two_transforms_that_do_the_same_need_no_resampling(an_editor):
    an_editor.put_under(an_editor.volume, turned())
    an_editor.put_under(an_editor.segmentation_node, turned())
    assert np.shares_memory(source_of(an_editor).array, voxels_in(an_editor.volume))


@pytest.mark.parametrize("start_ijk", [(4, 0, 0), (-3, 7, 2)])
def test_extents_that_do_not_start_at_zero_are_followed(new_editor, start_ijk):
    editor = new_editor(start_ijk=start_ijk)
    source = source_of(editor)
    assert np.shares_memory(source.array, voxels_in(editor.volume))
    assert np.array_equal(source.array, voxels_in(editor.volume))


def test_segments_beyond_the_volume_see_its_background(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 3), (1, 3))))
    an_editor.labelmap(segment_id).SetExtent(7, 11, -1, 1, 3, 8)
    source = source_of(an_editor)
    assert source.array.shape == (9, 9, 12)
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert np.array_equal(source.array[:6, 1:, :10], voxels_in(an_editor.volume))
    assert source.intensity_range == IntensityRange.estimate(voxels_in(an_editor.volume))


def test_a_part_of_the_volume_is_shown_without_copying(an_editor):
    change_reference(an_editor)
    source = source_of(an_editor)
    assert np.shares_memory(source.array, voxels_in(an_editor.volume))
    assert np.array_equal(source.array, voxels_in(an_editor.volume)[:5])


def test_a_volume_moved_by_whole_voxels_is_shifted(an_editor, oblique):
    offset = oblique[:3, :3] @ (2, -1, 1)
    an_editor.put_under(an_editor.volume, moved_by(*offset))
    source = source_of(an_editor)
    assert np.array_equal(source.array[1:, :-1, 2:], voxels_in(an_editor.volume)[:-1, 1:, :-2])
    background = an_editor.volume.GetImageBackgroundScalarComponentAsDouble(0)
    assert (source.array[0] == background).all()
    assert (source.array[:, -1] == background).all()


@pytest.mark.parametrize("moved", ["volume", "segmentation_node"])
def test_different_transforms_resample_as_slicer_does(an_editor, moved):
    an_editor.put_under(getattr(an_editor, moved), turned())
    source = source_of(an_editor)
    assert not np.shares_memory(source.array, voxels_in(an_editor.volume))
    assert len(np.unique(source.array)) > 20
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))


def test_a_volume_with_other_voxels_is_resampled_as_slicer_does(an_editor, new_volume, oblique):
    finer = oblique.copy()
    finer[:3, :3] *= 0.6
    other = new_volume(np.random.default_rng(3).normal(size=(9, 11, 14)).astype(np.float32), finer)
    an_editor.node.SetAndObserveSourceVolumeNode(other)
    source = source_of(an_editor, volume=other)
    assert source.array.shape == SHAPE
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert source.intensity_range == IntensityRange.estimate(voxels_in(other))


@pytest.mark.parametrize("kind", ["vtkMRMLBSplineTransformNode", "vtkMRMLGridTransformNode"])
def test_a_volume_under_a_non_linear_transform_is_resampled_as_slicer_does(an_editor, kind):
    transform = an_editor.scene.AddNewNodeByClass(kind)
    an_editor.volume.SetAndObserveTransformNodeID(transform.GetID())
    images = SourceImages()
    source = source_of(an_editor, images)
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert source_of(an_editor, images) is source
    transform.Modified()
    transform.GetTransformToParent().Modified()
    assert source_of(an_editor, images).token != source.token


def test_a_volume_that_lies_elsewhere_is_refused(an_editor, new_volume):
    other = new_volume(np.zeros((3, 3, 3), np.uint8), name="Knee")
    origin = reference_geometry(an_editor.segmentation_node).grid.to_mm((40, 0, 0))
    other.SetOrigin(*origin)
    with pytest.raises(GeometryError, match="'Knee' does not overlap"):
        source_of(an_editor, volume=other)


@pytest.mark.parametrize("components", [3, 4])
def test_colours_become_luminance(new_editor, components):
    colors = np.random.default_rng(1).integers(0, 256, (*SHAPE, components), np.uint8)
    editor = new_editor(colors, kind="vtkMRMLVectorVolumeNode")
    source = source_of(editor)
    expected = np.rint(colors[..., :3] @ np.array([0.299, 0.587, 0.114]))
    assert source.array.dtype == np.uint8
    assert np.array_equal(source.array, expected)
    assert np.array_equal(source.masking_array, colors[..., 0])
    assert source.note is None


def test_colours_on_other_voxels_are_resampled(new_editor):
    colors = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8)
    editor = new_editor(colors, kind="vtkMRMLVectorVolumeNode")
    editor.put_under(editor.volume, turned())
    source = source_of(editor)
    assert np.array_equal(source.masking_array, as_slicer_aligns_it(editor))
    assert not np.array_equal(source.array, source.masking_array)


@pytest.mark.parametrize(
    ("kind", "dtype", "components"),
    [
        ("vtkMRMLVectorVolumeNode", np.float32, 3),
        ("vtkMRMLVectorVolumeNode", np.int16, 4),
        ("vtkMRMLVectorVolumeNode", np.uint8, 5),
        ("vtkMRMLDiffusionWeightedVolumeNode", np.int16, 7),
        ("vtkMRMLScalarVolumeNode", np.uint8, 3),
    ],
)
def test_of_several_values_a_voxel_the_first_is_segmented_and_the_user_is_told(new_editor, kind, dtype, components):
    values = (np.random.default_rng(1).random((*SHAPE, components)) * 100).astype(dtype)
    editor = new_editor(values, kind=kind, name="Cine")
    source = source_of(editor)
    assert np.array_equal(source.array, values[..., 0])
    assert source.note is not None
    assert f"Cine has {components} values" in source.note


def test_a_vector_type_decides_over_the_number_of_components(new_editor):
    values = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8)
    editor = new_editor(values, kind="vtkMRMLVectorVolumeNode")
    images = SourceImages()
    assert source_of(editor, images).note is None
    editor.volume.SetVoxelVectorType(editor.volume.VoxelVectorTypeSpatial)
    source = source_of(editor, images)
    assert source.note is not None
    assert np.array_equal(source.array, values[..., 0])


@pytest.mark.parametrize("shape", [(1, 8, 10), (6, 1, 10), (1, 1, 1)])
def test_volumes_of_one_slice_are_fine(new_editor, shape):
    editor = new_editor(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    assert np.array_equal(source_of(editor).array, voxels_in(editor.volume))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_of_voxel_is_kept(new_editor, dtype):
    editor = new_editor(np.arange(480).reshape(SHAPE).astype(dtype))
    assert source_of(editor).array.dtype == dtype


def test_no_volume_is_refused(an_editor):
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(ImageError, match="No source volume is selected"):
        SourceImages().get(None, an_editor.segmentation_node, reference)


def test_a_volume_without_image_is_refused(an_editor):
    empty = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    with pytest.raises(ImageError, match="'Empty' is empty"):
        source_of(an_editor, volume=empty)


def test_a_volume_without_voxels_is_refused(an_editor, new_volume):
    volume = new_volume(np.zeros((2, 2, 2), np.uint8), name="Empty")
    volume.GetImageData().SetExtent(0, -1, 0, 5, 0, 5)
    with pytest.raises(ImageError, match="'Empty' is empty"):
        source_of(an_editor, volume=volume)


def test_tensors_are_refused(an_editor):
    tensors = an_editor.scene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "DTI")
    image = vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.GetPointData().SetTensors(numpy_to_vtk(np.zeros((8, 9)), deep=True))
    tensors.SetAndObserveImageData(image)
    with pytest.raises(ImageError, match="'DTI' has no intensities"):
        source_of(an_editor, volume=tensors)


def test_a_volume_whose_matrix_is_degenerate_is_refused(an_editor, new_volume):
    flat = np.eye(4)
    flat[:3, 2] = flat[:3, 1]
    with pytest.raises(GeometryError, match="geometry of Flat"):
        source_of(an_editor, volume=new_volume(np.zeros((2, 2, 2), np.uint8), flat, name="Flat"))


def test_a_transform_that_flattens_the_volume_is_refused(an_editor):
    an_editor.put_under(an_editor.volume, np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(GeometryError, match="transform of CT"):
        source_of(an_editor)


def test_the_image_outlives_its_volume(an_editor):
    source = source_of(an_editor)
    expected = source.array.copy()
    an_editor.scene.RemoveNode(an_editor.volume)
    an_editor.volume = None
    gc.collect()
    assert np.array_equal(source.array, expected)


def test_forgetting_lets_go_of_the_image(an_editor):
    images = SourceImages()
    before = source_of(an_editor, images)
    images.forget()
    after = source_of(an_editor, images)
    assert after is not before
    assert after.token == before.token
