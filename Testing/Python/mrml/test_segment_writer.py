from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import slicer
import vtk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.exceptions import GeometryError, PromptError
from scribblesegment.mrml.edit_mask import editable_at
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.segment_writer import write_voxels
from scribblesegment.mrml.source_image import SourceImages

NODE = slicer.vtkMRMLSegmentationNode
EDITOR = slicer.vtkMRMLSegmentEditorNode
LOGIC = slicer.vtkSlicerSegmentEditorLogic
MASK_MODES = (
    NODE.EditAllowedEverywhere,
    NODE.EditAllowedInsideAllSegments,
    NODE.EditAllowedInsideVisibleSegments,
    NODE.EditAllowedOutsideAllSegments,
    NODE.EditAllowedOutsideVisibleSegments,
    NODE.EditAllowedInsideSingleSegment,
)
OVERWRITE_MODES = (EDITOR.OverwriteAllSegments, EDITOR.OverwriteVisibleSegments, EDITOR.OverwriteNone)
NOTHING = np.zeros((0, 3), np.int64)

with_editors = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def kji_of(mask):
    return np.argwhere(mask)


def write(editor, segment_id, added=None, removed=None, **how):
    reference = reference_geometry(editor.segmentation_node)
    return write_voxels(
        editor.segmentation_node,
        editor.node,
        segment_id,
        reference,
        NOTHING if added is None else kji_of(added),
        NOTHING if removed is None else kji_of(removed),
        **how,
    )


def write_where_editable(editor, segment_id, added, removed, **how):
    """As the effect does: mask first, then write."""
    node = editor.segmentation_node
    reference = reference_geometry(node)
    intensities = SourceImages().get(editor.volume, node, reference).masking_array

    def editable(mask, removing):
        kji = kji_of(mask)
        return kji[editable_at(node, editor.node, segment_id, reference, intensities, kji, removing)]

    added, removed = editable(added, False), editable(removed, True)
    return write_voxels(node, editor.node, segment_id, reference, added, removed, **how)


@dataclass(frozen=True)
class Settings:
    """A segmentation of four segments, the first of which is edited, and the settings of the Segment Editor."""

    seed: int
    own_layer: tuple[bool, bool, bool, bool]
    empty: tuple[bool, bool, bool, bool]
    visible: tuple[bool, bool, bool, bool]
    mask_mode: int
    mask_segment: int | None
    overwrite_mode: int
    intensity_range: tuple[float, float] | None

    def build(self, new_editor):
        editor, rng = new_editor(), np.random.default_rng(self.seed)
        shape = (6, 8, 10)
        layer = rng.integers(0, 6, shape)
        ids = []
        for number, (own, empty) in enumerate(zip(self.own_layer, self.empty, strict=True)):
            mask = rng.random(shape) < 0.3 if own else layer == number
            mask &= np.arange(shape[2]) < rng.integers(3, 11)  # extents that differ
            ids.append(editor.add_segment(mask & (not empty), own_layer=own))
        for segment_id, visible in zip(ids, self.visible, strict=True):
            editor.show(segment_id, visible)
        editor.node.SetMaskMode(self.mask_mode)
        editor.node.SetMaskSegmentID(None if self.mask_segment is None else ids[self.mask_segment])
        editor.node.SetOverwriteMode(self.overwrite_mode)
        if self.intensity_range is not None:
            editor.node.SourceVolumeIntensityMaskOn()
            editor.node.SetSourceVolumeIntensityMaskRange(*self.intensity_range)
        editor.node.SetSelectedSegmentID(ids[0])
        return editor, ids

    def slicer_forgets(self, number):
        """Whether Slicer may leave a segment whole that the overwrite mode says should give way.

        Of the visible segments on one layer with an invisible one, it only shortens the first: that one it moves to
        another layer, and then takes the old layer for done.
        """
        layer = [other for other in (1, 2, 3) if not self.own_layer[other]]
        visible = [other for other in layer if self.visible[other]]
        only_some = self.overwrite_mode == EDITOR.OverwriteVisibleSegments and visible != layer
        return only_some and number in visible[1:]

    def changes(self):
        rng = np.random.default_rng(self.seed + 1)
        draw, region = rng.random((6, 8, 10)), np.zeros((6, 8, 10), bool)
        low = rng.integers(0, (4, 5, 6))
        region[tuple(slice(start, start + rng.integers(1, 5)) for start in low)] = True
        return region & (draw < 0.45), region & (draw > 0.55)


four = st.tuples(*[st.booleans()] * 4)
any_settings = st.builds(
    Settings,
    seed=st.integers(0, 2**32 - 2),
    own_layer=four,
    empty=st.sampled_from([(False,) * 4] * 5 + [(True, False, False, False), (False, True, True, True), (True,) * 4]),
    visible=four,
    mask_mode=st.sampled_from(MASK_MODES),
    mask_segment=st.sampled_from([0, 1, 2, 3, None]),
    overwrite_mode=st.sampled_from(OVERWRITE_MODES),
    intensity_range=st.sampled_from([None, (-150.0, 120.0), (-20.6, 400.4), (5000.0, 6000.0)]),
)


def slicer_modify(editor, segment_id, added, removed):
    if removed.any():
        editor.modify(segment_id, removed, LOGIC.ModificationModeRemove)
    if added.any():
        editor.modify(segment_id, added, LOGIC.ModificationModeAdd)


@pytest.mark.parametrize("what", ["added", "removed", "both"])
@with_editors
@given(situation=any_settings)
def test_the_result_is_that_of_slicer_s_own_effects(new_editor, what, situation):
    added, removed = situation.changes()
    if what == "added":
        removed = np.zeros_like(removed)
    if what == "removed":
        added = np.zeros_like(added)
    (ours, our_ids), (theirs, their_ids) = situation.build(new_editor), situation.build(new_editor)
    slicer_modify(theirs, their_ids[0], added, removed)
    write_where_editable(ours, our_ids[0], added, removed)
    for number, (our_id, their_id) in enumerate(zip(our_ids, their_ids, strict=True)):
        if not situation.slicer_forgets(number):
            assert np.array_equal(ours.mask(our_id), theirs.mask(their_id)), f"segment {number}"
