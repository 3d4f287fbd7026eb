from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation import rounds
from scribblesegment.simulation.fields import smooth_noise
from scribblesegment.simulation.rounds import (
    CLICK_KINDS,
    SCRIBBLE_KINDS,
    SimulatedUserConfig,
    simulate_corrections,
    simulate_first_round,
    simulate_scribble,
)
from scribblesegment.simulation.scribbles import ScribbleConfig

SEEDS = st.integers(0, 2**32 - 1)
RANDOM_CLICKS_ONLY = SimulatedUserConfig(
    type_probabilities=(0, 1, 0), click_weights=(1, 0, 0), correction_scribble_probability=0
)
FAST = SimulatedUserConfig(scribble_weights=(1, 0, 0, 0), click_weights=(1, 0, 0))


def disc(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


MASK = disc((48, 48), (24, 24), 12)


@st.composite
def masks(draw):
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(draw(SEEDS))
    field = smooth_noise(shape, draw(st.floats(0, 8)), rng)
    return field >= np.quantile(field, draw(st.floats(0, 1)))


@st.composite
def masks_and_predictions(draw):
    mask = draw(masks())
    rng = np.random.default_rng(draw(SEEDS))
    prediction = mask ^ (smooth_noise(mask.shape, draw(st.floats(0, 6)), rng) > draw(st.floats(-1, 3)))
    return mask, prediction


def marks(prompts):
    """Where anything is marked as object and as background, (2, H, W) bool; boxes left out."""
    marked = prompts.scribbles > 0
    for (row, column), label in zip(prompts.point_coords, prompts.point_labels, strict=True):
        marked[0 if label else 1, row, column] = True
    return marked


# The first round


@given(mask=masks(), seed=SEEDS)
def test_the_first_round_marks_the_structure_as_object_and_its_background_as_background(mask, seed):
    prompts = simulate_first_round(mask, np.random.default_rng(seed))
    assert prompts.shape == mask.shape
    assert prompts.has_positive
    positive, negative = marks(prompts)
    assert not (positive & ~mask).any()
    assert not (negative & mask).any()
    for (top, left), (bottom, right) in prompts.boxes:
        assert mask[top:bottom, left:right].sum() == mask.sum()
    assert len(prompts.boxes) <= 1
    assert prompts.mask_input is None


def test_the_same_generator_state_gives_the_same_prompts():
    for seed in range(20):
        first = simulate_first_round(MASK, np.random.default_rng(seed))
        assert first.equals(simulate_first_round(MASK, np.random.default_rng(seed)))
    assert not first.equals(simulate_first_round(MASK, np.random.default_rng(99)))


@pytest.mark.parametrize(("used", "only"), [(0, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 0, 1))])
def test_only_the_types_of_positive_probability_are_used(used, only):
    config = SimulatedUserConfig(type_probabilities=only)
    for seed in range(30):
        prompts = simulate_first_round(MASK, np.random.default_rng(seed), config=config)
        present = [prompts.scribbles[0].any(), (prompts.point_labels == 1).any(), len(prompts.boxes) == 1]
        assert present == [index == used for index in range(3)]


def test_the_seven_combinations_of_types_are_equally_likely():
    counts: dict[tuple[bool, bool, bool], int] = {}
    for seed in range(2100):
        prompts = simulate_first_round(MASK, np.random.default_rng(seed), config=FAST)
        used = bool(prompts.scribbles.any()), len(prompts.point_labels) > 0, len(prompts.boxes) > 0
        counts[used] = counts.get(used, 0) + 1
    assert len(counts) == 7
    assert min(counts.values()) > 230  # 300 expected
    assert max(counts.values()) < 370


def test_the_numbers_of_interactions_are_one_to_three_positive_and_none_to_three_negative():
    labels = [
        simulate_first_round(MASK, np.random.default_rng(seed), config=RANDOM_CLICKS_ONLY).point_labels
        for seed in range(400)
    ]
    positives, negatives = [[int(np.sum(entry == value)) for entry in labels] for value in (1, 0)]
    assert set(positives) == {1, 2, 3}
    assert set(negatives) == {0, 1, 2, 3}
    assert min(positives.count(value) for value in {1, 2, 3}) > 90  # 133 expected
    assert min(negatives.count(value) for value in {0, 1, 2, 3}) > 60  # 100 expected


def test_the_fewest_negatives_and_the_most_interactions_are_honoured():
    config = SimulatedUserConfig(
        type_probabilities=(0, 1, 0), click_weights=(1, 0, 0), max_interactions=5, min_initial_negative=2
    )
    for seed in range(100):
        labels = simulate_first_round(MASK, np.random.default_rng(seed), config=config).point_labels
        assert 1 <= np.sum(labels == 1) <= 5
        assert 2 <= np.sum(labels == 0) <= 5


def test_strokes_leave_the_structure_only_where_hands_slip():
    def outside(slip_p, mask):
        config = SimulatedUserConfig(type_probabilities=(1, 0, 0), slip_p=slip_p)
        strokes = [
            simulate_first_round(mask, np.random.default_rng(seed), config=config).scribbles[0] for seed in range(15)
        ]
        return sum(bool((stroke[~mask] > 0).any()) for stroke in strokes)

    vessel = np.zeros((48, 48), bool)
    vessel[20:22, 4:44] = True
    assert outside(0.0, MASK) == outside(0.0, vessel) == 0
    assert outside(1.0, MASK) > 0
    assert outside(0.01, vessel) == 15  # wider than the vessel, whatever the chance


def test_a_structure_that_fills_the_image_gets_no_negative_prompts():
    mask = np.ones((20, 20), dtype=bool)
    config = SimulatedUserConfig(min_initial_negative=1)
    for seed in range(30):
        assert not marks(simulate_first_round(mask, np.random.default_rng(seed), config=config))[1].any()


def test_kinds_are_drawn_by_their_weights(monkeypatch):
    seen = []

    def record(region, kind, rng, **options):
        seen.append(kind)
        return region.astype(np.float32)

    monkeypatch.setattr(rounds, "simulate_scribble", record)
    config = SimulatedUserConfig(type_probabilities=(1, 0, 0), scribble_weights=(2, 1, 0, 1), min_initial_negative=1)
    for seed in range(400):
        simulate_first_round(MASK, np.random.default_rng(seed), config=config)
    shares = [seen.count(kind) / len(seen) for kind in SCRIBBLE_KINDS]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0, 0.25], atol=0.06)


def test_center_clicks_are_used_where_only_they_have_weight():
    config = SimulatedUserConfig(type_probabilities=(0, 1, 0), click_weights=(0, 1, 0))
    prompts = simulate_first_round(MASK, np.random.default_rng(0), config=config)
    np.testing.assert_array_equal(prompts.point_coords[prompts.point_labels == 1], [[24, 24]])
    assert CLICK_KINDS[1] == "center"


# Corrections


@given(pair=masks_and_predictions(), seed=SEEDS)
def test_positive_corrections_lie_in_what_was_missed_and_negative_ones_in_what_was_too_much(pair, seed):
    mask, prediction = pair
    corrected = simulate_corrections(Prompts.empty(mask.shape), mask, prediction, np.random.default_rng(seed))
    positive, negative = marks(corrected)
    assert not (positive & ~(mask & ~prediction)).any()
    assert not (negative & ~(prediction & ~mask)).any()
    assert len(corrected.boxes) == 0
    assert corrected.is_empty == np.array_equal(mask, prediction)


def test_a_perfect_prediction_is_left_alone(rng):
    prompts = simulate_first_round(MASK, rng)
    assert simulate_corrections(prompts, MASK, MASK.copy(), rng) is prompts


@given(pair=masks_and_predictions(), seed=SEEDS)
def test_earlier_prompts_are_kept(pair, seed):
    mask, prediction = pair
    rng = np.random.default_rng(seed)
    logits = np.where(prediction, 1.0, -1.0).astype(np.float32)
    before = simulate_first_round(mask, rng).with_mask_input(logits)
    after = simulate_corrections(before, mask, prediction, rng)
    assert np.all(after.scribbles >= before.scribbles)
    old, new = (
        {(*click, label) for click, label in zip(p.point_coords.tolist(), p.point_labels.tolist(), strict=True)}
        for p in (before, after)
    )
    assert old <= new
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.mask_input, before.mask_input)


def test_one_to_three_corrections_follow_the_share_of_each_sign_in_the_error():
    mask, prediction = np.zeros((60, 120), dtype=bool), np.zeros((60, 120), dtype=bool)
    mask[:, :60] = True  # three times more pixels missed than too many
    prediction[:, 100:] = True
    labels = [
        simulate_corrections(
            Prompts.empty(mask.shape), mask, prediction, np.random.default_rng(seed), config=RANDOM_CLICKS_ONLY
        ).point_labels
        for seed in range(400)
    ]
    numbers = [len(entry) for entry in labels]
    assert set(numbers) == {1, 2, 3}
    assert min(numbers.count(value) for value in {1, 2, 3}) > 90  # 133 expected
    assert np.concatenate(labels).mean() == pytest.approx(0.75, abs=0.05)


def test_a_correction_round_uses_scribbles_or_clicks_by_their_probability():
    prediction = np.zeros_like(MASK)
    for probability, expected in ((0.0, 0), (1.0, 200), (0.5, 100)):
        config = SimulatedUserConfig(scribble_weights=(1, 0, 0, 0), correction_scribble_probability=probability)
        results = [
            simulate_corrections(
                Prompts.empty(MASK.shape), MASK, prediction, np.random.default_rng(seed), config=config
            )
            for seed in range(200)
        ]
        assert all(result.scribbles.any() != (len(result.point_labels) > 0) for result in results)
        assert sum(bool(result.scribbles.any()) for result in results) == pytest.approx(expected, abs=expected * 0.25)


def test_the_same_generator_state_gives_the_same_corrections():
    prediction = disc(MASK.shape, (28, 20), 12)
    first, second = (
        simulate_corrections(Prompts.empty(MASK.shape), MASK, prediction, np.random.default_rng(4)) for _ in range(2)
    )
    assert first.equals(second)


# One scribble


@pytest.mark.parametrize("kind", SCRIBBLE_KINDS)
@given(region=masks(), seed=SEEDS, count=st.integers(1, 3))
def test_a_scribble_of_any_kind_stays_in_its_region_and_is_not_empty(kind, region, seed, count):
    scribble = simulate_scribble(region, kind, np.random.default_rng(seed), count=count)
    assert scribble.dtype == np.float32
    assert not scribble[~region].any()
    assert scribble.min() >= 0
    assert 0.5 <= scribble.max() <= 1


@pytest.mark.parametrize("kind", SCRIBBLE_KINDS)
def test_the_limit_of_pixels_holds_for_any_kind(kind):
    region = disc((80, 80), (40, 40), 36)
    for seed in range(20):
        scribble = simulate_scribble(
            region, kind, np.random.default_rng(seed), count=2, config=ScribbleConfig(max_pixels=15)
        )
        assert 1 <= np.count_nonzero(scribble) <= 30


def test_an_unknown_kind_of_scribble_is_refused_with_those_known(rng):
    with pytest.raises(ConfigError, match="'spiral'; known are line, centerline, contour, graph"):
        simulate_scribble(MASK, "spiral", rng)


@pytest.mark.parametrize("kind", SCRIBBLE_KINDS)
def test_scribbles_need_a_region_and_a_count(kind, rng):
    with pytest.raises(PromptError, match="empty"):
        simulate_scribble(np.zeros((4, 4), dtype=bool), kind, rng)
    with pytest.raises(ConfigError, match="count of 0"):
        simulate_scribble(MASK, kind, rng, count=0)


# Errors


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.zeros((6, 7), dtype=bool), "empty mask"),
        (np.ones((6, 7), dtype=np.uint8), "mask .* type uint8"),
        (np.ones((6, 7)), "mask .* type float64"),
        (np.ones((2, 6, 7), dtype=bool), r"mask has shape \(2, 6, 7\)"),
    ],
    ids=["empty", "uint8", "float", "volume"],
)
def test_a_mask_that_cannot_be_prompted_is_refused(mask, problem, rng):
    with pytest.raises(PromptError, match=problem):
        simulate_first_round(mask, rng)


def test_masks_and_predictions_that_are_not_bool_are_refused_and_not_misread(rng):
    prompts = Prompts.empty(MASK.shape)
    with pytest.raises(PromptError, match=r"mask .* uint8"):
        simulate_corrections(prompts, MASK.astype(np.uint8), MASK, rng)
    with pytest.raises(PromptError, match=r"prediction .* float32"):
        simulate_corrections(prompts, MASK, MASK.astype(np.float32), rng)


@pytest.mark.parametrize(("prompted", "predicted"), [((48, 48), (48, 47)), ((40, 48), (48, 48))])
def test_corrections_on_different_grids_are_refused(prompted, predicted, rng):
    with pytest.raises(PromptError, match="same grid"):
        simulate_corrections(Prompts.empty(prompted), MASK, np.zeros(predicted, dtype=bool), rng)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scribble_weights", (1, 1, 1)),
        ("scribble_weights", (0, 0, 0, 0)),
        ("click_weights", (1, -1, 1)),
        ("click_weights", (1, float("nan"), 1)),
        ("type_probabilities", (0, 0, 0)),
        ("type_probabilities", (0.5, 1.5, 0)),
        ("correction_scribble_probability", 1.2),
        ("correction_scribble_probability", float("nan")),
        ("slip_p", 1.5),
        ("margin_p", -0.1),
        ("max_interactions", 0),
        ("min_initial_negative", -1),
        ("min_initial_negative", 4),
        ("box_enlargement", -1),
    ],
)
def test_impossible_habits_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        SimulatedUserConfig(**{field: value})


def test_weights_given_as_lists_become_tuples():
    assert SimulatedUserConfig(click_weights=[1, 1, 1]) == SimulatedUserConfig()


# Documentation


def test_the_example_in_the_documentation_runs():
    text = (Path(__file__).resolve().parents[4] / "docs" / "simulation.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1), names)
    assert isinstance(names["prompts"], Prompts)
    assert names["prompts"].has_positive


def test_a_user_who_keeps_margins_draws_away_from_the_border() -> None:
    rows, columns = np.mgrid[:96, :96]
    mask = np.hypot(rows - 48, columns - 48) < 8
    config = SimulatedUserConfig(type_probabilities=(1.0, 0.0, 0.0), margin_p=1.0)
    usual = replace(config, margin_p=0.0)
    reach = ndimage.distance_transform_edt(~mask)

    def farthest(config: SimulatedUserConfig) -> float:
        drawn = [simulate_first_round(mask, np.random.default_rng(seed), config=config) for seed in range(12)]
        return float(np.mean([reach[prompts.scribbles[1] > 0].max(initial=0.0) for prompts in drawn]))

    assert farthest(config) < 0.6 * farthest(usual)
