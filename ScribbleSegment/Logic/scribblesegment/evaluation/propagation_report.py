"""What the protocol of propagation leaves behind: every result as CSV, the means as tables, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np

from scribblesegment.errors import MissingDependencyError
from scribblesegment.evaluation.hierarchy import hierarchical_bootstrap
from scribblesegment.evaluation.in_context_tables import left_out_lines
from scribblesegment.evaluation.panels import Line, Panel, write_panels
from scribblesegment.evaluation.propagation_protocol import (
    BEYOND,
    CORRECTED,
    CaseResult,
    PropagationResults,
    SliceScore,
)
from scribblesegment.evaluation.report import Report, make_folder
from scribblesegment.evaluation.summary import Estimate, estimate
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text

CASES, SLICES, PROPAGATION_TABLE, BY_POSITION = (
    "propagation_structures.csv",
    "propagation_slices.csv",
    "propagation_table.md",
    "dice_by_position.png",
)
RESAMPLES = 2000

# The extent of a structure is drawn in this many parts.
_PARTS = 10


@dataclass(frozen=True)
class Wins:
    """How often a network is above others.

    Attributes:
        structures: Number of structures, a structure along several axes counted once, with its mean.
        above_all: In how many of them its mean Dice is above that of every other method.
        above_all_between: The same for the slices between annotated ones.
        above: The number by method, for all slices.
    """

    structures: int
    above_all: int
    above_all_between: int
    above: dict[str, int]


def mean_over_structures(
    cases: Sequence[CaseResult], field: str, *, seed: int, resamples: int = RESAMPLES
) -> Estimate | None:
    """Average a field over the axes of each structure, then over structures, which are redrawn for the interval.

    Args:
        cases: Of one method.
        field: Name of a field of `CaseResult`; NaN is left out.
        seed: Of the draws; the same for methods that are compared.
        resamples: How many of them.

    Returns:
        None if there is no value.
    """
    kept = [case for case in cases if not isnan(getattr(case, field))]
    if not kept:
        return None
    values = np.array([getattr(case, field) for case in kept], dtype=np.float64)
    groups = [("all", "all", case.task) for case in kept]
    return estimate(hierarchical_bootstrap(groups, values, np.random.default_rng(seed), resamples)["all"])


def count_wins(results: PropagationResults, network: str) -> Wins:
    """Count in how many structures a network is above all baselines."""
    means = {
        field: {name: _by_structure(results.cases, name, field) for name in (network, *results.baselines)}
        for field in ("dice", "dice_between")
    }
    above_all = {
        field: sum(
            all(own > means[field][name][task] for name in results.baselines)
            for task, own in means[field][network].items()
        )
        for field in means
    }
    return Wins(
        structures=len(means["dice"][network]),
        above_all=above_all["dice"],
        above_all_between=above_all["dice_between"],
        above={
            name: sum(own > means["dice"][name][task] for task, own in means["dice"][network].items())
            for name in results.baselines
        },
    )


def write_propagation(
    folder: str | Path,
    results: PropagationResults,
    rng: np.random.Generator,
    *,
    skipped: Mapping[str, str] | None = None,
) -> Report:
    """Write both files of results, `propagation_table.md` and the picture; each whole or not at all.

    Args:
        folder: Where to; made when missing.
        results: Of at least one structure.
        rng: Source of the bootstrap's draws.
        skipped: Methods that were left out, with the reason.

    Raises:
        FileFormatError: If something cannot be written.
    """
    target = make_folder(folder)
    table = "\n".join([*propagation_lines(results, rng, skipped=skipped), ""])
    files = [target / CASES, target / SLICES, target / PROPAGATION_TABLE]
    write_text(files[0], csv_text(CaseResult, results.cases))
    write_text(files[1], csv_text(SliceScore, results.slices))
    write_text(files[2], table)
    notes = [f"{name} was left out: {reason}" for name, reason in (skipped or {}).items()]
    try:
        write_panels(
            target / BY_POSITION,
            position_panels(results, rng),
            x_title="position in the structure, from its first slice to its last",
            y_title="Dice of slices not annotated",
        )
        files.append(target / BY_POSITION)
    except MissingDependencyError as error:
        notes.append(f"There is no {BY_POSITION}: {error}")
    return Report(table, tuple(files), tuple(notes))


def propagation_lines(
    results: PropagationResults, rng: np.random.Generator, *, skipped: Mapping[str, str] | None = None
) -> list[str]:
    """Give the tables, Markdown."""
    names = (*results.networks, *results.baselines)
    tasks = {case.task for case in results.cases}
    axes, beyond = len(results.cases) // len(names), results.plan.beyond
    seed = int(rng.integers(2**32))
    places = ", ".join(f"{place:.0%}" for place in results.plan.annotated)
    lines = [
        "# Propagation",
        "",
        f"Structures: {len(tasks)}, with their axes: {axes}. Annotated are the slices at {places} of the extent. Mean "
        "Dice of the extent's other slices, over the axes of a structure, then over structures, with 95 % bootstrap "
        f"intervals over structures. False extent: of the {beyond} slices beyond each end, the share in which "
        "something was segmented. Missed extent: the share of slices with the structure in which nothing was.",
        "",
        *_method_table(results, names, seed),
        "",
        "### Dice by set",
        "",
        *_set_table(results, names),
        "",
        "## Above the others",
        "",
        "Share of structures in which the mean Dice is higher.",
        "",
        *_win_table(results),
        "",
        "## One correction",
        "",
        "The slice that is proposed gets its reference, and propagation goes on from its earlier result. Where no "
        "slice is proposed nothing changes.",
        "",
        *_correction_table(results, seed),
    ]
    left_out = left_out_lines(results.left_out)
    if left_out:
        lines += ["", *left_out]
    if skipped:
        lines += ["", "## Methods left out", "", *(f"- {name}: {reason}" for name, reason in skipped.items())]
    return lines


def position_panels(results: PropagationResults, rng: np.random.Generator) -> list[Panel]:
    """Make a panel of all structures and one for each set, with Dice by the position in the extent."""
    own = [score for score in results.slices if score.part != BEYOND]
    panels = [Panel("all structures", _position_lines(own, rng))]
    sets = list(dict.fromkeys(score.set_name for score in own))
    for name in sets if len(sets) > 1 else ():
        panels.append(Panel(name, _position_lines([score for score in own if score.set_name == name], rng)))
    return panels


def _position_lines(scores: Sequence[SliceScore], rng: np.random.Generator) -> list[Line]:
    grouped: dict[str, dict[int, list[SliceScore]]] = {}
    for score in scores:
        name = f"{score.method}, corrected" if score.run == CORRECTED else score.method
        part = min(int(score.position * _PARTS), _PARTS - 1)
        grouped.setdefault(name, {}).setdefault(part, []).append(score)
    lines = []
    for name, parts in grouped.items():
        x, y = [], []
        for part, own in sorted(parts.items()):
            groups = [("all", "all", f"{score.set_name}/{score.volume}/{score.structure}") for score in own]
            values = np.array([score.dice for score in own])
            x.append((part + 0.5) / _PARTS)
            y.append(estimate(hierarchical_bootstrap(groups, values, rng, RESAMPLES)["all"]))
        lines.append(Line(name, x, y))
    return lines


def _method_table(results: PropagationResults, names: Sequence[str], seed: int) -> list[str]:
    header = ["method", "Dice", "between annotated", "outside of them", "false extent", "missed extent", "median s"]
    rows = []
    for name in names:
        own = _of(results.cases, name)
        shown = [
            *(
                _cell(mean_over_structures(own, field, seed=seed), 3)
                for field in ("dice", "dice_between", "dice_outside")
            ),
            *(
                _percent_cell(mean_over_structures(own, field, seed=seed))
                for field in ("false_extent", "missed_extent")
            ),
        ]
        rows.append([name, *shown, f"{np.median([case.seconds for case in own]):.2f}"])
    return table_lines(header, rows)


def _set_table(results: PropagationResults, names: Sequence[str]) -> list[str]:
    sets = list(dict.fromkeys(case.set_name for case in results.cases))
    header, rows = ["method"], [[name] for name in names]
    for set_name in sets:
        cases = [case for case in results.cases if case.set_name == set_name]
        header.append(f"{set_name} ({len({case.task for case in cases})})")
        for row, name in zip(rows, names, strict=True):
            row.append(f"{np.mean(list(_by_structure(cases, name, 'dice').values())):.3f}")
    return table_lines(header, rows)


def _win_table(results: PropagationResults) -> list[str]:
    rows = []
    for name in results.networks:
        wins = count_wins(results, name)
        counts = [wins.above_all, wins.above_all_between, *wins.above.values()]
        rows.append([name, *(f"{count} of {wins.structures} ({count / wins.structures:.0%})" for count in counts)])
    header = ["network", "above all", "above all, between annotated", *(f"above {name}" for name in results.baselines)]
    return table_lines(header, rows)


def _correction_table(results: PropagationResults, seed: int) -> list[str]:
    rows = []
    for name in results.networks:
        own = _of(results.cases, name)
        raised = sum(case.change_elsewhere > 0 for case in own if case.proposed >= 0)
        proposed = sum(case.proposed >= 0 for case in own)
        speeds = [case.slices_per_second for case in own if not isnan(case.slices_per_second)]
        rows.append(
            [
                name,
                f"{proposed} of {len(own)}",
                _cell(mean_over_structures(own, "dice", seed=seed), 3),
                _cell(mean_over_structures(own, "dice_corrected", seed=seed), 3),
                _cell(mean_over_structures(own, "change_elsewhere", seed=seed), 4, signed=True),
                f"{raised} of {proposed}",
                f"{np.median(speeds):.1f}" if speeds else "",
            ]
        )
    header = [
        "network",
        "proposed",
        "Dice before",
        "Dice after",
        "change in the other slices",
        "raised there",
        "slices per second, median",
    ]
    return table_lines(header, rows)


def _of(cases: Sequence[CaseResult], method: str) -> list[CaseResult]:
    return [case for case in cases if case.method == method]


def _by_structure(cases: Sequence[CaseResult], method: str, field: str) -> dict[str, float]:
    """Average a field over the axes of each structure."""
    values: dict[str, list[float]] = {}
    for case in _of(cases, method):
        values.setdefault(case.task, []).append(getattr(case, field))
    return {task: float(np.mean(of_axes)) for task, of_axes in values.items()}


def _cell(value: Estimate | None, digits: int, *, signed: bool = False) -> str:
    if value is None:
        return ""
    mean, low, high = (f"{part:{'+' if signed else ''}.{digits}f}" for part in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _percent_cell(value: Estimate | None) -> str:
    return "" if value is None else f"{value.mean:.0%} [{value.low:.0%}, {value.high:.0%}]"
