from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import SEEDS, disc, rectangle, regions
from scipy import ndimage
from skimage.morphology import skeletonize

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation import simulate_scribble
from scribblesegment.simulation.scribbles import (
    VISIBLE,
    ScribbleConfig,
    bounding_slices,
    centerline_scribble,
    contour_scribble,
    draw_margins,
    gaussian_blur,
    is_thin,
    limit_pixels,
    line_scribble,
    require_mask,
    sample_linear,
    smooth_noise,
    stroke_jitter,
    warp_inside,
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


@pytest.mark.parametrize(("shape", "sigma"), [((3, 90, 70), 0.5), ((3, 90, 70), 5.25), ((600, 70), 3.0)])
def test_blurring_is_that_of_a_gaussian_filter_away_from_the_border(rng, shape, sigma):
    image = rng.random(shape)
    expected = ndimage.gaussian_filter(image, (*[0] * (len(shape) - 2), sigma, sigma), truncate=6)
    inner = (..., slice(35, 55), slice(32, 38))
    np.testing.assert_allclose(gaussian_blur(image, sigma)[inner], expected[inner], atol=1e-5)
    np.testing.assert_array_equal(gaussian_blur(image, sigma + 0.1), gaussian_blur(image, sigma))  # quarter pixels
    np.testing.assert_array_equal(gaussian_blur(image, 0.1), image.astype(np.float32))
    np.testing.assert_allclose(gaussian_blur(np.full(shape, 7.0), sigma), 7.0, rtol=1e-5)  # up to the border


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
    first, same = (smooth_noise((2, 30, 40), sigma, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, same)


def test_sampling_is_bilinear_and_a_displacement_is_where_each_pixel_reads(rng):
    image = np.array([[0.0, 1.0], [2.0, 4.0]])
    rows, columns = np.array([0, 1, 0.5, 0, 0.5, -2], np.float32), np.array([1, 1, 0, 0.25, 0.5, 5], np.float32)
    np.testing.assert_allclose(sample_linear(image, rows, columns), [1, 4, 1, 0.25, 1.75, 0])
    image, region = rng.random((9, 7), dtype=np.float32), rng.random((9, 7)) < 0.5
    displacement = np.zeros((2, 9, 7), np.float32)
    np.testing.assert_array_equal(warp_inside(image, displacement, region), image * region)
    displacement[0], displacement[1] = 2, -1
    expected = np.pad(image[2:, :-1], ((0, 2), (1, 0)))
    np.testing.assert_allclose(warp_inside(image, displacement, np.ones((9, 7), bool)), expected)


# Regions, margins and jitter.


@settings(max_examples=60)
@given(region=regions(), seed=SEEDS)
def test_boxes_are_tight_and_margins_lie_on_their_side(region, seed):
    part = region[bounding_slices(region)]
    assert part.sum() == region.sum()
    assert all(side.any() for side in (part[0], part[-1], part[:, 0], part[:, -1]))
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
