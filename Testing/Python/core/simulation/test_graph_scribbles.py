from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.graph_scribbles import (
    GraphScribbleConfig,
    _distance_to_disc,
    _remove_disc,
    build_graph,
    correction_graph_scribble,
    drop_edges,
    edge_costs,
    graph_scribble,
    spanning_tree,
)
from scribblesegment.simulation.strokes import longest_paths

Mask = NDArray[np.bool_]
ALWAYS_DROP = GraphScribbleConfig(drop_probability=1.0)
NEVER_DROP = GraphScribbleConfig(drop_probability=0.0)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def u_shape() -> Mask:
    mask = np.zeros((60, 60), dtype=bool)
    mask[5:55, 5:15] = mask[5:55, 45:55] = mask[45:55, 5:55] = True
    return mask


def path_edges(count: int) -> NDArray[np.int64]:
    return np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)


def edge_set(edges: NDArray[np.int64] | list[list[int]]) -> set[frozenset[int]]:
    return {frozenset(map(int, edge)) for edge in edges}


def edges_of_paths(paths: list[list[int]]) -> list[frozenset[int]]:
    return [frozenset(pair) for path in paths for pair in pairwise(path)]


@st.composite
def blobs(draw: st.DrawFn) -> Mask:
    shape = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    field = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0, 8)))
    mask = field >= np.quantile(field, draw(st.floats(0, 0.999)))
    return np.asarray(mask)


@st.composite
def trees(draw: st.DrawFn) -> tuple[int, NDArray[np.int64]]:
    count = draw(st.integers(2, 30))
    parents = [draw(st.integers(0, child - 1)) for child in range(1, count)]
    return count, np.array([[parent, child] for child, parent in enumerate(parents, start=1)])


# The whole scribble


def test_the_same_generator_state_gives_the_same_scribble() -> None:
    mask = disc((128, 128), (64, 64), 40)
    first = graph_scribble(mask, np.random.default_rng(7))
    np.testing.assert_array_equal(first, graph_scribble(mask, np.random.default_rng(7)))
    assert not np.array_equal(first, graph_scribble(mask, np.random.default_rng(8)))


def test_a_scribble_is_zero_or_one_in_single_precision_on_the_grid_of_the_mask() -> None:
    scribble = graph_scribble(disc((90, 120), (40, 70), 30), np.random.default_rng(0))
    assert scribble.shape == (90, 120)
    assert scribble.dtype == np.float32
    assert set(np.unique(scribble)) == {0.0, 1.0}


@pytest.mark.parametrize("seed", range(10))
def test_a_scribble_stays_inside_a_roomy_label(seed: int) -> None:
    mask = disc((128, 128), (60, 70), 45)
    scribble = graph_scribble(mask, np.random.default_rng(seed)) > 0
    assert np.count_nonzero(scribble & mask) >= 0.98 * np.count_nonzero(scribble)


@pytest.mark.parametrize("seed", range(10))
def test_a_scribble_follows_a_bent_label_and_stays_mostly_inside(seed: int) -> None:
    mask = u_shape()
    scribble = graph_scribble(mask, np.random.default_rng(seed), config=NEVER_DROP) > 0
    assert np.count_nonzero(scribble & mask) >= 0.9 * np.count_nonzero(scribble)
    left, right, bottom = scribble[5:40, 5:15], scribble[5:40, 45:55], scribble[45:, 20:40]
    assert left.any()
    assert right.any()
    assert bottom.any()


@settings(max_examples=150, deadline=None)
@given(mask=blobs(), seed=st.integers(0, 2**32 - 1))
def test_any_label_gets_a_scribble_that_overlaps_it(mask: Mask, seed: int) -> None:
    scribble = graph_scribble(mask, np.random.default_rng(seed))
    assert scribble.shape == mask.shape
    assert set(np.unique(scribble)) <= {0.0, 1.0}
    assert (scribble[mask] > 0).any()
    np.testing.assert_array_equal(scribble, graph_scribble(mask, np.random.default_rng(seed)))


def test_a_single_pixel_gets_a_dot_of_the_drawing_radius() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[9, 12] = True
    scribble = graph_scribble(mask, np.random.default_rng(0))
    np.testing.assert_array_equal(scribble > 0, disc((20, 20), (9, 12), 2))


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((1, 1), dtype=bool),
        np.ones((1, 40), dtype=bool),
        np.ones((40, 1), dtype=bool),
        np.ones((2, 2), dtype=bool),
        np.eye(50, dtype=bool),
        np.ones((64, 64), dtype=bool),
    ],
    ids=["one pixel image", "row", "column", "two by two", "diagonal line", "full image"],
)
def test_tiny_thin_and_full_labels_get_a_scribble(mask: Mask) -> None:
    scribble = graph_scribble(mask, np.random.default_rng(0))
    assert (scribble[mask] > 0).any()


def test_a_thin_line_is_followed_along_its_length() -> None:
    mask = np.zeros((30, 100), dtype=bool)
    mask[15, 5:95] = True
    covered = graph_scribble(mask, np.random.default_rng(0), config=NEVER_DROP)[15, 5:95]
    assert covered.mean() > 0.6


def test_the_radius_sets_the_width_of_the_stroke() -> None:
    mask = np.zeros((40, 100), dtype=bool)
    mask[20, 5:95] = True
    for radius in (1.0, 2.0, 4.0):
        scribble = graph_scribble(mask, np.random.default_rng(0), radius=radius) > 0
        assert scribble.any(axis=1).sum() == 2 * radius + 1


def test_radius_overrides_the_config_and_leaves_the_points_alone() -> None:
    mask = disc((64, 64), (32, 32), 20)
    narrow = graph_scribble(mask, np.random.default_rng(3), radius=1.0)
    same = graph_scribble(mask, np.random.default_rng(3), config=GraphScribbleConfig(radius=1.0))
    wide = graph_scribble(mask, np.random.default_rng(3))
    np.testing.assert_array_equal(narrow, same)
    assert np.all(wide >= narrow)
    assert wide.sum() > narrow.sum()


# Components


@pytest.mark.parametrize("seed", range(5))
def test_each_component_of_sufficient_size_gets_a_stroke_and_none_crosses_between_them(seed: int) -> None:
    first, second = disc((100, 140), (50, 30), 22), disc((100, 140), (50, 110), 22)
    scribble = graph_scribble(first | second, np.random.default_rng(seed)) > 0
    assert (scribble & first).any()
    assert (scribble & second).any()
    assert not scribble[:, 60:80].any()


def test_a_speck_beside_a_large_component_gets_no_stroke() -> None:
    mask = disc((100, 140), (50, 40), 35)
    mask[50, 120] = True
    scribble = graph_scribble(mask, np.random.default_rng(0))
    assert not scribble[:, 100:].any()


def test_a_label_of_specks_only_still_gets_a_scribble() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[::5, ::5] = True
    graph = build_graph(mask, np.random.default_rng(0))
    assert len(graph.points) == 1


def test_pixels_that_touch_at_a_corner_are_one_component() -> None:
    graph = build_graph(np.eye(60, dtype=bool), np.random.default_rng(0))
    assert len(graph.edges) == len(graph.points) - 1 > 1


@settings(max_examples=100, deadline=None)
@given(mask=blobs(), seed=st.integers(0, 2**32 - 1))
def test_points_lie_in_the_label_and_each_component_has_one_tree(mask: Mask, seed: int) -> None:
    graph = build_graph(mask, np.random.default_rng(seed))
    assert mask[tuple(graph.points.T)].all()
    components = ndimage.label(mask, structure=np.ones((3, 3)))[0][tuple(graph.points.T)]
    np.testing.assert_array_equal(components[graph.edges[:, 0]], components[graph.edges[:, 1]])
    assert len(graph.edges) == len(graph.points) - len(np.unique(components))
    assert len(edges_of_paths(longest_paths(len(graph.points), graph.edges))) == len(graph.edges)


# Tiles and points


@pytest.mark.parametrize("seed", range(10))
def test_at_most_one_point_is_sampled_in_a_tile(seed: int) -> None:
    mask = np.zeros((120, 120), dtype=bool)
    mask[10:110, 5:55] = True  # 5 x 5 tiles of 20 x 10 pixels
    points = build_graph(mask, np.random.default_rng(seed)).points
    tiles = (points - (10, 5)) // (20, 10)
    assert len(points) > 1
    assert len(np.unique(tiles, axis=0)) == len(points)


def test_the_tiles_follow_the_height_and_width_of_the_component() -> None:
    config = GraphScribbleConfig(tile_threshold=0.0, point_separation=0.0, skeleton_dilation=10.0)
    for height, width, tiles in ((100, 100, 25), (100, 16, 10), (16, 100, 10), (7, 7, 1), (8, 8, 1), (16, 24, 6)):
        points = build_graph(np.ones((height, width), dtype=bool), np.random.default_rng(0), config=config).points
        assert len(points) == tiles


def test_tiles_are_visited_in_random_order() -> None:
    mask = np.ones((100, 100), dtype=bool)
    first_tiles = {tuple(build_graph(mask, np.random.default_rng(seed)).points[0] // 20) for seed in range(20)}
    assert len(first_tiles) > 3


def test_a_tile_whose_distance_field_is_small_against_the_label_gets_no_point() -> None:
    mask = np.zeros((60, 150), dtype=bool)
    mask[5:55, 5:55] = True
    mask[30, 55:145] = True  # a tail one pixel wide
    in_tail = [
        build_graph(mask, np.random.default_rng(0), config=GraphScribbleConfig(tile_threshold=threshold)).points[:, 1]
        >= 60
        for threshold in (0.02, 0.0)
    ]
    assert not in_tail[0].any()
    assert in_tail[1].any()


def test_a_component_all_of_whose_tiles_are_too_small_gets_one_point() -> None:
    mask = np.zeros((20, 120), dtype=bool)
    mask[10, 10:110] = True
    config = GraphScribbleConfig(tile_threshold=0.5)  # each of five tiles holds a fifth of the sum
    assert len(build_graph(mask, np.random.default_rng(0), config=config).points) == 1


def test_points_lie_near_the_skeleton() -> None:
    mask = np.zeros((40, 140), dtype=bool)
    mask[10:31, 10:130] = True
    for seed in range(20):
        points = build_graph(mask, np.random.default_rng(seed)).points
        central = points[(points[:, 1] > 35) & (points[:, 1] < 105)]
        assert np.all(np.abs(central[:, 0] - 20) <= 5)  # 0.35 of the greatest depth, 11, and the skeleton's own pixel


def test_points_keep_their_distance_from_each_other() -> None:
    mask = disc((128, 128), (64, 64), 50)
    config = GraphScribbleConfig(tiles_per_axis=10, point_separation=9.0, skeleton_dilation=10.0)
    points = build_graph(mask, np.random.default_rng(0), config=config).points.astype(float)
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))[np.triu_indices(len(points), k=1)]
    assert len(points) > 20
    assert distances.min() > 9.0


@settings(max_examples=60, deadline=None)
@given(mask=blobs(), seed=st.integers(0, 2**32 - 1), radius=st.floats(0, 12))
def test_the_local_update_of_the_distance_field_equals_a_new_transform(mask: Mask, seed: int, radius: float) -> None:
    padded = np.pad(mask, 1)
    depth = ndimage.distance_transform_edt(padded)
    template = _distance_to_disc(radius, int(np.ceil(depth.max() + radius)))
    for row, column in np.random.default_rng(seed).permutation(np.argwhere(padded))[:3]:
        _remove_disc(depth, (int(row), int(column)), template)
        padded &= ~disc(padded.shape, (row, column), radius)
        np.testing.assert_allclose(depth, ndimage.distance_transform_edt(padded), atol=1e-12)


# The spanning tree


def test_an_edge_costs_its_length_inside_and_three_times_its_length_outside() -> None:
    mask = np.zeros((10, 30), dtype=bool)
    mask[:, :10] = mask[:, 20:] = True
    points = np.array([[5, 2], [5, 8], [5, 27]])
    costs = edge_costs(points, mask)
    assert costs[0, 1] == pytest.approx(6)
    assert costs[0, 2] == pytest.approx(25 + 2 * 10, abs=1)
    np.testing.assert_array_equal(costs, costs.T)
    np.testing.assert_array_equal(np.diag(costs), 0)


def test_the_tree_goes_round_inside_a_u_shape_instead_of_across_its_gap() -> None:
    points = np.array([[8, 10], [8, 50], [50, 10], [50, 50]])  # gap of 40, arms of 42
    inside_only = edge_set([[0, 2], [2, 3], [1, 3]])
    assert edge_set(spanning_tree(points, u_shape())) == inside_only
    assert edge_set(spanning_tree(points, u_shape(), outside_penalty=1.0)) != inside_only


@settings(max_examples=50, deadline=None)
@given(mask=blobs(), seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_the_tree_joins_all_points_at_the_least_total_cost(mask: Mask, seed: int, count: int) -> None:
    points = np.random.default_rng(seed).permutation(np.argwhere(np.ones_like(mask)))[:count]
    edges = spanning_tree(points, mask)
    costs = edge_costs(points, mask)
    assert len(edges) == len(points) - 1
    assert len(edges_of_paths(longest_paths(len(points), edges))) == len(edges)
    assert costs[tuple(edges.T)].sum() == pytest.approx(minimum_spanning_tree(costs).sum())


# Dropped edges


def test_an_edge_with_an_end_of_valence_one_is_never_dropped() -> None:
    star = np.array([[0, 1], [0, 2], [0, 3]])
    for edges in (path_edges(2), path_edges(3), star, np.empty((0, 2), dtype=np.int64)):
        for seed in range(20):
            np.testing.assert_array_equal(drop_edges(edges, np.random.default_rng(seed), config=ALWAYS_DROP), edges)


def test_a_path_of_four_points_can_only_lose_its_middle_edge() -> None:
    for seed in range(20):
        kept = drop_edges(path_edges(4), np.random.default_rng(seed), config=ALWAYS_DROP)
        np.testing.assert_array_equal(kept, [[0, 1], [2, 3]])


@settings(max_examples=100, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32 - 1))
def test_dropping_edges_leaves_no_point_alone(tree: tuple[int, NDArray[np.int64]], seed: int) -> None:
    count, edges = tree
    kept = drop_edges(edges, np.random.default_rng(seed), config=ALWAYS_DROP)
    assert len(edges) - 3 <= len(kept) <= len(edges)
    assert edge_set(kept) <= edge_set(edges)
    np.testing.assert_array_equal(np.unique(kept), np.arange(count))


def test_a_fifth_of_the_graphs_lose_one_two_or_three_edges_in_the_stated_shares() -> None:
    rng, edges = np.random.default_rng(0), path_edges(40)
    lost = np.array([len(edges) - len(drop_edges(edges, rng)) for _ in range(6000)])
    shares = np.bincount(lost, minlength=4) / len(lost)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.2 / 3, 0.1 / 3], atol=0.02)


# Errors


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((10, 12), dtype=bool),
        np.zeros((0, 5), dtype=bool),
        np.ones((4, 4, 4), dtype=bool),
        np.ones(5, dtype=bool),
        np.ones((4, 4)),
        np.ones((4, 4), dtype=np.uint8),
    ],
    ids=["empty label", "no pixels", "volume", "vector", "float", "uint8"],
)
def test_a_mask_that_cannot_be_scribbled_on_is_refused(mask: Mask) -> None:
    with pytest.raises(PromptError, match=r"shape \("):
        graph_scribble(mask, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("radius", 0.0),
        ("radius", float("nan")),
        ("tiles_per_axis", 0),
        ("min_tile_size", 0),
        ("tile_threshold", -0.1),
        ("skeleton_dilation", float("inf")),
        ("point_separation", -1.0),
        ("outside_penalty", 0.5),
        ("drop_probability", 1.5),
        ("drop_count_probabilities", ()),
        ("drop_count_probabilities", (0.5, 0.4)),
        ("drop_count_probabilities", (1.5, -0.5)),
    ],
)
def test_a_config_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(GraphScribbleConfig(), **{field: value})  # type: ignore[arg-type]


def test_a_radius_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ConfigError, match="radius"):
        graph_scribble(np.ones((5, 5), dtype=bool), np.random.default_rng(0), radius=0.0)


# Corrections (section 2.4)


LABEL = disc((100, 100), (50, 40), 25)
TOO_SMALL = LABEL & (np.arange(100) < 35)  # misses the right part
TOO_LARGE = LABEL | disc((100, 100), (50, 75), 12)


def test_missing_pixels_are_corrected_by_a_positive_scribble() -> None:
    correction = correction_graph_scribble(TOO_SMALL, LABEL, np.random.default_rng(0))
    assert correction is not None
    scribble, positive = correction
    assert positive is True
    assert scribble.dtype == np.float32
    assert (scribble[LABEL & ~TOO_SMALL] > 0).any()


def test_superfluous_pixels_are_corrected_by_a_negative_scribble() -> None:
    correction = correction_graph_scribble(TOO_LARGE, LABEL, np.random.default_rng(0), clip=True)
    assert correction is not None
    scribble, positive = correction
    assert positive is False
    assert not scribble[LABEL].any()


def test_the_side_with_more_wrong_pixels_is_corrected() -> None:
    both = TOO_LARGE.copy()
    both[25:45, 30:40] = False
    for prediction, expected in ((both, False), (TOO_SMALL | (TOO_LARGE & ~LABEL & (np.arange(100) > 80)), True)):
        correction = correction_graph_scribble(prediction, LABEL, np.random.default_rng(0))
        assert correction is not None
        assert correction[1] is expected


def test_an_error_below_one_percent_of_the_label_is_not_corrected() -> None:
    label = np.zeros((40, 40), dtype=bool)
    label[10:30, 10:30] = True  # 400 pixels
    prediction = label.copy()
    assert correction_graph_scribble(prediction, label, np.random.default_rng(0)) is None
    prediction[10, 10:13] = False
    assert correction_graph_scribble(prediction, label, np.random.default_rng(0)) is None
    prediction[10, 13] = False  # four pixels: exactly one percent
    assert correction_graph_scribble(prediction, label, np.random.default_rng(0)) is not None
    assert correction_graph_scribble(prediction, label, np.random.default_rng(0), min_error=0.02) is None


def test_the_error_region_is_dilated_by_the_approximate_radius_of_the_label() -> None:
    label = disc((100, 100), (50, 50), 20)
    prediction = label.copy()
    prediction[45:56, 60:68] = False
    near = ndimage.distance_transform_edt(prediction | ~label) <= 24  # 20, the stroke's 2 and a swing of the spline
    reached_beyond_the_error = 0
    for seed in range(10):
        correction = correction_graph_scribble(prediction, label, np.random.default_rng(seed))
        assert correction is not None
        scribble = correction[0] > 0
        assert near[scribble].all()
        reached_beyond_the_error += int((scribble & label & prediction).any())
    assert reached_beyond_the_error == 10


def test_a_correction_may_leave_its_side_unless_it_is_clipped() -> None:
    label = disc((100, 100), (50, 50), 20)
    prediction = label & (np.arange(100) < 66)
    outside = {False: 0, True: 0}
    for clip in outside:
        for seed in range(10):
            correction = correction_graph_scribble(prediction, label, np.random.default_rng(seed), clip=clip)
            assert correction is not None
            assert (correction[0][label] > 0).any()
            outside[clip] += int(np.count_nonzero(correction[0][~label]))
    assert outside[False] > 0
    assert outside[True] == 0


def test_a_correction_is_the_graph_scribble_of_the_dilated_error_cut_to_its_side_beforehand_if_clipped() -> None:
    region = ndimage.distance_transform_edt(TOO_SMALL | ~LABEL) <= np.sqrt(LABEL.sum() / np.pi)
    for clip, simulated_on in ((False, region), (True, region & LABEL)):
        correction = correction_graph_scribble(TOO_SMALL, LABEL, np.random.default_rng(5), clip=clip)
        assert correction is not None
        expected = graph_scribble(simulated_on, np.random.default_rng(5))
        np.testing.assert_array_equal(correction[0], expected * LABEL if clip else expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sigma=st.floats(0, 6))
def test_a_clipped_correction_is_never_empty_and_never_wrong(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((2, 48, 48)), (0, sigma, sigma))
    prediction, label = fields > 0
    correction = correction_graph_scribble(prediction, label, rng, clip=True)
    assert correction is not None
    scribble, positive = correction
    assert scribble.any()
    assert not scribble[label != positive].any()


def test_a_prediction_where_there_is_no_object_gets_a_negative_scribble() -> None:
    empty = np.zeros_like(LABEL)
    correction = correction_graph_scribble(LABEL, empty, np.random.default_rng(0))
    assert correction is not None
    assert correction[1] is False
    assert correction_graph_scribble(empty, empty, np.random.default_rng(0)) is None


def test_a_correction_on_different_grids_or_of_probabilities_is_refused() -> None:
    with pytest.raises(PromptError, match="same grid"):
        correction_graph_scribble(LABEL[:50], LABEL, np.random.default_rng(0))
    with pytest.raises(PromptError, match="prediction"):
        correction_graph_scribble(LABEL.astype(np.float32), LABEL, np.random.default_rng(0))
    with pytest.raises(PromptError, match="label"):
        correction_graph_scribble(LABEL, LABEL.astype(np.uint8), np.random.default_rng(0))
