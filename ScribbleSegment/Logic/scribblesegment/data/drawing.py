"""What was drawn for a segment, slice by slice, in millimetres, and its form as text.

Coordinates are kept in the frame of `SlicePlane` rather than in pixels, so a gesture means the same when the slice is
shown with another raster.

The text is "1" (the version), then base64 of: number of slices, CRC-32 of the rest, length of each part, and the
parts, each a zlib stream of JSON. One stream for each slice, so that a new stroke costs the packing of its own alone.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.errors import FileFormatError, PromptError

Point = tuple[float, float, float]

MAX_POINTS = 1_000_000
"""Points that the gestures of one segment may have; far more than anyone draws."""

# Coordinates are rounded to this many decimals (0.1 micrometres) when a gesture is made.
_DECIMALS = 4

# Nothing in a patient or a scanner is this far, in millimetres, from the origin.
_FARTHEST_MM = 1e7

_VERSION = "1"
_HEADER = struct.Struct(">II")

# 50 bytes hold any three coordinates and their commas; the rest is for planes and the marks around gestures.
_MAX_JSON_BYTES = 50 * MAX_POINTS + (1 << 20)
_MAX_TEXT = 2 * _MAX_JSON_BYTES


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush; a PromptError where it has no point, or no radius above zero."""

    points_mm: tuple[Point, ...]  # where the brush went, at least one point
    radius_mm: float  # half the width of the line
    positive: bool = True  # whether it marks the object or the background

    def __post_init__(self) -> None:
        points = _points(self.points_mm, "points_mm of the stroke")
        radius = _rounded(self.radius_mm, "radius_mm of the stroke")
        if radius.ndim or not self.radius_mm > 0:
            raise PromptError(f"The radius of the stroke is {self.radius_mm} mm. Choose a brush wider than zero.")
        object.__setattr__(self, "points_mm", points)
        object.__setattr__(self, "radius_mm", max(float(radius), 10.0**-_DECIMALS))
        object.__setattr__(self, "positive", bool(self.positive))


@dataclass(frozen=True)
class Click:
    """One marked point."""

    point_mm: Point
    positive: bool = True  # whether the object or the background is there

    def __post_init__(self) -> None:
        object.__setattr__(self, "point_mm", _points([self.point_mm], "point_mm of the click")[0])
        object.__setattr__(self, "positive", bool(self.positive))


@dataclass(frozen=True)
class Box:
    """A box around the object, its edges along the rows and columns of the slice."""

    corner_mm: Point
    opposite_mm: Point  # the corner diagonally across

    def __post_init__(self) -> None:
        corner, opposite = _points([self.corner_mm, self.opposite_mm], "corners of the box")
        object.__setattr__(self, "corner_mm", corner)
        object.__setattr__(self, "opposite_mm", opposite)


@dataclass(frozen=True)
class Lasso:
    """A region inside a closed line."""

    points_mm: tuple[Point, ...]  # of the line, which goes back from the last to the first
    positive: bool = True  # whether object or background is inside

    def __post_init__(self) -> None:
        object.__setattr__(self, "points_mm", _points(self.points_mm, "points_mm of the lasso"))
        object.__setattr__(self, "positive", bool(self.positive))


Gesture = Stroke | Click | Box | Lasso


@dataclass(frozen=True, eq=False)
class SliceDrawing:
    """What was drawn on one slice."""

    plane: SlicePlane  # with the raster it was first drawn on
    gestures: tuple[Gesture, ...]  # in the order of drawing

    def __post_init__(self) -> None:
        object.__setattr__(self, "gestures", tuple(self.gestures))

    @cached_property
    def points(self) -> int:
        """Number of points that all of it consists of."""
        kinds = Stroke, Lasso
        return sum(len(g.points_mm) if isinstance(g, kinds) else 1 + isinstance(g, Box) for g in self.gestures)

    @cached_property
    def packed(self) -> bytes:
        """Compressed form, kept because all slices but the newest are packed again after every gesture."""
        content = {"plane": self.plane.as_dict(), "gestures": [_gesture_fields(gesture) for gesture in self.gestures]}
        return zlib.compress(json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii"))


@dataclass(frozen=True, eq=False)
class Drawing:
    """What was drawn for one segment; frozen, every change returns a new object.

    Raises:
        PromptError: More than `MAX_POINTS` points.
    """

    slices: tuple[SliceDrawing, ...] = ()  # one for each slice that anything was drawn on

    def __post_init__(self) -> None:
        slices = tuple(drawn for drawn in self.slices if drawn.gestures)
        points = sum(drawn.points for drawn in slices)
        if points > MAX_POINTS:
            raise PromptError(
                f"The strokes of the segment have {points} points, more than the {MAX_POINTS} that are kept. Remove "
                "the strokes of slices that are finished."
            )
        object.__setattr__(self, "slices", slices)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was drawn."""
        return not self.slices

    def on(self, plane: SlicePlane) -> SliceDrawing | None:
        """What was drawn on a slice, by `SlicePlane.matches`; None if nothing was."""
        return next((drawn for drawn in self.slices if drawn.plane.matches(plane)), None)

    def added(self, plane: SlicePlane, gesture: Gesture) -> Drawing:
        """Add a gesture to a slice; the plane that was first used there stays."""
        drawn = self.on(plane)
        if drawn is None:
            return Drawing((*self.slices, SliceDrawing(plane, (gesture,))))
        return self._replaced(drawn, (*drawn.gestures, gesture))

    def removed(self, plane: SlicePlane, index: int) -> Drawing:
        """Remove one gesture of a slice by its position in the order of drawing; negative ones count from the end.

        Raises:
            PromptError: There is no such gesture.
        """
        drawn = self.on(plane)
        count = 0 if drawn is None else len(drawn.gestures)
        if drawn is None or not -count <= index < count:
            raise PromptError(f"There is no gesture {index} on this slice; it has {count}.")
        kept = list(drawn.gestures)
        del kept[index]
        return self._replaced(drawn, kept)

    def cleared(self, plane: SlicePlane) -> Drawing:
        """Remove all gestures of a slice."""
        drawn = self.on(plane)
        return self if drawn is None else self._replaced(drawn, ())

    def _replaced(self, drawn: SliceDrawing, gestures: Sequence[Gesture]) -> Drawing:
        changed = dataclasses.replace(drawn, gestures=tuple(gestures))
        return Drawing(tuple(changed if other is drawn else other for other in self.slices))

    def to_text(self) -> str:
        """Write all as one line of the characters A-Z, a-z, 0-9, - and _; empty when nothing was drawn."""
        if self.is_empty:
            return ""
        parts = [drawn.packed for drawn in self.slices]
        rest = struct.pack(f">{len(parts)}I", *map(len, parts)) + b"".join(parts)
        return _VERSION + _base64(_HEADER.pack(len(parts), zlib.crc32(rest)) + rest)

    @staticmethod
    def from_text(text: str) -> Drawing:
        """Read what `to_text` wrote, exactly.

        Raises:
            FileFormatError: Damaged, of a newer version, or absurdly large.
        """
        if text == "":
            return Drawing()
        if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", text) or len(text) > _MAX_TEXT:
            raise FileFormatError(
                "The stored strokes are not text that this extension wrote. Remove them to start over."
            )
        if text[0] != _VERSION:
            raise FileFormatError(
                f"The stored strokes are of format {text[0]!r}, this version reads {_VERSION!r}. Update the extension."
            )
        try:
            return _decoded(text[1:])
        except FileFormatError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, zlib.error, struct.error) as cause:
            # GeometryError and PromptError are ValueErrors, as are those of base64 and JSON.
            raise _damaged(str(cause)) from cause


def _rounded(value: ArrayLike, what: str) -> NDArray[np.float64]:
    """Finite numbers of millimetres in decimals that text keeps."""
    numbers = validation.finite_array(value, name=what, error=PromptError)
    if numbers.size and np.abs(numbers).max() > _FARTHEST_MM:
        raise PromptError(
            f"{what} holds {np.abs(numbers).max():.4g} mm, no place in a volume. Draw it inside the slice."
        )
    rounded: NDArray[np.float64] = np.round(numbers, _DECIMALS) + 0.0  # without the sign of -0.0
    return rounded


def _points(value: ArrayLike, what: str) -> tuple[Point, ...]:
    points = _rounded(value, what)
    if points.size == 0:
        raise PromptError(f"{what} is empty: it has no point. Draw at least one.")
    if points.ndim != 2 or points.shape[1] != 3:
        raise PromptError(f"{what} has the shape {points.shape}, expected (N, 3): three millimetres for each point.")
    return tuple((x, y, z) for x, y, z in points.tolist())


def _decoded(text: str) -> Drawing:
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _base64(payload) != text:
        raise _damaged("characters were changed or lost")
    count, checksum = _HEADER.unpack_from(payload)
    rest = payload[_HEADER.size :]
    if zlib.crc32(rest) != checksum:
        raise _damaged("characters were changed or lost")
    lengths = struct.unpack_from(f">{count}I", rest)
    start, size, points = 4 * count, 0, 0
    if start + sum(lengths) != len(rest):
        raise _damaged("parts are missing")
    slices: list[SliceDrawing] = []
    for length in lengths:
        drawn, json_bytes = _unpacked(rest[start : start + length])
        start, size, points = start + length, size + json_bytes, points + drawn.points
        if size > _MAX_JSON_BYTES or points > MAX_POINTS:
            raise _damaged(f"it is larger than {MAX_POINTS} points can be")
        slices.append(drawn)
    return Drawing(tuple(slices))


@lru_cache(maxsize=512)  # the text is read after every gesture, and most slices of it stay as they are
def _unpacked(packed: bytes) -> tuple[SliceDrawing, int]:
    """Gestures of one slice, and the size of their JSON in bytes."""
    stream = zlib.decompressobj()
    content = stream.decompress(packed, _MAX_JSON_BYTES)
    if not stream.eof or stream.unused_data:
        raise _damaged("a part is truncated or absurdly large")
    fields = json.loads(content.decode("ascii"), parse_constant=_no_constant)
    if not isinstance(fields, dict) or set(fields) != {"plane", "gestures"}:
        raise _damaged("a slice has other parts than a plane and gestures")
    if not isinstance(fields["gestures"], list) or not fields["gestures"]:
        raise _damaged("a slice has no gestures")
    drawn = SliceDrawing(SlicePlane.from_dict(fields["plane"]), tuple(map(_gesture, fields["gestures"])))
    object.__setattr__(drawn, "packed", packed)  # the cached property: written again, the text stays the same
    return drawn, len(content)


def _gesture_fields(gesture: Gesture) -> list[Any]:
    if isinstance(gesture, (Stroke, Lasso)):
        flat = [number for point in gesture.points_mm for number in point]
        if isinstance(gesture, Lasso):
            return ["lasso", int(gesture.positive), flat]
        return ["stroke", int(gesture.positive), gesture.radius_mm, flat]
    if isinstance(gesture, Click):
        return ["click", int(gesture.positive), list(gesture.point_mm)]
    return ["box", list(gesture.corner_mm), list(gesture.opposite_mm)]


def _gesture(fields: Any) -> Gesture:
    if isinstance(fields, list) and fields:
        kind, *rest = fields
        if kind in ("stroke", "lasso") and len(rest) == (3 if kind == "stroke" else 2) and rest[0] in (0, 1):
            flat = rest[-1]
            if isinstance(flat, list) and len(flat) % 3 == 0:
                points = tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
                return Stroke(points, rest[1], rest[0] == 1) if kind == "stroke" else Lasso(points, rest[0] == 1)
        if kind == "click" and len(rest) == 2 and rest[0] in (0, 1):
            return Click(rest[1], rest[0] == 1)
        if kind == "box" and len(rest) == 2:
            return Box(*rest)
    raise _damaged("a gesture is neither stroke, click, box nor lasso")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _no_constant(name: str) -> float:
    raise _damaged(f"it holds {name}")


def _damaged(why: str) -> FileFormatError:
    return FileFormatError(f"The stored strokes are damaged ({why}). Remove them to start over.")
