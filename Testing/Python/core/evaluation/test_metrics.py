from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.evaluation.metrics import agreement, dice, hausdorff95, surface_dice

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)
spacings = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10))


def outline_points(mask, spacing):
    """Pixels of the mask with a neighbour outside of it, one by one."""
    height, width = mask.shape
    points = []
    for row, column in np.argwhere(mask).tolist():
        neighbours = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        if any(not (0 <= r < height and 0 <= c < width) or not mask[r, c] for r, c in neighbours):
            points.append((row * spacing[0], column * spacing[1]))
    return points


def brute_force_hausdorff95(mask, reference, spacing):
    first, second = outline_points(mask, spacing), outline_points(reference, spacing)
    distances = [min(math.dist(p, q) for q in second) for p in first]
    distances += [min(math.dist(p, q) for q in first) for p in second]
    ordered = sorted(distances)
    position = 0.95 * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def brute_force_surface_dice(mask, reference, spacing, tolerance):
    first, second = outline_points(mask, spacing), outline_points(reference, spacing)
    near = sum(any(math.dist(p, q) <= tolerance + 1e-9 for q in second) for p in first)
    near += sum(any(math.dist(p, q) <= tolerance + 1e-9 for q in first) for p in second)
    return near / (len(first) + len(second)) if first or second else 1.0


def square(shape, rows, columns):
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_dice_of_half_an_overlap():
    assert dice(square((4, 4), slice(0, 2), slice(0, 2)), square((4, 4), slice(0, 2), slice(1, 3))) == 0.5


@given(masks)
def test_dice_is_that_of_sets(pair):
    first, second = ({tuple(index) for index in np.argwhere(mask).tolist()} for mask in pair)
    expected = 2 * len(first & second) / (len(first) + len(second)) if first or second else 1.0
    assert dice(*pair) == pytest.approx(expected)


@given(masks, spacings)
def test_hausdorff95_is_that_of_all_pairs_of_outline_pixels(pair, spacing):
    mask, reference = pair
    if not (mask.any() and reference.any()):
        return
    assert hausdorff95(mask, reference, spacing) == pytest.approx(brute_force_hausdorff95(mask, reference, spacing))


@settings(max_examples=40)
@given(masks, spacings, st.floats(0, 12))
def test_surface_dice_is_the_share_of_outline_pixels_within_the_tolerance(pair, spacing, tolerance):
    measured = surface_dice(*pair, spacing, tolerance_mm=tolerance)
    low, high = (brute_force_surface_dice(*pair, spacing, tolerance + slack) for slack in (-1e-6, 1e-6))
    assert low - 1e-9 <= measured <= high + 1e-9


def test_surface_dice_of_an_outline_that_is_one_pixel_off():
    reference = square((20, 20), slice(5, 15), slice(5, 15))
    assert surface_dice(np.roll(reference, 1, axis=0), reference, (1.0, 1.0)) == 1.0
    # Two pixels off, of either outline's 36 pixels those of two sides are near, but for one end, and two more inside.
    assert surface_dice(np.roll(reference, 2, axis=0), reference, (1.0, 1.0)) == pytest.approx((2 * 9 + 2) / 36)
    assert surface_dice(np.roll(reference, 1, axis=0), reference, (1.0, 1.0), tolerance_mm=0.5) < 0.6
    assert surface_dice(np.roll(reference, 1, axis=0), reference, (2.0, 1.0)) < 0.6


def test_a_distance_of_exactly_the_tolerance_counts():
    dot, moved = square((9, 9), 1, 1), square((9, 9), 4, 1)
    assert surface_dice(dot, moved, (0.1, 0.1), tolerance_mm=0.3) == 1.0
    assert surface_dice(dot, moved, (0.1, 0.1), tolerance_mm=0.29) == 0.0


@settings(max_examples=40)
@given(masks, spacings)
def test_all_metrics_at_once_are_those_measured_one_by_one(pair, spacing):
    together = agreement(*pair, spacing, tolerance_mm=1.5)
    assert together.dice == dice(*pair)
    assert together.hausdorff95_mm == hausdorff95(*pair, spacing)
    assert together.surface_dice == surface_dice(*pair, spacing, tolerance_mm=1.5)


@pytest.mark.parametrize("tolerance", [-1.0, np.nan, np.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    dot = square((4, 4), 1, 1)
    with pytest.raises(GeometryError, match="tolerance_mm"):
        surface_dice(dot, dot, (1.0, 1.0), tolerance_mm=tolerance)


@given(masks, spacings)
def test_metrics_do_not_care_which_mask_is_the_reference(pair, spacing):
    mask, reference = pair
    assert dice(mask, reference) == dice(reference, mask)
    assert hausdorff95(mask, reference, spacing) == hausdorff95(reference, mask, spacing)
    assert surface_dice(mask, reference, spacing) == surface_dice(reference, mask, spacing)


@given(masks, spacings)
def test_a_mask_agrees_with_itself(pair, spacing):
    mask, _ = pair
    assert dice(mask, mask) == 1.0
    assert hausdorff95(mask, mask, spacing) == 0.0
    assert surface_dice(mask, mask, spacing) == 1.0


def test_hausdorff95_is_in_millimetres_of_each_axis():
    dot, two_rows_down = square((5, 5), 0, 0), square((5, 5), 2, 0)
    two_columns_right = square((5, 5), 0, 2)
    assert hausdorff95(dot, two_rows_down, (3.0, 0.5)) == pytest.approx(6.0)
    assert hausdorff95(dot, two_columns_right, (3.0, 0.5)) == pytest.approx(1.0)


def test_hausdorff95_measures_volumes_too():
    first, second = np.zeros((2, 3, 4, 5), dtype=bool)
    first[0, 0, 0] = second[2, 0, 0] = True
    assert hausdorff95(first, second, (2.0, 1.0, 1.0)) == pytest.approx(4.0)


def test_hausdorff95_leaves_out_the_farthest_twentieth():
    line = square((3, 200), 1, slice(0, 200))
    with_spur = line.copy()
    with_spur[0, 0] = True
    assert hausdorff95(line, with_spur, (1.0, 1.0)) == 0.0


def test_two_empty_masks_agree():
    empty = np.zeros((4, 4), dtype=bool)
    assert dice(empty, empty) == 1.0
    assert hausdorff95(empty, empty, (1.0, 1.0)) == 0.0
    assert surface_dice(empty, empty, (1.0, 1.0)) == 1.0


def test_an_empty_mask_costs_the_diagonal_of_the_image():
    empty, dot = np.zeros((4, 5), dtype=bool), square((4, 5), 1, 1)
    for pair in ((empty, dot), (dot, empty)):
        assert dice(*pair) == 0.0
        assert surface_dice(*pair, (1.0, 1.0)) == 0.0
        assert hausdorff95(*pair, (1.0, 1.0)) == pytest.approx(5.0)  # 3 rows and 4 columns between corner pixels


def test_masks_of_zeros_and_ones_are_accepted():
    dot = square((4, 4), 1, 1)
    assert dice(dot.astype(np.uint8), dot.astype(np.int64)) == 1.0


def at_one_mm(metric):
    return lambda mask, reference: metric(mask, reference, (1.0, 1.0))


@pytest.mark.parametrize(
    "metric",
    [dice, *map(at_one_mm, (hausdorff95, surface_dice, agreement))],
    ids=["dice", "hausdorff95", "surface_dice", "agreement"],
)
class TestAllMetrics:
    def test_refuse_masks_of_different_shape(self, metric):
        with pytest.raises(GeometryError, match=r"\(4, 4\).*\(4, 5\)"):
            metric(np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool))

    @pytest.mark.parametrize("value", [np.full((4, 4), 0.7), np.full((4, 4), 2), np.full((4, 4), -1)])
    def test_refuse_logits_and_label_maps(self, metric, value):
        with pytest.raises(ImageError, match="expected a mask"):
            metric(value, np.zeros((4, 4), dtype=bool))

    @pytest.mark.parametrize("shape", [(0, 4), (4,), (1, 2, 3, 4)])
    def test_refuse_what_is_no_image(self, metric, shape):
        with pytest.raises(ImageError):
            metric(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, np.nan), (1.0, 1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused(spacing):
    dot = square((4, 4), 1, 1)
    with pytest.raises(GeometryError, match="spacing_mm"):
        hausdorff95(dot, dot, spacing)
    with pytest.raises(GeometryError, match="spacing_mm"):
        surface_dice(dot, dot, spacing)
