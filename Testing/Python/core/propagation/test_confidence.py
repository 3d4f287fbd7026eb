from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.propagation.confidence import (
    confidence_of,
    disagreement_of_fronts,
    next_slice_to_correct,
    overlap_of,
)
from scribblesegment.propagation.config import PropagationConfig
from scribblesegment.propagation.expectation import KnownSlice, SliceSpacing, expect

SHAPE = (40, 50)


def disc(row, column, radius):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def expected(mask):
    return expect([KnownSlice(0, mask)], 1, spacing=SliceSpacing((1.0, 1.0), 1.0), config=PropagationConfig())


def confidence(mask, around, *, logit=8.0, consistency=0.5):
    logits = np.where(mask, logit, -logit).astype(np.float32)
    return confidence_of(logits, mask, expected(around), consistency=consistency)


def test_a_sharp_mask_where_it_is_expected_is_certain():
    assert confidence(disc(20, 25, 8), disc(20, 25, 8)) > 0.99


def test_confidence_is_the_expected_dice_coefficient_where_the_shape_is_as_expected():
    mask = disc(20, 25, 8)
    logits = np.where(mask, np.log(0.8 / 0.2), -30.0).astype(np.float32)
    exact = 2 * 0.8 * mask.sum() / (0.8 * mask.sum() + mask.sum())
    assert confidence_of(logits, mask, expected(mask), consistency=0.5) == pytest.approx(exact, abs=1e-6)


def test_doubt_makes_it_less():
    mask = disc(20, 25, 8)
    values = [confidence(mask, mask, logit=logit) for logit in (6.0, 2.0, 0.5)]
    assert values[0] > values[1] > values[2] > 0


def test_an_outline_that_moves_by_a_pixel_is_as_good_as_one_that_stays():
    stays = confidence(disc(20, 25, 8), disc(20, 25, 8))
    assert confidence(disc(20, 26, 8), disc(20, 25, 8)) == pytest.approx(stays, abs=1e-3)


def test_a_shape_that_is_not_as_expected_makes_it_less_the_more_it_counts():
    mask, around = disc(20, 30, 12), disc(20, 22, 6)
    values = [confidence(mask, around, consistency=weight) for weight in (0.0, 0.5, 1.0)]
    assert values[0] > 0.99 > values[1] > values[2]


def test_pixels_outside_of_everything_expected_count_as_difference():
    around = disc(8, 8, 4)
    assert confidence(around | disc(32, 42, 4), around) < confidence(around | disc(8, 16, 4), around)


def test_an_empty_mask_where_a_structure_was_expected_has_no_confidence():
    assert confidence(np.zeros(SHAPE, bool), disc(20, 25, 8)) == 0.0


def test_overlap_is_the_dice_coefficient():
    assert overlap_of(disc(20, 25, 8), disc(20, 25, 8)) == 1.0
    assert overlap_of(disc(8, 8, 4), disc(30, 40, 4)) == 0.0


@pytest.mark.parametrize(
    ("steps", "meeting", "result"),
    [([0.9, 0.9], 0.9, 0.0), ([0.9], 0.95, 0.0), ([0.8, 0.8, 0.8], 0.4, 0.5), ([0.9], 0.0, 1.0), ([], 0.7, 0.3)],
)
def test_fronts_disagree_by_what_they_agree_less_than_neighbours_do(steps, meeting, result):
    assert disagreement_of_fronts(steps, meeting) == pytest.approx(result)


def propose(confidence, accepted, disagreement=None, certain=0.9):
    return next_slice_to_correct(confidence, disagreement or {}, accepted, certain=certain)


def test_nothing_is_proposed_where_all_is_certain_or_nothing_was_predicted():
    assert propose(dict.fromkeys(range(1, 9), 0.95), [0, 9]) is None
    assert propose({}, [3]) is None


def test_the_only_uncertain_slice_is_proposed():
    assert propose({**dict.fromkeys(range(1, 9), 1.0), 3: 0.5}, [0, 9]) == 3


def test_with_equal_confidence_the_middle_of_the_longest_stretch_is_proposed():
    confidence = dict.fromkeys([*range(1, 5), *range(6, 20)], 0.6)
    assert propose(confidence, [0, 5, 20]) in (12, 13)


def test_far_from_accepted_slices_doubt_counts_more():
    assert 10 <= propose(dict.fromkeys(range(1, 21), 0.8), [0]) <= 18


def test_fronts_that_disagree_are_doubtful_however_sure_each_is():
    confidence = dict.fromkeys(range(1, 9), 0.97)
    assert propose(confidence, [0, 9], {4: 0.6, 5: 0.6}) in (4, 5)


def test_a_correction_does_not_help_past_an_accepted_slice():
    here = {1: 0.6, 2: 0.5, 3: 0.5, 4: 0.55}
    assert propose(here, [0, 5]) == 2
    # However many doubtful slices lie close behind 5, they do not draw the proposal from 2 to 4.
    assert propose({**here, **dict.fromkeys((6, 7, 13, 14), 0.85)}, [0, 5, 15]) == 2


@settings(max_examples=60)
@given(
    confidence=st.dictionaries(st.integers(0, 40), st.floats(0, 1), max_size=30),
    disagreement=st.dictionaries(st.integers(0, 40), st.floats(0, 1), max_size=30),
    accepted=st.sets(st.integers(0, 40), min_size=1, max_size=6),
)
def test_an_accepted_slice_is_never_proposed_and_the_order_does_not_matter(confidence, disagreement, accepted):
    proposed = propose(confidence, accepted, disagreement)
    assert proposed is None or proposed in set(confidence) - accepted
    assert propose(dict(reversed(confidence.items())), sorted(accepted), disagreement) == proposed
    doubts = [1.0 - c * (1.0 - disagreement.get(i, 0.0)) for i, c in confidence.items() if i not in accepted]
    certain = all(doubt <= 1.0 - 0.9 for doubt in doubts)
    assert (proposed is None) == certain
