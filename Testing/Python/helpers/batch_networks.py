"""Stand-ins for networks of a batch. Worker processes import them by name, so they are no part of a test file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from slice_predictors import SlicePredictor

PAUSE = "BATCH_TEST_PAUSE_S"
"""Environment variable: seconds each prediction takes."""

NOTES = "BATCH_TEST_NOTES"
"""Environment variable: folder in which each process notes the corner values of the slices it was shown."""

POISON = 4242
"""Slices with this value end the process of `load_mortal`, are a defect for `load_faulty`, and so on."""

DEADLY_ONCE = 4343
"""Slices with this value end the first process of `load_mortal` that is shown one."""


class Threshold(SlicePredictor):
    """Sees what is on the same side of the mean of its context's inside and outside as the inside."""

    def set_image(self, image, **options):
        if NOTES in os.environ:
            with open(Path(os.environ[NOTES]) / f"{os.getpid()}.txt", "a", encoding="ascii") as notes:
                notes.write(f"{int(image[0, 0])}\n")
        super().set_image(image, **options)

    def see(self, prompts):
        time.sleep(float(os.environ.get(PAUSE, "0")))
        inside = np.mean([entry.image[entry.mask].mean() for entry in self.context])
        outside = np.mean([entry.image[~entry.mask].mean() for entry in self.context])
        return 16.0 * np.sign(inside - outside) * (self.normalized - (inside + outside) / 2)


class Mortal(Threshold):
    """Takes its process along."""

    def set_image(self, image, **options):
        super().set_image(image, **options)
        if (image == POISON).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (image == DEADLY_ONCE).any():
            killed = Path(os.environ[NOTES]) / "killed"
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class Failing(Threshold):
    """Raises an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def set_image(self, image, **options):
        if (image == POISON).any():
            raise self.error
        super().set_image(image, **options)


def load_threshold(weights: Path, /, *, device: str, threads: int) -> Threshold:
    return Threshold()


def load_mortal(weights: Path, /, *, device: str, threads: int) -> Mortal:
    return Mortal()


def load_faulty(weights: Path, /, *, device: str, threads: int) -> Failing:
    return Failing(ZeroDivisionError("a defect"))


def load_greedy(weights: Path, /, *, device: str, threads: int) -> Failing:
    return Failing(MemoryError())


def load_interrupted(weights: Path, /, *, device: str, threads: int) -> Failing:
    return Failing(KeyboardInterrupt())


def load_without_context(weights: Path, /, *, device: str, threads: int) -> SlicePredictor:
    return SlicePredictor(capabilities=("scribbles",))
