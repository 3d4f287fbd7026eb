"""What is measured, as units that give rows when they are asked to: see docs/evaluation.md for each of them.

Every method is prompted with the same random numbers for each example and step. First prompts are therefore the same;
corrections answer each method's own error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from scribblesegment.batch.segmentation import BatchConfig, segment_image
from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.masks import CleanUp
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError
from scribblesegment.propagation import Propagation, Propagator
from studies.common import Mask, Row, Unit, agreement, dice, generator
from studies.data import Case, Example, Folder, Task, read_cases
from studies.methods import VOLUME_METHODS, Method, NetworkMethod, grow_strokes
from studies.prompting import (
    LEVELS,
    PROCEDURES,
    TARGET_DICE,
    Condition,
    Procedure,
    Turn,
    ask,
    draw_sketch,
    interact,
    predicts_first,
    show,
)

MANUAL = "manual-scribbles"
CONTEXT_ALONE = "context-alone"

# Those of MultiverSeg, section 5.3, and the step after which an image counts as done.
SEQUENCE_PROCEDURES = {"centerline-scribbles": 10, "center-clicks": 20}

BETWEEN, OUTSIDE, BEYOND, PROPOSED = "between", "outside", "beyond", "proposed"
PLACES = {"three slices": (0.25, 0.5, 0.75), "one slice": (0.5,)}

# How the user paints whose strokes are followed through the volume, and what else is done with them.
FOLLOWED, GROWN = "centerline-scribbles", "grow-from-seeds"
_CONTENT_LOGIT = np.float32(4.0)


def manual(examples: Sequence[Example], methods: Mapping[str, Method]) -> Iterator[Unit]:
    """Strokes of people (ScribblePrompt, section 5.1): one prediction from all strokes of one person on one image."""
    for example in examples:
        key = example.key | {"procedure": MANUAL, "label": example.label, "draw": example.annotator}
        for name, method in methods.items():
            yield Unit(key | {"method": name}, partial(_manual_rows, example, method))


def _manual_rows(example: Example, method: Method) -> Iterator[Row]:
    yield _row(manual_turn(example, method), example.reference)


def manual_turn(example: Example, method: Method) -> Turn:
    """Let a method make its prediction from all strokes of one person."""
    assert example.scribbles is not None
    strokes = replace(Prompts.empty(example.reference.shape), scribbles=example.scribbles)
    procedure = Procedure(MANUAL, "scribbles", lambda _reference, _rng: strokes, None)
    return next(interact(method, procedure, example.image, example.reference, partial(generator, 0)))


@dataclass(frozen=True)
class Steps:
    """How long examples are corrected."""

    steps: int = 5  # of a procedure; step 1 is the first prompts
    most_steps: int = 20  # of those whose steps to `TARGET_DICE` are counted, until it is reached
    counted: tuple[str, ...] = ("centerline-scribbles",)
    repetitions: int = 1  # with other random numbers; five in the paper
    seed: int = 0


def simulated(
    examples: Sequence[Example], methods: Mapping[str, Method], procedures: Iterable[str], plan: Steps
) -> Iterator[Unit]:
    """Simulated prompts, step by step (ScribblePrompt, section 5.2). A method gets only prompts that it understands."""
    for procedure in (PROCEDURES[name] for name in procedures):
        able = {name: method for name, method in methods.items() if procedure.prompts in method.prompts}
        for example in examples:
            for repetition in range(plan.repetitions):
                key = example.key | {"procedure": procedure.name, "label": example.label, "draw": repetition}
                for name, method in able.items():
                    rows = partial(_simulated_rows, example, method, procedure, repetition, plan)
                    yield Unit(key | {"method": name}, rows)


def _simulated_rows(
    example: Example, method: Method, procedure: Procedure, repetition: int, plan: Steps
) -> Iterator[Row]:
    counts, reached = procedure.name in plan.counted, False
    rng = partial(generator, plan.seed, procedure.name, example.task, example.image_index, example.label, repetition)
    for turn in interact(method, procedure, example.image, example.reference, rng):
        yield _row(turn, example.reference)
        reached |= turn.dice >= TARGET_DICE
        last = max(plan.steps, plan.most_steps) if counts and not reached else plan.steps
        if procedure.correct is None or turn.step >= last:
            return


@dataclass(frozen=True)
class Sequences:
    """What is gone through."""

    images: int = 18  # of a sequence, besides the seed image
    simulations: int = 3  # of each task, in other orders and with other random numbers; 200 in the paper
    least_confidence: float = 0.9  # expected Dice from which a prediction from the context alone is shown; 0: all
    seed: int = 0


def sequences(
    tasks: Sequence[Task],
    methods: Mapping[str, Method],
    plan: Sequences,
    *,
    procedures: Iterable[str] = SEQUENCE_PROCEDURES,
) -> Iterator[Unit]:
    """One image after the other, each to 90 % Dice, what is done serving as context (MultiverSeg, section 6).

    The seed image, which every method finds in its context to begin with, is segmented by the first method, which looks
    at no context itself.

    Raises:
        ConfigError: If a task has too few images, or the first method does not understand a procedure's prompts.
    """
    alone = next(iter(methods.values()))
    for procedure in (PROCEDURES[name] for name in procedures):
        if procedure.prompts not in alone.prompts:
            raise ConfigError(f"{next(iter(methods))} understands no {procedure.prompts}: leave {procedure.name} out.")
        able = {name: method for name, method in methods.items() if procedure.prompts in method.prompts}
        for task in tasks:
            if len(task.examples) <= plan.images:
                raise ConfigError(f"{task.name} has {len(task.examples)} images, {plan.images + 1} are needed.")
            for simulation in range(plan.simulations):
                seeds: list[ContextSet] = []  # made when the first method is run, and kept for the others
                key = {"procedure": procedure.name, "set": task.set_name, "task": task.name, "draw": simulation}
                for name, method in able.items():
                    sequence = _Sequence(task, simulation, procedure, plan)
                    yield Unit(key | {"method": name}, partial(sequence.rows, method, alone, seeds))


@dataclass(frozen=True)
class _Sequence:
    """The images of one simulation of a task, in their order; the same for every procedure and method."""

    task: Task
    simulation: int
    procedure: Procedure
    plan: Sequences

    def rows(self, method: Method, alone: Method, seeds: list[ContextSet]) -> Iterator[Row]:
        order = generator(self.plan.seed, self.task.name, self.simulation).permutation(len(self.task.examples))
        examples = [self.task.examples[n] for n in order[: 1 + self.plan.images].tolist()]
        if not seeds:
            seed = self._turns(alone, None, examples[0])[-1]
            seeds.append(ContextSet(self.task.name, (examples[0].entry(seed.mask),)))
        context, most = seeds[0], SEQUENCE_PROCEDURES.get(self.procedure.name, 20)
        for example in examples[1:]:
            turns = self._turns(method, context, example)
            last = turns[-1]
            reached = last.dice >= TARGET_DICE
            yield _row(last, example.reference) | {
                "subject": example.subject,
                "image": example.image_index,
                "context": len(context),
                "steps": last.step if reached else most,
                "reached": reached,
                "expected_dice": turns[0].expected_dice if turns[0].step == 0 else nan,
                "seconds": float(np.nansum([turn.seconds for turn in turns])),
                "prepare_seconds": turns[0].prepare_seconds,
                "failure": next((turn.failure for turn in turns if turn.failure), ""),
            }
            context = context.add(example.entry(last.mask))

    def _turns(self, method: Method, context: ContextSet | None, example: Example) -> list[Turn]:
        """Correct an image until it is good, or long enough."""
        rng = partial(
            generator, self.plan.seed, self.procedure.name, example.task, example.image_index, self.simulation
        )
        confidence, most = self.plan.least_confidence, SEQUENCE_PROCEDURES.get(self.procedure.name, 20)
        found = []
        for turn in interact(
            method, self.procedure, example.image, example.reference, rng, context=context, least_confidence=confidence
        ):
            found.append(turn)
            if turn.dice >= TARGET_DICE or turn.step >= most:
                break
        return found


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # of contexts without prompts
    corrected: tuple[int, ...] = (0, 1, 4, 16)  # of contexts with corrections
    procedures: tuple[str, ...] = tuple(SEQUENCE_PROCEDURES)
    steps: int = 5
    targets: int = 6  # images of each task
    draws: int = 2  # random contexts of each target; ten in the paper
    seed: int = 0


def sizes(tasks: Sequence[Task], methods: Mapping[str, Method], plan: Sizes) -> Iterator[Unit]:
    """Dice by the number of context entries, from the context alone and step by step (MultiverSeg, section 7).

    Contexts hold images of other subjects with their references. A size that a task has not enough images for is left
    out there, and a method takes no part with fewer entries than it looks at.
    """
    all_sizes = sorted({*plan.sizes, *plan.corrected})
    for task in tasks:
        chosen = generator(plan.seed, task.name).permutation(len(task.examples))[: plan.targets]
        for target in (task.examples[n] for n in sorted(chosen.tolist())):
            for draw in range(plan.draws):
                # Made for the first unit that is measured.
                largest: Callable[[], ContextSet] = partial(task.context, target, draw, all_sizes[-1], plan.seed)
                others = sum(example.subject != target.subject for example in task.examples)
                for size in (size for size in all_sizes if size <= others):
                    for name, method in methods.items():
                        if size == 0 or (method.least_context is not None and size >= method.least_context):
                            key = target.key | {"draw": draw, "context": size, "method": name}
                            yield Unit(key, partial(_size_rows, target, method, draw, size, largest, plan))


def _size_rows(
    target: Example, method: Method, draw: int, size: int, largest: Callable[[], ContextSet], plan: Sizes
) -> Iterator[Row]:
    context = largest()
    context = replace(context, entries=context.entries[:size])
    predicts = predicts_first(method, context)
    corrected = size in plan.corrected
    able = [PROCEDURES[name] for name in plan.procedures if PROCEDURES[name].prompts in method.prompts and corrected]
    # No procedure has a part in the first turn, so it is measured once.
    for n, procedure in enumerate(able or [PROCEDURES[plan.procedures[0]]] if predicts else able):
        rng = partial(generator, plan.seed, procedure.name, target.task, target.image_index, draw)
        turns = interact(method, procedure, target.image, target.reference, rng, context=context)
        count = plan.steps if able else 0
        for turn in islice(turns, count + predicts):
            if turn.step > 0 or n == 0:
                name = procedure.name if turn.step > 0 else CONTEXT_ALONE
                yield _row(turn, target.reference) | {"procedure": name}


def propagation(
    paths: Sequence[Path],
    methods: Mapping[str, NetworkMethod],
    baselines: Iterable[str] = tuple(VOLUME_METHODS),
    *,
    places: Mapping[str, tuple[float, ...]] = PLACES,
    per_volume: int | None = None,
    one_axis: bool = False,
) -> Iterator[Unit]:
    """A few annotated slices of a structure with their reference, and how well its other slices follow from them.

    Networks are corrected once: the slice that they propose gets its reference, and they go on from their earlier
    result (step 1). A row is a slice that was not annotated from the start.
    """
    for path in paths:
        volume, cases = read_cases(path, per_volume=per_volume, one_axis=one_axis)
        for case in cases:
            task = f"{case.set_name}/{case.volume_name}/{case.structure}"
            for procedure, where in places.items():
                key = {
                    "procedure": procedure,
                    "set": case.set_name,
                    "task": task,
                    "subject": case.volume_name,
                    "label": case.structure,
                    "level": "kji"[case.axis],
                }
                for name, method in methods.items():
                    rows = partial(_propagated_rows, volume, case, case.annotated(where), method.predictor)
                    yield Unit(key | {"method": name}, rows)
                for name in baselines:
                    yield Unit(
                        key | {"method": name}, partial(_baseline_rows, volume, case, case.annotated(where), name)
                    )


def _propagated_rows(volume: Volume, case: Case, annotated: dict[int, Mask], predictor: Any) -> Iterator[Row]:
    propagator, label = Propagator(predictor), f"label {case.structure}"
    names: dict[str, Any] = {"label_name": label, "source": f"{case.set_name} {case.volume_name}"}
    started = time.perf_counter()
    first = propagator.run(volume, annotated, case.axis, **names)
    seconds = time.perf_counter() - started
    found = {index: one.mask for index, one in first.slices.items()}
    for row in _slice_rows(case, annotated, found):
        yield row | {"step": 0, "seconds": seconds, "rate": first.slices_per_second or nan}
    proposed = first.next_slice
    if proposed is not None:
        more = annotated | {proposed: case.slices[proposed]}
        corrected = propagator.run(volume, more, case.axis, previous=first, **names)
        found = {index: one.mask for index, one in corrected.slices.items()} | {proposed: case.slices[proposed]}
    # Where nothing is proposed nothing changes.
    for row in _slice_rows(case, annotated, found):
        yield row | {"step": 1, "part": PROPOSED if row["image"] == proposed else row["part"]}


def _baseline_rows(volume: Volume, case: Case, annotated: dict[int, Mask], name: str) -> Iterator[Row]:
    started = time.perf_counter()
    found = VOLUME_METHODS[name](volume, annotated, case.axis, case.measured)
    seconds = time.perf_counter() - started
    for row in _slice_rows(case, annotated, found):
        yield row | {"step": 0, "seconds": seconds}


def _slice_rows(case: Case, annotated: Mapping[int, Mask], masks: Mapping[int, Mask]) -> Iterator[Row]:
    (start, stop), nothing = case.extent, np.zeros(case.slices.shape[1:], bool)
    for index in case.measured:
        if index not in annotated:
            mask, inside = masks.get(index, nothing), min(annotated) < index < max(annotated)
            yield {
                "image": index,
                "part": BETWEEN if inside else OUTSIDE if start <= index < stop else BEYOND,
                "position": (index - start) / (stop - 1 - start),
                "dice": dice(mask, case.slices[index]),
                "found": bool(mask.any()),
            }


def follow(
    paths: Sequence[Path],
    methods: Mapping[str, NetworkMethod],
    *,
    grows: bool = True,
    corrections: int = 3,
    per_volume: int | None = None,
    one_axis: bool = False,
    seed: int = 0,
) -> Iterator[Unit]:
    """A whole structure from strokes in its middle slice, then from a stroke in each slice that is proposed.

    The strokes are those of `FOLLOWED`: one in the structure and one beside it, then one in the error. The answer is
    accepted as it is, and followed through the volume. The same strokes are also grown in three dimensions.
    """
    for path in paths:
        volume, cases = read_cases(path, per_volume=per_volume, one_axis=one_axis)
        for case in cases:
            key = {
                "procedure": FOLLOWED,
                "set": case.set_name,
                "task": f"{case.set_name}/{case.volume_name}/{case.structure}",
                "subject": case.volume_name,
                "label": case.structure,
                "level": "kji"[case.axis],
            }
            for name, method in methods.items():
                rows = partial(_followed_rows, volume, case, method.predictor, corrections, seed)
                yield Unit(key | {"method": name}, partial(_with_grown, volume, case, name, rows) if grows else rows)


def _followed_rows(
    volume: Volume, case: Case, predictor: Any, corrections: int, seed: int, drawn: dict[int, Prompts] | None = None
) -> Iterator[Row]:
    """Rows of all steps; the strokes of each slice are added to `drawn`."""
    drawn = {} if drawn is None else drawn
    procedure, propagator, clean_up = PROCEDURES[FOLLOWED], Propagator(predictor), CleanUp()
    intensity_range = IntensityRange.estimate(volume.array)
    accepted: dict[int, Mask] = {}
    found: dict[int, Mask] = {}
    index: int | None = next(iter(case.annotated(PLACES["one slice"])))
    result: Propagation | None = None
    for step in range(1 + corrections):
        started = time.perf_counter()
        if index is not None:
            truth = case.slices[index]
            before = found.get(index, np.zeros_like(truth))
            rng = generator(seed, FOLLOWED, case.set_name, case.volume_name, case.structure, case.axis, step)
            if step == 0:
                prompts = procedure.first(truth, rng)
            elif procedure.correct is not None and not np.array_equal(before, truth):
                prompts = procedure.correct(Prompts.empty(truth.shape), truth, before, rng)
            else:
                prompts = Prompts.empty(truth.shape)
            mask = before
            if not prompts.is_empty:
                drawn[index] = prompts
                piece = volume.slice(case.axis, index)
                if "context" in predictor.capabilities:
                    predictor.set_context(None)
                predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=intensity_range)
                # As the effect does: what the slice shows already is where a correction starts.
                content = np.where(before, _CONTENT_LOGIT, -_CONTENT_LOGIT) if before.any() else None
                logits = predictor.predict(prompts.with_mask_input(content)).logits
                anchors = before | prompts.positive_pixels()
                mask = clean_up.mask(logits, anchors=anchors, spacing_mm=piece.spacing_mm)
            accepted[index] = mask
            found = dict(accepted)
            if any(one.any() for one in accepted.values()):
                result = propagator.run(
                    volume, accepted, case.axis, previous=result, intensity_range=intensity_range, source=case.set_name
                )
                found |= {at: one.mask for at, one in result.slices.items()}
                index = result.next_slice
            else:
                index = None
        yield _volume_row(case, found) | {"step": step, "image": index, "seconds": time.perf_counter() - started}


def _with_grown(volume: Volume, case: Case, name: str, rows: Callable[..., Iterator[Row]]) -> Iterator[Row]:
    """The rows, and after each that of growing from all strokes until then."""
    drawn: dict[int, Prompts] = {}
    for row in rows(drawn=drawn):
        yield row
        started = time.perf_counter()
        found = grow_strokes(volume, drawn, case.axis, case.measured)
        seconds = time.perf_counter() - started
        yield _volume_row(case, found) | {"method": f"{GROWN} ({name})", "step": row["step"], "seconds": seconds}


def _volume_row(case: Case, found: Mapping[int, Mask]) -> Row:
    """The Dice coefficient of the whole structure in three dimensions."""
    whole = np.zeros_like(case.slices)
    for index, mask in found.items():
        whole[index] = mask
    return {"dice": dice(whole, case.slices), "found": bool(whole.any())}


def absence(folders: Sequence[Folder], methods: Mapping[str, NetworkMethod]) -> Iterator[Unit]:
    """Folders of which half of the images lack the structure, through what `scribblesegment batch` accepts.

    In `part` stands whether an image shows the structure ("present") or not ("absent"), in `found` whether anything of
    the result was kept.
    """
    for folder in folders:
        for example in folder.examples:
            key = example.key | {"procedure": "absence", "context": len(folder.context)}
            for name, method in methods.items():
                yield Unit(key | {"method": name}, partial(_absence_rows, folder, example, method.predictor))


def _absence_rows(folder: Folder, example: Example, predictor: Any) -> Iterator[Row]:
    volume = Volume(example.image[None], np.eye(4))
    started = time.perf_counter()
    found = segment_image(predictor, volume, [folder.context], 0, BatchConfig())
    seconds = time.perf_counter() - started
    mask = np.asarray(found.labels[0] > 0)
    yield {
        "part": "present" if example.reference.any() else "absent",
        "found": bool(mask.any()),
        "dice": dice(mask, example.reference),
        "expected_dice": found.confidence[0].get(0, nan),
        "seconds": seconds,
    }


def robustness(
    examples: Sequence[Example], methods: Mapping[str, Method], factors: Iterable[str] = tuple(LEVELS), *, seed: int = 0
) -> Iterator[Unit]:
    """Dice of one prediction from centerline strokes, one thing changed at a time; the procedure is what is changed."""
    most = max(int(level) for level in LEVELS["strokes"])
    for example in examples:
        sketch = partial(
            draw_sketch,
            example.reference,
            generator(seed, example.task, example.image_index, example.label),
            strokes=most,
        )
        scenes: dict[Condition, Any] = {}
        for factor in factors:
            for level in LEVELS[factor]:
                for name, method in methods.items():
                    key = example.key | {"label": example.label, "procedure": factor, "level": str(level)}
                    changed: dict[str, Any] = {factor: level}
                    rows = partial(_robustness_rows, example, method, sketch, Condition(**changed), scenes)
                    yield Unit(key | {"method": name}, rows)


def _robustness_rows(
    example: Example, method: Method, sketch: Callable[[], Any], condition: Condition, scenes: dict[Any, Any]
) -> Iterator[Row]:
    if "sketch" not in scenes:
        scenes["sketch"] = sketch()
    if condition not in scenes:
        scenes[condition] = show(example.image, example.reference, scenes["sketch"], condition)
    image, prompts, reference = scenes[condition]
    started = time.perf_counter()
    method.set_context(None)
    method.set_image(image)
    preparing = time.perf_counter() - started
    turn = ask(method, prompts, Turn(1, np.zeros_like(reference), 0.0), reference)
    yield {"step": 1, "dice": turn.dice, "seconds": turn.seconds, "prepare_seconds": preparing, "failure": turn.failure}


def _row(turn: Turn, reference: Mask) -> Row:
    return agreement(turn.mask, reference) | {
        "step": turn.step,
        "found": bool(turn.mask.any()),
        "expected_dice": turn.expected_dice,
        "seconds": turn.seconds,
        "prepare_seconds": turn.prepare_seconds,
        "failure": turn.failure,
    }
