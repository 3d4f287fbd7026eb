from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.simulation.fields import gaussian_blur, sample_linear, smooth_noise, warp_inside

SIDES = st.integers(1, 40)
SIGMAS = st.floats(0, 20)


# Blurring


@given(height=SIDES, width=SIDES, sigma=SIGMAS, value=st.floats(-100, 100, width=32))
def test_a_constant_stays_constant_up_to_the_border(height, width, sigma, value):
    blurred = gaussian_blur(np.full((2, height, width), value), sigma)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, value, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 5.25])
def test_blurring_is_that_of_a_gaussian_filter_away_from_the_border(rng, sigma):
    image = rng.random((3, 90, 70))
    expected = ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=6)
    inner = (slice(None), slice(35, 55), slice(32, 38))
    np.testing.assert_allclose(gaussian_blur(image, sigma)[inner], expected[inner], atol=1e-5)


def test_sigma_is_rounded_to_quarter_pixels(rng):
    image = rng.random((20, 20))
    np.testing.assert_array_equal(gaussian_blur(image, 2.1), gaussian_blur(image, 2.0))
    assert not np.array_equal(gaussian_blur(image, 2.2), gaussian_blur(image, 2.0))


def test_no_blur_copies(rng):
    image = rng.random((8, 9), dtype=np.float32)
    blurred = gaussian_blur(image, 0.1)
    np.testing.assert_array_equal(blurred, image)
    assert not np.shares_memory(blurred, image)


def test_sides_too_long_for_the_cache_are_blurred_alike(rng):
    image = rng.random((600, 4), dtype=np.float32)
    for part in (slice(0, 300), slice(300, 600)):
        inner = slice(50, 250)
        np.testing.assert_allclose(
            gaussian_blur(image[part], 3)[inner], gaussian_blur(image, 3)[part][inner], atol=1e-5
        )


# Noise


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 3.0, 20.0])
def test_every_pixel_of_smooth_noise_is_standard_normal_also_in_the_corners(rng, sigma):
    fields = smooth_noise((4000, 7, 10), sigma, rng)
    assert fields.dtype == np.float32
    assert fields.shape == (4000, 7, 10)
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.06)


@pytest.mark.parametrize("sigma", [1.0, 2.75, 6.0])
def test_noise_is_correlated_like_white_noise_after_a_gaussian_blur(rng, sigma):
    fields = smooth_noise((4000, 1, 12), sigma, rng)[:, 0]
    products = fields.T @ fields / len(fields)
    distance = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    np.testing.assert_allclose(products, np.exp(-((distance / (2 * sigma)) ** 2)), atol=0.1)


def test_fields_of_one_stack_are_independent(rng):
    first, second = smooth_noise((2, 5000, 1, 1), 4.0, rng)[:, :, 0, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06


def test_noise_on_a_small_grid_does_not_blow_up(rng):
    # Rescaling each field by its own spread would: a blurred field of a few pixels is almost constant.
    assert max(np.abs(smooth_noise((2, side, 1), 16.0, rng)).max() for side in (1, 2, 3) for _ in range(100)) < 6


def test_the_same_generator_state_gives_the_same_noise():
    first = smooth_noise((2, 30, 40), 5.0, np.random.default_rng(1))
    np.testing.assert_array_equal(first, smooth_noise((2, 30, 40), 5.0, np.random.default_rng(1)))
    assert not np.array_equal(first, smooth_noise((2, 30, 40), 5.0, np.random.default_rng(2)))


# Sampling and warping


def test_bilinear_sampling_reads_pixels_at_whole_positions_and_means_between_them():
    image = np.array([[0.0, 1.0], [2.0, 4.0]])
    rows, columns = np.array([0, 1, 0.5, 0, 0.5], np.float32), np.array([1, 1, 0, 0.25, 0.5], np.float32)
    np.testing.assert_allclose(sample_linear(image, rows, columns), [1, 4, 1, 0.25, 1.75])


def test_positions_outside_the_image_read_zero():
    image = np.ones((3, 3))
    outside = np.array([-2.0, 5.0], np.float32)
    np.testing.assert_array_equal(sample_linear(image, outside, np.ones(2, np.float32)), 0)


def test_no_displacement_multiplies_by_the_region(rng):
    image, region = rng.random((9, 7), dtype=np.float32), rng.random((9, 7)) < 0.5
    np.testing.assert_array_equal(warp_inside(image, np.zeros((2, 9, 7), np.float32), region), image * region)


def test_a_displacement_tells_where_each_pixel_reads(rng):
    image = rng.random((9, 7), dtype=np.float32)
    displacement = np.zeros((2, 9, 7), np.float32)
    displacement[0], displacement[1] = 2, -1
    warped = warp_inside(image, displacement, np.ones((9, 7), bool))
    np.testing.assert_allclose(warped[:7, 1:], image[2:, :-1])
    np.testing.assert_array_equal(warped[7:], 0)
    np.testing.assert_array_equal(warped[:, 0], 0)


@given(seed=st.integers(0, 2**32 - 1), amplitude=st.floats(0, 30))
def test_warping_leaves_nothing_outside_the_region_and_invents_no_values(seed, amplitude):
    rng = np.random.default_rng(seed)
    region = smooth_noise((20, 25), 3.0, rng) > 0
    warped = warp_inside(rng.random((20, 25)) < 0.5, amplitude * smooth_noise((2, 20, 25), 4.0, rng), region)
    assert not warped[~region].any()
    assert warped.min() >= 0
    assert warped.max() <= 1 + 1e-6
