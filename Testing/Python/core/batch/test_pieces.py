from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.batch.pieces import is_scattered, without_lesser_pieces
from scribblesegment.context.context_set import ContextEntry, ContextSet

masks = st.integers(0, 2**16 - 1).map(lambda seed: np.random.default_rng(seed).random((6, 5, 7)) < 0.1 + seed % 7 / 10)


def block(*corners, shape=(8, 10, 12)):
    """A mask with boxes (start, stop) of slices; each 3 x 3 pixels wide at its place in the slice."""
    mask = np.zeros(shape, bool)
    for start, stop, row, column in corners:
        mask[start:stop, row : row + 3, column : column + 3] = True
    return mask


def test_a_small_piece_beside_a_large_one_is_left_out():
    both = block((0, 6, 1, 1), (0, 1, 6, 8))
    assert np.array_equal(without_lesser_pieces(both, bridge=0, part=0.25), block((0, 6, 1, 1)))
    assert np.array_equal(without_lesser_pieces(both, bridge=0, part=0.1), both)


@pytest.mark.parametrize(
    ("gap", "bridge", "stays"), [(0, 0, True), (1, 0, False), (1, 1, True), (2, 1, False), (2, 2, True)]
)
def test_empty_slices_up_to_the_bridge_do_not_divide_a_piece(gap, bridge, stays):
    mask = block((0, 5, 1, 1), (5 + gap, 6 + gap, 1, 1))
    kept = without_lesser_pieces(mask, bridge=bridge, part=0.25)
    assert kept[5 + gap].any() == stays
    assert kept[:5].any()


def test_pieces_that_only_lie_beside_each_other_are_not_joined_by_the_bridge():
    mask = block((0, 5, 1, 1), (4, 5, 5, 5))
    assert np.array_equal(without_lesser_pieces(mask, bridge=2, part=0.25), block((0, 5, 1, 1)))


@given(mask=masks, bridge=st.integers(0, 3), part=st.floats(0, 1))
def test_nothing_is_added_and_the_largest_piece_stays(mask, bridge, part):
    kept = without_lesser_pieces(mask, bridge=bridge, part=part)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    assert np.array_equal(without_lesser_pieces(kept, bridge=bridge, part=part), kept)
    if part == 0:
        assert np.array_equal(kept, mask)


@given(mask=masks, bridge=st.integers(0, 3))
def test_the_direction_of_the_axis_does_not_matter(mask, bridge):
    forwards = without_lesser_pieces(mask, bridge=bridge, part=0.5)
    backwards = without_lesser_pieces(mask[::-1], bridge=bridge, part=0.5)
    assert np.array_equal(forwards, backwards[::-1])


def a_context(*slices) -> ContextSet:
    entries = tuple(ContextEntry(np.zeros(one.shape, np.float32), one, (1.0, 1.0)) for one in slices)
    return ContextSet("structure", entries)


def test_a_structure_is_scattered_if_its_context_shows_small_pieces():
    whole, two, spots = block((0, 1, 1, 1))[0], block((0, 1, 1, 1), (0, 1, 6, 8))[0], block((0, 1, 1, 1))[0]
    spots[8, 10] = True
    empty = np.zeros_like(whole)
    assert not is_scattered(a_context(whole, two, empty), 0.25)
    assert is_scattered(a_context(spots, spots, whole, empty), 0.25)
    assert not is_scattered(a_context(spots, whole, whole, two), 0.25)
    assert not is_scattered(a_context(empty), 0.25)
