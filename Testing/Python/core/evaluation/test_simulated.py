from __future__ import annotations

import math

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, ImageError, PromptError
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.simulated import SimulationPlan, run_simulated
from scribblesegment.evaluation.stepwise import ClassicalMethod, StepPrediction

SIDE = 48


def example(number=0, radius=9):
    rows, columns = np.ogrid[:SIDE, :SIDE]
    reference = (rows - 20 - number) ** 2 + (columns - 24) ** 2 < radius**2
    return LabelExample("set", "set/disc", f"p{number}", number, 1, reference.astype(np.float32), reference)


class Scripted:
    """Gives one mask after another, the last one again and again; a mask may be an error to raise."""

    def __init__(self, *masks, prompts=("scribbles", "clicks", "boxes")):
        self.masks, self.prompts = masks, frozenset(prompts)
        self.images, self.seen = [], []

    def set_image(self, image):
        self.images.append(image)
        self.seen.append([])

    def segment(self, prompts):
        self.seen[-1].append(prompts)
        mask = self.masks[min(len(self.seen[-1]), len(self.masks)) - 1]
        if isinstance(mask, Exception):
            raise mask
        return StepPrediction(mask)


EXAMPLE = example()
PERFECT = EXAMPLE.reference
EMPTY = np.zeros_like(PERFECT)
HALF = PERFECT & (np.arange(SIDE) < 24)


def plan(*procedures, **options):
    return SimulationPlan(procedures or ("center-clicks",), **{"steps": 3, "count_to_target": (), **options})


def run(methods, plan_, examples=(EXAMPLE,), **options):
    return run_simulated(examples, methods, plan_, **options)


def test_every_method_answers_every_step_of_every_example():
    methods = {"one": Scripted(HALF), "two": Scripted(EMPTY)}
    simulation = run(methods, plan("center-clicks", "line-scribbles"), [example(0), example(1)])
    assert [(r.procedure, r.image_index, r.method, r.step) for r in simulation.results] == [
        (procedure, image, method, step)
        for procedure in ("center-clicks", "line-scribbles")
        for image in (0, 1)
        for method in ("one", "two")
        for step in (1, 2, 3)
    ]
    first = simulation.results[0]
    assert (first.set_name, first.task, first.subject, first.label) == ("set", "set/disc", "p0", 1)
    assert simulation.unable == []


def test_results_carry_the_metrics_after_each_step():
    results = run({"one": Scripted(EMPTY, HALF, PERFECT)}, plan()).results
    assert [round(result.dice, 2) for result in results] == [0.0, 0.64, 1.0]
    assert results[0].hausdorff95_mm == pytest.approx(math.hypot(47, 47))
    assert results[2].hausdorff95_mm == 0.0
    assert [result.surface_dice for result in results[::2]] == [0.0, 1.0]
    assert all(result.seconds > 0 for result in results)


def test_prompts_pile_up_one_correction_a_step():
    method = Scripted(EMPTY)
    run({"one": method}, plan("random-clicks", steps=4))
    assert [len(prompts.point_labels) for prompts in method.seen[0]] == [1, 2, 3, 4]
    assert all(prompts.mask_input is None for prompts in method.seen[0])


def test_a_correction_answers_the_method_s_own_error():
    too_little, too_much = Scripted(EMPTY), Scripted(np.ones_like(PERFECT))
    run({"little": too_little, "much": too_much}, plan("random-clicks", steps=2))
    assert too_little.seen[0][1].point_labels.tolist() == [1, 1]
    assert too_much.seen[0][1].point_labels.tolist() == [1, 0]


@pytest.mark.parametrize("name", [name for name, procedure in PROCEDURES.items() if procedure.correct])
def test_methods_get_the_same_first_prompts_and_the_same_luck_after_the_same_error(name):
    one, two, other = Scripted(HALF), Scripted(HALF), Scripted(EMPTY)
    run({"one": one, "two": two, "other": other}, plan(name))
    for first, second in zip(one.seen[0], two.seen[0], strict=True):
        assert first.equals(second)
    assert one.seen[0][0].equals(other.seen[0][0])
    assert not one.seen[0][1].equals(other.seen[0][1])


def test_prompts_depend_on_the_seed_the_repetition_and_the_example_alone():
    def first_prompts(examples, **options):
        method = Scripted(EMPTY)
        run({"one": method}, plan("random-clicks", **options), examples)
        return [tuple(seen[0].point_coords[0]) for seen in method.seen]

    big = [example(n, radius=15) for n in (0, 1)]
    both = first_prompts(big)
    assert first_prompts(big) == both
    assert first_prompts(big[1:]) == both[1:]
    assert first_prompts(big, steps=2) == both
    assert first_prompts(big, seed=1) != both
    repeated = first_prompts(big, repetitions=3)
    assert len(repeated) == 6
    assert repeated[::3] == both
    assert len(set(repeated[:3])) > 1


def test_a_perfect_mask_is_left_alone():
    method = Scripted(PERFECT)
    results = run({"one": method}, plan(steps=4)).results
    assert len(method.seen[0]) == 1
    assert [result.dice for result in results] == [1.0] * 4
    assert [math.isnan(result.seconds) for result in results] == [False, True, True, True]


def test_a_method_that_can_make_nothing_of_the_prompts_fails_with_its_reason_and_keeps_its_last_mask():
    method = Scripted(PromptError("no way"), HALF, PromptError("not again"), PERFECT)
    results = run({"one": method}, plan("random-clicks", steps=4)).results
    assert [result.failure for result in results] == ["no way", "", "not again", ""]
    assert [round(result.dice, 2) for result in results] == [0.0, 0.64, 0.64, 1.0]
    assert len(method.seen[0][3].point_labels) == 4


def test_another_error_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        run({"one": Scripted(ZeroDivisionError())}, plan())


def test_something_else_than_a_mask_is_refused():
    with pytest.raises(ImageError, match="Method one gave float32"):
        run({"one": Scripted(PERFECT.astype(np.float32))}, plan())


def test_a_method_is_left_out_of_procedures_whose_prompts_it_cannot_use():
    methods = {"clicks": Scripted(EMPTY, prompts=["clicks"]), "all": Scripted(EMPTY)}
    simulation = run(methods, plan("center-clicks", "boxes", "line-scribbles", steps=1))
    assert [(r.procedure, r.method) for r in simulation.results] == [
        ("center-clicks", "clicks"),
        ("center-clicks", "all"),
        ("boxes", "all"),
        ("line-scribbles", "all"),
    ]
    assert simulation.unable == [("boxes", "clicks"), ("line-scribbles", "clicks")]


def test_boxes_have_one_step():
    assert [result.step for result in run({"one": Scripted(EMPTY)}, plan("boxes", steps=5)).results] == [1]


def test_counting_to_the_target_goes_on_until_it_is_reached_or_the_end():
    counting = {"count_to_target": ("center-clicks",), "steps": 2, "most_steps": 6}
    never, late = Scripted(EMPTY), Scripted(EMPTY, EMPTY, EMPTY, PERFECT)
    at_once = Scripted(PERFECT, EMPTY)
    results = run({"never": never, "late": late, "at once": at_once}, plan(**counting)).results
    last = {name: max(r.step for r in results if r.method == name) for name in ("never", "late", "at once")}
    assert last == {"never": 6, "late": 4, "at once": 2}


def test_a_dice_lost_again_still_counts_as_reached():
    ninety = PERFECT.copy()
    ninety[np.flatnonzero(PERFECT.any(axis=1))[0]] = False
    counting = {"count_to_target": ("center-clicks",), "steps": 1, "most_steps": 6}
    results = run({"one": Scripted(EMPTY, ninety, EMPTY)}, plan(**counting)).results
    assert [result.step for result in results] == [1, 2]
    assert results[-1].dice >= 0.9


def test_every_method_takes_each_image_anew():
    method = Scripted(EMPTY)
    run({"one": method}, plan("center-clicks", "boxes", steps=1), [example(0), example(1)])
    assert len(method.images) == 4


def test_progress_grows_to_one():
    told = []
    run({"one": Scripted(EMPTY)}, plan(), [example(0), example(1)], progress=lambda *entry: told.append(entry))
    assert [fraction for fraction, _ in told] == [0.0, 0.5, 1.0]
    assert told[0][1] == "center-clicks, set/disc, one"


def test_a_classical_method_solves_an_easy_example():
    method = ClassicalMethod(lambda image, scribbles: image > 0.5)
    results = run({"threshold": method}, SimulationPlan(("centerline-scribbles",), steps=2)).results
    assert [result.dice for result in results] == [1.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"procedures": ()},
        {"procedures": ("lines",)},
        {"count_to_target": ("lines",)},
        {"steps": 0},
        {"most_steps": 0},
        {"repetitions": 0},
        {"seed": -1},
    ],
)
def test_a_plan_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError):
        SimulationPlan(**wrong)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="Nothing to measure"):
        run({}, plan())
    with pytest.raises(ConfigError, match="Nothing to measure"):
        run({"one": Scripted(EMPTY)}, plan(), [])
