"""What is expected of a slice (shape, geodesic paths), how far a result is trusted, and which slice to correct next."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propagation_phantoms import ball, cut, dice, volume_of

from scribblesegment.data.masks import interpolate_slices
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.propagation import PropagationConfig, geodesic
from scribblesegment.propagation.confidence import confidence_of, next_slice_to_correct
from scribblesegment.propagation.geodesic import GeodesicPrior, path_costs
from scribblesegment.propagation.prior import AreaExtrapolation, KnownSlice, shape_prior

SHAPE = (40, 50)
UNIT = (1.0, 1.0, 1.0)
LINEAR = PropagationConfig(distance_power=1.0)


def disc(row, column, radius, shape=SHAPE):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def expected_of(mask, step_mm=1.0, **options):
    """What a slice is expected to show beside one with this mask."""
    config = PropagationConfig(drift=0.5)
    return shape_prior([KnownSlice(0, mask)], 1, spacing_mm=(step_mm, 1.0, 1.0), config=config, **options)


@pytest.mark.parametrize("index", [3, 4, 5, 6])
@pytest.mark.parametrize("column", [24, 40])  # the second does not overlap the first: the nearer one is expected
def test_between_two_accepted_slices_with_linear_weights_shapes_are_interpolated_linearly(index, column):
    masks = {2: disc(20, 10 if column == 40 else 20, 6), 7: disc(20, column, 6 if column == 40 else 11)}
    known = [KnownSlice(place, mask) for place, mask in masks.items()]
    expected = shape_prior(known, index, spacing_mm=UNIT, config=LINEAR)
    nearer = masks[2 if index < 5 else 7]
    assert np.array_equal(expected.logits > 0, nearer if column == 40 else interpolate_slices(masks)[index])


@settings(max_examples=25)
@given(
    centre=st.tuples(st.integers(0, 39), st.integers(0, 49)),
    radius=st.integers(1, 45),
    away=st.integers(1, 12),
    spacing=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0), st.floats(0.3, 8.0)),
)
def test_expectations_are_finite_and_hold_the_neighbour_wherever_it_lies(centre, radius, away, spacing):
    mask = disc(*centre, radius)
    row_mm, column_mm, step_mm = spacing
    expected = shape_prior(
        [KnownSlice(away, mask)], 0, spacing_mm=(step_mm, row_mm, column_mm), config=PropagationConfig()
    )
    assert np.isfinite(expected.logits).all()
    assert np.array_equal(expected.logits > 0, mask)
    assert expected.out_of_reach(mask) == 0.0
    assert np.array_equal(expected.connected(mask), mask)


def test_what_lies_far_from_the_neighbours_is_out_of_reach_and_not_connected():
    expected = expected_of(disc(12, 12, 5))
    other = disc(30, 40, 5)
    both = disc(12, 12, 5) | other
    assert expected.out_of_reach(other) == 1.0
    assert expected_of(disc(12, 12, 5), step_mm=20.0).out_of_reach(other) == 0.0
    assert expected.out_of_reach(both) == pytest.approx(other.sum() / both.sum())
    assert np.array_equal(expected.connected(both), disc(12, 12, 5))
    assert expected.out_of_reach(np.zeros(SHAPE, bool)) == 0.0
    row = expected_of(disc(20, 25, 10), step_mm=4.0).logits[20]
    assert row[int(np.argmax(row > 0)) + 1] == pytest.approx(1.0)  # as deep as the outline may have moved


def test_an_ellipsoid_is_followed_to_its_end_a_tube_stays_as_it_is_and_nothing_grows():
    def area(index):
        return 1000.0 * (1.0 - ((index - 20) / 10) ** 2)

    trend = AreaExtrapolation({index: area(index) for index in (15, 20, 25)})
    for known, index in ((25, 26), (26, 27), (15, 14)):
        assert trend.ratio(known, index) == pytest.approx(area(index) / area(known))
    assert trend.ratio(29, 30) == 0.5
    assert AreaExtrapolation({3: 80, 7: 80, 9: 80}).ratio(9, 12) == pytest.approx(1.0)
    growing = AreaExtrapolation({3: 40, 7: 80, 9: 100})
    assert (growing.ratio(9, 10), growing.ratio(3, 2)) == (1.0, pytest.approx(30 / 40))
    for areas in ({}, {4: 70}, {4: 70, 9: 0}):  # which show no trend
        assert AreaExtrapolation(areas).ratio(4, 5) == 1.0


def confidence(mask, around, *, logit=8.0, consistency=0.5):
    logits = np.where(mask, logit, -logit).astype(np.float32)
    return confidence_of(logits, mask, expected_of(around), consistency=consistency)


def test_a_shape_that_is_not_as_expected_makes_it_less_the_more_it_counts():
    mask, around = disc(20, 30, 12), disc(20, 22, 6)
    values = [confidence(mask, around, consistency=weight) for weight in (0.0, 0.5, 1.0)]
    assert values[0] > 0.99 > values[1] > values[2]
    stays, moves = (confidence(disc(20, column, 8), disc(20, 25, 8)) for column in (25, 26))
    assert moves == pytest.approx(stays, abs=1e-3)  # by a pixel, which outlines may
    assert confidence(np.zeros(SHAPE, bool), around) == 0.0


def propose(confidence, accepted, disagreement=None, certain=0.9):
    return next_slice_to_correct(confidence, disagreement or {}, accepted, certain=certain)


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


STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def evidence_of(structure, axis, *indices, volume=None):
    volume = volume or volume_of(structure)
    intensities = IntensityRange.estimate(volume.array)
    return GeodesicPrior(volume, cut(structure, axis, *indices), axis, intensity_range=intensities)


def nearer_to_it(evidence, index, shape):
    whole = np.zeros(shape, np.float32)
    box, part = evidence.in_slice(index)
    whole[box] = part
    return whole


def cheapest(intensities, seeds, sides):
    """All costs by Dijkstra's algorithm, for every path there is."""
    costs = np.full(intensities.shape, np.inf)
    costs[seeds] = 0.0
    queue = [(0.0, tuple(place)) for place in np.argwhere(seeds).tolist()]
    while queue:
        cost, place = heapq.heappop(queue)
        for step in STEPS if cost == costs[place] else ():
            there = tuple(np.add(place, step).tolist())
            if all(0 <= one < side for one, side in zip(there, intensities.shape, strict=True)):
                length = 0.01 * math.sqrt(sum((one * side) ** 2 for one, side in zip(step, sides, strict=True)))
                new = cost + length + abs(float(intensities[there]) - float(intensities[place]))
                if new < costs[there]:
                    costs[there] = new
                    heapq.heappush(queue, (new, there))
    return costs


def test_what_is_accepted_is_certain_and_an_even_image_decides_by_distance():
    structure = ball()
    even, shape = Volume(np.ones(structure.shape, np.float32), np.eye(4)), structure.shape[1:]
    evidence = evidence_of(structure, 0, 6, 12, volume=even)
    found = nearer_to_it(evidence, 6, shape)
    assert (found[structure[6]] > 0).all()
    assert (found[evidence.in_slice(6)[0]] != 0).all()
    assert nearer_to_it(evidence, 9, shape)[structure[6] & structure[12]].min() > 0
    for whole in (np.ones((18, 24, 30), bool), np.zeros((18, 24, 30), bool)):  # nothing stands against anything
        assert evidence_of(whole, 0, 2, volume=even).in_slice(2) is None


@pytest.mark.parametrize("most", [300, 400, 600])
def test_a_large_region_is_looked_at_in_coarser_pixels_that_come_back_to_their_place(monkeypatch, most):
    structure, thin = np.zeros((3, 78, 160), bool), np.zeros((8, 40, 40), bool)
    structure[:, 20:61, 20:140] = thin[:, 20, 21] = True
    monkeypatch.setattr(geodesic, "_MOST_VOXELS", most)
    assert dice(nearer_to_it(evidence_of(structure, 0, 0, 2), 1, structure.shape[1:]) > 0, structure[1]) > 0.85
    assert nearer_to_it(evidence_of(thin, 0, 4), 4, (40, 40))[20, 21] > 0  # nothing thin gets lost


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_no_path_is_cheaper_than_the_cheapest_and_straight_ones_are_found(seed):
    rng = np.random.default_rng(seed)
    shape, spacing = (4, 6, 7), (2.0, 1.0, 1.5)
    intensities = rng.random(shape, np.float32)
    seeds = np.zeros((2, *shape), bool)
    seeds[0, 2] = rng.random(shape[1:]) < 0.3
    seeds[1, 2] = ~seeds[0, 2]
    costs = path_costs(intensities, seeds, spacing)
    for found, begin in zip(costs, seeds, strict=True):
        if not begin.any():
            assert (found > 1e3).all()
            continue
        exact = cheapest(intensities, begin, [side / 1.0 for side in spacing])
        assert (found >= exact - 1e-4).all()
        assert (found[begin] == 0).all()
        # Next to the seeds hardly any path winds.
        assert np.median(found[1] - exact[1]) < 0.05
