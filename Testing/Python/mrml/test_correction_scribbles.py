from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.errors import PromptError
from scribblesegment.mrml.corrections import (
    UNMARKED,
    ContradictionError,
    Violation,
    marked_slices,
    marked_voxels,
    painted_labels,
    segment_meanings,
    slice_of,
    violations_left,
)
from scribblesegment.mrml.geometry import geometry_of, reference_geometry
from scribblesegment.mrml.labelmaps import blank_labelmap, voxels_of

LABELS = ("background", "Liver", "Tumour")


def labels_of(editor, grid_node=None, reference=None):
    node = editor.segmentation_node
    grid_node = grid_node or node
    meanings = segment_meanings(node, LABELS)
    return painted_labels(node, meanings, reference or reference_geometry(grid_node), grid_node)


def paint(editor, name, mask, *, own_layer=True):
    segment_id = editor.add_segment(mask, own_layer=own_layer)
    editor.segment(segment_id).SetName(name)
    return segment_id


def grid_of(editor, matrix, shape, matrix_of):
    """A node with a lattice of its own, as another segmentation has it."""
    lattice = slicer.vtkOrientedImageData()
    k, j, i = shape
    lattice.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    lattice.SetImageToWorldMatrix(matrix_of(matrix))
    node = editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    return node, geometry_of(lattice)


def test_unmarked_is_what_the_refinement_means_by_it():
    from scribblesegment.data import labels as label_scribbles

    assert label_scribbles.UNMARKED == UNMARKED


@pytest.mark.parametrize("own_layer", [False, True])
def test_painted_segments_become_labels_and_the_rest_is_unmarked(an_editor, box, own_layer):
    liver, background = box(((1, 3), (1, 4), (2, 6))), box(((4, 5), (0, 8), (0, 2)))
    paint(an_editor, "Liver", liver, own_layer=own_layer)
    paint(an_editor, "Background", background, own_layer=own_layer)
    labels = labels_of(an_editor)
    assert labels.dtype == np.int16
    assert np.array_equal(labels, np.select([liver, background], [1, 0], UNMARKED))


def test_ignored_and_empty_segments_say_nothing(an_editor, box):
    paint(an_editor, "Liver", None)
    paint(an_editor, "Cyst", box(((1, 3), (1, 4), (2, 6))))
    node = an_editor.segmentation_node
    meanings = segment_meanings(node, LABELS, new_labels=False)
    assert (painted_labels(node, meanings, reference_geometry(node), node) == UNMARKED).all()


def test_a_segment_removed_since_says_nothing(an_editor, box):
    segment_id = paint(an_editor, "Liver", box(((1, 3), (1, 4), (2, 6))))
    paint(an_editor, "Tumour", box(((5, 6), (1, 4), (2, 6))))
    node = an_editor.segmentation_node
    meanings = segment_meanings(node, LABELS)
    an_editor.segmentation.RemoveSegment(segment_id)
    assert set(np.unique(painted_labels(node, meanings, reference_geometry(node), node))) == {UNMARKED, 2}


def test_two_labels_on_a_voxel_are_a_contradiction_that_says_where(an_editor, box):
    paint(an_editor, "Liver", box(((1, 3), (1, 4), (2, 6))))
    paint(an_editor, "Tumour", box(((2, 5), (2, 4), (4, 9))))
    with pytest.raises(PromptError, match=r"^4 voxels are .* 'Liver' and as 'Tumour'.*\(2, 2, 4\).*erase") as caught:
        labels_of(an_editor)
    assert isinstance(caught.value, ContradictionError)
    assert caught.value.kji == (2, 2, 4)


def test_two_segments_of_one_label_may_overlap(an_editor, box):
    first, second = box(((1, 3), (1, 4), (2, 6))), box(((2, 5), (2, 4), (4, 9)))
    paint(an_editor, "Liver", first)
    paint(an_editor, "liver", second)
    assert np.array_equal(labels_of(an_editor) == 1, first | second)


def test_only_the_part_inside_the_grid_counts(an_editor, box, oblique, matrix_of):
    mask = box(((0, 6), (0, 8), (0, 10)))
    paint(an_editor, "Liver", mask)
    node, smaller = grid_of(an_editor, oblique, (3, 4, 5), matrix_of)
    labels = labels_of(an_editor, node, smaller)
    assert labels.shape == (3, 4, 5)
    assert (labels == 1).all()


def test_extents_that_do_not_start_at_zero_are_followed(new_editor, box):
    editor = new_editor(start_ijk=(7, -3, 100))
    mask = box(((1, 3), (1, 4), (2, 6)))
    paint(editor, "Liver", mask)
    assert np.array_equal(labels_of(editor) == 1, mask)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([2, 3]))
def test_no_mark_vanishes_on_a_coarser_grid(new_editor, matrix_of, oblique, seed, factor):
    rng = np.random.default_rng(seed)
    editor = new_editor(np.zeros((6, 9, 12), np.int16))
    mask = rng.random((6, 9, 12)) < 0.02
    mask[tuple(rng.integers((6, 9, 12)))] = True
    paint(editor, "Tumour", mask)
    coarse = oblique.copy()
    coarse[:3, :3] *= factor
    # The first voxel of the coarse grid fills the first ones of the fine grid.
    coarse[:3, 3] = (oblique @ np.array([*[(factor - 1) / 2] * 3, 1]))[:3]
    shape = tuple(-(-side // factor) for side in mask.shape)
    node, reference = grid_of(editor, coarse, shape, matrix_of)
    labels = labels_of(editor, node, reference)
    padded = np.zeros([side * factor for side in shape], bool)
    padded[: mask.shape[0], : mask.shape[1], : mask.shape[2]] = mask
    blocks = padded.reshape(shape[0], factor, shape[1], factor, shape[2], factor).any(axis=(1, 3, 5))
    assert np.array_equal(labels == 2, blocks)


def test_on_a_finer_grid_every_voxel_inside_is_marked(an_editor, box, oblique, matrix_of):
    mask = box(((1, 3), (1, 4), (2, 6)))
    paint(an_editor, "Liver", mask)
    fine = oblique.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] = (oblique @ np.array([-0.25, -0.25, -0.25, 1]))[:3]
    node, reference = grid_of(an_editor, fine, (12, 16, 20), matrix_of)
    labels = labels_of(an_editor, node, reference)
    assert np.array_equal(labels == 1, mask.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_where_a_coarse_voxel_has_marks_of_two_labels_it_is_no_contradiction(an_editor, oblique, matrix_of):
    first, second = np.zeros((2, 6, 8, 10), bool)
    first[0, 0, 0], second[0, 0, 1] = True, True
    paint(an_editor, "Liver", first)
    paint(an_editor, "Tumour", second)
    coarse = oblique.copy()
    coarse[:3, :3] *= 4
    node, reference = grid_of(an_editor, coarse, (2, 2, 3), matrix_of)
    labels = labels_of(an_editor, node, reference)
    assert labels[0, 0, 0] == 1
    assert (labels != UNMARKED).sum() == 1


def test_a_volume_that_was_moved_since_takes_its_marks_from_where_they_are_shown(an_editor, box, matrix_of):
    mask = box(((2, 4), (1, 4), (2, 6)))
    paint(an_editor, "Liver", mask)
    result = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    result.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    steps = reference_geometry(result).grid.steps_kji_mm
    shift = np.eye(4)
    shift[:3, 3] = steps[0]  # the result goes one slice up, so that marks are one slice lower in it
    an_editor.put_under(result, shift)
    assert np.array_equal(labels_of(an_editor, result) == 1, box(((1, 3), (1, 4), (2, 6))))
    an_editor.put_under(an_editor.segmentation_node, shift)
    assert np.array_equal(labels_of(an_editor, result) == 1, mask)


def test_a_segment_that_does_not_exist_has_no_voxels(an_editor):
    node = an_editor.segmentation_node
    marked = marked_voxels(node, "gone", reference_geometry(node), node)
    assert marked.kji.shape == marked.slivers_kji.shape == (0, 3)


def test_a_shared_label_map_of_another_lattice_keeps_its_labels_apart(an_editor, oblique, matrix_of):
    lattice = slicer.vtkOrientedImageData()
    lattice.SetExtent(0, 19, 0, 15, 0, 11)
    fine = oblique.copy()
    fine[:3, :3] /= 2
    lattice.SetImageToWorldMatrix(matrix_of(fine))
    labelmap = blank_labelmap(lattice, lattice.GetExtent())
    voxels_of(labelmap)[...] = np.where(np.arange(20) < 10, 5, 9)
    for name, value in (("Liver", 5), ("Tumour", 9)):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetLabelValue(value)
        segment.AddRepresentation("Binary labelmap", labelmap)
        an_editor.segmentation.AddSegment(segment)
    node, reference = grid_of(an_editor, oblique, (6, 8, 10), matrix_of)
    labels = labels_of(an_editor, node, reference)
    assert (labels[..., :5] == 1).all()
    assert (labels[..., 5:] == 2).all()


@pytest.mark.parametrize("place", [(0, 2), (1, 7), (2, 0)])
def test_a_slice_is_a_view_of_the_voxels(place):
    labels = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
    shown = slice_of(labels, place)
    assert np.array_equal(shown, np.take(labels, place[1], axis=place[0]))
    assert np.shares_memory(shown, labels)
    assert slice_of(labels, None) is labels


def test_the_slices_with_marks_are_listed():
    labels = np.full((4, 5, 6), UNMARKED, np.int16)
    labels[1, 2, 3], labels[3, 2, 0] = 0, 2
    assert [marked_slices(labels, axis) for axis in range(3)] == [[1, 3], [2], [0, 3]]


def test_violations_are_sorted_by_how_many_there_are_and_say_where():
    painted = np.full((4, 5, 6), UNMARKED, np.int16)
    painted[1, 2, 3:6], painted[3, 1, :2], painted[0, 0, 0] = 2, 0, 1
    wrong = np.zeros(painted.shape, bool)
    wrong[1, 2, 4:6], wrong[3, 1, 1] = True, True
    left = violations_left(wrong, painted, None)
    assert left == (Violation(2, 2, (1, 2, 4)), Violation(0, 1, (3, 1, 1)))


@pytest.mark.parametrize(("place", "expected"), [((0, 3), (3, 1, 2)), ((1, 3), (1, 3, 2)), ((2, 3), (1, 2, 3))])
def test_a_violation_on_a_slice_is_a_voxel_of_the_volume(place, expected):
    painted, wrong = np.full((5, 6), UNMARKED, np.int16), np.zeros((5, 6), bool)
    painted[1, 2], wrong[1, 2] = 1, True
    assert violations_left(wrong, painted, place) == (Violation(1, 1, expected),)


def test_a_result_that_follows_everything_has_no_violations():
    painted = np.ones((5, 6), np.int16)
    assert violations_left(np.zeros((5, 6), bool), painted, (0, 0)) == ()
