from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vtkmodules.vtkCommonDataModel import vtkPolyData

from scribblesegment.errors import GeometryError
from scribblesegment.mrml.corrections import (
    ResultHistory,
    ResultSource,
    corrections_for,
    corrections_of,
    new_result,
    note_source,
    slice_of,
    source_of,
    volume_of,
    write_labels,
)
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import segment_at

NAMES = ("background", "Liver", "Tumour")
SOURCE = ResultSource("/networks/liver.pt2", NAMES)
SHAPE = (6, 8, 10)
KJI = np.argwhere(np.ones(SHAPE, bool))


@pytest.fixture
def a_result(an_editor):
    return new_result(an_editor.scene, an_editor.volume, "CT by liver", SOURCE)


def some_labels(seed=0, count=3, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, count, shape).astype(np.int16)


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
    editor.module_logic.SetBinaryLabelmapToSegment(
        editor.modifier(mask), node, segment_id, editor.module_logic.MODE_MERGE_MASK
    )
    return segment_id


def test_a_new_result_has_a_segment_for_each_label_but_the_background(a_result, an_editor):
    assert list(ids_by_name(a_result)) == ["Liver", "Tumour"]
    assert a_result.GetDisplayNode() is not None
    assert source_of(a_result) == SOURCE
    assert volume_of(a_result) is an_editor.volume


def test_two_results_of_one_volume_have_names_of_their_own(a_result, an_editor):
    other = new_result(an_editor.scene, an_editor.volume, a_result.GetName(), SOURCE)
    assert other.GetName() != a_result.GetName()


def test_a_result_lies_where_its_volume_lies(an_editor, box):
    editor = an_editor
    turn = np.array([[0, -1, 0, 4], [1, 0, 0, 0], [0, 0, 1, -7], [0, 0, 0, 1.0]])
    transform = editor.put_under(editor.volume, turn)
    result = new_result(editor.scene, editor.volume, "r", SOURCE)
    assert result.GetParentTransformNode() is transform
    mask = box(((1, 3), (2, 5), (4, 9)))
    write(result, mask.astype(np.int16))
    assert np.array_equal(mask_of(result, "Liver"), mask)
    bounds = [0.0] * 6
    expected = [0.0] * 6
    write(result, np.ones(SHAPE, np.int16))
    result.GetRASBounds(bounds)
    editor.volume.GetRASBounds(expected)
    assert np.allclose(bounds, expected, atol=1e-3)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"network": "x"}', '{"network": "x", "labels": []}', "7"])
def test_a_segmentation_that_is_no_result_has_no_source(an_editor, text):
    assert source_of(None) is None
    an_editor.segmentation_node.SetAttribute("ScribbleSegment.NetworkResult", text)
    assert source_of(an_editor.segmentation_node) is None


def test_labels_of_the_whole_volume_become_the_segments(a_result):
    for seed in range(3):
        labels = some_labels(seed)
        write(a_result, labels)
        assert shows(a_result, labels)


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (1, 3), (2, 9)])
def test_one_slice_is_changed_and_the_others_stay(a_result, place):
    before, labels = some_labels(1), some_labels(2)
    write(a_result, before)
    write(a_result, slice_of(labels, place), place=place)
    slice_of(before, place)[...] = slice_of(labels, place)
    assert shows(a_result, before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=6))
def test_whatever_is_written_in_turn_is_shown(new_editor, steps):
    editor = new_editor()
    node = new_result(editor.scene, editor.volume, "r", SOURCE)
    expected = np.zeros(SHAPE, np.int16)
    for seed, axis in steps:
        labels = some_labels(seed)
        place = None if axis is None else (axis, seed % SHAPE[axis])
        write(node, slice_of(labels, place), place=place)
        slice_of(expected, place)[...] = slice_of(labels, place)
        assert shows(node, expected)


@pytest.mark.parametrize("place", [None, (0, 2)])
def test_segments_that_the_user_added_keep_their_voxels(a_result, an_editor, box, place):
    write(a_result, some_labels(1))
    own = box(((1, 4), (0, 8), (3, 6)))
    add_own_segment(an_editor, a_result, own)
    labels = some_labels(2)
    write(a_result, slice_of(labels, place), place=place)
    assert np.array_equal(mask_of(a_result, "Mine"), own)
    assert np.array_equal(slice_of(mask_of(a_result, "Liver"), place), slice_of(labels == 1, place))


def test_a_renamed_segment_is_still_that_of_its_label(a_result):
    segment_id = ids_by_name(a_result)["Liver"]
    a_result.GetSegmentation().GetSegment(segment_id).SetName("Leber")
    labels = some_labels()
    write(a_result, labels)
    assert list(ids_by_name(a_result)) == ["Leber", "Tumour"]
    assert np.array_equal(mask_of(a_result, "Leber"), labels == 1)


def test_a_removed_segment_comes_back_and_a_new_label_gets_one(a_result):
    a_result.GetSegmentation().RemoveSegment(ids_by_name(a_result)["Liver"])
    labels = some_labels(count=4)
    write(a_result, labels, (*NAMES, "Cyst"))
    assert set(ids_by_name(a_result)) == {"Liver", "Tumour", "Cyst"}
    assert shows(a_result, labels, (*NAMES, "Cyst"))


@pytest.mark.parametrize("place", [None, (1, 4)])
def test_a_new_label_that_the_next_result_lacks_is_gone_where_that_is_written(a_result, place):
    write(a_result, some_labels(3, count=4), (*NAMES, "Cyst"))
    labels = some_labels(5)
    write(a_result, slice_of(labels, place), place=place)
    assert not slice_of(mask_of(a_result, "Cyst"), place).any()
    assert np.array_equal(slice_of(mask_of(a_result, "Tumour"), place), slice_of(labels == 2, place))
    assert mask_of(a_result, "Cyst").any() == (place is not None)


def test_a_label_that_is_nowhere_has_an_empty_segment(a_result):
    write(a_result, some_labels())
    write(a_result, np.zeros(SHAPE, np.int16))
    assert shows(a_result, np.zeros(SHAPE))
    write(a_result, some_labels(4))
    assert shows(a_result, some_labels(4))


def test_more_labels_than_a_byte_holds(an_editor):
    names = ("background", *(f"organ {number}" for number in range(1, 301)))
    node = new_result(an_editor.scene, an_editor.volume, "r", ResultSource("n", names))
    labels = some_labels(count=301)
    write(node, labels, names)
    assert shows(node, labels, names)


def test_surfaces_are_made_again(a_result):
    labels = np.zeros(SHAPE, np.int16)
    labels[2:4, 2:5, 2:6] = 1
    write(a_result, labels)
    a_result.CreateClosedSurfaceRepresentation()

    def points():
        surface = vtkPolyData()
        a_result.GetClosedSurfaceRepresentation(ids_by_name(a_result)["Liver"], surface)
        return surface.GetNumberOfPoints()

    before = points()
    assert before > 0
    labels[1:5, 1:7, 1:9] = 1
    write(a_result, labels)
    assert points() > before


def test_labels_of_another_shape_are_refused(a_result):
    with pytest.raises(GeometryError, match=r"labels"):
        write(a_result, np.zeros((5, 8, 10), np.int16))
    with pytest.raises(GeometryError, match=r"labels"):
        write(a_result, np.zeros((8, 9), np.int16), place=(0, 1))


def test_corrections_have_a_segment_for_each_label_in_the_colours_of_the_result(a_result, an_editor):
    corrections = corrections_for(a_result, an_editor.volume, NAMES, "CT by liver corrections")
    assert corrections.GetName() == "CT by liver corrections"
    assert list(ids_by_name(corrections)) == ["Background", "Liver", "Tumour"]
    for name in ("Liver", "Tumour"):
        colors = [
            node.GetSegmentation().GetSegment(ids_by_name(node)[name]).GetColor() for node in (a_result, corrections)
        ]
        assert colors[0] == colors[1]
    assert not corrections.GetDisplayNode().GetVisibility3D()


def test_corrections_are_made_once_and_are_those_of_their_result(a_result, an_editor):
    assert corrections_of(a_result) is None
    first = corrections_for(a_result, an_editor.volume, NAMES, "c")
    first.GetSegmentation().RemoveSegment(ids_by_name(first)["Liver"])
    assert corrections_for(a_result, an_editor.volume, NAMES, "c") is first
    assert list(ids_by_name(first)) == ["Background", "Tumour"]
    assert corrections_of(a_result) is first
    an_editor.scene.RemoveNode(first)
    assert corrections_of(a_result) is None


def test_result_and_corrections_find_each_other_in_a_saved_scene(a_result, an_editor, tmp_path):
    note_source(a_result, ResultSource("other", ("nothing", "Niere ß")))
    corrections_for(a_result, an_editor.volume, NAMES, "c")
    an_editor.scene.SetURL(str(tmp_path / "scene.mrml"))
    an_editor.scene.SetSaveToXMLString(1)
    an_editor.scene.Commit()
    text = an_editor.scene.GetSceneXMLString()
    other = slicer.vtkMRMLScene()
    other.SetLoadFromXMLString(1)
    other.SetSceneXMLString(text)
    other.Import()
    result = other.GetFirstNodeByName("CT by liver")
    assert source_of(result) == ResultSource("other", ("nothing", "Niere ß"))
    assert corrections_of(result) is other.GetFirstNodeByName("c")


@pytest.fixture
def a_history(a_result):
    history = ResultHistory()
    history.follow(a_result)
    return history


def test_a_result_is_one_step_back_and_forth(a_result, a_history):
    first, second = some_labels(1), some_labels(2, count=4)
    names = (*NAMES, "Cyst")
    write(a_result, first)
    assert not a_history.can_undo
    a_history.save()
    write(a_result, second, names)
    assert a_history.can_undo
    assert a_history.undo()
    assert shows(a_result, first)
    assert list(ids_by_name(a_result)) == ["Liver", "Tumour"]
    assert not a_history.undo()
    assert a_history.redo()
    assert shows(a_result, second, names)
    assert not a_history.redo()


def test_undo_also_takes_back_what_was_edited_since_and_redo_brings_it_again(a_result, a_history, an_editor, box):
    first = some_labels(1)
    write(a_result, first)
    a_history.save()
    write(a_result, some_labels(2))
    add_own_segment(an_editor, a_result, box(((1, 3), (1, 4), (2, 6))))
    assert a_history.undo()
    assert shows(a_result, first)
    assert a_history.redo()
    assert np.array_equal(mask_of(a_result, "Mine"), box(((1, 3), (1, 4), (2, 6))))


def test_a_history_follows_one_segmentation(a_result, a_history, an_editor):
    a_history.save()
    write(a_result, some_labels(2))
    a_history.follow(an_editor.segmentation_node)
    assert not a_history.can_undo
    a_history.follow(None)
    a_history.save()
    assert not a_history.can_undo
    assert not a_history.can_redo
    assert not a_history.undo()
    assert not a_history.redo()


def test_the_segment_editors_undo_takes_a_result_back_in_one_step(a_result, an_editor):
    first = some_labels(1)
    write(a_result, first)
    an_editor.node.SetAndObserveSegmentationNode(a_result)
    an_editor.logic.SaveStateForUndo()
    write(a_result, some_labels(2))
    an_editor.logic.Undo()
    assert shows(a_result, first)
    assert not an_editor.logic.CanUndo()
