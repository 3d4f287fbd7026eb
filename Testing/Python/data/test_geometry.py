"""Grids, planes through them in any direction, their rasters, their values and their voxels."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scribblesegment.data.geometry import (
    Grid,
    SlicePlane,
    nearest_index,
    plane_through,
    plane_voxels,
    sample,
    unit_vector,
)
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError

relaxed = settings(deadline=None, max_examples=40)


def a_grid(shape=(6, 8, 10), spacing_ijk=(1.0, 1.0, 1.0)):
    return Grid(shape, np.diag([*spacing_ijk, 1.0]))


def rotations():
    component = st.floats(-1, 1)
    quaternions = st.tuples(component, component, component, component)
    return quaternions.filter(lambda q: np.linalg.norm(q) > 0.1).map(lambda q: Rotation.from_quat(q).as_matrix())


@st.composite
def grids(draw, sheared=True, sides=None):
    sides = sides if sides is not None else st.integers(1, 12)
    shape = (draw(sides), draw(sides), draw(sides))
    spacing = np.array([draw(st.floats(0.2, 5.0)) * draw(st.sampled_from([1, -1])) for _ in range(3)])
    shear = np.eye(3)
    if sheared:
        shear[0, 1], shear[0, 2], shear[1, 2] = (draw(st.sampled_from([0.0, 0.3, -0.4])) for _ in range(3))
    matrix = np.eye(4)
    matrix[:3, :3] = draw(rotations()) @ shear @ np.diag(spacing)
    matrix[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return Grid(shape, matrix)


@st.composite
def directions(draw):
    return draw(rotations())[:, 0]


@st.composite
def cuts(draw):
    """A grid with a plane in any direction through a point inside it."""
    grid = draw(grids())
    inside = np.array([draw(st.floats(-0.4, side - 0.6)) for side in grid.shape])
    hint = draw(st.none() | directions())
    return grid, plane_through(grid, grid.to_mm(inside), draw(directions()), column_hint=hint)


def slice_normal(grid, axis):
    row, column = np.delete(grid.steps_kji_mm, axis, axis=0)
    return np.cross(row, column)


def thickness_mm(grid, normal):
    return float(np.abs(grid.steps_kji_mm @ normal).sum())


def all_pixels(plane):
    return np.stack(np.indices(plane.shape), axis=-1)


# Grids --------------------------------------------------------------------------------------------------------------


def test_voxel_indices_are_in_array_order():
    grid = Grid((4, 5, 6), np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]))
    assert grid.to_mm((1, 2, 3)).tolist() == [16, 26, 34]
    assert grid.to_kji((16, 26, 34)).tolist() == [1, 2, 3]
    assert grid.spacing_kji_mm == (4, 3, 2)
    assert grid.corners_mm()[[0, -1]].tolist() == [[9, 18.5, 28], [21, 33.5, 44]]
    assert not grid.is_sheared


@relaxed
@given(grids(), st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_voxels_and_millimetres_are_inverse_to_each_other(grid, kji):
    np.testing.assert_allclose(grid.to_kji(grid.to_mm(kji)), kji, atol=1e-9)
    ijk = np.append(np.array(kji)[::-1], 1)
    np.testing.assert_allclose(grid.to_mm(kji), (grid.ijk_to_mm @ ijk)[:3], atol=1e-9)
    directions = grid.ijk_to_mm[:3, :3] / np.linalg.norm(grid.ijk_to_mm[:3, :3], axis=0)
    assert grid.is_sheared == (np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4)


def test_a_tie_goes_to_the_lower_index():
    assert nearest_index([-0.5, 0.5, 1.5 + 1e-9, 1.51, 1.49, 2.0]).tolist() == [-1, 0, 1, 2, 1, 2]


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_directions_of_any_length_become_one_long(size):
    np.testing.assert_allclose(unit_vector((3 * size, 0, -4 * size), "normal"), (0.6, 0, -0.8))


# Planes along the axes of the grid -----------------------------------------------------------------------------------


@relaxed
@given(grids(sheared=False), st.integers(0, 2), st.data())
def test_a_plane_along_the_axes_is_one_slice_as_the_volume_cuts_it(grid, axis, data):
    index = data.draw(st.integers(0, grid.shape[axis] - 1))
    kji = np.array([data.draw(st.floats(-20, 20)) for _ in range(3)])
    kji[axis] = index + data.draw(st.floats(-0.49, 0.5))
    normal = slice_normal(grid, axis) * data.draw(st.sampled_from([1, -1]))
    plane = plane_through(grid, grid.to_mm(kji), normal)
    assert plane.voxel_slice == (axis, index)

    values = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    expected = Volume(values, grid.ijk_to_mm).slice(axis, index)
    found = sample(values, grid, plane)
    np.testing.assert_array_equal(found, expected.image)
    assert (np.shares_memory(found, values), found.dtype) == (True, values.dtype)
    np.testing.assert_allclose(plane.spacing_mm, expected.spacing_mm)

    voxels = plane_voxels(grid, plane)
    assert (voxels.kji[:, axis] == index).all()
    assert len(np.unique(voxels.kji, axis=0)) == len(voxels.kji) == expected.image.size
    np.testing.assert_allclose(plane.to_mm(voxels.pixels), grid.to_mm(voxels.kji), atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_plane_between_two_slices_is_the_lower_one(axis, sign):
    grid = Grid((6, 8, 10), np.diag([-0.7, 0.3, 1.1, 1]))
    for index in range(grid.shape[axis] - 1):
        kji = np.zeros(3)
        kji[axis] = index + 0.5
        plane = plane_through(grid, grid.to_mm(kji), sign * np.eye(3)[2 - axis])
        assert plane.voxel_slice == (axis, index)


def test_a_tilt_within_a_quarter_of_a_voxel_still_shows_the_slice():
    grid = a_grid((5, 100, 100))
    centre = grid.to_mm((2, 49.5, 49.5))
    assert plane_through(grid, centre, (0.0049, 0, 1)).voxel_slice == (0, 2)
    far_beside = centre + 500 * np.array([1, 0, -0.002])
    assert plane_through(grid, far_beside, (0.002, 0, 1)).voxel_slice == (0, 2)
    assert plane_through(grid, centre, (0.0051, 0, 1)).voxel_slice is None
    assert plane_through(grid, centre, (0.003, 0.003, 1)).voxel_slice is None
    thick = a_grid((5, 100, 100), (0.5, 0.5, 4.0))  # a quarter of a voxel is 1 mm here, and half the grid 25 mm
    assert plane_through(thick, thick.to_mm((2, 49.5, 49.5)), (0.039, 0, 1)).voxel_slice == (0, 2)
    assert plane_through(thick, thick.to_mm((2, 49.5, 49.5)), (0.041, 0, 1)).voxel_slice is None


@pytest.mark.parametrize("k", [-0.45, 4.45])
def test_a_tilted_plane_that_cuts_the_outermost_slice_at_its_rim_alone_is_that_slice(k):
    grid = a_grid((5, 100, 100))
    outwards = np.sign(k - 2)
    normal = np.array([0.004, 0, 1])
    rim = 0 if outwards < 0 else 99  # from there, the plane leaves the grid on its way to the middle
    plane = plane_through(grid, grid.to_mm((k, 50, rim)), normal)
    assert plane.voxel_slice == (0, 0 if k < 0 else 4)
    with pytest.raises(GeometryError, match="does not cut"):
        plane_through(grid, grid.to_mm((k + 0.5 * outwards, 50, 50)), normal)


def test_a_gantry_tilt_leaves_the_axial_slices_as_they_are_and_makes_the_sheared_ones_oblique():
    matrix = np.eye(4)
    matrix[1, 2] = 0.4  # K leans along J
    grid = Grid((6, 8, 10), matrix)
    assert plane_through(grid, grid.to_mm((3, 4, 5)), slice_normal(grid, 0)).voxel_slice == (0, 3)
    assert plane_through(grid, grid.to_mm((3, 4, 5)), slice_normal(grid, 1)).voxel_slice == (1, 4)
    sagittal = plane_through(grid, grid.to_mm((3, 4, 5)), slice_normal(grid, 2))
    assert sagittal.voxel_slice is None
    assert (plane_voxels(grid, sagittal).kji[:, 2] == 5).all()
    assert len(plane_voxels(grid, sagittal).kji) == 6 * 8


# Oblique planes ------------------------------------------------------------------------------------------------------


@relaxed
@given(cuts(), st.lists(st.floats(-50, 50), min_size=2, max_size=2))
def test_pixels_and_millimetres_are_inverse_to_each_other(cut, pixel):
    _, plane = cut
    np.testing.assert_allclose(plane.to_pixels(plane.to_mm(pixel)), pixel, atol=1e-7)
    off_the_plane = plane.to_mm(pixel) + 3 * plane.normal
    np.testing.assert_allclose(plane.to_pixels(off_the_plane), pixel, atol=1e-7)
    np.testing.assert_allclose(plane.distance_mm(off_the_plane), 3, atol=1e-7)


@relaxed
@given(cuts())
def test_an_oblique_raster_has_square_pixels_and_covers_what_it_cuts_and_no_more(cut):
    grid, plane = cut
    assume(plane.voxel_slice is None)
    size = min(grid.spacing_kji_mm)
    np.testing.assert_allclose(plane.spacing_mm, (size, size))
    assert abs(plane.row_step_mm @ plane.column_step_mm) < 1e-9 * size**2
    # Every point of the plane inside the grid lies in the raster, and every side of the raster has such points.
    rows = np.linspace(-3, plane.shape[0] + 2, 61)
    columns = np.linspace(-3, plane.shape[1] + 2, 61)
    pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    kji = grid.to_kji(plane.to_mm(pixels))
    inside = ((kji > -0.5) & (kji < np.array(grid.shape) - 0.5)).all(axis=-1)
    for d in range(2):
        found = pixels[inside][:, d]
        assert (found >= -0.5 - 1e-6).all()
        assert (found <= plane.shape[d] - 0.5 + 1e-6).all()
        if found.size > 100:
            assert plane.shape[d] <= np.ptp(found) + 2 * np.diff((rows, columns)[d])[0] + 8


@relaxed
@given(cuts(), directions(), st.floats(-30, 30), st.floats(-30, 30))
def test_the_raster_does_not_depend_on_the_point_of_the_plane_that_is_given(cut, hint, row, column):
    grid, plane = cut
    point = plane.to_mm((0, 0))
    first = plane_through(grid, point, plane.normal, column_hint=hint)
    again = plane_through(grid, plane.to_mm((row, column)), 3 * plane.normal, column_hint=hint)
    assert first.matches(again, 1e-6)
    assert first.shape == again.shape
    np.testing.assert_allclose(first.origin_mm, again.origin_mm, atol=1e-6)


def test_columns_run_along_the_hint_and_rows_across():
    grid = a_grid((20, 20, 20))
    plane = plane_through(grid, (10, 10, 10), (0, 1, 1), column_hint=(-1, 0.5, 0))
    projected = np.array([-1, 0.25, -0.25])
    np.testing.assert_allclose(plane.column_step_mm, projected / np.linalg.norm(projected))
    np.testing.assert_allclose(np.cross(plane.column_step_mm, plane.row_step_mm), plane.normal)
    np.testing.assert_allclose(plane.normal, np.array([0, 1, 1]) / np.sqrt(2), atol=1e-12)
    across = plane_through(grid, (10, 10, 10), (0, 1, 1), column_hint=(0, 1, 1))  # as good as none
    np.testing.assert_allclose(across.column_step_mm, (1, 0, 0))


def test_a_raster_of_extreme_grids_stays_of_bearable_size():
    grid = Grid((500, 500, 500), np.diag([1e-3, 1, 1, 1]))
    plane = plane_through(grid, grid.to_mm((250, 250, 250)), (0, 1, 1))
    assert np.prod(plane.shape) < 1.1 * (1 << 24)
    assert plane_voxels(grid, plane).kji.shape[0] == len(range(500)) * 999


# Values --------------------------------------------------------------------------------------------------------------


@relaxed
@given(cuts(), st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_linear_interpolation_reproduces_a_linear_function(cut, weights):
    grid, plane = cut
    assume(plane.voxel_slice is None)
    centres = grid.to_mm(np.stack(np.indices(grid.shape), axis=-1))
    values = ((centres - grid.origin_mm) @ weights[:3] + weights[3]).astype(np.float64)
    found = sample(values, grid, plane, outside=-1e6)
    assert found.dtype == np.float32
    points = plane.to_mm(all_pixels(plane))
    kji = grid.to_kji(points)
    between = ((kji >= 0) & (kji <= np.array(grid.shape) - 1)).all(axis=-1)
    expected = (points - grid.origin_mm) @ weights[:3] + weights[3]
    np.testing.assert_allclose(found[between], expected[between], rtol=1e-4, atol=1e-3)
    at_the_rim = ((kji > -0.49) & (kji < np.array(grid.shape) - 0.51)).all(axis=-1)
    continued = grid.to_mm(kji.clip(0, np.array(grid.shape) - 1)) - grid.origin_mm
    np.testing.assert_allclose(
        found[at_the_rim], (continued @ weights[:3] + weights[3])[at_the_rim], rtol=1e-4, atol=1e-3
    )
    beyond = ((kji < -0.51) | (kji > np.array(grid.shape) - 0.49)).any(axis=-1)
    assert (found[beyond] == -1e6).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float16, np.float32, np.float64, np.int64, ">i2"])
def test_every_type_of_voxel_can_be_sampled(dtype):
    grid = a_grid((9, 9, 9))
    array = np.zeros(grid.shape, dtype)
    array[4, 4, 4] = 1
    plane = plane_through(grid, (4, 4, 4), (0, 1, 1))
    row, column = nearest_index(plane.to_pixels((4, 4, 4)))
    nearest = sample(array, grid, plane, nearest=True)
    assert nearest.dtype == array.dtype
    assert nearest[row, column] == 1
    linear = sample(array, grid, plane)
    assert linear.dtype == np.float32
    assert 0.3 < linear[row, column] <= 1


# Voxels --------------------------------------------------------------------------------------------------------------


@relaxed
@given(cuts())
def test_the_voxels_of_a_plane_are_those_whose_centres_lie_within_half_the_thickness(cut):
    grid, plane = cut
    assume(plane.voxel_slice is None)
    voxels = plane_voxels(grid, plane)
    every = np.stack(np.indices(grid.shape), axis=-1).reshape(-1, 3)
    slack = 1e-5 * max(grid.spacing_kji_mm)
    half = thickness_mm(grid, plane.normal) / 2
    distances = np.abs(plane.distance_mm(grid.to_mm(every)))
    found = set(map(tuple, voxels.kji.tolist()))
    assert len(found) == len(voxels.kji)
    assert found >= set(map(tuple, every[distances < half - slack].tolist()))
    assert found <= set(map(tuple, every[distances <= half + slack].tolist()))
    expected = nearest_index(plane.to_pixels(grid.to_mm(voxels.kji))).clip(0, np.array(plane.shape) - 1)
    assert np.abs(voxels.pixels - expected).max(initial=0) <= 1
    assert (voxels.pixels == expected).mean() > 0.99 or len(expected) < 100
    assert voxels.kji.dtype == voxels.pixels.dtype == np.int64


@relaxed
@given(cuts())
def test_a_solid_mask_leaves_no_hole_when_it_is_read_back(cut):
    grid, plane = cut
    labels = np.zeros(grid.shape, bool)
    labels[tuple(plane_voxels(grid, plane).kji.T)] = True
    read = sample(labels, grid, plane, nearest=True)
    kji = grid.to_kji(plane.to_mm(all_pixels(plane)))
    inside = ((kji > -0.499) & (kji < np.array(grid.shape) - 0.501)).all(axis=-1)
    away_from_ties = (np.abs(kji % 1 - 0.5) > 1e-4).all(axis=-1)
    assert read[inside & away_from_ties].all()


@pytest.mark.parametrize("normal", [(0, 1, 1), (1, 1, 1), (1, 0, -1)])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.5, 0.3])
def test_parallel_planes_one_thickness_apart_share_no_voxel_also_where_ties_are_exact(normal, start):
    grid, owners = a_grid((12, 12, 12)), np.zeros((12, 12, 12), int)
    unit = np.array(normal) / np.linalg.norm(normal)
    step = thickness_mm(grid, unit)
    for number in range(-8, 9):
        with contextlib.suppress(GeometryError):  # some lie beside the grid
            plane = plane_through(grid, (5.5 + start) * np.ones(3) + number * step * unit, unit)
            owners[tuple(plane_voxels(grid, plane).kji.T)] += 1
    assert owners[1:-1, 1:-1, 1:-1].min() == owners.max() == 1


@relaxed
@given(cuts(), st.data())
def test_the_voxels_of_a_region_are_those_of_the_plane_that_belong_to_its_pixels(cut, data):
    grid, plane = cut
    region = tuple(
        tuple(sorted((data.draw(st.integers(-2, side + 2)), data.draw(st.integers(-2, side + 2)))))
        for side in plane.shape
    )
    whole, part = plane_voxels(grid, plane), plane_voxels(grid, plane, region)
    (r0, r1), (c0, c1) = region
    rows, columns = whole.pixels.T
    kept = (rows >= r0) & (rows < r1) & (columns >= c0) & (columns < c1)
    assert set(map(tuple, part.kji.tolist())) == set(map(tuple, whole.kji[kept].tolist()))
    assert len(part.kji) == len(part.pixels) == kept.sum()


# Comparison and storage ----------------------------------------------------------------------------------------------


@relaxed
@given(cuts(), directions())
def test_a_plane_matches_itself_seen_from_behind_with_another_raster_and_not_its_neighbour(cut, hint):
    _, plane = cut
    assert plane.matches(plane)
    behind = SlicePlane((3, 4), plane.to_mm((1, 2)), plane.column_step_mm / 2, plane.row_step_mm / 3)
    assert plane.matches(behind)
    assert behind.matches(plane)
    beside = SlicePlane(plane.shape, plane.origin_mm + 0.1 * plane.normal, plane.row_step_mm, plane.column_step_mm)
    assert not plane.matches(beside)
    assert plane.matches(beside, tolerance_mm=0.11)


def test_planes_that_share_a_point_or_are_thinner_than_the_tolerance_are_told_apart():
    grid, fine = a_grid((20, 20, 20)), a_grid(spacing_ijk=(0.01, 0.01, 0.01))
    straight = plane_through(grid, (10, 10, 10), (0, 1, 1))
    assert not straight.matches(plane_through(grid, (10, 10, 10), (0, 1.02, 1)))
    pixel = SlicePlane((1, 1), (0, 0, 0), (0.01, 0, 0), (0, 0.01, 0))
    assert not pixel.matches(SlicePlane((1, 1), (0, 0, 0), (0.01, 0, 0), (0, 0, 0.01)))
    first = plane_through(fine, fine.to_mm((2, 0, 0)), (0, 0, 1))
    assert not first.matches(plane_through(fine, fine.to_mm((3, 0, 0)), (0, 0, 1)))
    assert first.matches(plane_through(fine, fine.to_mm((2.2, 0, 0)), (0, 0, -1)))


@relaxed
@given(cuts())
def test_a_plane_comes_back_from_json_exactly(cut):
    _, plane = cut
    again = SlicePlane.from_dict(json.loads(json.dumps(plane.as_dict(), allow_nan=False)))
    assert again.shape == plane.shape
    assert again.voxel_slice == plane.voxel_slice
    for name in ("origin_mm", "row_step_mm", "column_step_mm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plane, name))


GOOD = {
    "shape": [2, 3],
    "origin_mm": [0, 0, 0],
    "row_step_mm": [0, 1, 0],
    "column_step_mm": [1, 0, 0],
    "voxel_slice": [0, 1],
}


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2]}, {"shape": [0, 3]}, {"shape": [2.5, 3]}, {"shape": None}, {"origin_mm": [0, 0]},
        {"origin_mm": [0, 0, float("nan")]}, {"origin_mm": "abc"}, {"row_step_mm": [0, 0, 0]},
        {"row_step_mm": [1, 1, 0]}, {"voxel_slice": [3, 0]}, {"voxel_slice": [0, -1]}, {"voxel_slice": [0]},
        {"voxel_slice": "ab"}, {"voxel_slice": 3}, {"surplus": 1},
    ],
)  # fmt: skip
def test_descriptions_of_no_plane_are_refused(change):
    assert SlicePlane.from_dict(GOOD).shape == (2, 3)
    with pytest.raises(GeometryError):
        SlicePlane.from_dict({**GOOD, **change})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *(
            (lambda n=n: plane_through(a_grid(), np.array(n) * 40, n), "not cut")
            for n in ((0, 0, 1), (0, 1, 1), (1, 2, 3))
        ),
        (lambda: plane_through(a_grid(), (0, 0), (0, 0, 1)), "point_mm"),
        (lambda: plane_through(a_grid(), (0, 0, np.nan), (0, 0, 1)), "point_mm"),
        (lambda: plane_through(a_grid(), (0, 0, 0), (0, np.inf, 1)), "normal"),
        (lambda: plane_through(a_grid(), (3, 3, 3), (0, 1, 1), column_hint=(1, 0)), "column_hint"),
        *((lambda d=d: unit_vector(d, "normal"), "normal") for d in ((0, 0, 0), (1, 2), (1, 2, np.nan), "up")),
        *((lambda v=v: Grid(v, np.eye(4)), "shape") for v in ((0, 1, 1), (1, 1), (1.5, 2, 2), 3, (2, 2, 2, 2))),
        *(
            (lambda m=m: Grid((2, 2, 2), m), "ijk_to_mm")
            for m in (np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan))
        ),
        (lambda: sample(np.zeros((6, 8, 11)), a_grid(), plane_through(a_grid(), (3, 3, 3), (0, 1, 1))), "shape"),
        *(
            (lambda g=g: sample(np.zeros(g.shape), g, plane_through(a_grid(), (3, 3, 4), (0, 0, 1))), "plane_through")
            for g in (a_grid((3, 8, 10)), a_grid((6, 8, 11)))
        ),
        (lambda: plane_voxels(a_grid((3, 8, 10)), plane_through(a_grid(), (3, 3, 4), (0, 0, 1))), "plane_through"),
        *((lambda d=d: SlicePlane.from_dict(d), "described by") for d in (None, [], {}, "plane", {"shape": [2, 3]})),
    ],
)
def test_numbers_that_describe_no_grid_or_plane_of_it_are_refused(make, words):
    with pytest.raises(GeometryError, match=words):
        make()
