"""One image of a task after the other, each to 90 % Dice, what is done serving as context: MultiverSeg, section 6.

The seed image, which every method finds in its context to begin with, is segmented by the interactive method alone.
All methods get the same images in the same order, and are corrected with the same random seeds.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from scribblesegment.context.context_set import ContextSet
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.in_context_methods import InContextMethods, InteractiveInContextMethod, ShownImages
from scribblesegment.evaluation.in_context_tasks import ContextTask
from scribblesegment.evaluation.in_context_user import Turn, interact, step_generator
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.metrics import hausdorff95
from scribblesegment.evaluation.procedures import PROCEDURES, Procedure, choose_procedures
from scribblesegment.evaluation.protocols import Progress
from scribblesegment.evaluation.simulated import TARGET_DICE
from scribblesegment.evaluation.stepwise import PIXEL_MM

# Those of the paper, section 5.3.
IN_CONTEXT_PROCEDURES = ("centerline-scribbles", "center-clicks")


@dataclass(frozen=True)
class SequencePlan:
    """What is gone through.

    Attributes:
        procedures: Names of `PROCEDURES` with corrections.
        images: Images of a sequence, besides the seed image.
        simulations: How often every task is gone through, in another order and with other random numbers; 200 in the
            paper.
        scribble_steps: Where correcting an image by scribbles ends, whatever the Dice.
        click_steps: The same for clicks.
        least_confidence: A prediction from the context alone is shown if the method expects at least this Dice of it;
            0 shows all, as in the paper.
        seed: Of everything random.

    Raises:
        ConfigError: If there is no procedure, one is unknown or makes no corrections, or a number is out of range.
    """

    procedures: tuple[str, ...] = IN_CONTEXT_PROCEDURES
    images: int = 18
    simulations: int = 3
    scribble_steps: int = 10
    click_steps: int = 20
    least_confidence: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        check_procedures(self.procedures)
        if not 0.0 <= self.least_confidence <= 1.0:
            raise ConfigError(f"least_confidence is a Dice coefficient, from 0 to 1; got {self.least_confidence}.")
        if min(self.images, self.simulations, self.scribble_steps, self.click_steps) < 1 or self.seed < 0:
            raise ConfigError(
                f"Numbers of images, simulations and steps are at least 1 and the seed at least 0; got "
                f"{dataclasses.asdict(self)}."
            )

    def most_steps(self, procedure: Procedure) -> int:
        """Give the step after which an image counts as done."""
        return self.scribble_steps if procedure.prompts == "scribbles" else self.click_steps


@dataclass(frozen=True)
class SequenceResult:
    """One image of one sequence by one method.

    Attributes:
        procedure: How it was prompted.
        method: Its name.
        set_name: The set of the task.
        task: What is segmented in what.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        simulation: Counted from 0.
        example: Position in the sequence, from 1; as many entries are in the context.
        steps: Steps until the Dice was `TARGET_DICE`; 0 if the prediction from the context was good enough; the most
            steps if it never was.
        reached: Whether it was.
        context_dice: Dice of the prediction from the context alone; NaN if none was shown.
        dice: Dice in the end, in [0, 1].
        hausdorff95_mm: 95 % Hausdorff distance in the end, a pixel taken for 1 x 1 mm.
        seed_dice: Dice of the seed image's mask.
        seconds: Time of all predictions of the image, with that of taking context and image.
        failure: Why the method could make nothing of the prompts of some step; empty if it always could.
    """

    procedure: str
    method: str
    set_name: str
    task: str
    subject: str
    image_index: int
    simulation: int
    example: int
    steps: int
    reached: bool
    context_dice: float
    dice: float
    hausdorff95_mm: float
    seed_dice: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Sequences:
    """All results, by methods of which the first looks at no context, and those that do not understand the prompts."""

    plan: SequencePlan
    alone: str
    results: list[SequenceResult]
    unable: list[tuple[str, str]]


def check_procedures(names: Sequence[str]) -> None:
    """Refuse procedures that cannot be gone through in context.

    Raises:
        ConfigError: If there is none, one is unknown, or one makes no corrections.
    """
    if not names or any(procedure.correct is None for procedure in choose_procedures(names)):
        corrected = [name for name, procedure in PROCEDURES.items() if procedure.correct is not None]
        raise ConfigError(f"Procedures in context are among {', '.join(corrected)}; got {', '.join(names) or 'none'}.")


def run_sequences(
    tasks: Sequence[ContextTask], compared: InContextMethods, plan: SequencePlan, *, progress: Progress | None = None
) -> Sequences:
    """Let a simulated user go through the images of every task with every method.

    Args:
        tasks: Each with one image more than the plan has, the seed image.
        compared: The methods. One that does not understand a procedure's prompts is left out of it.
        plan: What to go through.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of procedures, tasks, simulations, methods and examples.

    Raises:
        ConfigError: If there is no task, one has too few images, or the interactive method alone does not understand a
            procedure's prompts.
        ImageError: If a method gives something else than a mask of the image's shape.
        ScribbleSegmentError: What a method itself raises, other than PromptError, which counts as its failure.
    """
    procedures = choose_procedures(plan.procedures)
    _check(tasks, compared, plan, procedures)
    results: list[SequenceResult] = []
    unable = [
        (procedure.name, name)
        for procedure in procedures
        for name, method in compared.methods.items()
        if procedure.prompts not in method.prompts
    ]
    total = len(tasks) * plan.simulations * (len(procedures) * len(compared.methods) - len(unable))
    sequences = 0
    shown = ShownImages()
    for procedure in procedures:
        able = {name: one for name, one in compared.methods.items() if procedure.prompts in one.prompts}
        for task in tasks:
            for simulation in range(plan.simulations):
                sequence = _Sequence(task, simulation, procedure, plan, shown)
                context, seed_dice = sequence.seed(compared.alone, able[compared.alone])
                for name, method in able.items():
                    for result in sequence.run(name, method, context, seed_dice):
                        results.append(result)
                        if progress is not None:
                            done = sequences + result.example / plan.images
                            progress(done / total, f"{procedure.name}, {task.name}, {name}")
                    sequences += 1
    if progress is not None:
        progress(1.0, "done")
    return Sequences(plan, compared.alone, results, unable)


@dataclass(frozen=True)
class _Sequence:
    """The images of one simulation of a task, in their order."""

    task: ContextTask
    simulation: int
    procedure: Procedure
    plan: SequencePlan
    shown: ShownImages

    @property
    def examples(self) -> list[LabelExample]:
        """The seed image and those that follow; the same for every procedure."""
        rng = np.random.default_rng((self.plan.seed, zlib.crc32(self.task.name.encode()), self.simulation))
        order = rng.permutation(len(self.task.examples))[: 1 + self.plan.images]
        return [self.task.examples[n] for n in order.tolist()]

    def seed(self, name: str, alone: InteractiveInContextMethod) -> tuple[ContextSet, float]:
        """Segment the seed image with the interactive method alone; returns it as context, and its Dice."""
        example = self.examples[0]
        last = list(self._turns(name, alone, None, example))[-1]
        return ContextSet(self.task.name, (self.shown.entry(example, last.mask),)), last.dice

    def run(
        self, name: str, method: InteractiveInContextMethod, context: ContextSet, seed_dice: float
    ) -> Iterator[SequenceResult]:
        """Go through the images after the seed."""
        for number, example in enumerate(self.examples[1:], start=1):
            turns = list(self._turns(name, method, context, example))
            last = turns[-1]
            reached = last.dice >= TARGET_DICE
            yield SequenceResult(
                procedure=self.procedure.name,
                method=name,
                set_name=example.set_name,
                task=example.task,
                subject=example.subject,
                image_index=example.image_index,
                simulation=self.simulation,
                example=number,
                steps=last.step if reached else self.plan.most_steps(self.procedure),
                reached=reached,
                context_dice=turns[0].dice if turns[0].step == 0 else nan,
                dice=last.dice,
                hausdorff95_mm=hausdorff95(last.mask, example.reference, PIXEL_MM),
                seed_dice=seed_dice,
                seconds=sum(turn.seconds for turn in turns if not isnan(turn.seconds)),
                failure=next((turn.failure for turn in turns if turn.failure), ""),
            )
            context = context.add(self.shown.entry(example, last.mask))

    def _turns(
        self, name: str, method: InteractiveInContextMethod, context: ContextSet | None, example: LabelExample
    ) -> Iterator[Turn]:
        """Correct an image until it is good, or long enough."""
        generator = step_generator(self.procedure, example, self.simulation, self.plan.seed)
        turns = interact(
            name,
            method,
            context,
            example,
            self.procedure,
            generator,
            least_confidence=self.plan.least_confidence,
        )
        for turn in turns:
            yield turn
            if turn.dice >= TARGET_DICE or turn.step >= self.plan.most_steps(self.procedure):
                return


def _check(
    tasks: Sequence[ContextTask], compared: InContextMethods, plan: SequencePlan, procedures: Sequence[Procedure]
) -> None:
    if not tasks:
        raise ConfigError("There is no task to go through. Give at least one.")
    for task in tasks:
        if len(task.examples) <= plan.images:
            raise ConfigError(
                f"{task.name} has {len(task.examples)} images; a sequence of {plan.images} needs one more, the seed "
                "image. Leave the task out, or go through fewer images."
            )
    kinds: Mapping[str, str] = {procedure.prompts: procedure.name for procedure in procedures}
    for kind, name in kinds.items():
        if kind not in compared.methods[compared.alone].prompts:
            raise ConfigError(
                f"{compared.alone} does not understand {kind}, so it cannot segment the seed image by {name}. Leave "
                "the procedure out, or choose another interactive method."
            )
