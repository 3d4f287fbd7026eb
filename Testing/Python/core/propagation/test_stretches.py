from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.propagation.config import PropagationConfig, StopReason
from scribblesegment.propagation.expectation import KnownSlice, SliceSpacing, expect
from scribblesegment.propagation.fronts import Draft, Gap, Plan, Tail

SHAPE = (30, 30)
UNIT = SliceSpacing((1.0, 1.0), 1.0)
EMPTY = np.zeros(SHAPE, bool)


def disc(radius, row=15, column=15):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def draft(stretch, mask, confidence=1.0):
    """What a network that found `mask` in the next slice would give."""
    expectation = expect(stretch.neighbours, stretch.next_index, spacing=UNIT, config=PropagationConfig())
    logits = np.where(mask, 5.0, -5.0).astype(np.float32)
    return Draft(stretch.next_index, expectation, logits, mask, confidence)


def advance(stretch, mask, confidence=1.0):
    one = draft(stretch, mask, confidence)
    reason = stretch.judge(one)
    if reason is None and mask.any():
        return stretch.accept(one, KnownSlice(one.index, mask))
    stretch.refuse(one, reason or StopReason.ENDED)
    return []


def gap(first=3, last=9, mask=None):
    known = disc(8) if mask is None else mask
    return Gap(KnownSlice(first - 1, known), KnownSlice(last + 1, known), range(first, last + 1))


def tail(indices=range(5, 15), **settings):
    return Tail(
        KnownSlice(indices[0] - indices.step, disc(8)),
        indices,
        start=indices[0] - indices.step,
        at_stop=StopReason.RANGE,
        config=PropagationConfig(**settings),
    )


def test_a_gap_is_filled_from_both_sides_in_turn():
    stretch, order = gap(3, 9), []
    while stretch.next_index is not None:
        order.append((stretch.next_index, [known.index for known in stretch.neighbours], stretch.depth))
        advance(stretch, disc(8))
    assert order == [
        (3, [2, 10], 1),
        (9, [3, 10], 1),
        (4, [3, 9], 2),
        (8, [4, 9], 2),
        (5, [4, 8], 3),
        (7, [5, 8], 3),
        (6, [5, 7], 4),
    ]
    assert stretch.remaining == 0
    assert stretch.end is None


def test_a_slice_in_which_nothing_was_found_is_passed_over_but_not_carried_on():
    stretch = gap(3, 9)
    advance(stretch, EMPTY)
    assert [known.index for known in stretch.neighbours] == [2, 10]
    assert stretch.next_index == 9
    assert not stretch.covers(3)


def test_fronts_that_find_the_same_do_not_disagree():
    stretch = gap(3, 9)
    assert stretch.disagreements() == {}
    while stretch.next_index is not None:
        advance(stretch, disc(8))
    assert stretch.disagreements() == dict.fromkeys(range(3, 10), 0.0)


def test_fronts_that_drift_apart_disagree_most_where_they_meet():
    stretch = gap(3, 8)
    while stretch.next_index is not None:
        from_below = stretch.next_index < 6
        shift = stretch.depth * (1 if from_below else -1)
        advance(stretch, disc(6, column=15 + shift))
    found = stretch.disagreements()
    assert found[3] < found[4] < found[5] > 0.3
    assert found[5] == found[6]
    assert found[3] == pytest.approx(found[5] / 3)


@pytest.mark.parametrize(("indices", "direction"), [(range(5, 15), 1), (range(8, -1, -1), -1)])
def test_a_tail_goes_on_to_the_end_of_the_range(indices, direction):
    stretch, order = tail(indices), []
    while stretch.next_index is not None:
        order.append(stretch.next_index)
        advance(stretch, disc(8))
    assert order == list(indices)
    end = stretch.end
    assert (end.start, end.index, end.direction) == (indices[0] - direction, indices[-1], direction)
    assert (end.reason, end.refused, end.confidence) == (StopReason.RANGE, None, None)


def test_a_tail_stops_where_the_structure_tapers_off():
    stretch = tail()
    for radius in (8, 6, 4, 2):
        advance(stretch, disc(radius))
    assert stretch.end is None
    advance(stretch, EMPTY)
    assert stretch.end is None
    advance(stretch, EMPTY)
    end = stretch.end
    assert (end.index, end.reason, end.refused) == (8, StopReason.ENDED, 9)
    assert end.confidence == pytest.approx(1 - (disc(2).sum() / disc(8).sum()) ** 2)
    assert end.confidence > 0.9


def test_an_end_that_comes_suddenly_is_less_certain():
    stretch = tail()
    advance(stretch, EMPTY)
    advance(stretch, EMPTY)
    assert (stretch.end.index, stretch.end.confidence) == (4, 0.0)


@pytest.mark.parametrize(
    ("mask", "confidence", "reason"),
    [
        (disc(8), 1.0, None),
        (disc(6), 1.0, None),
        (disc(2), 1.0, StopReason.ENDED),
        (EMPTY, 0.0, StopReason.ENDED),
        (disc(8), 0.45, StopReason.UNCERTAIN),  # below half of what was usual
        (np.ones(SHAPE, bool), 1.0, StopReason.UNCERTAIN),
        (disc(5, 4, 4), 1.0, StopReason.UNCERTAIN),
    ],
)
def test_a_slice_is_judged_by_its_area_its_place_and_its_confidence(mask, confidence, reason):
    stretch = tail()
    for _ in range(3):
        advance(stretch, disc(8), 0.95)
    assert stretch.judge(draft(stretch, mask, confidence)) is reason


def test_the_least_confidence_counts_from_the_first_slice_on():
    assert tail().judge(draft(tail(), disc(8), 0.49)) is StopReason.UNCERTAIN
    assert tail().judge(draft(tail(), disc(8), 0.51)) is None


def test_a_few_bad_slices_do_not_stop_a_tail_and_are_filled_in_afterwards():
    stretch = tail(patience=3)
    advance(stretch, disc(8))
    advance(stretch, EMPTY)
    advance(stretch, disc(8), 0.1)
    assert [known.index for known in stretch.neighbours] == [5]
    assert stretch.covers(6)
    assert stretch.covers(7)
    (filled,) = advance(stretch, disc(8))
    assert (filled.next_index, filled.remaining) == (6, 2)
    assert [known.index for known in filled.neighbours] == [5, 8]
    assert stretch.next_index == 9
    assert not stretch.covers(6)


def test_bad_slices_at_the_end_of_the_range_are_left_out():
    stretch = tail(range(5, 7), patience=3)
    advance(stretch, disc(8))
    advance(stretch, disc(8), 0.1)
    assert (stretch.end.index, stretch.end.reason) == (5, StopReason.UNCERTAIN)
    assert (stretch.end.refused, stretch.end.confidence) == (6, 0.1)


def test_an_unfinished_tail_counts_as_cancelled():
    stretch = tail()
    advance(stretch, disc(8))
    end = stretch.end_if_cancelled()
    assert (end.index, end.reason) == (5, StopReason.CANCELLED)
    assert stretch.end is None


def plan(accepted, index_range=(0, 20)):
    masks = {index: disc(6) if shown else EMPTY for index, shown in accepted.items()}
    made = Plan(masks, index_range, config=PropagationConfig())
    return [(type(one).__name__, one.remaining, one.next_index) for one in made.stretches], made.ends


def test_accepted_slices_divide_a_volume_into_gaps_and_tails():
    stretches, ends = plan({5: True, 9: True, 10: True})
    assert stretches == [("Tail", 5, 4), ("Gap", 3, 6), ("Tail", 9, 11)]
    assert ends == []


def test_slices_without_the_structure_end_it_on_their_side():
    made = Plan({2: EMPTY, 6: disc(6), 9: EMPTY, 12: EMPTY}, (0, 20), config=PropagationConfig())
    assert [(one.remaining, one.next_index) for one in made.stretches] == [(3, 5), (2, 7)]
    for stretch in made.stretches:
        while stretch.next_index is not None:
            advance(stretch, disc(6))
    assert [stretch.end.reason for stretch in made.stretches] == [StopReason.ABSENT, StopReason.ABSENT]


def test_the_range_cuts_stretches_and_is_the_reason_where_it_ends_before_an_absent_slice():
    assert plan({5: True, 9: True, 15: False}, (7, 13))[0] == [("Gap", 2, 8), ("Tail", 3, 10)]
    made = Plan({5: disc(6), 15: EMPTY}, (0, 13), config=PropagationConfig())
    upper = made.stretches[1]
    while upper.next_index is not None:
        advance(upper, disc(6))
    assert upper.end.reason is StopReason.RANGE


def test_an_accepted_slice_at_the_border_ends_there_at_once():
    stretches, ends = plan({0: True, 19: True})
    assert stretches == [("Gap", 18, 1)]
    assert [(end.index, end.direction, end.reason) for end in ends] == [
        (0, -1, StopReason.RANGE),
        (19, 1, StopReason.RANGE),
    ]


@settings(max_examples=60)
@given(
    accepted=st.dictionaries(st.integers(0, 19), st.booleans(), min_size=1, max_size=6),
    bounds=st.tuples(st.integers(0, 19), st.integers(1, 20)).filter(lambda pair: pair[0] < pair[1]),
)
def test_every_slice_is_planned_at_most_once_and_never_an_accepted_one(accepted, bounds):
    masks = {index: disc(6) if shown else EMPTY for index, shown in accepted.items()}
    made = Plan(masks, bounds, config=PropagationConfig())
    seen = []
    for stretch in made.stretches:
        while stretch.next_index is not None:
            assert stretch.covers(stretch.next_index)
            seen.append(stretch.next_index)
            advance(stretch, disc(6))
    assert len(seen) == len(set(seen))
    # Each of the others lies next to an accepted slice with the structure, with nothing accepted between.
    expected = {
        index
        for index in range(*bounds)
        if index not in accepted
        and (
            accepted.get(max((a for a in accepted if a < index), default=-1))
            or accepted.get(min((a for a in accepted if a > index), default=-1))
        )
    }
    assert set(seen) == expected


def test_a_tail_expects_areas_to_go_on_as_the_accepted_ones_do_and_a_gap_nothing():
    accepted = {index: disc(radius) for index, radius in ((4, 10), (9, 9), (14, 6))}
    stretches = {
        trend: Plan(accepted, (0, 30), config=PropagationConfig(trend=trend)).stretches for trend in (True, False)
    }
    for first, gap_below, gap_above, last in stretches.values():
        assert gap_below.area_ratio == gap_above.area_ratio == 1.0
        assert first.area_ratio == 1.0  # it grew from there on, or stayed
        assert isinstance(last, Tail)
    assert 0.5 <= stretches[True][-1].area_ratio < 0.95
    assert stretches[False][-1].area_ratio == 1.0
