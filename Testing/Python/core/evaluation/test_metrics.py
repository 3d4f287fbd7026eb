from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment.evaluation.metrics import dice, hausdorff95
from scribblesegment.exceptions import GeometryError, ImageError

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


@given(masks, spacings)
def test_metrics_do_not_care_which_mask_is_the_reference(pair, spacing):
    mask, reference = pair
    assert dice(mask, reference) == dice(reference, mask)
    assert hausdorff95(mask, reference, spacing) == hausdorff95(reference, mask, spacing)


@given(masks, spacings)
def test_a_mask_agrees_with_itself(pair, spacing):
    mask, _ = pair
    assert dice(mask, mask) == 1.0
    assert hausdorff95(mask, mask, spacing) == 0.0


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


def test_an_empty_mask_costs_the_diagonal_of_the_image():
    empty, dot = np.zeros((4, 5), dtype=bool), square((4, 5), 1, 1)
    for pair in ((empty, dot), (dot, empty)):
        assert dice(*pair) == 0.0
        assert hausdorff95(*pair, (1.0, 1.0)) == pytest.approx(5.0)  # 3 rows and 4 columns between corner pixels


def test_masks_of_zeros_and_ones_are_accepted():
    dot = square((4, 4), 1, 1)
    assert dice(dot.astype(np.uint8), dot.astype(np.int64)) == 1.0


@pytest.mark.parametrize("metric", [dice, lambda a, b: hausdorff95(a, b, (1.0, 1.0))], ids=["dice", "hausdorff95"])
class TestBothMetrics:
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
