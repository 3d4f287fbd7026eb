from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.propagation.config import PropagatedSlice, PropagationConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_limit": -1},
        {"context_limit": 2.5},
        {"propagated_context": -1},
        {"patience": 0},
        {"drift": -0.1},
        {"neighbour_limit": float("inf")},
        {"nearness": float("nan")},
        {"reach": -1.0},
        {"consistency": -1.0},
        {"threshold": 1.0},
        {"stop_area": 1.5},
        {"stop_leak": -0.1},
        {"stop_confidence": 2.0},
        {"least_confidence": -1.0},
        {"context_confidence": 1.1},
        {"certain": float("nan")},
        {"neighbour": "mask"},
        {"strokes": "sometimes"},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=r"threshold|" + next(iter(wrong))):
        PropagationConfig(**wrong)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (17, 9)])
def test_a_mask_comes_back_as_it_was_packed(shape, rng):
    mask = rng.random(shape) < 0.4
    piece = PropagatedSlice.of(mask, label=3, index=7, confidence=0.5)
    assert piece.mask.dtype == np.bool_
    assert np.array_equal(piece.mask, mask)
    assert piece.packed.nbytes == -(-mask.size // 8)


def test_changing_a_mask_that_was_handed_out_changes_nothing(rng):
    piece = PropagatedSlice.of(rng.random((4, 4)) < 0.5, label=1, index=0, confidence=1.0)
    before = piece.mask
    piece.mask[:] = True
    assert np.array_equal(piece.mask, before)
