"""The protocols with a simulated user: methods are prompted, corrected and measured step by step.

Every method is prompted by the same generator seed for each example and step. Their first prompts are therefore the
same; corrections answer each method's own error.
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation.baselines import Mask
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.metrics import Agreement, agreement
from scribblesegment.evaluation.procedures import PROCEDURES, Procedure, choose_procedures
from scribblesegment.evaluation.protocols import Progress, checked_mask
from scribblesegment.evaluation.stepwise import PIXEL_MM, InteractiveMethod

# "NoI90": the number of interactions until this Dice.
TARGET_DICE = 0.9


@dataclass(frozen=True)
class SimulationPlan:
    """What is simulated.

    Attributes:
        procedures: Names of `PROCEDURES`.
        steps: Number of steps of a procedure; step 1 is the first prompts.
        count_to_target: Procedures for which the steps until a Dice of `TARGET_DICE` are counted: examples that have
            not reached it within `steps` go on.
        most_steps: Where counting ends. An example that has not reached the target by then counts as this many.
        repetitions: How often every example is gone through, with other random numbers; five in the paper.
        seed: Of everything random.

    Raises:
        ConfigError: If there is no procedure, one is unknown, or a number is out of range.
    """

    procedures: tuple[str, ...] = tuple(PROCEDURES)
    steps: int = 5
    count_to_target: tuple[str, ...] = ("centerline-scribbles",)
    most_steps: int = 20
    repetitions: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        choose_procedures((*self.procedures, *self.count_to_target))
        if not self.procedures or min(self.steps, self.most_steps, self.repetitions) < 1 or self.seed < 0:
            raise ConfigError(
                "At least one procedure, step and repetition, and a seed of at least 0 are needed; got "
                f"{dataclasses.asdict(self)}."
            )

    def counts(self, procedure: str) -> bool:
        """Whether the steps to the target are counted."""
        return procedure in self.count_to_target

    def last_step(self, procedure: Procedure, *, reached: bool) -> int:
        """Give the last step of an example that has, or has not, reached the target."""
        if procedure.correct is None:
            return 1
        if self.counts(procedure.name) and not reached:
            return max(self.steps, self.most_steps)
        return self.steps


@dataclass(frozen=True)
class StepResult:
    """What one method made of one example after one step.

    Attributes:
        procedure: How it was prompted.
        method: Its name.
        set_name: The set of the example.
        task: What is segmented in what.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        label: Number of the structure in the label map.
        repetition: Counted from 0.
        step: Counted from 1, the first prompts.
        dice: In [0, 1].
        hausdorff95_mm: 95 % Hausdorff distance, a pixel taken for 1 x 1 mm.
        surface_dice: Surface Dice at 1 mm, in [0, 1].
        seconds: Time of the prediction, without taking the image; NaN if nothing was left to correct.
        failure: Why the method could make nothing of these prompts, so that its last mask (an empty one before the
            first) was measured again; empty if it could.
    """

    procedure: str
    method: str
    set_name: str
    task: str
    subject: str
    image_index: int
    label: int
    repetition: int
    step: int
    dice: float
    hausdorff95_mm: float
    surface_dice: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Simulation:
    """All results, and which methods had no part in a procedure: (procedure, method) pairs."""

    plan: SimulationPlan
    results: list[StepResult]
    unable: list[tuple[str, str]]


def run_simulated(
    examples: Sequence[LabelExample],
    methods: Mapping[str, InteractiveMethod],
    plan: SimulationPlan,
    *,
    progress: Progress | None = None,
) -> Simulation:
    """Let a simulated user prompt every method on every example, by every procedure.

    Args:
        examples: Structures in images.
        methods: By name; one that cannot use a procedure's prompts is left out of it.
        plan: What to simulate.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of procedures, examples, repetitions, methods and steps.

    Raises:
        ConfigError: If there is no method or no example.
        ImageError: If a method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What a method itself raises, other than PromptError, which counts as its failure.
    """
    if not methods or not examples:
        raise ConfigError(
            f"Nothing to measure: methods {list(methods)}, {len(examples)} examples. Give at least one of both."
        )
    pairs = [(procedure, name) for procedure in choose_procedures(plan.procedures) for name in methods]
    able = [(procedure, name) for procedure, name in pairs if procedure.prompts in methods[name].prompts]
    unable = [(procedure.name, name) for procedure, name in pairs if (procedure, name) not in able]
    trials = [
        (procedure, example, repetition, name)
        for procedure in choose_procedures(plan.procedures)
        for example in examples
        for repetition in range(plan.repetitions)
        for candidate, name in able
        if candidate is procedure
    ]
    results: list[StepResult] = []
    for n, (procedure, example, repetition, name) in enumerate(trials):
        if progress is not None:
            progress(n / len(trials), f"{procedure.name}, {example.task}, {name}")
        results += _run_trial(procedure, example, repetition, name, methods[name], plan)
    if progress is not None:
        progress(1.0, "done")
    return Simulation(plan, results, unable)


@dataclass(frozen=True, eq=False)
class _Answer:
    """A mask, how well it agrees, the time it took, and the reason for a failure."""

    mask: Mask
    score: Agreement
    seconds: float = nan
    failure: str = ""


def _run_trial(
    procedure: Procedure,
    example: LabelExample,
    repetition: int,
    name: str,
    method: InteractiveMethod,
    plan: SimulationPlan,
) -> Iterator[StepResult]:
    method.set_image(example.image)
    reference = example.reference
    prompts = procedure.first(reference, _generator(procedure, example, repetition, 1, plan.seed))
    nothing = np.zeros_like(reference)
    answer = _ask(name, method, prompts, _Answer(nothing, agreement(nothing, reference, PIXEL_MM)), reference)
    step, reached = 1, answer.score.dice >= TARGET_DICE
    yield _result(procedure, example, repetition, name, step, answer)
    while step < plan.last_step(procedure, reached=reached) and procedure.correct is not None:
        step += 1
        if np.array_equal(answer.mask, reference):
            answer = dataclasses.replace(answer, seconds=nan, failure="")
        else:
            rng = _generator(procedure, example, repetition, step, plan.seed)
            prompts = procedure.correct(prompts, reference, answer.mask, rng)
            answer = _ask(name, method, prompts, answer, reference)
        reached = reached or answer.score.dice >= TARGET_DICE
        yield _result(procedure, example, repetition, name, step, answer)


def _ask(name: str, method: InteractiveMethod, prompts: Prompts, last: _Answer, reference: Mask) -> _Answer:
    started = time.perf_counter()
    try:
        mask = method.segment(prompts).mask
    except PromptError as error:
        return _Answer(last.mask, last.score, time.perf_counter() - started, str(error))
    seconds = time.perf_counter() - started
    mask = checked_mask(name, mask, reference)
    return _Answer(mask, agreement(mask, reference, PIXEL_MM), seconds)


def _generator(
    procedure: Procedure, example: LabelExample, repetition: int, step: int, seed: int
) -> np.random.Generator:
    """Give the generator of a step; it knows nothing of the method, nor of the other examples."""
    words = [zlib.crc32(word.encode()) for word in (procedure.name, example.task)]
    return np.random.default_rng((seed, *words, example.image_index, example.label, repetition, step))


def _result(
    procedure: Procedure, example: LabelExample, repetition: int, name: str, step: int, answer: _Answer
) -> StepResult:
    return StepResult(
        procedure=procedure.name,
        method=name,
        set_name=example.set_name,
        task=example.task,
        subject=example.subject,
        image_index=example.image_index,
        label=example.label,
        repetition=repetition,
        step=step,
        dice=answer.score.dice,
        hausdorff95_mm=answer.score.hausdorff95_mm,
        surface_dice=answer.score.surface_dice,
        seconds=answer.seconds,
        failure=answer.failure,
    )
