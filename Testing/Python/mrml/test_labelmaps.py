from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from hypothesis import given
from hypothesis import strategies as st
from slicer import vtkOrientedImageData

from scribblesegment.errors import GeometryError
from scribblesegment.mrml.geometry import geometry_of
from scribblesegment.mrml.labelmaps import (
    blank_labelmap,
    bounds,
    checked_kji,
    is_empty,
    offset_kji,
    on_lattice,
    overlap,
    recut,
    values_at,
    voxels_of,
)

KJI = np.argwhere(np.ones((6, 8, 10), bool))


@pytest.fixture
def a_lattice(oblique, matrix_of):
    """An image of (6, 8, 10) voxels without values, whose first voxel has VTK's index (2, -1, 4)."""
    image = vtkOrientedImageData()
    image.SetExtent(2, 11, -1, 6, 4, 9)
    image.SetImageToWorldMatrix(matrix_of(oblique))
    return image


def test_a_blank_labelmap_lies_on_the_lattice_it_was_made_for(a_lattice):
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 4), np.int16)
    assert voxels_of(labelmap).shape == (1, 2, 3)
    assert voxels_of(labelmap).dtype == np.int16
    assert not voxels_of(labelmap).any()
    assert on_lattice(labelmap, geometry_of(a_lattice))
    assert offset_kji(labelmap, geometry_of(a_lattice)) == (0, 1, 1)


def test_voxels_are_a_view_of_the_image(a_lattice):
    labelmap = blank_labelmap(a_lattice, a_lattice.GetExtent())
    voxels_of(labelmap)[1, 2, 3] = 7
    assert labelmap.GetScalarComponentAsDouble(2 + 3, -1 + 2, 4 + 1, 0) == 7


def test_values_are_read_wherever_the_extent_lies_and_are_zero_outside(a_lattice):
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 6))
    voxels_of(labelmap)[...] = np.arange(1, 19).reshape(3, 2, 3)
    values = values_at(labelmap, geometry_of(a_lattice), KJI).reshape(6, 8, 10)
    expected = np.zeros((6, 8, 10))
    expected[0:3, 1:3, 1:4] = np.arange(1, 19).reshape(3, 2, 3)
    assert np.array_equal(values, expected)


def test_values_beyond_the_reference_do_not_matter(a_lattice):
    labelmap = blank_labelmap(a_lattice, (-50, 11, -9, 6, 0, 9))
    voxels_of(labelmap)[:, 8:, 52:] = 3
    assert (values_at(labelmap, geometry_of(a_lattice), KJI) == 3).all()


def test_values_on_another_lattice_are_those_of_the_nearest_voxel(a_lattice, oblique, matrix_of):
    fine = vtkOrientedImageData()
    fine.SetExtent(0, 19, 0, 15, 0, 11)
    halved = oblique.copy()
    halved[:3, :3] /= 2
    halved[:3, 3] = (oblique @ (2, -1, 4, 1))[:3]
    fine.SetImageToWorldMatrix(matrix_of(halved))
    labelmap = blank_labelmap(fine, fine.GetExtent(), np.int16)
    voxels_of(labelmap)[...] = np.arange(12 * 16 * 20).reshape(12, 16, 20)
    assert not on_lattice(labelmap, geometry_of(a_lattice))
    values = values_at(labelmap, geometry_of(a_lattice), KJI).reshape(6, 8, 10)
    assert np.array_equal(values, voxels_of(labelmap)[::2, ::2, ::2])


@pytest.mark.parametrize("labelmap", [None, vtkOrientedImageData()])
def test_nothing_is_empty_and_has_zeros(a_lattice, labelmap):
    assert is_empty(labelmap)
    assert not values_at(labelmap, geometry_of(a_lattice), KJI).any()


def test_a_recut_labelmap_keeps_the_voxels_that_are_still_inside(a_lattice):
    labelmap = blank_labelmap(a_lattice, (3, 5, 0, 1, 4, 6))
    voxels_of(labelmap)[...] = np.arange(1, 19).reshape(3, 2, 3)
    reference = geometry_of(a_lattice)
    moved = recut(labelmap, (4, 8, -1, 1, 5, 9), np.int16)
    assert voxels_of(moved).dtype == np.int16
    kept = values_at(labelmap, reference, KJI).reshape(6, 8, 10)
    kept[:1], kept[..., :2] = 0, 0
    assert np.array_equal(values_at(moved, reference, KJI).reshape(6, 8, 10), kept)


interval = st.tuples(st.integers(-5, 5), st.integers(0, 4)).map(lambda it: (it[0], it[0] + it[1]))
extent = st.tuples(interval, interval, interval).map(lambda axes: tuple(bound for axis in axes for bound in axis))


@given(first=extent, second=extent)
def test_the_overlap_is_what_both_extents_hold(first, second):
    def positions(bounds):
        i0, i1, j0, j1, k0, k1 = bounds
        grid = np.mgrid[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1]
        return np.moveaxis(grid, 0, -1)

    of_first, of_second = overlap(first, second)
    shared = positions(first)[of_first]
    assert np.array_equal(shared, positions(second)[of_second])
    in_both = set(map(tuple, positions(first).reshape(-1, 3))) & set(map(tuple, positions(second).reshape(-1, 3)))
    assert set(map(tuple, shared.reshape(-1, 3))) == in_both


def test_bounds_are_taken_axis_by_axis():
    assert bounds(np.array([(3, 1, 9), (2, 7, 9), (2, 4, 5)])) == ((2, 1, 5), (3, 7, 9))


@pytest.mark.parametrize("kji", [[(0, 0, 10)], [(0, -1, 0)], [(6, 0, 0)]])
def test_voxels_outside_the_grid_are_refused(a_lattice, kji):
    with pytest.raises(GeometryError, match=r"stroke has indices.*\(6, 8, 10\)"):
        checked_kji(kji, geometry_of(a_lattice).grid, name="stroke")


@pytest.mark.parametrize("kji", [[(0, 0)], [0, 1, 2], [(0.0, 1.0, 2.0)], np.zeros((2, 3, 1), int)])
def test_what_is_no_list_of_indices_is_refused(a_lattice, kji):
    with pytest.raises(GeometryError, match=r"\(N, 3\) integers"):
        checked_kji(kji, geometry_of(a_lattice).grid)


@pytest.mark.parametrize("kji", [[], np.zeros((0, 3)), np.zeros((0, 3), np.int32)])
def test_no_voxels_are_fine(a_lattice, kji):
    assert checked_kji(kji, geometry_of(a_lattice).grid).shape == (0, 3)
