from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, MissingDependencyError
from scribblesegment.evaluation.panels import Line, Panel, write_panels
from scribblesegment.evaluation.summary import Estimate

BLUE, VERMILION = (0, 0.447, 0.698), (0.835, 0.369, 0)


def a_line(name="one", x=(1, 2, 4), spread=0.1):
    return Line(name, x, [Estimate(0.5, 0.5 - spread, 0.5 + spread) for _ in x])


def draw(path, panels, **options):
    image = pytest.importorskip("matplotlib.image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_panels(path, panels, x_title="x", y_title="y", **options)
    return image.imread(path)[..., :3]


def close_to(picture, color, tolerance=0.08):
    return int((np.abs(picture - color).max(axis=2) < tolerance).sum())


def test_a_name_has_one_colour_in_all_panels(tmp_path):
    one = draw(tmp_path / "one.png", [Panel("a", [a_line()])])
    assert close_to(one, BLUE) > 300
    assert close_to(one, VERMILION) == 0
    two = draw(tmp_path / "two.png", [Panel("a", [a_line(), a_line("two")]), Panel("b", [a_line("two")])])
    assert close_to(two, VERMILION) > 600


def test_intervals_are_shaded(tmp_path):
    shade = 1 - 0.15 * (1 - np.array(BLUE))
    wide = close_to(draw(tmp_path / "wide.png", [Panel("a", [a_line()])]), shade, 0.03)
    assert wide > 3000
    assert close_to(draw(tmp_path / "narrow.png", [Panel("a", [a_line(spread=0)])]), shade, 0.03) < wide / 4


def test_more_than_three_panels_take_a_second_row(tmp_path):
    panels = [Panel(str(n), [a_line()]) for n in range(4)]
    assert draw(tmp_path / "four.png", panels).shape[0] > 1.5 * draw(tmp_path / "one.png", panels[:1]).shape[0]


def test_sizes_that_double_and_many_lines_can_be_drawn(tmp_path):
    lines = [a_line(f"method {n}") for n in range(9)]
    assert close_to(draw(tmp_path / "out.png", [Panel("a", lines)], doubling=True), BLUE) > 100


def test_nothing_to_draw_is_refused_and_a_lack_of_matplotlib_told(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="no line"):
        write_panels(tmp_path / "out.png", [Panel("a", [])], x_title="x", y_title="y")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"scribblesegment\[evaluation\]"):
        write_panels(tmp_path / "out.png", [Panel("a", [a_line()])], x_title="x", y_title="y")
