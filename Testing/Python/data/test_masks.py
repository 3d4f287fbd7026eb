"""From logits to masks: thresholds, label maps, boxes, clean-up, distances and interpolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scribblesegment.data.masks import (
    CleanUp,
    bounding_box,
    changed_bbox,
    expected_dice,
    inner_lines,
    interpolate_slices,
    keep_touched,
    logits_to_mask,
    resolve_labels,
    signed_distance,
    with_neighbours,
)
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError


def drawing(*rows):
    """A mask drawn with `#`."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


# Thresholds and labels ----------------------------------------------------------------------------------------------


def test_a_mask_is_where_the_probability_exceeds_the_threshold():
    logits = np.array([[-3.0, 0.0, 0.1], [math.log(4) - 1e-6, math.log(4) + 1e-6, 50.0]])
    np.testing.assert_array_equal(logits_to_mask(logits), [[False, False, True], [True, True, True]])
    np.testing.assert_array_equal(logits_to_mask(logits, 0.8), [[False, False, False], [False, True, True]])
    np.testing.assert_array_equal(logits_to_mask([np.nan, np.inf, -np.inf]), [False, True, False])


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.sampled_from([-2, 0, 1, 2])
    ),
    st.just(0.5) | st.floats(0.05, 0.95),
)
def test_labels_agree_with_argmax_and_with_the_single_masks(logits, threshold):
    labels = resolve_labels(logits, threshold)
    expected = np.where(logits_to_mask(logits, threshold).any(axis=0), logits.argmax(axis=0) + 1, 0)
    np.testing.assert_array_equal(labels, expected)  # of equal logits the lowest label's


@pytest.mark.parametrize(("count", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_labels_have_a_type_that_holds_them_and_nan_never_wins(count, dtype):
    logits = np.full((count, 1, 3), -1.0, np.float32)
    logits[0], logits[-1, 0] = (np.nan, np.nan, 1.0), (1.0, np.nan, np.nan)
    labels = resolve_labels(logits)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, [[count, 0, 1]])


@given(seed=st.integers(0, 2**16), share=st.floats(0.05, 0.95))
def test_the_expected_dice_is_about_the_mean_over_what_may_be_true(seed, share):
    rng = np.random.default_rng(seed)
    probabilities = np.clip(rng.normal(share, 0.2, (40, 40)), 0, 1)
    mask = probabilities > share
    truths = rng.random((60, 40, 40)) < probabilities
    measured = [2 * (truth & mask).sum() / (truth.sum() + mask.sum()) for truth in truths]
    assert expected_dice(probabilities, mask) == pytest.approx(np.mean(measured), abs=0.02)
    assert expected_dice(probabilities, np.zeros_like(mask)) == 0.0


# Boxes --------------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7)))
def test_a_bounding_box_holds_what_is_marked_and_no_side_of_it_is_empty(mask):
    box = bounding_box(mask)
    if box is None:
        assert not mask.any()
        return
    inside = mask[tuple(slice(*side) for side in box)]
    assert inside.sum() == mask.sum()
    for axis in range(mask.ndim):
        assert inside.take(0, axis).any()
        assert inside.take(-1, axis).any()


def test_the_changed_box_holds_gains_and_losses():
    before, after = np.zeros((2, 9, 12), bool)
    before[2, 3:6] = after[2, 3:5] = after[7, 9] = True
    assert changed_bbox(before, after) == changed_bbox(after, before) == ((2, 8), (5, 10))
    assert changed_bbox(None, after) == ((2, 8), (3, 10))
    assert changed_bbox(after, after.copy()) is changed_bbox(None, np.zeros((5, 5), bool)) is None


# Clean-up -----------------------------------------------------------------------------------------------------------


def clean(mask, anchors=None, spacing_mm=(1.0, 1.0), **options):
    logits = np.where(mask, 5.0, -5.0)
    return CleanUp(**options).mask(logits, anchors=mask if anchors is None else anchors, spacing_mm=spacing_mm)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"keep_touched": False, "smallest_island_mm2": 2.0, "spacing_mm": (0.5, 4.0)},
            ("###..", "#.#.#", "###..", "...#."),
        ),
        (
            {"keep_touched": False, "smallest_island_mm2": 2.1, "spacing_mm": (0.5, 4.0)},
            ("###..", "#.#..", "###..", "...#."),
        ),
        ({"keep_touched": False}, ("###..", "#.#.#", "###..", "...#.")),
        ({}, ("###..", "#.#..", "###..", "...#.")),  # corners connect
        ({"fill_holes": True}, ("###..", "###..", "###..", "...#.")),
        ({"keep_touched": False, "smallest_island_mm2": 1.0}, ("###..", "#.#.#", "###..", "...#.")),
        ({"keep_touched": False, "smallest_island_mm2": 1.1}, ("###..", "#.#..", "###..", "...#.")),
        ({"smallest_island_mm2": 9.0}, ("###..", "#.#..", "###..", "...#.")),
        ({"smallest_island_mm2": 9.1}, (".....",) * 4),
    ],
)
def test_each_part_of_the_clean_up(options, expected):
    before = drawing("###..", "#.#.#", "###..", "...#.")
    anchors = drawing("#....", ".....", ".....", ".....")
    np.testing.assert_array_equal(clean(before, anchors, **options), drawing(*expected))


def test_background_is_enclosed_by_a_contour_that_is_closed_diagonally():
    np.testing.assert_array_equal(clean(drawing(".#.", "#.#", ".#."), fill_holes=True), drawing(".#.", "###", ".#."))
    bay = drawing("###", "#..", "###")
    np.testing.assert_array_equal(clean(bay, fill_holes=True), bay)


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9)), st.data())
def test_components_stay_whole_or_go(mask, data):
    marks = data.draw(hnp.arrays(np.bool_, mask.shape))
    before = mask.copy()
    kept = keep_touched(mask, marks)
    assert not (kept & ~mask).any()
    assert (mask & marks & ~kept).sum() == 0
    np.testing.assert_array_equal(keep_touched(kept, marks), kept)
    np.testing.assert_array_equal(keep_touched(mask, mask), mask)
    np.testing.assert_array_equal(keep_touched(mask.astype(np.int16) * 3, marks), kept)
    if kept.any():
        kept[...] = False  # of its own memory
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        *(
            (lambda t=t, make=make: make(t), ConfigError)
            for t in (0.0, 1.0, -0.1, 3.0, math.nan)
            for make in (
                CleanUp,
                lambda t: logits_to_mask(np.zeros(2), t),
                lambda t: resolve_labels(np.zeros((1, 2, 2)), t),
            )
        ),
        *((lambda s=s: resolve_labels(np.zeros(s)), GeometryError) for s in ((4, 4), (0, 4, 4), (65536, 1, 1))),
        *((lambda f=f: f(np.zeros((1, 2, 2), complex)), ImageError) for f in (logits_to_mask, resolve_labels)),
        (lambda: CleanUp(smallest_island_mm2=-1.0), ConfigError),
        (lambda: keep_touched(np.zeros((5, 4), bool), np.zeros((4, 5), bool)), GeometryError),
        (lambda: clean(np.zeros((4, 5), bool), np.zeros((4, 4), bool)), GeometryError),
        (lambda: keep_touched(np.zeros((4, 5)), np.zeros((4, 5), bool)), ImageError),
        (lambda: with_neighbours(Prompts.empty((4, 5)), np.zeros((5, 4), bool)), PromptError),
        (lambda: interpolate_slices({1: np.ones((4, 5), bool), 4: np.ones((3, 3), bool)}), GeometryError),
        (lambda: interpolate_slices({1: np.zeros((4, 5)), 4: np.zeros((4, 5))}), ImageError),
        (lambda: interpolate_slices({1: np.ones((2, 4, 5), bool)}), ImageError),
        (lambda: interpolate_slices({}, spacing_mm=(0.0, 1.0)), GeometryError),
    ],
)
def test_what_cannot_be_cleaned_or_combined_is_refused(make, error):
    with pytest.raises(error):
        make()


# Other segments -----------------------------------------------------------------------------------------------------


def block(top, bottom, left, right, shape=(40, 50)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_long_object_has_a_line_along_its_middle_and_a_thin_one_none():
    lines = inner_lines(block(10, 21, 5, 45))
    assert lines[15, 15:35].all()
    assert not lines[[11, 12, 18, 19]].any()
    assert not inner_lines(block(10, 15, 5, 45)).any()


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40), st.integers(1, 40))
def test_lines_keep_three_pixels_from_the_edge(top, left, height, width):
    mask = block(top, top + height, left, left + width)
    lines = inner_lines(mask)
    for axis, shift in ((0, 3), (0, -3), (1, 3), (1, -3)):
        # Beyond the image lies no object, so what is shifted in from there is background.
        assert not (lines & ~np.roll(np.pad(mask, 3), shift, axis)[3:-3, 3:-3]).any()


def test_other_segments_become_negative_strokes_except_where_the_user_drew():
    own, other = block(30, 32, 30, 40), block(5, 25, 5, 45)
    before = Prompts.empty((40, 50)).with_scribble(own).with_scribble(block(0, 1, 0, 1), positive=False)
    prompts = with_neighbours(before, other)
    np.testing.assert_array_equal(prompts.scribbles[0], own)
    np.testing.assert_array_equal(prompts.scribbles[1] > 0, inner_lines(other) | block(0, 1, 0, 1))
    assert not with_neighbours(Prompts.empty((40, 50)).with_scribble(other), other).scribbles[1].any()


# Distances and interpolation ----------------------------------------------------------------------------------------


def disc(row, column, radius, shape=(24, 30)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_signed_distance_counts_from_the_outline_and_the_edge_of_the_image_is_none():
    mask = drawing("..###..")
    assert signed_distance(mask, (1.0, 1.0))[0].tolist() == [-2, -1, 1, 2, 1, -1, -2]
    assert signed_distance(mask, (1.0, 0.5))[0].tolist() == [-1, -0.5, 0.5, 1, 0.5, -0.5, -1]
    assert signed_distance(drawing("###..."), (1.0, 1.0))[0, 0] == 3.0
    for value in (True, False):
        assert (signed_distance(np.full((3, 4), value), (2.0, 2.0)) == (10.0 if value else -10.0)).all()


def test_a_disc_grows_and_moves_linearly():
    grown = interpolate_slices({2: disc(12, 15, 4), 8: disc(12, 15, 10)})
    assert list(grown) == [3, 4, 5, 6, 7]
    for index, mask in grown.items():
        exact = disc(12, 15, 4 + (index - 2))
        assert (mask ^ exact).sum() <= 0.15 * exact.sum()
    moved = interpolate_slices({0: disc(12, 10, 6), 4: disc(12, 18, 6)})
    assert [np.argwhere(moved[i])[:, 1].mean() for i in (1, 2, 3)] == pytest.approx([12, 14, 16], abs=0.7)


def test_only_slices_between_annotated_ones_and_in_the_range_are_filled():
    masks = dict.fromkeys((3, 7, 12), disc(12, 15, 5))
    assert list(interpolate_slices(masks)) == [4, 5, 6, 8, 9, 10, 11]
    assert list(interpolate_slices(masks, (0, 9))) == [4, 5, 6, 8]
    assert interpolate_slices(masks, (13, 20)) == interpolate_slices({}) == interpolate_slices({5: disc(1, 1, 5)}) == {}
    absent = interpolate_slices({0: disc(12, 15, 5), 3: np.zeros((24, 30), bool), 6: disc(12, 15, 5)})
    assert len(absent) == 4
    assert not any(mask.any() for mask in absent.values())
