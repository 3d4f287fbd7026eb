from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from slicer import vtkMRMLSegmentationNode as Mode

from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.source_image import SourceImages

KJI = np.argwhere(np.ones((6, 8, 10), bool))
EVERYWHERE = np.ones((6, 8, 10), bool)


@pytest.fixture
def segments(an_editor, box):
    """The masks of an edited segment, a visible one and a hidden one that overlaps it, by their identifiers."""
    masks = {
        an_editor.add_segment(box(((0, 3), (0, 4), (0, 5)))): box(((0, 3), (0, 4), (0, 5))),
        an_editor.add_segment(box(((2, 5), (4, 7), (3, 8)))): box(((2, 5), (4, 7), (3, 8))),
        an_editor.add_segment(box(((1, 4), (2, 6), (4, 9))), own_layer=True): box(((1, 4), (2, 6), (4, 9))),
    }
    an_editor.show(list(masks)[2], False)
    return masks


def editable(editor, segment_id, *, removing=False, intensities=None):
    reference = reference_geometry(editor.segmentation_node)
    found = editable_at(
        editor.segmentation_node, editor.node, segment_id, reference, intensities, KJI, removing=removing
    )
    return found.reshape(6, 8, 10)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.EditAllowedEverywhere, lambda edited, visible, hidden: EVERYWHERE),
        (Mode.EditAllowedInsideAllSegments, lambda edited, visible, hidden: edited | visible | hidden),
        (Mode.EditAllowedInsideVisibleSegments, lambda edited, visible, hidden: edited | visible),
        (Mode.EditAllowedOutsideAllSegments, lambda edited, visible, hidden: ~(visible | hidden)),
        (Mode.EditAllowedOutsideVisibleSegments, lambda edited, visible, hidden: ~visible),
    ],
)
def test_each_mask_mode_allows_what_its_name_says(an_editor, segments, mode, expected):
    an_editor.node.SetMaskMode(mode)
    assert np.array_equal(editable(an_editor, next(iter(segments))), expected(*segments.values()))


def test_inside_a_single_segment_only_its_voxels_are_editable(an_editor, segments):
    edited, _, hidden = segments
    an_editor.node.SetMaskMode(Mode.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(hidden)
    assert np.array_equal(editable(an_editor, edited), segments[hidden])


def test_inside_a_single_segment_all_of_the_edited_segment_can_be_removed(an_editor, segments):
    edited, _, hidden = segments
    an_editor.node.SetMaskMode(Mode.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(hidden)
    assert np.array_equal(editable(an_editor, edited, removing=True), segments[hidden] | segments[edited])


@pytest.mark.parametrize("mask_segment", [None, "", "gone"])
def test_inside_a_segment_that_does_not_exist_nothing_is_editable(an_editor, segments, mask_segment):
    an_editor.node.SetMaskMode(Mode.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(mask_segment)
    assert not editable(an_editor, next(iter(segments))).any()


def test_only_intensities_in_the_range_are_editable_limits_included(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(-100, 50)
    intensities = np.arange(480).reshape(6, 8, 10).astype(np.int16) - 200
    found = editable(an_editor, next(iter(segments)), intensities=intensities)
    assert np.array_equal(found, (intensities >= -100) & (intensities <= 50))


def test_mask_and_intensity_range_must_both_allow(an_editor, segments):
    edited, visible, hidden = segments.values()
    an_editor.node.SetMaskMode(Mode.EditAllowedOutsideAllSegments)
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(0.0, 1.0)
    intensities = np.where(edited, 0.5, 3.0).astype(np.float32)
    found = editable(an_editor, next(iter(segments)), intensities=intensities)
    assert np.array_equal(found, edited & ~visible & ~hidden)


def test_voxels_that_are_not_a_number_are_in_no_range(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(-1e9, 1e9)
    intensities = np.full((6, 8, 10), np.nan, np.float32)
    assert not editable(an_editor, next(iter(segments)), intensities=intensities).any()


def test_the_array_of_the_source_image_serves(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(0, 10)
    node = an_editor.segmentation_node
    source = SourceImages().get(an_editor.volume, node, reference_geometry(node))
    assert editable(an_editor, next(iter(segments)), intensities=source.masking_array).sum() == 11


def test_without_voxels_there_is_nothing_to_tell(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    reference = reference_geometry(an_editor.segmentation_node)
    nothing, intensities = np.zeros((0, 3), np.int64), np.zeros((6, 8, 10))
    found = editable_at(
        an_editor.segmentation_node, an_editor.node, next(iter(segments)), reference, intensities, nothing, False
    )
    assert found.shape == (0,)


def test_an_intensity_range_without_an_image_is_refused(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    with pytest.raises(ImageError, match="no source volume"):
        editable(an_editor, next(iter(segments)))


def test_intensities_on_another_grid_are_refused(an_editor, segments):
    an_editor.node.SourceVolumeIntensityMaskOn()
    with pytest.raises(GeometryError, match=r"\(6, 8, 9\).*\(6, 8, 10\)"):
        editable(an_editor, next(iter(segments)), intensities=np.zeros((6, 8, 9)))


def test_voxels_outside_the_grid_are_refused(an_editor, segments):
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(GeometryError, match="indices from"):
        editable_at(
            an_editor.segmentation_node, an_editor.node, next(iter(segments)), reference, None, [(0, 0, 10)], False
        )
