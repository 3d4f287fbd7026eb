"""Folders of small images, context sets, and what a batch leaves behind, for tests of batches."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from propagation_phantoms import ball

from scribblesegment.batch.records import FOLDER, RESULTS
from scribblesegment.cli.batch import batch
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file

SHAPE = (9, 12, 14)


def a_ball(radius: float = 4.0):
    return ball(SHAPE, radius)


def write_image(path: Path, structure=None, *, corner: int = 0, value: int | None = None, spacing=(1.0, 1.0, 3.0)):
    """Write a bright structure; `corner` tells the image from others, `value` is put into one voxel of each slice."""
    shown = np.asarray(a_ball() if structure is None else structure)
    array = (100 * shown).astype(np.uint8 if shown.ndim == 2 else np.int16)
    array[..., 0, 0] = corner
    if value is not None:
        array[..., 0, 1] = value
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def a_context(label_name: str = "Ball", *, axis: int | None = 0, bright: bool = True) -> ContextSet:
    structure = a_ball() if bright else ~a_ball(5.0)
    entries = tuple(
        ContextEntry(
            a_ball()[index].astype(np.float32),
            structure[index],
            (1.0, 1.0),
            source="other",
            axis=axis,
            index=None if axis is None else index,
            identifier=f"{label_name.lower()}{index}",
            created="2025-01-31T12:00:00+00:00",
        )
        for index in (3, 4, 6)
    )
    return ContextSet(label_name, entries)


def write_context(path: Path, context: ContextSet | None = None) -> Path:
    write_context_file(path, a_context() if context is None else context)
    return path


@dataclass
class BatchFolders:
    """A folder of images, and what else a batch needs."""

    root: Path

    def __post_init__(self) -> None:
        self.images.mkdir(parents=True, exist_ok=True)
        if not self.context.exists():
            write_context(self.context)
            self.weights.write_bytes(b"parameters")

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def context(self) -> Path:
        return self.root / "ball.context.zip"

    @property
    def weights(self) -> Path:
        return self.root / "network.safetensors"

    def add(self, name: str, structure=None, **options) -> Path:
        return write_image(self.images / name, structure, **options)

    def run(self, load, report=lambda line: None, **changes) -> list[str]:
        """Run the batch, with other options where wanted; returns the lines it printed."""
        options = {"contexts": (str(self.context),), "output": self.output, "model": str(self.weights), "workers": 1}
        options |= {"folder": self.images} | changes
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                batch(**options, load=load)
        finally:
            lines = printed.getvalue().splitlines()
            for line in lines:
                report(line)
        return lines

    def arguments(self, *more: str) -> list[str]:
        """The same as a command line, in this process unless `more` says otherwise."""
        workers = [] if {"--workers", "--scheduler"} & set(more) else ["--workers", "1"]
        return [
            *("batch", str(self.images), "--context", str(self.context), "-o", str(self.output)),
            *("--weights", str(self.weights), *workers, *more),
        ]


def left_behind(output: Path) -> dict[str, bytes]:
    """What must be the same after an interruption: every file but times and records, which hold times too."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in files
        if path.name != "times.csv" and path.parent.name != FOLDER
    }


def table_of(output: Path) -> list[dict[str, str]]:
    import csv

    with open(output / RESULTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
