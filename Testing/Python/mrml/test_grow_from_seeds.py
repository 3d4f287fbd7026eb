from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.errors import ImageError, PromptError

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.mrml.grow_from_seeds import grow_from_seeds


def halves(shape=(20, 30)):
    """A dark left and a bright right half."""
    image = np.full(shape, 0.2, np.float32)
    image[:, shape[1] // 2 :] = 0.7
    return image


def test_two_halves_are_separated_at_the_edge():
    seeds = np.zeros((20, 30), np.uint8)
    seeds[10, 3], seeds[4, 27] = 1, 2
    labels = grow_from_seeds(halves(), seeds)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.where(np.arange(30) < 15, 1, 2) * np.ones((20, 1)))


def test_labels_keep_their_numbers_in_rows_and_columns():
    image = np.zeros((12, 18), np.float32)
    image[:, 6:12], image[:, 12:] = 0.5, 1.0
    seeds = np.zeros((12, 18), np.int64)
    seeds[2, 1], seeds[11, 8], seeds[5, 17] = 200, 3, 255
    assert np.array_equal(grow_from_seeds(image, seeds), np.broadcast_to(np.repeat([200, 3, 255], 6), (12, 18)))


def test_a_small_difference_of_intensity_is_seen():
    image = np.full((20, 30), 100 / 255, np.float32)
    image[:, 15:] = 104 / 255
    seeds = np.zeros((20, 30), np.uint8)
    seeds[10, 13], seeds[10, 29] = 1, 2
    labels = grow_from_seeds(image, seeds)
    assert (labels[:, :15] == 1).all()
    assert (labels[:, 15:] == 2).all()


@pytest.mark.parametrize("place", [(0, 0), (0, 15), (19, 29), (10, 0)])
def test_a_seed_on_the_edge_of_the_image_grows(place):
    seeds = np.zeros((20, 30), np.uint8)
    seeds[place] = 4
    assert (grow_from_seeds(np.full((20, 30), 0.5, np.float32), seeds) == 4).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_slices_of_a_pixel_or_two_are_filled(shape):
    seeds = np.zeros(shape, np.uint8)
    seeds[0, 0] = 1
    assert (grow_from_seeds(np.zeros(shape, np.float32), seeds) == 1).all()


def test_the_result_outlives_the_filter():
    first = grow_from_seeds(halves(), np.eye(20, 30, dtype=np.uint8))
    kept = first.copy()
    grow_from_seeds(1 - halves(), 2 * np.eye(20, 30, dtype=np.uint8))
    assert np.array_equal(first, kept)


def test_inputs_are_left_as_they_are():
    image, seeds = halves(), np.eye(20, 30, dtype=np.uint8)
    grow_from_seeds(image, seeds)
    assert np.array_equal(image, halves())
    assert np.array_equal(seeds, np.eye(20, 30, dtype=np.uint8))


def test_no_seeds_are_refused():
    with pytest.raises(PromptError, match="no seeds"):
        grow_from_seeds(halves(), np.zeros((20, 30), np.uint8))


def test_seeds_on_another_grid_are_refused():
    with pytest.raises(PromptError, match=r"\(20, 31\).*\(20, 30\)"):
        grow_from_seeds(halves(), np.ones((20, 31), np.uint8))


@pytest.mark.parametrize("value", [-1, 256, 0.5])
def test_seeds_that_are_no_labels_are_refused(value):
    with pytest.raises(PromptError, match="integer labels"):
        grow_from_seeds(halves(), np.full((20, 30), value))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_intensities_outside_zero_to_one_are_refused(value):
    with pytest.raises(ImageError, match="0 to 1"):
        grow_from_seeds(np.full((20, 30), value, np.float32), np.ones((20, 30), np.uint8))


def test_a_volume_is_refused():
    with pytest.raises(ImageError, match="2D"):
        grow_from_seeds(np.zeros((3, 20, 30), np.float32), np.ones((3, 20, 30), np.uint8))
