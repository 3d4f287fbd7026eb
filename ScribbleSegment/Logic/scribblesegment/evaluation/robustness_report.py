"""What a measurement of robustness leaves behind: every result as CSV, the means as tables, and a plot per factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribblesegment.errors import ConfigError, MissingDependencyError, require_package
from scribblesegment.evaluation.picture import short_name
from scribblesegment.evaluation.report import Report, make_folder
from scribblesegment.evaluation.robustness import (
    FACTORS,
    Factor,
    Level,
    RobustnessResult,
    find_factors,
    summarise_robustness,
)
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS, TABLE, PLOTS = "results.csv", "table.md", "robustness.png"

Summary = Mapping[str, Mapping[Level, Mapping[str, Estimate]]]
"""As `summarise_robustness` gives it: by factor, level and method."""

# Okabe and Ito's palette, which people with any colour vision tell apart; markers and dashes say the same again.
_LOOKS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
)
_INK, _RULE, _RULE_POINTS = "#1a1a1a", "#bbbbbb", 1.5

_COLUMNS, _WIDTH_INCHES, _ROW_INCHES, _LEGEND_INCHES, _DPI = 4, 8.0, 2.15, 0.35, 150


def write_robustness(
    folder: str | Path,
    results: Sequence[RobustnessResult],
    rng: np.random.Generator,
    *,
    skipped: Mapping[str, str] | None = None,
) -> Report:
    """Write `results.csv`, `table.md` and `robustness.png`; each whole or not at all.

    Args:
        folder: Where to; made when missing.
        results: What was measured.
        rng: Source of the bootstrap's draws.
        skipped: Methods that were left out, with the reason.

    Raises:
        ConfigError: If there are no results.
        FileFormatError: If something cannot be written.
    """
    target = make_folder(folder)
    summary = summarise_robustness(results, rng)
    table = robustness_table(summary, skipped=skipped)
    files = [target / RESULTS, target / TABLE]
    write_text(files[0], csv_text(RobustnessResult, results))
    write_text(files[1], table)
    notes = [f"{name} was left out: {reason}" for name, reason in (skipped or {}).items()]
    try:
        plot_robustness(target / PLOTS, summary)
        files.append(target / PLOTS)
    except MissingDependencyError as error:
        notes.append(f"There are no plots: {error}")
    return Report(table, tuple(files), tuple(notes))


def robustness_table(summary: Summary, *, skipped: Mapping[str, str] | None = None) -> str:
    """Give a table of methods by levels for each factor, Markdown.

    Args:
        summary: Of at least one factor.
        skipped: Methods that were left out, with the reason.

    Raises:
        ConfigError: If there is no factor.
    """
    _require_factors(summary)
    standard = ", ".join(f"{factor.title.lower()} {_shown(factor, factor.default)}" for factor in FACTORS)
    lines = [
        "# Robustness",
        "",
        "Dice of one prediction from simulated centerline strokes, the same for every method, one thing changed at a "
        f"time. Means over sets, with 95 % bootstrap intervals over subjects. The others stay at: {standard}.",
    ]
    for name, levels in summary.items():
        (factor,) = find_factors([name])
        methods = list(next(iter(levels.values())))
        lines += ["", f"## {factor.title} ({factor.unit})", ""]
        header = ["method", *(_shown(factor, level) for level in levels)]
        lines += table_lines(
            header, [[method, *(_cell(levels[level][method]) for level in levels)] for method in methods]
        )
    if skipped:
        lines += ["", "## Left out", "", *(f"- {name}: {reason}" for name, reason in skipped.items())]
    return "\n".join(lines) + "\n"


def plot_robustness(path: str | Path, summary: Summary) -> None:
    """Draw Dice against the levels of each factor, with intervals; the level of all other plots is a grey line.

    Args:
        path: The PNG file to write, whole or not at all.
        summary: Of at least one factor and at most six methods.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigError: If there is no factor, or more methods than can be told apart.
        FileFormatError: If the file cannot be written.
    """
    require_package(
        "matplotlib",
        purpose="The plots of robustness",
        remedy='They are drawn by matplotlib. Install it with: pip install "scribblesegment[evaluation]".',
    )
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    factors = _require_factors(summary)
    methods = list(next(iter(summary[factors[0].name].values())))
    if len(methods) > len(_LOOKS):
        raise ConfigError(f"{len(methods)} lines in one plot cannot be told apart; compare at most {len(_LOOKS)}.")
    columns = min(_COLUMNS, len(factors))
    rows = -(-len(factors) // columns)
    size = (_WIDTH_INCHES * columns / _COLUMNS, rows * _ROW_INCHES + _LEGEND_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for n, panel in enumerate(axes.flat):
        if n < len(factors):
            _plot_factor(panel, factors[n], summary[factors[n].name])
            if n % columns == 0:
                panel.set_ylabel("mean Dice", fontsize=8, color=_INK)
        else:
            panel.set_axis_off()
    handles, names = axes.flat[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=_RULE, linewidth=_RULE_POINTS))
    names.append("level in the other plots")
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


def _plot_factor(panel: Axes, factor: Factor, levels: Mapping[Level, Mapping[str, Estimate]]) -> None:
    values = [float(level) for level in levels]
    panel.axvline(float(factor.default), color=_RULE, linewidth=_RULE_POINTS, zorder=0)
    for n, method in enumerate(next(iter(levels.values()))):
        color, marker, dashes = _LOOKS[n]
        estimates = [levels[level][method] for level in levels]
        panel.fill_between(
            values,
            [estimate.low for estimate in estimates],
            [estimate.high for estimate in estimates],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
        panel.plot(
            values,
            [estimate.mean for estimate in estimates],
            color=color,
            marker=marker,
            linestyle=dashes,
            linewidth=1.6,
            markersize=4,
            label=short_name(method),
        )
    if factor.logarithmic:
        panel.set_xscale("log", base=2)
    panel.set_xticks(values, [_shown(factor, level) for level in levels])
    panel.minorticks_off()
    panel.margins(x=0.08 if len(values) > 2 else 0.5)
    panel.set_ylim(0, 1)
    panel.set_title(factor.title, fontsize=9, color=_INK)
    panel.set_xlabel(factor.unit, fontsize=8, color=_INK)
    panel.tick_params(labelsize=8, colors=_INK)
    panel.grid(axis="y", color=_RULE, linewidth=0.5, alpha=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _require_factors(summary: Summary) -> tuple[Factor, ...]:
    if not summary:
        raise ConfigError("There is nothing to show. Measure something first.")
    return find_factors(list(summary))


def _shown(factor: Factor, level: Level) -> str:
    """Give a level as it is read: yes and no, percent, a fraction, or the number."""
    if isinstance(level, bool):
        return "yes" if level else "no"
    if factor.name == "contrast" and level < 1:
        return f"1/{1 / level:g}"
    return f"{100 * level:g} %" if factor.name == "off_target" else f"{level:g}"


def _cell(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
