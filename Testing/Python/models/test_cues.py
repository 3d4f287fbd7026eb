"""Channels computed from image and prompts."""

from __future__ import annotations

import heapq
import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch.nn import functional

from scribblesegment.models import cues as module
from scribblesegment.models.cues import (
    compare,
    cue_channels,
    filter_image,
    geodesic_cues,
    intensity_cues,
    learn_appearance,
    with_cues,
)
from scribblesegment.models.encoding import CHANNELS, NEGATIVE, POSITIVE, encode_prompts

LEFT, RIGHT = (slice(10, 12), slice(4, 8)), (slice(10, 12), slice(24, 28))
CORRIDOR, START, END = slice(12, 20), slice(0, 2), slice(30, 32)
# What the source says in words: a step of a pixel costs this much, and a cue falls to 1 / e at this distance.
STEP, REACH = 0.001, 0.5


def halves():
    image = torch.full((1, 1, 32, 32), 0.2)
    image[..., :16] = 0.8
    return image


def walls():
    """Bright walls above and below a corridor, rows 12 to 19."""
    image = torch.full((1, 1, 32, 32), 0.1)
    image[..., 8:12, :] = image[..., 20:24, :] = 0.9
    return image


def prompted(image, positive=None, negative=None, box=None):
    drawn = torch.zeros(1, 2, *image.shape[2:])
    for channel, where in enumerate((positive, negative)):
        if where is not None:
            drawn[0, channel][where] = 1.0
    return encode_prompts(image, scribbles=drawn, boxes=None if box is None else [torch.tensor([box])])


@given(seed=st.integers(0, 10**6), clicks=st.integers(0, 5), intensity=st.booleans(), geodesic=st.booleans())
def test_cues_are_appended_within_their_ranges_the_same_in_any_batch_layout_and_precision(
    seed, clicks, intensity, geodesic
):
    generator = torch.Generator().manual_seed(seed)
    coords = [torch.randint(0, 15, (clicks, 2), generator=generator) for _ in range(2)]
    labels = [torch.randint(0, 2, (clicks,), generator=generator) for _ in range(2)]
    x = encode_prompts(torch.rand(2, 1, 15, 20, generator=generator), point_coords=coords, point_labels=labels)
    x.requires_grad_()
    chosen = {"intensity": intensity, "geodesic": geodesic}
    extended = with_cues(x, **chosen)
    assert extended.shape == (2, CHANNELS + cue_channels(**chosen), 15, 20)
    assert torch.equal(extended[:, :CHANNELS], x)
    found = extended[:, CHANNELS:].detach()
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 1.0 + 1e-5 if found.numel() else True
    extended[:, CHANNELS:].sum().backward(retain_graph=True)
    assert x.grad is None or not x.grad.any()  # gradients flow through the input only
    extended[:, :CHANNELS].sum().backward()
    assert (x.grad == 1.0).all()
    alone = torch.cat([with_cues(one[None], **chosen) for one in x.detach()])
    torch.testing.assert_close(alone[:, CHANNELS:], found, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # in training as in prediction
        assert torch.equal(with_cues(x.detach(), **chosen)[:, CHANNELS:], found)
    turned = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(with_cues(turned, **chosen)[:, CHANNELS:], found, atol=1e-3, rtol=1e-3)


def test_intensity_cues_come_before_geodesic_ones_over_image_and_likelihoods():
    x = prompted(halves(), LEFT, RIGHT)
    compared = intensity_cues(x)
    expected = [compared, geodesic_cues(x), geodesic_cues(x, (compared[:, -1:] + 1) / 2)]
    assert torch.equal(with_cues(x, intensity=True, geodesic=True)[:, CHANNELS:], torch.cat(expected, dim=1))
    halved = with_cues(x.bfloat16(), intensity=True, geodesic=True)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved[:, CHANNELS:].float(), torch.cat(expected, dim=1), atol=0.05, rtol=0.0)


# Intensity.


@pytest.mark.parametrize(
    ("prompts", "inside", "outside"),
    [
        ({"positive": LEFT, "negative": RIGHT}, (0.85, 1), (-1, -0.95)),
        ({"positive": LEFT}, (0.2, 1), (-1, -0.95)),  # without negative strokes the image is the background
        ({"negative": RIGHT}, (0, 0), (0, 0)),
        ({"box": [[4, 2], [20, 14]]}, (0.3, 1), (-1, -0.2)),
        ({"positive": LEFT, "negative": RIGHT, "box": [[0, 0], [32, 32]]}, (0.3, 1), (-1, -0.3)),
    ],
)
def test_intensities_speak_for_the_side_they_occur_on(prompts, inside, outside):
    cue = intensity_cues(prompted(halves(), **prompts))[0, 0]
    for part, (low, high) in ((cue[:, :16], inside), (cue[:, 16:], outside)):
        assert low <= part.min() <= part.max() <= high


def test_thin_vessels_and_textures_are_seen():
    vessels = torch.zeros(64, 64, dtype=torch.bool)
    image = torch.linspace(0.3, 0.8, 64) + 0.01 * torch.randn(1, 1, 64, 64)
    vessels[8::12] = True  # one pixel wide, under a stroke of three
    image[..., 8::12, :] -= 0.1
    x = prompted(image, (slice(19, 22), slice(10, 40)), (slice(24, 30), slice(10, 40)))
    x[0, NEGATIVE, 33:36, 10:40] = 1.0  # beside a vessel
    cues = intensity_cues(x)[0]
    top_hat, brightness = (((cues[channel] > 0.0) == vessels).float().mean() for channel in (3, 0))
    assert top_hat > 0.9 > 0.75 > brightness
    assert cues[6, vessels].mean() > cues[6, ~vessels].mean() + 1.0

    image = torch.full((1, 1, 64, 64), 0.5)
    image[..., :32] += 0.2 * torch.randn(64, 32)  # textured, of the same mean
    cues = intensity_cues(prompted(image, (slice(10, 20), slice(10, 13)), (slice(10, 20), slice(50, 53))))[0]
    assert ((cues[6] > 0) == (torch.arange(64) < 32)).float().mean() > 0.9


def test_the_classifier_is_the_penalised_logistic_regression():
    generator = torch.Generator().manual_seed(3)
    ratios = torch.rand(1, 3, 200, generator=generator).double() * 1.8 - 0.9
    positive, negative = (torch.rand(2, 1, 200, generator=generator) > 0.8).double()
    features = torch.cat([torch.logit((ratios + 1.0) / 2.0), torch.ones_like(ratios[:, :1])], dim=1)[0].numpy()
    inside, outside = (0.5 * (marked / marked.sum()).flatten().numpy() for marked in (positive, negative))

    def loss(factors):
        odds = factors @ features
        penalty = 0.5 * module._RIDGE * (factors[:-1] ** 2).sum()
        return float(inside @ np.logaddexp(0.0, -odds) + outside @ np.logaddexp(0.0, odds) + penalty)

    best = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(module._features(ratios)[0], features, atol=1e-9)
    np.testing.assert_allclose(
        module._regression(module._features(ratios), positive, negative)[0, :, 0], best, atol=1e-3
    )


def test_an_appearance_learnt_from_one_image_recognises_the_structure_in_another():
    inside = (halves() > 0.5).float().flatten(1)
    appearance = learn_appearance(filter_image(halves()).flatten(2), inside, 1.0 - inside)
    found = compare(appearance, filter_image(halves().flip(3)))[0, 6]
    assert found[:, 18:].min() > 0.5
    assert found[:, :14].max() < -0.5
    for size, window in (((20, 31), 15), ((4, 7), 5)):
        image = torch.rand(2, 1, *size)
        expected = functional.avg_pool2d(image, window, stride=1, padding=window // 2, count_include_pad=False)
        torch.testing.assert_close(module.local_mean(image, window), expected)


# Geodesic distance.


def test_nearness_falls_along_a_corridor_around_corners_and_across_edges():
    cues = geodesic_cues(prompted(walls(), (CORRIDOR, START), (slice(0, 6), END)))[0]
    # From the middle of the half-resolution pixel that was drawn on, at 0.5, to the middles of the others.
    expected = STEP * (torch.arange(2, 30) - 0.5)
    torch.testing.assert_close(-REACH * cues[0, 14:18, 2:30].log(), expected.expand(4, 28), atol=2e-5, rtol=0.0)
    # Into the wall by a step of 0.8, and out of it by another one.
    assert cues[0, 10, 16] == pytest.approx(math.exp(-0.8 / REACH), rel=0.1)
    assert cues[0, 4, 16] == pytest.approx(math.exp(-1.6 / REACH), rel=0.1)
    assert cues[2, 14:18].min() > 0.9
    assert cues[2, :6].max() < -0.9
    image = torch.full((1, 1, 32, 32), 0.9)
    image[..., 4:8, 4:28] = image[..., 4:28, 24:28] = image[..., 24:28, 4:28] = 0.1  # a bracket, open to the left
    bracket = geodesic_cues(prompted(image, (slice(4, 8), slice(4, 6))))[0, 0]
    assert -REACH * bracket[25:27, 6].log().mean() == pytest.approx(STEP * 60, abs=0.006)  # across the walls 1.6
    assert bracket[16, 14] < 0.3


def test_boxes_and_strokes_are_seeds_where_they_are_strong_and_agree():
    positive, negative = (geodesic_cues(prompted(walls(), *pair))[0] for pair in (((CORRIDOR, START),), (None, LEFT)))
    assert positive[0].any()
    assert not positive[1:].any()
    assert negative[1].any()
    assert not negative[::2].any()
    plain = torch.full((1, 1, 32, 32), 0.5)
    box = geodesic_cues(prompted(plain, box=[[8, 8], [24, 24]]))[0]  # its outside is negative
    assert (box[1, :7] == 1.0).all()
    assert box[1, 16, 16] == pytest.approx(math.exp(-STEP * 8 / REACH), abs=2e-3)
    outside = geodesic_cues(prompted(plain, (CORRIDOR, slice(26, 30)), box=[[8, 8], [24, 24]]))[0]
    assert (outside[0, 13:19, 27:29] == 1.0).all()  # a stroke outweighs it
    faint, both = prompted(walls(), (CORRIDOR, START)), prompted(walls(), (CORRIDOR, START), (CORRIDOR, START))
    faint[0, POSITIVE, 14:18, 2:30] = 0.2
    assert torch.equal(geodesic_cues(faint)[0], positive)
    assert not geodesic_cues(both).any()


def shortest_paths(image, seeds):
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
    return torch.from_numpy(found)


@settings(max_examples=12)
@given(height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_paths_are_the_shortest_and_few_sweeps_suffice_even_in_noise(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((height, width), dtype=np.float32)
    seeds = rng.choice([-1, 0, 1], size=image.shape, p=[0.06, 0.88, 0.06])
    seeds[0, 0], seeds[-1, -1] = 1, -1
    drawn, image2 = (np.kron(one, np.ones((2, 2), np.float32)) for one in (np.stack([seeds == 1, seeds == -1]), image))
    x = encode_prompts(torch.from_numpy(image2)[None, None], scribbles=torch.from_numpy(drawn)[None])
    positive, negative = (shortest_paths(image, seeds == sign) for sign in (1, -1))
    nearer = (negative - positive) / (negative + positive + 1e-3)
    exact = torch.stack([torch.exp(-positive / REACH), torch.exp(-negative / REACH), nearer]).float()
    expected = functional.interpolate(exact[None], scale_factor=2, mode="bilinear")
    with mock.patch.object(module, "_SWEEPS", height * width):
        torch.testing.assert_close(geodesic_cues(x), expected, atol=2e-3, rtol=0.0)
    few, lost = geodesic_cues(x), (expected - geodesic_cues(x))[0, 0]
    assert lost.min() >= -2e-3  # no path is shorter than the shortest
    assert lost.mean() < 0.02
    swapped = x.clone()
    swapped[:, [POSITIVE, NEGATIVE]] = x[:, [NEGATIVE, POSITIVE]]
    torch.testing.assert_close(geodesic_cues(swapped), torch.stack([few[:, 1], few[:, 0], -few[:, 2]], dim=1))
    odd = x[..., 1:, 1:]
    padded = functional.pad(odd, (0, 1, 0, 1), mode="replicate")  # as if its last pixels were repeated
    torch.testing.assert_close(geodesic_cues(odd), geodesic_cues(padded)[..., :-1, :-1])
