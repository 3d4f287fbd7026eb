"""Tests of the comparison of intensities under positive and negative prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize
from torch.nn import functional

from scribblesegment.models.encoding import encode_prompts
from scribblesegment.models.intensity_cues import (
    _RIDGE,
    INTENSITY_CHANNELS,
    _features,
    _local_mean,
    _regression,
    _top_hat,
    compare,
    filter_image,
    intensity_cues,
    learn_appearance,
)


def halves(bright: float = 0.8, dark: float = 0.2) -> torch.Tensor:
    """An image whose left half is bright and whose right half is dark, (1, 1, 32, 32)."""
    image = torch.full((1, 1, 32, 32), dark)
    image[..., :16] = bright
    return image


def strokes(positive: tuple[slice, slice] | None, negative: tuple[slice, slice] | None) -> torch.Tensor:
    drawn = torch.zeros(1, 2, 32, 32)
    for channel, where in enumerate((positive, negative)):
        if where is not None:
            drawn[0, channel][where] = 1.0
    return drawn


LEFT, RIGHT = (slice(10, 12), slice(4, 8)), (slice(10, 12), slice(24, 28))


def test_intensities_of_positive_strokes_give_one_and_of_negative_ones_minus_one() -> None:
    cues = intensity_cues(encode_prompts(halves(), scribbles=strokes(LEFT, RIGHT)))
    assert cues.shape == (1, INTENSITY_CHANNELS, 32, 32)
    # Not quite 1: every pixel also counts a little as background, see _PRIOR_WEIGHT.
    assert (cues[0, 0, :, :16] > 0.85).all()
    assert (cues[0, 0, :, 16:] < -0.95).all()


def test_without_negative_strokes_the_image_is_the_background() -> None:
    cues = intensity_cues(encode_prompts(halves(), scribbles=strokes(LEFT, None)))
    assert (cues[0, 0, :, :16] > 0.2).all()
    assert (cues[0, 0, :, 16:] < -0.95).all()


def test_without_anything_positive_the_cues_are_silent() -> None:
    cues = intensity_cues(encode_prompts(halves(), scribbles=strokes(None, RIGHT)))
    assert not cues.any()


def test_a_box_alone_compares_its_inside_with_its_outside() -> None:
    cues = intensity_cues(encode_prompts(halves(), boxes=[torch.tensor([[[4, 2], [20, 14]]])]))
    assert cues[0, 0, 10, 8] > cues[0, 0, 10, 24] + 0.5


def test_strokes_outweigh_a_box() -> None:
    box = [torch.tensor([[[0, 0], [32, 32]]])]
    cues = intensity_cues(encode_prompts(halves(), scribbles=strokes(LEFT, RIGHT), boxes=box))
    assert cues[0, 0, 10, 8] > 0.3
    assert cues[0, 0, 10, 24] < -0.3


def test_the_third_channel_sees_a_thin_line_on_an_uneven_background() -> None:
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 1, 64, 64).clone()
    ramp[..., 31, :] -= 0.15  # a dark line across the whole ramp, darker than its place and nowhere the darkest
    drawn = torch.zeros(1, 2, 64, 64)
    drawn[0, 0, 31, 10:20] = 1.0
    drawn[0, 1, 20:24, 10:50] = 1.0
    cues = intensity_cues(encode_prompts(ramp, scribbles=drawn))[0]
    far = slice(40, 55)  # where nothing was drawn and the line is brighter than its drawn part
    assert cues[2, 31, far].mean() > 0.5
    assert cues[2, 45, far].mean() < 0.0
    assert cues[0, 31, far].mean() < cues[2, 31, far].mean()


def test_a_top_hat_tells_thin_vessels_from_the_background_under_strokes_wider_than_they_are() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.linspace(0.3, 0.8, 64).expand(1, 1, 64, 64).clone()
    image += 0.01 * torch.randn(image.shape, generator=generator)
    image[..., 8::12, :] -= 0.1  # one pixel wide
    drawn = torch.zeros(1, 2, 64, 64)
    drawn[0, 0, 19:22, 10:40] = 1.0  # three pixels wide: two thirds of it are background
    drawn[0, 1, 24:30, 10:40] = drawn[0, 1, 33:36, 10:40] = 1.0  # some of it beside a vessel
    cues = intensity_cues(encode_prompts(image, scribbles=drawn))[0]
    vessels = torch.zeros(64, 64, dtype=torch.bool)
    vessels[8::12] = True
    assert ((cues[3] > 0.0) == vessels).float().mean() > 0.95
    assert cues[6, vessels].mean() > cues[6, ~vessels].mean() + 0.5
    assert ((cues[0] > 0.0) == vessels).float().mean() < 0.8


def test_the_classifier_relies_on_what_tells_the_structure() -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.full((1, 1, 64, 64), 0.5)
    image[..., :32] += 0.2 * torch.randn(64, 32, generator=generator)  # textured, of the same mean
    drawn = torch.zeros(1, 2, 64, 64)
    drawn[0, 0, 10:20, 10:13] = 1.0
    drawn[0, 1, 10:20, 50:53] = 1.0
    cues = intensity_cues(encode_prompts(image, scribbles=drawn))[0]
    textured = torch.zeros(64, 64, dtype=torch.bool)
    textured[:, :32] = True
    found = ((cues > 0.0) == textured).float().mean(dim=(1, 2))
    assert found[6] > 0.85
    assert found[6] > found[0] + 0.03


@pytest.mark.parametrize("window", [3, 9])
def test_a_top_hat_is_the_one_of_mathematical_morphology(window: int) -> None:
    image = torch.rand(1, 1, 24, 17, generator=torch.Generator().manual_seed(window))
    array, size = image[0, 0].numpy(), (window, window)
    expected = ndimage.white_tophat(array, size=size) - ndimage.black_tophat(array, size=size)
    np.testing.assert_allclose(_top_hat(image, window)[0, 0], expected, atol=1e-6)


def test_the_classifier_is_the_penalised_logistic_regression_of_the_marked_pixels() -> None:
    generator = torch.Generator().manual_seed(3)
    ratios = 1.9 * torch.rand(1, 3, 144, generator=generator, dtype=torch.float64) - 0.95
    positive, negative = (torch.rand(2, 1, 144, generator=generator, dtype=torch.float64) > 0.8).double()
    features = torch.cat([torch.logit((ratios + 1.0) / 2.0), torch.ones_like(ratios[:, :1])], dim=1)[0].numpy()
    inside, outside = (0.5 * (marked / marked.sum()).flatten().numpy() for marked in (positive, negative))

    def loss(factors: np.ndarray) -> float:
        odds = factors @ features
        penalty = 0.5 * _RIDGE * (factors[:-1] ** 2).sum()
        return float(inside @ np.logaddexp(0.0, -odds) + outside @ np.logaddexp(0.0, odds) + penalty)

    best = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(_features(ratios)[0], features, atol=1e-9)
    np.testing.assert_allclose(_regression(_features(ratios), positive, negative)[0, :, 0], best, atol=1e-3)


def test_an_appearance_learnt_from_one_image_recognises_the_structure_in_another() -> None:
    first, second = halves(), halves().flip(3)
    filtered = filter_image(first)
    inside = (first > 0.5).float().flatten(1)
    appearance = learn_appearance(filtered.flatten(2), inside, 1.0 - inside)
    found = compare(appearance, filter_image(second))
    assert found.shape == (1, INTENSITY_CHANNELS, 32, 32)
    assert (found[0, 6, :, 18:] > 0.5).all()
    assert (found[0, 6, :, :14] < -0.5).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), clicks=st.integers(1, 5))
def test_cues_are_finite_and_between_minus_one_and_one(seed: int, clicks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((2, 1, 16, 20), generator=generator)
    coords = [torch.randint(0, 16, (clicks, 2), generator=generator) for _ in range(2)]
    labels = [torch.randint(0, 2, (clicks,), generator=generator) for _ in range(2)]
    cues = intensity_cues(encode_prompts(image, point_coords=coords, point_labels=labels))
    assert torch.isfinite(cues).all()
    assert cues.abs().max() <= 1.0 + 1e-5


def test_each_image_of_a_batch_is_compared_with_its_own_prompts() -> None:
    first = encode_prompts(halves(), scribbles=strokes(LEFT, RIGHT))
    second = encode_prompts(halves(), scribbles=strokes(RIGHT, LEFT))
    together = intensity_cues(torch.cat([first, second]))
    torch.testing.assert_close(together[:1], intensity_cues(first))
    torch.testing.assert_close(together[1:], intensity_cues(second))


def test_bfloat16_gives_the_cues_of_float32_up_to_its_rounding() -> None:
    network_input = encode_prompts(halves(), scribbles=strokes(LEFT, RIGHT))
    cues = intensity_cues(network_input.bfloat16())
    assert cues.dtype == torch.bfloat16
    torch.testing.assert_close(cues.float(), intensity_cues(network_input), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("window", [5, 15])
@pytest.mark.parametrize(("height", "width"), [(20, 31), (16, 16), (4, 7)])
def test_local_means_are_those_of_pooling_within_the_image(height: int, width: int, window: int) -> None:
    image = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(height))
    expected = functional.avg_pool2d(image, window, stride=1, padding=window // 2, count_include_pad=False)
    torch.testing.assert_close(_local_mean(image, window), expected)


def test_no_gradient_flows_through_the_cues() -> None:
    network_input = encode_prompts(halves(), scribbles=strokes(LEFT, RIGHT)).requires_grad_()
    assert not intensity_cues(network_input).requires_grad
