"""A correction is one more accepted slice: what is predicted again, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from propagation_phantoms import assembled, ball, cut, dice, tube, volume_of
from slice_predictors import Brightness

from scribblesegment.propagation import Propagator


def test_a_correction_leaves_alone_what_it_cannot_reach():
    structure = tube()
    annotated = cut(structure, 0, 3, 8, 15)
    propagator = Propagator(Brightness())
    first = propagator.run(volume_of(structure), annotated, 0)
    predictor = Brightness()
    annotated[11] = structure[11] & (np.arange(30) > 12)
    second = Propagator(predictor).run(volume_of(structure), annotated, 0, previous=first)
    assert set(second.slices) - second.reused == {9, 10, 12, 13, 14}
    assert len(predictor.prompts) == 5
    for index in second.reused:
        assert np.array_equal(second.slices[index].mask, first.slices[index].mask)
    assert 11 not in second.slices
    assert second.stopped == first.stopped


def test_a_correction_in_a_tail_is_followed_to_the_end():
    structure = tube()
    annotated = cut(structure, 0, 5, 8)
    volume = volume_of(structure)
    first = Propagator(Brightness()).run(volume, annotated, 0)
    second = Propagator(Brightness()).run(volume, annotated | cut(structure, 0, 14), 0, previous=first)
    assert second.reused == {0, 1, 2, 3, 4, 6, 7}
    assert set(second.slices) == set(range(20)) - {5, 8, 14}


@pytest.mark.parametrize("change", ["another mask", "taken away"])
def test_a_changed_or_removed_accepted_slice_is_predicted_from_again(change):
    structure = tube()
    annotated = cut(structure, 0, 3, 8, 15)
    volume = volume_of(structure)
    first = Propagator(Brightness()).run(volume, annotated, 0)
    if change == "another mask":
        annotated[8] = annotated[8] & (np.arange(30) > 12)
    else:
        del annotated[8]
    second = Propagator(Brightness()).run(volume, annotated, 0, previous=first)
    assert second.reused == {0, 1, 2, 16, 17, 18, 19}


def test_the_same_slices_again_cost_nothing_and_give_the_same():
    structure = ball()
    annotated = cut(structure, 0, 6, 11)
    first = Propagator(Brightness()).run(volume_of(structure), annotated, 0)
    predictor = Brightness()
    second = Propagator(predictor).run(volume_of(structure), annotated, 0, previous=first)
    assert predictor.prompts == []
    assert second.reused == set(first.slices)
    assert (second.next_slice, second.stopped) == (first.next_slice, first.stopped)
    assert second.slices_per_second == 0.0


@pytest.mark.parametrize("done", [0, 1, 4, 9])
def test_a_cancelled_run_goes_on_where_it_was(done):
    structure = tube()
    annotated = cut(structure, 0, 4, 12)
    run = Propagator(Brightness()).iterate(volume_of(structure), annotated, 0)
    for _ in range(done):
        next(run)
    first = run.result()[1]
    assert first.cancelled
    predictor = Brightness()
    second = Propagator(predictor).run(volume_of(structure), annotated, 0, previous=first)
    assert len(second.reused) == done
    assert len(predictor.prompts) == 18 - done
    assert set(second.slices) == set(range(20)) - {4, 12}
    assert dice(assembled(second, structure.shape), structure) > 0.97


def test_a_larger_range_goes_on_from_the_old_end():
    structure = tube()
    annotated = cut(structure, 0, 9)
    first = Propagator(Brightness()).run(volume_of(structure), annotated, 0, index_range=(6, 12))
    second = Propagator(Brightness()).run(volume_of(structure), annotated, 0, previous=first)
    assert second.reused == set(first.slices)
    assert set(second.slices) == set(range(20)) - {9}


def test_correcting_the_proposed_slice_improves_the_result():
    structure = tube(radius=3.0)
    volume = volume_of(structure)
    # A network that follows its neighbours loses the wandering tube between accepted slices.
    predictor = Brightness(contrast=1.0, trust=1.0)
    annotated = cut(structure, 0, 1, 18)
    first = Propagator(predictor).run(volume, annotated, 0)
    assert first.next_slice is not None
    second = Propagator(predictor).run(volume, annotated | cut(structure, 0, first.next_slice), 0, previous=first)
    others = [index for index in first.slices if index != first.next_slice]
    before, after = (
        np.mean([dice(result.slices[index].mask, structure[index]) for index in others]) for result in (first, second)
    )
    assert after > before
