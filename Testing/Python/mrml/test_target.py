"""What the Segment Editor is set to edit; the task, the context, the drawing and the accepted slices of a segment."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import vtk_to_numpy

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.drawing import Click, Drawing, Stroke
from scribblesegment.data.geometry import Grid, grid_slice, plane_through
from scribblesegment.errors import FileFormatError, GeometryError, PromptError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import (
    ACCEPTED_TAG,
    TAG,
    AcceptedSlices,
    read_accepted,
    read_drawing,
    write_accepted,
    write_drawing,
)
from scribblesegment.mrml.target import (
    choose_task,
    context_entry,
    kept_task,
    resolve_target,
    slice_context,
    source_name,
    task_of,
)


@pytest.fixture
def segments(an_editor):
    """Two, of which the second is selected."""
    return an_editor.add_segment(), an_editor.add_segment()


def test_the_target_is_what_the_editor_has_selected_and_stays_it(an_editor, segments, new_volume):
    images = SourceImages()
    target = resolve_target(an_editor.node, images)
    assert target.source_node is an_editor.volume
    assert target.segment is an_editor.segment(segments[1])
    assert target.source.array[1, 2, 3] == 1 * 80 + 2 * 10 + 3 - 200
    an_editor.node.SetSelectedSegmentID(segments[0])
    other = resolve_target(an_editor.node, images)
    assert other.source is target.source  # made once
    assert not other.same_segment(target)
    an_editor.node.SetAndObserveSourceVolumeNode(new_volume(np.zeros((6, 8, 10), np.uint8)))
    assert (target.segment_id, target.source_node) == (segments[1], an_editor.volume)
    again = an_editor.target(segments[1], images)  # of another image, and not selected
    assert again.source.token != target.source.token
    assert again.same_segment(target)
    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")  # with a segment of the same name
    node.GetSegmentation().AddEmptySegment(segments[1])
    an_editor.node.SetAndObserveSegmentationNode(node)
    an_editor.node.SetSelectedSegmentID(segments[1])
    assert not resolve_target(an_editor.node, images).same_segment(target)


@pytest.mark.parametrize(
    ("remove", "exists"),
    [
        (lambda e, target: e.segmentation.RemoveSegment(e.segmentation.GetNthSegmentID(0)), True),
        (lambda e, target: e.segmentation.RemoveSegment(target.segment_id), False),
        (lambda e, target: e.scene.RemoveNode(e.segmentation_node), False),
        (lambda e, target: e.scene.Clear(0), False),
        (lambda e, target: e.segmentation_node.SetAndObserveSegmentation(None), False),
    ],
)
def test_a_target_is_gone_with_what_it_is_about_and_back_when_that_is_undone(an_editor, segments, remove, exists):
    target, closing = resolve_target(an_editor.node, SourceImages()), []
    start = slicer.vtkMRMLScene.StartCloseEvent
    tag = an_editor.scene.AddObserver(start, lambda *_: closing.append(target.exists))
    an_editor.logic.SaveStateForUndo()
    remove(an_editor, target)
    an_editor.scene.RemoveObserver(tag)
    assert target.exists == exists
    assert not any(closing), "it still counts while the scene is being closed"
    if an_editor.segmentation is not None and not exists and an_editor.logic.CanUndo():
        assert target.gestures.is_empty
        an_editor.logic.Undo()
        assert target.exists


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Segment_1", "Segment_23", "Segment", "", "  "])
def test_the_task_of_a_segment_is_its_name_or_what_is_chosen_and_unnamed_ones_are_apart(an_editor, name):
    node, ids = an_editor.segmentation_node, [an_editor.add_segment() for _ in range(3)]
    for segment_id, its_name in zip(ids, (name, name, " Left Kidney "), strict=True):
        an_editor.segment(segment_id).SetName(its_name)
    first, second, kidney = (task_of(node, one) for one in ids)
    assert (kidney.name, kidney.kept, kidney) == ("Left Kidney", True, kept_task("Left Kidney"))
    assert kidney.key == kept_task("left kidney").key
    assert task_of(node, "gone") is None
    assert first.name
    assert len({first.key, second.key, kept_task(name or "x").key}) == 3
    choose_task(node, ids[0], " Liver ")
    assert task_of(node, ids[0]) == kept_task("Liver")
    assert not task_of(node, ids[1]).kept
    choose_task(node, ids[0], " ")
    assert not task_of(node, ids[0]).kept


# Context ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(an_editor, box):
    segment_id = an_editor.add_segment(box(((1, 4), (2, 6), (3, 8))))
    return an_editor.target(segment_id)


def plane_of(target, axis, index):
    return grid_slice(target.reference.grid, axis, index)


@pytest.mark.parametrize(("axis", "index"), [(0, 2), (1, 3), (2, 5)])
def test_an_entry_is_the_slice_with_the_segment_on_it(target, box, axis, index):
    plane, name = plane_of(target, axis, index), source_name(target)
    entry = context_entry(target, plane)
    slice_of_volume = np.moveaxis(target.source.array, axis, 0)[index]
    assert np.allclose(entry.image, target.source.intensity_range.normalize(slice_of_volume))
    assert np.array_equal(entry.mask, np.moveaxis(box(((1, 4), (2, 6), (3, 8))), axis, 0)[index])
    spacing = [mm for other, mm in enumerate(target.reference.grid.spacing_kji_mm) if other != axis]
    assert entry.spacing_mm == pytest.approx(spacing)
    assert (entry.source, entry.axis, entry.index) == (name, axis, index)
    context = slice_context(target, plane, ContextSet("structure", (entry,)))
    assert (context.source, context.axis, context.index) == (name, axis, index)
    assert slice_context(target, plane, None) is slice_context(target, plane, ContextSet("structure")) is None


def test_an_oblique_slice_is_an_entry_without_a_place_and_an_empty_one_is_refused(target):
    grid = target.reference.grid
    plane = plane_through(grid, grid.to_mm((2, 4, 5)), (0.2, 0.5, 1.0))
    entry = context_entry(target, plane)
    assert entry.shape == plane.shape
    assert entry.mask.any()
    assert (entry.axis, entry.index) == (None, None)
    with pytest.raises(PromptError, match="empty on this slice"):
        context_entry(target, plane_of(target, 0, 5))


def test_volumes_that_are_called_alike_have_different_names_unless_they_are_alike(target, an_editor, new_volume):
    def name_with(array):
        volume = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        volume.CopyContent(an_editor.volume)
        volume.SetName("CT")
        vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())[:] = array.ravel()
        volume.GetImageData().Modified()
        an_editor.node.SetAndObserveSourceVolumeNode(volume)
        return source_name(an_editor.target(target.segment_id))

    array = np.array(target.source.array)
    assert name_with(array) == source_name(target)
    assert name_with(array + 1) != source_name(target)


# What was drawn and accepted, in tags of the segment ----------------------------------------------------------------


SHAPE = (6, 8, 10)
MATRIX = np.array([[0.8, 0.1, 0, 3.0], [-0.1, 0.8, 0, -7.5], [0, 0, 2.5, 11.25], [0, 0, 0, 1]])
GRID = Grid(SHAPE, MATRIX)

index_lists = st.tuples(*(st.sets(st.integers(0, side - 1)) for side in SHAPE))


@pytest.fixture
def a_segment(an_editor):
    segment = an_editor.segment(an_editor.add_segment())
    segment.SetName("Tumour")
    return segment


@pytest.fixture
def a_drawing(an_editor):
    """Makes a drawing of so many strokes on one slice."""
    grid = reference_geometry(an_editor.segmentation_node).grid
    plane = plane_through(grid, grid.to_mm((2, 4, 5)), grid.ijk_to_mm[:3, 2])

    def make(count, points_each=10):
        rng, drawing = np.random.default_rng(7), Drawing()
        for number in range(count):
            points = plane.to_mm(rng.random((points_each, 2)) * 8)
            drawing = drawing.added(plane, Stroke(tuple(map(tuple, points.tolist())), 1.5, number % 2 == 0))
        return drawing.added(plane, Click(tuple(plane.origin_mm.tolist()), False))

    return make


def accepted(*lists):
    result = AcceptedSlices(GRID)
    for axis, indices in enumerate(lists):
        result = result.added(axis, *indices)
    return result


# In a segment -------------------------------------------------------------------------------------------------------


def test_a_segment_keeps_what_was_drawn_and_accepted(a_segment, a_drawing):
    assert read_drawing(a_segment).is_empty
    assert read_drawing(None).is_empty
    assert read_accepted(None, GRID).is_empty
    drawing, slices = a_drawing(2), accepted([2, 4], [1])
    write_drawing(a_segment, drawing)
    write_accepted(a_segment, slices)
    assert read_drawing(a_segment).to_text() == drawing.to_text()
    assert read_drawing(a_segment) is read_drawing(a_segment)  # decoded once for each stored text
    assert read_accepted(a_segment, GRID).indices == ((2, 4), (1,), ())
    before = a_segment.GetMTime()
    write_drawing(a_segment, a_drawing(2))
    write_accepted(a_segment, slices)
    assert a_segment.GetMTime() == before  # any change would end the possibility to redo
    write_drawing(a_segment, Drawing())
    write_accepted(a_segment, AcceptedSlices(GRID))
    assert not a_segment.HasTag(TAG)
    assert not a_segment.HasTag(ACCEPTED_TAG)


def packed(slices, **changes) -> str:
    content = {"shape": [6, 8, 10], "ijk_to_mm": MATRIX.ravel().tolist(), "slices": slices, **changes}
    return "1" + base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode().rstrip("=")


WITHOUT_GRID = [packed([[], [], []], ijk_to_mm=[0.0] * 16), packed([[], [], []], shape=[6, 8])]
NO_SLICES = [packed(slices) for slices in ([[6], [], []], [[-1], [], []], [[True], [], []], [[], []])]


@pytest.mark.parametrize("text", ["1damaged", "9abc", "1", "?", *WITHOUT_GRID, *NO_SLICES])
def test_a_damaged_tag_is_reported_with_the_segment_s_name(a_segment, text):
    a_segment.SetTag(TAG, text)
    a_segment.SetTag(ACCEPTED_TAG, text)
    with pytest.raises(FileFormatError, match=r"'Tumour' cannot be read.*start over"):
        read_drawing(a_segment)
    with pytest.raises(FileFormatError, match=r"'Tumour' itself is intact; accept its slices again"):
        read_accepted(a_segment, GRID)


def test_a_segmentation_file_and_a_saved_scene_keep_the_strokes(an_editor, a_drawing, box, tmp_path):
    segment_id, drawing = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6)))), a_drawing(20, points_each=150)
    write_drawing(an_editor.segment(segment_id), drawing)
    assert len(drawing.to_text()) > 20_000
    node = an_editor.segmentation_node
    node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(tmp_path / "Segmentation.seg.nrrd"))
    assert node.GetStorageNode().WriteData(node)
    an_editor.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert an_editor.scene.Commit()
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Connect()
    loaded = scene.GetNthNodeByClass(0, "vtkMRMLSegmentationNode").GetSegmentation().GetSegment(segment_id)
    assert read_drawing(loaded).to_text() == drawing.to_text()


# Accepted slices ----------------------------------------------------------------------------------------------------


@given(index_lists)
def test_what_was_written_is_read(lists):
    one = accepted(*lists)
    assert (one.to_text() == "") == one.is_empty
    if not one.is_empty:
        again = AcceptedSlices.from_text(one.to_text())
        assert again.indices == one.indices == tuple(tuple(sorted(indices)) for indices in lists)
        assert again.grid.same_as(GRID)
        assert again.to_text() == one.to_text()
    for axis, indices in enumerate(lists):
        for index in indices:
            assert one.holds(axis, index)
            one = one.removed(axis, index)
    assert one.is_empty
    with pytest.raises(GeometryError, match="Slice 6 along axis 0"):
        one.added(0, 6)


@given(index_lists, st.integers(-3, 3), st.integers(0, 2))
def test_on_a_cropped_or_extended_grid_the_same_slices_are_found(lists, shift, axis):
    moved = MATRIX.copy()
    moved[:3, 3] += shift * GRID.steps_kji_mm[axis]
    there = accepted(*lists).on(Grid(SHAPE, moved))
    for other, indices in enumerate(lists):
        by = shift if other == axis else 0
        assert set(there.indices[other]) == {i - by for i in indices if 0 <= i - by < SHAPE[other]}


def test_on_a_turned_or_differently_spaced_grid_slices_go_with_their_axis_or_are_left_out():
    exchanged = Grid((10, 8, 6), MATRIX[:, [2, 1, 0, 3]])
    assert accepted([2], [], [7]).on(exchanged).indices == ((7,), (), (2,))
    turned = MATRIX @ np.array([[1, 0, 0, 0], [0, 0.9, -0.4, 0], [0, 0.4, 0.9, 0], [0, 0, 0, 1]])
    assert accepted([2], [3], [7]).on(Grid(SHAPE, turned)).indices == ((), (), (7,))
    coarser = MATRIX.copy()
    coarser[:3, 2] *= 2
    assert accepted([1, 2]).on(Grid(SHAPE, coarser)).indices[0] == (1,)
