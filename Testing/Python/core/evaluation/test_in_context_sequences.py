from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation.in_context_methods import InContextMethods
from scribblesegment.evaluation.in_context_sequences import SequencePlan, run_sequences
from scribblesegment.evaluation.in_context_tasks import ContextTask
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.stepwise import StepPrediction

SIDE = 32
rows, columns = np.ogrid[:SIDE, :SIDE]


def example(number):
    reference = (rows - 10 - number) ** 2 + (columns - 14) ** 2 < 64
    return LabelExample("set", "set/disc", f"p{number}", number, 1, reference.astype(np.float32) * 0.9, reference)


TASK = ContextTask("set", "set/disc", tuple(example(n) for n in range(6)))


class Growing:
    """Segments the bright structure, but only from as many prompts and context entries as it needs; else a half."""

    def __init__(self, needs, *, least_context=None, prompts=("scribbles", "clicks")):
        self.needs, self.least_context, self.prompts = needs, least_context, frozenset(prompts)
        self.contexts, self.images = [], []

    def set_context(self, context):
        self.contexts.append(context)

    def set_image(self, image):
        self.images.append(image)
        self.asked = 0

    def segment(self, prompts):
        self.asked += not prompts.is_empty
        found = self.images[-1] > 0.5
        known = len(self.contexts[-1] or ()) if self.least_context is not None else 0
        return StepPrediction(found if self.asked + known >= self.needs else found & (columns < 14))


def compared(**methods):
    return InContextMethods("alone", {"alone": Growing(3), **methods})


def plan(**options):
    return SequencePlan(**{"procedures": ("center-clicks",), "images": 4, "simulations": 1, **options})


def test_steps_are_counted_until_the_image_is_good_enough():
    results = run_sequences([TASK], compared(context=Growing(3, least_context=1)), plan()).results
    alone = [result for result in results if result.method == "alone"]
    assert [result.steps for result in alone] == [3, 3, 3, 3]
    assert all(isnan(result.context_dice) for result in alone)
    shown = [result for result in results if result.method == "context"]
    # One entry from the seed image, then one more with every image; a good prediction from them takes no step.
    assert [result.steps for result in shown] == [2, 1, 0, 0]
    assert [result.example for result in shown] == [1, 2, 3, 4]
    assert [result.context_dice > 0.9 for result in shown] == [False, False, True, True]
    assert all(result.reached and result.dice == 1.0 and result.seed_dice == 1.0 for result in results)


def test_an_image_that_is_never_good_enough_counts_as_the_most_steps_and_still_joins_the_context():
    method = Growing(99, least_context=1)
    results = run_sequences([TASK], compared(context=method), plan(click_steps=5)).results
    failed = [result for result in results if result.method == "context"]
    assert [result.steps for result in failed] == [5] * 4
    assert not any(result.reached for result in failed)
    assert [len(context) for context in method.contexts] == [1, 2, 3, 4]
    entries = method.contexts[-1].entries
    assert [entry.mask.any() for entry in entries] == [True] * 4
    assert not entries[1].mask[:, 14:].any()  # the method's own half, and not the reference


def test_the_last_step_depends_on_the_kind_of_prompts():
    results = run_sequences(
        [TASK],
        InContextMethods("alone", {"alone": Growing(99)}),
        plan(procedures=("centerline-scribbles", "center-clicks"), scribble_steps=2, click_steps=3),
    ).results
    assert [result.steps for result in results] == [2] * 4 + [3] * 4


def test_all_methods_get_the_same_seed_image_and_order_and_every_simulation_another():
    first, second = Growing(1, least_context=1), Growing(9, least_context=1)
    run_sequences([TASK], compared(first=first, second=second), plan(simulations=3))
    orders = [[float(image[:, 14].argmax()) for image in method.images] for method in (first, second)]
    assert orders[0] == orders[1]
    sequences = [tuple(orders[0][n : n + 4]) for n in (0, 4, 8)]
    assert len(set(sequences)) > 1
    assert all(len(set(one)) == 4 for one in sequences)
    seeds = [method.contexts[0].entries[0].source for method in (first, second)]
    assert seeds[0] == seeds[1]


def test_a_sequence_depends_on_the_seed_alone():
    def images(seed):
        results = run_sequences([TASK], compared(), plan(seed=seed)).results
        return [result.image_index for result in results]

    assert images(0) == images(0)
    assert images(0) != images(1)


def test_methods_that_do_not_understand_the_prompts_are_named():
    methods = compared(context=Growing(1, least_context=1, prompts=()))
    sequences = run_sequences([TASK], methods, plan())
    assert sequences.unable == [("center-clicks", "context")]
    assert {result.method for result in sequences.results} == {"alone"}


def test_a_failure_is_noted():
    class Refusing(Growing):
        def segment(self, prompts):
            if not prompts.is_empty and len(prompts.point_labels) == 1:
                raise PromptError("not yet")
            return super().segment(prompts)

    results = run_sequences([TASK], compared(context=Refusing(3, least_context=1)), plan(click_steps=4)).results
    failures = [result.failure for result in results if result.method == "context"]
    assert failures[0] == "not yet"
    assert failures[-1] == ""


def test_progress_reaches_the_end():
    told = []
    run_sequences([TASK], compared(), plan(), progress=lambda fraction, _: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"procedures": ()}, "got none"),
        ({"procedures": ("boxes",)}, "got boxes"),
        ({"procedures": ("wishes",)}, "No procedure wishes"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        plan(**options)


def test_tasks_that_are_too_small_and_methods_without_the_prompts_are_refused():
    with pytest.raises(ConfigError, match="no task"):
        run_sequences([], compared(), plan())
    with pytest.raises(ConfigError, match="set/disc has 6 images"):
        run_sequences([TASK], compared(), plan(images=6))
    alone = InContextMethods("alone", {"alone": Growing(1, prompts=("scribbles",))})
    with pytest.raises(ConfigError, match="does not understand clicks"):
        run_sequences([TASK], alone, plan())
