"""From mouse positions in a slice view to a stroke, a click, a box or a lasso. Knows no Qt, no VTK and no Slicer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Position = tuple[float, float]
Point = tuple[float, float, float]
Tool = Literal["brush", "click", "box", "lasso"]

# A drag with the box or the lasso that stays within this many pixels is a slip of the hand, and counts as a click.
_SMALLEST_PIXELS = 4.0

# Mouse events closer than this many pixels to the last point add nothing to a stroke.
_POINT_DISTANCE_PIXELS = 1.0


@dataclass(frozen=True)
class Annotation:
    """What the user drew."""

    kind: Literal["stroke", "click", "box", "lasso"]
    points: tuple[Point, ...]  # world RAS mm: along the stroke or lasso, the one of the click, or two opposite corners
    positive: bool  # whether it marks the object; a box always does


@dataclass
class AnnotationRecorder:
    """Collects one gesture between press and release."""

    points: list[Point] = field(default_factory=list)  # world positions so far, empty while nothing is drawn
    tool: Tool = "brush"
    positive: bool = True  # whether the gesture marks the object
    _start: Position = (0.0, 0.0)
    _last: Position = (0.0, 0.0)
    _extent: float = 0.0

    @property
    def active(self) -> bool:
        """Whether the button is down."""
        return bool(self.points)

    def press(self, xy: Position, world: Point, *, positive: bool, tool: Tool = "brush") -> None:
        """Begin a gesture, dropping one that was never finished.

        Args:
            xy: Pixels in the view.
            world: The same position, RAS millimetres.
            positive: Whether it marks the object; a box always does.
            tool: What is drawn with.
        """
        self.points = [world]
        self._start = self._last = xy
        self._extent = 0.0
        self.tool, self.positive = tool, positive or tool == "box"

    def move(self, xy: Position, world: Point) -> bool:
        """Continue a gesture. Returns whether it changed."""
        if not self.active:
            return False
        self._extent = max(self._extent, _distance(xy, self._start))
        if self.tool == "click":
            return False
        if self.tool == "box":
            self.points[1:] = [world]
        elif _distance(xy, self._last) < _POINT_DISTANCE_PIXELS:
            return False
        else:
            self.points.append(world)
        self._last = xy
        return True

    def release(self, xy: Position, world: Point, *, brush_radius_pixels: float) -> Annotation | None:
        """Finish a gesture.

        Args:
            xy: Pixels in the view.
            world: The same position, RAS millimetres.
            brush_radius_pixels: A drag that stays within it is a click.

        Returns:
            The gesture; None when none was begun.
        """
        if not self.active:
            return None
        self.move(xy, world)
        points, self.points = tuple(self.points), []
        smallest = brush_radius_pixels if self.tool == "brush" else _SMALLEST_PIXELS
        if self.tool == "click" or self._extent < smallest:
            return Annotation("click", points[:1], self.positive)
        if self.tool == "box":
            return Annotation("box", points[:2], True)
        return Annotation("stroke" if self.tool == "brush" else "lasso", points, self.positive)

    def cancel(self) -> bool:
        """Drop the gesture. Returns whether there was one."""
        active, self.points = self.active, []
        return active


def _distance(first: Position, second: Position) -> float:
    return max(abs(first[0] - second[0]), abs(first[1] - second[1]))
