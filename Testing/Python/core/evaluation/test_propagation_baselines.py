from __future__ import annotations

import sys

import numpy as np
import pytest

from scribblesegment.data.volume import Volume
from scribblesegment.errors import PromptError
from scribblesegment.evaluation.propagation_baselines import (
    GROW_FROM_SEEDS,
    INTERPOLATION,
    grow_from_slices,
    interpolate_shapes,
    load_baselines,
)

SHAPE = (24, 20, 18)


def a_tube(axis=0, *, start=4, stop=20, half_width=4):
    """A bright tube along an axis: volume and reference, both with that axis first in the reference."""
    mask = np.zeros(SHAPE, bool)
    sides = [slice(8 - half_width, 8 + half_width)] * 3
    sides[axis] = slice(start, stop)
    mask[tuple(sides)] = True
    values = np.where(mask, 200, 20).astype(np.int16)
    return Volume(values, np.eye(4)), np.moveaxis(mask, axis, 0)


def test_shapes_are_interpolated_between_annotated_slices_only():
    volume, slices = a_tube()
    masks = interpolate_shapes(volume, {8: slices[8], 12: slices[12]}, 0, (2, 22))
    assert sorted(masks) == [9, 10, 11]
    assert all(np.array_equal(mask, slices[8]) for mask in masks.values())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_seeds_grow_through_the_volume_along_any_axis(axis):
    pytest.importorskip("slicer")
    volume, slices = a_tube(axis, stop=SHAPE[axis] - 2)
    annotated = {index: slices[index] for index in (7, 9, 11)}
    masks = grow_from_slices(volume, annotated, axis, (4, 14))
    assert sorted(masks) == [4, 5, 6, 8, 10, 12, 13, 14]  # three beyond the seeds, and all that is measured
    assert all(np.array_equal(masks[index], slices[index]) for index in masks)


def test_the_box_around_the_seeds_grows_as_in_slicer_and_to_what_is_measured():
    pytest.importorskip("slicer")
    volume, slices = a_tube()
    annotated = {index: slices[index] for index in (2, 6, 22)}
    assert sorted(grow_from_slices(volume, annotated, 0, (5, 7)))[0] == 0
    assert sorted(grow_from_slices(volume, {9: slices[9]}, 0, (9, 10))) == [6, 7, 8, 10, 11, 12]
    assert max(grow_from_slices(volume, {9: slices[9]}, 0, (9, 20))) == 19


def test_nothing_grows_from_nothing_and_everything_where_nothing_stands_against_it():
    pytest.importorskip("slicer")
    volume, slices = a_tube()
    with pytest.raises(PromptError, match="No annotated slice"):
        grow_from_slices(volume, {3: np.zeros_like(slices[3])}, 0, (0, 9))
    full = grow_from_slices(volume, {9: np.ones_like(slices[9])}, 0, (8, 11))
    assert all(mask.all() for mask in full.values())


def test_without_slicer_interpolation_is_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer", None)
    baselines, skipped = load_baselines()
    assert list(baselines) == [INTERPOLATION]
    assert "slicer-core" in skipped[GROW_FROM_SEEDS]


def test_with_slicer_there_are_both():
    pytest.importorskip("slicer")
    baselines, skipped = load_baselines()
    assert list(baselines) == [INTERPOLATION, GROW_FROM_SEEDS]
    assert skipped == {}
