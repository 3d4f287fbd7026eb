from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.context.selection import choose, describe

NO_VOLUME = np.nan


def similarity(first, second, spacing_mm=(1.0, 1.0)) -> float:
    return float(describe(first, spacing_mm) @ describe(second, spacing_mm))


def a_disc(row: float, column: float, radius: float = 12, level: float = 0.8) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    inside = np.hypot(rows - row, columns - column) < radius
    return np.where(inside, level, 0.2).astype(np.float32)


def units(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_an_image_is_most_similar_to_itself():
    image = a_disc(30, 30)
    assert similarity(image, image) == pytest.approx(1, abs=1e-5)
    assert similarity(image, 1 - image) < 0.1


def test_similarity_falls_with_distance_and_with_brightness():
    image = a_disc(30, 30)
    moved = [similarity(image, a_disc(30, 30 + step)) for step in (0, 4, 12, 30)]
    assert moved == sorted(moved, reverse=True)
    assert similarity(image, a_disc(30, 30, level=0.8)) > similarity(image, a_disc(30, 30, level=0.4))


def test_images_of_any_shape_and_spacing_can_be_compared():
    image = a_disc(32, 32)
    coarse = image[::2]  # the same field of view with rows twice as far apart
    assert describe(coarse, (2.0, 1.0)) @ describe(image, (1.0, 1.0)) > 0.98
    assert describe(coarse, (1.0, 1.0)) @ describe(image, (1.0, 1.0)) < 0.9


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_images_can_be_described(level):
    description = describe(np.full((5, 7), level, np.float32), (1.0, 1.0))
    assert np.isfinite(description).all()
    assert 0 < description @ description <= 1 + 1e-6


def test_similar_entries_come_first_and_copies_of_them_last():
    base, other, unlike = np.eye(3, 8, dtype=np.float32)
    entries = np.stack([unlike, base, base, base, other])
    chosen = choose(entries, 0.8 * base + 0.6 * other, np.full(5, NO_VOLUME), 5)
    assert chosen == [1, 4, 2, 3, 0]  # of three equal ones the other two wait, but not behind what is of no use


def test_neighbours_on_both_sides_and_the_slice_itself_come_before_similar_images(rng):
    entries = units(rng, 6)
    offsets = np.array([NO_VOLUME, -7.0, 3.0, 0.0, -2.0, 40.0])
    assert choose(entries, entries[0], offsets, 3) == [3, 4, 2]
    assert choose(entries, entries[0], offsets, 4)[3] == 0


def test_near_slices_are_preferred_among_equals():
    entries = np.repeat(np.eye(1, 8, dtype=np.float32), 5, axis=0)
    offsets = np.array([-30.0, -3.0, -2.0, 9.0, NO_VOLUME])
    assert choose(entries, entries[0], offsets, 4) == [2, 3, 1, 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 14))
@settings(max_examples=60)
def test_a_choice_has_no_entry_twice_and_its_beginning_is_the_smaller_choice(seed, count, limit):
    rng = np.random.default_rng(seed)
    entries, target = units(rng, count), units(rng, 1)[0]
    offsets = np.where(rng.random(count) < 0.5, np.nan, rng.integers(-20, 20, count))
    chosen = choose(entries, target, offsets, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, count)
    assert chosen == choose(entries, target, offsets, limit)
    assert chosen[: limit // 2] == choose(entries, target, offsets, limit // 2)


def test_a_choice_among_500_takes_no_time_a_user_would_notice(rng):
    entries = rng.normal(size=(500, 272)).astype(np.float32)
    offsets = np.full(500, NO_VOLUME)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        choose(entries, entries[0], offsets, 64)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
