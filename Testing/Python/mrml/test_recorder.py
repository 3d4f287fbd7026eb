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


@pytest.mark.parametrize(
    ("path", "how", "expected"),
    [
        ([(10, 10), (20, 10), (30, 15)], {}, ("stroke", ((5, 5, 7), (10, 5, 7), (15, 7.5, 7)), True)),
        ([(10, 10), (10.4, 10), (30, 10)], {}, ("stroke", ((5, 5, 7), (15, 5, 7)), True)),  # the same pixel
        ([(10, 10), (30, 10), (10, 10)], {}, ("stroke", ((5, 5, 7), (15, 5, 7), (5, 5, 7)), True)),  # there and back
        ([(10, 10), (13, 8)], {"positive": False}, ("click", ((5, 5, 7),), False)),
        ([(10, 10), (80, 90), (40, 30)], {"box": True, "positive": False}, ("box", ((5, 5, 7), (20, 15, 7)), True)),
        ([(10, 10), (12, 11)], {"box": True}, ("click", ((5, 5, 7),), True)),  # too small to be meant
    ],
)
def test_what_a_drag_becomes(path, how, expected):
    recorded = drag(path, **how)
    assert (recorded.kind, recorded.points, recorded.positive) == expected


def test_nothing_is_recorded_without_a_press_or_after_it_was_cancelled():
    recorder = AnnotationRecorder()
    assert not recorder.move((1, 1), (0, 0, 0))
    assert not recorder.cancel()
    recorder.press((10, 10), (0, 0, 0), positive=True)
    assert recorder.cancel()
    assert not recorder.active
    assert recorder.release((50, 50), (9, 9, 9), brush_radius_pixels=5) is None


pixels = st.tuples(st.integers(0, 400), st.integers(0, 400))


@given(st.lists(pixels, min_size=2, max_size=30), st.booleans(), st.booleans(), st.floats(0.5, 50))
def test_every_drag_gives_exactly_one_gesture_that_starts_where_it_was_pressed(path, positive, box, brush):
    recorded = drag(path, positive=positive, box=box, brush=brush)
    assert recorded.points[0] == world(path[0])
    assert recorded.kind in (("box", "click") if box else ("stroke", "click"))
    if recorded.kind == "stroke":
        assert len(recorded.points) >= 2
        assert recorded.points[-1] == world(path[-1]) or path[-1] == path[-2]
