from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkFiltersSources import vtkSphereSource

from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import blank_labelmap, voxels_of
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.writer import write_voxels

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

with_editors = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


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


@with_editors
@given(situation=any_settings, protect=st.sets(st.sampled_from([1, 2, 3]), min_size=1))
def test_protected_segments_never_change(new_editor, situation, protect):
    editor, ids = situation.build(new_editor)
    protected = [ids[number] for number in protect]
    added, removed = situation.changes()
    before = editor.masks()
    write_where_editable(editor, ids[0], added, removed, protect=protected)
    after = editor.masks()
    taken = np.any([before[segment_id] for segment_id in protected], axis=0)
    for segment_id in protected:
        assert np.array_equal(after[segment_id], before[segment_id])
    assert not (after[ids[0]] & ~before[ids[0]] & taken).any()


@with_editors
@given(situation=any_settings, axis=st.sampled_from([0, 1, 2]), index=st.integers(0, 5))
def test_other_slices_never_change(new_editor, situation, axis, index):
    editor, ids = situation.build(new_editor)
    added, removed = situation.changes()
    others = np.moveaxis(np.ones_like(added), axis, 0)
    others[index] = False
    others = np.moveaxis(others, 0, axis)
    before = editor.masks()
    write_where_editable(editor, ids[0], added & ~others, removed & ~others)
    for segment_id, after in editor.masks().items():
        assert np.array_equal(after[others], before[segment_id][others])


@with_editors
@given(situation=any_settings)
def test_the_box_that_is_returned_holds_every_change_and_fits_it(new_editor, situation):
    editor, ids = situation.build(new_editor)
    before = editor.masks()
    changed_box = write_where_editable(editor, ids[0], *situation.changes())
    changed = np.argwhere(np.any([after != before[segment_id] for segment_id, after in editor.masks().items()], axis=0))
    if not len(changed):
        assert changed_box is None
    else:
        fitting = zip(changed.min(axis=0).tolist(), (changed.max(axis=0) + 1).tolist(), strict=True)
        assert changed_box == tuple(fitting)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_every_visible_neighbour_gives_way_beside_a_hidden_one(an_editor, box, hidden):
    boxes = [None, *(box(((1, 4), (2 * n, 2 * n + 2), (0, 10))) for n in (1, 2, 3))]
    ids = [an_editor.add_segment(mask) for mask in boxes]
    an_editor.show(ids[hidden], False)
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteVisibleSegments)
    stroke = box(((2, 3), (0, 8), (4, 6)))
    write(an_editor, ids[0], added=stroke)
    assert np.array_equal(an_editor.mask(ids[0]), stroke)
    for number in (1, 2, 3):
        expected = boxes[number] if number == hidden else boxes[number] & ~stroke
        assert np.array_equal(an_editor.mask(ids[number]), expected)


@pytest.fixture
def two_segments(an_editor, box):
    """An edited segment and a neighbour that touches it, on one layer."""
    ids = an_editor.add_segment(box(((1, 4), (1, 4), (1, 5)))), an_editor.add_segment(box(((1, 4), (4, 7), (1, 5))))
    assert an_editor.share_a_layer(*ids)
    return ids


def test_a_neighbour_that_may_be_overwritten_stays_on_the_layer(an_editor, two_segments, box):
    edited, neighbour = two_segments
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))))
    assert an_editor.share_a_layer(edited, neighbour)
    assert an_editor.mask(neighbour).sum() == 36 - 4


def test_overlap_moves_the_edited_segment_to_its_own_layer(an_editor, two_segments, box):
    edited, neighbour = two_segments
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))))
    assert not an_editor.share_a_layer(edited, neighbour)
    assert np.array_equal(an_editor.mask(neighbour), box(((1, 4), (4, 7), (1, 5))))
    assert np.array_equal(an_editor.mask(edited), box(((1, 4), (1, 4), (1, 5))) | box(((2, 3), (3, 6), (2, 4))))


def test_without_overlap_segments_stay_on_one_layer_whatever_the_mode(an_editor, two_segments, box):
    edited, neighbour = two_segments
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    write(an_editor, edited, added=box(((0, 6), (0, 1), (0, 10))), removed=box(((1, 2), (1, 4), (1, 5))))
    assert an_editor.share_a_layer(edited, neighbour)


def test_removing_inside_one_segment_gives_the_voxels_to_it(an_editor, two_segments, box):
    edited, neighbour = two_segments
    an_editor.node.SetMaskMode(NODE.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(neighbour)
    removed = box(((1, 2), (1, 4), (1, 5)))
    write(an_editor, edited, removed=removed)
    assert np.array_equal(an_editor.mask(edited), box(((2, 4), (1, 4), (1, 5))))
    assert np.array_equal(an_editor.mask(neighbour), box(((1, 4), (4, 7), (1, 5))) | removed)


@pytest.mark.parametrize("mask_segment", ["gone", None, "itself", "protected"])
def test_removed_voxels_fall_to_nobody_where_there_is_no_heir(an_editor, two_segments, box, mask_segment):
    edited, neighbour = two_segments
    an_editor.node.SetMaskMode(NODE.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID({"itself": edited, "protected": neighbour}.get(mask_segment, mask_segment))
    write(an_editor, edited, removed=box(((1, 2), (1, 4), (1, 5))), protect=[neighbour])
    assert np.array_equal(an_editor.mask(edited), box(((2, 4), (1, 4), (1, 5))))
    assert np.array_equal(an_editor.mask(neighbour), box(((1, 4), (4, 7), (1, 5))))


def test_the_edited_segment_cannot_be_protected_from_itself(an_editor, two_segments, box):
    edited, _ = two_segments
    write(an_editor, edited, removed=box(((0, 6), (0, 8), (0, 10))), protect=list(two_segments))
    assert not an_editor.mask(edited).any()


def test_a_voxel_that_is_both_added_and_removed_is_in_the_segment(an_editor, two_segments, box):
    edited, _ = two_segments
    stroke = box(((2, 3), (0, 4), (0, 4)))
    write(an_editor, edited, added=stroke, removed=stroke)
    assert an_editor.mask(edited)[stroke].all()


def test_nothing_to_change_is_no_change(an_editor, two_segments, box):
    edited, _ = two_segments
    before = an_editor.segmentation.GetMTime(), an_editor.labelmap(edited).GetMTime()
    assert write(an_editor, edited, added=box(((1, 2), (1, 4), (1, 5))), removed=box(((5, 6), (0, 8), (0, 10)))) is None
    assert write(an_editor, edited) is None
    assert (an_editor.segmentation.GetMTime(), an_editor.labelmap(edited).GetMTime()) == before


def test_only_as_much_as_is_needed_is_kept_in_memory(an_editor, box):
    segment_id = an_editor.add_segment()
    write(an_editor, segment_id, added=box(((2, 3), (1, 4), (2, 5))))
    assert an_editor.labelmap(segment_id).GetExtent() == (2, 4, 1, 3, 2, 2)
    write(an_editor, segment_id, added=box(((4, 5), (0, 4), (2, 5))))
    assert an_editor.labelmap(segment_id).GetExtent() == (2, 4, 0, 3, 2, 4)
    write(an_editor, segment_id, removed=box(((4, 5), (0, 8), (0, 10))))
    assert an_editor.labelmap(segment_id).GetExtent() == (2, 4, 1, 3, 2, 2)


def test_the_last_voxels_can_be_removed_and_others_added(an_editor, box):
    everything = box(((0, 6), (0, 8), (0, 10)))
    segment_id = an_editor.add_segment(box(((2, 3), (1, 4), (2, 5))))
    write(an_editor, segment_id, removed=everything)
    assert not an_editor.mask(segment_id).any()
    write(an_editor, segment_id, added=everything)
    assert an_editor.mask(segment_id).all()


def test_extents_that_do_not_start_at_zero_are_written_to(new_editor, box):
    editor = new_editor(start_ijk=(-4, 13, 5))
    segment_id = editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    write(editor, segment_id, added=box(((0, 6), (7, 8), (9, 10))), removed=box(((1, 2), (1, 4), (2, 6))))
    expected = box(((0, 6), (7, 8), (9, 10))) | box(((2, 3), (1, 4), (2, 6)))
    assert np.array_equal(editor.mask(segment_id), expected)


def test_a_volume_of_one_slice_is_written_to(new_editor, box):
    editor = new_editor(np.zeros((1, 5, 7), np.int16))
    segment_id = editor.add_segment()
    stroke = box(((0, 1), (1, 4), (2, 6)), (1, 5, 7))
    assert write(editor, segment_id, added=stroke) == ((0, 1), (1, 4), (2, 6))
    assert np.array_equal(editor.mask(segment_id), stroke)


def test_a_segment_that_never_had_a_label_map_gets_one(an_editor, box):
    segment = slicer.vtkSegment()
    an_editor.segmentation.AddSegment(segment, "bare")
    segment.RemoveRepresentation("Binary labelmap")
    write(an_editor, "bare", added=box(((1, 3), (1, 4), (2, 6))))
    assert np.array_equal(an_editor.mask("bare"), box(((1, 3), (1, 4), (2, 6))))


@pytest.mark.parametrize("label", [2, 255, 300, 70000])
def test_labels_that_the_label_map_cannot_hold_yet_are_written(an_editor, box, label):
    first = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    segment_id = an_editor.add_segment()
    an_editor.segment(segment_id).SetLabelValue(label)
    write(an_editor, segment_id, added=box(((1, 3), (5, 7), (2, 6))))
    assert an_editor.share_a_layer(first, segment_id)
    assert np.array_equal(an_editor.mask(segment_id), box(((1, 3), (5, 7), (2, 6))))
    assert np.array_equal(an_editor.mask(first), box(((1, 3), (1, 4), (2, 6))))


@pytest.fixture
def imported_pair(an_editor, oblique, matrix_of):
    """Two segments on one layer, whose voxels are turned against those of the volume that they lie in."""
    lattice = slicer.vtkOrientedImageData()
    turned = oblique.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.9, 0.2, 0], [-0.2, 0.9, 0.1], [0, -0.1, 1.1]]) * 0.83
    turned[:3, 3] = (oblique @ (1.5, 2.5, 1.2, 1))[:3]
    lattice.SetExtent(0, 7, 0, 4, 0, 3)
    lattice.SetImageToWorldMatrix(matrix_of(turned))
    labelmap = blank_labelmap(lattice, lattice.GetExtent())
    ids = []
    for label, columns in ((1, slice(0, 4)), (2, slice(4, 8))):
        voxels_of(labelmap)[..., columns] = label
        segment = slicer.vtkSegment()
        segment.SetLabelValue(label)
        segment.AddRepresentation("Binary labelmap", labelmap)
        assert an_editor.segmentation.AddSegment(segment, f"imported {label}")
        ids.append(f"imported {label}")
    return ids


def test_an_imported_segment_is_edited_on_the_volume_s_voxels(an_editor, imported_pair):
    edited, neighbour = imported_pair
    before, untouched = an_editor.masks(), an_editor.labelmap(neighbour)
    stroke = np.zeros_like(before[edited])
    stroke[1:3, 0:4, :] = True
    removed = before[edited] & ~stroke
    removed[:2] = False
    write(an_editor, edited, added=stroke, removed=removed)
    assert np.array_equal(an_editor.mask(edited), (before[edited] & ~removed) | stroke)
    assert np.array_equal(an_editor.mask(neighbour), before[neighbour] & ~stroke)
    assert before[neighbour][stroke].any()
    assert an_editor.labelmap(neighbour) is not untouched


def test_a_protected_imported_neighbour_keeps_its_own_voxels(an_editor, imported_pair):
    edited, neighbour = imported_pair
    values = voxels_of(an_editor.labelmap(neighbour)) == 2
    geometry = an_editor.labelmap(neighbour).GetOrigin(), an_editor.labelmap(neighbour).GetSpacing()
    everything = np.ones_like(an_editor.mask(edited))
    taken = an_editor.mask(neighbour)
    write(an_editor, edited, added=everything, protect=[neighbour])
    labelmap = an_editor.labelmap(neighbour)
    assert np.array_equal(voxels_of(labelmap) == an_editor.segment(neighbour).GetLabelValue(), values)
    assert (labelmap.GetOrigin(), labelmap.GetSpacing()) == geometry
    assert np.array_equal(an_editor.mask(edited), ~taken)


def surface_of(editor, segment_id):
    surface = editor.segment(segment_id).GetRepresentation("Closed surface")
    return None if surface is None or not surface.GetPoints() else vtk_to_numpy(surface.GetPoints().GetData()).copy()


def converted_again(editor, segment_id):
    """The surface that Slicer makes of the segment as it is now."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(editor.segmentation)
    assert copy.CreateRepresentation("Closed surface", True)
    return vtk_to_numpy(copy.GetSegment(segment_id).GetRepresentation("Closed surface").GetPoints().GetData())


def count_events(editor, **names):
    """Counts events of the segmentation by the segment they are about."""
    counts = {name: [] for name in names}

    def observe(name, event):
        def remember(_caller, _event, segment_id):
            counts[name].append(segment_id)

        remember.CallDataType = 13  # VTK_STRING
        editor.segmentation.AddObserver(event, remember)

    for name, event in names.items():
        observe(name, event)
    return counts


def test_surfaces_of_what_changed_are_made_again_and_those_of_others_kept(an_editor, two_segments, box):
    edited, neighbour = two_segments
    bystander = an_editor.add_segment(box(((4, 6), (1, 8), (6, 10))))
    assert an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    before = {segment_id: surface_of(an_editor, segment_id) for segment_id in (edited, neighbour, bystander)}
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))), removed=box(((3, 4), (1, 3), (1, 3))))
    for segment_id in (edited, neighbour):
        assert not np.array_equal(surface_of(an_editor, segment_id), before[segment_id])
        assert np.array_equal(surface_of(an_editor, segment_id), converted_again(an_editor, segment_id))
    assert np.array_equal(surface_of(an_editor, bystander), before[bystander])


def test_a_surface_is_made_once_and_everybody_is_told_once(an_editor, two_segments, box):
    edited, neighbour = two_segments
    assert an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    events = slicer.vtkSegmentation
    counts = count_events(
        an_editor,
        representation=events.RepresentationModified,
        source=events.SourceRepresentationModified,
        contained=events.ContainedRepresentationNamesModified,
    )
    made = []
    surface = an_editor.segment(edited).GetRepresentation("Closed surface")
    surface.AddObserver("ModifiedEvent", lambda *_: made.append("again"))
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))), removed=box(((2, 3), (1, 2), (2, 4))))
    assert counts["representation"] == [edited, neighbour]
    assert counts["source"] == [edited, neighbour]
    assert counts["contained"] == []
    assert an_editor.segment(edited).GetRepresentation("Closed surface") is surface
    while_writing = len(made)
    assert an_editor.segmentation.CreateRepresentation("Closed surface", True)
    assert while_writing == len(made) - while_writing  # one conversion tells several times


def test_surfaces_survive_when_a_segment_gets_its_own_layer(an_editor, two_segments, box):
    edited, neighbour = two_segments
    an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    before = surface_of(an_editor, neighbour)
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))))
    assert np.array_equal(surface_of(an_editor, neighbour), before)
    assert np.array_equal(surface_of(an_editor, edited), converted_again(an_editor, edited))


def test_observers_see_the_new_surface(an_editor, two_segments, box):
    edited, _ = two_segments
    an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    seen = []

    def look(*_):
        seen.append(surface_of(an_editor, edited))

    an_editor.segmentation.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, look)
    write(an_editor, edited, added=box(((4, 6), (1, 4), (1, 5))))
    assert all(np.array_equal(surface, surface_of(an_editor, edited)) for surface in seen)
    assert seen


def test_a_segmentation_of_surfaces_is_edited_as_label_maps_and_keeps_its_surface(an_editor, box):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    node.SetSourceRepresentationToClosedSurface()
    reference = reference_geometry(node)
    sphere = vtkSphereSource()
    sphere.SetCenter(*reference.grid.to_mm((3, 4, 5)))
    sphere.SetRadius(2.4)
    sphere.Update()
    segment_id = node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    stroke = box(((0, 1), (0, 3), (0, 3)))
    assert write_voxels(node, an_editor.node, segment_id, reference, kji_of(stroke), NOTHING) is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Binary labelmap"
    an_editor.node.SetAndObserveSegmentationNode(node)
    editor = replace(an_editor, segmentation_node=node)
    mask = editor.mask(segment_id)
    assert mask[stroke].all()
    assert mask[3, 4, 5]
    assert np.array_equal(surface_of(editor, segment_id), converted_again(editor, segment_id))


def test_a_segmentation_that_cannot_become_voxels_is_refused(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(ImageError, match=r"'Planar contour'.*Create a binary labelmap"):
        write_voxels(node, an_editor.node, "s", reference, np.array([(0, 0, 0)]), NOTHING)
    assert node.GetSegmentation().GetSourceRepresentationName() == "Planar contour"


def test_writing_starts_the_progress_of_a_segment_and_keeps_what_the_user_set(an_editor, box):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment_id = an_editor.add_segment()
    segment = an_editor.segment(segment_id)
    assert logic.GetSegmentStatus(segment) == logic.NotStarted
    write(an_editor, segment_id, added=box(((2, 3), (3, 6), (2, 4))))
    assert logic.GetSegmentStatus(segment) == logic.InProgress
    logic.SetSegmentStatus(segment, logic.Completed)
    write(an_editor, segment_id, added=box(((2, 3), (1, 6), (2, 4))))
    assert logic.GetSegmentStatus(segment) == logic.Completed


@pytest.mark.parametrize("kji", [[(0, 0, 10)], [(-1, 0, 0)]])
def test_voxels_outside_the_grid_are_refused_before_anything_changes(an_editor, two_segments, kji):
    before = an_editor.masks()
    reference = reference_geometry(an_editor.segmentation_node)
    inside = np.array([(5, 7, 9)])
    for voxels in ((inside, np.array(kji)), (np.array(kji), inside)):
        with pytest.raises(GeometryError, match="indices from"):
            write_voxels(an_editor.segmentation_node, an_editor.node, two_segments[0], reference, *voxels)
    assert all(np.array_equal(before[segment_id], mask) for segment_id, mask in an_editor.masks().items())


@pytest.mark.parametrize("segment_id", ["gone", "", None])
def test_a_segment_that_does_not_exist_is_refused(an_editor, segment_id, box):
    with pytest.raises(PromptError, match="no segment"):
        write(an_editor, segment_id, added=box(((2, 3), (3, 6), (2, 4))))
