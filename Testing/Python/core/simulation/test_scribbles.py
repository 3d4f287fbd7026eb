from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import skeletonize

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.scribbles import (
    VISIBLE,
    ScribbleConfig,
    centerline_scribble,
    contour_scribble,
    limit_pixels,
    line_scribble,
)

KINDS = [line_scribble, centerline_scribble, contour_scribble]
SEEDS = st.integers(0, 2**32 - 1)
BAR = np.zeros((70, 90), dtype=bool)  # unlike that of a disc, its skeleton is longer than a dot
BAR[20:50, 10:80] = True
CLEAN = ScribbleConfig(thickness=(1, 1), warp_amplitude=(0, 0))


def disc(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


@st.composite
def regions(draw):
    """Blobs, specks, single pixels, thin lines, frames along the border and full images, of any shape."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    kind = draw(st.sampled_from(["blob", "pixel", "row", "diagonal", "frame", "full"]))
    if kind == "blob":
        rng = np.random.default_rng(draw(SEEDS))
        field = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0, 8)))
        return field >= np.quantile(field, draw(st.floats(0, 0.999)))
    region = np.zeros(shape, dtype=bool)
    row, column = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    if kind == "pixel":
        region[row, column] = True
    elif kind == "row":
        region[row] = True
    elif kind == "diagonal":
        np.fill_diagonal(region, True)
    elif kind == "frame":
        region[[0, -1]] = region[:, [0, -1]] = True
    else:
        region[:] = True
    return region


# What every scribble keeps


@pytest.mark.parametrize("draw", KINDS)
@given(region=regions(), seed=SEEDS, count=st.integers(1, 3))
def test_a_scribble_stays_in_its_region_within_zero_and_one_and_is_visible(draw, region, seed, count):
    before = region.copy()
    scribble = draw(region, np.random.default_rng(seed), count=count)
    assert scribble.shape == region.shape
    assert scribble.dtype == np.float32
    assert not scribble[~region].any()
    assert scribble.min() >= 0
    assert VISIBLE <= scribble.max() <= 1
    np.testing.assert_array_equal(region, before)


@pytest.mark.parametrize("draw", KINDS)
def test_a_wild_warp_does_not_make_a_scribble_vanish(draw):
    region = disc((40, 40), (5, 34), 3)
    config = ScribbleConfig(warp_amplitude=(50.0, 50.0))
    assert all(draw(region, np.random.default_rng(seed), config=config).max() >= VISIBLE for seed in range(50))


@pytest.mark.parametrize("draw", KINDS)
def test_the_same_generator_state_gives_the_same_scribble(draw):
    first = draw(BAR, np.random.default_rng(3), count=2)
    np.testing.assert_array_equal(first, draw(BAR, np.random.default_rng(3), count=2))
    assert not np.array_equal(first, draw(BAR, np.random.default_rng(4), count=2))


@pytest.mark.parametrize("draw", KINDS)
def test_more_scribbles_cover_more(draw):
    one, three = (
        np.mean([np.count_nonzero(draw(BAR, np.random.default_rng(seed), count=count)) for seed in range(30)])
        for count in (1, 3)
    )
    assert three > 1.3 * one


@pytest.mark.parametrize("draw", KINDS)
def test_thickness_widens_a_scribble(draw):
    thin, thick = (
        draw(BAR, np.random.default_rng(5), config=ScribbleConfig(thickness=(width, width))) for width in (1, 3)
    )
    assert np.count_nonzero(thick) > 1.3 * np.count_nonzero(thin)


@pytest.mark.parametrize("draw", KINDS)
def test_the_warp_bends_a_scribble(draw):
    straight, bent = (
        draw(BAR, np.random.default_rng(5), config=ScribbleConfig(thickness=(1, 1), warp_amplitude=(size, size)))
        for size in (0.0, 4.0)
    )
    assert set(np.unique(straight)) == {0, 1}
    assert np.count_nonzero((bent > 0) & (straight == 0)) > 0.3 * np.count_nonzero(bent)


# Lines


def test_an_unwarped_line_is_straight_and_connected():
    lengths = []
    for seed in range(50):
        drawn = line_scribble(np.ones((50, 80), dtype=bool), np.random.default_rng(seed), config=CLEAN)
        pixels = np.argwhere(drawn)
        extent = np.ptp(pixels, axis=0)
        assert len(pixels) == extent.max() + 1
        assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1
        along = pixels[:, extent.argmax()]
        across = pixels[:, extent.argmin()]
        fit = np.polyval(np.polyfit(along, across, 1), along) if extent.max() > 1 else across
        assert np.abs(across - fit).max() < 1.01
        lengths.append(len(pixels))
    assert len(set(lengths)) > 20


def test_a_line_across_a_gap_is_cut_to_the_region():
    region = np.zeros((20, 60), dtype=bool)
    region[:, :10] = region[:, 50:] = True
    drawn = np.maximum.reduce([line_scribble(region, np.random.default_rng(seed), config=CLEAN) for seed in range(20)])
    assert drawn[:, :10].any()
    assert drawn[:, 50:].any()
    assert not drawn[:, 10:50].any()


# Centerlines and breaking


def test_breaking_keeps_about_half_of_the_skeleton_in_parts():
    region = disc((128, 128), (64, 64), 55) & ~disc((128, 128), (64, 64), 25)
    skeleton = skeletonize(region)
    config = ScribbleConfig(thickness=(1, 1), warp_amplitude=(0, 0), break_sigma=(4, 8))
    drawn = [centerline_scribble(region, np.random.default_rng(seed), config=config) > 0 for seed in range(60)]
    assert not np.any(np.stack(drawn) & ~skeleton)
    shares = np.array([np.count_nonzero(part) / np.count_nonzero(skeleton) for part in drawn])
    assert 0.4 < shares.mean() < 0.6
    assert shares.max() < 0.9
    parts = [ndimage.label(part, np.ones((3, 3)))[1] for part in drawn]
    assert np.mean(parts) > 2


def test_each_of_several_centerlines_is_broken_elsewhere():
    region = disc((128, 128), (64, 64), 55) & ~disc((128, 128), (64, 64), 25)
    skeleton = np.count_nonzero(skeletonize(region))
    covered = [
        np.count_nonzero(centerline_scribble(region, np.random.default_rng(seed), count=3, config=CLEAN)) / skeleton
        for seed in range(60)
    ]
    assert np.mean(covered) == pytest.approx(1 - 0.5**3, abs=0.07)


def test_a_thin_line_is_its_own_centerline():
    region = np.zeros((20, 60), dtype=bool)
    region[7, 3:55] = True
    drawn = np.maximum.reduce(
        [centerline_scribble(region, np.random.default_rng(seed), config=CLEAN) for seed in range(30)]
    )
    assert np.count_nonzero(drawn) > 45


# Contours


def test_a_contour_runs_at_one_depth_inside_the_boundary_and_depths_differ():
    shape, centre, radius = (128, 128), (64, 64), 45
    distance = np.hypot(*(np.indices(shape) - np.reshape(centre, (2, 1, 1))))
    medians = []
    for seed in range(40):
        radii = distance[contour_scribble(disc(shape, centre, radius), np.random.default_rng(seed), config=CLEAN) > 0]
        assert np.ptp(radii) < 2.5
        medians.append(np.median(radii))
    assert max(medians) > 0.85 * radius
    assert np.ptp(medians) > 5


def test_the_border_of_the_image_is_no_contour_of_the_background():
    background = ~disc((100, 100), (50, 50), 12)
    for seed in range(30):
        drawn = contour_scribble(background, np.random.default_rng(seed), config=CLEAN) > 0
        assert not drawn[[0, -1]].any()
        assert not drawn[:, [0, -1]].any()


def test_a_region_that_fills_the_image_gets_a_stroke_and_not_an_area():
    for seed in range(20):
        drawn = contour_scribble(np.ones((64, 64), dtype=bool), np.random.default_rng(seed))
        assert 0 < np.count_nonzero(drawn) < 200


# The limit of section 5.2


@pytest.mark.parametrize("draw", KINDS)
@given(region=regions(), seed=SEEDS, count=st.integers(1, 3), limit=st.integers(1, 40))
def test_each_scribble_covers_at_most_the_limit_and_stays_visible(draw, region, seed, count, limit):
    scribble = draw(region, np.random.default_rng(seed), count=count, config=ScribbleConfig(max_pixels=limit))
    assert 1 <= np.count_nonzero(scribble) <= count * limit
    assert scribble.max() >= VISIBLE


@pytest.mark.parametrize("draw", KINDS)
def test_a_limit_that_is_not_reached_changes_nothing(draw):
    free = draw(BAR, np.random.default_rng(9))
    limited = draw(BAR, np.random.default_rng(9), config=ScribbleConfig(max_pixels=64 * 64))
    np.testing.assert_array_equal(free, limited)


def test_the_limit_keeps_the_neighbourhood_of_a_visible_pixel(rng):
    scribble = np.zeros((5, 100), dtype=np.float32)
    scribble[2] = 0.1
    scribble[2, 70] = 1.0
    kept = np.flatnonzero(limit_pixels(scribble, 11, rng)[2])
    np.testing.assert_array_equal(kept, np.arange(65, 76))
    assert np.count_nonzero(scribble) == 100
    assert limit_pixels(scribble, None, rng) is scribble


# Errors


@pytest.mark.parametrize("draw", KINDS)
@pytest.mark.parametrize(
    ("region", "problem"),
    [
        (np.zeros((6, 7), dtype=bool), r"shape \(6, 7\) is empty"),
        (np.zeros((0, 7), dtype=bool), r"shape \(0, 7\) is empty"),
        (np.ones((6, 7)), "type float64"),
        (np.ones((6, 7), dtype=np.uint8), "type uint8"),
        (np.ones((2, 6, 7), dtype=bool), r"shape \(2, 6, 7\)"),
        ([[True, False]], "type list"),
    ],
    ids=["empty", "no pixels", "float", "uint8", "volume", "list"],
)
def test_a_region_nothing_can_be_drawn_in_is_refused(draw, region, problem, rng):
    with pytest.raises(PromptError, match=problem):
        draw(region, rng)


@pytest.mark.parametrize("draw", KINDS)
def test_no_scribbles_are_refused(draw, rng):
    with pytest.raises(ConfigError, match="count of 0"):
        draw(np.ones((5, 5), dtype=bool), rng, count=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thickness", (0, 2)),
        ("thickness", (1.5, 2)),
        ("thickness", (3, 1)),
        ("break_sigma", (-1.0, 2.0)),
        ("warp_sigma", (1.0,)),
        ("warp_amplitude", (0.0, float("nan"))),
        ("contour_sigma", (2.0, float("inf"))),
        ("max_pixels", 0),
    ],
)
def test_a_configuration_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        ScribbleConfig(**{field: value})


def test_ranges_given_as_lists_become_tuples():
    assert ScribbleConfig(thickness=[2, 3]) == ScribbleConfig(thickness=(2, 3))
