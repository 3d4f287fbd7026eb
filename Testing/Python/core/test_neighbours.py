from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.data.masks import inner_lines, with_neighbours
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import PromptError


def block(top: int, bottom: int, left: int, right: int, shape=(40, 50)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_long_object_gets_a_line_along_its_middle():
    lines = inner_lines(block(10, 21, 5, 45))
    assert lines[15, 15:35].all()
    assert not lines[[11, 12, 18, 19]].any()


def test_a_thin_object_gets_none():
    assert not inner_lines(block(10, 15, 5, 45)).any()


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40), st.integers(1, 40))
def test_lines_keep_their_distance_from_the_edge(top, left, height, width):
    mask = block(top, top + height, left, left + width)
    lines = inner_lines(mask)
    assert not (lines & ~mask).any()
    for axis, shift in ((0, 3), (0, -3), (1, 3), (1, -3)):
        # Beyond the image lies no object, so what is shifted in from there is background.
        moved = np.roll(np.pad(mask, 3), shift, axis)[3:-3, 3:-3]
        assert not (lines & ~moved).any()


def test_neighbours_become_negative_strokes_beside_the_users_own():
    own = block(30, 32, 30, 40)
    prompts = with_neighbours(Prompts.empty((40, 50)).with_scribble(own), block(5, 25, 5, 45))
    assert prompts.scribbles[1].any()
    assert np.array_equal(prompts.scribbles[0] > 0, own)


def test_what_the_user_drew_inside_a_neighbour_stays_positive():
    neighbour = block(5, 25, 5, 45)
    prompts = with_neighbours(Prompts.empty((40, 50)).with_scribble(neighbour), neighbour)
    assert not prompts.scribbles[1].any()


def test_neighbours_of_another_shape_are_refused():
    with pytest.raises(PromptError, match="shape"):
        with_neighbours(Prompts.empty((40, 50)), np.zeros((50, 40), bool))
