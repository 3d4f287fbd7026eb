from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.training.augmentation import (
    change_contrast,
    change_texture,
    halve,
    is_inside,
    random_coordinates,
    refine_coordinates,
    resample,
)
from scribblesegment.training.config import AugmentationConfig

EVERYTHING = AugmentationConfig(
    affine_p=1.0,
    elastic_p=1.0,
    brightness_contrast_p=1.0,
    brightness=(-0.9, 0.9),
    contrast=(0.0, 3.0),
    gamma_p=1.0,
    gamma=(0.2, 5.0),
    blur_p=1.0,
    noise_p=1.0,
    noise_mean=(-0.5, 0.5),
    noise_std=(0.0, 0.5),
    sharpness_p=1.0,
    flip_p=1.0,
    invert_p=0.5,
)


def change_intensities(image, rng, config):
    return change_texture(change_contrast(image, rng, config), rng, config)


def test_halving_averages_two_by_two_pixels():
    np.testing.assert_array_equal(halve(np.array([[0, 4, 1, 1], [0, 8, 1, 5]], np.uint8)), [[3, 2]])


def test_halving_repeats_an_odd_edge():
    np.testing.assert_array_equal(halve(np.array([[0, 2, 9], [2, 4, 9], [6, 6, 1]])), [[2, 9], [6, 1]])


def test_halving_twice_and_not_at_all():
    image = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(halve(image, 2), [[7.5]])
    np.testing.assert_array_equal(halve(image, 0), image)
    assert halve(image > 3, 0).dtype == np.float32


@given(side=st.integers(1, 400), size=st.integers(2, 64), seed=st.integers(0, 99))
def test_without_changes_grid_pixels_lie_evenly_over_the_source(plain, side, size, seed):
    rows, columns = random_coordinates(side, size, np.random.default_rng(seed), plain)
    expected = (np.arange(size) + 0.5) * side / size - 0.5
    np.testing.assert_allclose(rows, np.broadcast_to(expected[:, None], (size, size)), atol=1e-3)
    np.testing.assert_allclose(columns, rows.T, atol=1e-6)
    assert is_inside(side, rows, columns).all()


@given(side=st.integers(2, 64), seed=st.integers(0, 99))
def test_without_changes_a_source_of_the_grid_s_size_is_kept(plain, side, seed):
    image = np.random.default_rng(seed).random((side, side), dtype=np.float32)
    rows, columns = random_coordinates(side, side, np.random.default_rng(seed), plain)
    np.testing.assert_allclose(resample(image, rows, columns), image, atol=1e-5)


@given(side=st.integers(8, 300), size=st.integers(2, 64), halvings=st.integers(0, 2))
def test_a_halved_copy_shows_every_place_where_the_source_has_it(plain, side, size, halvings):
    ramp = np.broadcast_to(np.arange(side, dtype=np.float32), (side, side))
    rows, columns = random_coordinates(side, size, np.random.default_rng(0), plain)
    read = resample(halve(ramp, halvings), rows, columns, halvings=halvings)
    # Off the edges a linear ramp stays linear, whatever its resolution.
    off_edge = (columns >= 2**halvings) & (columns <= side - 1 - 2**halvings)
    off_edge &= columns <= (side // 2**halvings) * 2**halvings - 2**halvings
    np.testing.assert_allclose(read[off_edge], columns[off_edge], atol=1e-2)


@given(side=st.integers(4, 200), size=st.integers(2, 64), halvings=st.integers(0, 2))
def test_a_bright_image_has_no_dark_frame(plain, side, size, halvings):
    rows, columns = random_coordinates(side, size, np.random.default_rng(0), plain)
    read = resample(halve(np.ones((side, side)), halvings), rows, columns, halvings=halvings)
    np.testing.assert_allclose(read, 1.0, atol=1e-6)


@settings(max_examples=15)
@given(
    size=st.integers(2, 40),
    factor=st.integers(1, 4),
    slopes=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    offset=st.floats(-50, 50),
)
def test_refined_coordinates_of_an_affine_map_are_exact(size, factor, slopes, offset):
    def mapped(rows, columns):
        return (slopes[0] * rows + slopes[1] * columns + offset).astype(np.float32)

    coarse = np.arange(size)
    fine = (np.arange(factor * size) + 0.5) / factor - 0.5
    refined = refine_coordinates(mapped(*np.meshgrid(coarse, coarse, indexing="ij")), factor)
    assert (refined.shape, refined.dtype) == ((factor * size, factor * size), np.float32)
    np.testing.assert_allclose(refined, mapped(*np.meshgrid(fine, fine, indexing="ij")), atol=1e-3)


def test_the_mean_of_refined_coordinates_is_near_the_coordinate_they_refine(rng):
    config = AugmentationConfig(affine_p=1.0, elastic_p=1.0)
    rows, columns = random_coordinates(64, 32, rng, config)
    for coordinates in (rows, columns):
        np.testing.assert_allclose(halve(refine_coordinates(coordinates, 2)), coordinates, atol=0.2)


def test_inside_ends_at_the_outer_edge_of_the_last_pixel():
    positions = np.array([-0.6, -0.5, 0.0, 4.5, 4.6], np.float32)
    middle = np.full(5, 2.0, np.float32)
    expected = [False, True, True, True, False]
    np.testing.assert_array_equal(is_inside(5, positions, middle), expected)
    np.testing.assert_array_equal(is_inside(5, middle, positions), expected)


def moved(image: np.ndarray, config: AugmentationConfig, seed: int = 0) -> np.ndarray:
    side = len(image)
    return resample(image, *random_coordinates(side, side, np.random.default_rng(seed), config))


@pytest.fixture
def noise(rng) -> np.ndarray:
    return rng.random((16, 16), dtype=np.float32)


def test_flips_reverse_both_axes(noise, plain):
    np.testing.assert_allclose(moved(noise, replace(plain, flip_p=1.0)), noise[::-1, ::-1], atol=1e-5)


def test_a_quarter_turn_turns_by_a_quarter(noise, plain):
    turn = replace(plain, affine_p=1.0, degrees=(90.0, 90.0), scale=(1.0, 1.0), translate=0.0)
    np.testing.assert_allclose(moved(noise, turn), np.rot90(noise), atol=1e-4)


def test_magnification_brings_source_pixels_closer_around_the_center(plain):
    twice = replace(plain, affine_p=1.0, degrees=(0.0, 0.0), scale=(2.0, 2.0), translate=0.0)
    rows, columns = random_coordinates(33, 16, np.random.default_rng(0), twice)
    np.testing.assert_allclose(np.diff(rows, axis=0), 33 / 16 / 2, atol=1e-4)
    assert rows.mean() == pytest.approx(16.0, abs=1e-4)
    assert columns.mean() == pytest.approx(16.0, abs=1e-4)


def test_shifts_stay_within_their_fraction_of_the_side(plain):
    shift = replace(plain, affine_p=1.0, degrees=(0.0, 0.0), scale=(1.0, 1.0), translate=0.25)
    rng = np.random.default_rng(0)
    shifts = [random_coordinates(40, 20, rng, shift)[0].mean() - 19.5 for _ in range(200)]
    assert 8.0 < np.max(np.abs(shifts)) <= 10.0 + 1e-3
    assert abs(np.mean(shifts)) < 1.5


def test_an_elastic_deformation_is_smooth_and_of_a_few_pixels(plain):
    elastic = replace(plain, elastic_p=1.0, elastic_alpha=(2.0, 2.0), elastic_sigma=(6.0, 6.0))
    still = random_coordinates(64, 64, np.random.default_rng(4), plain)[0]
    displacement = random_coordinates(64, 64, np.random.default_rng(4), elastic)[0] - still
    assert 0.5 < displacement.std() < 8.0
    assert np.abs(np.diff(displacement, axis=0)).max() < 2.0


def test_each_change_has_its_own_chance():
    config = AugmentationConfig(affine_p=0.0, elastic_p=0.0, flip_p=0.5)
    rng = np.random.default_rng(8)
    flipped = [random_coordinates(8, 8, rng, config) for _ in range(600)]
    by_rows = np.mean([rows[0, 0] > rows[1, 0] for rows, _ in flipped])
    by_columns = np.mean([columns[0, 0] > columns[0, 1] for _, columns in flipped])
    assert by_rows == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 600))
    assert by_columns == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 600))


@given(seed=st.integers(0, 10_000))
def test_intensities_stay_between_zero_and_one(seed):
    rng = np.random.default_rng(seed)
    image = rng.random((12, 12), dtype=np.float32)
    image[:3], image[-3:] = 0.0, 1.0
    changed = change_intensities(image, rng, EVERYTHING)
    assert changed.dtype == np.float32
    assert changed.shape == image.shape
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0


def test_without_changes_intensities_are_kept(noise, plain, rng):
    np.testing.assert_array_equal(change_intensities(noise, rng, plain), noise)


def test_the_image_that_is_given_is_not_written_to(noise, rng):
    before = noise.copy()
    change_intensities(noise, rng, EVERYTHING)
    np.testing.assert_array_equal(noise, before)


def test_inversion(noise, plain, rng):
    np.testing.assert_allclose(change_intensities(noise, rng, replace(plain, invert_p=1.0)), 1.0 - noise)


def test_a_gamma_curve(noise, plain, rng):
    curve = replace(plain, gamma_p=1.0, gamma=(2.0, 2.0))
    np.testing.assert_allclose(change_intensities(noise, rng, curve), noise**2, rtol=1e-5)


def test_contrast_is_about_the_mean_and_brightness_is_added(plain, rng):
    image = np.array([[0.4, 0.6]], np.float32)
    change = replace(plain, brightness_contrast_p=1.0, contrast=(2.0, 2.0), brightness=(0.1, 0.1))
    np.testing.assert_allclose(change_intensities(image, rng, change), [[0.4, 0.8]], rtol=1e-5)


def test_blur_keeps_a_constant_and_spreads_a_point(plain, rng):
    blur = replace(plain, blur_p=1.0, blur_sigma=(1.0, 1.0))
    np.testing.assert_allclose(change_intensities(np.full((9, 9), 0.5, np.float32), rng, blur), 0.5, atol=1e-6)
    point = np.zeros((9, 9), np.float32)
    point[4, 4] = 1.0
    spread = change_intensities(point, rng, blur)
    assert spread.sum() == pytest.approx(1.0, abs=5e-3)
    assert spread[4, 4] == pytest.approx(0.1592, abs=2e-3)  # 1 / (2 pi)


def test_noise_has_the_mean_and_the_deviation_that_were_drawn(plain, rng):
    speckle = replace(plain, noise_p=1.0, noise_mean=(0.05, 0.05), noise_std=(0.02, 0.02))
    changed = change_intensities(np.full((64, 64), 0.5, np.float32), rng, speckle)
    assert changed.mean() == pytest.approx(0.55, abs=2e-3)
    assert changed.std() == pytest.approx(0.02, abs=2e-3)


class _Highest(np.random.Generator):
    """Draws the upper end of every range, so that one factor of the sharpness change is known."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return high


def test_sharpness_one_keeps_the_image_and_more_steepens_edges(plain):
    edge = np.full((8, 8), 0.4, np.float32)
    edge[:, 4:] = 0.6
    highest = _Highest(np.random.PCG64(0))
    keep = change_intensities(edge, highest, replace(plain, sharpness_p=1.0, sharpness=1.0))
    np.testing.assert_allclose(keep, edge, atol=1e-6)
    sharper = change_intensities(edge, highest, replace(plain, sharpness_p=1.0, sharpness=3.0))
    # Beside the edge the kernel (1 1 1, 1 5 1, 1 1 1) / 13 mixes in three pixels of the other side.
    smooth = 0.4 + 0.2 * 3 / 13
    np.testing.assert_allclose(sharper[:, 3], smooth + 3.0 * (0.4 - smooth), atol=1e-6)
    np.testing.assert_allclose(sharper[:, 0], 0.4, atol=1e-6)


def test_sharpness_zero_smooths(plain):
    edge = np.full((8, 8), 0.4, np.float32)
    edge[:, 4:] = 0.6
    smoothed = change_intensities(edge, _Highest(np.random.PCG64(0)), replace(plain, sharpness_p=1.0, sharpness=0.0))
    np.testing.assert_allclose(smoothed[:, 3], 0.4 + 0.2 * 3 / 13, atol=1e-6)


def test_the_same_generator_gives_the_same_changes(noise):
    first, second = (
        (random_coordinates(16, 16, rng, EVERYTHING), change_intensities(noise, rng, EVERYTHING))
        for rng in (np.random.default_rng(7), np.random.default_rng(7))
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
