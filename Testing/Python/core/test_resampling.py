"""Tests of scribblesegment.data.preprocessing: one axis of a slice on one axis of the grid, and separable products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.preprocessing import GridAxis, separable_product, triangle_matrix


@given(st.integers(1, 400), st.floats(1e-3, 200.0), st.integers(1, 128))
def test_the_content_covers_the_centres_of_its_cells_and_of_no_others(length: int, scale: float, size: int) -> None:
    scale = min(scale, size / length)
    axis = GridAxis.lay_out(length, scale, size)
    half = length * scale / 2
    centres = np.abs(np.arange(axis.first - 1, axis.stop + 1) - axis.grid_centre)
    assert 0 <= axis.first < axis.stop <= size
    assert centres[1:-1].max() <= half + 1e-9
    if length * scale > 0.5:
        assert centres[[0, -1]].min() >= half - 1e-9


@given(st.integers(1, 300), st.floats(1e-3, 100.0))
def test_every_pixel_is_read_by_the_cell_that_holds_it(length: int, scale: float) -> None:
    axis = GridAxis.lay_out(length, min(scale, 128 / length), 128)
    first, last = axis.pixel_ranges
    cells = axis.cell_of_pixel - axis.first
    pixels = np.arange(length)
    assert (first[cells] <= pixels).all()
    assert (last[cells] >= pixels).all()
    assert ((first >= 0) & (first <= last) & (last < length)).all()


def test_a_maximum_reads_precisely_the_pixels_of_each_cell() -> None:
    axis = GridAxis.lay_out(9, 1 / 3, 3)
    np.testing.assert_array_equal(axis.maximum(np.arange(9), axis=0), [2, 5, 8])
    np.testing.assert_array_equal(axis.maximum(-np.arange(9), axis=0), [0, -3, -6])


def test_linear_weights_between_samples() -> None:
    expected = np.array([[1, 0, 0], [0, 0.75, 0.25], [0, 0, 1]])
    np.testing.assert_allclose(triangle_matrix(np.array([0.0, 1.25, 2.0]), 3), expected, atol=1e-7)


def test_positions_outside_repeat_the_outermost_sample() -> None:
    np.testing.assert_array_equal(triangle_matrix(np.array([-9.0, 9.0]), 3), [[1, 0, 0], [0, 0, 1]])


def test_a_wide_triangle_averages() -> None:
    (weights,) = triangle_matrix(np.array([3.0]), 7, width=2.0)
    np.testing.assert_allclose(weights, [0, 0, 0.25, 0.5, 0.25, 0, 0], atol=1e-7)


@given(st.lists(st.floats(-3.0, 12.0), min_size=1, max_size=9), st.integers(1, 9), st.floats(0.1, 30.0))
def test_weights_are_positive_and_sum_to_one(positions: list[float], length: int, width: float) -> None:
    weights = triangle_matrix(np.array(positions), length, width)
    assert weights.dtype == np.float32
    assert weights.shape == (len(positions), length)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("m", "h", "w", "n"), [(3, 20, 4, 5), (20, 3, 5, 4), (3, 20, 5, 40), (40, 5, 20, 3)])
def test_both_orders_of_a_separable_product_agree_with_the_definition(m: int, h: int, w: int, n: int) -> None:
    rng = np.random.default_rng(13)
    rows, columns = rng.random((m, h), np.float32), rng.random((n, w), np.float32)
    values = rng.random((2, h, w), np.float32)
    expected = np.einsum("mh,bhw,nw->bmn", rows, values, columns)
    np.testing.assert_allclose(separable_product(rows, values, columns), expected, rtol=1e-5)
