"""Tests of shortest paths from the prompts."""

from __future__ import annotations

import heapq
import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from scribblesegment.models import geodesic_cues as module
from scribblesegment.models.encoding import NEGATIVE, POSITIVE, encode_prompts
from scribblesegment.models.geodesic_cues import GEODESIC_CHANNELS, geodesic_cues

# What the source says in words: a step of a pixel costs this much, and a cue falls to 1 / e at this distance.
STEP, REACH = 0.001, 0.5

CORRIDOR, START, END = slice(12, 20), slice(0, 2), slice(30, 32)


def walls() -> torch.Tensor:
    """Bright walls above and below a corridor, rows 12 to 19 of (1, 1, 32, 32)."""
    image = torch.full((1, 1, 32, 32), 0.1)
    image[..., 8:12, :] = image[..., 20:24, :] = 0.9
    return image


def strokes(positive: tuple[slice, slice] | None, negative: tuple[slice, slice] | None, side: int = 32) -> torch.Tensor:
    drawn = torch.zeros(1, 2, side, side)
    for channel, where in enumerate((positive, negative)):
        if where is not None:
            drawn[0, channel][where] = 1.0
    return drawn


def distances(near: torch.Tensor) -> torch.Tensor:
    return -REACH * torch.log(near)


def test_distances_along_a_corridor_are_its_length() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), None)))
    assert cues.shape == (1, GEODESIC_CHANNELS, 32, 32)
    along = distances(cues[0, 0, 14:18, 2:30])
    # From the middle of the half-resolution pixel that was drawn on, at 0.5, to the middles of the others.
    expected = STEP * (torch.arange(2, 30) - 0.5)
    torch.testing.assert_close(along, expected.expand(4, 28), atol=2e-5, rtol=0.0)


def test_nearness_falls_steadily_along_a_corridor() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), (CORRIDOR, END))))[0]
    assert (cues[0, 16].diff()[1:-1] < 0).all()
    assert (cues[1, 16].diff()[1:-1] > 0).all()
    assert (cues[2, 16].diff()[1:-1] < 0).all()


def test_an_edge_separates() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), None)))[0]
    assert (cues[0, 14:18] > 0.9).all()
    # Into the wall by a step of 0.8, and out of it by another one.
    assert cues[0, 10, 16] == pytest.approx(math.exp(-0.8 / REACH), rel=0.1)
    assert cues[0, 4, 16] == pytest.approx(math.exp(-1.6 / REACH), rel=0.1)


def test_the_third_channel_tells_which_prompts_are_nearer() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), (slice(0, 6), END))))[0]
    assert (cues[2, 14:18] > 0.9).all()
    assert (cues[2, :6] < -0.9).all()


def test_paths_are_followed_around_corners() -> None:
    image = torch.full((1, 1, 32, 32), 0.9)
    image[..., 4:8, 4:28] = image[..., 4:28, 24:28] = image[..., 24:28, 4:28] = 0.1  # a bracket, open to the left
    cues = geodesic_cues(encode_prompts(image, scribbles=strokes((slice(4, 8), slice(4, 6)), None)))[0]
    end = distances(cues[0, 25:27, 6]).mean()
    assert end == pytest.approx(STEP * (20 + 20 + 20), abs=0.006)  # across the walls it would be 1.6
    assert cues[0, 16, 14] < 0.3


def test_without_anything_positive_only_the_negative_cue_speaks() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes(None, (CORRIDOR, START))))[0]
    assert not cues[0].any()
    assert cues[1, 14:18].min() > 0.9
    assert not cues[2].any()


def test_without_anything_negative_only_the_positive_cue_speaks() -> None:
    cues = geodesic_cues(encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), None)))[0]
    assert cues[0, 14:18].min() > 0.9
    assert not cues[1:].any()


def test_an_image_without_prompts_has_no_cues() -> None:
    assert not geodesic_cues(encode_prompts(walls())).any()


def test_the_outside_of_a_box_is_negative() -> None:
    box = [torch.tensor([[[8, 8], [24, 24]]])]
    cues = geodesic_cues(encode_prompts(torch.full((1, 1, 32, 32), 0.5), boxes=box))[0]
    assert not cues[0].any()
    assert (cues[1, :7] == 1.0).all()
    assert cues[1, 16, 16] == pytest.approx(math.exp(-STEP * 8 / REACH), abs=2e-3)
    inside = encode_prompts(
        torch.full((1, 1, 32, 32), 0.5),
        boxes=box,
        point_coords=[torch.tensor([[16, 16]])],
        point_labels=[torch.tensor([1])],
    )
    nearer = geodesic_cues(inside)[0, 2]
    assert nearer[16, 16] > 0.7
    assert nearer[2, 2] < -0.9


def test_a_stroke_outside_of_a_box_outweighs_it() -> None:
    box = [torch.tensor([[[8, 8], [24, 24]]])]
    network_input = encode_prompts(walls(), boxes=box, scribbles=strokes((CORRIDOR, slice(26, 30)), None))
    cues = geodesic_cues(network_input)[0]
    assert (cues[0, 13:19, 27:29] == 1.0).all()
    assert (cues[2, 14:18, 27:29] > 0).all()


def test_faint_borders_of_strokes_are_no_seeds() -> None:
    drawn = strokes((CORRIDOR, START), None)
    drawn[0, 0, 14:18, 2:30] = 0.2
    plain = encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), None))
    assert torch.equal(geodesic_cues(encode_prompts(walls(), scribbles=drawn)), geodesic_cues(plain))


def test_a_pixel_that_both_signs_claim_is_a_seed_of_neither() -> None:
    both = encode_prompts(walls(), scribbles=strokes((CORRIDOR, slice(0, 6)), (CORRIDOR, slice(4, 12))))
    apart = encode_prompts(walls(), scribbles=strokes((CORRIDOR, slice(0, 4)), (CORRIDOR, slice(6, 12))))
    assert torch.equal(geodesic_cues(both), geodesic_cues(apart))
    only_both = encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), (CORRIDOR, START)))
    assert not geodesic_cues(only_both).any()


def shortest_paths(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Dijkstra's distances on a grid of four neighbours, whose steps are two pixels long."""
    found = np.full(image.shape, np.inf)
    queue = [(0.0, int(row), int(column)) for row, column in np.argwhere(seeds)]
    while queue:
        distance, row, column = heapq.heappop(queue)
        if distance >= found[row, column]:
            continue
        found[row, column] = distance
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= other[0] < image.shape[0] and 0 <= other[1] < image.shape[1]:
                step = 2 * STEP + abs(float(image[other]) - float(image[row, column]))
                heapq.heappush(queue, (distance + step, *other))
    return found


def blocks(height: int, width: int, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A random image of pixels of two by two with random seeds, and the exact distances at half its resolution."""
    rng = np.random.default_rng(seed)
    image = rng.random((height, width), dtype=np.float32)
    seeds = rng.choice([-1, 0, 1], size=image.shape, p=[0.06, 0.88, 0.06])
    seeds[0, 0], seeds[-1, -1] = 1, -1
    scribbles = np.kron(np.stack([seeds == 1, seeds == -1]), np.ones((2, 2))).astype(np.float32)
    network_input = encode_prompts(
        torch.from_numpy(np.kron(image, np.ones((2, 2), np.float32)))[None, None],
        scribbles=torch.from_numpy(scribbles)[None],
    )
    return network_input, [torch.from_numpy(shortest_paths(image, seeds == sign)) for sign in (1, -1)]


@settings(max_examples=10)
@given(height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_with_enough_sweeps_paths_are_the_shortest(height: int, width: int, seed: int) -> None:
    network_input, (positive, negative) = blocks(height, width, seed)
    with mock.patch.object(module, "_SWEEPS", height * width):
        cues = geodesic_cues(network_input)
    near = [torch.exp(-positive / REACH), torch.exp(-negative / REACH)]
    exact = torch.stack([*near, (negative - positive) / (negative + positive + 1e-3)]).float()
    expected = functional.interpolate(exact[None], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(cues, expected, atol=2e-3, rtol=0.0)


def test_few_sweeps_change_little_even_in_noise() -> None:
    network_input, (positive, _) = blocks(16, 16, seed=5)
    exact = torch.exp(-positive / REACH).float()
    expected = functional.interpolate(exact[None, None], scale_factor=2, mode="bilinear")[0, 0]
    near = geodesic_cues(network_input)[0, 0]
    assert (near <= expected + 1e-4).all()  # no path is shorter than the shortest
    assert (expected - near).mean() < 0.005
    assert (expected - near).max() < 0.15


@pytest.mark.parametrize(("height", "width"), [(17, 20), (16, 21), (15, 15), (1, 5)])
def test_an_odd_side_is_as_if_its_last_pixels_were_repeated(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(height)
    coords = [torch.tensor([[0, 0], [height - 1, width - 1], [height // 2, 2]])]
    network_input = encode_prompts(
        torch.rand(1, 1, height, width, generator=generator),
        point_coords=coords,
        point_labels=[torch.tensor([1, 0, 0])],
    )
    padded = functional.pad(network_input, (0, width % 2, 0, height % 2), mode="replicate")
    cues = geodesic_cues(network_input)
    assert cues.shape == (1, GEODESIC_CHANNELS, height, width)
    torch.testing.assert_close(cues, geodesic_cues(padded)[..., :height, :width])


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), clicks=st.integers(1, 5))
def test_cues_are_finite_and_in_their_ranges(seed: int, clicks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coords = [torch.randint(0, 16, (clicks, 2), generator=generator) for _ in range(2)]
    labels = [torch.randint(0, 2, (clicks,), generator=generator) for _ in range(2)]
    image = torch.rand((2, 1, 16, 20), generator=generator)
    cues = geodesic_cues(encode_prompts(image, point_coords=coords, point_labels=labels))
    assert torch.isfinite(cues).all()
    assert cues[:, :2].min() >= 0.0
    assert cues[:, :2].max() <= 1.0 + 1e-5
    assert cues[:, 2].abs().max() <= 1.0 + 1e-5


def test_exchanged_signs_exchange_the_cues() -> None:
    network_input, _ = blocks(8, 8, seed=2)
    exchanged = network_input.clone()
    exchanged[:, [POSITIVE, NEGATIVE]] = network_input[:, [NEGATIVE, POSITIVE]]
    cues, others = geodesic_cues(network_input), geodesic_cues(exchanged)
    torch.testing.assert_close(others, torch.stack([cues[:, 1], cues[:, 0], -cues[:, 2]], dim=1))


def test_each_image_of_a_batch_has_its_own_paths() -> None:
    first = encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), (CORRIDOR, END)))
    second = encode_prompts(1.0 - walls(), scribbles=strokes((slice(0, 4), END), None))
    together = geodesic_cues(torch.cat([first, second]))
    assert torch.equal(together[:1], geodesic_cues(first))
    assert torch.equal(together[1:], geodesic_cues(second))


def test_the_memory_layout_does_not_matter() -> None:
    network_input, _ = blocks(8, 8, seed=3)
    turned = network_input.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(geodesic_cues(turned), geodesic_cues(network_input))


def test_bfloat16_gives_the_cues_of_float32_up_to_its_rounding() -> None:
    network_input = encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), (slice(0, 6), END)))
    cues = geodesic_cues(network_input.bfloat16())
    assert cues.dtype == torch.bfloat16
    torch.testing.assert_close(cues.float(), geodesic_cues(network_input), atol=0.02, rtol=0.0)


def test_no_gradient_flows_through_the_cues() -> None:
    network_input = encode_prompts(walls(), scribbles=strokes((CORRIDOR, START), None)).requires_grad_()
    assert not geodesic_cues(network_input).requires_grad
