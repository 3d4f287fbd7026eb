"""Tests of scribblesegment.data.masks: thresholds, label maps, changed boxes, and the clean-up of masks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment.data.masks import (
    changed_bbox,
    expected_dice,
    fill_holes,
    keep_largest,
    keep_touched,
    logits_to_mask,
    probability_to_logit,
    remove_small_islands,
    resolve_labels,
)
from scribblesegment.errors import ConfigError, GeometryError, ImageError

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9))
CLEAN_UPS: list[Callable[[np.ndarray], np.ndarray]] = [
    fill_holes,
    keep_largest,
    lambda mask: remove_small_islands(mask, 3),
    lambda mask: keep_touched(mask, mask),
    lambda mask: keep_touched(np.ones_like(mask), mask),
]


def drawing(*rows: str) -> np.ndarray:
    """A mask drawn with `#`."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


# --- Thresholds -------------------------------------------------------------------------------------------------------


def test_a_mask_is_where_the_probability_exceeds_the_threshold() -> None:
    logits = np.array([[-3.0, 0.0, 0.1], [math.log(4) - 1e-6, math.log(4) + 1e-6, 50.0]])
    np.testing.assert_array_equal(logits_to_mask(logits), [[False, False, True], [True, True, True]])
    np.testing.assert_array_equal(logits_to_mask(logits, 0.8), [[False, False, False], [False, True, True]])
    assert logits_to_mask(logits.astype(np.float32)).dtype == np.bool_


@given(st.floats(1e-6, 1 - 1e-6))
def test_the_logit_of_a_probability_is_undone_by_the_sigmoid(probability: float) -> None:
    assert 1 / (1 + math.exp(-probability_to_logit(probability))) == pytest.approx(probability, rel=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 3.0, math.nan])
def test_thresholds_that_are_no_probabilities_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        logits_to_mask(np.zeros((2, 2)), threshold)
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        resolve_labels(np.zeros((1, 2, 2)), threshold)


def test_nan_logits_are_background_and_infinite_ones_decide() -> None:
    np.testing.assert_array_equal(logits_to_mask([np.nan, np.inf, -np.inf]), [False, True, False])


# --- Several labels ---------------------------------------------------------------------------------------------------


def test_the_most_probable_label_wins_and_nothing_below_the_threshold_counts() -> None:
    logits = np.array([[[1.0, -1.0, 3.0, 0.0]], [[2.0, -2.0, 1.0, 0.5]]])
    labels = resolve_labels(logits)
    np.testing.assert_array_equal(labels, [[2, 0, 1, 2]])
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(resolve_labels(logits, 0.9), [[0, 0, 1, 0]])


def test_a_probability_of_precisely_the_threshold_is_background() -> None:
    assert not resolve_labels(np.zeros((2, 3, 3))).any()
    assert not logits_to_mask(np.zeros((3, 3))).any()


def test_of_equal_logits_the_lowest_label_wins() -> None:
    np.testing.assert_array_equal(resolve_labels(np.array([[[-1.0]], [[2.0]], [[2.0]], [[1.0]]])), [[2]])


def test_a_nan_never_wins_over_a_number() -> None:
    logits = np.array([[[np.nan, np.nan, 1.0]], [[1.0, np.nan, np.nan]]])
    np.testing.assert_array_equal(resolve_labels(logits), [[2, 0, 1]])


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_many_labels_get_a_type_that_holds_them(count: int, dtype: type) -> None:
    logits = np.full((count, 1, 2), -1.0, np.float32)
    logits[-1, 0, 1] = 1.0
    labels = resolve_labels(logits)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, [[0, count]])


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.sampled_from([-2, 0, 1, 2])
    ),
    st.just(0.5) | st.floats(0.05, 0.95),
)
def test_labels_agree_with_argmax_and_with_the_single_masks(logits: np.ndarray, threshold: float) -> None:
    labels = resolve_labels(logits, threshold)
    expected = np.where(logits_to_mask(logits, threshold).any(axis=0), logits.argmax(axis=0) + 1, 0)
    np.testing.assert_array_equal(labels, expected)
    if len(logits) == 1:
        np.testing.assert_array_equal(labels == 1, logits_to_mask(logits[0], threshold))


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (65536, 1, 1), (2, 1, 1, 1, 1)])
def test_logits_that_are_not_one_map_per_label_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="1 to 65535 labels"):
        resolve_labels(np.zeros(shape))


@pytest.mark.parametrize("function", [logits_to_mask, resolve_labels])
def test_logits_that_are_not_numbers_are_refused(function: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(ImageError, match="real numbers"):
        function(np.zeros((1, 2, 2), complex))


# --- What changed -----------------------------------------------------------------------------------------------------


def test_the_changed_box_is_half_open_and_holds_gains_and_losses() -> None:
    before, after = np.zeros((9, 12), bool), np.zeros((9, 12), bool)
    before[2, 3:6] = True
    after[2, 3:5] = True
    after[7, 9] = True
    assert changed_bbox(before, after) == ((2, 8), (5, 10))


def test_equal_masks_have_no_changed_box() -> None:
    mask = np.eye(5, dtype=bool)
    assert changed_bbox(mask, mask.astype(np.uint8) * 7) is None
    assert changed_bbox(None, np.zeros((5, 5), bool)) is None


def test_without_a_mask_before_everything_is_new() -> None:
    assert changed_bbox(None, drawing("....", ".#..", "..#.")) == ((1, 3), (1, 3))


@given(hnp.arrays(np.bool_, (2, 6, 7)))
def test_outside_the_changed_box_nothing_differs_and_every_side_of_it_does(masks: np.ndarray) -> None:
    before, after = masks
    box = changed_bbox(before, after)
    assert box == changed_bbox(after, before)
    if box is None:
        np.testing.assert_array_equal(before, after)
        return
    differs = before ^ after
    inside = differs[tuple(slice(*side) for side in box)]
    assert inside.sum() == differs.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


def test_the_changed_box_is_for_slices() -> None:
    with pytest.raises(ImageError, match="2D"):
        changed_bbox(None, np.zeros((2, 3, 4), bool))


def test_masks_of_different_shapes_cannot_be_compared() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 5\).*\(5, 4\)"):
        changed_bbox(np.zeros((5, 4), bool), np.zeros((4, 5), bool))
    with pytest.raises(GeometryError, match=r"\(4, 5\).*\(5, 4\)"):
        keep_touched(np.zeros((5, 4), bool), np.zeros((4, 5), bool))


# --- Clean-up ---------------------------------------------------------------------------------------------------------


def test_enclosed_background_is_filled_and_open_bays_are_not() -> None:
    before = drawing("###...", "#.##.#", "####..", "..#..#", "..####")
    after = drawing("###...", "####.#", "####..", "..#..#", "..####")
    np.testing.assert_array_equal(fill_holes(before), after)
    np.testing.assert_array_equal(fill_holes(drawing(".#.", "#.#", ".#.")), drawing(".#.", "###", ".#."))


def test_only_the_largest_piece_stays_and_corners_connect() -> None:
    before = drawing("#..##", ".#...", "..#.#", ".....")
    np.testing.assert_array_equal(keep_largest(before), drawing("#....", ".#...", "..#..", "....."))


def test_of_equally_large_pieces_the_first_stays() -> None:
    np.testing.assert_array_equal(keep_largest(drawing("##.##")), drawing("##..."))


def test_islands_below_the_smallest_size_go() -> None:
    before = drawing("#...#", "..#.#", ".....", "####.")
    np.testing.assert_array_equal(remove_small_islands(before, 2), drawing("....#", "....#", ".....", "####."))
    np.testing.assert_array_equal(remove_small_islands(before, 5), np.zeros_like(before))
    np.testing.assert_array_equal(remove_small_islands(before, 1), before)
    np.testing.assert_array_equal(remove_small_islands(before, 0), before)


def test_a_negative_island_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1"):
        remove_small_islands(np.ones((2, 2), bool), -1)


def test_pieces_that_no_prompt_touches_go() -> None:
    before = drawing("##.#.", "...#.", "#....")
    np.testing.assert_array_equal(
        keep_touched(before, drawing(".....", "...#.", "..##.")), drawing("...#.", "...#.", ".....")
    )
    assert not keep_touched(before, drawing("..#..", ".....", ".....")).any()


@given(MASKS)
def test_clean_ups_keep_shape_and_input_and_repeat_to_the_same(mask: np.ndarray) -> None:
    before = mask.copy()
    for clean_up in CLEAN_UPS:
        once = clean_up(mask)
        assert once.dtype == np.bool_
        assert once.shape == mask.shape
        np.testing.assert_array_equal(clean_up(once), once)
        once[...] = False  # a result of its own memory: writing to it cannot reach the input
        np.testing.assert_array_equal(mask, before)


@given(MASKS)
def test_filling_only_adds_and_selecting_pieces_only_removes(mask: np.ndarray) -> None:
    assert not (mask & ~fill_holes(mask)).any()
    for selected in (keep_largest(mask), remove_small_islands(mask, 3), keep_touched(mask, mask)):
        assert not (selected & ~mask).any()
    np.testing.assert_array_equal(keep_touched(mask, mask), mask)
    if mask.any():
        assert keep_largest(mask).any()


def test_an_empty_mask_stays_empty() -> None:
    for clean_up in CLEAN_UPS[:4]:
        assert not clean_up(np.zeros((4, 6), bool)).any()


def test_integer_masks_are_accepted_and_logits_refused() -> None:
    mask = np.array([[0, 3], [0, 0]], np.int16)
    for clean_up in CLEAN_UPS[:4]:
        np.testing.assert_array_equal(clean_up(mask), clean_up(mask > 0))
        with pytest.raises(ImageError, match="logits_to_mask"):
            clean_up(mask.astype(np.float32))


@given(seed=st.integers(0, 2**16), share=st.floats(0.05, 0.95))
def test_the_expected_dice_is_about_the_mean_over_what_may_be_true(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    probabilities = np.clip(rng.normal(share, 0.2, (40, 40)), 0, 1)
    mask = probabilities > share
    truths = rng.random((60, 40, 40)) < probabilities
    measured = [2 * (truth & mask).sum() / (truth.sum() + mask.sum()) for truth in truths]
    assert expected_dice(probabilities, mask) == pytest.approx(np.mean(measured), abs=0.02)


def test_of_an_empty_mask_nothing_is_expected() -> None:
    assert expected_dice(np.ones((3, 3)), np.zeros((3, 3), bool)) == 0.0
    assert expected_dice(np.ones((3, 3)), np.ones((3, 3), bool)) == 1.0
