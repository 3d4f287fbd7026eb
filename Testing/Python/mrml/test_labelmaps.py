"""Which voxels belong to which segments, whatever their label maps are like, and which may be changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkPolyData

from scribblesegment.data.geometry import grid_slice
from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import geometry_of, reference_geometry
from scribblesegment.mrml.labelmaps import (
    blank_labelmap,
    checked_kji,
    edit_as_labelmaps,
    is_empty,
    layers,
    recut,
    segment_at,
    segment_on_plane,
    segments_among,
    segments_at,
    segments_in_volume,
    values_at,
    voxels_of,
)
from scribblesegment.mrml.masking import editable_at, forbidden_voxels

SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))


@pytest.fixture
def a_lattice(oblique, matrix_of):
    """An image of (6, 8, 10) voxels without values, whose first voxel has VTK's index (2, -1, 4)."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(2, 11, -1, 6, 4, 9)
    image.SetImageToWorldMatrix(matrix_of(oblique))
    return image


def test_values_are_read_wherever_the_extent_lies_and_kept_when_it_is_cut_anew(a_lattice):
    reference, expected = geometry_of(a_lattice), np.zeros(SHAPE)
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 6))
    voxels_of(labelmap)[...] = np.arange(1, 19).reshape(3, 2, 3)
    expected[0:3, 1:3, 1:4] = np.arange(1, 19).reshape(3, 2, 3)
    assert np.array_equal(values_at(labelmap, reference, KJI).reshape(SHAPE), expected)
    moved = recut(labelmap, (4, 8, -1, 1, 5, 9), np.int16)
    assert voxels_of(moved).dtype == np.int16
    expected[:1], expected[..., :2] = 0, 0
    assert np.array_equal(values_at(moved, reference, KJI).reshape(SHAPE), expected)
    for nothing in (None, slicer.vtkOrientedImageData()):
        assert is_empty(nothing)
        assert not values_at(nothing, reference, KJI).any()


@pytest.mark.parametrize(
    ("kji", "message"),
    [([(0, -1, 0)], r"stroke has indices.*\(6, 8, 10\)"), ([(6, 0, 0)], "stroke has indices")]
    + [(kji, r"\(N, 3\) integers") for kji in ([(0, 0)], [0, 1, 2], [(0.0, 1.0, 2.0)], np.zeros((2, 3, 1), int))],
)
def test_indices_that_are_no_voxels_of_the_grid_are_refused(a_lattice, kji, message):
    with pytest.raises(GeometryError, match=message):
        checked_kji(kji, geometry_of(a_lattice).grid, name="stroke")


# Segments -----------------------------------------------------------------------------------------------------------


def seen(editor, *segment_ids):
    """bool (K, J, I) by the functions under test."""
    reference = reference_geometry(editor.segmentation_node)
    kji = np.argwhere(np.ones(reference.grid.shape, bool))
    return segments_at(editor.segmentation_node, segment_ids, reference, kji).reshape(reference.grid.shape)


@pytest.fixture
def two_on_a_layer(an_editor, box):
    masks = [box(((1, 3), (1, 4), (2, 6))), box(((2, 5), (4, 6), (3, 9)))]
    return {an_editor.add_segment(mask): mask for mask in masks}


def test_segments_are_told_apart_and_seen_together_whatever_layer_they_are_on(an_editor, two_on_a_layer, box):
    (first, second), other = two_on_a_layer, box(((1, 6), (0, 8), (0, 3)))
    third, empty = an_editor.add_segment(other, own_layer=True), an_editor.add_segment()
    for segment_id, mask in two_on_a_layer.items():
        assert np.array_equal(seen(an_editor, segment_id), mask)
    assert np.array_equal(seen(an_editor, first, third, empty, "gone"), other | two_on_a_layer[first])
    assert not seen(an_editor, empty).any()
    assert len(layers(an_editor.segmentation_node, [*two_on_a_layer, third])) == 2
    reference = reference_geometry(an_editor.segmentation_node)
    for kji, expected in [([(1, 1, 2)], [first]), ([(2, 4, 3), (0, 0, 0)], [second]), ([(0, 0, 0)], [])]:
        among = [first, second, "no such segment"]
        assert segments_among(an_editor.segmentation_node, among, reference, np.array(kji)) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (-4, 9, 1)])
def test_a_slice_shows_what_the_segment_has_in_the_part_that_the_reference_has(new_editor, box, axis, start_ijk):
    editor, mask = new_editor(start_ijk=start_ijk), box(((1, 3), (2, 6), (4, 9)))
    segment_id, reference = editor.add_segment(mask), reference_geometry(editor.segmentation_node)
    i, j, k = start_ijk
    for cropped in (False, True):
        if cropped:  # as many voxels, some of which lie outside of the reference now
            editor.labelmap(segment_id).SetExtent(i - 2, i + 2, j - 1, j + 2, k + 1, k + 2)
            mask = box(((1, 3), (0, 3), (0, 3)))
        for index in range(mask.shape[axis]):
            plane = grid_slice(reference.grid, axis, index)
            shown = segment_on_plane(editor.segmentation_node, segment_id, reference, plane)
            assert np.array_equal(shown, np.moveaxis(mask, axis, 0)[index])


# Other representations ----------------------------------------------------------------------------------------------


def test_what_cannot_become_voxels_is_refused_with_the_remedy_and_kept(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")  # for which SlicerRT has the conversion
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    reference = reference_geometry(an_editor.segmentation_node)
    for function in (lambda: edit_as_labelmaps(node), lambda: segment_at(node, "s", reference, KJI)):
        with pytest.raises(ImageError, match=r"'Plan'.*'Planar contour'.*Create a binary labelmap"):
            function()
    assert segment.GetRepresentation("Planar contour") is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Planar contour"


# Where the settings of the Segment Editor allow changes -------------------------------------------------------------


Mode, EDITOR = slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLSegmentEditorNode
ALL, VISIBLE = "AllSegments", "VisibleSegments"
WHERE = ("Everywhere", f"Inside{ALL}", f"Inside{VISIBLE}", f"Outside{ALL}", f"Outside{VISIBLE}", "InsideSingleSegment")
MODES = [getattr(Mode, f"EditAllowed{where}") for where in WHERE]
INTENSITIES = np.arange(480).reshape(SHAPE).astype(np.int16) - 200


@pytest.fixture
def segments(an_editor, box):
    """The masks of an edited segment, a visible one and a hidden one that overlaps it, by their identifiers."""
    masks = [box(((0, 3), (0, 4), (0, 5))), box(((2, 5), (4, 7), (3, 8))), box(((1, 4), (2, 6), (4, 9)))]
    ids = [an_editor.add_segment(mask, own_layer=mask is masks[2]) for mask in masks]
    an_editor.show(ids[2], False)
    return dict(zip(ids, masks, strict=True))


def editable(editor, *, removing=False, intensities=None, kji=KJI):
    edited, reference = editor.segmentation.GetNthSegmentID(0), reference_geometry(editor.segmentation_node)
    return editable_at(editor.segmentation_node, editor.node, edited, reference, intensities, kji, removing=removing)


def test_intensities_must_be_in_the_range_limits_included_and_the_mask_must_allow_too(an_editor, segments):
    _, visible, hidden = segments.values()
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(-100, 50)
    in_range = (INTENSITIES >= -100) & (INTENSITIES <= 50)
    assert np.array_equal(editable(an_editor, intensities=INTENSITIES), in_range.ravel())
    an_editor.node.SetMaskMode(Mode.EditAllowedOutsideAllSegments)
    found = editable(an_editor, intensities=INTENSITIES).reshape(SHAPE)
    assert np.array_equal(found, in_range & ~visible & ~hidden)
    assert not editable(an_editor, intensities=np.full(SHAPE, np.nan, np.float32)).any()
    assert editable(an_editor, intensities=INTENSITIES, kji=np.zeros((0, 3), np.int64)).shape == (0,)
    for options, error, message in (
        ({}, ImageError, "no source volume"),
        ({"intensities": np.zeros((6, 8, 9))}, GeometryError, r"\(6, 8, 9\).*\(6, 8, 10\)"),
        ({"intensities": INTENSITIES, "kji": [(0, 0, 10)]}, GeometryError, "indices from"),
    ):
        with pytest.raises(error, match=message):
            editable(an_editor, **options)


# The same of a whole volume -----------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans(), st.booleans())
def test_forbidden_voxels_are_those_that_no_single_voxel_could_be_changed_at(
    new_editor, seed, mode, with_range, protects
):
    editor, rng = new_editor(), np.random.default_rng(seed)
    ids = [editor.add_segment(rng.random(SHAPE) < 0.3, own_layer=bool(rng.integers(2))) for _ in range(3)]
    editor.show(ids[2], bool(rng.integers(2)))
    editor.node.SetMaskMode(mode)
    editor.node.SetMaskSegmentID(ids[1])
    editor.node.SetSourceVolumeIntensityMask(with_range)
    editor.node.SetSourceVolumeIntensityMaskRange(-100.0, 150.0)
    target, protect = editor.target(ids[0]), [ids[1]] if protects else []
    expected = ~editable(editor, intensities=target.source.array)
    expected |= segments_at(editor.segmentation_node, protect, target.reference, KJI)
    found = forbidden_voxels(target, [ids[0]], protect)
    assert np.array_equal(np.zeros(SHAPE, bool) if found is None else found, expected.reshape(SHAPE))
    if mode == Mode.EditAllowedEverywhere and not with_range and not protects:
        assert found is None
    # Segments that are edited together do not limit each other.
    editor.node.SetMaskMode(Mode.EditAllowedOutsideAllSegments)
    editor.node.SetSourceVolumeIntensityMask(False)
    assert np.array_equal(forbidden_voxels(target, ids[:2], [ids[1]]), editor.mask(ids[2]))


def test_a_segment_on_another_lattice_is_brought_to_the_grid_and_an_empty_one_has_no_voxels(an_editor, box):
    finer = an_editor.reference_image()
    finer.SetSpacing(*(step / 2 for step in finer.GetSpacing()))
    finer.SetExtent(0, 19, 0, 15, 0, 11)
    finer.AllocateScalars(3, 1)
    vtk_to_numpy(finer.GetPointData().GetScalars())[:] = box(((2, 8), (4, 12), (6, 16)), (12, 16, 20)).ravel()
    segment_id, empty = (an_editor.add_segment(own_layer=True) for _ in range(2))
    an_editor.segment(segment_id).AddRepresentation("Binary labelmap", finer)
    reference = an_editor.target(segment_id).reference
    found = segments_in_volume(an_editor.segmentation_node, [segment_id], reference)
    assert found[2, 3, 4]
    assert abs(int(found.sum()) - 3 * 4 * 5) < 40
    assert not segments_in_volume(an_editor.segmentation_node, [empty, "unknown"], reference).any()
