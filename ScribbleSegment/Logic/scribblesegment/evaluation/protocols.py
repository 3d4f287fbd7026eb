"""The protocol with strokes drawn by people (ScribblePrompt, section 5.1).

They drew without seeing a prediction, and each method makes one prediction from all strokes of one person on one image.
The protocols with simulated prompts are in `scribblesegment.evaluation.simulated`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scribblesegment.errors import ConfigError, ImageError, PromptError
from scribblesegment.evaluation.baselines import Mask, Method
from scribblesegment.evaluation.datasets import Example, ScribbleSet
from scribblesegment.evaluation.metrics import agreement
from scribblesegment.evaluation.stepwise import PIXEL_MM

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class ExampleResult:
    """What one method made of one example.

    Attributes:
        method: Its name.
        task: The example's task.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        annotator: Who drew the strokes, counted from 0.
        dice: In [0, 1].
        hausdorff95_mm: 95 % Hausdorff distance, a pixel taken for 1 x 1 mm.
        surface_dice: Surface Dice at 1 mm, in [0, 1].
        seconds: Time of the call.
        failure: Why the method could make nothing of these strokes, which counts as an empty mask; empty if it could.
    """

    method: str
    task: str
    subject: str
    image_index: int
    annotator: int
    dice: float
    hausdorff95_mm: float
    surface_dice: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Illustration:
    """An example with the masks that were made of it.

    Attributes:
        example: The image, its strokes and its reference.
        masks: bool (H, W) by method.
        dice: The masks' Dice by method.
    """

    example: Example
    masks: dict[str, Mask] = field(default_factory=dict)
    dice: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results, and the first example of each task with its masks."""

    results: list[ExampleResult]
    illustrations: list[Illustration]


def run_manual_scribbles(
    sets: Sequence[ScribbleSet], methods: Mapping[str, Method], *, progress: Progress | None = None
) -> Evaluation:
    """Let every method make one prediction from all strokes of each annotator on each image.

    Args:
        sets: One for each task.
        methods: By name.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of tasks, images, annotators and methods.

    Raises:
        ConfigError: If there is no method or no set, or two sets are of the same task.
        ImageError: If a method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What a method itself raises, other than PromptError, which counts as its failure.
    """
    tasks = [entry.task for entry in sets]
    if not methods or not tasks or len(set(tasks)) < len(tasks):
        raise ConfigError(
            f"Nothing to measure, or twice the same: methods {list(methods)}, tasks {tasks}. Give at least one method, "
            "and one set for each task."
        )
    examples = [example for entry in sets for example in entry.examples()]
    results: list[ExampleResult] = []
    illustrations: dict[str, Illustration] = {}
    for n, example in enumerate(examples):
        is_first = example.task not in illustrations
        if is_first:
            illustrations[example.task] = Illustration(example)
        for name, method in methods.items():
            if progress is not None:
                progress((len(results) / len(methods)) / len(examples), f"{example.task} {n + 1}, {name}")
            mask, result = _measure(name, method, example)
            results.append(result)
            if is_first:
                illustrations[example.task].masks[name] = mask
                illustrations[example.task].dice[name] = result.dice
    if progress is not None:
        progress(1.0, "done")
    return Evaluation(results, list(illustrations.values()))


def _measure(name: str, method: Method, example: Example) -> tuple[Mask, ExampleResult]:
    failure = ""
    started = time.perf_counter()
    try:
        mask = checked_mask(name, method(example.image, example.scribbles), example.reference)
    except PromptError as error:
        mask, failure = np.zeros_like(example.reference), str(error)
    seconds = time.perf_counter() - started
    score = agreement(mask, example.reference, PIXEL_MM)
    result = ExampleResult(
        method=name,
        task=example.task,
        subject=example.subject,
        image_index=example.image_index,
        annotator=example.annotator,
        dice=score.dice,
        hausdorff95_mm=score.hausdorff95_mm,
        surface_dice=score.surface_dice,
        seconds=seconds,
        failure=failure,
    )
    return mask, result


def checked_mask(name: str, mask: Mask, reference: Mask) -> Mask:
    """Return what a method gave.

    Raises:
        ImageError: If it is no mask of the reference's shape; the message calls the method `name`.
    """
    if mask.shape != reference.shape or mask.dtype != bool:
        raise ImageError(
            f"Method {name} gave {mask.dtype} {mask.shape} for an image of {reference.shape}, expected a bool mask "
            "of the image's shape. Correct the method."
        )
    return mask
