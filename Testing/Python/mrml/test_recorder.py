"""From mouse positions to a stroke, a click or a box."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.mrml.recorder import AnnotationRecorder


def world(xy):
    """Where a pixel of the view lies: two pixels a millimetre."""
    return (xy[0] / 2, xy[1] / 2, 7.0)


def drag(path, *, positive=True, box=False, brush=5.0):
    recorder = AnnotationRecorder()
    recorder.press(path[0], world(path[0]), positive=positive, box=box)
    for xy in path[1:-1]:
        recorder.move(xy, world(xy))
    return recorder.release(path[-1], world(path[-1]), brush_radius_pixels=brush)


def test_a_drag_becomes_a_stroke_through_all_its_points():
    recorded = drag([(10, 10), (20, 10), (30, 15)])
    assert recorded.kind == "stroke"
    assert recorded.points == ((5, 5, 7), (10, 5, 7), (15, 7.5, 7))


@pytest.mark.parametrize("positive", [True, False])
def test_a_press_within_the_brush_becomes_a_click(positive):
    recorded = drag([(10, 10), (13, 8)], positive=positive)
    assert (recorded.kind, recorded.points, recorded.positive) == ("click", ((5, 5, 7),), positive)


def test_a_loop_that_ends_where_it_began_is_a_stroke():
    assert drag([(10, 10), (30, 10), (30, 30), (10, 10)]).kind == "stroke"


def test_the_box_tool_gives_two_opposite_corners_whatever_lies_between():
    recorded = drag([(10, 10), (80, 90), (40, 30)], box=True, positive=False)
    assert (recorded.kind, recorded.points, recorded.positive) == ("box", ((5, 5, 7), (20, 15, 7)), True)


def test_a_box_too_small_to_be_meant_is_a_click():
    assert drag([(10, 10), (12, 11)], box=True).kind == "click"


def test_positions_on_the_same_pixel_add_nothing():
    recorder = AnnotationRecorder()
    recorder.press((10, 10), world((10, 10)), positive=True)
    assert not recorder.move((10.4, 10), world((10.4, 10)))
    assert recorder.move((11, 10), world((11, 10)))
    assert len(recorder.points) == 2


def test_nothing_is_recorded_without_a_press():
    recorder = AnnotationRecorder()
    assert not recorder.move((1, 1), (0, 0, 0))
    assert recorder.release((1, 1), (0, 0, 0), brush_radius_pixels=5) is None
    assert not recorder.cancel()


def test_a_cancelled_gesture_is_gone():
    recorder = AnnotationRecorder()
    recorder.press((10, 10), (0, 0, 0), positive=True)
    assert recorder.cancel()
    assert not recorder.active
    assert recorder.release((50, 50), (9, 9, 9), brush_radius_pixels=5) is None


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=30),
    st.booleans(),
    st.booleans(),
    st.floats(0.5, 50),
)
def test_every_drag_gives_exactly_one_gesture_that_starts_where_it_was_pressed(path, positive, box, brush):
    recorded = drag(path, positive=positive, box=box, brush=brush)
    assert recorded.points[0] == world(path[0])
    assert recorded.kind in (("box", "click") if box else ("stroke", "click"))
    if recorded.kind == "stroke":
        assert len(recorded.points) >= 2
        assert recorded.points[-1] == world(path[-1]) or path[-1] == path[-2]
