from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regions import SEEDS, disc, rectangle, regions
from scipy import ndimage

from scribblesegment.errors import ConfigError
from scribblesegment.simulation.clicks_boxes import (
    border_clicks,
    center_clicks,
    enclosing_box,
    largest_component_center,
    random_clicks,
)

KINDS = [random_clicks, center_clicks, border_clicks]


def distances(clicks):
    return np.hypot(*(clicks[:, None] - clicks[None]).transpose(2, 0, 1))[np.triu_indices(len(clicks), k=1)]


@pytest.mark.parametrize("click", KINDS)
@given(region=regions(), seed=SEEDS, count=st.integers(1, 6), separation=st.none() | st.floats(0, 20))
def test_clicks_are_different_pixels_of_the_region_one_at_least_and_apart(click, region, seed, count, separation):
    apart = click is not center_clicks
    options = {"min_separation": separation} if apart and separation is not None else {}
    clicks = click(region, count, np.random.default_rng(seed), **options)
    assert clicks.dtype == np.int64
    assert 1 <= len(np.unique(clicks, axis=0)) == len(clicks) <= count
    assert region[tuple(clicks.T)].all()
    assert not apart or (distances(clicks) >= options.get("min_separation", 4)).all()
    np.testing.assert_array_equal(clicks, click(region, count, np.random.default_rng(seed), **options))


@pytest.mark.parametrize(
    ("region", "center"),
    [
        *((disc((50, 60), (22, 31), radius), (22, 31)) for radius in (0, 1, 7, 18)),
        (rectangle((40, 100), (10, 21), (10, 91)), (15, 50)),  # the middle of its ridge
        (np.ones((21, 21), bool), (10, 10)),  # the image's border bounds it
    ],
)
def test_centers_are_furthest_from_the_boundary(region, center, rng):
    np.testing.assert_array_equal(center_clicks(region, 3, rng), [center])
    np.testing.assert_array_equal(largest_component_center(region), [center])


def test_every_component_can_be_chosen_and_none_twice():
    centres = {(12, 12), (12, 40), (40, 26)}
    region = np.any([disc((60, 60), one, 3 + 2 * n) for n, one in enumerate(sorted(centres))], axis=0)
    assert set(map(tuple, center_clicks(region, 9, np.random.default_rng(0)).tolist())) == centres
    singles = [tuple(center_clicks(region, 1, np.random.default_rng(seed))[0].tolist()) for seed in range(200)]
    assert min(singles.count(centre) for centre in centres) > 40  # 67 expected
    most_pixels = disc((60, 90), (30, 70), 10) | rectangle((60, 90), (5, 55), (5, 13))  # 317 and 400, less deep
    assert largest_component_center(most_pixels)[0, 1] < 13


def test_border_clicks_lie_nearer_to_the_boundary_than_random_ones_the_less_blur_the_nearer():
    region = disc((128, 128), (64, 64), 50)
    depth = ndimage.distance_transform_edt(region)

    def mean_depth(click, **options):
        return np.mean([depth[tuple(click(region, 1, np.random.default_rng(n), **options)[0])] for n in range(300)])

    shallow, deep = (mean_depth(border_clicks, blur_sigma=(sigma, sigma)) for sigma in (1.0, 8.0))
    assert shallow < 3 < 6 < deep
    assert mean_depth(border_clicks) < 0.6 * mean_depth(random_clicks)


@given(region=regions(), seed=SEEDS, enlargement=st.integers(0, 25))
def test_a_box_encloses_its_region_in_the_image_and_grows_by_no_more_than_asked(region, seed, enlargement):
    box = enclosing_box(region, np.random.default_rng(seed), max_enlargement=enlargement)
    (top, left), (bottom, right) = box
    assert box.dtype == np.int64
    assert region[top:bottom, left:right].sum() == region.sum()
    assert 0 <= top < bottom <= region.shape[0]
    assert 0 <= left < right <= region.shape[1]
    tight = np.ptp(np.argwhere(region), axis=0) + 1
    assert ((box[1] - box[0]) - tight <= enlargement).all()


def test_growth_is_uniform_up_to_twenty_pixels_in_each_dimension_and_on_both_sides():
    region = rectangle((100, 100), (40, 60), (30, 70))
    boxes = np.stack([enclosing_box(region, np.random.default_rng(seed)) for seed in range(2000)])
    growth = boxes[:, 1] - boxes[:, 0] - (20, 40)
    for axis in (0, 1):
        np.testing.assert_allclose(np.bincount(growth[:, axis], minlength=21) / 2000, [1 / 21] * 21, atol=0.02)
    assert abs(np.corrcoef(growth.T)[0, 1]) < 0.1
    np.testing.assert_allclose(((40, 30) - boxes[:, 0]).mean(axis=0), 5, atol=0.5)
    with pytest.raises(ConfigError, match="got -1"):
        enclosing_box(region, np.random.default_rng(0), max_enlargement=-1)
