from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.clicks import (
    MIN_SEPARATION,
    border_clicks,
    center_clicks,
    largest_component_center,
    random_clicks,
)

KINDS = [random_clicks, center_clicks, border_clicks]
SPREAD = [random_clicks, border_clicks]
SEEDS = st.integers(0, 2**32 - 1)


def disc(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


@st.composite
def regions(draw):
    shape = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    rng = np.random.default_rng(draw(SEEDS))
    field = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0, 8)))
    return field >= np.quantile(field, draw(st.floats(0, 1)))


def distances(clicks):
    pairs = np.triu_indices(len(clicks), k=1)
    return np.hypot(*(clicks[:, None] - clicks[None]).transpose(2, 0, 1))[pairs]


# What all clicks keep


@pytest.mark.parametrize("click", KINDS)
@given(region=regions(), seed=SEEDS, count=st.integers(1, 6))
def test_clicks_are_different_pixels_of_the_region_one_at_least(click, region, seed, count):
    clicks = click(region, count, np.random.default_rng(seed))
    assert clicks.dtype == np.int64
    assert clicks.ndim == 2
    assert 1 <= len(clicks) <= count
    assert region[tuple(clicks.T)].all()
    assert len(np.unique(clicks, axis=0)) == len(clicks)


@pytest.mark.parametrize("click", SPREAD)
@given(region=regions(), seed=SEEDS, separation=st.floats(0, 20))
def test_no_two_clicks_are_nearer_than_the_separation(click, region, seed, separation):
    clicks = click(region, 5, np.random.default_rng(seed), min_separation=separation)
    assert np.all(distances(clicks) >= separation)
    assert len(np.unique(clicks, axis=0)) == len(clicks)


@pytest.mark.parametrize("click", SPREAD)
def test_clicks_are_a_few_pixels_apart_unless_told_otherwise(click):
    region = disc((40, 40), (20, 20), 9)
    assert MIN_SEPARATION == 4
    assert all(distances(click(region, 4, np.random.default_rng(seed))).min() >= 4 for seed in range(100))


def test_a_roomy_region_gets_all_clicks_wanted():
    region = np.ones((64, 64), dtype=bool)
    assert all(len(random_clicks(region, 5, np.random.default_rng(seed))) == 5 for seed in range(100))


@pytest.mark.parametrize("click", KINDS)
def test_the_same_generator_state_gives_the_same_clicks(click):
    region = disc((64, 64), (20, 20), 12) | disc((64, 64), (48, 48), 12)
    np.testing.assert_array_equal(
        click(region, 1, np.random.default_rng(2)), click(region, 1, np.random.default_rng(2))
    )
    assert len({tuple(click(region, 1, np.random.default_rng(seed))[0]) for seed in range(20)}) > 1


def test_random_clicks_reach_every_pixel():
    region = np.zeros((6, 8), dtype=bool)
    region[1:4, 2:7] = True
    hits = np.zeros(region.shape, dtype=int)
    for seed in range(600):
        hits[tuple(random_clicks(region, 1, np.random.default_rng(seed))[0])] += 1
    assert hits[region].min() > 15  # 40 expected


# Centers


@pytest.mark.parametrize("radius", [0, 1, 7, 18])
def test_the_center_of_a_disc_is_its_centre(radius, rng):
    region = disc((50, 60), (22, 31), radius)
    np.testing.assert_array_equal(center_clicks(region, 3, rng), [[22, 31]])
    np.testing.assert_array_equal(largest_component_center(region), [[22, 31]])


def test_the_center_of_an_elongated_structure_is_in_its_middle(rng):
    region = np.zeros((40, 100), dtype=bool)
    region[10:21, 10:91] = True
    np.testing.assert_array_equal(center_clicks(region, 1, rng), [[15, 50]])


def test_the_border_of_the_image_bounds_a_component(rng):
    np.testing.assert_array_equal(center_clicks(np.ones((21, 21), dtype=bool), 1, rng), [[10, 10]])


def test_a_ring_is_clicked_on_the_ring_and_not_in_its_hole(rng):
    region = disc((60, 60), (30, 30), 25) & ~disc((60, 60), (30, 30), 15)
    assert region[tuple(center_clicks(region, 1, rng)[0])]


def test_every_component_can_be_chosen_and_none_twice():
    centres = {(12, 12), (12, 40), (40, 26)}
    region = np.zeros((60, 60), dtype=bool)
    for index, centre in enumerate(sorted(centres)):
        region |= disc(region.shape, centre, 3 + 2 * index)
    assert {tuple(click) for click in center_clicks(region, 9, np.random.default_rng(0)).tolist()} == centres
    singles = [tuple(center_clicks(region, 1, np.random.default_rng(seed))[0].tolist()) for seed in range(200)]
    assert set(singles) == centres
    assert min(singles.count(centre) for centre in centres) > 40  # 67 expected


def test_the_largest_component_is_the_one_of_most_pixels():
    region = disc((60, 90), (30, 70), 10)
    region[5:55, 5:13] = True  # 400 pixels against 317, though less deep
    click = largest_component_center(region)
    assert click.shape == (1, 2)
    assert click.dtype == np.int64
    assert 5 <= click[0, 1] < 13
    assert abs(click[0, 0] - 29.5) <= 1


# Border clicks


def test_border_clicks_are_nearer_to_the_boundary_than_random_ones():
    region = disc((128, 128), (64, 64), 50)
    depth = ndimage.distance_transform_edt(region)
    border, anywhere = (
        np.mean([depth[tuple(click(region, 1, np.random.default_rng(seed))[0])] for seed in range(300)])
        for click in (border_clicks, random_clicks)
    )
    assert border < 0.6 * anywhere


def test_more_blur_reaches_deeper_below_the_boundary():
    region = disc((128, 128), (64, 64), 50)
    depth = ndimage.distance_transform_edt(region)
    shallow, deep = (
        np.mean(
            [
                depth[tuple(border_clicks(region, 1, np.random.default_rng(seed), blur_sigma=(sigma, sigma))[0])]
                for seed in range(200)
            ]
        )
        for sigma in (1.0, 8.0)
    )
    assert shallow < 3
    assert deep > 2 * shallow


# Errors


CLICKS = [*[(lambda region, rng, click=click: click(region, 2, rng)) for click in KINDS]]


@pytest.mark.parametrize("click", [*CLICKS, lambda region, rng: largest_component_center(region)])
@pytest.mark.parametrize(
    ("region", "problem"),
    [
        (np.zeros((6, 7), dtype=bool), r"shape \(6, 7\) is empty"),
        (np.ones((6, 7)), "type float64"),
        (np.ones((6, 7), dtype=np.uint8), "type uint8"),
        (np.ones(7, dtype=bool), r"shape \(7,\)"),
    ],
    ids=["empty", "float", "uint8", "vector"],
)
def test_a_region_that_cannot_be_clicked_is_refused(click, region, problem, rng):
    with pytest.raises(PromptError, match=problem):
        click(region, rng)


@pytest.mark.parametrize("click", KINDS)
def test_no_clicks_are_refused(click, rng):
    with pytest.raises(ConfigError, match="count of 0"):
        click(np.ones((5, 5), dtype=bool), 0, rng)
