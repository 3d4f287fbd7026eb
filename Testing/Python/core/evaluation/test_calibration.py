from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from scribblesegment.errors import ConfigError, DatasetError, GeometryError, ImageError, PromptError
from scribblesegment.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
    surroundings,
    tempered,
)


def calibrated(rng, count=200_000):
    """Logits, and references drawn with just the probabilities that they stand for."""
    logits = rng.normal(-1.0, 2.0, size=count)
    return logits, rng.random(count) < expit(logits)


def test_probabilities_that_come_true_have_hardly_an_error(rng):
    logits, references = calibrated(rng)
    assert expected_calibration_error(expit(logits), references) < 0.005


def test_the_error_is_the_one_worked_out_by_hand():
    # Two of ten bins: four pixels at 0.35 of which one is inside, and two at 0.95 of which none is.
    probabilities = np.array([0.35, 0.35, 0.35, 0.35, 0.95, 0.95])
    references = np.array([True, False, False, False, False, False])
    curve = reliability_curve(probabilities, references, bins=10)
    assert np.flatnonzero(curve.share).tolist() == [3, 9]
    np.testing.assert_allclose(curve.share[[3, 9]], [4 / 6, 2 / 6])
    np.testing.assert_allclose(curve.confidence[[3, 9]], [0.35, 0.95])
    np.testing.assert_allclose(curve.frequency[[3, 9]], [0.25, 0.0])
    assert np.isnan(curve.frequency[[0, 5]]).all()
    expected = (4 * abs(0.25 - 0.35) + 2 * abs(0.0 - 0.95)) / 6
    assert expected_calibration_error(probabilities, references, bins=10) == pytest.approx(expected)


def test_bins_hold_their_lower_edge_and_the_last_one_holds_certainty():
    curve = reliability_curve(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), bins=2)
    np.testing.assert_allclose(curve.edges, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(curve.share, [1 / 3, 2 / 3])


def test_a_weight_counts_like_that_many_pixels():
    probabilities, references = np.array([0.2, 0.7]), np.array([True, False])
    repeated = expected_calibration_error(np.repeat(probabilities, [3, 1]), np.repeat(references, [3, 1]))
    assert expected_calibration_error(probabilities, references, weights=[3.0, 1.0]) == pytest.approx(repeated)
    assert expected_calibration_error(probabilities, references, weights=[1.0, 0.0]) == pytest.approx(0.8)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_error_is_between_nothing_and_the_mean_distance_from_the_truth(seed, bins):
    rng = np.random.default_rng(seed)
    probabilities, references = rng.random(50), rng.random(50) < 0.5
    error = expected_calibration_error(probabilities, references, bins=bins)
    assert 0 <= error <= np.abs(probabilities - references).mean() + 1e-12


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_logits_scaled_by_a_factor_give_the_factor_back(rng, factor):
    logits, references = calibrated(rng)
    assert fit_temperature(factor * logits, references) == pytest.approx(factor, rel=0.02)


def test_the_temperature_is_where_the_likelihood_is_highest(rng):
    logits, references = rng.normal(size=(9, 7)), rng.random((9, 7)) < 0.4
    logits[references] += 1.5
    weights = rng.random((9, 7))
    best = fit_temperature(logits, references, weights=weights)

    def cost(temperature):
        return negative_log_likelihood(logits, references, temperature, weights=weights)

    inside = expit(logits / 1.3)
    expected = -np.average(np.log(np.where(references, inside, 1 - inside)), weights=weights)
    assert cost(1.3) == pytest.approx(expected)
    assert cost(best) < min(cost(best * 1.01), cost(best / 1.01))


def test_tempering_mends_the_error_that_overconfidence_makes(rng):
    logits, references = calibrated(rng)
    before = expected_calibration_error(tempered(3 * logits, 1.0), references)
    after = expected_calibration_error(tempered(3 * logits, fit_temperature(3 * logits, references)), references)
    assert before > 0.05
    assert after < 0.005


def test_tempering_moves_no_pixel_across_one_half(rng):
    logits = rng.normal(scale=30, size=1000).astype(np.float32)
    for temperature in (0.1, 1.0, 7.0):
        probabilities = tempered(logits, temperature)
        assert probabilities.dtype == np.float32
        assert np.array_equal(probabilities > 0.5, logits > 0)
    np.testing.assert_allclose(tempered(np.array([2.0, -2.0]), 2.0), expit([1.0, -1.0]), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ConfigError, match="positive and finite"):
        tempered(np.zeros(3), temperature)
    with pytest.raises(ConfigError, match="positive and finite"):
        negative_log_likelihood(np.zeros(1), np.zeros(1, dtype=bool), temperature)


def test_pixels_without_a_wrong_one_determine_no_temperature():
    with pytest.raises(DatasetError, match="right sign"):
        fit_temperature(np.array([2.0, -3.0]), np.array([True, False]))


@pytest.mark.parametrize("logits", [[2.0, -3.0], [0.0, 0.0], [1.0, 1.0]])
def test_logits_that_are_no_better_than_chance_determine_no_temperature(logits):
    with pytest.raises(DatasetError, match="than chance"):
        fit_temperature(np.array(logits), np.array([False, True]))


@pytest.mark.parametrize("function", [fit_temperature, expected_calibration_error])
def test_arrays_that_do_not_fit_are_refused(function):
    values, references = np.array([0.2, 0.7]), np.array([True, False])
    with pytest.raises(GeometryError, match=r"shape \(1,\)"):
        function(values, references[:1])
    with pytest.raises(ImageError, match="int64 values, expected bool"):
        function(values, references.astype(np.int64))
    with pytest.raises(ImageError, match="NaN or infinite"):
        function(np.array([0.2, np.nan]), references)
    with pytest.raises(ImageError, match="is empty"):
        function(np.zeros(0), np.zeros(0, dtype=bool))
    with pytest.raises(GeometryError, match="weights"):
        function(values, references, weights=[1.0])
    for weights in ([-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ImageError, match="weights go from"):
            function(values, references, weights=weights)


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(ImageError, match="expected 0 to 1"):
        reliability_curve(np.array([-3.0, 2.0]), np.array([True, False]))


def test_a_curve_without_bins_is_refused():
    with pytest.raises(ConfigError, match="at least one bin"):
        reliability_curve(np.array([0.5]), np.array([True]), bins=0)


def test_surroundings_grow_with_the_structure_and_end_at_the_border():
    reference = np.zeros((100, 120), dtype=bool)
    reference[40:60, 50:90] = True
    region = surroundings(reference, margin=0.5, fewest=8)
    expected = np.zeros_like(reference)
    expected[20:80, 30:110] = True
    assert np.array_equal(region, expected)
    reference[:] = False
    reference[2, 119] = True
    region = surroundings(reference, margin=0.5, fewest=8)
    expected[:] = False
    expected[:11, 111:] = True
    assert np.array_equal(region, expected)


def test_surroundings_of_nothing_and_backwards_are_refused():
    with pytest.raises(PromptError, match="empty"):
        surroundings(np.zeros((4, 4), dtype=bool))
    for wrong in ({"margin": -0.1}, {"fewest": -1}):
        with pytest.raises(ConfigError, match="reach outwards"):
            surroundings(np.ones((4, 4), dtype=bool), **wrong)
