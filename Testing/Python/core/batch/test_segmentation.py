from __future__ import annotations

import numpy as np
import pytest
from batch_folders import a_ball, a_context
from batch_networks import Threshold
from propagation_phantoms import dice, tube, volume_of
from slice_predictors import Constant

from scribblesegment.batch.acceptance import AcceptanceConfig
from scribblesegment.batch.segmentation import BatchConfig, context_axis, image_axis, segment_image
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ContextError


def segment(structure, *contexts, predictor=None, axis=0, config=None, array=None):
    volume = volume_of(structure) if array is None else Volume(array, np.eye(4))
    return segment_image(predictor or Threshold(), volume, contexts or [a_context()], axis, config or BatchConfig())


class Flickering(Threshold):
    """Sees nothing, or half of it, in some slices, unless the neighbours tell what to expect."""

    def see(self, prompts):
        logits = super().see(prompts)
        if prompts.mask_input is not None:
            return logits
        column = len(self.images) - 1  # the first look goes from slice to slice
        if column == self.misses:
            return np.full_like(logits, -5.0)
        if column == self.halves:
            logits[: logits.shape[0] // 2] = -0.1
        return logits


class Dreaming(Threshold):
    """Sees things in slices in which there is nothing, unless the neighbours tell what to expect."""

    def see(self, prompts):
        logits = super().see(prompts)
        if prompts.mask_input is None and not (logits > 0).any():
            column = 5 * len(self.images) % 11
            logits[0:3, column : column + 3] = 0.5
        return logits


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("structure", [a_ball(), tube((12, 20, 24), 3.0)])
def test_a_structure_is_found_along_any_axis(axis, structure):
    found = segment(structure, axis=axis)
    assert dice(found.labels == 1, structure) > 0.97
    assert found.labels.dtype == np.uint8
    assert found.axis == axis
    shown = np.flatnonzero((found.labels == 1).any(axis=tuple({0, 1, 2} - {axis})))
    assert list(found.confidence[0]) == shown.tolist()
    assert all(0.5 < one <= 1.0 for one in found.confidence[0].values())


def test_slices_that_were_missed_follow_from_their_neighbours():
    structure = tube((12, 20, 24), 3.0)
    predictor = Flickering()
    predictor.misses, predictor.halves = 5, 8
    found = segment(structure, predictor=predictor)
    assert dice(found.labels[5] == 1, structure[5]) > 0.9
    assert dice(found.labels[8] == 1, structure[8]) > 0.9


def test_what_is_dreamt_up_beside_the_structure_is_left_out():
    structure = np.zeros((20, 12, 14), bool)
    structure[5:12, 4:9, 3:9] = True
    found = segment(structure, predictor=Dreaming())
    assert np.array_equal(found.labels == 1, structure)


def test_small_pieces_stay_where_the_context_has_small_pieces():
    structure = a_ball()
    structure[4, 0:2, 0:2] = True
    entry = a_context().entries[0]
    spotted = entry.mask.copy()
    spotted[11, 13] = True
    scattered = ContextSet("Spots", (ContextEntry(spotted.astype(np.float32), spotted, (1.0, 1.0)),))
    assert not segment(structure).labels[4, 0, 0]
    assert segment(structure, scattered).labels[4, 0, 0]


def test_ends_can_be_carried_on_from_the_best_slices():
    structure = tube((12, 20, 24), 3.0)
    config = BatchConfig(acceptance=AcceptanceConfig(most=2, apart=0.3, beyond=True))
    assert dice(segment(structure, config=config).labels == 1, structure) > 0.9


def test_two_separate_pieces_are_found_and_nothing_between_them():
    structure = np.zeros((20, 12, 14), bool)
    structure[2:8, 4:9, 3:9] = structure[12:18, 5:10, 4:10] = True
    assert np.array_equal(segment(structure).labels == 1, structure)


def test_several_structures_do_not_overlap():
    structure = a_ball()
    found = segment(structure, a_context("Bright"), a_context("Dark", bright=False))
    assert np.array_equal(found.labels == 1, structure)
    assert dice(found.labels == 2, ~structure) > 0.95


def test_a_structure_that_is_not_there_is_not_found():
    found = segment(a_ball(), predictor=Constant(-4.0))
    assert not found.labels.any()
    assert found.confidence == ({},)


def test_a_picture_is_predicted_once():
    predictor = Threshold()
    found = segment(a_ball()[4:5], predictor=predictor)
    assert predictor.calls.count("predict") == 1
    assert np.array_equal(found.labels[0] == 1, a_ball()[4])
    assert list(found.confidence[0]) == [0]


def test_a_picture_without_the_structure_has_no_confidence():
    found = segment(a_ball()[4:5], predictor=Constant(-4.0))
    assert found.confidence == ({},)


def test_the_same_image_gives_the_same_result_whatever_came_before():
    predictor, other = Threshold(), tube((12, 20, 24), 3.0)
    alone = segment(a_ball())
    segment(other, predictor=predictor)
    after = segment(a_ball(), predictor=predictor)
    assert np.array_equal(alone.labels, after.labels)
    assert alone.confidence == after.confidence


@pytest.mark.parametrize(
    ("shape", "spacing", "preferred", "expected"),
    [
        ((9, 8, 7), (1, 1, 3), None, 0),
        ((9, 8, 7), (3, 1, 1), None, 2),
        ((9, 8, 7), (1, 1, 1), None, 0),
        ((9, 8, 7), (1, 1.0000000001, 1), None, 0),
        ((9, 8, 7), (1, 1, 3), 1, 1),
        ((1, 8, 7), (1, 1, 1), 2, 0),
        ((9, 8, 1), (1, 1, 3), 0, 2),
    ],
)
def test_slices_are_taken_along_the_coarsest_axis_unless_told_otherwise(shape, spacing, preferred, expected):
    volume = Volume(np.zeros(shape), np.diag([*spacing, 1.0]))
    assert image_axis(volume, preferred) == expected


def test_the_axis_is_that_of_most_entries():
    assert context_axis([a_context(axis=2), a_context("Other", axis=None)]) == 2
    assert context_axis([a_context(axis=None)]) is None
    mixed = ContextSet("Ball", (*a_context("a", axis=1), *tuple(a_context("b", axis=2))[:2]))
    assert context_axis([mixed]) == 1


def test_sets_along_different_axes_are_told_apart():
    with pytest.raises(ContextError, match="'Ball' along k, 'Other' along i"):
        context_axis([a_context(), a_context("Other", axis=2)])
