"""What the user said about one image: strokes, clicks, boxes, and the result of the previous round.

Every index follows the array's axes: (row, column) in a slice, (k, j, i) in a volume.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import PromptError


@dataclass(frozen=True, eq=False)
class Prompts:
    """Strokes, clicks and boxes for one image; frozen, every change returns a new object.

    Direct construction takes the arrays as they are, also where a positive and a negative stroke share a pixel (strokes
    drawn by hand do): see `conflicts`. The `with_` methods let the newest prompt win at every pixel, as an eraser does.

    Raises:
        PromptError: Shapes that disagree, values out of range or NaN, positions outside the image, empty boxes.
    """

    scribbles: NDArray[np.float32]  # (2, H, W) or (2, K, J, I) in [0, 1]; positive strokes, then negative ones
    point_coords: NDArray[np.int64]  # (N, ndim), clicked pixels
    point_labels: NDArray[np.int64]  # (N,), 1 for foreground and 0 for background
    boxes: NDArray[np.int64]  # (M, 2, ndim), first pixel and one past the last pixel
    mask_input: NDArray[np.float32] | None = None  # logits of the previous round, of the image's shape

    def __post_init__(self) -> None:
        scribbles = validation.image_array(self.scribbles, ndim=(3, 4), name="scribbles", error=PromptError)
        if scribbles.shape[0] != 2:
            raise PromptError(
                f"scribbles has shape {scribbles.shape}, expected (2, H, W) or (2, K, J, I): positive strokes, then "
                "negative ones."
            )
        validation.unit_range(scribbles, name="scribbles", error=PromptError)
        shape = tuple(scribbles.shape[1:])
        coords, labels = _checked_points(self.point_coords, self.point_labels, shape)
        checked: dict[str, NDArray[Any]] = {
            "scribbles": validation.read_only(scribbles, np.float32),
            "point_coords": validation.read_only(coords, np.int64),
            "point_labels": validation.read_only(labels, np.int64),
            "boxes": validation.read_only(_checked_boxes(self.boxes, shape), np.int64),
        }
        if self.mask_input is not None:
            checked["mask_input"] = validation.read_only(_checked_logits(self.mask_input, shape), np.float32)
        for name, array in checked.items():
            object.__setattr__(self, name, array)

    @classmethod
    def trusted(
        cls,
        scribbles: NDArray[np.float32],
        point_coords: NDArray[np.int64],
        point_labels: NDArray[np.int64],
        boxes: NDArray[np.int64],
        mask_input: NDArray[np.float32] | None = None,
        *,
        painted: tuple[slice, ...] | None = None,
    ) -> Prompts:
        """Take over arrays that the package made itself: nothing is checked or copied, and they become read-only.

        `painted` is found when it is needed unless it is known.
        """
        prompts = object.__new__(cls)
        for name, array in zip(_FIELDS, (scribbles, point_coords, point_labels, boxes, mask_input), strict=True):
            if array is not None:
                array.flags.writeable = False
            object.__setattr__(prompts, name, array)
        if painted is not None:
            prompts.__dict__["painted"] = painted
        return prompts

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Prompts:
        """Return prompts that say nothing yet, for an image of `shape` (H, W) or (K, J, I).

        Raises:
            PromptError: Neither two nor three sides, or a side below 1.
        """
        try:
            sides = tuple(operator.index(side) for side in shape)
        except TypeError as cause:
            raise PromptError(f"{shape!r} is not an image shape. Pass (H, W) or (K, J, I).") from cause
        if len(sides) not in (2, 3) or min(sides) < 1:
            raise PromptError(f"{sides} is not an image shape. Pass (H, W) or (K, J, I), every side 1 or above.")
        return PromptBuilder(sides).build()

    @classmethod
    def from_labelmap(cls, labelmap: ArrayLike, label: int) -> Prompts:
        """Take strokes painted as labels: those of `label` are positive, those of every other label negative.

        Args:
            labelmap: (H, W) or (K, J, I) bool or integers, 0 where nothing was painted. Costs 8 bytes a pixel: cut the
                slice out of a large volume first.
            label: The label to segment, 1 or above.

        Raises:
            PromptError: Not a label map, or `label` does not occur in it.
        """
        array = validation.image_array(labelmap, ndim=(2, 3), name="labelmap", error=PromptError)
        if array.dtype.kind == "f":
            raise PromptError(f"labelmap holds {array.dtype} values. Pass integers, one number for each label.")
        positive = array == label
        if label == 0 or not positive.any():
            present = [int(value) for value in np.unique(array) if value != 0]
            known = f"it holds {present}" if present else "it is empty"
            raise PromptError(f"No stroke of label {label} in the label map; {known}. Paint one or choose another.")
        return cls.empty(array.shape).replaced(
            scribbles=np.stack([positive, (array != 0) & ~positive], dtype=np.float32)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, (H, W) or (K, J, I)."""
        return tuple(self.scribbles.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of the image's dimensions, 2 or 3."""
        return len(self.shape)

    @cached_property
    def painted(self) -> tuple[slice, ...]:
        """A box, as an index into the image, outside of which no stroke is painted; often a small part of the image."""
        return box_of((self.scribbles != 0).any(axis=0))

    @property
    def painted_scribbles(self) -> NDArray[np.float32]:
        """The part of the strokes in the box `painted`, (2, h, w) or (2, k, j, i)."""
        box: Any = (slice(None), *self.painted)
        return self.scribbles[box]

    @property
    def is_empty(self) -> bool:
        """Whether there is no stroke, click or box; the previous round's logits do not count."""
        return not (self.painted_scribbles.any() or len(self.point_labels) or len(self.boxes))

    @property
    def has_positive(self) -> bool:
        """Whether anything points at the object: a positive stroke, a foreground click or a box."""
        return bool(self.painted_scribbles[0].any() or (self.point_labels == 1).any() or len(self.boxes))

    def positive_pixels(self) -> NDArray[np.bool_]:
        """Mark what positive prompts cover, bool of the image's shape: strokes, clicks and the inside of boxes."""
        marked = np.zeros(self.shape, bool)
        marked[self.painted] = self.painted_scribbles[0] > 0
        marked[tuple(self.point_coords[self.point_labels == 1].T)] = True
        for start, stop in self.boxes:
            marked[tuple(slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))] = True
        return marked

    def with_scribble(self, mask: ArrayLike, positive: bool = True) -> Prompts:
        """Add a stroke; where it is painted, older prompts of the other sign give way.

        Args:
            mask: Bool, or values in [0, 1], of the image's shape.
            positive: Whether the stroke marks the object (True) or the background (False).

        Raises:
            PromptError: Another shape, values outside [0, 1] or NaN, or nothing painted.
        """
        stroke = validation.numeric_array(mask, name="stroke", error=PromptError)
        validation.same_shape(stroke.shape, self.shape, name="stroke", error=PromptError)
        validation.unit_range(stroke, name="stroke", error=PromptError)
        if not stroke.any():
            raise PromptError("The stroke is empty: no pixel of it is painted. Paint at least one pixel of the image.")
        window = box_of(stroke)
        return PromptBuilder(self).add_scribble(stroke[window], positive, window=window).build()

    def with_click(self, index: Sequence[int], positive: bool = True) -> Prompts:
        """Add a click; an older click on the same pixel, and a stroke of the other sign there, give way.

        Args:
            index: Position along the array's axes, (row, column) or (k, j, i).
            positive: Whether the pixel belongs to the object.

        Raises:
            PromptError: Outside the image, of another dimension, or not whole numbers.
        """
        position = _integers(index, name="click")
        if position.shape != (self.ndim,):
            raise PromptError(
                f"Click {tuple(np.ravel(position).tolist())} has shape {position.shape} on an image of shape "
                f"{self.shape}; give {self.ndim} indices."
            )
        _checked_points(position[None], [1], self.shape)
        return PromptBuilder(self).add_click(tuple(position.tolist()), positive).build()

    def with_box(self, start: Sequence[int], stop: Sequence[int]) -> Prompts:
        """Add a box around the object.

        Args:
            start: First pixel inside, along the array's axes.
            stop: One past the last pixel inside.

        Raises:
            PromptError: Reversed, empty, outside the image, or of another dimension.
        """
        first, last = (_integers(corner, name="box") for corner in (start, stop))
        for corner in (first, last):
            if corner.shape != (self.ndim,):
                raise PromptError(
                    f"Box corner {corner.tolist()} has shape {corner.shape} on an image of shape {self.shape}; give "
                    f"{self.ndim} indices for each corner."
                )
        _checked_boxes(np.stack([first, last])[None], self.shape)
        return PromptBuilder(self).add_box(tuple(first.tolist()), tuple(last.tolist())).build()

    def with_mask_input(self, logits: ArrayLike | None) -> Prompts:
        """Set, or with None remove, the logits of the previous round, of the image's shape.

        Raises:
            PromptError: Another shape, or NaN or infinite values.
        """
        if logits is None:
            return self.replaced(mask_input=None)
        return self.replaced(mask_input=validation.read_only(_checked_logits(logits, self.shape), np.float32))

    def replaced(self, **fields: NDArray[Any] | None) -> Prompts:
        """Exchange fields for arrays that the package made itself, as `trusted` takes them."""
        known = None if "scribbles" in fields else self.__dict__.get("painted")
        return Prompts.trusted(*(fields.get(name, getattr(self, name)) for name in _FIELDS), painted=known)

    def conflicts(self) -> NDArray[np.bool_]:
        """Return a bool mask of the image's shape: pixels that are marked both as object and as background."""
        marked = self.scribbles > 0
        marked[(1 - self.point_labels, *self.point_coords.T)] = True
        return np.asarray(marked[0] & marked[1])

    def refuse_conflicts(self) -> None:
        """Raise PromptError if a pixel is marked both as object and as background."""
        both = self.conflicts()
        if both.any():
            first = tuple(int(side) for side in np.argwhere(both)[0])
            raise PromptError(
                f"{int(both.sum())} pixels are marked both as object and as background, the first at {first}. "
                "Erase one of the two marks there."
            )

    def equals(self, other: Prompts) -> bool:
        """Whether both hold the same values; the order of clicks and boxes counts."""
        if not isinstance(other, Prompts) or (self.mask_input is None) != (other.mask_input is None):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in _FIELDS]
        return all(mine is theirs or np.array_equal(mine, theirs) for mine, theirs in pairs)


_FIELDS = tuple(field.name for field in dataclasses.fields(Prompts))


class PromptBuilder:
    """Collects prompts for one image, newest last, and makes `Prompts` of them once. What it is given is trusted.

    Where prompts of both signs meet, the newest wins at every pixel, as with the `with_` methods of `Prompts`.
    """

    def __init__(self, begin: Prompts | Sequence[int]) -> None:
        """Begin with prompts, or with none on an image of a shape, (H, W) or (K, J, I)."""
        self._clicks: list[tuple[tuple[int, ...], bool]] = []
        self._boxes: list[Any] = []
        self._mask_input: NDArray[np.float32] | None = None
        if not isinstance(begin, Prompts):
            self._shape = tuple(begin)
            self._scribbles, self._is_own = np.zeros((2, *self._shape), np.float32), True
            self._painted = (slice(0, 0),) * len(self._shape)
            return
        self._shape, self._mask_input = begin.shape, begin.mask_input
        self._scribbles, self._is_own, self._painted = begin.scribbles, False, begin.painted
        positive = (begin.point_labels == 1).tolist()
        self._clicks = list(zip(map(tuple, begin.point_coords.tolist()), positive, strict=True))
        self._boxes = begin.boxes.tolist()

    def add_scribble(
        self, mask: NDArray[Any], positive: bool = True, *, window: tuple[slice, ...] = (slice(None),)
    ) -> PromptBuilder:
        """Add a stroke: bool, or values in [0, 1], of the image's shape or of a window of it."""
        own, other = (0, 1) if positive else (1, 0)
        scribbles, stroke = self._writeable(), mask.astype(np.float32)
        if all(length == side for length, side in zip(stroke.shape, self._shape, strict=True)):
            self._painted = tuple(slice(0, side) for side in self._shape)
        else:
            self._painted = _union(self._painted, window)
        mine, theirs = scribbles[own][window], scribbles[other][window]
        np.maximum(mine, stroke, out=mine)
        np.minimum(theirs, 1 - stroke, out=theirs)
        if any(is_positive != positive for _, is_positive in self._clicks):
            painted = np.zeros(self._shape, bool)
            painted[window] = stroke > 0
            self._clicks = [click for click in self._clicks if click[1] == positive or not painted[click[0]]]
        return self

    def add_click(self, index: tuple[int, ...], positive: bool = True) -> PromptBuilder:
        """Add a click."""
        self._clicks = [*(click for click in self._clicks if click[0] != index), (index, bool(positive))]
        other = (1 if positive else 0, *index)
        if self._scribbles[other]:
            self._writeable()[other] = 0
        return self

    def add_box(self, start: Sequence[int], stop: Sequence[int]) -> PromptBuilder:
        """Add a box: first pixel inside, and one past the last."""
        self._boxes.append((start, stop))
        return self

    def build(self) -> Prompts:
        """Make the prompts; the builder may go on from there."""
        ndim = len(self._shape)
        self._is_own = False
        return Prompts.trusted(
            self._scribbles,
            np.array([index for index, _ in self._clicks], np.int64).reshape(-1, ndim),
            np.array([positive for _, positive in self._clicks], np.int64),
            np.array(self._boxes, np.int64).reshape(-1, 2, ndim),
            self._mask_input,
            painted=self._painted,
        )

    def _writeable(self) -> NDArray[np.float32]:
        if not self._is_own:
            # Zeros take no memory until they are written to, so large images cost what is painted.
            copy = np.zeros((2, *self._shape), np.float32)
            box: Any = (slice(None), *self._painted)
            copy[box] = self._scribbles[box]
            self._scribbles, self._is_own = copy, True
        return self._scribbles


def box_of(mask: NDArray[Any]) -> tuple[slice, ...]:
    """Return the box around what is not zero, as an index; an empty one if all is."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        part = mask[tuple(box)]
        marked = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(marked[0]), int(marked[-1]) + 1) if marked.size else slice(0, 0))
    return tuple(box)


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    if any(side.stop <= side.start for side in first):
        return second
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _integers(value: ArrayLike, *, name: str) -> NDArray[np.int64]:
    array = validation.numeric_array(value, name=name, error=PromptError)
    if array.size and array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
        raise PromptError(f"{name} holds fractions or NaN: {array.tolist()}. Round positions to whole pixels first.")
    return array.astype(np.int64)


def _checked_points(
    point_coords: ArrayLike, point_labels: ArrayLike, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    coords, labels = _integers(point_coords, name="point_coords"), _integers(point_labels, name="point_labels")
    if coords.ndim != 2 or coords.shape[1] != len(shape):
        raise PromptError(
            f"point_coords has shape {coords.shape}, expected (N, {len(shape)}) for an image of shape {shape}."
        )
    if labels.shape != coords.shape[:1]:
        raise PromptError(f"point_labels has shape {labels.shape} for {len(coords)} points. Give one each.")
    if not np.isin(labels, (0, 1)).all():
        raise PromptError(f"point_labels holds {labels.tolist()}, expected 1 (foreground) or 0 (background).")
    outside = ((coords < 0) | (coords >= shape)).any(axis=1)
    if outside.any():
        raise PromptError(
            f"Click {tuple(coords[outside][0].tolist())} is outside the image of shape {shape}. Indices follow the "
            "array's axes, slowest first, and start at 0."
        )
    return coords, labels


def _checked_boxes(value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    boxes = _integers(value, name="boxes")
    if boxes.ndim != 3 or boxes.shape[1:] != (2, len(shape)):
        raise PromptError(
            f"boxes has shape {boxes.shape}, expected (M, 2, {len(shape)}) for an image of shape {shape}."
        )
    for start, stop in boxes.tolist():
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            raise PromptError(
                f"Box from {tuple(start)} to {tuple(stop)} is reversed or empty. Every start must be below its stop; "
                "the stop itself is excluded."
            )
        if min(start) < 0 or any(b > size for b, size in zip(stop, shape, strict=True)):
            raise PromptError(
                f"Box from {tuple(start)} to {tuple(stop)} reaches outside the image of shape {shape}. Clip it to the "
                "image."
            )
    return boxes


def _checked_logits(logits: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    array = validation.numeric_array(logits, name="mask_input", error=PromptError)
    validation.same_shape(array.shape, shape, name="mask_input", error=PromptError)
    if not np.isfinite(array).all():
        raise PromptError("mask_input holds NaN or infinite logits. Pass the logits of a prediction, unchanged.")
    return array
