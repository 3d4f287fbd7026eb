from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from batch_folders import a_ball, a_context
from batch_networks import Threshold
from hypothesis import given
from hypothesis import strategies as st
from propagation_phantoms import dice, tube, volume_of
from slice_predictors import Constant

from scribblesegment.batch.segmentation import (
    BatchConfig,
    choose_accepted,
    context_axis,
    image_axis,
    segment_image,
)
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.masks import drop_small_components
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ContextError

# Images.


def segment(structure, *contexts, predictor=None, axis=0):
    predictor, contexts = predictor or Threshold(), contexts or [a_context()]
    return segment_image(predictor, volume_of(structure), contexts, axis, BatchConfig())


class Unsure(Threshold):
    """Without adjacent slices: misses slice 5 and half of slice 8, and dreams things up in empty ones."""

    def see(self, prompts):
        logits, index = super().see(prompts), len(self.images) - 1  # slices are first predicted one after the other
        if prompts.mask_input is None and index == 5:
            logits[:] = -5.0
        elif prompts.mask_input is None and index == 8:
            logits[: logits.shape[0] // 2] = -0.1
        elif prompts.mask_input is None and not (logits > 0).any():
            logits[0:3, 5 * index % 11 : 5 * index % 11 + 3] = 0.5
        return logits


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("structure", [a_ball(), tube((12, 20, 24), 3.0)])
def test_a_structure_is_found_along_any_axis(axis, structure):
    found = segment(structure, axis=axis)
    assert dice(found.labels == 1, structure) > 0.97
    assert found.labels.dtype == np.uint8
    shown = np.flatnonzero((found.labels == 1).any(axis=tuple({0, 1, 2} - {axis})))
    assert list(found.confidence[0]) == shown.tolist()
    assert all(0.5 < one <= 1.0 for one in found.confidence[0].values())


def blocks(*corners, size=3):
    mask = np.zeros((20, 12, 14), bool)
    for start, stop, row, column in corners:
        mask[start:stop, row : row + size, column : column + size] = True
    return mask


@pytest.mark.parametrize("predictor", [Threshold, Unsure])
@pytest.mark.parametrize("structure", [blocks((3, 12, 4, 3), size=6), blocks((2, 10, 4, 3), (14, 18, 5, 4), size=6)])
def test_what_was_missed_or_dreamt_up_follows_from_adjacent_slices(predictor, structure):
    found = segment(structure, predictor=predictor()).labels == 1
    assert dice(found, structure) > 0.98
    assert np.array_equal(found.any(axis=(1, 2)), structure.any(axis=(1, 2)))


def test_small_components_stay_where_the_context_has_small_components():
    structure, spotted = a_ball(), a_context().entries[0].mask.copy()
    structure[4, 0:2, 0:2] = spotted[11, 13] = True
    scattered = ContextSet("Spots", (ContextEntry(spotted.astype(np.float32), spotted, (1.0, 1.0)),))
    assert not segment(structure).labels[4, 0, 0]
    assert segment(structure, scattered).labels[4, 0, 0]


def test_several_structures_do_not_overlap_whatever_came_before():
    predictor, contexts = Threshold(), (a_context("Bright"), a_context("Dark", bright=False))
    segment(tube((12, 20, 24), 3.0), predictor=predictor)
    found = segment(a_ball(), *contexts, predictor=predictor)
    assert np.array_equal(found.labels == 1, a_ball())
    assert dice(found.labels == 2, ~a_ball()) > 0.95


def test_a_picture_is_predicted_once_and_what_is_not_there_is_not_found():
    predictor = Threshold()
    found = segment(a_ball()[4:5], predictor=predictor)
    assert predictor.calls.count("predict") == 1
    assert np.array_equal(found.labels[0] == 1, a_ball()[4])
    assert list(found.confidence[0]) == [0]
    for structure in (a_ball(), a_ball()[4:5]):
        found = segment(structure, predictor=Constant(-4.0))
        assert not found.labels.any()
        assert found.confidence == ({},)


def test_slices_are_taken_along_the_axis_of_most_entries_or_the_coarsest():
    assert context_axis([a_context(axis=2), a_context("Other", axis=None)]) == 2
    assert context_axis([a_context(axis=None)]) is None
    assert context_axis([ContextSet("Ball", (*a_context("a", axis=1), *tuple(a_context("b", axis=2))[:2]))]) == 1
    with pytest.raises(ContextError, match="'Ball' along k, 'Other' along i"):
        context_axis([a_context(), a_context("Other", axis=2)])
    for shape, spacing, preferred, expected in (
        ((9, 8, 7), (1, 1, 3), None, 0),
        ((9, 8, 7), (3, 1, 1), None, 2),
        ((9, 8, 7), (1, 1.0000000001, 1), None, 0),
        ((9, 8, 7), (1, 1, 3), 1, 1),
        ((9, 8, 1), (1, 1, 3), 0, 2),
    ):
        assert image_axis(Volume(np.zeros(shape), np.diag([*spacing, 1.0])), preferred) == expected


# Which slices are accepted. A digit is a slice's confidence in tenths, "-" a slice without the structure, "x" one that
# adjacent ones contradict; "A" and "N" are the slices that are accepted as showing it and as not showing it.


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ("--69895--", "...AAA..."),  # what is as sure as usual; propagation finds the ends
        ("8998", ".AA."),
        ("-99299-", ".AA.AA."),  # much less sure than usual
        ("-99-99-", ".AA.AA."),  # a slice that was missed
        ("-999x999-", "..AA.AA.."),
        ("-99999----99999-", "..AAA.N....AAA.."),  # nothing between two spans
        ("-999--22--999-", ".AAAN.....AAA."),  # a span of which nothing is trusted
        ("-9-", ".A."),
        ("-22-", "...."),
        ("----", "...."),
        ("", ""),
    ],
)
def test_slices_are_accepted_by_confidence(slices, expected):
    sure = [0.0 if one == "-" else 0.9 if one == "x" else int(one) / 10 for one in slices]
    overlaps = [
        0.0 if not a or not b else 0.05 if "x" in pair else 0.9
        for (a, b), pair in zip(pairwise(sure), map("".join, pairwise(slices)), strict=True)
    ]
    chosen = choose_accepted([100 * (one > 0) for one in sure], sure, overlaps)
    assert "".join({True: "A", False: "N", None: "."}[chosen.get(index)] for index in range(len(slices))) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_what_is_accepted_was_found_and_slices_without_it_lie_between_such_slices(slices):
    areas, sure, overlaps = zip(*slices, strict=True)
    chosen = choose_accepted(areas, sure, overlaps[:-1])
    assert list(chosen) == sorted(chosen)
    assert all((areas[index] > 0) == is_present for index, is_present in chosen.items())
    assert not chosen or chosen[min(chosen)] == chosen[max(chosen)] is True


# Components.


@given(seed=st.integers(0, 2**16 - 1), gap=st.integers(0, 3), part=st.floats(0, 1))
def test_nothing_is_added_the_largest_component_stays_and_direction_does_not_matter(seed, gap, part):
    mask = np.random.default_rng(seed).random((6, 5, 7)) < 0.1 + seed % 7 / 10
    kept = drop_small_components(mask, gap=gap, part=part)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    assert np.array_equal(drop_small_components(kept, gap=gap, part=part), kept)
    assert np.array_equal(drop_small_components(mask[::-1], gap=gap, part=part)[::-1], kept)
    assert part > 0 or np.array_equal(kept, mask)
