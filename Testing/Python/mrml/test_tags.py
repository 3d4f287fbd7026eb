"""What was drawn for a segment, and which of its slices are accepted, kept in tags of the segment."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.drawing import Click, Drawing, Stroke
from scribblesegment.data.geometry import Grid, plane_through
from scribblesegment.errors import FileFormatError, GeometryError
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.tags import (
    ACCEPTED_TAG,
    TAG,
    AcceptedSlices,
    read_accepted,
    read_drawing,
    write_accepted,
    write_drawing,
)

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
