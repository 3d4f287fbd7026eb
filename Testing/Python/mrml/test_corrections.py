"""Results of networks and their corrections on real MRML: image and slices, painted labels, nodes, writing, undo."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.data.labels import UNMARKED
from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.corrections import (
    ContradictionError,
    LabelKind,
    ResultHistory,
    ResultSource,
    Violation,
    correction_image,
    corrections_for,
    corrections_of,
    jump_to,
    label_mappings,
    marked_slices,
    names_of_new_labels,
    nearest_axis,
    new_result,
    note_source,
    painted_labels,
    slice_of,
    source_of,
    viewed_slice,
    violations_left,
    volume_of,
    without_gaps,
    write_labels,
)
from scribblesegment.mrml.geometry import array_of, geometry_of, reference_geometry
from scribblesegment.mrml.labelmaps import segment_at
from scribblesegment.mrml.source_image import SourceImages

NAMES = ("background", "Liver", "Tumour")
SOURCE = ResultSource("/networks/liver.pt2", NAMES)
SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))
FIRST, SECOND = ((1, 3), (1, 4), (2, 6)), ((2, 5), (2, 4), (4, 9))  # two boxes that overlap in 4 voxels


@pytest.fixture
def a_result(an_editor):
    return new_result(an_editor.scene, an_editor.volume, "CT by liver", SOURCE)


def image_of(editor, result=None):
    return correction_image(editor.volume, result, SourceImages())


# The image and its slices --------------------------------------------------------------------------------------------


def test_the_image_is_the_volume_as_it_is_or_on_the_grid_of_the_result(an_editor, a_result, new_volume, oblique):
    images, halved = SourceImages(), oblique.copy()
    image = correction_image(an_editor.volume, None, images)
    assert np.array_equal(image.volume.array, np.arange(480).reshape(SHAPE) - 200)
    assert np.allclose(image.volume.ijk_to_ras, oblique)
    assert image.note is None
    assert correction_image(an_editor.volume, None, images).token == image.token
    an_editor.volume.GetImageData().Modified()
    assert correction_image(an_editor.volume, None, images).token != image.token
    halved[:3, :3] /= 2
    fine = new_volume(np.arange(12 * 16 * 20, dtype=np.int16).reshape(12, 16, 20), halved)
    assert correction_image(fine, a_result, images).volume.shape == SHAPE
    empty = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    for volume, message in ((None, r"No volume is selected\. Choose"), (empty, "'Nothing' is empty")):
        with pytest.raises(ImageError, match=message):
            correction_image(volume, None, images)


def look_at(editor, slice_node, axis, index, matrix_of):
    """Turn a view to a slice of the volume."""
    grid = image_of(editor).reference.grid
    kji = (np.array(grid.shape) - 1) / 2
    kji[axis] = index
    first, second = (grid.steps_kji_mm[other] for other in range(3) if other != axis)
    to_ras = np.eye(4)
    to_ras[:3, 0] = second / np.linalg.norm(second)
    to_ras[:3, 2] = np.cross(second, first)
    to_ras[:3, 2] /= np.linalg.norm(to_ras[:3, 2])
    to_ras[:3, 1] = np.cross(to_ras[:3, 2], to_ras[:3, 0])
    to_ras[:3, 3] = grid.to_mm(kji)
    world = matrix_of(np.eye(4))
    if editor.volume.GetParentTransformNode() is not None:
        editor.volume.GetParentTransformNode().GetMatrixTransformToWorld(world)
    slice_node.GetSliceToRAS().DeepCopy(matrix_of(array_of(world) @ to_ras))
    slice_node.UpdateMatrices()


@pytest.mark.parametrize(("axis", "index"), [(0, 4), (1, 0), (2, 9)])
@pytest.mark.parametrize("moved", [False, True])
def test_the_slice_that_a_view_shows_is_found(an_editor, a_slice_node, matrix_of, axis, index, moved):
    if moved:
        an_editor.put_under(an_editor.volume, [[0, 0, 1, 5], [1, 0, 0, 0], [0, 1, 0, -9], [0, 0, 0, 1.0]])
    look_at(an_editor, a_slice_node, axis, index, matrix_of)
    reference = image_of(an_editor).reference
    assert viewed_slice(a_slice_node, an_editor.volume, reference) == (axis, index)
    assert nearest_axis(a_slice_node, an_editor.volume, reference) == axis


def test_views_oblique_or_beside_the_volume_show_no_slice_and_a_voxel_is_shown_in_the_middle(
    an_editor, a_slice_node, matrix_of
):
    reference = image_of(an_editor).reference
    look_at(an_editor, a_slice_node, 0, 50, matrix_of)
    with pytest.raises(GeometryError):
        viewed_slice(a_slice_node, an_editor.volume, reference)
    look_at(an_editor, a_slice_node, 1, 3, matrix_of)
    tilt, shift = np.eye(4), np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    a_slice_node.GetSliceToRAS().DeepCopy(matrix_of(array_of(a_slice_node.GetSliceToRAS()) @ tilt))
    a_slice_node.UpdateMatrices()
    with pytest.raises(GeometryError, match=r"oblique.*whole volume"):
        viewed_slice(a_slice_node, an_editor.volume, reference)
    assert nearest_axis(a_slice_node, an_editor.volume, reference) == 1
    shift[:3, 3] = (100, 20, -30)
    an_editor.put_under(an_editor.volume, shift)
    jump_to(an_editor.volume, reference, (4, 1, 7))
    middle = array_of(a_slice_node.GetSliceToRAS())[:3, 3]
    assert np.allclose(middle - shift[:3, 3], reference.grid.to_mm((4, 1, 7)), atol=1e-3)


# What is painted -----------------------------------------------------------------------------------------------------


def paint(editor, name, mask, *, own_layer=True):
    segment_id = editor.add_segment(mask, own_layer=own_layer)
    editor.segment(segment_id).SetName(name)
    return segment_id


@pytest.mark.parametrize(
    ("segments", "labels", "new_labels", "expected", "new_names"),
    [
        (["Tumour", "Background", "  LIVER "], NAMES, True, [2, 0, 1], {}),
        (["Background", "nothing", "liver"], ("nothing", " Liver "), True, [0, 0, 1], {}),
        (["Cyst", "Liver", "cyst ", "Vessel"], NAMES, True, [3, 1, 3, 4], {3: "Cyst", 4: "Vessel"}),
        (["Cyst", "Liver"], NAMES, False, [None, 1], {}),
        (["Lobe"], ("background", "Lobe", "Lobe"), True, [1], {}),
        ([], NAMES, True, [], {}),
    ],
)
def test_segments_stand_for_the_labels_of_their_names(
    an_editor, box, segments, labels, new_labels, expected, new_names
):
    for number, name in enumerate(segments):
        paint(an_editor, name, box(((0, 1), (0, 1), (number, number + 1))), own_layer=bool(number % 2))
    paint(an_editor, "Empty", None)  # what nothing is painted of is not a new label
    *rows, empty = label_mappings(an_editor.segmentation_node, labels, new_labels=new_labels)
    assert (empty.kind, empty.label) == (LabelKind.EMPTY if new_labels else LabelKind.IGNORED, None)
    assert [(row.name, row.label) for row in rows] == list(zip(segments, expected, strict=True))
    assert names_of_new_labels(rows) == new_names
    for row in rows:
        known = LabelKind.LABEL if new_labels or row.label is not None else LabelKind.IGNORED
        assert row.kind is (LabelKind.NEW_LABEL if row.label in new_names else known)
    # Those that a slice lacks leave no gap.
    painted = np.array([[-1, 0, 4], [5, 2, -1]], np.int16)
    numbered, left = without_gaps(painted, 3, {3: "Cyst", 4: "Vessel", 5: "Node"})
    assert numbered.tolist() == [[-1, 0, 3], [4, 2, -1]]
    assert left == {3: "Vessel", 4: "Node"}
    assert without_gaps(numbered, 3, left)[0] is numbered


def labels_of(editor, grid_node=None, reference=None, mappings=None):
    node = editor.segmentation_node
    grid_node = grid_node or node
    mappings = label_mappings(node, NAMES) if mappings is None else mappings
    return painted_labels(node, mappings, reference or reference_geometry(grid_node), grid_node)


def grid_of(editor, matrix, shape, matrix_of):
    """A node with a lattice of its own, as another segmentation has it."""
    lattice = slicer.vtkOrientedImageData()
    k, j, i = shape
    lattice.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    lattice.SetImageToWorldMatrix(matrix_of(matrix))
    return editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode"), geometry_of(lattice)


@pytest.mark.parametrize("own_layer", [False, True])
@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (7, -3, 100)])
def test_painted_segments_become_labels_and_the_rest_is_unmarked(new_editor, box, own_layer, start_ijk):
    editor = new_editor(start_ijk=start_ijk)
    liver, background, cyst = box(FIRST), box(((4, 5), (0, 8), (0, 2))), box(((5, 6), (5, 8), (5, 8)))
    gone = paint(editor, "Tumour", box(((0, 1), (0, 1), (0, 1))), own_layer=own_layer)
    for name, mask in (("Liver", liver), ("Background", background), ("Cyst", cyst), ("Empty", None)):
        paint(editor, name, mask, own_layer=own_layer)
    mappings = label_mappings(editor.segmentation_node, NAMES, new_labels=False)
    editor.segmentation.RemoveSegment(gone)
    labels = labels_of(editor, mappings=mappings)
    assert labels.dtype == np.int16
    assert np.array_equal(labels, np.select([liver, background], [1, 0], UNMARKED))
    assert [marked_slices(labels, axis) for axis in range(3)] == [[1, 2, 4], [*range(8)], [*range(6)]]


def test_two_labels_on_a_voxel_are_a_contradiction_and_two_segments_of_one_label_are_not(an_editor, box):
    paint(an_editor, "Liver", box(FIRST))
    second = paint(an_editor, "liver", box(SECOND))
    assert np.array_equal(labels_of(an_editor) == 1, box(FIRST) | box(SECOND))
    an_editor.segment(second).SetName("Tumour")
    match = r"^4 voxels are .* 'Liver' and as 'Tumour'.*\(2, 2, 4\).*erase"
    with pytest.raises(ContradictionError, match=match) as caught:
        labels_of(an_editor)
    assert caught.value.kji == (2, 2, 4)


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
    labels = labels_of(editor, *grid_of(editor, coarse, shape, matrix_of))
    padded = np.zeros([side * factor for side in shape], bool)
    padded[: mask.shape[0], : mask.shape[1], : mask.shape[2]] = mask
    blocks = padded.reshape(shape[0], factor, shape[1], factor, shape[2], factor).any(axis=(1, 3, 5))
    assert np.array_equal(labels == 2, blocks)


def test_other_grids_get_the_part_inside_whole_blocks_and_no_contradictions(an_editor, box, oblique, matrix_of):
    liver = paint(an_editor, "Liver", box(((0, 6), (0, 8), (0, 10))))
    assert (labels_of(an_editor, *grid_of(an_editor, oblique, (3, 4, 5), matrix_of)) == 1).all()
    an_editor.segmentation.RemoveSegment(liver)
    halves = box(((0, 6), (0, 8), (0, 5))), box(((0, 6), (0, 8), (5, 10)))
    for name, mask in zip(("Liver", "Tumour"), halves, strict=True):
        paint(an_editor, name, mask, own_layer=False)
    fine, coarse = oblique.copy(), oblique.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] = (oblique @ np.array([-0.25, -0.25, -0.25, 1]))[:3]
    labels = labels_of(an_editor, *grid_of(an_editor, fine, (12, 16, 20), matrix_of))
    assert np.array_equal(labels, np.where(halves[0], 1, 2).repeat(2, 0).repeat(2, 1).repeat(2, 2))
    an_editor.segmentation.RemoveAllSegments()
    paint(an_editor, "Liver", box(((0, 1), (0, 1), (0, 1))))
    paint(an_editor, "Tumour", box(((0, 1), (0, 1), (1, 2))))  # within the same coarse voxel
    coarse[:3, :3] *= 4
    labels = labels_of(an_editor, *grid_of(an_editor, coarse, (2, 2, 3), matrix_of))
    assert labels[0, 0, 0] == 1
    assert (labels != UNMARKED).sum() == 1


def test_a_volume_that_was_moved_since_takes_its_marks_from_where_they_are_shown(an_editor, box):
    mask = box(((2, 4), (1, 4), (2, 6)))
    paint(an_editor, "Liver", mask)
    result = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    result.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    shift = np.eye(4)
    shift[:3, 3] = reference_geometry(result).grid.steps_kji_mm[0]
    an_editor.put_under(result, shift)  # one slice up, so that marks are one slice lower in it
    assert np.array_equal(labels_of(an_editor, result) == 1, box(FIRST))
    an_editor.put_under(an_editor.segmentation_node, shift)
    assert np.array_equal(labels_of(an_editor, result) == 1, mask)


def test_violations_are_sorted_by_how_many_there_are_and_say_where():
    painted, wrong = np.full((4, 5, 6), UNMARKED, np.int16), np.zeros((4, 5, 6), bool)
    painted[1, 2, 3:6], painted[3, 1, :2], painted[0, 0, 0] = 2, 0, 1
    wrong[1, 2, 4:6], wrong[3, 1, 1] = True, True
    assert violations_left(wrong, painted, None) == (Violation(2, 2, (1, 2, 4)), Violation(0, 1, (3, 1, 1)))
    for place, kji in (((0, 3), (3, 2, 4)), ((1, 3), (2, 3, 4)), ((2, 3), (2, 4, 3))):
        assert violations_left(wrong[1], painted[1], place) == (Violation(2, 2, kji),)
    assert violations_left(np.zeros((5, 6), bool), painted[1], (0, 0)) == ()


# Nodes ---------------------------------------------------------------------------------------------------------------


def some_labels(seed=0, count=3):
    return np.random.default_rng(seed).integers(0, count, SHAPE).astype(np.int16)


def ids_by_name(node):
    segmentation = node.GetSegmentation()
    return {segmentation.GetSegment(one).GetName(): one for one in segmentation.GetSegmentIDs()}


def mask_of(node, name):
    return segment_at(node, ids_by_name(node)[name], reference_geometry(node), KJI).reshape(SHAPE)


def shows(node, labels, names=NAMES):
    return all(np.array_equal(mask_of(node, name), labels == label) for label, name in enumerate(names) if label)


def write(node, labels, names=NAMES, place=None):
    write_labels(node, reference_geometry(node), labels, names, place)


def add_own_segment(editor, node, mask, name="Mine"):
    """A segment that the user added, on the layer of the others."""
    segment_id = node.GetSegmentation().AddEmptySegment("", name)
    mode = editor.module_logic.MODE_MERGE_MASK
    editor.module_logic.SetBinaryLabelmapToSegment(editor.modifier(mask), node, segment_id, mode)


def test_a_new_result_has_a_segment_for_each_label_and_a_name_of_its_own_where_its_volume_lies(an_editor, box):
    turn = np.array([[0, -1, 0, 4], [1, 0, 0, 0], [0, 0, 1, -7], [0, 0, 0, 1.0]])
    transform = an_editor.put_under(an_editor.volume, turn)
    node, other = (new_result(an_editor.scene, an_editor.volume, "r", SOURCE) for _ in range(2))
    assert node.GetName() != other.GetName()
    assert list(ids_by_name(node)) == ["Liver", "Tumour"]
    assert node.GetDisplayNode() is not None
    assert (source_of(node), volume_of(node)) == (SOURCE, an_editor.volume)
    assert node.GetParentTransformNode() is transform
    write(node, np.ones(SHAPE, np.int16))
    bounds, expected = [0.0] * 6, [0.0] * 6
    node.GetRASBounds(bounds)
    an_editor.volume.GetRASBounds(expected)
    assert np.allclose(bounds, expected, atol=1e-3)


def test_corrections_are_made_once_with_a_segment_for_each_label_in_the_colours_of_the_result(a_result, an_editor):
    assert corrections_of(a_result) is None
    corrections = corrections_for(a_result, an_editor.volume, NAMES, "CT by liver corrections")
    assert corrections.GetName() == "CT by liver corrections"
    assert list(ids_by_name(corrections)) == ["Liver", "Tumour", "Background"]
    for name in ("Liver", "Tumour"):
        of_both = [one.GetSegmentation().GetSegment(ids_by_name(one)[name]) for one in (a_result, corrections)]
        assert of_both[0].GetColor() == of_both[1].GetColor()
    assert not corrections.GetDisplayNode().GetVisibility3D()
    corrections.GetSegmentation().RemoveSegment(ids_by_name(corrections)["Liver"])
    assert corrections_for(a_result, an_editor.volume, NAMES, "c") is corrections is corrections_of(a_result)
    assert list(ids_by_name(corrections)) == ["Tumour", "Background"]
    an_editor.scene.RemoveNode(corrections)
    assert corrections_of(a_result) is None


def test_result_and_corrections_find_each_other_in_a_saved_scene(a_result, an_editor, tmp_path):
    note_source(a_result, ResultSource("other", ("nothing", "Niere ß")))
    corrections_for(a_result, an_editor.volume, NAMES, "c")
    an_editor.scene.SetURL(str(tmp_path / "scene.mrml"))
    an_editor.scene.SetSaveToXMLString(1)
    an_editor.scene.Commit()
    other = slicer.vtkMRMLScene()
    other.SetLoadFromXMLString(1)
    other.SetSceneXMLString(an_editor.scene.GetSceneXMLString())
    other.Import()
    result = other.GetFirstNodeByName("CT by liver")
    assert source_of(result) == ResultSource("other", ("nothing", "Niere ß"))
    assert corrections_of(result) is other.GetFirstNodeByName("c")
    for damaged in ("", "{", "[]", "null", '{"network": "x"}', '{"network": "x", "labels": []}', "7"):
        result.SetAttribute("ScribbleSegment.NetworkResult", damaged)
        assert source_of(result) is None
    assert source_of(None) is None


# Writing and undoing -------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=6))
def test_whatever_is_written_in_turn_is_shown_and_segments_of_the_user_keep_their_voxels(new_editor, box, steps):
    editor, own = new_editor(), box(((1, 4), (0, 8), (3, 6)))
    node = new_result(editor.scene, editor.volume, "r", SOURCE)
    expected = np.zeros(SHAPE, np.int16)
    for number, (seed, axis) in enumerate(steps):
        names = (*NAMES, "Cyst")[: 3 + seed % 2]  # of which the next result may know one less
        labels = some_labels(seed, len(names)) if seed else np.zeros(SHAPE, np.int16)
        place = None if axis is None else (axis, seed % SHAPE[axis])
        write(node, slice_of(labels, place), names, place)
        slice_of(expected, place)[...] = slice_of(labels, place)
        there = [name for name in (*NAMES, "Cyst") if name in ids_by_name(node)]
        assert shows(node, expected, ("background", *there))
        if number == 0:
            add_own_segment(editor, node, own)
            expected = sum(label * mask_of(node, name) for label, name in enumerate(there, 1)).astype(np.int16)
        assert np.array_equal(mask_of(node, "Mine"), own)
    for shape, place in (((5, 8, 10), None), ((8, 9), (0, 1))):
        with pytest.raises(GeometryError, match="labels"):
            write(node, np.zeros(shape, np.int16), place=place)


def test_segments_stay_those_of_their_labels_when_renamed_and_come_back_when_removed(a_result):
    a_result.GetSegmentation().GetSegment(ids_by_name(a_result)["Liver"]).SetName("Leber")
    a_result.GetSegmentation().RemoveSegment(ids_by_name(a_result)["Tumour"])
    labels = some_labels(count=4)
    write(a_result, labels, (*NAMES, "Cyst"))
    assert list(ids_by_name(a_result)) == ["Leber", "Tumour", "Cyst"]
    assert shows(a_result, labels, ("background", "Leber", "Tumour", "Cyst"))


def test_a_result_is_one_step_back_and_forth_with_what_was_edited_since(a_result, an_editor, box):
    history, own = ResultHistory(), box(FIRST)
    history.follow(a_result)
    first, second = some_labels(1), some_labels(2, count=4)
    write(a_result, first)
    assert not history.can_undo
    history.save()
    write(a_result, second, (*NAMES, "Cyst"))
    add_own_segment(an_editor, a_result, own)
    rest = mask_of(a_result, "Cyst")
    assert history.undo()
    assert shows(a_result, first)
    assert list(ids_by_name(a_result)) == ["Liver", "Tumour"]
    assert not history.undo()
    assert history.redo()
    assert np.array_equal(mask_of(a_result, "Mine"), own)
    assert np.array_equal(mask_of(a_result, "Cyst"), rest)
    assert not history.redo()
    for node in (an_editor.segmentation_node, None):  # a history follows one segmentation
        history.follow(node)
        assert not any([history.can_undo, history.can_redo, history.undo(), history.redo()])
