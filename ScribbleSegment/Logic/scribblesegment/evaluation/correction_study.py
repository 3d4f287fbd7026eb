"""Five rounds of correction (Sambaturu et al., table 3, left): every method on the same images, with its own errors.

A job is one method on one image; `scribblesegment.evaluation.correction_workers` runs many and remembers them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.evaluation.correction_config import CorrectionTask, Experiment, Shift, StudyConfig
from scribblesegment.evaluation.correction_methods import (
    Corrected,
    CorrectionMethod,
    Interactive,
    LabelMap,
    Painting,
    Refinement,
    Variant,
)
from scribblesegment.evaluation.correction_network import PlainUNet, load_plain_unet
from scribblesegment.evaluation.correction_shifts import REAL, shifted
from scribblesegment.evaluation.correction_tasks import LabelledImage, TaskImages
from scribblesegment.evaluation.correction_user import CorrectingUser, Labels, correct
from scribblesegment.evaluation.metrics import dice
from scribblesegment.evaluation.stepwise import SlicePredictor
from scribblesegment.simulation.fields import FloatArray
from scribblesegment.simulation.regions import BoolArray


@dataclass(frozen=True)
class RoundResult:
    """One image after one interaction with one method; interaction 0 is before the first.

    Attributes:
        experiment: Its name.
        task: The task's name.
        shift: How the image was changed.
        variant: The method's name.
        subject: Whose image it is.
        image_index: Position of the image in its set.
        repetition: Counted from 0.
        interaction: Counted from 0.
        strokes: Strokes, points or boxes of this interaction; 0 if nothing was worth one, and the result stayed.
        dice: Mean over the structures that the image shows.
        class_dice: Of every structure, in the task's order; NaN where the image does not show it.
        far_pixels: Pixels far from all strokes so far.
        far_dice_before: Mean Dice of the first segmentation on those pixels; NaN where they show no structure.
        far_dice: The same of this segmentation.
        far_wrong_before: Share of those pixels that were wrong in the first segmentation; NaN without such pixels.
        far_wrong: Share that are wrong now.
        seconds: Of the correction.
        iterations: Of the refinement.
        satisfied: Whether every mark is followed.
        violations: Drawn pixels that are not followed.
        g: At the end of the refinement; NaN for other methods.
        stopped: Why the refinement ended; empty for other methods.
        marked: Pixels that were constraints.
    """

    experiment: str
    task: str
    shift: str
    variant: str
    subject: str
    image_index: int
    repetition: int
    interaction: int
    strokes: int
    dice: float
    class_dice: tuple[float, ...]
    far_pixels: int
    far_dice_before: float
    far_dice: float
    far_wrong_before: float
    far_wrong: float
    seconds: float
    iterations: int
    satisfied: bool
    violations: int
    g: float
    stopped: str
    marked: int


@dataclass(frozen=True, eq=False)
class Job:
    """One method on one image."""

    experiment: Experiment
    task: CorrectionTask
    shift: Shift
    variant: Variant
    image: LabelledImage
    repetition: int


# Structures with fewer pixels in an image have no Dice: one pixel more or less would decide it.
LEAST_STRUCTURE = 50


def mean_dice(predicted: Labels, truth: Labels, outputs: int, where: BoolArray | None = None) -> float:
    """Average Dice over the structures that the truth shows, on all pixels or some; NaN if it shows none."""
    scores = [score for score in class_dice(predicted, truth, outputs, where) if not math.isnan(score)]
    return float(np.mean(scores)) if scores else math.nan


def class_dice(predicted: Labels, truth: Labels, outputs: int, where: BoolArray | None = None) -> tuple[float, ...]:
    """Give Dice of every structure, 1 to `outputs` - 1, on all pixels or some.

    Structures with less than `LEAST_STRUCTURE` pixels in the truth, or on the chosen pixels of it, have NaN.
    """
    if where is not None:
        predicted, truth = predicted[where][None], truth[where][None]
    return tuple(
        dice(predicted == label, truth == label) if np.count_nonzero(truth == label) >= LEAST_STRUCTURE else math.nan
        for label in range(1, outputs)
    )


def choose_images(images: Sequence[LabelledImage], count: int) -> list[LabelledImage]:
    """Take images in turn from the subjects, in a fixed order that has nothing to do with how well they go."""
    by_subject: dict[str, list[LabelledImage]] = {}
    for one in images:
        by_subject.setdefault(one.subject, []).append(one)
    subjects = sorted(by_subject, key=lambda name: zlib.crc32(name.encode()))
    chosen: list[LabelledImage] = []
    while len(chosen) < min(count, len(images)):
        for name in subjects:
            if by_subject[name] and len(chosen) < count:
                chosen.append(by_subject[name].pop(0))
    return chosen


def list_jobs(experiment: Experiment, tasks: dict[str, TaskImages]) -> list[Job]:
    """List what an experiment consists of: images in turn, so that a part of the list is a smaller study.

    Args:
        experiment: What is measured.
        tasks: Images by the task's name.
    """
    jobs = []
    for name in experiment.tasks:
        images = tasks[name]
        for shift in images.task.shifts:
            if shift.name not in experiment.shifts:
                continue
            parts = (images.tune, images.test) if shift.name != REAL else (images.other_tune, images.other_test)
            part = [
                one
                for one in parts[experiment.part == "test"]
                if np.count_nonzero(one.labels) >= images.task.least_tested
            ]
            for image in choose_images(part, experiment.images):
                for repetition in range(experiment.repetitions):
                    jobs += [
                        Job(experiment, images.task, shift, variant, image, repetition)
                        for variant in experiment.variants
                    ]
    return jobs


@dataclass(frozen=True, eq=False)
class Round:
    """What is seen after an interaction, for pictures."""

    labels: LabelMap
    scribbles: LabelScribbles
    result: RoundResult


class Study:
    """Runs jobs; holds the networks."""

    def __init__(self, config: StudyConfig, networks: Path, *, predictor: SlicePredictor | None = None) -> None:
        """Read the networks of the tasks when they are needed.

        Args:
            config: The study.
            networks: Folder with `<task>.safetensors`.
            predictor: Of interactive segmentation; None if no variant needs it.
        """
        self.config, self.networks, self._predictor = config, networks, predictor
        self._loaded: dict[str, tuple[PlainUNet, str]] = {}

    def network(self, task: str) -> tuple[PlainUNet, str]:
        """Give a task's network and a digest of its file.

        Raises:
            WeightsError: If there is none, or it is damaged.
        """
        if task not in self._loaded:
            path = self.networks / f"{task}.safetensors"
            network, _ = load_plain_unet(path)
            self._loaded[task] = network, hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return self._loaded[task]

    def key(self, job: Job) -> str:
        """Give a digest of all that the result of a job depends on."""
        config = self.config
        refines = job.variant.kind == "refinement"
        parts = {
            "task": dataclasses.asdict(job.task),
            "shift": dataclasses.asdict(job.shift),
            "image": (job.image.index, job.repetition, job.experiment.rounds, config.seed, config.far_pixels),
            "variant": dataclasses.asdict(job.variant),
            "user": dataclasses.asdict(config.user),
            "network": self.network(job.task.name)[1],
            "refinement": dataclasses.asdict(job.variant.refinement(config.refinement)) if refines else "",
            "growth": dataclasses.asdict(config.growth) if refines and job.variant.growing else "",
            "interactive": config.interactive if job.variant.kind.startswith("interactive") else "",
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()[:20]

    def shown_image(self, job: Job) -> FloatArray:
        """Give the image (H, W) that a job is about, changed as its shift says."""
        words = zlib.crc32(f"{job.task.name} {job.shift.name}".encode())
        rng = np.random.default_rng((self.config.seed, words, job.image.index))
        return shifted(job.image.image, job.shift.name, job.shift.strength, rng)

    def rounds(self, job: Job) -> Iterator[Round]:
        """Run a job; gives the segmentation before the first interaction, and after each one."""
        config, truth, outputs = self.config, job.image.labels, len(job.task.labels)
        user: CorrectingUser = config.user
        if job.variant.length:
            user = dataclasses.replace(user, length=job.variant.length)
        method = self._method(job, self.shown_image(job))
        first = method.start()
        current, scribbles = Corrected(first, 0.0), LabelScribbles.empty(truth.shape)
        yield Round(first, scribbles, self._result(job, 0, 0, current, first, scribbles))
        for interaction in range(1, job.experiment.rounds + 1):
            words = zlib.crc32(job.task.name.encode()), job.image.index, job.repetition, interaction
            rng = np.random.default_rng((config.seed, *words))
            scribbles, strokes = correct(
                scribbles, truth, current.labels, rng, user, outputs=outputs, input_kind=job.variant.inputs
            )
            if strokes:
                current = method.correct(scribbles)
            yield Round(current.labels, scribbles, self._result(job, interaction, strokes, current, first, scribbles))

    def run(self, job: Job) -> list[RoundResult]:
        """Run a job and keep its figures."""
        return [entry.result for entry in self.rounds(job)]

    def _method(self, job: Job, image: FloatArray) -> CorrectionMethod:
        config, variant = self.config, job.variant
        network, _ = self.network(job.task.name)
        growth = config.growth if variant.growing else None
        if variant.kind == "refinement":
            return Refinement(network, image, variant.refinement(config.refinement), growth)
        if variant.kind == "interactive":
            return Interactive(self._require_predictor(), image, None, len(job.task.labels))
        first = Painting.of(network, image)
        if variant.kind == "painting":
            return first
        return Interactive(self._require_predictor(), image, first.start(), len(job.task.labels))

    def _require_predictor(self) -> SlicePredictor:
        if self._predictor is None:
            from scribblesegment.evaluation.methods import load_network

            self._predictor = load_network(self.config.interactive, device="cpu")
        return self._predictor

    def _result(
        self, job: Job, interaction: int, strokes: int, current: Corrected, first: LabelMap, scribbles: LabelScribbles
    ) -> RoundResult:
        truth, outputs = job.image.labels, len(job.task.labels)
        marked = scribbles.marked
        far = ndimage.distance_transform_edt(~marked) > self.config.far_pixels if marked.any() else ~marked
        return RoundResult(
            experiment=job.experiment.name,
            task=job.task.name,
            shift=job.shift.name,
            variant=job.variant.name,
            subject=job.image.subject,
            image_index=job.image.index,
            repetition=job.repetition,
            interaction=interaction,
            strokes=strokes,
            dice=mean_dice(current.labels, truth, outputs),
            class_dice=class_dice(current.labels, truth, outputs),
            far_pixels=int(far.sum()),
            far_dice_before=mean_dice(first, truth, outputs, far),
            far_dice=mean_dice(current.labels, truth, outputs, far),
            far_wrong_before=_share((first != truth)[far]),
            far_wrong=_share((current.labels != truth)[far]),
            seconds=current.seconds if strokes else 0.0,
            iterations=current.iterations if strokes else 0,
            satisfied=current.satisfied,
            violations=current.violations,
            g=current.g,
            stopped=current.stopped,
            marked=current.marked,
        )


def _share(wrong: BoolArray) -> float:
    return float(wrong.mean()) if wrong.size else math.nan
