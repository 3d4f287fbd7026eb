"""Structures that nobody labelled: superpixels, outlines, changed shapes, and images that never were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.training import synthesis
from scribblesegment.training.synthesis import pick_superpixel, reshaped, smooth_shape, superpixels, synthetic_image

SIDE = 64
KINDS = {kind.__name__.strip("_"): kind for kind in synthesis._KINDS}


@pytest.fixture
def blocks() -> np.ndarray:
    """Three superpixels of 8, 24 and 32 pixels."""
    partition = np.zeros((8, 8), np.uint8)
    partition[1:4] = 1
    partition[4:] = 2
    return partition


def drawn(kind: str, count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    return [KINDS[kind](SIDE, np.random.default_rng((3, number))) for number in range(count)]


def about(count: int, share: float, draws: int) -> bool:
    return abs(count - draws * share) < 4 * np.sqrt(draws * share * (1 - share))


# Superpixels.


def test_superpixels_follow_edges_and_are_numbered_without_gaps_in_few_bytes():
    image = np.zeros((32, 32), np.float32)
    image[:, 16:] = 1.0
    partition = superpixels(image, 100.0)
    left, right = np.unique(partition[:, :14]), np.unique(partition[:, 18:])
    assert len(left) == len(right) == 1
    assert left != right
    noise = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    fine, middle, coarse = (superpixels(noise, scale) for scale in (1.0, 50.0, 500.0))
    assert fine.max() > middle.max() > coarse.max()
    assert fine.dtype.itemsize <= 2
    np.testing.assert_array_equal(np.unique(fine), np.arange(int(fine.max()) + 1))


@pytest.mark.parametrize(("power", "shares"), [(0.0, (1 / 3, 1 / 3, 1 / 3)), (1.0, (1 / 8, 3 / 8, 1 / 2))])
def test_superpixels_are_picked_alike_or_by_their_area(blocks, power, shares):
    rng = np.random.default_rng(5)
    areas = [int(pick_superpixel(blocks, rng, min_area=1, area_power=power).sum()) for _ in range(1200)]
    assert all(about(areas.count(area), share, 1200) for area, share in zip((8, 24, 32), shares, strict=True))


def test_small_superpixels_and_one_that_covers_everything_are_never_picked(blocks, rng):
    picked = [pick_superpixel(blocks, rng, min_area=9, union_p=0.5) for _ in range(60)]
    assert {int(one.sum()) for one in picked} == {24, 32}  # of two that are large enough one is left out
    assert all(len(np.unique(blocks[one])) == 1 for one in picked)
    assert pick_superpixel(blocks, rng, min_area=33) is None
    assert pick_superpixel(np.zeros((8, 8), np.uint8), rng, min_area=1) is None


# Shapes that the image does not show.


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), strength=st.floats(0.1, 0.5))
def test_a_changed_shape_lies_around_or_inside_the_first(seed, strength):
    mask = smooth_shape(SIDE, np.random.default_rng(seed))
    if seed % 2:
        mask = mask & ~smooth_shape(SIDE, np.random.default_rng(seed + 1))
    hull, closed, grown, shrunk = (reshaped(mask, kind, strength) for kind in ("hull", "closed", "grown", "shrunk"))
    assert not (mask & ~(hull & closed & grown)).any()
    assert not (closed & ~grown).any()
    assert not (shrunk & ~mask).any()
    assert shrunk.any() == mask.any()
    if strength**2 * mask.sum() >= np.pi and not mask.all():  # a pixel or more
        assert mask.sum() < grown.sum()


# Synthetic images.


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_an_image_with_something_to_see_the_same_for_a_seed(kind):
    images = drawn(kind)
    for image, labels in images:
        assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
        assert 0.0 <= image.min() < image.max() <= 1.0
        assert image.std() > 0.02
        assert labels.any()
    again = drawn(kind, 1)[0]
    assert all(np.array_equal(one, other) for one, other in zip(images[0], again, strict=True))
    assert not np.array_equal(images[0][0], images[1][0])


@settings(max_examples=8)
@given(side=st.integers(16, 70), seed=st.integers(0, 10_000))
def test_images_of_any_side_are_drawn(side, seed):
    image, labels = synthetic_image(side, np.random.default_rng(seed))
    assert image.shape == labels.shape == (side, side)
    assert 0.0 <= image.min() <= image.max() <= 1.0


def test_structures_differ_from_their_surroundings():
    """Across all kinds: what is asked for can mostly be told from what is beside it."""
    seen = []
    for image, labels in (one for kind in KINDS for one in drawn(kind, 5)):
        inside = labels == np.bincount(labels[labels > 0]).argmax()
        around = ndimage.binary_dilation(inside, iterations=4) & ~inside
        spread = max(float(image[around].std()), float(image[inside].std()), 1e-3)
        seen.append(abs(float(image[inside].mean() - image[around].mean())) > 0.3 * spread)
    assert np.mean(seen) > 0.7
