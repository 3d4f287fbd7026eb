"""Dice by the number of context entries, from the context alone and step by step: MultiverSeg, section 7.

Contexts hold images of other subjects with their reference masks. A larger context of a draw holds the smaller ones.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from scribblesegment.context.context_set import ContextSet
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.in_context_methods import InContextMethods, InteractiveInContextMethod, ShownImages
from scribblesegment.evaluation.in_context_sequences import IN_CONTEXT_PROCEDURES, check_procedures
from scribblesegment.evaluation.in_context_tasks import ContextTask
from scribblesegment.evaluation.in_context_user import interact, predicts_first, step_generator
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.procedures import Procedure, choose_procedures
from scribblesegment.evaluation.protocols import Progress

# Of predictions from the context alone, to which no procedure belongs.
CONTEXT_ALONE = "context-alone"


@dataclass(frozen=True)
class SizePlan:
    """What is measured.

    Attributes:
        sizes: Numbers of context entries for predictions from the context alone.
        corrected_sizes: Numbers of context entries, 0 among them if wanted, for predictions that are corrected.
        procedures: Names of `PROCEDURES` with corrections.
        steps: How many of them.
        targets: Images of each task to segment.
        draws: Random contexts of each target; ten in the paper.
        seed: Of everything random.

    Raises:
        ConfigError: If a number is out of range, or a procedure is unknown or makes no corrections.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    corrected_sizes: tuple[int, ...] = (0, 1, 4, 16)
    procedures: tuple[str, ...] = IN_CONTEXT_PROCEDURES
    steps: int = 5
    targets: int = 6
    draws: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        check_procedures(self.procedures)
        smallest = min(self.steps, self.targets, self.draws, *self.sizes, *(n + 1 for n in self.corrected_sizes))
        if not self.sizes or not self.corrected_sizes or smallest < 1 or self.seed < 0:
            raise ConfigError(
                "At least one size of either kind, step, target and draw is needed, contexts without prompts have at "
                f"least 1 entry, and the seed is at least 0; got {dataclasses.asdict(self)}."
            )

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Every number of entries, ascending."""
        return tuple(sorted({*self.sizes, *self.corrected_sizes}))


@dataclass(frozen=True)
class SizeResult:
    """One prediction.

    Attributes:
        procedure: How it was prompted; `CONTEXT_ALONE` without prompts.
        method: Its name.
        set_name: The set of the task.
        task: What is segmented in what.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        draw: Counted from 0.
        size: Number of context entries.
        step: Number of steps, 0 without prompts.
        dice: In [0, 1].
        seconds: Time of the prediction, in the first with that of taking context and image; NaN if nothing was left to
            correct.
        failure: Why the method could make nothing of these prompts; empty if it could.
    """

    procedure: str
    method: str
    set_name: str
    task: str
    subject: str
    image_index: int
    draw: int
    size: int
    step: int
    dice: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Sizes:
    """All results."""

    plan: SizePlan
    alone: str
    results: list[SizeResult]


def run_sizes(
    tasks: Sequence[ContextTask], compared: InContextMethods, plan: SizePlan, *, progress: Progress | None = None
) -> Sizes:
    """Segment targets of every task with random contexts of several sizes.

    A size that a task has not enough images of other subjects for is left out there. The interactive method alone takes
    part without context; methods that start from a least number of entries, from that number on.

    Args:
        tasks: Structures with their images.
        compared: The methods.
        plan: What to measure.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of tasks, targets, draws, methods, sizes, procedures and steps.

    Raises:
        ConfigError: If there is no task.
        ImageError: If a method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What a method itself raises, other than PromptError, which counts as its failure.
    """
    if not tasks:
        raise ConfigError("There is no task to measure. Give at least one.")
    procedures = choose_procedures(plan.procedures)
    results: list[SizeResult] = []
    shown = ShownImages()
    cases = [(task, target, draw) for task in tasks for target in _targets(task, plan) for draw in range(plan.draws)]
    for n, (task, target, draw) in enumerate(cases):
        context = _context(task, target, draw, plan, shown)
        for m, (name, method) in enumerate(compared.methods.items()):
            if progress is not None:
                progress((n + m / len(compared.methods)) / len(cases), f"{task.name} {target.image_index}, {name}")
            case = _Case(name, method, target, draw, plan)
            for size in plan.all_sizes:
                if size <= len(context):
                    smaller = dataclasses.replace(context, entries=context.entries[:size])
                    results += case.run(smaller, procedures)
    if progress is not None:
        progress(1.0, "done")
    return Sizes(plan, compared.alone, results)


@dataclass(frozen=True)
class _Case:
    """One method on one target with one draw of the context."""

    name: str
    method: InteractiveInContextMethod
    target: LabelExample
    draw: int
    plan: SizePlan

    def run(self, context: ContextSet, procedures: Sequence[Procedure]) -> Iterator[SizeResult]:
        """Predict from a context alone, and with the corrections of every procedure."""
        size = len(context)
        predicts = predicts_first(self.method, context)
        if size > 0 and not predicts:
            return  # it would not look at the context
        able = [one for one in procedures if one.prompts in self.method.prompts and size in self.plan.corrected_sizes]
        if predicts:
            # No procedure has a part in the first turn.
            yield next(self._turns(context, (able or list(procedures))[0], 1))
        for procedure in able:
            turns = self._turns(context, procedure, self.plan.steps + predicts)
            yield from (turn for turn in turns if turn.step > 0)

    def _turns(self, context: ContextSet, procedure: Procedure, count: int) -> Iterator[SizeResult]:
        target = self.target
        generator = step_generator(procedure, target, self.draw, self.plan.seed)
        turns = interact(self.name, self.method, context, target, procedure, generator)
        for turn in islice(turns, count):
            yield SizeResult(
                procedure=procedure.name if turn.step > 0 else CONTEXT_ALONE,
                method=self.name,
                set_name=target.set_name,
                task=target.task,
                subject=target.subject,
                image_index=target.image_index,
                draw=self.draw,
                size=len(context),
                step=turn.step,
                dice=turn.dice,
                seconds=turn.seconds,
                failure=turn.failure,
            )


def _targets(task: ContextTask, plan: SizePlan) -> list[LabelExample]:
    rng = np.random.default_rng((plan.seed, zlib.crc32(task.name.encode())))
    chosen = rng.permutation(len(task.examples))[: plan.targets]
    return [task.examples[n] for n in sorted(chosen.tolist())]


def _context(task: ContextTask, target: LabelExample, draw: int, plan: SizePlan, shown: ShownImages) -> ContextSet:
    """Draw the largest context of a target; its first entries are the smaller ones."""
    others = [example for example in task.examples if example.subject != target.subject]
    rng = np.random.default_rng((plan.seed, zlib.crc32(task.name.encode()), target.image_index, draw))
    order = rng.permutation(len(others))[: plan.all_sizes[-1]]
    entries = (shown.entry(others[n], others[n].reference) for n in order.tolist())
    return ContextSet(task.name, tuple(entries))
