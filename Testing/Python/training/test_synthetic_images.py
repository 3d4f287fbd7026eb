from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.training import synthesis as synthetic_images
from scribblesegment.training.synthesis import synthetic_image

SIDE = 64
EVERYWHERE = np.ones((3, 3))
KINDS = {kind.__name__.strip("_"): kind for kind in synthetic_images._KINDS}


def drawn(kind: str, count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    return [KINDS[kind](SIDE, np.random.default_rng((3, number))) for number in range(count)]


def test_kinds_have_shares_that_sum_to_one():
    assert set(KINDS) == {"regions", "organs", "vessels", "cells", "shadows"}
    assert len(synthetic_images._SHARES) == len(KINDS)
    assert sum(synthetic_images._SHARES) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_an_image_in_range_and_labels(kind):
    for image, labels in drawn(kind):
        assert (image.shape, labels.shape) == ((SIDE, SIDE), (SIDE, SIDE))
        assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert 0.0 <= image.min() < image.max() <= 1.0
        assert image.std() > 0.02  # there is something to see
        assert labels.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_draws_the_same_image_and_another_one_another(kind):
    (image, labels), (other, _) = drawn(kind, 2)
    again, labels_again = KINDS[kind](SIDE, np.random.default_rng((3, 0)))
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(labels_again, labels)
    assert not np.array_equal(other, image)


@settings(max_examples=8)
@given(side=st.integers(16, 70), seed=st.integers(0, 10_000))
def test_images_of_any_side_are_drawn(side, seed):
    image, labels = synthetic_image(side, np.random.default_rng(seed))
    assert image.shape == labels.shape == (side, side)
    assert np.isfinite(image).all()
    assert 0.0 <= image.min() <= image.max() <= 1.0


def test_kinds_are_drawn_by_their_shares(monkeypatch):
    names = list(KINDS)
    monkeypatch.setattr(synthetic_images, "_KINDS", tuple(lambda side, rng, name=name: name for name in names))
    rng = np.random.default_rng(2)
    found = [synthetic_image(SIDE, rng) for _ in range(1000)]
    for name, share in zip(names, synthetic_images._SHARES, strict=True):
        assert abs(found.count(name) - 1000 * share) < 4 * np.sqrt(1000 * share * (1 - share))


def test_regions_fill_the_image_with_several_labels():
    assert np.mean([labels.max() for _, labels in drawn("regions", 8)]) > 2


def test_vessels_are_thin_and_connected():
    half_widths = []
    for number in range(8):
        squared = np.full((SIDE, SIDE), np.inf, dtype=np.float32)
        rng = np.random.default_rng((4, number))
        radius = rng.uniform(1.0, 3.0)
        synthetic_images._grow(squared, np.array([30.0, 34.0]), rng.uniform(0, 6), radius, rng)
        vessel = squared < 0
        assert vessel.any()
        # Where it is thinnest, half a pixel may be missed.
        assert ndimage.label(ndimage.binary_dilation(vessel), EVERYWHERE)[1] == 1
        depth = ndimage.distance_transform_edt(vessel)
        # Outside of forks, where two branches touch, no place is deeper than the radius.
        assert np.percentile(depth[vessel], 90) <= radius + 1
        half_widths.append(np.median(depth[vessel]))
        assert vessel.mean() < 0.35
    assert min(half_widths) < 1.5


def test_a_vessel_is_drawn_only_within_its_radius_of_its_course():
    squared = np.full((21, 21), np.inf, dtype=np.float32)
    synthetic_images._stamp(squared, np.array([10.25, 9.5]), 3.0)
    rows, columns = np.indices((21, 21))
    np.testing.assert_array_equal(squared < 0, np.hypot(rows - 10.25, columns - 9.5) < 3.0)


def test_a_stamp_at_the_border_is_cut():
    squared = np.full((9, 9), np.inf, dtype=np.float32)
    synthetic_images._stamp(squared, np.array([0.2, 8.6]), 2.0)
    rows, columns = np.indices((9, 9))
    np.testing.assert_array_equal(squared < 0, np.hypot(rows - 0.2, columns - 8.6) < 2.0)


def test_all_vessels_are_one_structure():
    assert {int(labels.max()) for _, labels in drawn("vessels")} == {1}


def test_cells_are_many_and_apart_by_label():
    for _, labels in drawn("cells"):
        numbers = np.unique(labels[labels > 0])
        assert len(numbers) >= 4
        areas = np.bincount(labels.ravel())[numbers]
        assert np.median(areas) < 0.1 * SIDE**2


def test_structures_differ_from_their_surroundings():
    """Across all kinds: what is asked for can mostly be told from what is beside it."""
    seen, count = 0, 0
    for kind in KINDS:
        for image, labels in drawn(kind, 5):
            inside = labels == np.bincount(labels[labels > 0]).argmax()
            around = ndimage.binary_dilation(inside, iterations=4) & ~inside
            spread = max(float(image[around].std()), float(image[inside].std()), 1e-3)
            seen += abs(float(image[inside].mean() - image[around].mean())) > 0.3 * spread
            count += 1
    assert seen / count > 0.7
