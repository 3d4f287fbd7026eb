from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.data.masks import CleanUp
from scribblesegment.errors import ConfigError, GeometryError


def logits_with_two_discs() -> np.ndarray:
    """A large piece with a hole at the left, a small one at the right; unsure around the large one."""
    logits = np.full((40, 60), -5.0, np.float32)
    logits[8:32, 4:30] = -0.5
    logits[10:30, 6:28] = 5.0
    logits[18:22, 14:18] = -5.0
    logits[20:23, 50:53] = 5.0
    return logits


def at(*places: tuple[int, int]) -> np.ndarray:
    anchors = np.zeros((40, 60), bool)
    for place in places:
        anchors[place] = True
    return anchors


def clean(anchors: np.ndarray, spacing_mm: tuple[float, float] = (1.0, 1.0), **options) -> np.ndarray:
    return CleanUp(**options).mask(logits_with_two_discs(), anchors=anchors, spacing_mm=spacing_mm)


def test_pieces_that_nothing_was_drawn_on_are_removed_by_default():
    mask = clean(at((12, 10)))
    assert mask[12, 10]
    assert not mask[21, 51]


def test_all_pieces_stay_when_asked_for():
    mask = clean(at((12, 10)), keep_touched=False)
    assert mask[12, 10]
    assert mask[21, 51]


def test_nothing_stays_when_the_anchors_miss_the_mask():
    assert not clean(at((0, 0))).any()


def test_holes_stay_unless_they_are_to_be_filled():
    assert not clean(at((12, 10)))[20, 16]
    assert clean(at((12, 10)), fill_holes=True)[20, 16]


def test_a_lower_threshold_gives_a_larger_mask():
    assert clean(at((12, 10)), threshold=0.2).sum() > clean(at((12, 10))).sum()


@pytest.mark.parametrize(("area", "stays"), [(0.0, True), (9.0, True), (9.1, False)])
def test_islands_are_measured_in_square_millimetres(area, stays):
    assert clean(at(), keep_touched=False, smallest_island_mm2=area)[21, 51] == stays


def test_the_area_of_an_island_counts_both_spacings():
    assert clean(at(), (0.5, 4.0), keep_touched=False, smallest_island_mm2=18.0)[21, 51]
    assert not clean(at(), (0.5, 4.0), keep_touched=False, smallest_island_mm2=18.1)[21, 51]


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"smallest_island_mm2": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        CleanUp(**options)


def test_anchors_of_another_shape_are_refused():
    with pytest.raises(GeometryError, match="shape"):
        CleanUp().mask(np.zeros((4, 5), np.float32), anchors=np.zeros((4, 4), bool), spacing_mm=(1.0, 1.0))
