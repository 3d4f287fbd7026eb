"""Pictures: means with their intervals in panels side by side, and examples with what methods made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scribblesegment.errors import ConfigError
from scribblesegment.io.storage import atomic_file
from studies.common import Mask, dice
from studies.data import Example

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
_INK, _GRID = "#1a1a1a", "#d9d9d9"
_POSITIVE, _NEGATIVE = (0.16, 0.86, 0.30), (1.00, 0.24, 0.22)
_REFERENCE, _MASK = (1.00, 0.84, 0.10), (0.20, 0.62, 1.00)


def _figure(rows: int, columns: int, *, inches: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """Make a figure without pyplot, which would choose a window system and keep it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(columns, 2) * inches[0], rows * inches[1] + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=150, facecolor="white")


def plot(
    path: Path,
    summary: pd.DataFrame,
    x: str,
    *,
    metric: str = "dice",
    panels: str | None = None,
    x_title: str = "",
    y_title: str = "Dice",
    log_base: float | None = None,
) -> None:
    """Draw a line for each method against a column of numbers, with its intervals shaded.

    Args:
        path: The PNG file to write, whole or not at all.
        summary: As `statistics.summarise` gives it.
        x: The column below.
        metric: What of the summary is drawn.
        panels: The column that divides them into panels; None for one panel.
        x_title: What is below all panels.
        y_title: What is beside them.
        log_base: Of a logarithmic axis below.

    Raises:
        ConfigError: If there is nothing to draw.
        FileFormatError: If the file cannot be written.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    drawn = summary[summary.metric == metric].assign(x=lambda one: pd.to_numeric(one[x])).dropna(subset=["x", "mean"])
    if drawn.empty:
        raise ConfigError("There is no line to draw. Measure something first.")
    parts = [("", drawn)] if panels is None else list(drawn.groupby(panels, sort=False))
    looks = dict(zip(dict.fromkeys(drawn.method), cycle(_LOOKS), strict=False))
    columns = min(3, len(parts))
    figure, grid = _figure(ceil(len(parts) / columns), columns, inches=(3.4, 2.7), sharey=True)
    for area, (title, part) in zip(grid.flat, parts, strict=False):
        for name, line in part.groupby("method", sort=False):
            line, (color, marker) = line.sort_values("x"), looks[name]
            area.fill_between(line.x, line.low, line.high, color=color, alpha=0.15, linewidth=0)
            area.plot(line.x, line["mean"], color=color, marker=marker, markersize=4.5, linewidth=1.8)
        values = sorted(set(part.x))
        if log_base is not None:
            area.set_xscale("log", base=log_base)
            area.set_xticks(values, [f"{value:g}" for value in values])
            area.minorticks_off()
        elif all(value == int(value) for value in values):
            area.xaxis.set_major_locator(MaxNLocator(integer=True))
        area.set_title(str(title), fontsize=10, color=_INK)
        area.tick_params(labelsize=9, colors=_INK, length=0)
        area.grid(axis="y", color=_GRID, linewidth=0.8)
        area.set_axisbelow(True)
        area.spines[["top", "right", "left"]].set_visible(False)
    for area in list(grid.flat)[len(parts) :]:
        area.set_visible(False)
    figure.supxlabel(x_title, fontsize=10, color=_INK)
    figure.supylabel(y_title, fontsize=10, color=_INK)
    handles = [Line2D([], [], color=color, marker=marker, label=name) for name, (color, marker) in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(looks), 4), frameon=False, labelcolor=_INK)
    _save(figure, path)


def plot_predictions(path: Path, examples: Sequence[tuple[Example, Mapping[str, Mask]]]) -> None:
    """Draw examples as rows: strokes, then what each method made of them, all with the reference.

    Args:
        path: The PNG file to write, whole or not at all.
        examples: With strokes, and masks (H, W) by method; all of the same methods.

    Raises:
        ConfigError: If there is nothing to draw.
        FileFormatError: If the file cannot be written.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from scipy.ndimage import binary_dilation

    if not examples or not examples[0][1]:
        raise ConfigError("There is no prediction to draw. Measure something first.")
    methods = list(examples[0][1])
    figure, grid = _figure(len(examples), 1 + len(methods), inches=(2.35, 2.35))
    for line, (example, masks) in zip(grid, examples, strict=True):
        for area, name in zip(line, ("strokes", *methods), strict=True):
            area.imshow(example.image, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            area.set_xticks([])
            area.set_yticks([])
            area.spines[:].set_visible(False)
            outlines = [(example.reference, _REFERENCE)]
            if name in masks:
                _tint(area, masks[name], _MASK, 0.38)
                outlines.insert(0, (masks[name], _MASK))
                text = {"ha": "left", "va": "top", "fontweight": "bold", "color": "white"}
                box = {"boxstyle": "round,pad=0.25", "facecolor": "black", "alpha": 0.65, "linewidth": 0}
                area.text(
                    0.03,
                    0.97,
                    f"{dice(masks[name], example.reference):.2f}",
                    transform=area.transAxes,
                    bbox=box,
                    **text,
                )
            elif example.scribbles is not None:
                positive, negative = example.scribbles > 0
                painted = positive | negative
                # A dark rim, so that strokes stand out on any grey.
                _tint(area, np.asarray(binary_dilation(painted) & ~painted), (0.0, 0.0, 0.0), 0.6)
                _tint(area, negative, _NEGATIVE, 1.0)
                _tint(area, positive, _POSITIVE, 1.0)
            for mask, color in outlines:
                if mask.any() and not mask.all():  # else there is no contour, and matplotlib warns
                    area.contour(mask, levels=[0.5], colors=[color], linewidths=0.8)
            if line is grid[0]:
                area.set_title(name, fontsize=11, color=_INK)
        line[0].set_ylabel(example.task, fontsize=11, fontweight="bold", color=_INK)
    entries = [
        Patch(color=_POSITIVE, label="stroke on the object"),
        Patch(color=_NEGATIVE, label="stroke on the background"),
        Line2D([], [], color=_REFERENCE, linewidth=1.5, label="reference"),
        Patch(facecolor=(*_MASK, 0.38), edgecolor=_MASK, label="prediction, with its Dice"),
    ]
    figure.legend(
        handles=entries, loc="outside lower center", ncols=4 if len(methods) > 2 else 2, frameon=False, labelcolor=_INK
    )
    _save(figure, path)


def _tint(area: Any, mask: Mask, color: tuple[float, float, float], opacity: float) -> None:
    picture = np.zeros((*mask.shape, 4), dtype=np.float32)
    picture[mask] = (*color, opacity)
    area.imshow(picture, interpolation="nearest")
