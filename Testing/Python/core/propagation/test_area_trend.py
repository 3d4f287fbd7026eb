"""How areas go on beyond the outermost accepted slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.propagation.expectation import AreaTrend


def test_an_ellipsoid_is_followed_to_its_end():
    def area(index):
        return 1000.0 * (1.0 - ((index - 20) / 10) ** 2)

    trend = AreaTrend({index: area(index) for index in (15, 20, 25)})
    for known, index in ((25, 26), (26, 27), (15, 14)):
        assert trend.ratio(known, index) == pytest.approx(area(index) / area(known))
    assert trend.ratio(29, 30) == 0.5


def test_a_tube_stays_as_it_is_and_nothing_grows():
    assert AreaTrend({3: 80, 7: 80, 9: 80}).ratio(9, 12) == pytest.approx(1.0)
    growing = AreaTrend({3: 40, 7: 80, 9: 100})
    assert growing.ratio(9, 10) == 1.0
    assert growing.ratio(3, 2) == pytest.approx(30 / 40)


def test_areas_that_bend_upwards_are_followed_along_a_line():
    ratio = AreaTrend({0: 100, 1: 70, 2: 60}).ratio(2, 3)
    line = np.polyfit([0, 1, 2], [100, 70, 60], 1)
    assert ratio == pytest.approx(np.polyval(line, 3) / np.polyval(line, 2))


@pytest.mark.parametrize("areas", [{}, {4: 70}, {4: 70, 9: 0}])
def test_one_slice_shows_no_trend(areas):
    assert AreaTrend(areas).ratio(4, 5) == 1.0


def test_beyond_the_end_that_is_expected_half_of_it_is_left():
    trend = AreaTrend({0: 100, 10: 10})
    assert trend.ratio(15, 16) == 0.5


@given(
    areas=st.dictionaries(st.integers(0, 300), st.integers(0, 10**6), max_size=8),
    known=st.integers(0, 300),
    step=st.sampled_from([-1, 1]),
)
def test_the_ratio_is_always_from_one_half_to_one(areas, known, step):
    assert 0.5 <= AreaTrend(areas).ratio(known, known + step) <= 1.0
