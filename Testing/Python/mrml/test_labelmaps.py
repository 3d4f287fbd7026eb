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
from scribblesegment.errors import ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import (
    edit_as_labelmaps,
    segment_at,
    segment_on_plane,
    segments_at,
    segments_in_volume,
)
from scribblesegment.mrml.masking import editable_at, forbidden_voxels

SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))


# Segments -----------------------------------------------------------------------------------------------------------


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


def editable(editor, *, removing=False, intensities=None, kji=KJI):
    edited, reference = editor.segmentation.GetNthSegmentID(0), reference_geometry(editor.segmentation_node)
    return editable_at(editor.segmentation_node, editor.node, edited, reference, intensities, kji, removing=removing)


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
