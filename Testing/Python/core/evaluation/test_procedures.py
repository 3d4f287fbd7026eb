from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.procedures import PROCEDURES, choose_procedures

SIDE = 64
SCRIBBLES = ("line-scribbles", "centerline-scribbles", "contour-scribbles")
CLICKS = ("center-clicks", "random-clicks", "warm-start-clicks")


def disc(row, column, radius, side=SIDE):
    rows, columns = np.ogrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


REFERENCE = disc(30, 28, 14)


def first(name, reference=REFERENCE, seed=0):
    return PROCEDURES[name].first(reference, np.random.default_rng(seed))


def correct(name, mask, seed=0, reference=REFERENCE):
    before = Prompts.empty(reference.shape)
    return PROCEDURES[name].correct(before, reference, mask, np.random.default_rng(seed))


def test_the_six_procedures_of_the_paper_and_boxes_are_there():
    assert list(PROCEDURES) == [*SCRIBBLES, *CLICKS, "boxes"]
    assert [procedure.prompts for procedure in PROCEDURES.values()] == ["scribbles"] * 3 + ["clicks"] * 3 + ["boxes"]


@pytest.mark.parametrize("name", SCRIBBLES)
def test_scribbles_begin_on_the_structure_and_on_its_background(name):
    prompts = first(name)
    assert prompts.scribbles[0].any()
    assert prompts.scribbles[1].any()
    assert not prompts.scribbles[0][~REFERENCE].any()
    assert not prompts.scribbles[1][REFERENCE].any()
    assert len(prompts.point_labels) == len(prompts.boxes) == 0


@pytest.mark.parametrize(
    ("name", "labels"), [("center-clicks", [1]), ("random-clicks", [1]), ("warm-start-clicks", [1, 1, 1, 0, 0, 0])]
)
def test_clicks_begin_with_the_numbers_of_the_paper(name, labels):
    prompts = first(name)
    assert prompts.point_labels.tolist() == labels
    assert REFERENCE[tuple(prompts.point_coords.T)].tolist() == [label == 1 for label in labels]
    assert not prompts.scribbles.any()


def test_three_lines_are_drawn_to_start_with_and_each_is_limited_by_itself():
    # On a grid of 128 pixels three lines of at most 128 pixels each.
    everywhere = disc(64, 64, 62, side=128)
    covered = [(first("line-scribbles", everywhere, seed).scribbles[0] > 0).sum() for seed in range(12)]
    assert 128 < max(covered) <= 3 * 128
    covered = [(correct("line-scribbles", ~everywhere, seed, everywhere).scribbles > 0).sum() for seed in range(12)]
    assert max(covered) <= 128


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_scribble_covers_at_most_the_same_part_of_the_image_on_any_grid(side):
    tall = np.ones((side, side), dtype=bool)
    tall[: side // 8] = False
    for seed in range(6):
        covered = (first("centerline-scribbles", tall, seed).scribbles > 0).mean(axis=(1, 2))
        assert covered.max() <= 1 / 128


def test_strokes_are_as_wide_on_larger_images_as_the_image_is_larger():
    def width(side):
        region = disc(side // 2, side // 2, side // 2.2, side)
        strokes = [first("contour-scribbles", region, seed).scribbles[0] > 0 for seed in range(12)]
        edges = [np.count_nonzero(np.diff(stroke.astype(int), axis=axis)) for stroke in strokes for axis in (0, 1)]
        return sum(stroke.sum() for stroke in strokes) / sum(edges)

    assert width(256) / width(128) == pytest.approx(2, rel=0.25)


def test_a_box_encloses_the_structure_and_is_at_most_20_pixels_of_128_larger():
    grown = []
    for seed in range(20):
        ((start, stop),) = first("boxes", seed=seed).boxes.tolist()
        assert start[0] <= 17
        assert start[1] <= 15
        assert stop[0] >= 44
        assert stop[1] >= 42
        grown += [stop[0] - start[0] - 27, stop[1] - start[1] - 27]
    assert 5 < max(grown) <= 10
    assert PROCEDURES["boxes"].correct is None


@pytest.mark.parametrize("name", [*SCRIBBLES, *CLICKS])
def test_what_was_missed_is_corrected_positively_and_what_is_too_much_negatively(name):
    for mask, positive in ((np.zeros_like(REFERENCE), True), (np.ones_like(REFERENCE), False)):
        prompts = correct(name, mask)
        painted = prompts.scribbles.any(axis=(1, 2)).tolist() + [label == 1 for label in prompts.point_labels.tolist()]
        assert painted in ([positive, not positive], [False, False, positive])
        for row, column in prompts.point_coords.tolist():
            assert REFERENCE[row, column] == positive
        assert not prompts.scribbles[0][~REFERENCE].any()
        assert not prompts.scribbles[1][REFERENCE].any()


@pytest.mark.parametrize("name", [*SCRIBBLES, "random-clicks"])
def test_the_sign_of_a_correction_is_as_likely_as_its_share_of_the_error(name):
    mask = REFERENCE.copy()
    mask[30:33, 26:30] = False  # 12 pixels missed
    mask[2:8, 2:8] = True  # 36 too many
    signs = []
    for seed in range(100):
        prompts = correct(name, mask, seed)
        signs.append(bool(prompts.scribbles[0].any()) or (prompts.point_labels == 1).any())
    assert 0.10 < np.mean(signs) < 0.42


@pytest.mark.parametrize("name", ["center-clicks", "warm-start-clicks"])
def test_a_correcting_click_is_in_the_center_of_the_largest_part_of_the_error(name):
    surplus = disc(52, 52, 6)
    mask = (REFERENCE & ~disc(30, 28, 4)) | surplus | disc(50, 8, 4)
    prompts = correct(name, mask)
    assert (prompts.point_coords.tolist(), prompts.point_labels.tolist()) == ([[52, 52]], [0])
    prompts = correct(name, (REFERENCE & ~disc(30, 28, 8)) | surplus)
    assert (prompts.point_coords.tolist(), prompts.point_labels.tolist()) == ([[30, 28]], [1])


def test_a_center_click_is_in_the_largest_part_of_the_structure():
    both = disc(14, 14, 5) | disc(44, 40, 9)
    assert first("center-clicks", both).point_coords.tolist() == [[44, 40]]


@settings(max_examples=25)
@given(st.sampled_from([*SCRIBBLES, *CLICKS]), st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20))
def test_a_correction_keeps_earlier_prompts_and_falls_on_the_error_alone(name, seed, radius, shift):
    reference = disc(30, 28, radius)
    mask = np.roll(reference, shift, axis=1)
    procedure, rng = PROCEDURES[name], np.random.default_rng(seed)
    before = procedure.first(reference, rng)
    after = procedure.correct(before, reference, mask, rng)
    added = after.scribbles != before.scribbles
    assert not added.any(axis=0)[reference == mask].any()
    old, new = (
        {(*index, label) for index, label in zip(p.point_coords.tolist(), p.point_labels.tolist(), strict=True)}
        for p in (before, after)
    )
    assert old <= new
    for row, column, label in new - old:
        assert reference[row, column] == label != mask[row, column]
    assert len(new - old) <= 1


@pytest.mark.parametrize("name", list(PROCEDURES))
def test_the_same_seed_draws_the_same(name):
    assert first(name, seed=4).equals(first(name, seed=4))


@pytest.mark.parametrize("name", ["line-scribbles", "random-clicks", "warm-start-clicks", "boxes"])
def test_another_seed_draws_something_else(name):
    assert not all(first(name, seed=seed).equals(first(name, seed=0)) for seed in (1, 2, 3))


def test_a_structure_of_one_pixel_can_be_prompted_and_corrected():
    reference = np.zeros((SIDE, SIDE), dtype=bool)
    reference[5, 5] = True
    for procedure in PROCEDURES.values():
        assert procedure.first(reference, np.random.default_rng(0)).has_positive
        if procedure.correct is not None:
            assert correct(procedure.name, np.zeros_like(reference), reference=reference).has_positive


def test_procedures_are_looked_up_by_name():
    names = ["boxes", "center-clicks", "boxes"]
    assert [procedure.name for procedure in choose_procedures(names)] == ["boxes", "center-clicks"]
    with pytest.raises(ConfigError, match="No procedure scribbles; there are line-scribbles"):
        choose_procedures(["boxes", "scribbles"])
