"""Pictures of a metric by step: a panel for each procedure, a curve with its interval for each method."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribblesegment.errors import ConfigError, require_package
from scribblesegment.evaluation.picture import short_name
from scribblesegment.evaluation.simulated_summary import MethodCurves, ProcedureSummary
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC_TITLES = {
    "dice": "Dice (higher is better)",
    "hausdorff95_mm": "95 % Hausdorff distance in mm, a pixel taken for 1 x 1 mm (lower is better)",
    "surface_dice": "surface Dice at 1 mm, a pixel taken for 1 x 1 mm (higher is better)",
}

# Distinct also for people who see few colours (Okabe and Ito), and told apart by their marks in black and white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _GRID = "#1a1a1a", "#d9d9d9"
_SHADE = 0.15
_COLUMNS = 3
_PANEL_INCHES = (3.4, 2.7)
_LEGEND_INCHES = 0.75
_DPI = 150


def write_curves(path: str | Path, summaries: Sequence[ProcedureSummary], metric: str) -> None:
    """Draw a metric by step, with 95 % intervals shaded. Procedures of one step have no curve, and are left out.

    Args:
        path: The PNG file to write, whole or not at all.
        summaries: At least one with more than one step.
        metric: A key of `METRIC_TITLES`.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigError: If there is nothing to draw, or no such metric.
        FileFormatError: If the file cannot be written.
    """
    require_package(
        "matplotlib",
        purpose="The picture of curves",
        remedy='It is drawn by matplotlib. Install it with: pip install "scribblesegment[evaluation]".',
    )
    if metric not in METRIC_TITLES:
        raise ConfigError(f"No metric {metric!r}; there are {', '.join(METRIC_TITLES)}.")
    shown = with_curves(summaries)
    if not shown:
        raise ConfigError("There is no curve to draw: no procedure has more than one step.")
    figure = _figure(shown, metric)
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


def with_curves(summaries: Sequence[ProcedureSummary]) -> list[ProcedureSummary]:
    """Give those of more than one step."""
    return [entry for entry in summaries if any(len(method.curves["dice"]) > 1 for method in entry.methods)]


def _figure(summaries: Sequence[ProcedureSummary], metric: str) -> Figure:
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    methods = list(dict.fromkeys(curve.method for entry in summaries for curve in entry.methods))
    columns = min(_COLUMNS, len(summaries))
    rows = ceil(len(summaries) / columns)
    width = max(columns * _PANEL_INCHES[0], 2 * _PANEL_INCHES[0])
    figure = Figure(figsize=(width, rows * _PANEL_INCHES[1] + _LEGEND_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, entry in zip(grid.flat, summaries, strict=False):
        for curve in entry.methods:
            _draw_curve(panel, curve, metric, methods.index(curve.method))
        _dress(panel, f"{entry.procedure}, {entry.examples} examples")
    for panel in list(grid.flat)[len(summaries) :]:
        panel.set_visible(False)
    figure.supylabel(METRIC_TITLES[metric].partition(",")[0].partition(" (")[0], fontsize=10, color=_INK)
    figure.supxlabel("step (1: first prompts; then one correction each)", fontsize=10, color=_INK)
    figure.legend(
        handles=[Line2D([], [], **_style(n), label=short_name(name)) for n, name in enumerate(methods)],
        loc="outside upper center",
        ncols=min(len(methods), 4),
        frameon=False,
        fontsize=10,
        labelcolor=_INK,
    )
    return figure


def _draw_curve(panel: Axes, curve: MethodCurves, metric: str, number: int) -> None:
    estimates = curve.curves[metric]
    steps = range(1, 1 + len(estimates))
    style = _style(number)
    lows, highs = [entry.low for entry in estimates], [entry.high for entry in estimates]
    panel.fill_between(steps, lows, highs, color=style["color"], alpha=_SHADE, linewidth=0)
    panel.plot(steps, [entry.mean for entry in estimates], **style)


def _style(number: int) -> dict[str, Any]:
    """Give how the curve of method `number` looks."""
    color, mark = _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]
    return {"color": color, "marker": mark, "markersize": 4.5, "linewidth": 1.8}


def _dress(panel: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title, fontsize=10, color=_INK)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelsize=9, colors=_INK, length=0)
    panel.grid(axis="y", color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
