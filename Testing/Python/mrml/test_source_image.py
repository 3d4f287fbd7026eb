"""The source volume on the grid of a segmentation: as Slicer aligns it, without a copy where there can be none."""

from __future__ import annotations

import gc

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.target import AS_DISPLAYED

SHAPE = (6, 8, 10)


def moved_by(i, j, k):
    matrix = np.eye(4)
    matrix[:3, 3] = (i, j, k)
    return matrix


TURNED = moved_by(1.0, 2.0, -1.5)
TURNED[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]


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


# One image, until something changes ---------------------------------------------------------------------------------


def test_the_volume_s_own_memory_is_used_cannot_be_written_to_and_outlives_the_volume(an_editor, box):
    images = SourceImages()
    for node in (an_editor.volume, an_editor.segmentation_node):
        an_editor.put_under(node, TURNED)  # the same place: nothing to resample
    source = source_of(an_editor, images)
    for array in (source.array, source.masking_array):
        assert np.shares_memory(array, voxels_in(an_editor.volume))
        assert not array.flags.writeable
    assert source.note is None
    assert source.intensity_range == IntensityRange.estimate(voxels_in(an_editor.volume))
    an_editor.add_segment(box(((1, 3), (1, 3), (1, 3))))
    an_editor.volume.SetName("Another name")
    assert source_of(an_editor, images) is source
    images.clear()
    again = source_of(an_editor, images)
    assert again is not source
    assert again.token == source.token
    expected = source.array.copy()
    an_editor.scene.RemoveNode(an_editor.volume)
    an_editor.volume = None
    gc.collect()
    assert np.array_equal(source.array, expected)


def change_voxels(editor):
    voxels_in(editor.volume)[3] = 7
    editor.volume.GetImageData().GetPointData().GetScalars().Modified()


def change_image(editor):
    image = vtkImageData()
    image.DeepCopy(editor.volume.GetImageData())
    editor.volume.SetAndObserveImageData(image)


def change_reference(editor):
    reference = editor.reference_image()
    reference.SetExtent(0, 9, 0, 7, 0, 4)
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(reference)
    editor.segmentation.SetConversionParameter("Reference image geometry", text)


@pytest.mark.parametrize(
    "change",
    [
        change_voxels,
        change_image,
        lambda editor: editor.put_under(editor.volume, moved_by(1.0, 0.0, 0.0)),
        lambda editor: editor.put_under(editor.segmentation_node, moved_by(1.0, 0.0, 0.0)),
        lambda editor: editor.volume.SetOrigin(*np.add(editor.volume.GetOrigin(), 0.3)),
        change_reference,
    ],
    ids=["voxels", "image", "volume moved", "segmentation moved", "geometry", "reference"],
)
def test_every_change_of_the_content_changes_the_token(an_editor, change):
    images = SourceImages()
    before = source_of(an_editor, images)
    change(an_editor)
    after = source_of(an_editor, images)
    assert after.token != before.token
    assert hash(after.token) != hash(before.token)
    assert np.array_equal(after.array, as_slicer_aligns_it(an_editor))


# Where the voxels come from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_ijk", [(4, 0, 0), (-3, 7, 2)])
@pytest.mark.parametrize(
    ("shape", "dtype"), [(SHAPE, np.int8), ((1, 8, 10), np.uint16), ((6, 1, 10), np.float32), ((1, 1, 1), np.float64)]
)
def test_any_extent_and_every_type_of_voxel_is_kept(new_editor, start_ijk, shape, dtype):
    editor = new_editor(np.arange(np.prod(shape)).reshape(shape).astype(dtype), start_ijk=start_ijk)
    source = source_of(editor)
    assert source.array.dtype == dtype
    assert np.shares_memory(source.array, voxels_in(editor.volume))
    assert np.array_equal(source.array, voxels_in(editor.volume))


def test_a_grid_may_show_a_part_of_the_volume_or_more_than_it(an_editor, box):
    labelmap = an_editor.labelmap(an_editor.add_segment(box(((1, 3), (1, 3), (1, 3)))))
    inside = labelmap.GetExtent()
    labelmap.SetExtent(7, 11, -1, 1, 3, 8)
    source = source_of(an_editor)
    assert source.array.shape == (9, 9, 12)
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert np.array_equal(source.array[:6, 1:, :10], voxels_in(an_editor.volume))
    assert source.intensity_range == IntensityRange.estimate(voxels_in(an_editor.volume))
    labelmap.SetExtent(*inside)
    change_reference(an_editor)
    source = source_of(an_editor)
    assert np.shares_memory(source.array, voxels_in(an_editor.volume))
    assert np.array_equal(source.array, voxels_in(an_editor.volume)[:5])


@pytest.mark.parametrize("moved", ["volume", "segmentation_node", "neither", "BSpline", "Grid"])
def test_a_volume_with_other_voxels_or_another_transform_is_resampled_as_slicer_does(
    an_editor, new_volume, oblique, moved
):
    volume, finer, images = an_editor.volume, oblique.copy(), SourceImages()
    if moved == "neither":
        finer[:3, :3] *= 0.6
        volume = new_volume(np.random.default_rng(3).normal(size=(9, 11, 14)).astype(np.float32), finer)
        an_editor.node.SetAndObserveSourceVolumeNode(volume)
    elif moved in ("BSpline", "Grid"):
        bending = an_editor.scene.AddNewNodeByClass(f"vtkMRML{moved}TransformNode")
        volume.SetAndObserveTransformNodeID(bending.GetID())
    else:
        an_editor.put_under(getattr(an_editor, moved), TURNED)
    source = source_of(an_editor, images, volume)
    assert source.array.shape == SHAPE
    assert len(np.unique(source.array)) > 20
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert source.intensity_range == IntensityRange.estimate(voxels_in(volume))
    assert source_of(an_editor, images, volume) is source
    if moved in ("BSpline", "Grid"):
        bending.GetTransformToParent().Modified()
        bending.Modified()
        assert source_of(an_editor, images).token != source.token
    else:
        assert not np.shares_memory(source.array, voxels_in(volume))


@pytest.mark.parametrize("position", [2, 9])
def test_one_thick_slice_is_seen_in_all_slices_that_it_goes_through(an_editor, new_volume, oblique, position):
    thick = oblique.copy()
    thick[:3, 3] += position * thick[:3, 2]
    thick[:3, 2] *= 10
    volume = new_volume(np.random.default_rng(3).normal(size=(1, *SHAPE[1:])).astype(np.float32), thick)
    an_editor.node.SetAndObserveSourceVolumeNode(volume)
    source = source_of(an_editor, volume=volume)
    assert np.array_equal(source.array, as_slicer_aligns_it(an_editor))
    assert len(np.unique(source.array[5])) > 20


# Kinds of voxels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [3, 4])
@pytest.mark.parametrize("resampled", [True, False])
def test_colours_become_luminance_and_their_first_component_masks(new_editor, components, resampled):
    colors = np.random.default_rng(1).integers(0, 256, (*SHAPE, components), np.uint8)
    editor = new_editor(colors, kind="vtkMRMLVectorVolumeNode")
    if resampled:
        editor.put_under(editor.volume, TURNED)
    source = source_of(editor)
    assert source.note is None
    assert source.array.dtype == np.uint8
    assert np.array_equal(source.masking_array, as_slicer_aligns_it(editor) if resampled else colors[..., 0])
    luminance = np.rint(colors[..., :3] @ np.array([0.299, 0.587, 0.114]))
    assert np.array_equal(source.array, luminance) != resampled
    assert not np.array_equal(source.array, source.masking_array)


@pytest.mark.parametrize(
    ("kind", "dtype", "components"),
    [
        ("Vector", np.float32, 3),
        ("Vector", np.uint8, 5),
        ("Vector", np.uint8, 3),
        ("DiffusionWeighted", np.int16, 7),
        ("Scalar", np.uint8, 3),
    ],
)
def test_of_several_values_a_voxel_the_first_is_segmented_and_the_user_is_told(new_editor, kind, dtype, components):
    values = (np.random.default_rng(1).random((*SHAPE, components)) * 100).astype(dtype)
    editor = new_editor(values, kind=f"vtkMRML{kind}VolumeNode", name="Cine")
    if kind == "Vector":
        editor.volume.SetVoxelVectorType(editor.volume.VoxelVectorTypeSpatial)
    source = source_of(editor)
    assert np.array_equal(source.array, values[..., 0])
    assert f"Cine has {components} values" in source.note


# What is refused ----------------------------------------------------------------------------------------------------


def flat(editor):
    editor.volume.SetIJKToRASDirections(1, 0, 0, 0, 1, 1, 0, 0, 0)


def move_away(editor):
    """By whole voxels, so that nothing needs to be resampled."""
    matrix = vtkMatrix4x4()
    editor.volume.GetIJKToRASMatrix(matrix)
    editor.volume.SetOrigin(*(matrix.GetElement(row, 3) + 1000 * matrix.GetElement(row, 0) for row in range(3)))


def make_tensors(editor):
    editor.volume = editor.scene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "CT")
    image = vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.GetPointData().SetTensors(numpy_to_vtk(np.zeros((8, 9)), deep=True))
    editor.volume.SetAndObserveImageData(image)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda e: e.volume.SetAndObserveImageData(None), ImageError, "'CT' is empty"),
        (lambda e: e.volume.GetImageData().SetExtent(0, -1, 0, 5, 0, 5), ImageError, "'CT' is empty"),
        (make_tensors, ImageError, "'CT' has no intensities"),
        (move_away, GeometryError, "'CT' does not overlap"),
        (lambda e: (move_away(e), e.volume.SetSpacing(1.1, 1.3, 1.7)), GeometryError, "'CT' does not overlap"),
        (flat, GeometryError, "geometry of CT"),
        (lambda e: e.put_under(e.volume, np.diag([1.0, 1.0, 0.0, 1.0])), GeometryError, "transform of CT"),
    ],
)
def test_a_volume_that_cannot_be_segmented_is_refused(an_editor, spoil, error, message):
    spoil(an_editor)
    with pytest.raises(error, match=message):
        source_of(an_editor)
    with pytest.raises(ImageError, match="No source volume is selected"):
        SourceImages().get(None, an_editor.segmentation_node, reference_geometry(an_editor.segmentation_node))


# Intensities --------------------------------------------------------------------------------------------------------


def test_intensities_are_those_of_the_display_window_if_the_effect_s_parameter_says_so(an_editor, box):
    an_editor.volume.CreateDefaultDisplayNodes()
    display = an_editor.volume.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(-160.0, 240.0)
    segment_id, images = an_editor.add_segment(box(((1, 3), (1, 3), (1, 3)))), SourceImages()
    automatic = an_editor.target(segment_id, images).source
    assert automatic.intensity_range == IntensityRange.estimate(voxels_in(an_editor.volume))
    an_editor.node.SetAttribute(AS_DISPLAYED, "1")
    displayed = an_editor.target(segment_id, images).source
    assert displayed.intensity_range == IntensityRange(-160.0, 240.0)
    assert an_editor.target(segment_id, images).source is displayed
    display.SetWindowLevelMinMax(0.0, 80.0)
    narrower = an_editor.target(segment_id, images).source
    assert narrower.intensity_range == IntensityRange(0.0, 80.0)
    assert len({automatic.token, displayed.token, narrower.token}) == 3
    display.SetWindow(0.0)
    assert an_editor.target(segment_id, images).source.intensity_range == automatic.intensity_range


def test_an_image_with_nan_in_its_corners_stays_the_same_image(new_editor):
    voxels = np.full(SHAPE, 100.0, np.float32)
    voxels[:, :2] = voxels[:, -2:] = np.nan
    editor, images = new_editor(voxels), SourceImages()
    assert np.isnan(editor.volume.GetImageBackgroundScalarComponentAsDouble(0))
    source = source_of(editor, images)
    assert source_of(editor, images) is source
    images.clear()
    assert source_of(editor, images).token == source.token
