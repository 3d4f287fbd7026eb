"""Tests of strokes that leave what they mark."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.simulation.slips import is_thin, slip

SEEDS = st.integers(0, 2**32 - 1)


def a_line() -> np.ndarray:
    line = np.zeros((24, 24), np.float32)
    line[12, 4:20] = 1.0
    return line


@settings(max_examples=25)
@given(seed=SEEDS, widens=st.booleans())
def test_a_slip_stays_within_two_pixels_and_keeps_type_and_range(seed: int, widens: bool) -> None:
    slipped = slip(a_line(), np.random.default_rng(seed), widens=widens)
    near = ndimage.binary_dilation(a_line() > 0, np.ones((5, 5)))
    assert slipped.dtype == np.float32
    assert 0.0 <= slipped.min() <= slipped.max() == 1.0
    assert not slipped[~near].any()


def test_strokes_are_moved_and_widened_and_both() -> None:
    slips = [slip(a_line(), np.random.default_rng(seed)) > 0 for seed in range(60)]
    widths = {int(entry.any(axis=1).sum()) for entry in slips}
    assert widths == {1, 3}
    assert {int(np.argwhere(entry)[:, 0].mean()) for entry in slips} == {11, 12, 13}


def test_what_must_be_widened_is() -> None:
    for seed in range(20):
        assert (slip(a_line(), np.random.default_rng(seed), widens=True) > 0).any(axis=1).sum() == 3


def test_a_stroke_that_would_leave_the_image_stays() -> None:
    corner = np.zeros((8, 8), np.float32)
    corner[0, 0] = 1.0
    assert all(slip(corner, np.random.default_rng(seed)).any() for seed in range(30))


@pytest.mark.parametrize(("width", "thin"), [(1, True), (2, True), (3, False), (9, False)])
def test_a_band_is_thin_up_to_two_pixels(width: int, thin: bool) -> None:
    region = np.zeros((32, 32), bool)
    region[10 : 10 + width, 2:30] = True
    assert is_thin(region) is thin
