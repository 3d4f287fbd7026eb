"""Where the settings of the Segment Editor allow changes: of single voxels, of a volume, and whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_inference import RegionInference

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import segments_at
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.propagation import forbidden_voxels, segments_in_volume
from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter

Mode, EDITOR = slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLSegmentEditorNode
ALL, VISIBLE = "AllSegments", "VisibleSegments"
WHERE = ("Everywhere", f"Inside{ALL}", f"Inside{VISIBLE}", f"Outside{ALL}", f"Outside{VISIBLE}", "InsideSingleSegment")
MODES = [getattr(Mode, f"EditAllowed{where}") for where in WHERE]
SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))
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


# Whatever is drawn --------------------------------------------------------------------------------------------------

DRAWN = (5, 16, 18)
three = st.tuples(*[st.booleans()] * 3)
ends = st.tuples(*(st.tuples(st.integers(0, side), st.integers(0, side)).map(sorted) for side in DRAWN))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=st.tuples(ends, ends, ends),
    own_layers=three,
    visible=three,
    overwrite=st.sampled_from([EDITOR.OverwriteNone, EDITOR.OverwriteVisibleSegments, EDITOR.OverwriteAllSegments]),
    mode=st.sampled_from(MODES),
    limits=st.none() | st.tuples(st.integers(0, 150), st.integers(150, 300)),
    protect=st.booleans(),
    stroke=st.tuples(*[st.tuples(st.integers(0, 14), st.integers(0, 14))] * 2),
    positive=st.booleans(),
    axis=st.integers(0, 2),
)
def test_no_stroke_changes_what_the_settings_protect(
    new_editor, box, boxes, own_layers, visible, overwrite, mode, limits, protect, stroke, positive, axis
):
    array = np.random.default_rng(3).integers(0, 300, DRAWN).astype(np.int16)
    editor = new_editor(array, np.eye(4))
    ids = [editor.add_segment(box(one, DRAWN), own_layer=own) for one, own in zip(boxes, own_layers, strict=True)]
    for segment_id, shown in zip(ids, visible, strict=True):
        editor.show(segment_id, shown)
    editor.node.SetSelectedSegmentID(ids[0])
    editor.node.SetOverwriteMode(overwrite)
    editor.node.SetMaskMode(mode)
    editor.node.SetMaskSegmentID(ids[1])
    if limits is not None:
        editor.node.SourceVolumeIntensityMaskOn()
        editor.node.SetSourceVolumeIntensityMaskRange(*limits)
    view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetSliceToRASByNTP(*np.eye(3)[2 - axis], *np.eye(3)[(3 - axis) % 3], 2.0, 2.0, 2.0, 0)
    points = np.full((2, 3), 2.0)
    for point, positions in zip(points, stroke, strict=True):
        for other, position in zip((other for other in range(3) if other != axis), positions, strict=True):
            point[2 - other] = min(position, DRAWN[other] - 1)
    inference = RegionInference()
    options = SegmenterOptions(protect_visible=protect)
    controller = SliceSegmenter(inference, save_state=editor.logic.SaveStateForUndo, options=options)
    before = [editor.mask(segment_id) for segment_id in ids]
    controller.paint(editor.node, view, np.linspace(*points, 9), 1.2, positive=positive)
    inference.finish()
    assert controller.poll().problem is None
    changed = [old != editor.mask(segment_id) for old, segment_id in zip(before, ids, strict=True)]
    anywhere = np.logical_or.reduce(changed)

    assert not np.delete(np.moveaxis(anywhere, axis, 0), 2, axis=0).any(), "another slice changed"
    inside_one = mode == Mode.EditAllowedInsideSingleSegment
    if limits is not None:
        beyond = (array < limits[0]) | (array > limits[1])
        if inside_one:  # Slicer lets every voxel of the edited segment be erased in this mode
            beyond &= ~before[0]
        assert not (anywhere & beyond).any(), "outside the editable intensities"
    for number in (1, 2):
        if protect and visible[number]:
            assert not changed[number].any(), "a protected segment changed"
        gives_back = inside_one and number == 1  # what is erased goes back to that segment
        may_lose = overwrite == EDITOR.OverwriteAllSegments or (
            overwrite == EDITOR.OverwriteVisibleSegments and visible[number]
        )
        if not may_lose and not gives_back:
            assert not changed[number].any(), "a segment changed against the overwrite mode"
        assert gives_back or not (changed[number] & ~before[number]).any(), "another segment grew"
    locked = {
        Mode.EditAllowedOutsideAllSegments: before[1] | before[2],
        Mode.EditAllowedOutsideVisibleSegments: (before[1] & visible[1]) | (before[2] & visible[2]),
        Mode.EditAllowedInsideAllSegments: ~np.logical_or.reduce(before),
    }.get(mode, np.zeros(DRAWN, bool))
    assert not (anywhere & locked).any(), "outside the editable area"
