from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, FileFormatError, MissingDependencyError
from scribblesegment.evaluation.curves import METRIC_TITLES, with_curves, write_curves
from scribblesegment.evaluation.simulated_summary import summarise_simulation

BLUE, VERMILION = (0, 0.447, 0.698), (0.835, 0.369, 0)


@pytest.fixture
def summaries(simulate, rng):
    """Of one procedure or several, by one method or two."""

    def make(procedures=("centerline-scribbles",), methods=("one",), spread=0.1):
        dice = {
            (procedure, method, f"a{n}"): [0.3 + spread * n, 0.5 + spread * n, 0.6][: 1 if procedure == "boxes" else 3]
            for procedure in procedures
            for method in methods
            for n in range(4)
        }
        return summarise_simulation(simulate(dice, steps=3), rng)

    return make


def draw(path, summaries, metric="dice"):
    image = pytest.importorskip("matplotlib.image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_curves(path, summaries, metric)
    return image.imread(path)[..., :3]


def close_to(picture, color, tolerance=0.08):
    return int((np.abs(picture - color).max(axis=2) < tolerance).sum())


def test_each_method_has_a_curve_of_its_own_colour(summaries, tmp_path):
    one = draw(tmp_path / "one.png", summaries())
    assert close_to(one, BLUE) > 500
    assert close_to(one, VERMILION) == 0
    two = draw(tmp_path / "two.png", summaries(methods=("one", "two")))
    assert close_to(two, VERMILION) > 500


def test_intervals_are_shaded(summaries, tmp_path):
    shade = 1 - 0.15 * (1 - np.array(BLUE))
    wide = close_to(draw(tmp_path / "wide.png", summaries(spread=0.1)), shade, 0.03)
    assert wide > 3000
    assert close_to(draw(tmp_path / "narrow.png", summaries(spread=0.0)), shade, 0.03) < wide / 4


def test_procedures_have_panels_and_those_of_one_step_have_none(summaries, tmp_path):
    curves = ("line-scribbles", "centerline-scribbles", "contour-scribbles", "center-clicks")
    entries = summaries((*curves, "boxes"))
    assert [entry.procedure for entry in with_curves(entries)] == list(curves)
    four, one = draw(tmp_path / "four.png", entries), draw(tmp_path / "one.png", summaries(curves[:1]))
    assert four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] > 1.3 * one.shape[1]


@pytest.mark.parametrize("metric", METRIC_TITLES)
def test_every_metric_can_be_drawn_for_many_methods(summaries, tmp_path, metric):
    assert close_to(draw(tmp_path / "out.png", summaries(methods=[f"m{n}" for n in range(9)]), metric), BLUE) > 100


def test_nothing_to_draw_and_an_unknown_metric_are_refused(summaries, tmp_path):
    pytest.importorskip("matplotlib")
    for nothing in ([], summaries(("boxes",))):
        with pytest.raises(ConfigError, match="no curve"):
            write_curves(tmp_path / "out.png", nothing, "dice")
    with pytest.raises(ConfigError, match="No metric 'seconds'"):
        write_curves(tmp_path / "out.png", summaries(), "seconds")


def test_a_place_that_cannot_be_written_is_named(summaries, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(FileFormatError, match="does not exist"):
        write_curves(tmp_path / "nowhere" / "out.png", summaries(), "dice")


def test_without_matplotlib_what_to_install_is_told(summaries, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"scribblesegment\[evaluation\]"):
        write_curves(tmp_path / "out.png", summaries(), "dice")
