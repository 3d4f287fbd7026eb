"""From mouse positions in a slice view to a stroke, a click or a box. Knows no Qt, no VTK and no Slicer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Position = tuple[float, float]
Point = tuple[float, float, float]

# A drag with the box tool that stays within this many pixels is a slip of the hand, and counts as a click.
_SMALLEST_BOX_PIXELS = 4.0

# Mouse events closer than this many pixels to the last point add nothing to a stroke.
_POINT_DISTANCE_PIXELS = 1.0


@dataclass(frozen=True)
class Annotation:
    """What the user drew."""

    kind: Literal["stroke", "click", "box"]
    points: tuple[Point, ...]  # world RAS mm: those of the stroke, the one of the click, or two opposite corners
    positive: bool  # whether it marks the object; a box always does


@dataclass
class AnnotationRecorder:
    """Collects one gesture between press and release."""

    points: list[Point] = field(default_factory=list)  # world positions so far, empty while nothing is drawn
    _start: Position = (0.0, 0.0)
    _last: Position = (0.0, 0.0)
    _extent: float = 0.0
    _box: bool = False
    _positive: bool = True

    @property
    def active(self) -> bool:
        """Whether the button is down."""
        return bool(self.points)

    @property
    def is_box(self) -> bool:
        """Whether a box is being dragged."""
        return self.active and self._box

    @property
    def positive(self) -> bool:
        """Whether the gesture marks the object."""
        return self._positive

    def press(self, xy: Position, world: Point, *, positive: bool, box: bool = False) -> None:
        """Begin a gesture, dropping one that was never finished.

        Args:
            xy: Pixels in the view.
            world: The same position, RAS millimetres.
            positive: Whether it marks the object.
            box: Whether a box is dragged instead of a stroke.
        """
        self.points = [world]
        self._start = self._last = xy
        self._extent = 0.0
        self._box, self._positive = box, positive or box

    def move(self, xy: Position, world: Point) -> bool:
        """Continue a gesture. Returns whether it changed."""
        if not self.active:
            return False
        self._extent = max(self._extent, _distance(xy, self._start))
        if self._box:
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
        if self._box and self._extent >= _SMALLEST_BOX_PIXELS:
            return Annotation("box", points[:2], True)
        if self._box or self._extent < brush_radius_pixels:
            return Annotation("click", points[:1], self._positive)
        return Annotation("stroke", points, self._positive)

    def cancel(self) -> bool:
        """Drop the gesture. Returns whether there was one."""
        active, self.points = self.active, []
        return active


def _distance(first: Position, second: Position) -> float:
    return max(abs(first[0] - second[0]), abs(first[1] - second[1]))
