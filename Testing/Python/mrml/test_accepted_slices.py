"""Tests of scribblesegment.mrml.tags: places of accepted slices, in a tag of their segment."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.geometry import Grid
from scribblesegment.errors import FileFormatError, GeometryError
from scribblesegment.mrml.tags import ACCEPTED_TAG as TAG
from scribblesegment.mrml.tags import AcceptedSlices, accepted_text, read_accepted, write_accepted

SHAPE = (6, 8, 10)
MATRIX = np.array([[0.8, 0.1, 0, 3.0], [-0.1, 0.8, 0, -7.5], [0, 0, 2.5, 11.25], [0, 0, 0, 1]])
GRID = Grid(SHAPE, MATRIX)

index_lists = st.tuples(*(st.sets(st.integers(0, side - 1)) for side in SHAPE))


def accepted(*lists, grid=GRID):
    result = AcceptedSlices(grid)
    for axis, indices in enumerate(lists):
        result = result.added(axis, *indices)
    return result


@pytest.fixture
def a_segment(an_editor):
    return an_editor.segment(an_editor.add_segment())


def packed(content) -> str:
    return "1" + base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode().rstrip("=")


@given(index_lists)
def test_what_was_written_is_read(lists):
    one = accepted(*lists)
    if one.is_empty:
        assert one.to_text() == ""
        return
    again = AcceptedSlices.from_text(one.to_text())
    assert again.indices == one.indices == tuple(tuple(sorted(indices)) for indices in lists)
    assert again.grid.same_as(GRID)
    assert again.to_text() == one.to_text()


def test_slices_are_added_and_removed_in_order():
    one = AcceptedSlices(GRID).added(0, 4).added(0, 1).added(2, 9).removed(0, 4)
    assert one.indices == ((1,), (), (9,))
    assert one.holds(0, 1)
    assert not one.holds(0, 4)
    assert not one.is_empty
    assert one.removed(1, 3).indices == one.indices


def test_a_slice_outside_of_the_grid_is_refused():
    with pytest.raises(GeometryError, match="Slice 6 along axis 0"):
        AcceptedSlices(GRID).added(0, 6)


@given(index_lists, st.integers(-3, 3), st.integers(0, 2))
def test_on_a_cropped_or_extended_grid_the_same_slices_are_found(lists, shift, axis):
    moved = MATRIX.copy()
    moved[:3, 3] += shift * GRID.steps_kji_mm[axis]
    there = accepted(*lists).on(Grid(SHAPE, moved))
    for other, indices in enumerate(lists):
        if other == axis:
            assert set(there.indices[axis]) == {i - shift for i in indices if 0 <= i - shift < SHAPE[axis]}
        else:
            assert set(there.indices[other]) == indices


def test_on_a_grid_with_its_axes_exchanged_slices_go_with_their_axis():
    exchanged = Grid((10, 8, 6), MATRIX[:, [2, 1, 0, 3]])
    assert accepted([2], [], [7]).on(exchanged).indices == ((7,), (), (2,))


def test_on_a_turned_or_differently_spaced_grid_slices_that_are_none_there_are_left_out():
    turned = MATRIX @ np.array([[1, 0, 0, 0], [0, 0.9, -0.4, 0], [0, 0.4, 0.9, 0], [0, 0, 0, 1]])
    assert accepted([2], [3], [7]).on(Grid(SHAPE, turned)).indices == ((), (), (7,))
    coarser = MATRIX.copy()
    coarser[:3, 2] *= 2
    assert accepted([1, 2]).on(Grid(SHAPE, coarser)).indices[0] == (1,)


def test_a_segment_keeps_them(a_segment):
    write_accepted(a_segment, accepted([2, 4], [1]))
    assert read_accepted(a_segment, GRID).indices == ((2, 4), (1,), ())
    write_accepted(a_segment, AcceptedSlices(GRID))
    assert not a_segment.HasTag(TAG)
    assert read_accepted(a_segment, GRID).is_empty
    assert read_accepted(None, GRID).is_empty
    assert accepted_text(None) == ""


def test_writing_the_same_again_changes_nothing(a_segment):
    write_accepted(a_segment, accepted([2]))
    before = a_segment.GetMTime()
    write_accepted(a_segment, accepted([2]))
    assert a_segment.GetMTime() == before


@pytest.mark.parametrize(
    "text",
    [
        "1damaged",
        "9abc",
        "1",
        packed({"shape": [6, 8, 10], "ijk_to_mm": MATRIX.ravel().tolist(), "slices": [[6], [], []]}),
        packed({"shape": [6, 8, 10], "ijk_to_mm": MATRIX.ravel().tolist(), "slices": [[True], [], []]}),
        packed({"shape": [6, 8, 10], "ijk_to_mm": MATRIX.ravel().tolist(), "slices": [[], []]}),
        packed({"shape": [6, 8, 10], "ijk_to_mm": [0.0] * 16, "slices": [[], [], []]}),
        packed({"shape": [6, 8], "ijk_to_mm": MATRIX.ravel().tolist(), "slices": [[], [], []]}),
        packed([]),
    ],
)
def test_a_damaged_list_is_reported_with_the_segment_s_name(a_segment, text):
    a_segment.SetName("Tumour")
    a_segment.SetTag(TAG, text)
    with pytest.raises(FileFormatError, match=r"'Tumour' itself is intact; accept its slices again"):
        read_accepted(a_segment, GRID)
