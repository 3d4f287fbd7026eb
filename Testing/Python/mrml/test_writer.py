"""A segment becomes what it is told to be, by the rules of the Segment Editor, and everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkFiltersSources import vtkSphereSource

from scribblesegment.data.geometry import plane_through, plane_voxels
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import blank_labelmap, segment_on_plane, voxels_of
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.target import grid_slice
from scribblesegment.mrml.writer import slice_voxels, write_mask, write_slices, write_voxels

SHAPE = (6, 8, 10)
NODE, EDITOR = slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLSegmentEditorNode
LOGIC, SEGMENTATION = slicer.vtkSlicerSegmentEditorLogic, slicer.vtkSegmentation
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
seeds = st.integers(0, 2**32 - 3)


def voxels(mask):
    return NOTHING if mask is None else np.argwhere(mask)


def write(editor, segment_id, added=None, removed=None, **how):
    node = editor.segmentation_node
    reference = reference_geometry(node)
    return write_voxels(node, editor.node, segment_id, reference, voxels(added), voxels(removed), **how)


def write_where_editable(editor, segment_id, added, removed, **how):
    """As the effect does: mask first, then write."""
    target = editor.target(segment_id)

    def editable(mask, removing):
        rest = target.reference, target.source.masking_array, voxels(mask), removing
        allowed = np.zeros(SHAPE, bool)
        allowed[mask] = editable_at(editor.segmentation_node, editor.node, segment_id, *rest)
        return allowed

    return write(editor, segment_id, editable(added, False), editable(removed, True), **how)


def random_mask(seed, shape=SHAPE, density=0.4):
    """Voxels here and there in a part of the volume, sometimes none."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    for axis, size in enumerate(shape):
        first, last = sorted(rng.integers(0, size + 1, 2))
        np.moveaxis(mask, axis, 0)[:first] = False
        np.moveaxis(mask, axis, 0)[last:] = False
    return mask


# Voxels, under any settings of the Segment Editor -------------------------------------------------------------------


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
        layer, ids = rng.integers(0, 6, SHAPE), []
        for number, (own, empty) in enumerate(zip(self.own_layer, self.empty, strict=True)):
            mask = rng.random(SHAPE) < 0.3 if own else layer == number
            mask &= np.arange(SHAPE[2]) < rng.integers(3, 11)  # extents that differ
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
        draw, region = rng.random(SHAPE), np.zeros(SHAPE, bool)
        low = rng.integers(0, (4, 5, 6))
        region[tuple(slice(start, start + rng.integers(1, 5)) for start in low)] = True
        return region & (draw < 0.45), region & (draw > 0.55)


four = st.tuples(*[st.booleans()] * 4)
any_settings = st.builds(
    Settings,
    seed=seeds,
    own_layer=four,
    empty=st.sampled_from([(False,) * 4] * 5 + [(True, False, False, False), (False, True, True, True), (True,) * 4]),
    visible=four,
    mask_mode=st.sampled_from(MASK_MODES),
    mask_segment=st.sampled_from([0, 1, 2, 3, None]),
    overwrite_mode=st.sampled_from(OVERWRITE_MODES),
    intensity_range=st.sampled_from([None, (-150.0, 120.0), (-20.6, 400.4), (5000.0, 6000.0)]),
)


@pytest.mark.parametrize("what", [(True, False), (False, True), (True, True)], ids=["added", "removed", "both"])
@with_editors
@given(situation=any_settings)
def test_the_result_is_that_of_slicer_s_own_effects(new_editor, what, situation):
    added, removed = (mask & wanted for mask, wanted in zip(situation.changes(), what, strict=True))
    (ours, our_ids), (theirs, their_ids) = situation.build(new_editor), situation.build(new_editor)
    if removed.any():
        theirs.modify(their_ids[0], removed, LOGIC.ModificationModeRemove)
    if added.any():
        theirs.modify(their_ids[0], added, LOGIC.ModificationModeAdd)
    write_where_editable(ours, our_ids[0], added, removed)
    for number, (our_id, their_id) in enumerate(zip(our_ids, their_ids, strict=True)):
        if not situation.slicer_forgets(number):
            assert np.array_equal(ours.mask(our_id), theirs.mask(their_id)), f"segment {number}"


@with_editors
@given(situation=any_settings, protect=st.sets(st.sampled_from([1, 2, 3])))
def test_protected_segments_never_change_and_the_box_returned_fits_what_did(new_editor, situation, protect):
    editor, ids = situation.build(new_editor)
    before = editor.masks()
    protected = [ids[number] for number in protect]
    changed_box = write_where_editable(editor, ids[0], *situation.changes(), protect=protected)
    after = editor.masks()
    for segment_id in protected:
        assert np.array_equal(after[segment_id], before[segment_id])
        assert not (after[ids[0]] & ~before[ids[0]] & before[segment_id]).any()
    changed = np.argwhere(np.any([mask != before[segment_id] for segment_id, mask in after.items()], axis=0))
    fitting = zip(changed.min(axis=0).tolist(), (changed.max(axis=0) + 1).tolist(), strict=True) if len(changed) else ()
    assert changed_box == (tuple(fitting) or None)


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


@pytest.mark.parametrize("overwrites", [True, False])
def test_only_overlap_moves_the_edited_segment_to_a_layer_of_its_own(an_editor, two_segments, box, overwrites):
    edited, neighbour = two_segments
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments if overwrites else EDITOR.OverwriteNone)
    write(an_editor, edited, added=box(((0, 6), (0, 1), (0, 10))), removed=box(((1, 2), (1, 4), (1, 5))))
    assert an_editor.share_a_layer(edited, neighbour)
    before, stroke = an_editor.masks(), box(((2, 3), (3, 6), (2, 4)))
    write(an_editor, edited, added=stroke)
    assert an_editor.share_a_layer(edited, neighbour) == overwrites
    assert np.array_equal(an_editor.mask(edited), before[edited] | stroke)
    assert np.array_equal(an_editor.mask(neighbour), before[neighbour] & ~(stroke & overwrites))


@pytest.mark.parametrize("mask_segment", ["the neighbour", "gone", None, "itself", "protected"])
def test_removed_voxels_fall_to_the_one_segment_that_may_be_edited_inside(an_editor, two_segments, box, mask_segment):
    edited, neighbour = two_segments
    names = {"itself": edited, "protected": neighbour, "the neighbour": neighbour}
    an_editor.node.SetMaskMode(NODE.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(names.get(mask_segment, mask_segment))
    removed = box(((1, 2), (1, 4), (1, 5)))
    protect = [] if mask_segment == "the neighbour" else [neighbour]
    write(an_editor, edited, removed=removed, protect=protect)
    assert np.array_equal(an_editor.mask(edited), box(((2, 4), (1, 4), (1, 5))))
    given_to = removed & (mask_segment == "the neighbour")
    assert np.array_equal(an_editor.mask(neighbour), box(((1, 4), (4, 7), (1, 5))) | given_to)


def test_what_is_added_as_well_as_removed_stays_and_nobody_is_protected_from_itself(an_editor, two_segments, box):
    edited, _ = two_segments
    stroke = box(((2, 3), (0, 4), (0, 4)))
    write(an_editor, edited, added=stroke, removed=np.ones(SHAPE, bool), protect=list(two_segments))
    assert np.array_equal(an_editor.mask(edited), stroke)


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
    write(an_editor, segment_id, removed=np.ones(SHAPE, bool))
    assert not an_editor.mask(segment_id).any()
    write(an_editor, segment_id, added=np.ones(SHAPE, bool))
    assert an_editor.mask(segment_id).all()


def test_a_segment_that_never_had_a_label_map_gets_one(an_editor, box):
    segment = slicer.vtkSegment()
    an_editor.segmentation.AddSegment(segment, "bare")
    segment.RemoveRepresentation("Binary labelmap")
    write(an_editor, "bare", added=box(((1, 3), (1, 4), (2, 6))))
    assert np.array_equal(an_editor.mask("bare"), box(((1, 3), (1, 4), (2, 6))))


@pytest.mark.parametrize("label", [2, 255, 300, 70000])
def test_labels_that_the_label_map_cannot_hold_yet_are_written(an_editor, box, label):
    first, segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6)))), an_editor.add_segment()
    an_editor.segment(segment_id).SetLabelValue(label)
    write(an_editor, segment_id, added=box(((1, 3), (5, 7), (2, 6))))
    assert an_editor.share_a_layer(first, segment_id)
    assert np.array_equal(an_editor.mask(segment_id), box(((1, 3), (5, 7), (2, 6))))
    assert np.array_equal(an_editor.mask(first), box(((1, 3), (1, 4), (2, 6))))


@pytest.fixture
def imported_pair(an_editor, oblique, matrix_of):
    """Two segments on one layer, whose voxels are turned against those of the volume that they lie in."""
    lattice, turned = slicer.vtkOrientedImageData(), oblique.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.9, 0.2, 0], [-0.2, 0.9, 0.1], [0, -0.1, 1.1]]) * 0.83
    turned[:3, 3] = (oblique @ (1.5, 2.5, 1.2, 1))[:3]
    lattice.SetExtent(0, 7, 0, 4, 0, 3)
    lattice.SetImageToWorldMatrix(matrix_of(turned))
    labelmap = blank_labelmap(lattice, lattice.GetExtent())
    for label, columns in ((1, slice(0, 4)), (2, slice(4, 8))):
        voxels_of(labelmap)[..., columns] = label
        segment = slicer.vtkSegment()
        segment.SetLabelValue(label)
        segment.AddRepresentation("Binary labelmap", labelmap)
        assert an_editor.segmentation.AddSegment(segment, f"imported {label}")
    return "imported 1", "imported 2"


def test_an_imported_segment_is_edited_on_the_volume_s_voxels(an_editor, imported_pair):
    edited, neighbour = imported_pair
    before = an_editor.masks()
    stroke = np.zeros(SHAPE, bool)
    stroke[1:3, 0:4, :] = True
    removed = before[edited] & ~stroke
    removed[:2] = False
    write(an_editor, edited, added=stroke, removed=removed)
    assert np.array_equal(an_editor.mask(edited), (before[edited] & ~removed) | stroke)
    assert np.array_equal(an_editor.mask(neighbour), before[neighbour] & ~stroke)
    assert before[neighbour][stroke].any()


def test_a_protected_imported_neighbour_keeps_its_own_voxels(an_editor, imported_pair):
    edited, neighbour = imported_pair
    old, taken = an_editor.labelmap(neighbour), an_editor.mask(neighbour)
    values, geometry = voxels_of(old) == 2, (old.GetOrigin(), old.GetSpacing())
    write(an_editor, edited, added=np.ones(SHAPE, bool), protect=[neighbour])
    labelmap = an_editor.labelmap(neighbour)
    assert np.array_equal(voxels_of(labelmap) == an_editor.segment(neighbour).GetLabelValue(), values)
    assert (labelmap.GetOrigin(), labelmap.GetSpacing()) == geometry
    assert np.array_equal(an_editor.mask(edited), ~taken)


# Surfaces -----------------------------------------------------------------------------------------------------------


def surface_of(segmentation, segment_id):
    points = segmentation.GetSegment(segment_id).GetRepresentation("Closed surface").GetPoints()
    return None if not points else vtk_to_numpy(points.GetData()).copy()


def converted_again(editor, segment_id):
    """The surface that Slicer makes of the segment as it is now."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(editor.segmentation)
    assert copy.CreateRepresentation("Closed surface", True)
    return surface_of(copy, segment_id)


@pytest.mark.parametrize("overwrites", [True, False])
def test_surfaces_of_what_changed_are_made_again_and_those_of_others_kept(an_editor, two_segments, box, overwrites):
    edited, neighbour = two_segments
    bystander = an_editor.add_segment(box(((4, 6), (1, 8), (6, 10))))
    assert an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments if overwrites else EDITOR.OverwriteNone)
    before = {each: surface_of(an_editor.segmentation, each) for each in (edited, neighbour, bystander)}
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))), removed=box(((3, 4), (1, 3), (1, 3))))
    for each, changes in ((edited, True), (neighbour, overwrites), (bystander, False)):
        surface = surface_of(an_editor.segmentation, each)
        assert np.array_equal(surface, before[each]) != changes
        assert np.array_equal(surface, converted_again(an_editor, each))


def test_a_surface_is_made_once_and_everybody_is_told_once_and_sees_it(an_editor, two_segments, box):
    edited, neighbour = two_segments
    segmentation = an_editor.segmentation
    assert an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    told, seen, made = {}, [], []

    def observe(event):
        def remember(_caller, _event, segment_id):
            told.setdefault(event, []).append(segment_id)
            seen.append(surface_of(segmentation, edited))

        remember.CallDataType = 13  # VTK_STRING
        segmentation.AddObserver(event, remember)

    changed = (SEGMENTATION.RepresentationModified, SEGMENTATION.SourceRepresentationModified)
    for event in (*changed, SEGMENTATION.ContainedRepresentationNamesModified):
        observe(event)
    surface = an_editor.segment(edited).GetRepresentation("Closed surface")
    surface.AddObserver("ModifiedEvent", lambda *_: made.append("again"))
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))), removed=box(((2, 3), (1, 2), (2, 4))))
    assert told == {event: [edited, neighbour] for event in changed}
    assert an_editor.segment(edited).GetRepresentation("Closed surface") is surface
    assert all(np.array_equal(one, surface_of(segmentation, edited)) for one in seen)
    while_writing = len(made)
    assert segmentation.CreateRepresentation("Closed surface", True)
    assert while_writing == len(made) - while_writing  # one conversion tells several times


def test_a_segmentation_of_surfaces_is_edited_as_label_maps_and_keeps_its_surface(an_editor, box):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    node.SetSourceRepresentationToClosedSurface()
    sphere = vtkSphereSource()
    sphere.SetCenter(*reference_geometry(node).grid.to_mm((3, 4, 5)))
    sphere.SetRadius(2.4)
    sphere.Update()
    segment_id = node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    an_editor.node.SetAndObserveSegmentationNode(node)
    editor, stroke = replace(an_editor, segmentation_node=node), box(((0, 1), (0, 3), (0, 3)))
    assert write(editor, segment_id, added=stroke) is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Binary labelmap"
    assert editor.mask(segment_id)[stroke].all()
    assert editor.mask(segment_id)[3, 4, 5]
    assert np.array_equal(surface_of(editor.segmentation, segment_id), converted_again(editor, segment_id))


def test_writing_starts_the_progress_of_a_segment_and_keeps_what_the_user_set(an_editor, box):
    logic, segment_id = slicer.vtkSlicerSegmentationsModuleLogic, an_editor.add_segment()
    segment = an_editor.segment(segment_id)
    write(an_editor, segment_id, added=box(((2, 3), (3, 6), (2, 4))))
    assert logic.GetSegmentStatus(segment) == logic.InProgress
    logic.SetSegmentStatus(segment, logic.Completed)
    write(an_editor, segment_id, added=box(((2, 3), (1, 6), (2, 4))))
    assert logic.GetSegmentStatus(segment) == logic.Completed


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kji", [[(0, 0, 10)], [(-1, 0, 0)]])
def test_voxels_outside_the_grid_are_refused_before_anything_changes(an_editor, two_segments, kji):
    before, reference = an_editor.masks(), reference_geometry(an_editor.segmentation_node)
    inside = np.array([(5, 7, 9)])
    for added, removed in ((inside, np.array(kji)), (np.array(kji), inside)):
        with pytest.raises(GeometryError, match="indices from"):
            write_voxels(an_editor.segmentation_node, an_editor.node, two_segments[0], reference, added, removed)
    assert all(np.array_equal(before[segment_id], mask) for segment_id, mask in an_editor.masks().items())


@pytest.mark.parametrize("segment_id", ["gone", "", None])
def test_a_segment_that_does_not_exist_is_refused(an_editor, segment_id, box):
    with pytest.raises(PromptError, match="no segment"):
        write(an_editor, segment_id, added=box(((2, 3), (3, 6), (2, 4))))
    target = replace(an_editor.target(an_editor.add_segment()), segment_id=segment_id)
    with pytest.raises(PromptError, match="no segment"):
        write_mask(target, grid_slice(target.reference.grid, 0, 2), np.ones((8, 10), bool))


def test_a_segmentation_that_cannot_become_voxels_is_refused(an_editor):
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    node.GetSegmentation().SetSourceRepresentationName("Planar contour")  # for which SlicerRT has the conversion
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Planar contour", vtkPolyData())
    node.GetSegmentation().AddSegment(segment, "s")
    reference = reference_geometry(an_editor.segmentation_node)
    with pytest.raises(ImageError, match=r"'Plan'.*'Planar contour'.*Create a binary labelmap"):
        write_voxels(node, an_editor.node, "s", reference, np.array([(0, 0, 0)]), NOTHING)
    assert node.GetSegmentation().GetSourceRepresentationName() == "Planar contour"


def test_masks_that_do_not_fit_their_plane_are_refused(an_editor):
    segment_id = an_editor.add_segment()
    target = an_editor.target(segment_id)
    grid = target.reference.grid
    with pytest.raises(ValueError, match="shape"):
        write_mask(target, grid_slice(grid, 0, 2), np.ones((9, 10), bool))
    oblique = plane_through(grid, grid.to_mm((3, 4, 5)), (0.3, 0.4, 1.0))
    with pytest.raises(GeometryError, match="oblique"):
        slice_voxels(oblique, np.ones(oblique.shape, bool))
    assert not an_editor.mask(segment_id).any()


# Slices of the lattice ----------------------------------------------------------------------------------------------

slices = st.integers(0, 2).flatmap(lambda axis: st.tuples(st.just(axis), st.integers(0, SHAPE[axis] - 1)))


@with_editors
@given(
    where=slices, seed=seeds, before=st.booleans(), own=st.booleans(), start=st.sampled_from([(0, 0, 0), (3, -2, 5)])
)
def test_the_segment_becomes_the_mask_on_its_slice_and_stays_what_it_is_on_others(
    new_editor, where, seed, before, own, start
):
    editor = new_editor(start_ijk=start)
    segment_id = editor.add_segment(random_mask(seed) if before else None, own_layer=own)
    old, target = editor.mask(segment_id), editor.target(segment_id)
    plane = grid_slice(target.reference.grid, *where)
    mask = random_mask(seed + 1, plane.shape)
    given_mask, expected = mask.copy(), old.copy()
    np.moveaxis(expected, where[0], 0)[where[1]] = mask
    assert write_mask(target, plane, mask) == bool((expected != old).any())
    assert np.array_equal(editor.mask(segment_id), expected)
    assert np.array_equal(mask, given_mask)
    time = editor.segmentation.GetMTime()
    assert not write_mask(target, plane, mask)  # again, and nothing happens
    assert editor.segmentation.GetMTime() == time


@with_editors
@given(st.integers(0, 2), seeds, st.booleans())
def test_several_slices_at_once_are_the_same_as_one_after_another(new_editor, axis, seed, protects):
    masks = {}
    for together in (True, False):
        editor = new_editor()
        segment_id = editor.add_segment(random_mask(seed))
        other = editor.add_segment(random_mask(seed + 1), own_layer=True)
        editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments)
        editor.node.SetSourceVolumeIntensityMask(True)
        editor.node.SetSourceVolumeIntensityMaskRange(-150.0, 200.0)
        target, wanted = editor.target(segment_id), np.moveaxis(random_mask(seed + 2), axis, 0)
        planes = [(grid_slice(target.reference.grid, axis, i), wanted[i]) for i in range(0, SHAPE[axis], 2)]
        protect = [other] if protects else []
        if together:
            changed = write_slices(target, planes, protect=protect)
        else:
            changed = any([write_mask(target, *one, protect=protect) for one in planes])
        masks[together] = (changed, editor.mask(segment_id).tobytes(), editor.mask(other).tobytes())
    assert masks[True] == masks[False]
    assert not write_slices(target, [])


# Oblique planes -----------------------------------------------------------------------------------------------------

normals = st.tuples(*[st.floats(0.2, 1.0) | st.floats(-1.0, -0.2)] * 3)
parts = st.tuples(*[st.floats(0.2, 0.8)] * 3)
spacings = st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 0.5, 5.0), (2.0, 0.4, 0.4)])


def oblique_plane(target, part, normal):
    grid = target.reference.grid
    return plane_through(grid, grid.to_mm(np.multiply(part, np.array(grid.shape) - 1)), normal)


@with_editors
@given(spacing=spacings, part=parts, normal=normals, seed=seeds, before=st.booleans())
def test_on_an_oblique_plane_just_the_voxels_it_cuts_become_what_the_mask_says_at_their_pixels(
    new_editor, spacing, part, normal, seed, before
):
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment(random_mask(seed) if before else None)
    old, target = editor.mask(segment_id), editor.target(segment_id)
    plane = oblique_plane(target, part, normal)
    cut = plane_voxels(target.reference.grid, plane)
    # The second result leaves nothing of the first, and an empty one leaves nothing to be seen.
    for mask in (
        random_mask(seed + 1, plane.shape),
        random_mask(seed + 2, plane.shape, 0.1),
        np.zeros(plane.shape, bool),
    ):
        expected = old.copy()
        expected[tuple(cut.kji.T)] = mask[tuple(cut.pixels.T)]
        before_write = editor.mask(segment_id)
        assert write_mask(target, plane, mask) == bool((expected != before_write).any())
        assert np.array_equal(editor.mask(segment_id), expected)
    assert not segment_on_plane(target.segmentation_node, segment_id, target.reference, plane).any()


@with_editors
@given(
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (0.5, 0.5, 5.0)]),
    inside=st.tuples(*[st.floats(-0.49, 0.49)] * 3),
    normal=normals,
)
@example(spacing=(0.5, 0.5, 5.0), inside=(-0.37, -0.237, -0.092), normal=(0.7484, 0.5428, 0.3812))
def test_a_single_voxel_can_be_erased_wherever_an_oblique_plane_shows_it(new_editor, spacing, inside, normal):
    # A long voxel may be seen at its end, many pixels from where its centre projects to.
    shape = (5, 30, 30)
    editor, one = new_editor(np.zeros(shape, np.int16), np.diag([*spacing, 1.0])), np.zeros(shape, bool)
    one[2, 15, 15] = True
    segment_id = editor.add_segment(one)
    target = editor.target(segment_id)
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm(np.add((2, 15, 15), inside)), normal)
    seen = segment_on_plane(target.segmentation_node, segment_id, target.reference, plane).any()
    changed = write_mask(target, plane, np.zeros(plane.shape, bool))
    assert changed or not seen
    assert changed != editor.mask(segment_id).any()


@with_editors
@given(spacing=spacings, part=parts, normal=normals)
def test_a_full_mask_on_an_oblique_plane_leaves_no_hole(new_editor, spacing, part, normal):
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id, everything = editor.add_segment(), editor.add_segment(np.ones(SHAPE, bool), own_layer=True)
    editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    target = editor.target(segment_id)
    plane = oblique_plane(target, part, normal)
    write_mask(target, plane, np.ones(plane.shape, bool))
    ours, full = (
        segment_on_plane(target.segmentation_node, each, target.reference, plane) for each in (segment_id, everything)
    )
    assert np.array_equal(ours, full)


# Masking and protection, of a slice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protects", [True, False])
def test_only_a_protected_segment_keeps_its_voxels_on_the_slice(an_editor, box, protects):
    other_mask = box(((0, 6), (2, 6), (5, 8)))
    other, segment_id = an_editor.add_segment(other_mask), an_editor.add_segment()
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments)
    target, mask = an_editor.target(segment_id), box(((3, 5), (2, 9)), (8, 10))
    plane, protect = grid_slice(target.reference.grid, 0, 2), [other] if protects else []
    if protects:
        assert not write_mask(target, plane, other_mask[2], protect=protect)
    assert write_mask(target, plane, mask, protect=protect)
    assert np.array_equal(an_editor.mask(segment_id)[2], mask & ~(other_mask[2] & protects))
    other_mask[2] &= ~mask | protects
    assert np.array_equal(an_editor.mask(other), other_mask)


@pytest.mark.parametrize(
    ("mode", "may_add", "may_remove"),
    [
        (NODE.EditAllowedEverywhere, lambda other: other | True, lambda other: other | True),
        (NODE.EditAllowedOutsideAllSegments, lambda other: ~other, lambda other: ~other),
        # Inside one segment everything can be taken away, and falls to that segment.
        (NODE.EditAllowedInsideSingleSegment, lambda other: other, lambda other: other | True),
    ],
)
def test_masking_limits_what_is_added_and_what_is_taken_away(an_editor, box, mode, may_add, may_remove):
    other_mask, old = box(((0, 6), (2, 6), (5, 8))), box(((0, 6), (0, 4), (0, 10)))
    other, segment_id = an_editor.add_segment(other_mask), an_editor.add_segment(old, own_layer=True)
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    an_editor.node.SetMaskMode(mode)
    an_editor.node.SetMaskSegmentID(other)
    target = an_editor.target(segment_id)
    assert write_mask(target, grid_slice(target.reference.grid, 0, 2), ~old[2])
    added, removed = ~old[2] & may_add(other_mask[2]), old[2] & may_remove(other_mask[2])
    assert np.array_equal(an_editor.mask(segment_id)[2], (old[2] | added) & ~removed)
    given_to = removed & (mode == NODE.EditAllowedInsideSingleSegment)
    assert np.array_equal(an_editor.mask(other)[2], other_mask[2] | given_to)


@pytest.mark.parametrize("limits", [(-27, 8), (5000, 6000)])
def test_only_editable_intensities_change_in_either_direction(an_editor, limits):
    segment_id = an_editor.add_segment(np.indices(SHAPE)[2] < 5)
    an_editor.node.SourceVolumeIntensityMaskOn()
    # Values count up from -200 by 1 along I and by 10 along J: slice 2 begins with -40.
    an_editor.node.SetSourceVolumeIntensityMaskRange(*limits)
    target, old, mask = an_editor.target(segment_id), an_editor.mask(segment_id), np.indices((8, 10))[1] >= 5
    editable = (target.source.array >= limits[0]) & (target.source.array <= limits[1])
    expected = old.copy()
    expected[2] = np.where(editable[2], mask, old[2])
    assert write_mask(target, grid_slice(target.reference.grid, 0, 2), mask) == editable.any()
    assert np.array_equal(an_editor.mask(segment_id), expected)


def test_colours_are_masked_by_their_first_component_as_slicer_does(new_editor):
    colours = np.full((*SHAPE, 3), 200, np.uint8)
    colours[..., 0] = np.arange(10) * 10  # red counts up along I
    editor = new_editor(colours, kind="vtkMRMLVectorVolumeNode")
    segment_id = editor.add_segment()
    editor.node.SourceVolumeIntensityMaskOn()
    editor.node.SetSourceVolumeIntensityMaskRange(30, 60)
    target = editor.target(segment_id)
    assert write_mask(target, grid_slice(target.reference.grid, 0, 2), np.ones((8, 10), bool))
    assert np.array_equal(editor.mask(segment_id)[2], np.isin(np.indices((8, 10))[1], range(3, 7)))
