from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scribblesegment.simulation.strokes import draw_strokes, longest_paths, spline_through

Mask = NDArray[np.bool_]


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def path_edges(count: int) -> NDArray[np.int64]:
    return np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)


def edge_set(edges: NDArray[np.int64] | list[list[int]]) -> set[frozenset[int]]:
    return {frozenset(map(int, edge)) for edge in edges}


def edges_of_paths(paths: list[list[int]]) -> list[frozenset[int]]:
    return [frozenset(pair) for path in paths for pair in pairwise(path)]


@st.composite
def trees(draw: st.DrawFn) -> tuple[int, NDArray[np.int64]]:
    count = draw(st.integers(2, 30))
    parents = [draw(st.integers(0, child - 1)) for child in range(1, count)]
    return count, np.array([[parent, child] for child, parent in enumerate(parents, start=1)])


# Longest paths


def test_the_longest_path_comes_first_and_its_side_branch_last() -> None:
    edges = np.concatenate([path_edges(7), [[3, 7], [7, 8]]])
    paths = longest_paths(9, edges)
    assert set(edges_of_paths(paths[:1])) == edge_set(path_edges(7))
    assert set(edges_of_paths(paths[1:])) == edge_set([[3, 7], [7, 8]])
    assert [len(path) for path in paths] == [7, 3]


def test_a_forest_gives_the_longest_path_of_all_its_trees_first() -> None:
    edges = np.concatenate([path_edges(3), path_edges(5) + 3])
    assert [len(path) for path in longest_paths(8, edges)] == [5, 3]


def test_points_without_edges_give_no_path() -> None:
    assert longest_paths(3, np.empty((0, 2), dtype=np.int64)) == []


@settings(max_examples=100, deadline=None)
@given(tree=trees())
def test_paths_cover_each_edge_once_and_start_with_the_diameter(tree: tuple[int, NDArray[np.int64]]) -> None:
    count, edges = tree
    paths = longest_paths(count, edges)
    drawn = edges_of_paths(paths)
    assert len(drawn) == len(set(drawn)) == len(edges)
    assert set(drawn) == edge_set(edges)
    hops = np.full((count, count), np.inf)
    np.fill_diagonal(hops, 0)
    hops[tuple(edges.T)] = hops[tuple(edges.T[::-1])] = 1
    for middle in range(count):
        hops = np.minimum(hops, hops[:, middle : middle + 1] + hops[middle : middle + 1])
    assert len(paths[0]) - 1 == hops.max()
    lengths = [len(path) for path in paths]
    assert lengths == sorted(lengths, reverse=True)


# Splines and drawing


@settings(max_examples=100, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 127)), min_size=1, max_size=12, unique=True).map(
        lambda pairs: np.array(pairs, dtype=np.int64)
    )
)
def test_a_spline_passes_through_its_points_in_small_steps(points: NDArray[np.int64]) -> None:
    curve = spline_through(points)
    np.testing.assert_allclose(curve[[0, -1]], points[[0, -1]], atol=1e-9)
    gaps = np.hypot(*(curve[:, None] - points[None]).transpose(2, 0, 1)).min(axis=0)
    assert gaps.max() <= 0.5
    assert np.all(np.hypot(*np.diff(curve, axis=0).T) <= 0.5 + 1e-9)


def test_a_spline_through_two_points_is_straight_and_through_a_corner_is_smooth() -> None:
    straight = spline_through(np.array([[0, 0], [30, 40]]))
    np.testing.assert_allclose(straight[:, 0] * 4, straight[:, 1] * 3, atol=1e-9)
    directions = np.diff(spline_through(np.array([[0, 0], [0, 20], [20, 20], [20, 40]])), axis=0)
    turns = np.abs(np.diff(np.unwrap(np.arctan2(directions[:, 0], directions[:, 1]))))
    assert np.degrees(turns.max()) < 20


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.5])
def test_all_pixels_within_the_radius_of_a_stroke_are_set_and_no_others(radius: float) -> None:
    start, end = np.array([10.0, 8.0]), np.array([33.0, 47.0])
    image = draw_strokes([spline_through(np.array([start, end], dtype=np.int64))], (50, 60), radius)
    pixels = np.stack(np.meshgrid(np.arange(50), np.arange(60), indexing="ij"), axis=-1)
    along = np.clip((pixels - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
    distance = np.linalg.norm(pixels - start - along[..., None] * (end - start), axis=-1)
    assert np.all(image[distance <= radius] == 1)
    assert np.all(image[distance > radius + 0.05] == 0)


def test_the_part_of_a_stroke_beyond_the_image_is_left_out() -> None:
    image = draw_strokes([np.array([[0.0, 0.0], [-3.0, 30.0], [9.0, 19.0]])], (10, 20), 2.0)
    expected = disc((10, 20), (0, 0), 2) | disc((10, 20), (9, 19), 2)
    np.testing.assert_array_equal(image > 0, expected)
