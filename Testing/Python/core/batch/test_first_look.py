from __future__ import annotations

import numpy as np
import pytest
from batch_folders import a_ball, a_context
from batch_networks import Threshold
from propagation_phantoms import dice, volume_of
from slice_predictors import Constant

from scribblesegment.batch.acceptance import SliceLook
from scribblesegment.batch.first_look import FirstLook, own_confidence


def look(predictor, structure, *contexts, axis=0, limit=8, threshold=0.5) -> FirstLook:
    return FirstLook(predictor, volume_of(structure), axis, contexts, context_limit=limit, threshold=threshold)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_is_looked_at_along_any_axis(axis):
    structure = a_ball()
    first = look(Threshold(), structure, a_context(), axis=axis)
    planes = np.moveaxis(structure, axis, 0)
    looks = first.looks(0)
    assert [one.area for one in looks] == [int(plane.sum()) for plane in planes]
    assert all(np.array_equal(first.mask(0, index), plane) for index, plane in enumerate(planes))


def test_neighbours_are_compared_and_the_last_slice_has_none_behind_it():
    structure = a_ball()
    looks = look(Threshold(), structure, a_context()).looks(0)
    for index, one in enumerate(looks[:-1]):
        both = structure[index].any() and structure[index + 1].any()
        assert one.overlap == pytest.approx(dice(structure[index], structure[index + 1]) if both else 0.0)
    assert looks[-1].overlap == 0.0


@pytest.mark.parametrize("radius", [2, 3])
def test_small_pieces_can_be_left_out(radius):
    structure = a_ball()
    structure[0, 0:radius, 0:radius] = True
    first = look(Threshold(), structure, a_context())
    assert first.looks(0)[0].area == radius**2
    first.drop_lesser_pieces(0, bridge=1, part=0.25)
    looks = first.looks(0)
    assert [one.area for one in looks] == [int(plane.sum()) for plane in a_ball()]
    assert looks[0] == SliceLook(0, 0.0, 0.0)
    assert all(np.array_equal(first.mask(0, index), plane) for index, plane in enumerate(a_ball()))


def test_where_nothing_is_seen_there_is_nothing_to_leave_out():
    first = look(Constant(-3.0), a_ball(), a_context())
    first.drop_lesser_pieces(0, bridge=1, part=0.25)
    assert not any(one.area for one in first.looks(0))


def test_where_nothing_is_seen_there_is_no_confidence():
    first = look(Constant(-3.0), a_ball(), a_context())
    assert {(one.area, one.confidence) for one in first.looks(0)} == {(0, 0.0)}
    assert not first.mask(0, 4).any()


def test_structures_are_told_apart_by_the_larger_logit():
    structure = a_ball()
    first = look(Threshold(), structure, a_context("Bright"), a_context("Dark", bright=False))
    for index in range(len(structure)):
        assert not (first.mask(0, index) & first.mask(1, index)).any()
    assert np.array_equal(first.mask(1, 4), ~structure[4])


def test_no_context_is_ever_matched_with_the_image_of_another_slice():
    predictor = Threshold()
    look(predictor, a_ball(), a_context("A"), a_context("B", bright=False))
    shown, image_has_context = None, []
    contexts = iter(predictor.contexts)
    for call in predictor.calls:
        if call == "context":
            shown = next(contexts)
        elif call == "image":
            image_has_context.append(shown is not None)
    assert not any(image_has_context)
    assert predictor.contexts[0] is None


def test_one_context_for_all_slices_is_given_once():
    predictor = Threshold()
    look(predictor, a_ball(), a_context())
    assert [context is None for context in predictor.contexts] == [True, True, False]


def test_of_a_large_context_as_much_is_chosen_as_the_limit_allows():
    predictor = Threshold()
    look(predictor, a_ball(), a_context(), limit=2)
    assert {len(context) for context in predictor.contexts if context is not None} == {2}


def test_a_mask_of_sure_pixels_is_confident_and_one_of_doubtful_pixels_is_not():
    mask = np.zeros((20, 20), bool)
    mask[5:12, 6:14] = True
    sure, doubtful = (np.where(mask, logit, -logit).astype(np.float32) for logit in (9.0, 0.5))
    assert own_confidence(sure, mask) > 0.99
    assert 0.2 < own_confidence(doubtful, mask) < own_confidence(sure, mask)
