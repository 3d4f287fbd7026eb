"""A picture of how the constraint loss g fell during a refinement, as in figure 4 of Sambaturu et al."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SIZE = (640, 400)
"""Columns and rows of the picture."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 72, 44, 24, 56  # margins around the axes
_INK, _GRID, _CURVE = (60, 60, 60), (225, 225, 225), (31, 119, 180)
_TICKS = 6


def draw_loss_curve(g_history: Sequence[float]) -> NDArray[np.uint8]:
    """Draw g against the number of updates; values that are not finite leave a gap.

    Args:
        g_history: g before the first update, and after each one; at least one value.

    Returns:
        uint8 (rows, columns, 3), red, green and blue.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    finite = [value for value in g_history if math.isfinite(value)]
    last = max(len(g_history) - 1, 1)
    steps, tops = _ticks(last, whole=True), _ticks(max(finite, default=0.0) or 1.0)
    left, right = _LEFT, SIZE[0] - _RIGHT
    top, bottom = _TOP, SIZE[1] - _BOTTOM

    def place(step: float, value: float) -> tuple[float, float]:
        return left + (right - left) * step / last, bottom - (bottom - top) * value / tops[-1]

    for value in tops:
        pen.line([place(0, value), place(last, value)], _GRID)
        pen.text((left - 8, place(0, value)[1]), f"{value:g}", _INK, font, "rm")
    for step in steps:
        if step <= last:
            pen.text((place(step, 0)[0], bottom + 8), f"{step:g}", _INK, font, "mt")
    pen.line([(left, top), (left, bottom), (right, bottom)], _INK)
    pen.text(((left + right) / 2, SIZE[1] - 12), "updates of the network", _INK, font, "mb")
    end = f"{g_history[-1]:.3g}"
    pen.text((left, 14), f"constraint loss g: {end} after {len(g_history) - 1} updates", _INK, font, "lt")
    points = [place(step, value) if math.isfinite(value) else None for step, value in enumerate(g_history)]
    for first, second in pairwise(points):
        if first is not None and second is not None:
            pen.line([first, second], _CURVE, 2)
    for point in points if len(points) == 1 else points[-1:]:
        if point is not None:
            x, y = point
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], _CURVE)
    return np.asarray(picture)


def _ticks(highest: float, *, whole: bool = False) -> list[float]:
    """Give round numbers from 0 to at least `highest`, about `_TICKS` of them."""
    magnitude = 10.0 ** math.floor(math.log10(highest / _TICKS))
    step = next(size * magnitude for size in (1, 2, 5, 10) if size * magnitude * _TICKS >= highest)
    step = max(1.0, step) if whole else step
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]
