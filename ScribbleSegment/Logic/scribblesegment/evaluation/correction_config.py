"""What the study of test-time refinement is made of, read from JSON with unknown fields refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_shifts import NONE, REAL, SHIFTS
from scribblesegment.evaluation.correction_user import CorrectingUser
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.region_growing import GrowthConfig
from scribblesegment.training.config import AugmentationConfig

AXES = ("interaction", "layers", "length")


@dataclass(frozen=True)
class TissueClass:
    """One class of a network.

    Attributes:
        name: What it is called.
        values: Numbers in the set's label maps; none stands for every number but 0, as in sets of instances.
    """

    name: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shift:
    """How test images are changed.

    Attributes:
        name: "none", one of `correction_shifts.SHIFTS`, or "real": other images, see `CorrectionTask`.
        strength: As the shift takes it.

    Raises:
        ConfigError: If there is no such shift.
    """

    name: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        if self.name not in (NONE, REAL, *SHIFTS):
            raise ConfigError(f"No shift {self.name!r}; there are {NONE}, {REAL}, {', '.join(SHIFTS)}.")


@dataclass(frozen=True)
class CorrectionTask:
    """What one network segments, and on whose images it is trained, tuned and tested.

    Attributes:
        name: Short, also of the files.
        title: For tables and pictures.
        set: The set's file in the folder of the data.
        classes: The classes after the background, in the order of the network's channels.
        subject: Regular expression; its one group, at the start of an image's subject in the set, says whose image it
            is. Empty: every image is a subject of its own.
        block: For sets of one patient, where the group is the number of a slice: slices whose numbers, divided by this
            and rounded down, are equal stay together like those of a subject. 0: the group is the subject.
        brightness: Range of the mean of an image in [0, 1]; images outside are left out.
        other_brightness: Images of the same set from another scanner or stain, told by their mean; the network never
            sees them in training. They are the shift "real". Empty: there are none.
        least_pixels: Images with fewer pixels of the classes are left out.
        least_tested: Images with fewer are trained on, but not corrected: nobody corrects where a structure ends.
        tune: Share of subjects on which the method's parameters are chosen.
        test: Share of subjects that give the figures.
        shifts: What test images are changed by, each name once.
        target: Mean Dice at which a segmentation counts as corrected.
        steps: Training steps, if not those of `NetworkTraining`; 0 keeps them.
        research: Whether the licence of the set permits research only.

    Raises:
        ConfigError: If a value is refused.
    """

    name: str
    title: str
    set: str
    classes: tuple[TissueClass, ...]
    subject: str = ""
    block: int = 0
    brightness: tuple[float, float] = (0.0, 1.0)
    other_brightness: tuple[float, ...] = ()
    least_pixels: int = 200
    least_tested: int = 0
    tune: float = 0.2
    test: float = 0.35
    shifts: tuple[Shift, ...] = (Shift("none"),)
    target: float = 0.8
    steps: int = 0
    research: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not self.classes or not self.name:
            raise ConfigError(f"Task {self.name!r} needs a name and at least one class besides the background.")
        if not (self.tune > 0 and self.test > 0 and self.tune + self.test < 1):
            raise ConfigError(f"tune and test are shares above 0 that leave some; got {self.tune} and {self.test}.")
        if len(self.other_brightness) not in (0, 2):
            raise ConfigError(f"other_brightness is empty or a range [low, high], got {self.other_brightness}.")
        if self.subject and _groups(self.subject) != 1:
            raise ConfigError(f"subject needs exactly one group in parentheses, got {self.subject!r}.")
        if len({shift.name for shift in self.shifts}) < len(self.shifts):
            raise ConfigError(f"Task {self.name} names a shift twice: {', '.join(one.name for one in self.shifts)}.")
        if not 0 < self.target <= 1:
            raise ConfigError(f"target is a Dice above 0 and at most 1, got {self.target}.")
        if min(self.block, self.steps) < 0 or self.least_pixels < 1:
            raise ConfigError(
                f"block and steps are at least 0 and least_pixels at least 1; got {self.block}, {self.steps} and "
                f"{self.least_pixels}."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the network's outputs; the background is the first."""
        return ("background", *(one.name for one in self.classes))


def _groups(expression: str) -> int:
    try:
        return re.compile(expression).groups
    except re.error as cause:
        raise ConfigError(f"subject {expression!r} is no regular expression: {cause}.") from cause


def _mild() -> AugmentationConfig:
    """Flips and small rotations only, so that networks fail on shifted images as they do in hospitals."""
    return AugmentationConfig(
        affine_p=0.7,
        degrees=(-15.0, 15.0),
        translate=0.05,
        scale=(0.85, 1.15),
        elastic_p=0.0,
        brightness_contrast_p=0.0,
        blur_p=0.0,
        noise_p=0.0,
        sharpness_p=0.0,
    )


@dataclass(frozen=True)
class NetworkTraining:
    """How the networks are trained.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images of a step.
        learning_rate: Of AdamW at its peak; it rises over the first tenth and then falls along a cosine to zero.
        weight_decay: Of AdamW.
        ema_decay: Decay of the averaged parameters, which are the ones written.
        features: Channels of the levels, the finest first.
        seed: Of parameters, order and augmentation.
        checkpoint_every: Steps between checkpoints.
        augmentation: Changes of the training images.

    Raises:
        ConfigError: If a value is refused.
    """

    steps: int = 600
    batch_size: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    ema_decay: float = 0.98
    features: tuple[int, ...] = (16, 32, 64, 128, 128)
    seed: int = 0
    checkpoint_every: int = 100
    augmentation: AugmentationConfig = field(default_factory=_mild)

    def __post_init__(self) -> None:
        """Refuse values no training can use."""
        if min(self.steps, self.batch_size, self.checkpoint_every) < 1 or self.seed < 0:
            raise ConfigError("steps, batch_size and checkpoint_every are at least 1, and seed at least 0.")
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(f"features needs at least two levels of at least one channel, got {self.features}.")
        if not self.learning_rate > 0 or not 0 <= self.ema_decay < 1:
            raise ConfigError(
                f"learning_rate is above 0 and ema_decay in [0, 1); got {self.learning_rate} and {self.ema_decay}."
            )


@dataclass(frozen=True)
class Experiment:
    """Some methods on some images.

    Attributes:
        name: Short, also of the files.
        title: Of its table.
        variants: The methods; their order is that of the tables.
        tasks: Names of tasks.
        shifts: Names of shifts; those that a task does not have are left out for it.
        part: "test", or "tune" to choose parameters.
        images: Most images of a task and shift, of as many subjects as possible.
        rounds: Interactions.
        repetitions: How often an image is gone through, with other strokes.
        axis: What its picture shows along x: "interaction"; or "layers" or "length", which its variants differ in.

    Raises:
        ConfigError: If a value is refused.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    tasks: tuple[str, ...]
    shifts: tuple[str, ...]
    part: str = "test"
    images: int = 6
    rounds: int = 5
    repetitions: int = 1
    axis: str = "interaction"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.axis not in AXES:
            raise ConfigError(f"Experiment {self.name}: axis is one of {', '.join(AXES)}, got {self.axis!r}.")
        names = [variant.name for variant in self.variants]
        if not names or not self.tasks or not self.shifts or len(set(names)) < len(names):
            raise ConfigError(
                f"Experiment {self.name} needs tasks, shifts and variants of different names; got {names}."
            )
        if self.part not in ("tune", "test") or min(self.images, self.rounds, self.repetitions) < 1:
            raise ConfigError(
                f"Experiment {self.name}: part is tune or test, and images, rounds and repetitions are at least 1."
            )


@dataclass(frozen=True)
class StudyConfig:
    """The whole study.

    Attributes:
        tasks: What the networks segment.
        experiments: What is measured.
        training: Of the networks.
        user: Who corrects.
        growth: Of scribbles.
        refinement: "ours" of the variants.
        interactive: Name or path of the network of interactive segmentation.
        far_pixels: Pixels farther than this from every stroke are measured apart.
        seed: Of shifts and strokes.

    Raises:
        ConfigError: If an experiment names no task of the study, or names repeat.
    """

    tasks: tuple[CorrectionTask, ...]
    experiments: tuple[Experiment, ...] = ()
    training: NetworkTraining = field(default_factory=NetworkTraining)
    user: CorrectingUser = field(default_factory=CorrectingUser)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    interactive: str = "scribble-unet-embedded"
    far_pixels: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names that lead nowhere."""
        names = [task.name for task in self.tasks]
        experiments = [experiment.name for experiment in self.experiments]
        for kind, given in (("task", names), ("experiment", experiments)):
            if len(set(given)) < len(given):
                raise ConfigError(f"The study has two {kind}s of one name: {', '.join(given)}.")
        wanted = {name for experiment in self.experiments for name in experiment.tasks}
        if not wanted <= set(names):
            raise ConfigError(f"No task {', '.join(sorted(wanted - set(names)))}; there are {', '.join(names)}.")
        if self.far_pixels < 0 or self.seed < 0:
            raise ConfigError(f"far_pixels and seed are at least 0; got {self.far_pixels} and {self.seed}.")

    def task(self, name: str) -> CorrectionTask:
        """Find a task by name."""
        return next(task for task in self.tasks if task.name == name)


def quick_study(config: StudyConfig) -> StudyConfig:
    """Give the same study with few training steps, two images and two rounds, to see that all of it works."""
    return replace(
        config,
        tasks=tuple(replace(task, steps=0) for task in config.tasks),
        training=replace(config.training, steps=min(config.training.steps, 20)),
        experiments=tuple(
            replace(entry, images=min(entry.images, 2), rounds=min(entry.rounds, 2), repetitions=1)
            for entry in config.experiments
        ),
    )
