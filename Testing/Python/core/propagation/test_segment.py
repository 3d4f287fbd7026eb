from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.propagation.config import AnnotatedSegment, PropagationConfig, StopReason
from scribblesegment.propagation.expectation import SliceSpacing, expect
from scribblesegment.propagation.fronts import SegmentState

SHAPE = (20, 20)
MASK = np.zeros(SHAPE, bool)
MASK[5:15, 5:15] = True
UNIT = SliceSpacing((1.0, 1.0), 1.0)


def state(*accepted, keep_logits=False, **settings):
    return SegmentState(
        4,
        AnnotatedSegment(dict.fromkeys(accepted, MASK), "Liver"),
        axis=0,
        axis_length=10,
        slice_shape=SHAPE,
        index_range=(0, 10),
        config=PropagationConfig(**settings),
        keep_logits=keep_logits,
    )


def draft(segment, stretch, logits, forbidden=None):
    expectation = expect(stretch.neighbours, stretch.next_index, spacing=UNIT, config=PropagationConfig())
    return segment.draft(stretch.next_index, expectation, logits.astype(np.float32), forbidden)


def test_pixels_the_mask_was_denied_are_not_handed_on():
    segment = state(3, neighbour="logits")
    (_, upper) = segment.stretches
    forbidden = np.zeros(SHAPE, bool)
    forbidden[:, 12:] = True
    one = draft(segment, upper, np.where(MASK, 5.0, -5.0), forbidden)
    found = segment.take_over(upper, one)
    assert np.array_equal(found.mask, MASK & ~forbidden)
    (known,) = upper.neighbours
    assert known.index == 4
    assert (known.logits[forbidden] < 0).all()
    assert (known.logits[MASK & ~forbidden] == 5.0).all()


def test_an_empty_slice_of_a_gap_is_a_result_and_one_of_a_tail_is_none():
    segment = state(2, 6)
    nothing = np.full(SHAPE, -5.0)
    below, between, _ = segment.stretches
    assert segment.take_over(below, draft(segment, below, nothing)) is None
    found = segment.take_over(between, draft(segment, between, nothing))
    assert (found.index, found.confidence) == (3, 0.0)
    assert not found.mask.any()


@pytest.mark.parametrize("keep_logits", [False, True])
def test_logits_are_handed_out_with_a_new_slice_and_kept_if_wanted(keep_logits):
    segment = state(3, keep_logits=keep_logits)
    stretch = segment.stretches[0]
    found = segment.take_over(stretch, draft(segment, stretch, np.where(MASK, 5.0, -5.0)))
    assert found.logits is not None
    kept = segment.result(cancelled=True, slices_per_second=0.0).slices[2]
    assert (kept.logits is not None) == keep_logits


def test_pixels_that_are_given_up_are_gone_and_others_are_not_touched():
    segment = state(3)
    stretch = segment.stretches[0]
    segment.take_over(stretch, draft(segment, stretch, np.where(MASK, 5.0, -5.0)))
    pixels = np.zeros(SHAPE, bool)
    pixels[5:7] = True
    assert np.array_equal(segment.give_up(2, pixels).mask, MASK & ~pixels)
    assert segment.give_up(2, pixels) is None


def test_the_refused_slice_at_a_sudden_end_may_be_proposed():
    segment = state(5)
    while segment.stretches:
        stretch = segment.stretches[0]
        shown = stretch.next_index > 3
        segment.take_over(stretch, draft(segment, stretch, np.where(MASK & shown, 9.0, -9.0)))
    result = segment.result(cancelled=False, slices_per_second=0.0)
    lower = result.stopped[0]
    assert (lower.index, lower.refused, lower.reason) == (4, 3, StopReason.ENDED)
    assert result.next_slice == 3
    assert 3 not in result.slices


def test_disagreement_of_the_fronts_is_noted_once_a_gap_is_done():
    segment = state(0, 5)
    gap = segment.stretches[0]
    while gap.next_index is not None:
        shift = gap.next_index if gap.next_index < 3 else gap.next_index - 5
        mask = np.roll(MASK, 2 * shift, axis=1)
        segment.take_over(gap, draft(segment, gap, np.where(mask, 9.0, -9.0)))
    slices = segment.result(cancelled=False, slices_per_second=0.0).slices
    assert slices[2].disagreement == slices[3].disagreement > 0.2
    assert slices[1].disagreement == pytest.approx(slices[2].disagreement / 2)
