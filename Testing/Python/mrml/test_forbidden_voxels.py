"""Tests of scribblesegment.mrml.propagation, held against edit_mask, which says the same of single voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.labelmaps import segments_at
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.propagation import forbidden_voxels, segments_in_volume
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.target import target_of

SHAPE = (6, 8, 10)
NODE = slicer.vtkMRMLSegmentationNode
MODES = [
    NODE.EditAllowedEverywhere,
    NODE.EditAllowedInsideAllSegments,
    NODE.EditAllowedInsideVisibleSegments,
    NODE.EditAllowedOutsideAllSegments,
    NODE.EditAllowedOutsideVisibleSegments,
    NODE.EditAllowedInsideSingleSegment,
]
EVERYWHERE = np.argwhere(np.ones(SHAPE, bool))


def random_mask(rng):
    return rng.random(SHAPE) < 0.3


@pytest.fixture
def three_segments(new_editor):
    def make(seed):
        editor, rng = new_editor(), np.random.default_rng(seed)
        ids = [editor.add_segment(random_mask(rng), own_layer=bool(rng.integers(2))) for _ in range(3)]
        editor.show(ids[2], bool(rng.integers(2)))
        return editor, ids

    return make


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans(), st.booleans())
def test_it_is_the_edit_mask_of_every_voxel(three_segments, seed, mode, with_range, protects):
    editor, ids = three_segments(seed)
    editor.node.SetMaskMode(mode)
    editor.node.SetMaskSegmentID(ids[1])
    editor.node.SetSourceVolumeIntensityMask(with_range)
    editor.node.SetSourceVolumeIntensityMaskRange(-100.0, 150.0)
    target = target_of(editor.node, editor.segmentation_node, ids[0], SourceImages())
    protect = [ids[1]] if protects else []
    expected = ~editable_at(
        editor.segmentation_node, editor.node, ids[0], target.reference, target.source.array, EVERYWHERE, removing=False
    )
    expected |= segments_at(editor.segmentation_node, protect, target.reference, EVERYWHERE)
    found = forbidden_voxels(target, [ids[0]], protect)
    assert np.array_equal(np.zeros(SHAPE, bool) if found is None else found, expected.reshape(SHAPE))
    if mode == NODE.EditAllowedEverywhere and not with_range and not protects:
        assert found is None


def test_segments_that_are_edited_together_do_not_limit_each_other(three_segments):
    editor, ids = three_segments(0)
    editor.node.SetMaskMode(NODE.EditAllowedOutsideAllSegments)
    target = target_of(editor.node, editor.segmentation_node, ids[0], SourceImages())
    found = forbidden_voxels(target, ids[:2], [ids[1]])
    assert np.array_equal(found, editor.mask(ids[2]))


def test_a_segment_on_another_lattice_is_brought_to_the_grid(an_editor, box):
    finer = an_editor.reference_image()
    spacing = [step / 2 for step in finer.GetSpacing()]
    finer.SetSpacing(*spacing)
    finer.SetExtent(0, 19, 0, 15, 0, 11)
    finer.AllocateScalars(3, 1)
    from vtkmodules.util.numpy_support import vtk_to_numpy

    vtk_to_numpy(finer.GetPointData().GetScalars())[:] = box(((2, 8), (4, 12), (6, 16)), (12, 16, 20)).ravel()
    segment_id = an_editor.add_segment(own_layer=True)
    an_editor.segment(segment_id).AddRepresentation("Binary labelmap", finer)
    target = target_of(an_editor.node, an_editor.segmentation_node, segment_id, SourceImages())
    found = segments_in_volume(an_editor.segmentation_node, [segment_id], target.reference)
    assert found[2, 3, 4]
    assert abs(int(found.sum()) - 3 * 4 * 5) < 40


def test_segments_without_voxels_forbid_nothing(an_editor):
    empty = an_editor.add_segment()
    target = target_of(an_editor.node, an_editor.segmentation_node, empty, SourceImages())
    assert not segments_in_volume(an_editor.segmentation_node, [empty, "unknown"], target.reference).any()
