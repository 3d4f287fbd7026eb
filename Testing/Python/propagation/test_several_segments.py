"""Several segments in one pass through a volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_predictors import NETWORK_ALONE, Brightness, Constant, SlicePredictor

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.volume import Volume
from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, PropagationRun, StopReason

SHAPE = (12, 24, 40)
LEFT, RIGHT = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LEFT[:, 6:18, 6:18] = True
RIGHT[:, 6:18, 22:34] = True
VOLUME = Volume(100.0 * (LEFT | RIGHT), np.eye(4))


def segment(structure, *indices, **fields):
    return AnnotatedSegment({index: structure[index] for index in indices}, **fields)


def iterate(segments, predictor=None, config=None, **options):
    return PropagationRun(predictor or Brightness(), VOLUME, segments, 0, config=config, **options)


def masks(results):
    return {(label, index): piece.mask for label, result in results.items() for index, piece in result.slices.items()}


class Growing(SlicePredictor):
    """Sees every segment a pixel larger than expected, surer of the one whose column is `surer`."""

    def __init__(self, surer: int) -> None:
        super().__init__()
        self.surer = surer

    def see(self, prompts):
        from scipy import ndimage

        mask = ndimage.binary_dilation(prompts.mask_input > 0)
        level = 4.0 if mask[12, self.surer] else 2.0
        return np.where(mask, level, -4.0)


@pytest.mark.parametrize(("left", "right", "images"), [((2,), (9,), None), ((3, 8), (3, 8), 10)])
def test_segments_are_propagated_as_if_alone_and_share_images_where_they_can(left, right, images):
    predictor, segments = Brightness(), {5: segment(LEFT, *left), 2: segment(RIGHT, *right)}
    together = iterate(segments, predictor).finish()
    assert list(together) == [2, 5]
    assert len(predictor.prompts) == len(masks(together))
    assert images is None or len(predictor.images) == images
    for label, one in segments.items():
        alone = iterate({label: one}).finish()[label]
        assert list(together[label].slices) == list(alone.slices)
        assert together[label].stopped == alone.stopped
        assert all(np.array_equal(piece.mask, alone.slices[i].mask) for i, piece in together[label].slices.items())
        assert {piece.label for piece in together[label].slices.values()} == {label}


def test_each_segment_is_shown_its_own_context():
    predictor = Brightness()
    other = ContextEntry(np.zeros((9, 9), np.float32), np.ones((9, 9), bool), (1.0, 1.0))
    segments = {1: segment(LEFT, 5, name="L"), 2: segment(RIGHT, 5, name="R", context=ContextSet("R", (other,)))}
    seen = []
    predictor.see = lambda prompts: seen.append((predictor.context, prompts.mask_input)) or prompts.mask_input
    iterate(segments, predictor).finish()
    for context, logits in seen:
        is_left = logits[12, 12] > 0
        assert context.label_name == ("L" if is_left else "R")
        assert len(context) == (1 if is_left else 2)


@pytest.mark.parametrize("surer", [12, 28])
@pytest.mark.parametrize("indices", [((5,), (5,)), ((1,), (10,)), ((10,), (1,))])
def test_a_pixel_that_two_segments_claim_goes_to_the_larger_logit(surer, indices):
    config = PropagationConfig(drift=1.0, **NETWORK_ALONE)
    left, right = indices
    segments = {1: segment(LEFT, *left), 2: segment(RIGHT, *right)}
    shown = {}
    run = iterate(segments, Growing(surer), config)
    for piece in run:
        shown[piece.label, piece.index] = piece.mask
    results = run.result()
    for index in range(SHAPE[0]):
        both = [mask for (_, at), mask in masks(results).items() if at == index]
        assert len(both) < 2 or not (both[0] & both[1]).any()
    # Whoever writes the slices as they come, the newest of each last, has the result.
    assert all(np.array_equal(shown[key], mask) for key, mask in masks(results).items())
    assert set(shown) == set(masks(results))
    # Both would grow into the gap of four pixels between them; the surer one gets what both claim.
    winner, loser = (1, 2) if surer == 12 else (2, 1)
    contested = [
        results[winner].slices[i].mask.sum() - results[loser].slices[i].mask.sum() for i in range(3, 9) if i != 5
    ]
    assert max(contested) > 0


@pytest.mark.parametrize("earlier", [True, False])
def test_accepted_slices_and_those_kept_from_an_earlier_result_are_taken_by_no_other(earlier):
    previous = iterate({2: segment(RIGHT, 5)}).finish()[2] if earlier else None
    segments = {1: segment(LEFT | RIGHT, 3), 2: segment(RIGHT, *([5] if earlier else [5, 7]), previous=previous)}
    results = iterate(segments, Constant(5.0), PropagationConfig(stop_leak=1.0)).finish()
    kept = set(previous.slices) if earlier else set()
    assert results[2].reused == kept
    for index in {5, 7} | kept - {3}:
        assert not (results[1].slices[index].mask & RIGHT[index]).any()


def test_beside_a_refused_slice_the_others_still_share():
    class Three(SlicePredictor):
        """The first segment leaks everywhere, the second and third both grow into the pixels between them."""

        def see(self, prompts):
            from scipy import ndimage

            if prompts.mask_input[2, 2] > 0:
                return np.full(prompts.shape, 30.0)
            grown = ndimage.binary_dilation(prompts.mask_input > 0, iterations=2)
            return np.where(grown, 5.0 if grown[12, 12] else 4.0, -4.0)

    corner, close = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    corner[:, 1:4, 1:4] = True
    close[:, 6:18, 20:30] = True
    results = iterate(
        {1: segment(corner, 5), 2: segment(LEFT, 5), 3: segment(close, 5)}, Three(), PropagationConfig(**NETWORK_ALONE)
    ).finish()
    assert results[1].slices == {}
    assert {end.reason for end in results[1].stopped} == {StopReason.UNCERTAIN}
    left, right = results[2].slices[6].mask, results[3].slices[6].mask
    assert left[12, 19]
    assert not (left & right).any()
    assert right[12, 20]


def test_a_slice_that_is_refused_for_its_small_area_takes_nothing_from_others():
    class Tiny(SlicePredictor):
        """The right one shrinks to a few pixels that the left one has as well, with smaller logits."""

        def see(self, prompts):
            if prompts.mask_input[12, 28] > 0:
                tiny = np.full(prompts.shape, -5.0)
                tiny[12, 20:23] = 9.0
                return tiny
            wide = np.full(prompts.shape, -5.0)
            wide[6:18, 6:22] = 2.0
            return wide

    results = iterate({1: segment(LEFT, 5), 2: segment(RIGHT, 5)}, Tiny(), PropagationConfig(**NETWORK_ALONE)).finish()
    assert results[2].slices == {}
    assert all(piece.mask[12, 20:22].all() for piece in results[1].slices.values())


indices = st.sets(st.integers(0, 11), min_size=1, max_size=4)


@settings(max_examples=25)
@given(left=indices, right=indices, stop=st.integers(0, 30), surer=st.sampled_from([12, 28]))
def test_the_result_does_not_depend_on_the_order_of_segments_and_may_be_left_anywhere(left, right, stop, surer):
    config = PropagationConfig(drift=1.0, **NETWORK_ALONE)
    segments = {1: segment(LEFT, *left), 2: segment(RIGHT, *right)}
    orders = (segments, {label: segments[label] for label in (2, 1)})
    runs = [iterate(order, Growing(surer), config) for order in orders]
    pieces = [[], []]
    for run, taken in zip(runs, pieces, strict=True):
        for _, piece in zip(range(stop), run, strict=False):
            taken.append((piece.label, piece.index, piece.packed.tobytes()))
            assert len(run._claims) <= SHAPE[0]
    assert pieces[0] == pieces[1]
    results = runs[0].result()
    assert all(len(set(result.slices) & set(result.accepted)) == 0 for result in results.values())
    assert all(result.cancelled == (runs[0].remaining > 0) for result in results.values())
    for index in range(SHAPE[0]):
        one, other = (
            result.slices[index].mask if index in result.slices else result.accepted.get(index)
            for result in results.values()
        )
        assert one is None or other is None or not (one & other).any()
    runs[0].finish()
    assert (runs[0].remaining, runs[0]._claims) == (0, {})  # kept no longer than another segment may come
