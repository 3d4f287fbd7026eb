"""What an evaluation leaves behind: every result as CSV, the means as a table, and a picture of predictions."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scribblesegment.atomic_file import atomic_file
from scribblesegment.evaluation.dependencies import MissingDependencyError
from scribblesegment.evaluation.picture import write_predictions
from scribblesegment.evaluation.protocols import Evaluation, ExampleResult
from scribblesegment.evaluation.summary import Estimate, MethodSummary, summarise
from scribblesegment.exceptions import ConfigError, FileFormatError

RESULTS, TABLE, PICTURE = "results.csv", "table.md", "predictions.png"

_DICE = ("Dice (higher is better)", "dice", 3, max)
_HD95 = ("95 % Hausdorff distance in mm, a pixel taken for 1 x 1 mm (lower is better)", "hausdorff95_mm", 1, min)


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


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    rng: np.random.Generator,
    *,
    skipped: Mapping[str, str] | None = None,
) -> Report:
    """Write `results.csv`, `table.md` and `predictions.png`; each whole or not at all.

    Args:
        folder: Where to; made when missing.
        evaluation: What a protocol gave.
        rng: Source of the bootstrap's draws.
        skipped: Methods that were left out, with the reason.

    Raises:
        ConfigError: If there are no results.
        FileFormatError: If something cannot be written.
    """
    target = make_folder(folder)
    table = markdown_table(summarise(evaluation.results, rng), skipped=skipped)
    files = [target / RESULTS, target / TABLE]
    _write_text(files[0], results_csv(evaluation.results))
    _write_text(files[1], table)
    notes = [f"{name} was left out: {reason}" for name, reason in (skipped or {}).items()]
    try:
        write_predictions(target / PICTURE, evaluation.illustrations)
        files.append(target / PICTURE)
    except MissingDependencyError as error:
        notes.append(f"There is no picture: {error}")
    return Report(table, tuple(files), tuple(notes))


def results_csv(results: Sequence[ExampleResult]) -> str:
    """Give one line for each method and example, under the names of `ExampleResult`'s fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(entry.name for entry in dataclasses.fields(ExampleResult))
    writer.writerows(dataclasses.astuple(result) for result in results)
    return text.getvalue()


def markdown_table(summaries: Sequence[MethodSummary], *, skipped: Mapping[str, str] | None = None) -> str:
    """Give tables of methods by tasks, for Dice, Hausdorff distance and time.

    Args:
        summaries: At least one; all of the same tasks.
        skipped: Methods that were left out, with the reason.

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
    for title, metric, digits, best in (_DICE, _HD95):
        lines += ["", f"## {title}", ""]
        columns = {"mean of tasks": [getattr(summary.overall, metric) for summary in summaries]}
        for task in summaries[0].tasks:
            columns[task] = [getattr(summary.tasks[task], metric) for summary in summaries]
        cells = [_column(column, digits, best([estimate.mean for estimate in column])) for column in columns.values()]
        lines += _table(["method", *columns], [[s.method, *row] for s, *row in zip(summaries, *cells, strict=True)])
    lines += ["", "## Time", ""]
    lines += _table(["method", "median ms"], [[s.method, f"{1000 * s.seconds:.0f}"] for s in summaries])
    if skipped:
        lines += ["", "## Left out", "", *(f"- {name}: {reason}" for name, reason in skipped.items())]
    return "\n".join(lines) + "\n"


def _column(estimates: Sequence[Estimate], digits: int, best: float) -> list[str]:
    cells = []
    for estimate in estimates:
        mean = f"{estimate.mean:.{digits}f}"
        shown = f"**{mean}**" if mean == f"{best:.{digits}f}" else mean
        cells.append(f"{shown} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]")
    return cells


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table so that it also reads well as plain text."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in escaped
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path, path.suffix) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
