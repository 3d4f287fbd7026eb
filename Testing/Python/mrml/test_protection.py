"""Whatever is drawn: what the user's settings protect does not change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_inference import RegionInference

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.slice_segmenter import ControllerOptions, ScribbleController

SHAPE = (5, 16, 18)
SEGMENT = slicer.vtkMRMLSegmentationNode
EDITOR = slicer.vtkMRMLSegmentEditorNode


@dataclass
class Situation:
    """Three segments, the editor's settings, and a stroke."""

    boxes: list[tuple[tuple[int, int], ...]]
    own_layers: list[bool]
    visible: list[bool]
    overwrite_mode: int
    mask_mode: int
    intensity_range: tuple[int, int] | None
    protect: bool
    stroke: tuple[int, int, int, int]
    positive: bool
    axis: int


def box_in(shape):
    def ordered(size):
        return st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted).map(tuple)

    return st.tuples(*(ordered(size) for size in shape))


situations = st.builds(
    Situation,
    boxes=st.lists(box_in(SHAPE), min_size=3, max_size=3),
    own_layers=st.lists(st.booleans(), min_size=3, max_size=3),
    visible=st.lists(st.booleans(), min_size=3, max_size=3),
    overwrite_mode=st.sampled_from(
        [EDITOR.OverwriteNone, EDITOR.OverwriteVisibleSegments, EDITOR.OverwriteAllSegments]
    ),
    mask_mode=st.sampled_from(
        [
            SEGMENT.EditAllowedEverywhere,
            SEGMENT.EditAllowedInsideAllSegments,
            SEGMENT.EditAllowedInsideVisibleSegments,
            SEGMENT.EditAllowedOutsideAllSegments,
            SEGMENT.EditAllowedOutsideVisibleSegments,
            SEGMENT.EditAllowedInsideSingleSegment,
        ]
    ),
    intensity_range=st.none() | st.tuples(st.integers(0, 150), st.integers(150, 300)),
    protect=st.booleans(),
    stroke=st.tuples(st.integers(0, 14), st.integers(0, 14), st.integers(0, 14), st.integers(0, 14)),
    positive=st.booleans(),
    axis=st.integers(0, 2),
)


def draw(new_editor, situation):
    """Segments before and after one stroke, by number, and which slice was shown: (axis, index)."""
    array = np.random.default_rng(3).integers(0, 300, SHAPE).astype(np.int16)
    editor = new_editor(array, np.eye(4))
    ids = []
    for box, own_layer in zip(situation.boxes, situation.own_layers, strict=True):
        mask = np.zeros(SHAPE, bool)
        mask[tuple(slice(*ends) for ends in box)] = True
        ids.append(editor.add_segment(mask, own_layer=own_layer))
    for segment_id, visible in zip(ids, situation.visible, strict=True):
        editor.show(segment_id, visible)
    editor.node.SetSelectedSegmentID(ids[0])
    editor.node.SetOverwriteMode(situation.overwrite_mode)
    editor.node.SetMaskMode(situation.mask_mode)
    editor.node.SetMaskSegmentID(ids[1])
    if situation.intensity_range is not None:
        editor.node.SourceVolumeIntensityMaskOn()
        editor.node.SetSourceVolumeIntensityMaskRange(*situation.intensity_range)
    view = slicer.vtkMRMLSliceNode()
    view.SetLayoutName("Red")
    editor.scene.AddNode(view)
    normal, across = np.eye(3)[2 - situation.axis], np.eye(3)[(3 - situation.axis) % 3]
    view.SetSliceToRASByNTP(*normal, *across, 2.0, 2.0, 2.0, 0)
    inference = RegionInference()
    options = ControllerOptions(protect_visible=situation.protect)
    controller = ScribbleController(inference, save_state=editor.logic.SaveStateForUndo, options=options)
    before = [editor.mask(segment_id) for segment_id in ids]
    in_plane = [axis for axis in range(3) if axis != situation.axis]
    ends = np.full((2, 3), 2.0)
    for row, (first, second) in enumerate((situation.stroke[:2], situation.stroke[2:])):
        for axis, position in zip(in_plane, (first, second), strict=True):
            ends[row, 2 - axis] = min(position, SHAPE[axis] - 1)
    controller.paint(editor.node, view, np.linspace(*ends, 9), 1.2, positive=situation.positive)
    inference.finish()
    assert controller.poll().problem is None
    return array, before, [editor.mask(segment_id) for segment_id in ids]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(situation=situations)
def test_nothing_changes_that_the_settings_protect(new_editor, situation):
    array, before, after = draw(new_editor, situation)
    changed = [old != new for old, new in zip(before, after, strict=True)]
    anywhere = np.logical_or.reduce(changed)

    shown = np.zeros(SHAPE, bool)
    np.moveaxis(shown, situation.axis, 0)[2] = True
    assert not (anywhere & ~shown).any(), "another slice changed"

    if situation.intensity_range is not None:
        low, high = situation.intensity_range
        beyond = (array < low) | (array > high)
        if situation.mask_mode == SEGMENT.EditAllowedInsideSingleSegment:
            beyond &= ~before[0]  # in this mode Slicer lets every voxel of the edited segment be erased
        assert not (anywhere & beyond).any(), "outside the editable intensities"

    for number in (1, 2):
        if situation.protect and situation.visible[number]:
            assert not changed[number].any(), "a protected segment changed"
        overwritable = {
            EDITOR.OverwriteNone: False,
            EDITOR.OverwriteVisibleSegments: situation.visible[number],
            EDITOR.OverwriteAllSegments: True,
        }[situation.overwrite_mode]
        # In "inside one segment", what is erased goes back to that segment.
        gives_back = situation.mask_mode == SEGMENT.EditAllowedInsideSingleSegment and number == 1
        if not overwritable and not gives_back:
            assert not changed[number].any(), "a segment changed against the overwrite mode"
        assert gives_back or not (changed[number] & ~before[number]).any(), "another segment grew"

    locked = {
        SEGMENT.EditAllowedOutsideAllSegments: before[1] | before[2],
        SEGMENT.EditAllowedOutsideVisibleSegments: np.logical_or.reduce(
            [mask for mask, visible in zip(before[1:], situation.visible[1:], strict=True) if visible]
            or [np.zeros(SHAPE, bool)]
        ),
        SEGMENT.EditAllowedInsideAllSegments: ~np.logical_or.reduce(before),
    }.get(situation.mask_mode)
    if locked is not None:
        assert not (anywhere & locked).any(), "outside the editable area"
