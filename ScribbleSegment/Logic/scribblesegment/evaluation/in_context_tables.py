"""Tables of the experiments in context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from scribblesegment.evaluation.in_context_sequences import Sequences
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, Sizes
from scribblesegment.evaluation.in_context_summary import ProcedureSequences, SequenceSummary, SizePoint, points_of
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.simulated import TARGET_DICE
from scribblesegment.evaluation.simulated_tables import failure_lines
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.evaluation.tables import table_lines

# Columns of a long sequence; the last example is always one.
_SHOWN_EXAMPLES = (1, 2, 3, 5, 7, 10, 13, 16, 18)


def sequence_lines(sequences: Sequences, summaries: Sequence[ProcedureSequences]) -> list[str]:
    """Give the part of a report, Markdown, that is about sequences."""
    plan = sequences.plan
    percent = round(100 * TARGET_DICE)
    sure = f" and expects a Dice of {plan.least_confidence:g}" if plan.least_confidence > 0 else ""
    lines = [
        "# Image after image, in context",
        "",
        f"The images of a task in random order, each until {percent} % Dice, or until step {plan.scribble_steps} by "
        f"scribbles and {plan.click_steps} by clicks. Predictions join the context, which begins with one image that "
        f"{sequences.alone} segmented and that does not count. Where a method predicts from the context alone{sure}, "
        "that prediction is shown first, and an image that is good enough takes 0 steps. Means over tasks, each gone "
        f"through {_times(plan.simulations)}, with 95 % bootstrap intervals over tasks.",
    ]
    for summary in summaries:
        lines += ["", *_procedure_lines(summary, sequences)]
    if sequences.unable:
        lines += ["", "## Left out of a procedure", ""]
        lines += [
            f"- {method} does not understand {PROCEDURES[procedure].prompts}: not in {procedure}."
            for procedure, method in sequences.unable
        ]
    failures = {f"{m.method}, {summary.procedure}": m.failures for summary in summaries for m in summary.methods}
    shown = failure_lines(failures)
    return [*lines, "", *shown] if shown else lines


def _procedure_lines(summary: ProcedureSequences, sequences: Sequences) -> list[str]:
    images = sequences.plan.images
    lines = [f"## {summary.procedure}", "", f"Tasks: {summary.tasks}.", ""]
    header = [
        "method",
        f"steps for {images} images",
        f"change against {sequences.alone}",
        "worst set",
        "0 steps",
        "never",
        "Dice",
        "HD95, mm",
        "median s an image",
    ]
    rows = [
        [
            m.method,
            _number(m.steps, 1),
            *(("", "") if m.method == sequences.alone else (_percent(m.change, signed=True), _worst(m))),
            _percent(m.without_steps),
            _percent(m.never),
            _number(m.dice, 3),
            _number(m.hausdorff95_mm, 1),
            f"{m.seconds:.2f}",
        ]
        for m in summary.methods
    ]
    lines += table_lines(header, rows)
    sets = summary.methods[0].sets
    rows = [
        [m.method, *(_set_cell(m, name, alone=m.method == sequences.alone) for name in sets)] for m in summary.methods
    ]
    header = ["method", *(f"{name} ({total.tasks})" for name, total in sets.items())]
    lines += ["", "### Steps by set (number of its tasks)", "", *table_lines(header, rows)]
    shown = sorted({one for one in _SHOWN_EXAMPLES if one <= images} | {images})
    rows = [[m.method, *(_number(m.by_example[one - 1], 1) for one in shown)] for m in summary.methods]
    lines += ["", "### Steps by example", ""]
    return lines + table_lines(["method", *map(str, shown)], rows)


def _worst(summary: SequenceSummary) -> str:
    return f"{summary.worst_set} {100 * summary.sets[summary.worst_set].change:+.0f}%"


def _set_cell(summary: SequenceSummary, name: str, *, alone: bool) -> str:
    total = summary.sets[name]
    return f"{total.steps:.1f}" if alone else f"{total.steps:.1f} ({100 * total.change:+.0f}%)"


def size_lines(sizes: Sizes, points: Sequence[SizePoint]) -> list[str]:
    """Give the part of a report, Markdown, that is about the number of context entries."""
    plan = sizes.plan
    lines = [
        "# Dice by context size",
        "",
        "Contexts of random images of other subjects with their reference masks, a smaller one being part of a larger "
        f"one; {plan.targets} targets of each task, the context of each drawn {_times(plan.draws)}. Means over "
        "subjects, tasks and sets, with 95 % bootstrap intervals over subjects.",
    ]
    alone = [point for point in points if point.procedure == CONTEXT_ALONE]
    if alone:
        lines += ["", "## From the context alone", "", *_alone_table(alone)]
    for procedure in plan.procedures:
        corrected = [point for point in points if point.procedure == procedure]
        if corrected:
            lines += ["", f"## {procedure}", "", *_step_table(points, corrected, procedure)]
    return lines


def _alone_table(points: Sequence[SizePoint]) -> list[str]:
    sizes = sorted({point.size for point in points})
    by_place: Mapping[tuple[str, int], SizePoint] = {(point.method, point.size): point for point in points}
    tasks = {size: max(point.tasks for point in points if point.size == size) for size in sizes}
    rows = [
        [method, *(_dice_cell(by_place.get((method, size))) for size in sizes)]
        for method in dict.fromkeys(point.method for point in points)
    ]
    seconds = [
        [f"{method}, median s", *(_seconds_cell(by_place.get((method, size))) for size in sizes)]
        for method in dict.fromkeys(point.method for point in points)
    ]
    header = ["entries (number of tasks)", *(f"{size} ({tasks[size]})" for size in sizes)]
    return table_lines(header, [*rows, *seconds])


def _step_table(points: Sequence[SizePoint], corrected: Sequence[SizePoint], procedure: str) -> list[str]:
    steps = range(max(point.step for point in corrected) + 1)
    rows = []
    for method, size in dict.fromkeys((point.method, point.size) for point in corrected):
        at_step = {point.step: point for point in points_of(points, method, procedure, size)}
        tasks = max(point.tasks for point in at_step.values())
        rows.append([method, f"{size} ({tasks})", *(_dice_cell(at_step.get(step)) for step in steps)])
    return table_lines(["method", "entries (tasks)", *(f"step {step}" for step in steps)], rows)


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """List tasks that were left out, and why."""
    return ["## Tasks left out", "", *(f"- {name}: {reason}." for name, reason in left_out.items())] if left_out else []


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _number(value: Estimate, digits: int) -> str:
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _percent(value: Estimate, *, signed: bool = False) -> str:
    mean, low, high = (f"{100 * part:{'+' if signed else ''}.0f}" for part in (value.mean, value.low, value.high))
    return f"{mean}% [{low}, {high}]"


def _dice_cell(point: SizePoint | None) -> str:
    return "" if point is None else _number(point.dice, 3)


def _seconds_cell(point: SizePoint | None) -> str:
    return "" if point is None or isnan(point.seconds) else f"{point.seconds:.2f}"
