"""Tests of where people draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.simulation.margins import with_margins


def a_disc(radius: int = 20, side: int = 96) -> np.ndarray:
    return np.hypot(*(np.mgrid[:side, :side] - side / 2)) < radius


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.95))
def test_both_regions_lie_on_their_side_and_are_not_empty(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    noise = ndimage.uniform_filter(rng.random((40, 40)), 5)
    mask = noise > np.quantile(noise, density)
    if not mask.any() or mask.all():
        return
    inner, ring = with_margins(mask, rng)
    assert inner.any()
    assert ring.any()
    assert not (inner & ~mask).any()
    assert not (ring & mask).any()


def test_margins_of_different_width_are_kept() -> None:
    mask = a_disc()
    depths, nearest, farthest = [], [], []
    outside = ndimage.distance_transform_edt(~mask)
    for seed in range(60):
        inner, ring = with_margins(mask, np.random.default_rng(seed))
        depths.append(ndimage.distance_transform_edt(mask)[inner].min())
        nearest.append(outside[ring].min())
        farthest.append(outside[ring].max())
    assert min(depths) < 3 < 10 < max(depths)
    assert min(nearest) < 3 < 8 < max(nearest)
    assert max(farthest) < 48


@pytest.mark.parametrize("mask", [np.ones((8, 8), bool), np.eye(8, dtype=bool)])
def test_structures_that_fill_the_image_or_have_no_depth_are_no_error(mask: np.ndarray) -> None:
    inner, ring = with_margins(mask, np.random.default_rng(0))
    assert inner.any()
    assert ring.any() == (not mask.all())
