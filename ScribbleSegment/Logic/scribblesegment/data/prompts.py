"""What the user said about one image: strokes, clicks, boxes, and the result of the previous round.

Every index follows the array's axes: (row, column) in a slice, (k, j, i) in a volume.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import PromptError


def _integers(value: ArrayLike, *, name: str) -> NDArray[np.int64]:
    array = validation.numeric_array(value, name=name, error=PromptError)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
        raise PromptError(f"{name} holds fractions or NaN: {array.tolist()}. Round positions to whole pixels first.")
    return array.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Strokes, clicks and boxes for one image; frozen, every change returns a new object.

    Direct construction takes the arrays as they are, also where a positive and a negative stroke share a pixel (strokes
    drawn by hand do): see `conflicts`. The `with_` methods let the newest prompt win at every pixel, as an eraser does.

    Attributes:
        scribbles: float32 (2, H, W) or (2, K, J, I) in [0, 1]; positive strokes first, then negative ones.
        point_coords: int64 (N, ndim), clicked pixels.
        point_labels: int64 (N,), 1 for foreground and 0 for background.
        boxes: int64 (M, 2, ndim), first pixel and one past the last pixel (half-open).
        mask_input: float32 logits of the previous round, of the image's shape, or None.

    Raises:
        PromptError: shapes that disagree, values out of range or NaN, positions outside the image, empty boxes.
    """

    scribbles: NDArray[np.float32]
    point_coords: NDArray[np.int64]
    point_labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    mask_input: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self._store("scribbles", self._checked_scribbles(), np.float32)
        coords, labels = self._checked_points()
        self._store("point_coords", coords, np.int64)
        self._store("point_labels", labels, np.int64)
        self._store("boxes", self._checked_boxes(), np.int64)
        if self.mask_input is not None:
            self._store("mask_input", self._checked_mask_input(self.mask_input), np.float32)

    def _store(self, name: str, array: NDArray[Any], dtype: DTypeLike) -> None:
        object.__setattr__(self, name, validation.read_only(array, dtype))

    def _checked_scribbles(self) -> NDArray[Any]:
        scribbles = validation.image_array(self.scribbles, ndim=(3, 4), name="scribbles", error=PromptError)
        if scribbles.shape[0] != 2:
            raise PromptError(
                f"scribbles has shape {scribbles.shape}, expected (2, H, W) or (2, K, J, I): positive strokes, then "
                "negative ones."
            )
        validation.unit_range(scribbles, name="scribbles", error=PromptError)
        return scribbles

    def _checked_points(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        coords = _integers(self.point_coords, name="point_coords")
        labels = _integers(self.point_labels, name="point_labels")
        if coords.ndim != 2 or coords.shape[1] != self.ndim:
            raise PromptError(
                f"point_coords has shape {coords.shape}, expected (N, {self.ndim}) for an image of shape {self.shape}."
            )
        if labels.shape != coords.shape[:1]:
            raise PromptError(f"point_labels has shape {labels.shape} for {len(coords)} points. Give one each.")
        if not np.isin(labels, (0, 1)).all():
            raise PromptError(f"point_labels holds {labels.tolist()}, expected 1 (foreground) or 0 (background).")
        outside = ((coords < 0) | (coords >= self.shape)).any(axis=1)
        if outside.any():
            first = tuple(coords[outside][0].tolist())
            raise PromptError(
                f"Click {first} is outside the image of shape {self.shape}. Indices follow the array's axes, "
                "slowest first, and start at 0."
            )
        return coords, labels

    def _checked_boxes(self) -> NDArray[np.int64]:
        boxes = _integers(self.boxes, name="boxes")
        if boxes.ndim != 3 or boxes.shape[1:] != (2, self.ndim):
            raise PromptError(
                f"boxes has shape {boxes.shape}, expected (M, 2, {self.ndim}) for an image of shape {self.shape}."
            )
        for start, stop in boxes.tolist():
            if any(a >= b for a, b in zip(start, stop, strict=True)):
                raise PromptError(
                    f"Box from {tuple(start)} to {tuple(stop)} is reversed or empty. Every start must be below its "
                    "stop; the stop itself is excluded."
                )
            if min(start) < 0 or any(b > size for b, size in zip(stop, self.shape, strict=True)):
                raise PromptError(
                    f"Box from {tuple(start)} to {tuple(stop)} reaches outside the image of shape {self.shape}. "
                    "Clip it to the image."
                )
        return boxes

    def _checked_mask_input(self, logits: ArrayLike) -> NDArray[Any]:
        array = validation.numeric_array(logits, name="mask_input", error=PromptError)
        validation.same_shape(array.shape, self.shape, name="mask_input", error=PromptError)
        if not np.isfinite(array).all():
            raise PromptError("mask_input holds NaN or infinite logits. Pass the logits of a prediction, unchanged.")
        return array

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Prompts:
        """Return prompts that say nothing yet, for an image of `shape` (H, W) or (K, J, I).

        Raises:
            PromptError: neither two nor three sides, or a side below 1.
        """
        try:
            sides = tuple(operator.index(side) for side in shape)
        except TypeError as cause:
            raise PromptError(f"{shape!r} is no image shape. Pass (H, W) or (K, J, I).") from cause
        if len(sides) not in (2, 3) or min(sides) < 1:
            raise PromptError(f"{sides} is no image shape. Pass (H, W) or (K, J, I), every side 1 or above.")
        return cls(
            scribbles=np.zeros((2, *sides), np.float32),
            point_coords=np.zeros((0, len(sides)), np.int64),
            point_labels=np.zeros(0, np.int64),
            boxes=np.zeros((0, 2, len(sides)), np.int64),
        )

    @classmethod
    def from_labelmap(cls, labelmap: ArrayLike, label: int) -> Prompts:
        """Take strokes painted as labels: those of `label` are positive, those of every other label negative.

        Args:
            labelmap: (H, W) or (K, J, I) bool or integers, 0 where nothing was painted. Costs 8 bytes a pixel: cut the
                slice out of a large volume first.
            label: the label to segment, 1 or above.

        Raises:
            PromptError: not a label map, or `label` does not occur in it.
        """
        array = validation.image_array(labelmap, ndim=(2, 3), name="labelmap", error=PromptError)
        if array.dtype.kind == "f":
            raise PromptError(f"labelmap holds {array.dtype} values. Pass integers, one number for each label.")
        positive = array == label
        if label == 0 or not positive.any():
            present = [int(value) for value in np.unique(array) if value != 0]
            known = f"it holds {present}" if present else "it is empty"
            raise PromptError(f"No stroke of label {label} in the label map; {known}. Paint one or choose another.")
        return cls.empty(array.shape)._replaced(scribbles=np.stack([positive, (array != 0) & ~positive]))

    def _replaced(self, **fields: Any) -> Prompts:
        return dataclasses.replace(self, **fields)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, (H, W) or (K, J, I)."""
        return tuple(self.scribbles.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of the image's dimensions, 2 or 3."""
        return len(self.shape)

    @property
    def is_empty(self) -> bool:
        """Whether there is no stroke, click or box; the previous round's logits do not count."""
        return not (self.scribbles.any() or len(self.point_labels) or len(self.boxes))

    def positive_pixels(self) -> NDArray[np.bool_]:
        """Mark what positive prompts cover, bool of the image's shape: strokes, clicks and the inside of boxes."""
        marked = np.asarray(self.scribbles[0] > 0)
        marked[tuple(self.point_coords[self.point_labels == 1].T)] = True
        for start, stop in self.boxes:
            marked[tuple(slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))] = True
        return marked

    @property
    def has_positive(self) -> bool:
        """Whether anything points at the object: a positive stroke, a foreground click or a box."""
        return bool(self.scribbles[0].any() or (self.point_labels == 1).any() or len(self.boxes))

    def with_scribble(self, mask: ArrayLike, positive: bool = True) -> Prompts:
        """Add a stroke; where it is painted, older prompts of the other sign give way.

        Args:
            mask: bool, or values in [0, 1], of the image's shape.
            positive: whether the stroke marks the object (True) or the background (False).

        Raises:
            PromptError: another shape, values outside [0, 1] or NaN, or nothing painted.
        """
        stroke = validation.numeric_array(mask, name="stroke", error=PromptError)
        validation.same_shape(stroke.shape, self.shape, name="stroke", error=PromptError)
        validation.unit_range(stroke, name="stroke", error=PromptError)
        if not stroke.any():
            raise PromptError("The stroke is empty: no pixel of it is painted. Paint at least one pixel of the image.")
        stroke = stroke.astype(np.float32)
        own, other = (0, 1) if positive else (1, 0)
        scribbles = self.scribbles.copy()
        np.maximum(scribbles[own], stroke, out=scribbles[own])
        np.minimum(scribbles[other], 1 - stroke, out=scribbles[other])
        covered = stroke[tuple(self.point_coords.T)] > 0
        keep = ~(covered & (self.point_labels != int(positive)))
        return self._replaced(
            scribbles=scribbles, point_coords=self.point_coords[keep], point_labels=self.point_labels[keep]
        )

    def with_click(self, index: Sequence[int], positive: bool = True) -> Prompts:
        """Add a click; an older click on the same pixel, and a stroke of the other sign there, give way.

        Args:
            index: position along the array's axes, (row, column) or (k, j, i).
            positive: whether the pixel belongs to the object.

        Raises:
            PromptError: outside the image, of another dimension, or not whole numbers.
        """
        position = _integers(index, name="click")
        if position.shape != (self.ndim,):
            raise PromptError(
                f"Click {tuple(np.ravel(position).tolist())} has shape {position.shape} on an image of shape "
                f"{self.shape}; give {self.ndim} indices."
            )
        keep = (self.point_coords != position).any(axis=1)
        added = self._replaced(
            point_coords=np.concatenate([self.point_coords[keep], position[None]]),
            point_labels=np.append(self.point_labels[keep], int(positive)),
        )
        under_click = (1 if positive else 0, *position.tolist())
        if not self.scribbles[under_click]:
            return added
        scribbles = self.scribbles.copy()
        scribbles[under_click] = 0
        return added._replaced(scribbles=scribbles)

    def with_box(self, start: Sequence[int], stop: Sequence[int]) -> Prompts:
        """Add a box around the object.

        Args:
            start: first pixel inside, along the array's axes.
            stop: one past the last pixel inside.

        Raises:
            PromptError: reversed, empty, outside the image, or of another dimension.
        """
        corners = [_integers(corner, name="box") for corner in (start, stop)]
        for corner in corners:
            if corner.shape != (self.ndim,):
                raise PromptError(
                    f"Box corner {corner.tolist()} has shape {corner.shape} on an image of shape {self.shape}; give "
                    f"{self.ndim} indices for each corner."
                )
        return self._replaced(boxes=np.concatenate([self.boxes, np.stack(corners)[None]]))

    def with_mask_input(self, logits: ArrayLike | None) -> Prompts:
        """Set, or with None remove, the logits of the previous round, of the image's shape.

        Raises:
            PromptError: another shape, or NaN or infinite values.
        """
        return self._replaced(mask_input=logits)

    def conflicts(self) -> NDArray[np.bool_]:
        """Return a bool mask of the image's shape: pixels that are marked both as object and as background."""
        marked = self.scribbles > 0
        for coords, label in zip(self.point_coords, self.point_labels, strict=True):
            marked[(0 if label else 1, *coords)] = True
        both: NDArray[np.bool_] = marked[0] & marked[1]
        return both

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
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)]
        return all(mine is theirs or np.array_equal(mine, theirs) for mine, theirs in pairs)
