"""Pictures of means with their intervals: panels side by side, the same lines in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from scribblesegment.errors import ConfigError, require_package
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with any colour vision tell apart; markers say the same in black and white.
_LOOKS = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
_INK, _GRID, _SHADE = "#1a1a1a", "#d9d9d9", 0.15
_COLUMNS, _PANEL_INCHES, _LEGEND_INCHES, _DPI = 3, (3.4, 2.7), 0.6, 150


@dataclass(frozen=True)
class Line:
    """Means of one name, by ascending x."""

    name: str
    x: Sequence[float]
    y: Sequence[Estimate]


@dataclass(frozen=True)
class Panel:
    """One panel with its lines."""

    title: str
    lines: Sequence[Line]


def write_panels(
    path: str | Path, panels: Sequence[Panel], *, x_title: str, y_title: str, doubling: bool = False
) -> None:
    """Draw lines with their intervals shaded; a name looks the same in every panel.

    Args:
        path: The PNG file to write, whole or not at all.
        panels: At least one with a line.
        x_title: What is below all panels.
        y_title: What is beside them.
        doubling: Whether each step along x is twice the last one.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigError: If there is no line.
        FileFormatError: If the file cannot be written.
    """
    require_package(
        "matplotlib",
        purpose="The picture of curves",
        remedy='It is drawn by matplotlib. Install it with: pip install "scribblesegment[evaluation]".',
    )
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    if not names:
        raise ConfigError("There is no line to draw. Measure something first.")
    looks = dict(zip(names, cycle(_LOOKS), strict=False))
    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    size = (max(columns, 2) * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + _LEGEND_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for area, panel in zip(axes, panels, strict=False):
        _draw(area, panel, looks, doubling=doubling)
    for area in axes[len(panels) :]:
        area.set_visible(False)
    figure.supxlabel(x_title, fontsize=10, color=_INK)
    figure.supylabel(y_title, fontsize=10, color=_INK)
    handles = [Line2D([], [], color=color, marker=marker, label=name) for name, (color, marker) in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(names), 4), frameon=False, labelcolor=_INK)
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


def _draw(area: Axes, panel: Panel, looks: Mapping[str, tuple[str, str]], *, doubling: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in panel.lines:
        color, marker = looks[line.name]
        area.fill_between(
            line.x, [y.low for y in line.y], [y.high for y in line.y], color=color, alpha=_SHADE, linewidth=0
        )
        area.plot(line.x, [y.mean for y in line.y], color=color, marker=marker, markersize=4.5, linewidth=1.8)
    values = sorted({x for line in panel.lines for x in line.x})
    if all(x == int(x) for x in values):
        area.xaxis.set_major_locator(MaxNLocator(integer=True))
    if doubling:
        area.set_xscale("log", base=2)
        area.set_xticks(values, [f"{x:g}" for x in values])
        area.minorticks_off()
    area.set_title(panel.title, fontsize=10, color=_INK)
    area.tick_params(labelsize=9, colors=_INK, length=0)
    area.grid(axis="y", color=_GRID, linewidth=0.8)
    area.set_axisbelow(True)
    area.spines[["top", "right", "left"]].set_visible(False)
