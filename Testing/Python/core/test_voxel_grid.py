"""Tests of scribblesegment.data.geometry: where the voxels of a lattice are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scribblesegment.data.geometry import Grid, nearest_index, unit_vector
from scribblesegment.errors import GeometryError


def a_grid(shape=(6, 8, 10), spacing_ijk=(1.0, 1.0, 1.0)) -> Grid:
    return Grid(shape, np.diag([*spacing_ijk, 1.0]))


def test_voxel_indices_are_in_array_order():
    grid = Grid((4, 5, 6), np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]))
    assert grid.to_mm((1, 2, 3)).tolist() == [16, 26, 34]
    assert grid.to_kji((16, 26, 34)).tolist() == [1, 2, 3]
    assert grid.spacing_kji_mm == (4, 3, 2)
    assert grid.corners_mm()[[0, -1]].tolist() == [[9, 18.5, 28], [21, 33.5, 44]]


numbers = st.floats(-3, 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(numbers, min_size=12, max_size=12), st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_voxels_and_millimetres_are_inverse_to_each_other(rows, kji):
    matrix = np.vstack([np.reshape(rows, (3, 4)), (0, 0, 0, 1)])
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    assume(lengths.min() > 0.1 and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 0.05)
    grid = Grid((2, 3, 4), matrix)
    np.testing.assert_allclose(grid.to_kji(grid.to_mm(kji)), kji, atol=1e-9)
    ijk = np.append(np.array(kji)[::-1], 1)
    np.testing.assert_allclose(grid.to_mm(kji), (grid.ijk_to_mm @ ijk)[:3], atol=1e-9)


def test_grids_are_compared_in_space():
    grid = a_grid(spacing_ijk=(0.5, 1, 2))
    moved = grid.ijk_to_mm.copy()
    moved[0, 3] += 0.004
    assert grid.same_as(Grid(grid.shape, moved))
    moved[0, 3] += 0.004
    assert not grid.same_as(Grid(grid.shape, moved))
    assert not grid.same_as(a_grid((6, 8, 11), (0.5, 1, 2)))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 1), (1.5, 2, 2), 3, (2, 2, 2, 2)])
def test_impossible_shapes_of_grids_are_refused(shape):
    with pytest.raises(GeometryError, match="shape"):
        Grid(shape, np.eye(4))


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1, 1, 0, 1])])
def test_matrices_that_place_no_voxels_are_refused(matrix):
    with pytest.raises(GeometryError, match="ijk_to_mm"):
        Grid((2, 2, 2), matrix)


def test_the_matrix_is_copied_and_read_only():
    matrix = np.eye(4)
    grid = Grid((2, 2, 2), matrix)
    matrix[0, 0] = 7
    assert grid.ijk_to_mm[0, 0] == 1
    for array in (grid.ijk_to_mm, grid.steps_kji_mm, grid.mm_to_kji, a_grid().origin_mm):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_tie_goes_to_the_lower_index():
    positions = [-0.5, 0.5, 1.5 + 1e-9, 1.51, 1.49, 2.0]
    assert nearest_index(positions).tolist() == [-1, 0, 1, 2, 1, 2]


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_directions_of_any_length_become_one_long(size):
    np.testing.assert_allclose(unit_vector((3 * size, 0, -4 * size), "normal"), (0.6, 0, -0.8))


@pytest.mark.parametrize("direction", [(0, 0, 0), (1, 2), (1, 2, np.nan), "up"])
def test_directions_that_point_nowhere_are_refused(direction):
    with pytest.raises(GeometryError, match="normal"):
        unit_vector(direction, "normal")
