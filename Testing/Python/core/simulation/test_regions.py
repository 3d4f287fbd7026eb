from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.regions import bounding_slices, require_mask, require_region


@given(shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 2**32 - 1))
def test_bounding_slices_hold_all_of_a_region_and_touch_it_on_every_side(shape, seed):
    rng = np.random.default_rng(seed)
    region = rng.random(shape) < 0.05
    region[tuple(rng.integers(0, shape))] = True
    part = region[bounding_slices(region)]
    assert part.sum() == region.sum()
    assert all(side.any() for side in (part[0], part[-1], part[:, 0], part[:, -1]))


def test_an_empty_mask_is_a_mask_but_no_region():
    mask = np.zeros((3, 4), dtype=bool)
    require_mask(mask, "mask")
    with pytest.raises(PromptError, match=r"region of shape \(3, 4\) is empty"):
        require_region(mask)


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.zeros((3, 4), dtype=np.int64), r"label has shape \(3, 4\) and type int64"),
        (np.zeros((3, 4, 5), dtype=bool), r"label has shape \(3, 4, 5\) and type bool"),
        ([[True]], r"label has shape \(1, 1\) and type list"),
        (None, r"label has shape \(\) and type NoneType"),
    ],
    ids=["integers", "volume", "list", "nothing"],
)
def test_what_is_no_mask_is_refused_by_its_name_shape_and_type(mask, problem):
    with pytest.raises(PromptError, match=problem):
        require_mask(mask, "label")


@pytest.mark.parametrize("count", [0, -2])
def test_a_region_needs_at_least_one_prompt(count):
    with pytest.raises(ConfigError, match=f"count of {count}"):
        require_region(np.ones((2, 2), dtype=bool), count=count)
