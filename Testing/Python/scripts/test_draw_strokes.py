from __future__ import annotations

import json

import numpy as np
from scripts import SCRIPTS, load_script

draw_strokes = load_script("draw_strokes")


def test_a_line_is_as_wide_as_its_brush_and_one_point_twice_is_a_dot():
    mask = draw_strokes.polyline_mask((9, 12), [[4, 2], [4, 9]], radius=1.0)
    expected = np.zeros((9, 12), dtype=bool)
    expected[3:6, 2:10] = True
    expected[4, [1, 10]] = True
    np.testing.assert_array_equal(mask, expected)
    dot = draw_strokes.polyline_mask((5, 5), [[2, 2], [2, 2]], radius=0.5)
    assert np.argwhere(dot).tolist() == [[2, 2]]


def test_the_demo_s_strokes_of_different_structures_do_not_touch():
    strokes = json.loads((SCRIPTS / "demo_strokes.json").read_text(encoding="utf-8"))
    drawn = np.zeros(shape := (300, 484), dtype=int)
    for segment in strokes["segments"]:
        lines = [draw_strokes.polyline_mask(shape, line, strokes["radius_pixels"]) for line in segment["polylines"]]
        assert all(line.any() for line in lines)
        drawn += np.logical_or.reduce(lines)
    assert drawn.max() == 1
