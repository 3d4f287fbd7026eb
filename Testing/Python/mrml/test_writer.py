"""A segment becomes what it is told to be, by the rules of the Segment Editor, and everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkPolyData

from scribblesegment.data.geometry import grid_slice, plane_through, plane_voxels
from scribblesegment.errors import GeometryError, PromptError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import blank_labelmap, oblique_pixels, segment_at, segment_on_plane, voxels_of
from scribblesegment.mrml.writer import slice_voxels, write_mask, write_slices, write_voxels

SHAPE = (6, 8, 10)
NODE, EDITOR = slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLSegmentEditorNode
LOGIC, SEGMENTATION = slicer.vtkSlicerSegmentEditorLogic, slicer.vtkSegmentation
ALL, VISIBLE = "AllSegments", "VisibleSegments"
WHERE = ("Everywhere", f"Inside{ALL}", f"Inside{VISIBLE}", f"Outside{ALL}", f"Outside{VISIBLE}", "InsideSingleSegment")
MASK_MODES = [getattr(NODE, f"EditAllowed{where}") for where in WHERE]
OVERWRITE_MODES = (EDITOR.OverwriteAllSegments, EDITOR.OverwriteVisibleSegments, EDITOR.OverwriteNone)
NOTHING = np.zeros((0, 3), np.int64)

with_editors = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
seeds = st.integers(0, 2**32 - 3)


def voxels(mask):
    return NOTHING if mask is None else np.argwhere(mask)


def write(editor, segment_id, added=None, removed=None, **how):
    node = editor.segmentation_node
    reference = reference_geometry(node)
    return write_voxels(node, editor.node, segment_id, reference, voxels(added), voxels(removed), **how)


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


slices = st.integers(0, 2).flatmap(lambda axis: st.tuples(st.just(axis), st.integers(0, SHAPE[axis] - 1)))


def slice_to_write(editor, segment_id, where, seed):
    """A slice, a mask for it, and what that adds to and removes from the segment, (K, J, I)."""
    plane = grid_slice(editor.target(segment_id).reference.grid, *where)
    mask, on_slice, wanted = random_mask(seed, plane.shape, 0.6), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    np.moveaxis(on_slice, where[0], 0)[where[1]] = True
    np.moveaxis(wanted, where[0], 0)[where[1]] = mask
    present = editor.mask(segment_id)
    return plane, mask, wanted & ~present, present & on_slice & ~wanted


@settings(parent=with_editors, max_examples=60)
@given(situation=any_settings, where=slices)
def test_the_result_is_that_of_slicer_s_own_effects(new_editor, situation, where):
    (ours, our_ids), (theirs, their_ids) = situation.build(new_editor), situation.build(new_editor)
    plane, mask, added, removed = slice_to_write(ours, our_ids[0], where, situation.seed + 1)
    if removed.any():
        theirs.modify(their_ids[0], removed, LOGIC.ModificationModeRemove)
    if added.any():
        theirs.modify(their_ids[0], added, LOGIC.ModificationModeAdd)
    write_mask(ours.target(our_ids[0]), plane, mask)
    for number, (our_id, their_id) in enumerate(zip(our_ids, their_ids, strict=True)):
        if not situation.slicer_forgets(number):
            assert np.array_equal(ours.mask(our_id), theirs.mask(their_id)), f"segment {number}"


@with_editors
@given(situation=any_settings, where=slices, protect=st.sets(st.sampled_from([1, 2, 3])))
def test_protected_segments_never_change(new_editor, situation, where, protect):
    editor, ids = situation.build(new_editor)
    before, protected = editor.masks(), [ids[number] for number in protect]
    plane, mask, *_ = slice_to_write(editor, ids[0], where, situation.seed + 1)
    changed = write_mask(editor.target(ids[0]), plane, mask, protect=protected)
    after = editor.masks()
    for segment_id in protected:
        assert np.array_equal(after[segment_id], before[segment_id])
        assert not (after[ids[0]] & ~before[ids[0]] & before[segment_id]).any()
    assert changed == any((mask != before[segment_id]).any() for segment_id, mask in after.items())


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
    # What is added as well as removed stays, and nobody is protected from itself.
    write(an_editor, edited, added=stroke, removed=np.ones(SHAPE, bool), protect=[edited])
    assert np.array_equal(an_editor.mask(edited), stroke)


def test_only_as_much_as_is_needed_is_kept_in_memory_of_a_segment_that_had_no_label_map(an_editor, box):
    an_editor.segmentation.AddSegment(slicer.vtkSegment(), "bare")
    an_editor.segment("bare").RemoveRepresentation("Binary labelmap")
    for added, removed, extent, changed in (
        (((2, 3), (1, 4), (2, 5)), None, (2, 4, 1, 3, 2, 2), ((2, 3), (1, 4), (2, 5))),
        (((4, 5), (0, 4), (2, 5)), None, (2, 4, 0, 3, 2, 4), ((4, 5), (0, 4), (2, 5))),
        (None, ((4, 5), (0, 8), (0, 10)), (2, 4, 1, 3, 2, 2), ((4, 5), (0, 4), (2, 5))),
        (((2, 3), (1, 4), (2, 5)), ((4, 5), (0, 8), (0, 10)), (2, 4, 1, 3, 2, 2), None),
    ):
        assert write(an_editor, "bare", added and box(added), removed and box(removed)) == changed
        assert an_editor.labelmap("bare").GetExtent() == extent
    write(an_editor, "bare", removed=np.ones(SHAPE, bool))
    assert not an_editor.mask("bare").any()
    write(an_editor, "bare", added=np.ones(SHAPE, bool))
    assert an_editor.mask("bare").all()


@pytest.mark.parametrize("label", [2, 255, 300, 70000])
def test_labels_that_the_label_map_cannot_hold_yet_are_written(an_editor, box, label):
    masks = box(((1, 3), (1, 4), (2, 6))), box(((1, 3), (5, 7), (2, 6)))
    first, segment_id = an_editor.add_segment(masks[0]), an_editor.add_segment()
    an_editor.segment(segment_id).SetLabelValue(label)
    write(an_editor, segment_id, added=masks[1])
    assert an_editor.share_a_layer(first, segment_id)
    assert all(map(np.array_equal, an_editor.masks().values(), masks))


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


@pytest.mark.parametrize("protects", [True, False])
def test_an_imported_segment_is_edited_on_the_volume_s_voxels_and_a_protected_one_keeps_its_own(
    an_editor, imported_pair, protects
):
    edited, neighbour = imported_pair
    before, old, stroke = an_editor.masks(), an_editor.labelmap(neighbour), np.zeros(SHAPE, bool)
    values, geometry = voxels_of(old) == 2, (old.GetOrigin(), old.GetSpacing())
    stroke[1:3, 0:4, :] = True
    removed = before[edited] & ~stroke
    removed[:2] = False
    assert before[neighbour][stroke].any()
    write(an_editor, edited, added=stroke, removed=removed, protect=[neighbour] if protects else [])
    taken = stroke & ~(before[neighbour] & protects)
    assert np.array_equal(an_editor.mask(edited), (before[edited] & ~removed) | taken)
    assert np.array_equal(an_editor.mask(neighbour), before[neighbour] & ~taken)
    if protects:
        labelmap = an_editor.labelmap(neighbour)
        assert np.array_equal(voxels_of(labelmap) == an_editor.segment(neighbour).GetLabelValue(), values)
        assert (labelmap.GetOrigin(), labelmap.GetSpacing()) == geometry


# Surfaces -----------------------------------------------------------------------------------------------------------


def surface_of(segmentation, segment_id):
    surface = segmentation.GetSegment(segment_id).GetRepresentation("Closed surface")
    return vtk_to_numpy(surface.GetPoints().GetData()).copy() if surface and surface.GetPoints() else None


def converted_again(editor, segment_id):
    """The surface that Slicer makes of the segment as it is now."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(editor.segmentation)
    assert copy.CreateRepresentation("Closed surface", True)
    return surface_of(copy, segment_id)


@pytest.mark.parametrize("overwrites", [True, False])
def test_surfaces_of_what_changed_are_made_again_once_and_those_of_others_kept(
    an_editor, two_segments, box, overwrites
):
    (edited, neighbour), segmentation, made = two_segments, an_editor.segmentation, []
    bystander = an_editor.add_segment(box(((4, 6), (1, 8), (6, 10))))
    assert an_editor.segmentation_node.CreateClosedSurfaceRepresentation()
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments if overwrites else EDITOR.OverwriteNone)
    before = {each: surface_of(segmentation, each) for each in (edited, neighbour, bystander)}
    surface = an_editor.segment(edited).GetRepresentation("Closed surface")
    surface.AddObserver("ModifiedEvent", lambda *_: made.append(surface_of(segmentation, edited)))
    write(an_editor, edited, added=box(((2, 3), (3, 6), (2, 4))), removed=box(((3, 4), (1, 3), (1, 3))))
    while_writing = len(made)
    for each, changes in ((edited, True), (neighbour, overwrites), (bystander, False)):
        assert np.array_equal(surface_of(segmentation, each), before[each]) != changes
        assert np.array_equal(surface_of(segmentation, each), converted_again(an_editor, each))
    assert segmentation.CreateRepresentation("Closed surface", True)
    assert while_writing == len(made) - while_writing  # one conversion tells several times


def test_a_segmentation_of_surfaces_is_edited_as_label_maps_and_keeps_its_surface(
    an_editor, a_surface_segmentation, box
):
    node, stroke = a_surface_segmentation, box(((0, 1), (0, 3), (0, 3)))
    segment_id, reference = node.GetSegmentation().GetNthSegmentID(0), reference_geometry(node)
    an_editor.node.SetAndObserveSegmentationNode(node)
    editor = replace(an_editor, segmentation_node=node)
    sphere = segment_at(node, segment_id, reference, voxels(np.ones(SHAPE, bool))).reshape(SHAPE)
    assert sphere[3, 4, 5]
    assert 10 < sphere.sum() < 80
    assert node.GetSegmentation().GetSourceRepresentationName() == "Closed surface"
    assert write(editor, segment_id, added=stroke) is not None
    assert node.GetSegmentation().GetSourceRepresentationName() == "Binary labelmap"
    assert node.GetDisplayNode().GetPreferredDisplayRepresentationName2D() == "Binary labelmap"
    assert np.array_equal(editor.mask(segment_id), sphere | stroke)
    assert np.array_equal(surface_of(editor.segmentation, segment_id), converted_again(editor, segment_id))


def test_writing_starts_the_progress_of_a_segment_and_keeps_what_the_user_set(an_editor, box):
    logic, segment_id = slicer.vtkSlicerSegmentationsModuleLogic, an_editor.add_segment()
    contour = vtkPolyData()  # which Slicer cannot derive
    an_editor.segment(segment_id).AddRepresentation("Planar contour", contour)
    for column, status in ((3, logic.InProgress), (1, logic.Completed)):
        write(an_editor, segment_id, added=box(((2, 3), (column, 6), (2, 4))))
        assert logic.GetSegmentStatus(an_editor.segment(segment_id)) == status
        assert an_editor.segment(segment_id).GetRepresentation("Planar contour") is contour
        assert surface_of(an_editor.segmentation, segment_id) is None
        logic.SetSegmentStatus(an_editor.segment(segment_id), logic.Completed)


# What is refused ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_refused_before_anything_changes(an_editor, two_segments):
    before, target = an_editor.masks(), an_editor.target(two_segments[0])
    grid, gone = target.reference.grid, replace(target, segment_id="gone")
    oblique, inside, beyond = plane_through(grid, grid.to_mm((3, 4, 5)), (0.3, 0.4, 1.0)), [(5, 7, 9)], [(0, 0, 10)]
    how = an_editor.segmentation_node, an_editor.node, target.segment_id, target.reference
    for act, error, message in (
        (lambda: write_voxels(*how, inside, beyond), GeometryError, "indices from"),
        (lambda: write_voxels(*how, beyond, inside), GeometryError, "indices from"),
        (lambda: write_voxels(*how, [(-1, 0, 0)], inside), GeometryError, "indices from"),
        (lambda: write(an_editor, None), PromptError, "no segment"),
        (lambda: write_mask(gone, grid_slice(grid, 0, 2), np.ones((8, 10), bool)), PromptError, "no segment"),
        (lambda: write_mask(target, grid_slice(grid, 0, 2), np.ones((9, 10), bool)), ValueError, "shape"),
        (lambda: slice_voxels(oblique, np.ones(oblique.shape, bool)), GeometryError, "oblique"),
    ):
        with pytest.raises(error, match=message):
            act()
    assert all(map(np.array_equal, before.values(), an_editor.masks().values()))


# Slices of the lattice ----------------------------------------------------------------------------------------------


@with_editors
@given(slices, seeds, st.booleans(), st.booleans(), st.sampled_from([(0, 0, 0), (3, -2, 5)]))
def test_the_segment_becomes_the_mask_on_its_slice_and_stays_what_it_is_on_others(
    new_editor, where, seed, before, own, start
):
    editor = new_editor(start_ijk=start)
    segment_id = editor.add_segment(random_mask(seed) if before else None, own_layer=own)
    old, target = editor.mask(segment_id), editor.target(segment_id)
    plane = grid_slice(target.reference.grid, *where)
    mask, expected = random_mask(seed + 1, plane.shape), old.copy()
    np.moveaxis(expected, where[0], 0)[where[1]] = mask
    assert write_mask(target, plane, mask) == bool((expected != old).any())
    assert np.array_equal(editor.mask(segment_id), expected)
    time = editor.segmentation.GetMTime()
    assert not write_mask(target, plane, mask)  # again, and nothing happens
    assert not write_slices(target, [(plane, mask)])
    assert editor.segmentation.GetMTime() == time


# Oblique planes -----------------------------------------------------------------------------------------------------

normals = st.tuples(*[st.floats(0.2, 1.0) | st.floats(-1.0, -0.2)] * 3)
parts = st.tuples(*[st.floats(0.2, 0.8)] * 3)
spacings = st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 0.5, 5.0), (2.0, 0.4, 0.4)])


@with_editors
@given(spacing=spacings, part=parts, normal=normals, seed=seeds, before=st.booleans())
def test_on_an_oblique_plane_just_the_voxels_it_cuts_become_what_the_mask_says_at_their_pixels(
    new_editor, spacing, part, normal, seed, before
):
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment(random_mask(seed) if before else None)
    old, target = editor.mask(segment_id), editor.target(segment_id)
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm(np.multiply(part, np.array(grid.shape) - 1)), normal)
    cut = plane_voxels(grid, plane)
    # The second result leaves nothing of the first, an empty one leaves nothing to be seen, and a full one no hole.
    for mask in (
        random_mask(seed + 1, plane.shape),
        random_mask(seed + 2, plane.shape, 0.1),
        np.zeros(plane.shape, bool),
        np.ones(plane.shape, bool),
    ):
        expected = old.copy()
        expected[tuple(cut.kji.T)] = mask[tuple(cut.pixels.T)]
        before_write = editor.mask(segment_id)
        assert write_mask(target, plane, mask) == bool((expected != before_write).any())
        assert np.array_equal(editor.mask(segment_id), expected)
        if mask.all() or not mask.any():
            shown = segment_on_plane(target.segmentation_node, segment_id, target.reference, plane)
            assert np.array_equal(shown, oblique_pixels(grid, plane)[1] & mask)
