"""Tables of the simulated protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from scribblesegment.evaluation.curves import METRIC_TITLES
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.simulated import TARGET_DICE, Simulation, SimulationPlan
from scribblesegment.evaluation.simulated_summary import ProcedureSummary
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.evaluation.tables import table_lines

# Columns of a long procedure; the last step is always one.
_SHOWN_STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 20)

_DIGITS = {"dice": 3, "hausdorff95_mm": 1, "surface_dice": 3}
_LOWER_IS_BETTER = frozenset({"hausdorff95_mm"})


def simulated_lines(simulation: Simulation, summaries: Sequence[ProcedureSummary]) -> list[str]:
    """Give the part of a report, Markdown, that is about simulated prompts."""
    plan = simulation.plan
    lines = [
        "# Simulated prompts",
        "",
        "Step 1 are the first prompts, the same for every method; every further step adds one correction, drawn in "
        "that method's own error with the same random seed. Means over the examples of a subject, the subjects of a "
        "task, the tasks of a set, then the sets, every set counting the same, with 95 % bootstrap intervals over "
        "subjects.",
    ]
    for summary in summaries:
        lines += ["", *_procedure_lines(summary, plan)]
    counted = [summary for summary in summaries if any(method.to_target for method in summary.methods)]
    if counted:
        lines += ["", *_target_lines(counted, plan)]
    if simulation.unable:
        lines += ["", "## Left out of a procedure", ""]
        lines += [
            f"- {method} cannot start from {PROCEDURES[procedure].prompts} alone: not in {procedure}."
            for procedure, method in simulation.unable
        ]
    return lines


def failure_lines(failures: Mapping[str, Mapping[str, int]]) -> list[str]:
    """List how often and why methods failed.

    Args:
        failures: By method and then by reason, how many predictions failed.
    """
    entries = [
        f"- {method}, {count} prediction{'s' if count > 1 else ''}: {reason}"
        for method, reasons in failures.items()
        for reason, count in reasons.items()
    ]
    if not entries:
        return []
    return [
        "## Failures",
        "",
        "Nothing could be made of the prompts. The last mask was measured again, an empty one before the first.",
        "",
        *entries,
    ]


def _procedure_lines(summary: ProcedureSummary, plan: SimulationPlan) -> list[str]:
    procedure = PROCEDURES[summary.procedure]
    text = f"{summary.examples} examples"
    if plan.repetitions > 1:
        text += f", each {plan.repetitions} times"
    text += f". Step 1: {procedure.start}."
    if procedure.correction:
        text += f" Each further step: {procedure.correction}."
    lines = [f"## {summary.procedure}", "", text]
    steps = len(summary.methods[0].curves["dice"])
    shown = sorted({step for step in _SHOWN_STEPS if step <= steps} | {steps})
    for metric, title in METRIC_TITLES.items():
        columns = {
            f"step {step}": cells([m.curves[metric][step - 1] for m in summary.methods], metric) for step in shown
        }
        rows = [[m.method, *(column[n] for column in columns.values())] for n, m in enumerate(summary.methods)]
        lines += ["", f"### {title[0].upper()}{title[1:]}", "", *table_lines(["method", *columns], rows)]
    sets = list(summary.methods[0].sets)
    rows = [
        [m.method, *(f"{m.sets[name]['dice'][-1]:.3f}" for name in sets), _milliseconds(m.seconds)]
        for m in summary.methods
    ]
    lines += ["", f"### Dice after step {steps} by set, and time", ""]
    return lines + table_lines(["method", *sets, "median ms"], rows)


def _target_lines(summaries: Sequence[ProcedureSummary], plan: SimulationPlan) -> list[str]:
    percent = round(100 * TARGET_DICE)
    lines = [
        f"## Interactions to {percent} % Dice (NoI{percent})",
        "",
        f"Number of steps until the Dice is first {TARGET_DICE} or more; step 1 are the first prompts. An example that "
        f"has not arrived by step {plan.most_steps} counts as {plan.most_steps}, and as one that never does.",
        "",
    ]
    rows = [
        [
            summary.procedure,
            m.method,
            f"{m.to_target.steps.mean:.1f} [{m.to_target.steps.low:.1f}, {m.to_target.steps.high:.1f}]",
            f"{m.to_target.never.mean:.0%} [{m.to_target.never.low:.0%}, {m.to_target.never.high:.0%}]",
        ]
        for summary in summaries
        for m in summary.methods
        if m.to_target is not None
    ]
    return lines + table_lines(["procedure", "method", "steps", "never"], rows)


def cells(estimates: Sequence[Estimate], metric: str) -> list[str]:
    """Show means of a metric with their intervals, in bold what looks like the best."""
    digits = _DIGITS[metric]
    best = (min if metric in _LOWER_IS_BETTER else max)(entry.mean for entry in estimates)
    return [_cell(entry, digits, best=f"{best:.{digits}f}") for entry in estimates]


def _cell(entry: Estimate, digits: int, *, best: str) -> str:
    mean = f"{entry.mean:.{digits}f}"
    shown = f"**{mean}**" if mean == best else mean
    return f"{shown} [{entry.low:.{digits}f}, {entry.high:.{digits}f}]"


def _milliseconds(seconds: float) -> str:
    return "" if isnan(seconds) else f"{1000 * seconds:.0f}"
