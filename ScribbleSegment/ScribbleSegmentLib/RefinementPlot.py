"""The curve of g over the iterations, drawn into a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import qt

from .RefinementWords import gInWords

_MARGIN = 4
_SMALLEST = (160, 60)


class RefinementPlot:
    """Shows a curve that grows while numbers come in."""

    def __init__(self, label) -> None:
        """Draw into this QLabel, in the colours of its palette."""
        self._label = label
        self._shown: tuple[tuple[float, ...], int, int, int] | None = None

    def show(self, history: Sequence[float], most: int) -> None:
        """Draw the curve.

        Args:
            history: g of each iteration so far; values that are not finite end the curve.
            most: How many iterations there may be: the width of the axis.
        """
        # The label itself has no width yet when it has just been shown.
        width = max(self._label.parentWidget().width, _SMALLEST[0])
        height = max(self._label.minimumHeight, _SMALLEST[1])
        wanted = (tuple(history), most, width, height)
        if wanted == self._shown:
            return
        self._shown = wanted
        pixmap = qt.QPixmap(width, height)
        palette = self._label.palette
        pixmap.fill(palette.color(qt.QPalette.Base))
        painter = qt.QPainter()
        painter.begin(pixmap)
        try:
            painter.setRenderHint(qt.QPainter.Antialiasing)
            self._draw(painter, _finite(history), most, width, height, palette)
        finally:
            painter.end()
        self._label.setPixmap(pixmap)

    def _draw(self, painter, history: list[float], most: int, width: int, height: int, palette) -> None:
        text = painter.fontMetrics().height()
        left, right, top, bottom = _MARGIN, width - _MARGIN, text + _MARGIN, height - text - _MARGIN
        painter.setPen(palette.color(qt.QPalette.Mid))
        painter.drawLine(left, bottom, right, bottom)
        painter.drawLine(left, top, left, bottom)
        painter.setPen(palette.color(qt.QPalette.Text))
        largest = max(history, default=0.0)
        painter.drawText(left + 3, text, f"g = {gInWords(history[-1])}" if history else "g")
        painter.drawText(left, height - _MARGIN, "0")
        end = str(most)
        painter.drawText(right - 7 * len(end), height - _MARGIN, end)
        if largest > 0:
            top_text = gInWords(largest)
            painter.drawText(right - 7 * len(top_text), text, top_text)
        if not history:
            return
        pen = qt.QPen(palette.color(qt.QPalette.Highlight))
        pen.setWidth(2)
        painter.setPen(pen)
        scale = (bottom - top) / largest if largest > 0 else 0.0
        step = (right - left) / max(most, len(history) - 1, 1)
        points = [(round(left + number * step), round(bottom - g * scale)) for number, g in enumerate(history)]
        if len(points) == 1:
            points = [points[0], (points[0][0] + 2, points[0][1])]
        for (x0, y0), (x1, y1) in pairwise(points):
            painter.drawLine(x0, y0, x1, y1)


def _finite(history: Sequence[float]) -> list[float]:
    numbers: list[float] = []
    for g in history:
        if not math.isfinite(g):
            break
        numbers.append(g)
    return numbers
