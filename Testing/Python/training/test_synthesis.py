from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.training.synthesis import pick_superpixel, superpixels


@pytest.fixture
def blocks() -> np.ndarray:
    """Three superpixels of 8, 24 and 32 pixels."""
    partition = np.zeros((8, 8), np.uint8)
    partition[1:4] = 1
    partition[4:] = 2
    return partition


def test_superpixels_follow_the_edges_of_the_image():
    image = np.zeros((32, 32), np.float32)
    image[:, 16:] = 1.0
    partition = superpixels(image, 100.0)
    left, right = partition[:, :14], partition[:, 18:]
    assert left.min() == left.max()
    assert right.min() == right.max()
    assert left[0, 0] != right[0, 0]


def test_a_larger_scale_gives_larger_superpixels():
    image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    counts = [superpixels(image, scale).max() + 1 for scale in (1.0, 50.0, 500.0)]
    assert counts[0] > counts[1] > counts[2] >= 1


def test_superpixels_are_numbered_without_gaps_in_few_bytes():
    image = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    partition = superpixels(image, 1.0)
    assert partition.dtype.kind == "u"
    assert partition.dtype.itemsize <= 2
    np.testing.assert_array_equal(np.unique(partition), np.arange(int(partition.max()) + 1))


def test_superpixels_are_alike_when_they_are_not_weighted(blocks):
    rng = np.random.default_rng(5)
    areas = [int(pick_superpixel(blocks, rng, min_area=1).sum()) for _ in range(1200)]
    for area in (8, 24, 32):
        assert abs(areas.count(area) - 400) < 4 * np.sqrt(1200 * (1 / 3) * (2 / 3))


def test_superpixels_may_be_drawn_in_proportion_to_their_area(blocks):
    rng = np.random.default_rng(5)
    areas = [int(pick_superpixel(blocks, rng, min_area=1, area_power=1.0).sum()) for _ in range(1200)]
    for area in (8, 24, 32):
        share = area / 64
        assert abs(areas.count(area) - 1200 * share) < 4 * np.sqrt(1200 * share * (1 - share))


def test_a_picked_superpixel_is_one_number_of_the_partition(blocks, rng):
    picked = pick_superpixel(blocks, rng, min_area=1)
    (number,) = np.unique(blocks[picked])
    np.testing.assert_array_equal(picked, blocks == number)


def test_small_superpixels_are_never_picked(blocks, rng):
    areas = {int(pick_superpixel(blocks, rng, min_area=9).sum()) for _ in range(60)}
    assert areas == {24, 32}


def test_nothing_is_picked_where_all_superpixels_are_too_small(blocks, rng):
    assert pick_superpixel(blocks, rng, min_area=33) is None


def test_a_superpixel_that_covers_everything_is_no_structure(rng):
    assert pick_superpixel(np.zeros((8, 8), np.uint8), rng, min_area=1) is None


def test_united_superpixels_are_two_to_four_and_one_is_left_out(rng):
    partition = np.arange(8, dtype=np.uint8).repeat(8).reshape(8, 8)
    counts = {int(pick_superpixel(partition, rng, min_area=1, union_p=1.0).sum()) // 8 for _ in range(60)}
    assert counts == {2, 3, 4}
    few = partition[:3]
    assert {int(pick_superpixel(few, rng, min_area=1, union_p=1.0).sum()) // 8 for _ in range(20)} == {2}


def test_a_united_superpixel_is_whole_and_large_enough(blocks, rng):
    for _ in range(30):
        picked = pick_superpixel(blocks, rng, min_area=9, area_power=0.75, union_p=1.0)
        # Two are large enough, of which one is left out.
        assert picked.sum() in (24, 32)
        assert len(np.unique(blocks[picked])) == 1


def test_superpixels_are_united_as_often_as_configured(rng):
    partition = np.arange(8, dtype=np.uint8).repeat(8).reshape(8, 8)
    united = [pick_superpixel(partition, rng, min_area=1, union_p=0.3).sum() > 8 for _ in range(400)]
    assert np.mean(united) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 400))
