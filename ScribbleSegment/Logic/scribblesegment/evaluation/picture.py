"""A picture of predictions: a row for each task, a column for each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError, require_package
from scribblesegment.evaluation.baselines import Mask
from scribblesegment.evaluation.protocols import Illustration
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Color = tuple[float, float, float]

_POSITIVE: _Color = (0.16, 0.86, 0.30)
_NEGATIVE: _Color = (1.00, 0.24, 0.22)
_REFERENCE: _Color = (1.00, 0.84, 0.10)
_MASK: _Color = (0.20, 0.62, 1.00)
_FILL = 0.38
_LINE = 0.8  # points
_INK = "#1a1a1a"

_PANEL_INCHES = 2.3
_LEFT_INCHES, _TOP_INCHES, _BOTTOM_INCHES, _GAP_INCHES = 0.35, 0.35, 0.45, 0.06
_DPI = 150


def write_predictions(path: str | Path, illustrations: Sequence[Illustration]) -> None:
    """Draw examples as rows: strokes, then what each method made of them with its Dice, all with the reference.

    Args:
        path: The PNG file to write, whole or not at all.
        illustrations: At least one; all with the same methods.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigError: If there is nothing to draw.
        FileFormatError: If the file cannot be written.
    """
    require_package(
        "matplotlib",
        purpose="The picture of predictions",
        remedy='It is drawn by matplotlib. Install it with: pip install "scribblesegment[evaluation]".',
    )
    if not illustrations or not illustrations[0].masks:
        raise ConfigError("There is no prediction to draw. Run a protocol first.")
    figure = _figure(illustrations)
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


def _figure(illustrations: Sequence[Illustration]) -> Figure:
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = list(illustrations[0].masks)
    rows, columns = len(illustrations), 1 + len(methods)
    width = _LEFT_INCHES + columns * (_PANEL_INCHES + _GAP_INCHES)
    height = _TOP_INCHES + rows * (_PANEL_INCHES + _GAP_INCHES) + _BOTTOM_INCHES
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=_LEFT_INCHES / width,
        right=1 - _GAP_INCHES / width,
        top=1 - _TOP_INCHES / height,
        bottom=_BOTTOM_INCHES / height,
        wspace=_GAP_INCHES / _PANEL_INCHES,
        hspace=_GAP_INCHES / _PANEL_INCHES,
    )
    for row, (line, illustration) in enumerate(zip(axes, illustrations, strict=True)):
        _draw_strokes(line[0], illustration)
        line[0].set_ylabel(illustration.example.task, fontsize=11, fontweight="bold", color=_INK)
        for panel, name in zip(line[1:], methods, strict=True):
            _draw_mask(panel, illustration, name)
        if row == 0:
            for panel, title in zip(line, ["strokes", *map(short_name, methods)], strict=True):
                panel.set_title(title, fontsize=11, color=_INK, pad=5)
    _add_legend(figure)
    return figure


def short_name(method: str) -> str:
    """Shorten the path of a network's weights to the file's name."""
    return Path(method).stem if Path(method).suffix in (".safetensors", ".pt", ".pth") else method


def _draw_strokes(axes: Axes, illustration: Illustration) -> None:
    from scipy.ndimage import binary_dilation

    _draw_image(axes, illustration.example.image)
    _draw_outline(axes, illustration.example.reference, _REFERENCE)
    positive, negative = illustration.example.scribbles > 0
    # A dark rim, so that strokes stand out on any grey.
    rim = binary_dilation(positive | negative) & ~(positive | negative)
    axes.imshow(_tinted(rim, (0.0, 0.0, 0.0), 0.6), interpolation="nearest")
    axes.imshow(_tinted(negative, _NEGATIVE, 1.0), interpolation="nearest")
    axes.imshow(_tinted(positive, _POSITIVE, 1.0), interpolation="nearest")


def _draw_mask(axes: Axes, illustration: Illustration, method: str) -> None:
    mask = illustration.masks[method]
    _draw_image(axes, illustration.example.image)
    axes.imshow(_tinted(mask, _MASK, _FILL), interpolation="nearest")
    _draw_outline(axes, mask, _MASK)
    _draw_outline(axes, illustration.example.reference, _REFERENCE)
    axes.text(
        0.03,
        0.97,
        f"{illustration.dice[method]:.2f}",
        transform=axes.transAxes,
        ha="left",
        va="top",
        fontsize=10,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "black", "alpha": 0.65, "linewidth": 0},
    )


def _draw_image(axes: Axes, image: NDArray[np.float32]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_outline(axes: Axes, mask: Mask, color: _Color) -> None:
    if mask.any() and not mask.all():  # else there is no contour, and matplotlib warns
        axes.contour(mask, levels=[0.5], colors=[color], linewidths=_LINE)


def _tinted(mask: Mask, color: _Color, opacity: float) -> NDArray[np.float32]:
    picture = np.zeros((*mask.shape, 4), dtype=np.float32)
    picture[mask] = (*color, opacity)
    return picture


def _add_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [
        Patch(color=_POSITIVE, label="stroke on the object"),
        Patch(color=_NEGATIVE, label="stroke on the background"),
        Line2D([], [], color=_REFERENCE, linewidth=1.5, label="reference"),
        Patch(facecolor=(*_MASK, _FILL), edgecolor=_MASK, label="prediction, with its Dice"),
    ]
    figure.legend(handles=entries, loc="lower center", ncols=len(entries), frameon=False, fontsize=10, labelcolor=_INK)
