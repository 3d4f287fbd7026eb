from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.masks import interpolate_slices, signed_distance
from scribblesegment.errors import GeometryError, ImageError

SHAPE = (24, 30)


def disc(row, column, radius, shape=SHAPE):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_signed_distance_counts_pixels_from_the_outline():
    mask = np.zeros((1, 7), bool)
    mask[0, 2:5] = True
    assert signed_distance(mask, (1.0, 1.0))[0].tolist() == [-2, -1, 1, 2, 1, -1, -2]
    assert signed_distance(mask, (1.0, 0.5))[0].tolist() == [-1, -0.5, 0.5, 1, 0.5, -0.5, -1]


@pytest.mark.parametrize("value", [True, False])
def test_without_an_outline_the_distance_is_the_diagonal(value):
    distance = signed_distance(np.full((3, 4), value), (2.0, 2.0))
    assert (distance == (10.0 if value else -10.0)).all()


def test_the_edge_of_the_image_is_no_outline():
    mask = np.zeros((1, 6), bool)
    mask[0, :3] = True
    assert signed_distance(mask, (1.0, 1.0))[0, 0] == 3.0


def test_a_disc_grows_linearly_from_the_smaller_to_the_larger():
    filled = interpolate_slices({2: disc(12, 15, 4), 8: disc(12, 15, 10)})
    assert list(filled) == [3, 4, 5, 6, 7]
    for index, mask in filled.items():
        exact = disc(12, 15, 4 + (index - 2))
        assert (mask ^ exact).sum() <= 0.15 * exact.sum()


def test_a_disc_moves_from_place_to_place():
    filled = interpolate_slices({0: disc(12, 10, 6), 4: disc(12, 18, 6)})
    centre = [np.argwhere(filled[index])[:, 1].mean() for index in (1, 2, 3)]
    assert centre == pytest.approx([12, 14, 16], abs=0.7)


def test_only_slices_between_annotated_ones_and_in_the_range_are_filled():
    masks = {3: disc(12, 15, 5), 7: disc(12, 15, 5), 12: disc(12, 15, 5)}
    assert list(interpolate_slices(masks)) == [4, 5, 6, 8, 9, 10, 11]
    assert list(interpolate_slices(masks, (0, 9))) == [4, 5, 6, 8]
    assert interpolate_slices(masks, (13, 20)) == {}


def test_next_to_a_slice_without_the_structure_nothing_is_filled_in():
    filled = interpolate_slices({0: disc(12, 15, 5), 3: np.zeros(SHAPE, bool), 6: disc(12, 15, 5)})
    assert not any(mask.any() for mask in filled.values())


@pytest.mark.parametrize("masks", [{}, {5: disc(12, 15, 5)}])
def test_there_is_nothing_between_fewer_than_two_slices(masks):
    assert interpolate_slices(masks) == {}


@settings(max_examples=20)
@given(
    radius=st.integers(2, 8),
    indices=st.lists(st.integers(0, 20), min_size=2, max_size=5, unique=True),
    spacing=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
)
def test_equal_slices_stay_as_they_are(radius, indices, spacing):
    mask = disc(12, 15, radius)
    filled = interpolate_slices(dict.fromkeys(indices, mask), spacing_mm=spacing)
    assert set(filled) == set(range(min(indices), max(indices) + 1)) - set(indices)
    assert all(np.array_equal(one, mask) for one in filled.values())


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"slice 4 has shape \(3, 3\)"):
        interpolate_slices({1: disc(12, 15, 5), 4: np.ones((3, 3), bool)})


def test_logits_are_refused():
    with pytest.raises(ImageError, match="float64 values, expected bool"):
        interpolate_slices({1: np.zeros(SHAPE), 4: np.zeros(SHAPE)})


def test_a_spacing_that_is_not_positive_is_refused():
    with pytest.raises(GeometryError, match="spacing"):
        interpolate_slices({}, spacing_mm=(0.0, 1.0))
