"""What an evaluation leaves behind: every result as CSV, the means as tables, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, FileFormatError, MissingDependencyError
from scribblesegment.evaluation.curves import METRIC_TITLES, with_curves, write_curves
from scribblesegment.evaluation.picture import write_predictions
from scribblesegment.evaluation.protocols import Evaluation, ExampleResult
from scribblesegment.evaluation.simulated import Simulation, StepResult
from scribblesegment.evaluation.simulated_summary import ProcedureSummary, summarise_simulation
from scribblesegment.evaluation.simulated_tables import cells, failure_lines, simulated_lines
from scribblesegment.evaluation.summary import MethodSummary, summarise
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text

MANUAL_RESULTS, STEP_RESULTS, TABLE, PICTURE = (
    "manual_scribbles.csv",
    "simulated_steps.csv",
    "table.md",
    "predictions.png",
)
CURVES = {
    "dice": "dice_by_step.png",
    "hausdorff95_mm": "hd95_by_step.png",
    "surface_dice": "surface_dice_by_step.png",
}


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        table: The text of the table, Markdown.
        files: The files, all of them there.
        notes: What is missing and why, one line each.
    """

    table: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def make_folder(folder: str | Path) -> Path:
    """Make the folder of a report, so that a bad one is known before hours of work.

    Raises:
        FileFormatError: If it cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise FileFormatError(f"Cannot make the folder {path}: {cause.strerror}. Choose another.") from cause
    return path


@dataclass
class _Files:
    """What is written, as it is written."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        write(self.folder / name)
        self.written.append(self.folder / name)

    def add_picture(self, name: str, write: Callable[[Path], None]) -> None:
        try:
            self.add(name, write)
        except MissingDependencyError as error:
            self.notes.append(f"There is no {name}: {error}")


def write_report(
    folder: str | Path,
    rng: np.random.Generator,
    *,
    manual: Evaluation | None = None,
    simulation: Simulation | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Report:
    """Write a file of results for each protocol, `table.md` and the pictures; each whole or not at all.

    Args:
        folder: Where to; made when missing.
        rng: Source of the bootstrap's draws.
        manual: What the protocol of manual scribbles gave.
        simulation: What the simulated protocols gave.
        skipped: Methods that were left out, with the reason.

    Raises:
        ConfigError: If there are no results.
        FileFormatError: If something cannot be written.
    """
    files = _Files(make_folder(folder))
    files.notes += [f"{name} was left out: {reason}" for name, reason in (skipped or {}).items()]
    parts: list[list[str]] = []
    if manual is not None:
        summaries = summarise(manual.results, rng)
        parts.append(manual_lines(summaries))
        parts.append(failure_lines({entry.method: entry.failures for entry in summaries}))
        files.add(MANUAL_RESULTS, lambda path: write_text(path, csv_text(ExampleResult, manual.results)))
    curves: list[ProcedureSummary] = []
    if simulation is not None:
        curves = summarise_simulation(simulation, rng)
        parts.append(simulated_lines(simulation, curves))
        parts += [_failures_of(entry) for entry in curves]
        files.add(STEP_RESULTS, lambda path: write_text(path, csv_text(StepResult, simulation.results)))
    if not parts:
        raise ConfigError("There are no results to report. Run a protocol first.")
    if skipped:
        parts.append(["## Left out", "", *(f"- {name}: {reason}" for name, reason in skipped.items())])
    table = "\n".join("\n".join([*part, ""]) for part in parts if part)
    files.add(TABLE, lambda path: write_text(path, table))
    if manual is not None:
        files.add_picture(PICTURE, lambda path: write_predictions(path, manual.illustrations))
    if with_curves(curves):
        for metric, name in CURVES.items():
            files.add_picture(name, partial(write_curves, summaries=curves, metric=metric))
    return Report(table, tuple(files.written), tuple(files.notes))


def manual_lines(summaries: Sequence[MethodSummary]) -> list[str]:
    """Give tables of methods by tasks, Markdown, for each metric and for time.

    Args:
        summaries: At least one; all of the same tasks.

    Raises:
        ConfigError: If there are no summaries.
    """
    if not summaries:
        raise ConfigError("There are no results to tabulate. Run a protocol first.")
    lines = [
        "# Manual scribbles",
        "",
        f"One prediction from all strokes of one annotator on one image; {summaries[0].examples} examples for each "
        "method. Means, with 95 % bootstrap intervals over images; in the mean of tasks every task counts the same.",
    ]
    for metric, title in METRIC_TITLES.items():
        columns = {"mean of tasks": [getattr(summary.overall, metric) for summary in summaries]}
        for task in summaries[0].tasks:
            columns[task] = [getattr(summary.tasks[task], metric) for summary in summaries]
        texts = [cells(column, metric) for column in columns.values()]
        rows = [[summary.method, *row] for summary, *row in zip(summaries, *texts, strict=True)]
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *table_lines(["method", *columns], rows)]
    lines += ["", "## Time", ""]
    return lines + table_lines(["method", "median ms"], [[s.method, f"{1000 * s.seconds:.0f}"] for s in summaries])


def _failures_of(summary: ProcedureSummary) -> list[str]:
    lines = failure_lines({entry.method: entry.failures for entry in summary.methods})
    return [lines[0] + f", {summary.procedure}", *lines[1:]] if lines else []
