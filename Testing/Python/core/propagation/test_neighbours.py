from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.masks import interpolate_slices
from scribblesegment.propagation.config import PropagationConfig
from scribblesegment.propagation.expectation import KnownSlice, SliceSpacing, expect

SHAPE = (40, 50)
UNIT = SliceSpacing((1.0, 1.0), 1.0)
LINEAR = PropagationConfig(nearness=1.0)


def disc(row, column, radius, shape=SHAPE):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_one_neighbour_is_expected_again():
    mask = disc(20, 25, 8)
    expected = expect([KnownSlice(4, mask)], 5, spacing=UNIT, config=PropagationConfig())
    assert np.array_equal(expected.logits > 0, mask)
    shape = np.zeros(SHAPE, bool)
    shape[expected.region] = expected.distance_mm > 0
    assert np.array_equal(shape, mask)


@pytest.mark.parametrize("index", [3, 4, 5, 6])
def test_between_two_accepted_slices_with_linear_weights_shapes_are_interpolated_linearly(index):
    masks = {2: disc(20, 20, 6), 7: disc(20, 24, 11)}
    known = [KnownSlice(place, mask) for place, mask in masks.items()]
    expected = expect(known, index, spacing=UNIT, config=LINEAR)
    assert np.array_equal(expected.logits > 0, interpolate_slices(masks)[index])


def test_the_nearer_neighbour_counts_more_the_higher_the_nearness():
    near, far = disc(20, 25, 5), disc(20, 25, 12)
    areas = [
        (expect([KnownSlice(0, near), KnownSlice(4, far)], 1, spacing=UNIT, config=config).logits > 0).sum()
        for config in (PropagationConfig(nearness=nearness) for nearness in (0.0, 1.0, 2.0, 8.0))
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] == near.sum() < areas[0]


def test_between_shapes_that_do_not_overlap_the_nearer_one_is_expected():
    lower, upper = disc(8, 8, 4), disc(30, 40, 4)
    for index, mask in ((1, lower), (3, upper)):
        expected = expect([KnownSlice(0, lower), KnownSlice(4, upper)], index, spacing=UNIT, config=LINEAR)
        assert np.array_equal(expected.logits > 0, mask)


def test_what_is_handed_on_is_softer_the_farther_the_neighbour_is():
    known = [KnownSlice(0, disc(20, 25, 8))]
    slopes = [
        np.abs(np.diff(expect(known, index, spacing=UNIT, config=PropagationConfig()).logits[20])).max()
        for index in (1, 3, 9)
    ]
    assert slopes[0] > slopes[1] > slopes[2] > 0


def test_a_pixel_as_deep_as_the_outline_may_have_moved_has_logit_1():
    spacing = SliceSpacing((1.0, 1.0), 4.0)
    expected = expect([KnownSlice(0, disc(20, 25, 10))], 1, spacing=spacing, config=PropagationConfig(drift=0.5))
    row = expected.logits[20]
    edge = int(np.argmax(row > 0))
    assert row[edge + 1] == pytest.approx(1.0)  # the second pixel is 2 mm from the nearest one outside


@pytest.mark.parametrize("neighbour", ["logits", "distance"])
def test_what_is_handed_on_stays_within_the_limit(neighbour):
    config = PropagationConfig(neighbour=neighbour, neighbour_limit=3.0)
    mask = disc(20, 25, 8)
    logits = np.where(mask, 50.0, -50.0).astype(np.float32)
    expected = expect([KnownSlice(0, mask, logits)], 1, spacing=UNIT, config=config)
    assert np.abs(expected.logits).max() <= 3.0
    assert np.array_equal(expected.logits > 0, mask)


def test_unsure_logits_stay_unsure_when_logits_are_handed_on():
    mask = disc(20, 25, 8)
    known = [KnownSlice(0, mask, np.where(mask, 0.5, -0.5).astype(np.float32))]
    soft = expect(known, 1, spacing=UNIT, config=PropagationConfig(neighbour="logits")).logits
    sharp = expect(known, 1, spacing=UNIT, config=PropagationConfig(neighbour="distance")).logits
    assert 0 < soft[20, 25] <= 0.5 < sharp[20, 25]


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
    expected = expect(
        [KnownSlice(away, mask)], 0, spacing=SliceSpacing((row_mm, column_mm), step_mm), config=PropagationConfig()
    )
    assert np.isfinite(expected.logits).all()
    assert np.array_equal(expected.logits > 0, mask)
    assert expected.out_of_reach(mask) == 0.0
    assert np.array_equal(expected.connected(mask), mask)


def test_what_lies_far_from_the_neighbours_is_out_of_reach_and_not_connected():
    expected = expect([KnownSlice(0, disc(12, 12, 5))], 1, spacing=UNIT, config=PropagationConfig())
    other = disc(30, 40, 5)
    both = disc(12, 12, 5) | other
    assert expected.out_of_reach(other) == 1.0
    assert expected.out_of_reach(both) == pytest.approx(other.sum() / both.sum())
    assert np.array_equal(expected.connected(both), disc(12, 12, 5))
    assert expected.out_of_reach(np.zeros(SHAPE, bool)) == 0.0


def test_the_reach_grows_with_the_distance_between_slices():
    moved = disc(20, 36, 5)
    for step_mm, part in ((1.0, 1.0), (10.0, 0.0)):
        spacing = SliceSpacing((1.0, 1.0), step_mm)
        expected = expect([KnownSlice(0, disc(20, 22, 5))], 1, spacing=spacing, config=PropagationConfig())
        assert expected.out_of_reach(moved) == part


@pytest.mark.parametrize("radius", [1, 3, 12])
def test_strokes_are_drawn_into_the_shape_and_around_it(radius):
    mask = disc(20, 25, radius)
    expected = expect([KnownSlice(0, mask)], 1, spacing=UNIT, config=PropagationConfig())
    positive, negative = expected.strokes() > 0
    assert positive.any()
    assert not (positive & ~mask).any()
    assert negative.any()
    assert expected.out_of_reach(negative) == 1.0
    assert not disc(20, 25, radius + 8)[~negative].all()
    assert not (negative & ~disc(20, 25, radius + 8)).any()


def test_a_shape_that_fills_the_slice_gets_a_positive_stroke_only():
    expected = expect([KnownSlice(0, np.ones(SHAPE, bool))], 1, spacing=UNIT, config=PropagationConfig())
    positive, negative = expected.strokes() > 0
    assert positive.any()
    assert not negative.any()


@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5])
def test_a_smaller_area_is_expected_by_moving_the_outline_inwards(ratio):
    known = KnownSlice(5, disc(20, 25, 8))
    full = expect([known], 6, spacing=UNIT, config=PropagationConfig())
    small = expect([known], 6, spacing=UNIT, config=PropagationConfig(), area_ratio=ratio)
    area = int((small.distance_mm > 0).sum())
    assert area == pytest.approx(ratio * known.mask.sum(), rel=0.25)
    assert not ((small.logits > 0) & ~known.mask).any()
    assert np.array_equal(small.zone, full.zone)


def test_what_cannot_shrink_further_is_expected_as_it_is():
    one = np.zeros(SHAPE, bool)
    one[10, 10] = True
    found = expect([KnownSlice(5, one)], 6, spacing=UNIT, config=PropagationConfig(), area_ratio=0.5)
    assert (found.distance_mm > 0).sum() == 1
