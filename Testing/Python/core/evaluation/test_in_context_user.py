from __future__ import annotations

from itertools import islice
from math import isnan

import numpy as np
import pytest

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.errors import ImageError, PromptError
from scribblesegment.evaluation.in_context_user import interact, predicts_first, step_generator
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.stepwise import StepPrediction

SIDE = 32
rows, columns = np.ogrid[:SIDE, :SIDE]
PERFECT = (rows - 15) ** 2 + (columns - 15) ** 2 < 81
EMPTY = np.zeros_like(PERFECT)
HALF = PERFECT & (columns < 15)
EXAMPLE = LabelExample("set", "set/disc", "p", 0, 1, PERFECT.astype(np.float32), PERFECT)
CLICKS, SCRIBBLES = PROCEDURES["center-clicks"], PROCEDURES["centerline-scribbles"]
CONTEXT = ContextSet("disc", (ContextEntry(EXAMPLE.image, PERFECT, (1.0, 1.0)),))


class Scripted:
    """Gives one mask after another; a mask may be an error to raise. Keeps the prompts."""

    prompts = frozenset({"scribbles", "clicks"})
    probabilities = None

    def __init__(self, *masks, least_context=None):
        self.masks, self.least_context = masks, least_context
        self.contexts, self.seen, self.images = [], [], 0

    def set_context(self, context):
        self.contexts.append(context)

    def set_image(self, image):
        self.images += 1

    def segment(self, prompts):
        self.seen.append(prompts)
        mask = self.masks[min(len(self.seen), len(self.masks)) - 1]
        if isinstance(mask, Exception):
            raise mask
        return StepPrediction(mask, self.probabilities)


def turns(method, count, *, context=CONTEXT, procedure=CLICKS, **options):
    generator = step_generator(procedure, EXAMPLE, 0, 0)
    return list(islice(interact("one", method, context, EXAMPLE, procedure, generator, **options), count))


def test_without_a_prediction_from_the_context_the_first_prompts_come_first():
    method = Scripted(HALF, ~PERFECT, EMPTY)
    answers = turns(method, 3)
    assert [turn.step for turn in answers] == [1, 2, 3]
    assert [round(turn.dice, 2) for turn in answers] == [0.64, 0.0, 0.0]
    assert [prompts.point_labels.tolist() for prompts in method.seen] == [[1], [1, 1], [1, 1, 0]]
    assert method.contexts == [CONTEXT]


def test_a_prediction_from_the_context_is_corrected_from_the_first_step_on():
    method = Scripted(~PERFECT, HALF, least_context=1)
    answers = turns(method, 3)
    assert [turn.step for turn in answers] == [0, 1, 2]
    assert method.seen[0].is_empty
    # The largest error is the background around the disc, so the first click takes something away.
    assert method.seen[1].point_labels.tolist() == [0]
    assert method.seen[2].point_labels.tolist() == [0, 1]
    assert all(turn.seconds > 0 for turn in answers)


def test_a_first_correction_by_scribbles_is_a_single_one():
    method = Scripted(EMPTY, least_context=1)
    turns(method, 2, procedure=SCRIBBLES)
    assert method.seen[1].scribbles[0].any()
    assert not method.seen[1].scribbles[1].any()
    first = Scripted(EMPTY)
    turns(first, 1, procedure=SCRIBBLES)
    assert first.seen[0].scribbles[1].any()


@pytest.mark.parametrize(("least", "context", "first"), [(None, CONTEXT, False), (1, None, False), (2, CONTEXT, False)])
def test_methods_predict_first_from_enough_context_only(least, context, first):
    method = Scripted(EMPTY, least_context=least)
    assert predicts_first(method, context) is first
    assert turns(method, 1, context=context)[0].step == 1


def test_a_mask_without_error_stays():
    method = Scripted(PERFECT, least_context=1)
    answers = turns(method, 3)
    assert [turn.dice for turn in answers] == [1.0, 1.0, 1.0]
    assert len(method.seen) == 1
    assert isnan(answers[1].seconds)


def test_prompts_of_which_nothing_can_be_made_leave_the_last_mask():
    answers = turns(Scripted(HALF, PromptError("no way"), PERFECT, least_context=1), 3)
    assert [turn.failure for turn in answers] == ["", "no way", ""]
    assert answers[1].dice == answers[0].dice
    assert turns(Scripted(PromptError("no way")), 1)[0].dice == 0.0


def test_random_numbers_depend_on_procedure_image_repetition_step_and_seed():
    def number(*arguments, step=1):
        return step_generator(*arguments)(step).random()

    base = number(CLICKS, EXAMPLE, 0, 0)
    assert base == number(CLICKS, EXAMPLE, 0, 0)
    others = [
        number(SCRIBBLES, EXAMPLE, 0, 0),
        number(CLICKS, EXAMPLE, 1, 0),
        number(CLICKS, EXAMPLE, 0, 1),
        number(CLICKS, EXAMPLE, 0, 0, step=2),
    ]
    assert len({base, *others}) == 5


def test_what_is_no_mask_of_the_image_is_refused():
    with pytest.raises(ImageError, match="Method one gave"):
        turns(Scripted(PERFECT.astype(np.float32)), 1)


@pytest.mark.parametrize(("least", "first"), [(0.6, 0), (0.7, 1)])
def test_what_a_method_expects_little_of_is_not_shown_and_forgotten(least, first):
    method = Scripted(HALF, EMPTY, least_context=1)
    # HALF has 110 of 253 pixels; every pixel of the disc has a probability of 0.9.
    method.probabilities = np.where(PERFECT, 0.9, 0.0)
    answers = turns(method, 2, procedure=SCRIBBLES, least_confidence=least)
    assert [turn.step for turn in answers] == [first, first + 1]
    assert method.images == 1 + first
    assert method.seen[0].is_empty
    assert method.seen[1].scribbles[0].any()
    # First prompts mark the structure and what is not; a correction only what was missed.
    assert method.seen[1].scribbles[1].any() == (first == 1)
    assert all(turn.seconds >= 0 for turn in answers)


def test_a_method_without_probabilities_is_always_shown():
    assert turns(Scripted(HALF, least_context=1), 1, least_confidence=1.0)[0].step == 0
