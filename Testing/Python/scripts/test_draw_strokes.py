from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture(scope="module")
def draw_strokes():
    return load_script("draw_strokes")


def test_a_line_is_as_wide_as_its_brush(draw_strokes):
    mask = draw_strokes.polyline_mask((9, 12), [[4, 2], [4, 9]], radius=1.0)
    expected = np.zeros((9, 12), dtype=bool)
    expected[3:6, 2:10] = True
    expected[4, [1, 10]] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_line_of_one_point_twice_is_a_dot(draw_strokes):
    mask = draw_strokes.polyline_mask((5, 5), [[2, 2], [2, 2]], radius=0.5)
    assert np.argwhere(mask).tolist() == [[2, 2]]


def test_the_demo_s_strokes_of_different_structures_do_not_touch(draw_strokes):
    strokes = json.loads((SCRIPTS / "demo_strokes.json").read_text(encoding="utf-8"))
    shape = (300, 484)
    drawn = np.zeros(shape, dtype=int)
    for segment in strokes["segments"]:
        lines = [draw_strokes.polyline_mask(shape, line, strokes["radius_pixels"]) for line in segment["polylines"]]
        assert all(line.any() for line in lines)
        drawn += np.logical_or.reduce(lines)
    assert drawn.max() == 1
