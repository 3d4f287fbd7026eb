"""Tests of scribblesegment.mrml.writer: a segment becomes a mask on one slice, and stays what it is elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.geometry import plane_through, plane_voxels
from scribblesegment.errors import GeometryError, PromptError
from scribblesegment.mrml.labelmaps import segment_on_plane
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.target import target_of
from scribblesegment.mrml.writer import slice_voxels, write_mask, write_slices

SHAPE = (6, 8, 10)
SEGMENT = slicer.vtkMRMLSegmentationNode
EDITOR = slicer.vtkMRMLSegmentEditorNode

with_editors = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def target_in(editor, segment_id):
    return target_of(editor.node, editor.segmentation_node, segment_id, SourceImages())


def slice_of(target, axis, index):
    """The plane of one slice of the lattice."""
    grid = target.reference.grid
    along = [vector for other, vector in enumerate(grid.steps_kji_mm) if other != axis]
    plane = plane_through(grid, grid.to_mm(np.eye(3)[axis] * index), np.cross(*along))
    assert plane.voxel_slice == (axis, index)
    return plane


def on_slice(volume, axis, index):
    """A view of the slice's voxels."""
    return np.moveaxis(volume, axis, 0)[index]


def random_mask(seed, shape=SHAPE, density=0.4):
    """Voxels here and there in a part of the volume, sometimes none."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    for axis, size in enumerate(shape):
        first, last = sorted(rng.integers(0, size + 1, 2))
        np.moveaxis(mask, axis, 0)[:first] = False
        np.moveaxis(mask, axis, 0)[last:] = False
    return mask


slices = st.integers(0, 2).flatmap(lambda axis: st.tuples(st.just(axis), st.integers(0, SHAPE[axis] - 1)))
seeds = st.integers(0, 2**32 - 1)


# Slices of the lattice ----------------------------------------------------------------------------------------------


@with_editors
@given(where=slices, seed=seeds, before=st.booleans(), own_layer=st.booleans())
def test_the_segment_becomes_the_mask_on_its_slice_and_stays_what_it_is_on_others(
    new_editor, where, seed, before, own_layer
):
    editor = new_editor()
    segment_id = editor.add_segment(random_mask(seed) if before else None, own_layer=own_layer)
    old, target = editor.mask(segment_id), target_in(editor, segment_id)
    plane = slice_of(target, *where)
    mask = random_mask(seed + 1, plane.shape)
    expected = old.copy()
    on_slice(expected, *where)[...] = mask
    assert write_mask(target, plane, mask) == bool((expected != old).any())
    assert np.array_equal(editor.mask(segment_id), expected)


@with_editors
@given(where=slices, seed=seeds)
def test_writing_the_same_mask_again_changes_nothing(new_editor, where, seed):
    editor = new_editor()
    segment_id = editor.add_segment(random_mask(seed))
    target = target_in(editor, segment_id)
    plane = slice_of(target, *where)
    mask = random_mask(seed + 1, plane.shape)
    write_mask(target, plane, mask)
    after, time = editor.mask(segment_id), editor.segmentation.GetMTime()
    assert not write_mask(target, plane, mask)
    assert np.array_equal(editor.mask(segment_id), after)
    assert editor.segmentation.GetMTime() == time


def test_an_empty_mask_on_an_empty_segment_changes_nothing(an_editor):
    segment_id = an_editor.add_segment()
    target = target_in(an_editor, segment_id)
    time = an_editor.segmentation.GetMTime()
    assert not write_mask(target, slice_of(target, 0, 2), np.zeros((8, 10), bool))
    assert an_editor.segmentation.GetMTime() == time


def test_an_empty_mask_erases_the_slice(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 5), (2, 6), (3, 9))))
    target = target_in(an_editor, segment_id)
    assert write_mask(target, slice_of(target, 0, 3), np.zeros((8, 10), bool))
    assert np.array_equal(an_editor.mask(segment_id), box(((1, 3), (2, 6), (3, 9))) | box(((4, 5), (2, 6), (3, 9))))


def test_the_mask_is_left_as_it_is(an_editor):
    segment_id = an_editor.add_segment(np.ones(SHAPE, bool))
    target = target_in(an_editor, segment_id)
    mask = random_mask(5, (8, 10))
    before = mask.copy()
    write_mask(target, slice_of(target, 0, 3), mask)
    assert np.array_equal(mask, before)


def test_a_lattice_that_does_not_begin_at_zero_is_written_where_it_lies(new_editor):
    editor = new_editor(start_ijk=(3, -2, 5))
    segment_id = editor.add_segment()
    target = target_in(editor, segment_id)
    mask = np.zeros((8, 10), bool)
    mask[1:3, 4:9] = True
    assert write_mask(target, slice_of(target, 0, 2), mask)
    i0, i1, j0, j1, k0, k1 = editor.labelmap(segment_id).GetExtent()
    assert (i0, i1, j0, j1, k0, k1) == (7, 11, -1, 0, 7, 7)


def test_a_segment_that_was_removed_is_told(an_editor):
    segment_id = an_editor.add_segment()
    target = target_in(an_editor, segment_id)
    plane = slice_of(target, 0, 2)
    an_editor.segmentation.RemoveSegment(segment_id)
    with pytest.raises(PromptError, match="no segment"):
        write_mask(target, plane, np.ones((8, 10), bool))


def test_a_mask_of_another_raster_is_refused(an_editor):
    segment_id = an_editor.add_segment()
    target = target_in(an_editor, segment_id)
    with pytest.raises(ValueError, match="shape"):
        write_mask(target, slice_of(target, 0, 2), np.ones((9, 10), bool))
    assert not an_editor.mask(segment_id).any()


# Oblique planes -----------------------------------------------------------------------------------------------------


@st.composite
def oblique_cuts(draw):
    """Spacing (3,), a point in the volume as part of it, and a normal along no axis."""
    spacing = draw(st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 0.5, 5.0), (2.0, 0.4, 0.4)]))
    part = draw(st.tuples(*[st.floats(0.2, 0.8)] * 3))
    normal = draw(st.tuples(*[st.floats(0.2, 1.0) | st.floats(-1.0, -0.2)] * 3))
    return spacing, part, normal


def oblique_plane(target, part, normal):
    grid = target.reference.grid
    return plane_through(grid, grid.to_mm(np.multiply(part, np.array(grid.shape) - 1)), normal)


def expected_after(target, before, plane, mask):
    """bool (K, J, I): every voxel that the plane cuts is what the mask says at its pixel."""
    expected, voxels = before.copy(), plane_voxels(target.reference.grid, plane)
    expected[tuple(voxels.kji.T)] = mask[tuple(voxels.pixels.T)]
    return expected


@with_editors
@given(cut=oblique_cuts(), seed=seeds, before=st.booleans())
def test_on_an_oblique_plane_the_voxels_become_what_the_mask_says_at_their_pixels(new_editor, cut, seed, before):
    spacing, part, normal = cut
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment(random_mask(seed) if before else None)
    old, target = editor.mask(segment_id), target_in(editor, segment_id)
    plane = oblique_plane(target, part, normal)
    mask = random_mask(seed + 1, plane.shape)
    expected = expected_after(target, old, plane, mask)
    assert write_mask(target, plane, mask) == bool((expected != old).any())
    assert np.array_equal(editor.mask(segment_id), expected)


@with_editors
@given(cut=oblique_cuts(), first=seeds, second=seeds, length=st.integers(0, 8))
def test_a_new_result_on_an_oblique_plane_leaves_nothing_of_the_one_before(new_editor, cut, first, second, length):
    spacing, part, normal = cut
    shape = (8, 24, 24)
    editor = new_editor(np.zeros(shape, np.int16), np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment()
    target = target_in(editor, segment_id)
    plane = oblique_plane(target, part, normal)
    for seed in (first, second):
        # A line one pixel wide, as of a vessel.
        mask = np.zeros(plane.shape, bool)
        row, column = np.random.default_rng(seed).integers(0, plane.shape)
        mask[row, column : column + length] = True
        write_mask(target, plane, mask)
    expected = expected_after(target, np.zeros(shape, bool), plane, mask)
    assert np.array_equal(editor.mask(segment_id), expected)


@with_editors
@given(cut=oblique_cuts(), seed=seeds)
def test_an_oblique_plane_leaves_the_voxels_alone_that_it_does_not_cut(new_editor, cut, seed):
    spacing, part, normal = cut
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment(random_mask(seed))
    old, target = editor.mask(segment_id), target_in(editor, segment_id)
    plane = oblique_plane(target, part, normal)
    write_mask(target, plane, random_mask(seed + 1, plane.shape))
    changed = editor.mask(segment_id) != old
    changed[tuple(plane_voxels(target.reference.grid, plane).kji.T)] = False
    assert not changed.any()


@with_editors
@given(cut=oblique_cuts(), seed=seeds)
def test_an_empty_mask_leaves_nothing_to_be_seen_on_an_oblique_plane(new_editor, cut, seed):
    spacing, part, normal = cut
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id = editor.add_segment(random_mask(seed))
    target = target_in(editor, segment_id)
    plane = oblique_plane(target, part, normal)
    write_mask(target, plane, np.zeros(plane.shape, bool))
    assert not segment_on_plane(target.segmentation_node, segment_id, target.reference, plane).any()


@with_editors
@given(
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (0.5, 0.5, 5.0)]),
    inside=st.tuples(*[st.floats(-0.49, 0.49)] * 3),
    normal=st.tuples(*[st.floats(0.2, 1.0) | st.floats(-1.0, -0.2)] * 3),
)
@example(spacing=(0.5, 0.5, 5.0), inside=(-0.37, -0.237, -0.092), normal=(0.7484, 0.5428, 0.3812))
def test_a_single_voxel_can_be_erased_wherever_an_oblique_plane_shows_it(new_editor, spacing, inside, normal):
    # A long voxel may be seen at its end, many pixels from where its centre projects to.
    shape = (5, 30, 30)
    editor = new_editor(np.zeros(shape, np.int16), np.diag([*spacing, 1.0]))
    one = np.zeros(shape, bool)
    one[2, 15, 15] = True
    segment_id = editor.add_segment(one)
    target = target_in(editor, segment_id)
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm(np.add((2, 15, 15), inside)), normal)
    seen = segment_on_plane(target.segmentation_node, segment_id, target.reference, plane).any()
    changed = write_mask(target, plane, np.zeros(plane.shape, bool))
    assert changed or not seen
    assert changed != editor.mask(segment_id).any()


@with_editors
@given(cut=oblique_cuts())
def test_a_full_mask_on_an_oblique_plane_leaves_no_hole(new_editor, cut):
    spacing, part, normal = cut
    editor = new_editor(ijk_to_ras=np.diag([*spacing, 1.0]))
    segment_id, everything = editor.add_segment(), editor.add_segment(np.ones(SHAPE, bool), own_layer=True)
    target = target_in(editor, segment_id)
    plane = oblique_plane(target, part, normal)
    editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    write_mask(target, plane, np.ones(plane.shape, bool))

    def seen(identifier):
        return segment_on_plane(target.segmentation_node, identifier, target.reference, plane)

    assert np.array_equal(seen(segment_id), seen(everything))


# What is protected --------------------------------------------------------------------------------------------------


@pytest.fixture
def beside_another(an_editor, box):
    """An empty segment and one in the middle of all slices; the mask on slice 2 reaches over both."""
    other_mask = box(((0, 6), (2, 6), (5, 8)))
    other = an_editor.add_segment(other_mask)
    segment_id = an_editor.add_segment()
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteAllSegments)
    target = target_in(an_editor, segment_id)
    mask = np.zeros((8, 10), bool)
    mask[3:5, 2:9] = True
    return target, slice_of(target, 0, 2), mask, other, other_mask


def test_a_protected_segment_keeps_its_voxels(an_editor, beside_another):
    target, plane, mask, other, other_mask = beside_another
    assert write_mask(target, plane, mask, protect=[other])
    assert np.array_equal(an_editor.mask(other), other_mask)
    assert np.array_equal(an_editor.mask(target.segment_id)[2], mask & ~other_mask[2])


def test_a_segment_that_is_not_protected_gives_way_on_the_slice_alone(an_editor, beside_another):
    target, plane, mask, other, other_mask = beside_another
    assert write_mask(target, plane, mask)
    assert np.array_equal(an_editor.mask(target.segment_id)[2], mask)
    other_mask[2] &= ~mask
    assert np.array_equal(an_editor.mask(other), other_mask)


def test_when_all_of_the_mask_is_protected_nothing_changes(an_editor, beside_another):
    target, plane, _, other, other_mask = beside_another
    before = an_editor.masks()
    assert not write_mask(target, plane, other_mask[2], protect=[other])
    after = an_editor.masks()
    assert all(np.array_equal(after[segment_id], before[segment_id]) for segment_id in before)


@pytest.mark.parametrize(
    ("mode", "keeps"),
    [
        (SEGMENT.EditAllowedEverywhere, lambda other: np.ones_like(other)),
        (SEGMENT.EditAllowedOutsideAllSegments, lambda other: ~other),
        (SEGMENT.EditAllowedInsideSingleSegment, lambda other: other),
    ],
)
def test_masking_limits_what_is_added(an_editor, beside_another, mode, keeps):
    target, plane, mask, other, other_mask = beside_another
    an_editor.node.SetOverwriteMode(EDITOR.OverwriteNone)
    an_editor.node.SetMaskMode(mode)
    an_editor.node.SetMaskSegmentID(other)
    assert write_mask(target, plane, mask)
    assert np.array_equal(an_editor.mask(target.segment_id)[2], mask & keeps(other_mask[2]))


def test_masking_limits_what_is_taken_away(an_editor, box):
    other_mask = box(((0, 6), (2, 6), (5, 8)))
    other = an_editor.add_segment(other_mask)
    segment_id = an_editor.add_segment(np.ones(SHAPE, bool), own_layer=True)
    an_editor.node.SetMaskMode(SEGMENT.EditAllowedOutsideAllSegments)
    target = target_in(an_editor, segment_id)
    assert write_mask(target, slice_of(target, 0, 2), np.zeros((8, 10), bool))
    expected = np.ones(SHAPE, bool)
    expected[2] = other_mask[2]
    assert np.array_equal(an_editor.mask(segment_id), expected)
    assert np.array_equal(an_editor.mask(other), other_mask)


def test_inside_one_segment_everything_can_be_taken_away_as_in_slicer(an_editor, box):
    other_mask = box(((0, 6), (2, 6), (5, 8)))
    other = an_editor.add_segment(other_mask)
    segment_id = an_editor.add_segment(box(((0, 6), (0, 8), (0, 5))))
    an_editor.node.SetMaskMode(SEGMENT.EditAllowedInsideSingleSegment)
    an_editor.node.SetMaskSegmentID(other)
    target = target_in(an_editor, segment_id)
    assert write_mask(target, slice_of(target, 0, 2), np.zeros((8, 10), bool))
    assert not an_editor.mask(segment_id)[2].any()
    # What was taken away falls to that segment.
    assert np.array_equal(an_editor.mask(other)[2], other_mask[2] | (np.indices((8, 10))[1] < 5))


def test_only_editable_intensities_change_in_either_direction(an_editor):
    segment_id = an_editor.add_segment(np.indices(SHAPE)[2] < 5)
    target = target_in(an_editor, segment_id)
    an_editor.node.SourceVolumeIntensityMaskOn()
    # Values count up from -200 by 1 along I and by 10 along J: slice 2 begins with -40.
    an_editor.node.SetSourceVolumeIntensityMaskRange(-27, 8)
    mask = np.indices((8, 10))[1] >= 5
    old = an_editor.mask(segment_id)
    assert write_mask(target, slice_of(target, 0, 2), mask)
    editable = (target.source.array >= -27) & (target.source.array <= 8)
    expected = old.copy()
    expected[2] = np.where(editable[2], mask, old[2])
    assert (expected[2] & ~old[2]).any()
    assert (old[2] & ~expected[2]).any()
    assert np.array_equal(an_editor.mask(segment_id), expected)


def test_where_nothing_is_editable_nothing_changes(an_editor):
    segment_id = an_editor.add_segment(random_mask(4))
    target, old = target_in(an_editor, segment_id), an_editor.mask(segment_id)
    an_editor.node.SourceVolumeIntensityMaskOn()
    an_editor.node.SetSourceVolumeIntensityMaskRange(5000, 6000)
    time = an_editor.segmentation.GetMTime()
    assert not write_mask(target, slice_of(target, 1, 3), np.ones((6, 10), bool))
    assert np.array_equal(an_editor.mask(segment_id), old)
    assert an_editor.segmentation.GetMTime() == time


def test_colours_are_masked_by_their_first_component_as_slicer_does(new_editor):
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[..., 0] = np.arange(10) * 10  # red counts up along I
    colours[..., 1] = 200
    editor = new_editor(colours, kind="vtkMRMLVectorVolumeNode")
    segment_id = editor.add_segment()
    editor.node.SourceVolumeIntensityMaskOn()
    editor.node.SetSourceVolumeIntensityMaskRange(30, 60)
    target = target_in(editor, segment_id)
    assert write_mask(target, slice_of(target, 0, 2), np.ones((8, 10), bool))
    written = editor.mask(segment_id)[2]
    assert written[:, 3:7].all()
    assert written.sum() == 8 * 4


# Several slices at once ---------------------------------------------------------------------------------------------


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
        target = target_in(editor, segment_id)
        wanted = random_mask(seed + 2)
        planes = [(slice_of(target, axis, i), on_slice(wanted, axis, i)) for i in range(0, SHAPE[axis], 2)]
        protect = [other] if protects else []
        if together:
            changed = write_slices(target, planes, protect=protect)
        else:
            changed = any([write_mask(target, *one, protect=protect) for one in planes])
        masks[together] = (changed, editor.mask(segment_id).tobytes(), editor.mask(other).tobytes())
    assert masks[True] == masks[False]


def test_writing_no_slice_changes_nothing(an_editor):
    assert not write_slices(target_in(an_editor, an_editor.add_segment()), [])


def test_an_oblique_plane_is_not_written_as_a_slice(an_editor):
    grid = target_in(an_editor, an_editor.add_segment()).reference.grid
    plane = plane_through(grid, grid.to_mm((3, 4, 5)), (0.3, 0.4, 1.0))
    with pytest.raises(GeometryError, match="oblique"):
        slice_voxels(plane, np.ones(plane.shape, bool))
