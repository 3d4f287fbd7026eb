"""How slices are divided into spans, and when a span ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, StopReason
from scribblesegment.propagation.fronts import BoundedSpan, OpenSpan, SegmentState, SlicePrediction
from scribblesegment.propagation.prior import KnownSlice, shape_prior

SHAPE = (30, 30)
UNIT = (1.0, 1.0, 1.0)
EMPTY = np.zeros(SHAPE, bool)


def planned(accepted, index_range, **settings):
    """The spans of a segment of a volume of 30 slices."""
    return SegmentState(
        4,
        AnnotatedSegment(accepted, "Liver"),
        axis=0,
        axis_length=30,
        slice_shape=SHAPE,
        index_range=index_range,
        config=PropagationConfig(**settings),
        keep_logits=False,
    )


def disc(radius, row=15, column=15):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def draft(span, mask, confidence=1.0):
    """What a network that found `mask` in the next slice would give."""
    expectation = shape_prior(span.neighbours, span.next_index, spacing_mm=UNIT, config=PropagationConfig())
    logits = np.where(mask, 5.0, -5.0).astype(np.float32)
    return SlicePrediction(span.next_index, expectation, logits, mask, confidence)


def advance(span, mask, confidence=1.0):
    one = draft(span, mask, confidence)
    reason = span.check(one)
    if reason is None and mask.any():
        return span.accept(one)
    span.reject(one, reason or StopReason.ENDED)
    return []


def gap(first=3, last=9):
    return BoundedSpan(KnownSlice(first - 1, disc(8)), KnownSlice(last + 1, disc(8)), range(first, last + 1))


def tail(indices=range(5, 15), **settings):
    return OpenSpan(
        KnownSlice(indices[0] - indices.step, disc(8)),
        indices,
        start=indices[0] - indices.step,
        at_stop=StopReason.RANGE,
        config=PropagationConfig(**settings),
    )


def test_a_gap_is_filled_from_both_sides_in_turn_and_fronts_that_drift_apart_disagree_most_where_they_meet():
    span, order = gap(3, 8), []
    while span.next_index is not None:
        order.append((span.next_index, [known.index for known in span.neighbours], span.depth))
        shift = span.depth * (1 if span.next_index < 6 else -1)
        advance(span, disc(6, column=15 + shift))
    assert order[:4] == [(3, [2, 9], 1), (8, [3, 9], 1), (4, [3, 8], 2), (7, [4, 8], 2)]
    assert order[4:] == [(5, [4, 7], 3), (6, [5, 7], 3)]
    assert (span.remaining, span.end) == (0, None)
    found = span.disagreements()
    assert found[3] < found[4] < found[5] > 0.3
    assert found[5] == found[6]
    assert found[3] == pytest.approx(found[5] / 3)


@pytest.mark.parametrize(("radii", "index", "confidence"), [((8, 6, 4, 2), 8, 0.93), ((), 4, 0.0)])
def test_a_tail_stops_where_the_structure_tapers_off_and_a_sudden_end_is_less_certain(radii, index, confidence):
    span = tail()
    for radius in radii:
        advance(span, disc(radius))
    for _ in range(2):
        assert span.end is None
        advance(span, EMPTY)
    assert (span.end.index, span.end.reason, span.end.rejected) == (index, StopReason.ENDED, index + 1)
    assert span.end.confidence == pytest.approx(confidence, abs=0.07)


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
    span = tail()
    for _ in range(3):
        advance(span, disc(8), 0.95)
    assert span.check(draft(span, mask, confidence)) is reason


def test_a_few_bad_slices_do_not_stop_a_tail_and_are_filled_in_unless_they_are_its_last():
    span = tail(range(5, 11), patience=3)
    advance(span, disc(8))
    advance(span, EMPTY)
    advance(span, disc(8), 0.1)
    assert [known.index for known in span.neighbours] == [5]
    assert span.covers(6)
    (filled,) = advance(span, disc(8))
    assert (filled.next_index, filled.remaining) == (6, 2)
    assert [known.index for known in filled.neighbours] == [5, 8]
    assert span.next_index == 9
    assert not span.covers(6)
    advance(filled, EMPTY)  # in which nothing was found: not carried on
    assert ([known.index for known in filled.neighbours], filled.covers(6)) == ([5, 8], False)
    advance(span, disc(8))
    advance(span, disc(8), 0.1)
    assert (span.end.index, span.end.reason) == (9, StopReason.UNCERTAIN)
    assert (span.end.rejected, span.end.confidence) == (10, 0.1)


@settings(max_examples=60)
@given(
    accepted=st.dictionaries(st.integers(0, 19), st.booleans(), min_size=1, max_size=6).filter(
        lambda accepted: any(accepted.values())
    ),
    bounds=st.tuples(st.integers(0, 19), st.integers(1, 20)).filter(lambda pair: pair[0] < pair[1]),
)
def test_every_slice_is_planned_at_most_once_and_never_an_accepted_one(accepted, bounds):
    masks = {index: disc(6) if shown else EMPTY for index, shown in accepted.items()}
    made = planned(masks, bounds)
    seen = []
    for span in made.spans:
        while span.next_index is not None:
            assert span.covers(span.next_index)
            seen.append(span.next_index)
            advance(span, disc(6))
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


MASK = np.zeros(SHAPE, bool)
MASK[10:20, 10:20] = True


def state(*accepted, **settings):
    return planned(dict.fromkeys(accepted, MASK), (0, 10), **settings)


def prediction(segment, span, logits, forbidden=None):
    expectation = shape_prior(span.neighbours, span.next_index, spacing_mm=UNIT, config=PropagationConfig())
    return segment.prediction(span.next_index, expectation, logits.astype(np.float32), forbidden, lambda mask: 1.0)


def test_an_empty_slice_of_a_gap_is_a_result_and_one_of_a_tail_is_none():
    segment, nothing, pixels = state(2, 6), np.full(SHAPE, -5.0), np.zeros(SHAPE, bool)
    below, between, _ = segment.spans
    assert segment.settle(below, prediction(segment, below, nothing)) is None
    found = segment.settle(between, prediction(segment, between, nothing))
    assert (found.index, found.confidence) == (3, 0.0)
    assert not found.mask.any()
    segment.settle(between, prediction(segment, between, np.where(MASK, 5.0, -5.0)))
    pixels[10:12] = True
    assert np.array_equal(segment.release_pixels(5, pixels).mask, MASK & ~pixels)  # given up to another segment
    assert segment.release_pixels(5, pixels) is None


def test_the_refused_slice_at_a_sudden_end_may_be_proposed():
    segment = state(5)
    while segment.spans:
        span = segment.spans[0]
        shown = span.next_index > 3
        segment.settle(span, prediction(segment, span, np.where(MASK & shown, 9.0, -9.0)))
    result = segment.result(cancelled=False, slices_per_second=0.0)
    lower = result.stopped[0]
    assert (lower.index, lower.rejected, lower.reason) == (4, 3, StopReason.ENDED)
    assert result.next_slice == 3
    assert 3 not in result.slices
