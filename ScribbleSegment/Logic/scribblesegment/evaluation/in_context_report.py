"""What the experiments in context leave behind: every result as CSV, the means as tables, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, MissingDependencyError
from scribblesegment.evaluation.in_context_sequences import SequenceResult, Sequences
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, SizeResult, Sizes
from scribblesegment.evaluation.in_context_summary import (
    ProcedureSequences,
    SizePoint,
    points_of,
    summarise_sequences,
    summarise_sizes,
)
from scribblesegment.evaluation.in_context_tables import left_out_lines, sequence_lines, size_lines
from scribblesegment.evaluation.panels import Line, Panel, write_panels
from scribblesegment.evaluation.report import Report, make_folder
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.evaluation.tables import csv_text, write_text

SEQUENCE_RESULTS, SIZE_RESULTS, IN_CONTEXT_TABLE = (
    "in_context_sequences.csv",
    "in_context_sizes.csv",
    "in_context_table.md",
)
BY_EXAMPLE, BY_SIZE, BY_STEP = (
    "steps_by_example_{procedure}.png",
    "dice_by_context_size.png",
    "dice_by_step_in_context.png",
)


@dataclass
class _Pictures:
    """Pictures, as they are drawn; without matplotlib there are none, and a note says so."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, panels: Sequence[Panel], *, x_title: str, y_title: str, doubling: bool = False) -> None:
        if not any(panel.lines for panel in panels):
            return
        try:
            write_panels(self.folder / name, panels, x_title=x_title, y_title=y_title, doubling=doubling)
            self.written.append(self.folder / name)
        except MissingDependencyError as error:
            self.notes.append(f"There is no {name}: {error}")


def write_in_context(
    folder: str | Path,
    rng: np.random.Generator,
    *,
    sequences: Sequences | None = None,
    sizes: Sizes | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Report:
    """Write a file of results for each experiment, `in_context_table.md` and the pictures; each whole or not at all.

    Args:
        folder: Where to; made when missing.
        rng: Source of the bootstrap's draws.
        sequences: What going through images gave.
        sizes: What contexts of several sizes gave.
        left_out: Tasks that were left out, with the reason.

    Raises:
        ConfigError: If there are no results.
        FileFormatError: If something cannot be written.
    """
    if sequences is None and sizes is None:
        raise ConfigError("There are no results to report. Run an experiment first.")
    target = make_folder(folder)
    pictures = _Pictures(target)
    parts: list[list[str]] = []
    files: list[Path] = []
    if sequences is not None:
        summaries = summarise_sequences(sequences, rng)
        parts.append(sequence_lines(sequences, summaries))
        write_text(target / SEQUENCE_RESULTS, csv_text(SequenceResult, sequences.results))
        files.append(target / SEQUENCE_RESULTS)
        for summary in summaries:
            name = BY_EXAMPLE.format(procedure=summary.procedure)
            pictures.add(name, _by_example(summary), x_title="example", y_title=f"steps, {summary.procedure}")
    if sizes is not None:
        points = summarise_sizes(sizes, rng)
        parts.append(size_lines(sizes, points))
        write_text(target / SIZE_RESULTS, csv_text(SizeResult, sizes.results))
        files.append(target / SIZE_RESULTS)
        pictures.add(BY_SIZE, [_by_size(points)], x_title="context entries", y_title="Dice", doubling=True)
        pictures.add(BY_STEP, _by_step(sizes, points), x_title="step (0: from the context alone)", y_title="Dice")
    parts.append(left_out_lines(left_out or {}))
    table = "\n".join("\n".join([*part, ""]) for part in parts if part)
    write_text(target / IN_CONTEXT_TABLE, table)
    return Report(table, (*files, target / IN_CONTEXT_TABLE, *pictures.written), tuple(pictures.notes))


def _by_example(summary: ProcedureSequences) -> list[Panel]:
    """Make a panel of all tasks, and one for each set if there are several."""
    numbers = range(1, 1 + len(summary.methods[0].by_example))
    panels = [Panel("mean of all tasks", [Line(m.method, numbers, m.by_example) for m in summary.methods])]
    sets = summary.methods[0].sets
    for name in sets if len(sets) > 1 else ():
        lines = []
        for m in summary.methods:
            means = m.sets[name].by_example
            lines.append(Line(m.method, numbers, [Estimate(mean, mean, mean) for mean in means]))
        panels.append(Panel(name, lines))
    return panels


def _by_size(points: Sequence[SizePoint]) -> Panel:
    alone = [point for point in points if point.procedure == CONTEXT_ALONE]
    lines = []
    for method in dict.fromkeys(point.method for point in alone):
        own = sorted((point for point in alone if point.method == method), key=lambda point: point.size)
        lines.append(Line(method, [point.size for point in own], [point.dice for point in own]))
    return Panel("from the context alone", lines)


def _by_step(sizes: Sizes, points: Sequence[SizePoint]) -> list[Panel]:
    """Make a panel for each procedure and method that looks at context, a line for each number of entries."""
    panels = []
    corrected = [point for point in points if point.procedure != CONTEXT_ALONE]
    for procedure in dict.fromkeys(point.procedure for point in corrected):
        for method in dict.fromkeys(point.method for point in corrected if point.method != sizes.alone):
            lines = []
            for name, size in [(sizes.alone, 0), *((method, size) for size in sizes.plan.corrected_sizes)]:
                own = points_of(points, name, procedure, size)
                if any(point.procedure == procedure for point in own):
                    entries = "1 entry" if size == 1 else f"{size} entries"
                    title = sizes.alone if name == sizes.alone else entries
                    lines.append(Line(title, [point.step for point in own], [point.dice for point in own]))
            panels.append(Panel(f"{procedure}, {method}", lines))
    return panels
