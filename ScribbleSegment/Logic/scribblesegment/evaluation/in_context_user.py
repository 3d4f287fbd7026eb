"""The simulated user of methods in context, who may be shown a prediction before doing anything.

MultiverSeg, figure 10: where a method predicts from the context alone, that prediction comes first, and every step is
a correction of it. Otherwise step 1 is the procedure's first prompts. So it is where the method itself expects little
of that prediction: nobody corrects what is better drawn anew.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan

import numpy as np

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.masks import expected_dice
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import PromptError
from scribblesegment.evaluation.baselines import Mask
from scribblesegment.evaluation.in_context_methods import InteractiveInContextMethod
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.metrics import dice
from scribblesegment.evaluation.procedures import Procedure
from scribblesegment.evaluation.protocols import checked_mask


@dataclass(frozen=True, eq=False)
class Turn:
    """What a method answers after a step.

    Attributes:
        step: Number of steps so far; 0 for the prediction from the context alone.
        mask: bool (H, W).
        dice: In [0, 1].
        seconds: Time of the prediction, in the first turn with that of taking context and image; NaN if nothing was
            left to correct.
        failure: Why the method could make nothing of the prompts, so that its last mask (an empty one before the
            first) stays; empty if it could.
    """

    step: int
    mask: Mask
    dice: float
    seconds: float
    failure: str = ""


def interact(
    name: str,
    method: InteractiveInContextMethod,
    context: ContextSet | None,
    example: LabelExample,
    procedure: Procedure,
    generator: Callable[[int], np.random.Generator],
    *,
    least_confidence: float = 0.0,
) -> Iterator[Turn]:
    """Show a method context and image, and go on correcting it for as long as turns are asked for.

    Args:
        name: What messages call the method.
        method: Understands the procedure's prompts.
        context: What it is shown; None for nothing.
        example: The image and its reference.
        procedure: How it is prompted.
        generator: Gives the random numbers of a step.
        least_confidence: A prediction from the context alone is not shown if the method expects a lower Dice of it;
            one without probabilities always is.

    Raises:
        ImageError: If the method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What the method itself raises, other than PromptError.
    """
    reference = example.reference
    started = time.perf_counter()
    method.set_context(context)
    method.set_image(example.image)
    preparing = time.perf_counter() - started
    prompts = Prompts.empty(reference.shape)
    turn = Turn(0, np.zeros_like(reference), 0.0, nan)
    shown = predicts_first(method, context)
    if shown:
        first, confidence = _ask(name, method, prompts, turn, reference, step=0, seconds=preparing)
        shown = confidence >= least_confidence
        if shown:
            turn = first
            yield turn
        else:
            preparing = first.seconds
            method.set_image(example.image)  # the method shall not correct what nobody has seen
    while True:
        step = turn.step + 1
        if step == 1 and not shown:
            prompts = procedure.first(reference, generator(step))
        elif procedure.correct is None or np.array_equal(turn.mask, reference):
            turn = Turn(step, turn.mask, turn.dice, nan)
            yield turn
            continue
        else:
            prompts = procedure.correct(prompts, reference, turn.mask, generator(step))
        seconds = 0.0 if shown or step > 1 else preparing
        turn, _ = _ask(name, method, prompts, turn, reference, step=step, seconds=seconds)
        yield turn


def predicts_first(method: InteractiveInContextMethod, context: ContextSet | None) -> bool:
    """Whether a method predicts from this context without prompts."""
    return method.least_context is not None and context is not None and len(context) >= method.least_context


def step_generator(
    procedure: Procedure, example: LabelExample, repetition: int, seed: int
) -> Callable[[int], np.random.Generator]:
    """Give the random numbers of every step; they know nothing of the method, nor of the other images."""
    words = [zlib.crc32(word.encode()) for word in (procedure.name, example.task)]
    return lambda step: np.random.default_rng((seed, *words, example.image_index, repetition, step))


def _ask(
    name: str,
    method: InteractiveInContextMethod,
    prompts: Prompts,
    last: Turn,
    reference: Mask,
    *,
    step: int,
    seconds: float,
) -> tuple[Turn, float]:
    """Give the turn, and the Dice that the method expects; 1 if it says nothing about that."""
    started = time.perf_counter()
    try:
        found = method.segment(prompts)
    except PromptError as error:
        return Turn(step, last.mask, last.dice, seconds + time.perf_counter() - started, str(error)), 1.0
    seconds += time.perf_counter() - started
    mask = checked_mask(name, found.mask, reference)
    confidence = 1.0 if found.probabilities is None else expected_dice(found.probabilities, mask)
    return Turn(step, mask, dice(mask, reference), seconds), confidence
