from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.boxes import MAX_ENLARGEMENT, enclosing_box


@st.composite
def regions(draw):
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    region = rng.random(shape) < draw(st.floats(0, 0.2))
    region[tuple(rng.integers(0, shape))] = True
    return region


@given(region=regions(), seed=st.integers(0, 2**32 - 1), enlargement=st.integers(0, 25))
def test_a_box_encloses_its_region_grows_by_no_more_than_told_and_stays_in_the_image(region, seed, enlargement):
    (top, left), (bottom, right) = enclosing_box(region, np.random.default_rng(seed), max_enlargement=enlargement)
    assert region[top:bottom, left:right].sum() == region.sum()
    assert 0 <= top < bottom <= region.shape[0]
    assert 0 <= left < right <= region.shape[1]
    tight = np.ptp(np.argwhere(region), axis=0) + 1
    assert bottom - top <= tight[0] + enlargement
    assert right - left <= tight[1] + enlargement


def test_without_enlargement_a_box_is_tight(rng):
    region = np.zeros((20, 30), dtype=bool)
    region[4, 6] = region[11, 25] = True
    box = enclosing_box(region, rng, max_enlargement=0)
    np.testing.assert_array_equal(box, [[4, 6], [12, 26]])
    assert box.dtype == np.int64


def test_growth_is_uniform_up_to_twenty_pixels_in_each_dimension_and_on_both_sides():
    region = np.zeros((100, 100), dtype=bool)
    region[40:60, 30:70] = True
    boxes = np.stack([enclosing_box(region, np.random.default_rng(seed)) for seed in range(2000)])
    assert MAX_ENLARGEMENT == 20
    growth = boxes[:, 1] - boxes[:, 0] - (20, 40)
    for axis in (0, 1):
        shares = np.bincount(growth[:, axis], minlength=21) / len(growth)
        assert len(shares) == 21
        np.testing.assert_allclose(shares, 1 / 21, atol=0.02)
    assert abs(np.corrcoef(growth.T)[0, 1]) < 0.1
    before, after = (40, 30) - boxes[:, 0], boxes[:, 1] - (60, 70)
    np.testing.assert_allclose(before.mean(axis=0), 5, atol=0.5)
    np.testing.assert_allclose(after.mean(axis=0), 5, atol=0.5)


def test_a_box_is_cut_at_the_border_of_the_image():
    region = np.ones((12, 15), dtype=bool)
    for seed in range(20):
        np.testing.assert_array_equal(enclosing_box(region, np.random.default_rng(seed)), [[0, 0], [12, 15]])


def test_the_same_generator_state_gives_the_same_box():
    region = np.zeros((90, 90), dtype=bool)
    region[40:50, 40:50] = True
    first = enclosing_box(region, np.random.default_rng(5))
    np.testing.assert_array_equal(first, enclosing_box(region, np.random.default_rng(5)))
    assert not np.array_equal(first, enclosing_box(region, np.random.default_rng(6)))


@pytest.mark.parametrize(
    ("region", "problem"),
    [
        (np.zeros((6, 7), dtype=bool), r"shape \(6, 7\) is empty"),
        (np.ones((6, 7), dtype=np.uint8), "type uint8"),
        (np.ones((2, 6, 7), dtype=bool), r"shape \(2, 6, 7\)"),
    ],
    ids=["empty", "uint8", "volume"],
)
def test_a_region_that_cannot_be_enclosed_is_refused(region, problem, rng):
    with pytest.raises(PromptError, match=problem):
        enclosing_box(region, rng)


def test_a_negative_enlargement_is_refused(rng):
    with pytest.raises(ConfigError, match="got -1"):
        enclosing_box(np.ones((5, 5), dtype=bool), rng, max_enlargement=-1)
