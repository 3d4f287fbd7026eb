"""The simulated user: clicks, boxes, the first round and corrections."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regions import SEEDS, disc, rectangle, regions
from scipy import ndimage

from scribblesegment import simulation
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation import (
    SCRIBBLE_KINDS,
    SimulatedUserConfig,
    simulate_corrections,
    simulate_first_round,
    simulate_scribble,
)
from scribblesegment.simulation.clicks_boxes import (
    border_clicks,
    center_clicks,
    enclosing_box,
    largest_component_center,
    random_clicks,
)
from scribblesegment.simulation.scribbles import smooth_noise

CLICKS = SimulatedUserConfig(type_probabilities=(0, 1, 0), click_weights=(1, 0, 0), correction_scribble_probability=0)
MASK = disc((48, 48), (24, 24), 12)


def first_rounds(count, mask=MASK, **habits):
    config = SimulatedUserConfig(**habits)
    return [simulate_first_round(mask, np.random.default_rng(seed), config=config) for seed in range(count)]


def marks(prompts):
    """Where anything is marked as object and as background, (2, H, W) bool; boxes left out."""
    marked = prompts.scribbles > 0
    for (row, column), label in zip(prompts.point_coords, prompts.point_labels, strict=True):
        marked[0 if label else 1, row, column] = True
    return marked


@given(mask=regions(), seed=SEEDS)
def test_the_first_round_marks_the_structure_as_object_and_its_background_as_background(mask, seed):
    prompts = simulate_first_round(mask, np.random.default_rng(seed))
    positive, negative = marks(prompts)
    assert prompts.has_positive
    assert not (positive & ~mask).any()
    assert not (negative & mask).any()
    for (top, left), (bottom, right) in prompts.boxes:
        assert mask[top:bottom, left:right].sum() == mask.sum()
    assert len(prompts.boxes) <= 1
    assert prompts.mask_input is None
    assert prompts.equals(simulate_first_round(mask, np.random.default_rng(seed)))


def test_the_seven_combinations_of_types_are_equally_likely_unless_chosen():
    rounds = first_rounds(2100, scribble_weights=(1, 0, 0, 0), click_weights=(1, 0, 0))
    counts = Counter((bool(one.scribbles.any()), len(one.point_labels) > 0, len(one.boxes) > 0) for one in rounds)
    assert len(counts) == 7
    assert 230 < min(counts.values()) < max(counts.values()) < 370  # 300 expected
    for used, only in enumerate(np.eye(3)):
        for one in first_rounds(20, type_probabilities=only):
            present = [one.scribbles[0].any(), (one.point_labels == 1).any(), len(one.boxes) == 1]
            assert present == [index == used for index in range(3)]


@pytest.mark.parametrize(
    ("habits", "positives", "negatives"),
    [
        ({}, {1, 2, 3}, {0, 1, 2, 3}),
        ({"max_interactions": 5, "min_initial_negative": 2}, set(range(1, 6)), {2, 3, 4, 5}),
    ],
)
def test_the_numbers_of_interactions_are_uniform(habits, positives, negatives):
    rounds = first_rounds(400, **{"type_probabilities": (0, 1, 0), "click_weights": (1, 0, 0)} | habits)
    for sign, expected in ((1, positives), (0, negatives)):
        counts = Counter(int((one.point_labels == sign).sum()) for one in rounds)
        assert set(counts) == expected
        assert min(counts.values()) > 0.6 * 400 / len(expected)


def test_kinds_are_drawn_by_their_weights(monkeypatch):
    seen = []
    monkeypatch.setattr(
        simulation.user, "simulate_scribble", lambda region, kind, rng, **options: seen.append(kind) or region * 1.0
    )
    first_rounds(400, type_probabilities=(1, 0, 0), scribble_weights=(2, 1, 0, 1), min_initial_negative=1)
    shares = [seen.count(kind) / len(seen) for kind in SCRIBBLE_KINDS]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0, 0.25], atol=0.06)
    (centers,) = first_rounds(1, type_probabilities=(0, 1, 0), click_weights=(0, 1, 0))
    np.testing.assert_array_equal(centers.point_coords[centers.point_labels == 1], [[24, 24]])


def test_strokes_leave_the_structure_only_where_hands_slip():
    def outside(slip_p, mask):
        rounds = first_rounds(15, mask, type_probabilities=(1, 0, 0), slip_p=slip_p)
        return sum(bool(one.scribbles[0][~mask].any()) for one in rounds)

    vessel = rectangle((48, 48), (20, 22), (4, 44))
    assert outside(0.0, MASK) == outside(0.0, vessel) == 0
    assert outside(1.0, MASK) > 0
    assert outside(0.01, vessel) == 15  # wider than the vessel, whatever the chance


def test_who_keeps_margins_draws_near_the_structure_and_without_background_there_is_nothing_to_mark():
    mask = disc((96, 96), (48, 48), 8)
    reach = ndimage.distance_transform_edt(~mask)
    margins, anywhere = (
        np.mean([reach[one.scribbles[1] > 0].max(initial=0.0) for one in rounds])
        for rounds in (first_rounds(12, mask, type_probabilities=(1, 0, 0), margin_p=chance) for chance in (1.0, 0.0))
    )
    assert margins < 0.6 * anywhere
    for one in first_rounds(30, np.ones((20, 20), bool), min_initial_negative=1):
        assert not marks(one)[1].any()


# Corrections.


@given(mask=regions(), seed=SEEDS, sigma=st.floats(0, 6), level=st.floats(-1, 3))
def test_corrections_lie_in_the_error_of_their_sign_and_keep_earlier_prompts(mask, seed, sigma, level):
    rng = np.random.default_rng(seed)
    prediction = mask ^ (smooth_noise(mask.shape, sigma, rng) > level)
    positive, negative = marks(simulate_corrections(Prompts.empty(mask.shape), mask, prediction, rng))
    assert not (positive & ~(mask & ~prediction)).any()
    assert not (negative & ~(prediction & ~mask)).any()
    assert (positive.any() or negative.any()) != np.array_equal(mask, prediction)
    before = simulate_first_round(mask, rng).with_mask_input(np.where(prediction, 1.0, -1.0).astype(np.float32))
    after, same = (simulate_corrections(before, mask, prediction, np.random.default_rng(seed)) for _ in range(2))
    assert after.equals(same)
    assert (marks(after) >= marks(before)).all()
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.mask_input, before.mask_input)
    assert simulate_corrections(before, mask, mask, rng) is before


def test_one_to_three_corrections_follow_the_share_of_each_sign_in_the_error():
    mask, prediction = rectangle((60, 120), (0, 60), (0, 60)), rectangle((60, 120), (0, 60), (100, 120))
    prompts = Prompts.empty(mask.shape)  # three times more pixels missed than too many

    def correct(chance):
        config = dataclasses.replace(CLICKS, correction_scribble_probability=chance, scribble_weights=(1, 0, 0, 0))
        rngs = map(np.random.default_rng, range(400))
        return [simulate_corrections(prompts, mask, prediction, rng, config=config) for rng in rngs]

    labels = [one.point_labels for one in correct(0.0)]
    counts = Counter(map(len, labels))
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 90  # 133 expected
    assert np.concatenate(labels).mean() == pytest.approx(0.75, abs=0.05)
    both = correct(0.5)  # scribbles or clicks
    assert all(one.scribbles.any() != (len(one.point_labels) > 0) for one in both)
    assert np.mean([one.scribbles.any() for one in both]) == pytest.approx(0.5, abs=0.1)


# Refusals and documentation.


def correct(mask, prediction, shape=(48, 48)):
    return lambda rng: simulate_corrections(Prompts.empty(shape), mask, prediction, rng)


EMPTY, NUMBERS = np.zeros((6, 7), bool), np.ones((6, 7), np.uint8)
DRAW = [
    *(lambda mask, rng, n=1, kind=kind: simulate_scribble(mask, kind, rng, count=n) for kind in SCRIBBLE_KINDS),
    *(
        lambda mask, rng, n=1, click=click: click(mask, n, rng)
        for click in (simulation.random_clicks, simulation.center_clicks, simulation.border_clicks)
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "problem"),
    [
        (lambda rng: simulate_first_round(EMPTY, rng), PromptError, "empty mask"),
        (lambda rng: simulate_first_round(NUMBERS, rng), PromptError, "mask .* type uint8"),
        (correct(MASK.astype(np.uint8), MASK), PromptError, "mask .* uint8"),
        (correct(MASK, MASK.astype(np.float32)), PromptError, "prediction .* float32"),
        (correct(MASK, np.zeros((48, 47), bool)), PromptError, "same grid"),
        (lambda rng: simulate_scribble(MASK, "spiral", rng), ConfigError, "known are line, centerline, contour, graph"),
        *((lambda rng, draw=draw: draw(EMPTY, rng), PromptError, r"shape \(6, 7\) is empty") for draw in DRAW),
        *((lambda rng, draw=draw: draw(NUMBERS, rng), PromptError, "type uint8") for draw in DRAW),
        *((lambda rng, draw=draw: draw(MASK, rng, 0), ConfigError, "count of 0") for draw in DRAW),
        (lambda rng: simulation.enclosing_box(EMPTY, rng), PromptError, "empty"),
        (lambda rng: simulation.graph_scribble(EMPTY, rng), PromptError, "empty"),
    ],
)
def test_what_nothing_can_be_drawn_in_is_refused(call, error, problem, rng):
    with pytest.raises(error, match=problem):
        call(rng)


NAN = float("nan")
BAD = {
    **{"scribble_weights": ((1, 1, 1), (0, 0, 0, 0)), "click_weights": ((1, -1, 1), (1, NAN, 1))},
    **{"type_probabilities": ((0, 0, 0), (0.5, 1.5, 0)), "correction_scribble_probability": (NAN,), "slip_p": (1.5,)},
    **{"margin_p": (-0.1,), "max_interactions": (0,), "min_initial_negative": (-1, 4), "box_enlargement": (-1,)},
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_impossible_habits_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        SimulatedUserConfig(**{field: value})
    assert SimulatedUserConfig(click_weights=[1, 1, 1]) == SimulatedUserConfig()  # as from JSON


def test_the_example_in_the_documentation_runs():
    text = (Path(__file__).resolve().parents[3] / "docs" / "simulation.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1), names)
    assert names["prompts"].has_positive


# Clicks and boxes ---------------------------------------------------------------------------------------------------


KINDS = [random_clicks, center_clicks, border_clicks]


def distances(clicks):
    return np.hypot(*(clicks[:, None] - clicks[None]).transpose(2, 0, 1))[np.triu_indices(len(clicks), k=1)]


@pytest.mark.parametrize("click", KINDS)
@given(region=regions(), seed=SEEDS, count=st.integers(1, 6), separation=st.none() | st.floats(0, 20))
def test_clicks_are_different_pixels_of_the_region_one_at_least_and_apart(click, region, seed, count, separation):
    apart = click is not center_clicks
    options = {"min_separation": separation} if apart and separation is not None else {}
    clicks = click(region, count, np.random.default_rng(seed), **options)
    assert clicks.dtype == np.int64
    assert 1 <= len(np.unique(clicks, axis=0)) == len(clicks) <= count
    assert region[tuple(clicks.T)].all()
    assert not apart or (distances(clicks) >= options.get("min_separation", 4)).all()
    np.testing.assert_array_equal(clicks, click(region, count, np.random.default_rng(seed), **options))


@pytest.mark.parametrize(
    ("region", "center"),
    [
        *((disc((50, 60), (22, 31), radius), (22, 31)) for radius in (0, 1, 7, 18)),
        (rectangle((40, 100), (10, 21), (10, 91)), (15, 50)),  # the middle of its ridge
        (np.ones((21, 21), bool), (10, 10)),  # the image's border bounds it
    ],
)
def test_centers_are_furthest_from_the_boundary(region, center, rng):
    np.testing.assert_array_equal(center_clicks(region, 3, rng), [center])
    np.testing.assert_array_equal(largest_component_center(region), [center])


def test_every_component_can_be_chosen_and_none_twice():
    centres = {(12, 12), (12, 40), (40, 26)}
    region = np.any([disc((60, 60), one, 3 + 2 * n) for n, one in enumerate(sorted(centres))], axis=0)
    assert set(map(tuple, center_clicks(region, 9, np.random.default_rng(0)).tolist())) == centres
    singles = [tuple(center_clicks(region, 1, np.random.default_rng(seed))[0].tolist()) for seed in range(200)]
    assert min(singles.count(centre) for centre in centres) > 40  # 67 expected
    most_pixels = disc((60, 90), (30, 70), 10) | rectangle((60, 90), (5, 55), (5, 13))  # 317 and 400, less deep
    assert largest_component_center(most_pixels)[0, 1] < 13


def test_border_clicks_lie_nearer_to_the_boundary_than_random_ones_the_less_blur_the_nearer():
    region = disc((128, 128), (64, 64), 50)
    depth = ndimage.distance_transform_edt(region)

    def mean_depth(click, **options):
        return np.mean([depth[tuple(click(region, 1, np.random.default_rng(n), **options)[0])] for n in range(300)])

    shallow, deep = (mean_depth(border_clicks, blur_sigma=(sigma, sigma)) for sigma in (1.0, 8.0))
    assert shallow < 3 < 6 < deep
    assert mean_depth(border_clicks) < 0.6 * mean_depth(random_clicks)


@given(region=regions(), seed=SEEDS, enlargement=st.integers(0, 25))
def test_a_box_encloses_its_region_in_the_image_and_grows_by_no_more_than_asked(region, seed, enlargement):
    box = enclosing_box(region, np.random.default_rng(seed), max_enlargement=enlargement)
    (top, left), (bottom, right) = box
    assert box.dtype == np.int64
    assert region[top:bottom, left:right].sum() == region.sum()
    assert 0 <= top < bottom <= region.shape[0]
    assert 0 <= left < right <= region.shape[1]
    tight = np.ptp(np.argwhere(region), axis=0) + 1
    assert ((box[1] - box[0]) - tight <= enlargement).all()


def test_growth_is_uniform_up_to_twenty_pixels_in_each_dimension_and_on_both_sides():
    region = rectangle((100, 100), (40, 60), (30, 70))
    boxes = np.stack([enclosing_box(region, np.random.default_rng(seed)) for seed in range(2000)])
    growth = boxes[:, 1] - boxes[:, 0] - (20, 40)
    for axis in (0, 1):
        np.testing.assert_allclose(np.bincount(growth[:, axis], minlength=21) / 2000, [1 / 21] * 21, atol=0.02)
    assert abs(np.corrcoef(growth.T)[0, 1]) < 0.1
    np.testing.assert_allclose(((40, 30) - boxes[:, 0]).mean(axis=0), 5, atol=0.5)
    with pytest.raises(ConfigError, match="got -1"):
        enclosing_box(region, np.random.default_rng(0), max_enlargement=-1)
