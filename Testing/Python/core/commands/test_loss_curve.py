from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.commands.loss_curve import SIZE, _ticks, draw_loss_curve

CURVE = (31, 119, 180)


def curve_pixels(picture):
    return np.argwhere((picture == CURVE).all(axis=2))


def test_the_curve_falls_from_left_to_right():
    pixels = curve_pixels(draw_loss_curve([2.0, 1.0, 0.5, 0.0]))
    left, right = pixels[pixels[:, 1].argmin()], pixels[pixels[:, 1].argmax()]
    assert left[0] < 60
    assert right[0] > 320


@pytest.mark.parametrize("history", [[0.0], [0.7], [0.7, float("nan"), 0.2], [float("nan")], [1e-12, 0.0], [3e5] * 300])
def test_every_history_can_be_drawn(history):
    picture = draw_loss_curve(history)
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    assert picture.dtype == np.uint8
    assert bool(len(curve_pixels(picture))) == np.isfinite(history[-1])


@given(st.floats(1e-9, 1e9))
def test_ticks_are_few_and_cover_the_range(highest):
    ticks = _ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 2 <= len(ticks) <= 8


@given(st.integers(1, 10**6))
def test_updates_are_counted_in_whole_numbers(highest):
    ticks = _ticks(highest, whole=True)
    assert ticks[-1] >= highest
    assert 2 <= len(ticks) <= 8
    assert all(tick == round(tick) for tick in ticks)
