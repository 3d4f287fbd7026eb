"""What the image says about a segment whose accepted slices are known."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propagation_phantoms import ball, cut, dice, tube, volume_of

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.propagation import evidence as image_evidence
from scribblesegment.propagation.evidence import ImageEvidence, path_costs

STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def evidence_of(structure, axis, *indices, volume=None):
    volume = volume or volume_of(structure)
    intensities = IntensityRange.estimate(volume.array)
    return ImageEvidence(volume, cut(structure, axis, *indices), axis, intensity_range=intensities)


def nearer_to_it(evidence, index, shape):
    whole = np.zeros(shape, np.float32)
    box, part = evidence.in_slice(index)
    whole[box] = part
    return whole


def cheapest(intensities, seeds, sides):
    """All costs by Dijkstra's algorithm, for every path there is."""
    costs = np.full(intensities.shape, np.inf)
    costs[seeds] = 0.0
    queue = [(0.0, tuple(place)) for place in np.argwhere(seeds).tolist()]
    while queue:
        cost, place = heapq.heappop(queue)
        for step in STEPS if cost == costs[place] else ():
            there = tuple(np.add(place, step).tolist())
            if all(0 <= one < side for one, side in zip(there, intensities.shape, strict=True)):
                length = 0.01 * math.sqrt(sum((one * side) ** 2 for one, side in zip(step, sides, strict=True)))
                new = cost + length + abs(float(intensities[there]) - float(intensities[place]))
                if new < costs[there]:
                    costs[there] = new
                    heapq.heappush(queue, (new, there))
    return costs


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_structure_is_followed_through_the_volume(axis):
    structure = tube()
    length, middle = structure.shape[axis], structure.shape[axis] // 2
    evidence = evidence_of(structure, axis, middle)
    slices = np.moveaxis(structure, axis, 0)
    for index in range(max(middle - 5, 0), min(middle + 6, length)):
        if slices[index].any():
            assert dice(nearer_to_it(evidence, index, slices.shape[1:]) > 0, slices[index]) > 0.9


def test_what_is_accepted_is_certain_and_an_even_image_decides_by_distance():
    structure = ball()
    even = Volume(np.ones(structure.shape, np.float32), np.eye(4))
    evidence = evidence_of(structure, 0, 6, 12, volume=even)
    shape = structure.shape[1:]
    found = nearer_to_it(evidence, 6, shape)
    assert (found[structure[6]] > 0).all()
    assert (found[evidence.in_slice(6)[0]] != 0).all()
    between = nearer_to_it(evidence, 9, shape)
    assert between[structure[6] & structure[12]].min() > 0


def test_far_from_the_accepted_slices_and_around_the_box_nothing_is_said():
    structure = np.zeros((200, 90, 90), bool)
    structure[100:103, 40:46, 42:47] = True
    evidence = evidence_of(structure, 0, 101)
    assert evidence.in_slice(0) is None
    assert evidence.in_slice(199) is None
    (rows, columns), part = evidence.in_slice(104)
    assert part.shape == (rows.stop - rows.start, columns.stop - columns.start) == (6 + 2 * 13, 5 + 2 * 13)
    assert np.abs(part).max() <= 1.0


@pytest.mark.parametrize("fill", [True, False])
def test_where_nothing_stands_against_anything_nothing_is_said(fill):
    structure = np.full((5, 12, 12), fill)
    assert evidence_of(structure, 0, 2, volume=Volume(np.ones((5, 12, 12)), np.eye(4))).in_slice(2) is None


def test_a_large_region_is_looked_at_in_coarser_pixels(monkeypatch):
    structure = ball()
    fine = evidence_of(structure, 0, 9)
    whole = nearer_to_it(fine, 11, structure.shape[1:])
    monkeypatch.setattr(image_evidence, "_MOST_VOXELS", structure.size // 4)
    coarse = evidence_of(structure, 0, 9)
    box, part = coarse.in_slice(11)
    assert coarse._nearer.size < fine._nearer.size / 3
    assert part.shape == fine.in_slice(11)[1].shape
    assert box == fine.in_slice(11)[0]
    assert dice(nearer_to_it(coarse, 11, structure.shape[1:]) > 0, whole > 0) > 0.8


def test_what_is_thinner_than_a_coarse_pixel_does_not_get_lost(monkeypatch):
    structure = np.zeros((8, 40, 40), bool)
    structure[:, 20, 21] = True
    monkeypatch.setattr(image_evidence, "_MOST_VOXELS", 500)
    assert nearer_to_it(evidence_of(structure, 0, 4), 4, (40, 40))[20, 21] > 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_no_path_is_cheaper_than_the_cheapest_and_straight_ones_are_found(seed):
    rng = np.random.default_rng(seed)
    shape, spacing = (4, 6, 7), (2.0, 1.0, 1.5)
    intensities = rng.random(shape, np.float32)
    seeds = np.zeros((2, *shape), bool)
    seeds[0, 2] = rng.random(shape[1:]) < 0.3
    seeds[1, 2] = ~seeds[0, 2]
    costs = path_costs(intensities, seeds, spacing)
    for found, begin in zip(costs, seeds, strict=True):
        if not begin.any():
            assert (found > 1e3).all()
            continue
        exact = cheapest(intensities, begin, [side / 1.0 for side in spacing])
        assert (found >= exact - 1e-4).all()
        assert (found[begin] == 0).all()
        # Next to the seeds hardly any path winds.
        assert np.median(found[1] - exact[1]) < 0.05


def test_along_a_bright_tunnel_the_cheapest_path_is_found_around_a_corner():
    intensities = np.zeros((6, 9, 9), np.float32)
    intensities[:, 4, 2] = 1.0
    intensities[5, 4, 2:] = 1.0
    seeds = np.zeros((1, 6, 9, 9), bool)
    seeds[0, 0, 4, 2] = True
    exact = cheapest(intensities, seeds[0], (1.0, 1.0, 1.0))
    np.testing.assert_allclose(path_costs(intensities, seeds, (1.0, 1.0, 1.0))[0], exact, atol=1e-5)
