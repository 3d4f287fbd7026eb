from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.batch.acceptance import AcceptanceConfig, SliceLook, choose_accepted
from scribblesegment.errors import ConfigError

GONE = SliceLook(0, 0.0, 0.0)
FEW = {"most": 3, "apart": 0.25, "near_usual": 0.9, "beyond": True}


# What is less than half as sure as usual is made anew, and the ends stay.
HALF = {"near_usual": 0.5, "beyond": False}


def stretch(*confidence: float, area: int = 100, overlap: float = 0.9) -> list[SliceLook]:
    """Slices that show a structure, each overlapping the next."""
    looks = [SliceLook(area, one, overlap) for one in confidence]
    return [*looks[:-1], SliceLook(area, confidence[-1], 0.0)]


def shown(looks, **options) -> list[int]:
    config = AcceptanceConfig(**{**HALF, **options})
    return [index for index, is_shown in choose_accepted(looks, config).items() if is_shown]


def absent(looks, **options) -> list[int]:
    config = AcceptanceConfig(**{**HALF, **options})
    return [index for index, is_shown in choose_accepted(looks, config).items() if not is_shown]


def test_slices_that_agree_are_all_accepted_and_the_structure_ends_where_they_do():
    looks = [GONE, GONE, *stretch(0.8, 0.9, 0.9, 0.8), GONE, GONE]
    assert shown(looks) == [2, 3, 4, 5]
    assert absent(looks) == [1, 6]


def test_at_the_ends_of_the_volume_nothing_says_that_the_structure_ends():
    assert absent(stretch(0.8, 0.9, 0.9, 0.8)) == []


def test_a_slice_that_is_much_less_sure_than_usual_is_made_anew():
    looks = [GONE, *stretch(0.9, 0.9, 0.2, 0.9, 0.9), GONE]
    assert shown(looks) == [1, 2, 4, 5]
    assert shown(looks, near_usual=0.1) == [1, 2, 3, 4, 5]


def test_a_slice_that_its_neighbours_contradict_is_made_anew():
    looks = [GONE, *stretch(*[0.9] * 7), GONE]
    looks[3] = SliceLook(100, 0.9, 0.05)
    looks[4] = SliceLook(100, 0.9, 0.05)
    assert shown(looks, near_usual=0.75) == [1, 2, 3, 5, 6, 7]


def test_a_slice_that_was_missed_is_made_anew():
    looks = [GONE, *stretch(0.9, 0.9), GONE, *stretch(0.9, 0.9), GONE]
    assert shown(looks) == [1, 2, 4, 5]
    assert absent(looks) == [0, 6]
    assert absent(looks, bridge=0) == [0, 3, 6]


def test_by_default_what_is_as_sure_as_usual_is_carried_on_to_both_sides():
    looks = [GONE, GONE, *stretch(0.6, 0.9, 0.8, 0.9, 0.5), GONE, GONE]
    assert choose_accepted(looks, AcceptanceConfig()) == {3: True, 4: True, 5: True}


def test_the_ends_of_a_stretch_stay_as_they_were_found():
    looks = [GONE, *stretch(0.3, 0.9, 0.9, 0.9, 0.3), GONE]
    assert shown(looks, near_usual=0.9) == [1, 2, 3, 4, 5]
    assert shown(looks, near_usual=0.9, beyond=True) == [2, 3, 4]
    assert absent(looks, beyond=True) == []


def test_stretches_are_kept_apart_also_if_each_may_go_on():
    looks = [GONE, *stretch(*[0.9] * 5), *[GONE] * 4, *stretch(*[0.9] * 5), GONE]
    assert absent(looks, beyond=True) == [6]
    assert absent(looks) == [0, 6, 9, 15]


def test_a_few_of_the_best_slices_some_way_apart_can_be_asked_for():
    looks = [GONE, *stretch(0.9, 0.93, 0.9, 0.9, 0.92, 0.9, 0.9, 0.91, 0.9, 0.4), GONE]
    assert shown(looks, **FEW) == [2, 5, 8]
    assert shown(looks, **(FEW | {"most": 2})) == [2, 5]
    assert shown(looks, **(FEW | {"most": 1})) == [2]


def test_nothing_is_accepted_where_nothing_is_believed():
    assert choose_accepted([], AcceptanceConfig()) == {}
    assert choose_accepted([GONE] * 4, AcceptanceConfig()) == {}
    assert choose_accepted([GONE, *stretch(0.2, 0.2), GONE], AcceptanceConfig()) == {}


def test_a_structure_of_one_sure_slice_is_accepted():
    assert shown([GONE, SliceLook(30, 0.95, 0.0), GONE]) == [1]


@given(
    looks=st.lists(st.builds(SliceLook, st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=40),
    most=st.none() | st.integers(1, 4),
    apart=st.floats(0, 1),
    bridge=st.integers(0, 3),
    beyond=st.booleans(),
)
def test_what_is_accepted_was_seen_and_what_is_absent_was_not(looks, most, apart, bridge, beyond):
    config = AcceptanceConfig(most=most, apart=apart, bridge=bridge, beyond=beyond)
    accepted = choose_accepted(looks, config)
    assert list(accepted) == sorted(accepted)
    assert all((looks[index].area > 0) == is_shown for index, is_shown in accepted.items())
    assert not accepted or any(accepted.values())
    assert choose_accepted(list(looks), config) == accepted


@given(
    looks=st.lists(st.builds(SliceLook, st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=40),
    bridge=st.integers(0, 3),
)
def test_propagation_never_leaves_the_stretches(looks, bridge):
    accepted = choose_accepted(looks, AcceptanceConfig(bridge=bridge, beyond=False))
    for lower, upper in pairwise(accepted):
        if accepted[lower] and accepted[upper]:  # only between such slices others are made
            between = "".join("x" if looks[index].area else "-" for index in range(lower + 1, upper))
            assert max(map(len, between.split("x"))) <= bridge
        elif accepted[lower] or accepted[upper]:
            assert upper == lower + 1
    if accepted:
        assert not accepted[min(accepted)] or min(accepted) == 0
        assert not accepted[max(accepted)] or max(accepted) == len(looks) - 1


@pytest.mark.parametrize(
    "values",
    [
        {"least_trust": -0.1},
        {"near_usual": 1.1},
        {"apart": np.nan},
        {"lesser_piece": 2.0},
        {"most": 0},
        {"bridge": -1},
    ],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        AcceptanceConfig(**values)
