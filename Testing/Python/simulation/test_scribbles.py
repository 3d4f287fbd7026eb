"""Simulated scribbles of all kinds."""

from __future__ import annotations

import re
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import SEEDS, disc, rectangle, regions
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from skimage.morphology import skeletonize

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation import graph_scribbles, simulate_scribble
from scribblesegment.simulation.graph_scribbles import (
    build_graph,
    correction_graph_scribble,
    drop_edges,
    edge_costs,
    graph_scribble,
    spanning_tree,
)
from scribblesegment.simulation.scribbles import (
    VISIBLE,
    ScribbleConfig,
    centerline_scribble,
    contour_scribble,
    draw_margins,
    is_thin,
    limit_pixels,
    line_scribble,
    require_mask,
    smooth_noise,
    stroke_jitter,
)

KINDS = [line_scribble, centerline_scribble, contour_scribble]
BAR = rectangle((70, 90), (20, 50), (10, 80))  # unlike that of a disc, its skeleton is longer than a dot
RING = disc((128, 128), (64, 64), 55) & ~disc((128, 128), (64, 64), 25)
CLEAN = ScribbleConfig(thickness=(1, 1), warp_amplitude=(0, 0))


def drawn(draw, region, seeds=30, config=CLEAN, **options):
    return [draw(region, np.random.default_rng(seed), config=config, **options) for seed in range(seeds)]


# All scribbles.


@pytest.mark.parametrize("draw", [*KINDS, partial(simulate_scribble, kind="graph")])
@given(region=regions(), seed=SEEDS, count=st.integers(1, 3), limit=st.none() | st.integers(1, 40))
def test_a_scribble_stays_in_its_region_is_visible_and_keeps_its_limit(draw, region, seed, count, limit):
    before = region.copy()
    scribble = draw(region, rng=np.random.default_rng(seed), count=count, config=ScribbleConfig(max_pixels=limit))
    assert (scribble.shape, scribble.dtype) == (region.shape, np.float32)
    assert not scribble[~region].any()
    assert scribble.min() >= 0
    assert VISIBLE <= scribble.max() <= 1
    assert limit is None or np.count_nonzero(scribble) <= count * limit
    np.testing.assert_array_equal(region, before)


@pytest.mark.parametrize("draw", KINDS)
def test_scribbles_vary_with_the_seed_their_count_thickness_and_warp(draw):
    first = draw(BAR, np.random.default_rng(3), count=2)
    np.testing.assert_array_equal(first, draw(BAR, np.random.default_rng(3), count=2))
    assert not np.array_equal(first, draw(BAR, np.random.default_rng(4), count=2))
    one, three = (np.count_nonzero(drawn(draw, BAR, config=ScribbleConfig(), count=count)) for count in (1, 3))
    assert three > 1.3 * one
    thin, thick = (drawn(draw, BAR, 1, ScribbleConfig(thickness=(width, width)))[0] for width in (1, 3))
    assert np.count_nonzero(thick) > 1.3 * np.count_nonzero(thin)
    warps = (ScribbleConfig(thickness=(1, 1), warp_amplitude=(size, size)) for size in (0.0, 4.0))
    straight, bent = (draw(BAR, np.random.default_rng(5), config=config) for config in warps)
    assert set(np.unique(straight)) == {0, 1}
    assert np.count_nonzero((bent > 0) & (straight == 0)) > 0.3 * np.count_nonzero(bent)
    wild = drawn(draw, disc((40, 40), (5, 34), 3), 50, ScribbleConfig(warp_amplitude=(50.0, 50.0)))
    assert min(scribble.max() for scribble in wild) >= VISIBLE


def test_an_unwarped_line_is_straight_connected_and_cut_to_the_region():
    lines = [np.argwhere(line) for line in drawn(line_scribble, np.ones((50, 80), bool), 50)]
    for pixels in lines:
        extent = np.ptp(pixels, axis=0)
        along, across = pixels[:, extent.argmax()], pixels[:, extent.argmin()]
        assert len(pixels) == len(np.unique(along)) == extent.max() + 1
        fit = np.polyval(np.polyfit(along, across, 1), along) if extent.max() > 1 else across
        assert np.abs(across - fit).max() < 1.01
    assert len({len(pixels) for pixels in lines}) > 20
    gap = ~rectangle((20, 60), (0, 20), (10, 50))
    union = np.maximum.reduce(drawn(line_scribble, gap, 20))
    assert union[:, :10].any()
    assert union[:, 50:].any()


def test_each_centerline_is_about_half_of_the_skeleton_in_parts_broken_elsewhere():
    skeleton = skeletonize(RING)
    config = ScribbleConfig(thickness=(1, 1), warp_amplitude=(0, 0), break_sigma=(4, 8))
    single = np.stack(drawn(centerline_scribble, RING, 60, config)) > 0
    assert not (single & ~skeleton).any()
    shares = single.sum(axis=(1, 2)) / skeleton.sum()
    assert 0.4 < shares.mean() < 0.6
    assert shares.max() < 0.9
    assert np.mean([ndimage.label(part, np.ones((3, 3)))[1] for part in single]) > 2
    triple = np.stack(drawn(centerline_scribble, RING, 60, count=3)) > 0
    assert triple.sum() / skeleton.sum() / 60 == pytest.approx(1 - 0.5**3, abs=0.07)
    line = rectangle((20, 60), (7, 8), (3, 55))
    assert np.maximum.reduce(drawn(centerline_scribble, line)).sum() > 45


def test_a_contour_runs_at_one_depth_and_not_along_the_border_of_the_image():
    distance = np.hypot(*(np.indices((128, 128)) - 64))
    radii = [distance[contour > 0] for contour in drawn(contour_scribble, disc((128, 128), (64, 64), 45), 40)]
    assert max(map(np.ptp, radii)) < 2.5
    medians = [np.median(one) for one in radii]
    assert max(medians) > 0.85 * 45
    assert np.ptp(medians) > 5
    background = np.maximum.reduce(drawn(contour_scribble, ~disc((100, 100), (50, 50), 12)))
    assert background.sum() == background[1:-1, 1:-1].sum() > 0
    full = drawn(contour_scribble, np.ones((64, 64), bool), 20, ScribbleConfig())  # a stroke, not an area
    assert all(0 < np.count_nonzero(scribble) < 200 for scribble in full)


def test_the_limit_keeps_the_neighbourhood_of_a_visible_pixel(rng):
    scribble = np.zeros((5, 100), np.float32)
    scribble[2] = 0.1
    scribble[2, 70] = 1.0
    np.testing.assert_array_equal(np.flatnonzero(limit_pixels(scribble, 11, rng)[2]), np.arange(65, 76))
    assert np.count_nonzero(scribble) == 100
    assert limit_pixels(scribble, None, rng) is limit_pixels(scribble, 100, rng) is scribble


@pytest.mark.parametrize("mask", [np.zeros((3, 4), int), np.zeros((3, 4, 5), bool), [[True]], None])
def test_what_is_no_mask_is_refused_by_its_name_shape_and_type(mask):
    kind = getattr(mask, "dtype", type(mask).__name__)
    with pytest.raises(PromptError, match=re.escape(f"label has shape {np.shape(mask)} and type {kind}")):
        require_mask(mask, "label")


BAD = {
    "thickness": ((0, 2), (1.5, 2), (3, 1)),
    **{"break_sigma": ((-1.0, 2.0),), "warp_sigma": ((1.0,),), "warp_amplitude": ((0.0, float("nan")),)},
    **{"contour_sigma": ((2.0, float("inf")),), "max_pixels": (0,)},
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_a_configuration_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        ScribbleConfig(**{field: value})
    assert ScribbleConfig(thickness=[2, 3]) == ScribbleConfig(thickness=(2, 3))  # as from JSON


# Smooth fields.


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0, 20.0])
def test_noise_is_standard_normal_everywhere_independent_and_correlated_as_stated(rng, sigma):
    fields = smooth_noise((4000, 7, 12), sigma, rng)
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.06)
    assert abs(np.corrcoef(fields[:2000, 0, 0], fields[2000:, 0, 0])[0, 1]) < 0.08
    distance = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    expected = np.exp(-((distance / (2 * sigma)) ** 2)) if sigma else np.eye(12)
    np.testing.assert_allclose(fields[:, 3].T @ fields[:, 3] / 4000, expected, atol=0.1)


# Regions, margins and jitter.


@settings(max_examples=60)
@given(region=regions(), seed=SEEDS)
def test_margins_lie_on_their_side(region, seed):
    inner, ring = draw_margins(region, np.random.default_rng(seed))
    assert inner.any()
    assert ring.any() != region.all()
    assert not (inner & ~region).any()
    assert not (ring & region).any()
    mask = disc((96, 96), (48, 48), 20)
    inner, ring = draw_margins(mask, np.random.default_rng(seed))
    outside = ndimage.distance_transform_edt(~mask)[ring]
    assert ndimage.distance_transform_edt(mask)[inner].min() <= 0.6 * 21
    assert outside.min() <= 0.6 * 21 + 1
    assert outside.max() < 48


def test_strokes_are_moved_and_widened_but_never_lost():
    line, corner = np.float32(rectangle((24, 24), (12, 13), (4, 20))), np.float32(rectangle((8, 8), (0, 1), (0, 1)))
    near = ndimage.binary_dilation(line > 0, np.ones((5, 5)))
    jittered = [stroke_jitter(line, np.random.default_rng(seed)) for seed in range(60)]
    assert all(one.dtype == np.float32 and one.max() == 1 and not one[~near].any() for one in jittered)
    assert {int((one > 0).any(axis=1).sum()) for one in jittered} == {1, 3}
    assert {int(np.argwhere(one)[:, 0].mean()) for one in jittered} == {11, 12, 13}
    widened = [stroke_jitter(line, np.random.default_rng(seed), widens=True) for seed in range(20)]
    assert {int((one > 0).any(axis=1).sum()) for one in widened} == {3}
    assert all(stroke_jitter(corner, np.random.default_rng(seed)).any() for seed in range(30))
    bands = [is_thin(rectangle((32, 32), (10, 10 + width), (2, 30))) for width in (1, 2, 3, 9)]
    assert bands == [True, True, False, False]


# Graph scribbles ----------------------------------------------------------------------------------------------------


U_SHAPE = rectangle((60, 60), (5, 55), (5, 55)) & ~rectangle((60, 60), (5, 45), (15, 45))


def edge_set(edges):
    return {frozenset(map(int, edge)) for edge in edges}


@given(mask=regions(), seed=SEEDS)
def test_any_label_gets_a_scribble_along_one_tree_for_each_component(mask, seed):
    scribble = graph_scribble(mask, np.random.default_rng(seed))
    assert (scribble.shape, scribble.dtype) == (mask.shape, np.float32)
    assert set(np.unique(scribble)) <= {0.0, 1.0}
    assert (scribble[mask] > 0).any()
    np.testing.assert_array_equal(scribble, graph_scribble(mask, np.random.default_rng(seed)))
    points, edges = build_graph(mask, np.random.default_rng(seed))
    assert mask[tuple(points.T)].all()
    components = ndimage.label(mask, structure=np.ones((3, 3)))[0][tuple(points.T)]
    np.testing.assert_array_equal(components[edges[:, 0]], components[edges[:, 1]])
    assert len(edges) == len(points) - len(np.unique(components))


@pytest.fixture
def constants(monkeypatch):
    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(graph_scribbles, name, value)

    return change


@pytest.mark.parametrize("seed", range(5))
def test_a_scribble_follows_its_label_and_stays_mostly_inside(constants, seed):
    constants(DROP_P=0.0)
    rng = np.random.default_rng(seed)
    for label in (disc((128, 128), (60, 70), 45), U_SHAPE):
        scribble = graph_scribble(label, rng) > 0
        assert (scribble & label).sum() >= 0.9 * scribble.sum()
    assert all(part.any() for part in (scribble[5:40, 5:15], scribble[5:40, 45:55], scribble[45:, 20:40]))
    line = rectangle((30, 100), (15, 16), (5, 95))
    assert graph_scribble(line, rng)[15, 5:95].mean() > 0.6
    for radius in (1.0, 2.0, 4.0):
        assert (graph_scribble(line, rng, radius=radius) > 0).any(axis=1).sum() == 2 * radius + 1
    dot = graph_scribble(disc((20, 20), (9, 12), 0), rng)
    np.testing.assert_array_equal(dot > 0, disc((20, 20), (9, 12), 2))
    first, second = disc((100, 140), (50, 30), 22), disc((100, 140), (50, 110), 22)
    both, between = graph_scribble(first | second, rng) > 0, rectangle((100, 140), (0, 100), (60, 80))
    assert [(both & one).any() for one in (first, second, between)] == [True, True, False]
    speck = disc((100, 140), (50, 40), 35) | disc((100, 140), (50, 120), 0)  # too small to get a point
    assert not graph_scribble(speck, rng)[:, 100:].any()


def test_points_are_sampled_in_tiles_near_the_skeleton_and_apart(constants):
    field, bar = rectangle((120, 120), (10, 110), (5, 55)), rectangle((40, 140), (10, 31), (10, 130))
    for seed in range(20):
        points, _ = build_graph(field, np.random.default_rng(seed))
        assert len(np.unique((points - (10, 5)) // (20, 10), axis=0)) == len(points) > 1  # tiles of 20 x 10 pixels
        points, _ = build_graph(bar, np.random.default_rng(seed))
        central = points[(points[:, 1] > 35) & (points[:, 1] < 105)]
        assert (np.abs(central[:, 0] - 20) <= 5).all()  # 0.35 of the greatest depth, and the skeleton's own pixel
    constants(TILES_PER_AXIS=10, SEPARATION=9.0, SKELETON_DILATION=10.0)
    points, _ = build_graph(disc((128, 128), (64, 64), 50), np.random.default_rng(0))
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))[np.triu_indices(len(points), k=1)]
    assert len(points) > 20
    assert distances.min() > 9.0
    constants(TILES_PER_AXIS=5, SEPARATION=0.0, TILE_THRESHOLD=0.0)
    for height, width, tiles in ((100, 100, 25), (100, 16, 10), (16, 100, 10), (7, 7, 1), (8, 8, 1), (16, 24, 6)):
        assert len(build_graph(np.ones((height, width), bool), np.random.default_rng(0))[0]) == tiles


@given(mask=regions(), seed=SEEDS, count=st.integers(1, 12))
def test_the_tree_joins_all_points_at_the_least_cost_which_is_threefold_outside(mask, seed, count):
    points = np.random.default_rng(seed).permutation(np.argwhere(np.ones_like(mask)))[:count]
    edges, costs = spanning_tree(points, mask), edge_costs(points, mask)
    assert len(edges) == len(points) - 1
    np.testing.assert_array_equal(costs, costs.T)
    assert costs[tuple(edges.T)].sum() == pytest.approx(minimum_spanning_tree(costs).sum())
    gap = ~rectangle((10, 30), (0, 10), (10, 20))
    assert edge_costs(np.array([[5, 2], [5, 8], [5, 27]]), gap)[0] == pytest.approx([0, 6, 25 + 2 * 10], abs=1)
    corners, inside = np.array([[8, 10], [8, 50], [50, 10], [50, 50]]), edge_set([[0, 2], [2, 3], [1, 3]])
    assert edge_set(spanning_tree(corners, U_SHAPE)) == inside  # a gap of 40, arms of 42
    with patch.object(graph_scribbles, "OUTSIDE_PENALTY", 1.0):
        assert edge_set(spanning_tree(corners, U_SHAPE)) != inside


def test_a_fifth_of_the_graphs_lose_one_two_or_three_inner_edges_in_the_stated_shares(rng, constants):
    path = np.stack([np.arange(39), np.arange(1, 40)], axis=1)
    lost = [39 - len(drop_edges(path, rng)) for _ in range(6000)]
    np.testing.assert_allclose(np.bincount(lost) / 6000, [0.8, 0.1, 0.2 / 3, 0.1 / 3], atol=0.02)
    constants(DROP_P=1.0)
    np.testing.assert_array_equal(drop_edges(path[:3], rng), [[0, 1], [2, 3]])


# Corrections (section 2.4).


@given(seed=SEEDS, sigma=st.floats(0, 6), clip=st.booleans())
def test_a_correction_scribbles_on_the_dilated_larger_error_on_its_own_side_if_clipped(seed, sigma, clip):
    fields = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((2, 48, 48)), (0, sigma, sigma))
    prediction, label = fields > 0
    scribble, positive = correction_graph_scribble(prediction, label, np.random.default_rng(seed), clip=clip)
    missing, surplus = label & ~prediction, prediction & ~label
    assert positive == (missing.sum() >= surplus.sum())
    error, side = (missing, label) if positive else (surplus, ~label)
    region = ndimage.distance_transform_edt(~error) <= np.sqrt(label.sum() / np.pi)
    expected = graph_scribble(region & side if clip else region, np.random.default_rng(seed))
    np.testing.assert_array_equal(scribble, expected * side if clip else expected)
    assert scribble.any()
    assert not clip or not scribble[~side].any()


def test_small_errors_are_not_corrected_and_an_empty_label_is(rng):
    label = rectangle((40, 40), (10, 30), (10, 30))  # 400 pixels
    for wrong, corrected in ((0, False), (3, False), (4, True)):
        prediction = label & ~rectangle((40, 40), (10, 11), (10, 10 + wrong))
        assert (correction_graph_scribble(prediction, label, rng) is not None) == corrected
        assert correction_graph_scribble(prediction, label, rng, min_error=0.02) is None
    empty = np.zeros_like(label)
    assert correction_graph_scribble(label, empty, rng)[1] is False
    assert correction_graph_scribble(empty, empty, rng) is None
    for prediction, other, problem in ((label[:9], label, "same grid"), (label * 1.0, label, "prediction")):
        with pytest.raises(PromptError, match=problem):
            correction_graph_scribble(prediction, other, rng)
    for radius in (0.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="radius"):
            graph_scribble(label, rng, radius=radius)
