from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

import slicer

from scribblesegment.data.drawing import Click, Drawing, Stroke
from scribblesegment.data.geometry import plane_through
from scribblesegment.errors import FileFormatError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.tags import TAG, read_drawing, write_drawing
from scribblesegment.mrml.writer import write_voxels

NOTHING = np.zeros((0, 3), np.int64)


@pytest.fixture
def a_plane(an_editor):
    grid = reference_geometry(an_editor.segmentation_node).grid
    return plane_through(grid, grid.to_mm((2, 4, 5)), grid.ijk_to_mm[:3, 2])


@pytest.fixture
def a_segment(an_editor):
    return an_editor.segment(an_editor.add_segment())


def strokes(plane, count, points_each=10):
    rng = np.random.default_rng(7)
    gestures = Drawing()
    for number in range(count):
        points = plane.to_mm(rng.random((points_each, 2)) * 8)
        gestures = gestures.added(plane, Stroke(tuple(map(tuple, points.tolist())), 1.5, number % 2 == 0))
    return gestures


def text_of(segment):
    return read_drawing(segment).to_text()


def test_what_was_written_is_read(a_segment, a_plane):
    gestures = strokes(a_plane, 2).added(a_plane, Click(tuple(a_plane.origin_mm.tolist()), False))
    write_drawing(a_segment, gestures)
    assert text_of(a_segment) == gestures.to_text()
    assert not read_drawing(a_segment).is_empty


def test_a_segment_that_was_never_drawn_in_has_nothing(a_segment):
    assert read_drawing(a_segment).is_empty
    assert read_drawing(None).is_empty


def test_removing_everything_removes_the_tag(a_segment, a_plane):
    write_drawing(a_segment, strokes(a_plane, 1))
    assert a_segment.HasTag(TAG)
    write_drawing(a_segment, Drawing())
    assert not a_segment.HasTag(TAG)


def test_writing_the_same_again_changes_nothing(a_segment, a_plane):
    write_drawing(a_segment, strokes(a_plane, 1))
    before = a_segment.GetMTime()
    write_drawing(a_segment, strokes(a_plane, 1))
    assert a_segment.GetMTime() == before


def test_writing_nothing_where_nothing_was_changes_nothing(a_segment):
    before = a_segment.GetMTime()
    write_drawing(a_segment, Drawing())
    assert a_segment.GetMTime() == before


@pytest.mark.parametrize("text", ["1damaged", "9abc", "?"])
def test_a_damaged_tag_is_reported_with_the_segment_s_name(a_segment, text):
    a_segment.SetName("Tumour")
    a_segment.SetTag(TAG, text)
    with pytest.raises(FileFormatError, match=r"'Tumour' cannot be read.*start over"):
        read_drawing(a_segment)


def test_undo_and_redo_bring_mask_and_strokes_back_together(an_editor, a_plane, box):
    segment_id = an_editor.add_segment()
    reference = reference_geometry(an_editor.segmentation_node)
    an_editor.logic.ClearUndoState()

    def state():
        return an_editor.mask(segment_id).tobytes(), text_of(an_editor.segment(segment_id))

    states = []
    for number in range(20):
        states.append(state())
        an_editor.logic.SaveStateForUndo()
        write_drawing(an_editor.segment(segment_id), strokes(a_plane, number + 1))
        corner = (number % 5, number % 7, number % 9)
        kji = np.argwhere(box(tuple((start, start + 2) for start in corner)))
        write_voxels(an_editor.segmentation_node, an_editor.node, segment_id, reference, kji, NOTHING)
    states.append(state())
    assert len(set(states)) == 21
    for expected in states[-2::-1]:
        an_editor.logic.Undo()
        assert state() == expected
    assert not an_editor.logic.CanUndo()
    for expected in states[1:]:
        an_editor.logic.Redo()
        assert state() == expected
    assert not an_editor.logic.CanRedo()


def test_a_segmentation_file_keeps_the_strokes(an_editor, a_plane, box, tmp_path):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    gestures = strokes(a_plane, 20, points_each=150)
    write_drawing(an_editor.segment(segment_id), gestures)
    assert len(gestures.to_text()) > 20_000
    path = tmp_path / "Segmentation.seg.nrrd"
    storage = slicer.vtkMRMLSegmentationStorageNode()
    an_editor.scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(an_editor.segmentation_node)
    read = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(read)
    (segment,) = (read.GetSegmentation().GetNthSegment(number) for number in range(1))
    assert text_of(segment) == gestures.to_text()


def test_a_saved_scene_keeps_the_strokes(an_editor, a_plane, box, tmp_path):
    segment_id = an_editor.add_segment(box(((1, 3), (1, 4), (2, 6))))
    gestures = strokes(a_plane, 3)
    write_drawing(an_editor.segment(segment_id), gestures)
    node = an_editor.segmentation_node
    node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(tmp_path / "Segmentation.seg.nrrd"))
    assert node.GetStorageNode().WriteData(node)
    an_editor.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert an_editor.scene.Commit()

    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Connect()
    (loaded,) = (scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode") for number in range(1))
    assert text_of(loaded.GetSegmentation().GetSegment(segment_id)) == gestures.to_text()
