"""What the user asks a network to say: one label, or none, at every pixel of an image.

These are the scribbles S of Sambaturu et al., "Efficient and Generic Interactive Segmentation Framework to Correct
Mispredictions during Clinical Evaluation of Medical Images": "the location in the image where correction is required
and the desired segmentation class label" (section 3). Strokes, points and boxes (table 1) all end here. Inside the
package they are int16 arrays, UNMARKED where nothing is said; `LabelScribbles` is the class for callers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import PromptError

Labels = NDArray[np.int16]

UNMARKED = -1
BACKGROUND = 0
LARGEST_LABEL = int(np.iinfo(np.int16).max)


def label_array(value: ArrayLike, *, name: str = "labels", lowest: int = UNMARKED) -> Labels:
    """Return whole numbers from `lowest` to LARGEST_LABEL on an image (H, W) or (K, J, I) as a read-only int16 array.

    Raises:
        PromptError: Another dimension, no pixels, a mask, fractions, NaN, or values out of range.
    """
    array = validation.image_array(value, name=name, error=PromptError)
    if array.dtype.kind == "b":
        raise PromptError(f"{name} is a mask of True and False. Give labels, or name the label with from_masks.")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
        raise PromptError(f"{name} holds fractions, NaN or infinity. Labels are whole numbers.")
    low, high = array.min(), array.max()
    if low < lowest or high > LARGEST_LABEL:
        raise PromptError(
            f"{name} has values from {low} to {high}, expected {lowest} to {LARGEST_LABEL}. "
            f"0 is the background{f', {UNMARKED} marks nothing' if lowest == UNMARKED else ''}."
        )
    return validation.read_only(array, np.int16)


def unmarked(shape: Sequence[int]) -> Labels:
    """Return labels for an image of `shape`, (H, W) or (K, J, I), without any mark; a PromptError for other shapes."""
    sides = validation.whole_numbers(shape, 2, 3, least=1, name="The shape of the image", error=PromptError)
    return np.full(sides, UNMARKED, np.int16)


def combine_masks(
    masks: Mapping[int, ArrayLike], *, shape: Sequence[int] | None = None, names: Mapping[int, str] | None = None
) -> Labels:
    """Make labels of masks that hold at the same time; see `LabelScribbles.from_masks`."""
    labels = None if shape is None else unmarked(shape)
    called = {label: f"{label} ({name})" for label, name in (names or {}).items()}
    for label, mask in masks.items():
        array = validation.image_array(mask, name=f"The mask of label {label}", error=PromptError)
        if labels is None:
            labels = unmarked(array.shape)
        painted = _painted(array, labels.shape, name=f"The mask of label {label}")
        both = painted & (labels != UNMARKED)
        if both.any():
            first = tuple(int(side) for side in np.argwhere(both)[0])
            other = int(labels[first])
            raise PromptError(
                f"{int(both.sum())} pixels are claimed by two labels, the first at {first} by "
                f"{called.get(other, str(other))} and {called.get(label, str(label))}. Erase one of the two there."
            )
        labels[painted] = _label(label)
    if labels is None:
        raise PromptError("There is no mask. Pass at least one, or the image's shape for scribbles without marks.")
    return labels


@dataclass(frozen=True, eq=False)
class LabelScribbles:
    """Marked pixels of one image with the label each should get; frozen, every change returns a new object.

    The `with_` methods follow one another in time: where they meet, the newest mark wins, as an eraser does. Marks that
    hold at the same time come through `from_masks`, which refuses a pixel that two labels claim.

    Raises:
        PromptError: Another dimension, no pixels, fractions, NaN, or values out of range.
    """

    # int16 (H, W) or (K, J, I), read-only: UNMARKED (-1) where nothing is said, 0 for the background, 1 and above for
    # the network's labels or, beyond its last one, new labels.
    labels: Labels

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", label_array(self.labels))

    @classmethod
    def empty(cls, shape: Sequence[int]) -> LabelScribbles:
        """Return scribbles for an image of `shape`, (H, W) or (K, J, I), without any mark."""
        return cls(unmarked(shape))

    @classmethod
    def from_labels(cls, labels: ArrayLike) -> LabelScribbles:
        """Take an array as `labels` is described above, of any whole-number type; it is copied."""
        return cls(np.asarray(labels))

    @classmethod
    def from_masks(
        cls,
        masks: Mapping[int, ArrayLike],
        *,
        shape: Sequence[int] | None = None,
        names: Mapping[int, str] | None = None,
    ) -> LabelScribbles:
        """Take marks that hold at the same time, such as the segments somebody painted.

        Args:
            masks: For each label a bool mask, or numbers that are above zero where it is painted; all of one shape. A
                mask without a painted pixel is allowed.
            shape: Of the image; needed only where `masks` may be empty.
            names: What messages call the labels.

        Raises:
            PromptError: Two labels on one pixel, masks of different shapes, no mask and no shape, not numbers or NaN.
        """
        return cls(combine_masks(masks, shape=shape, names=names))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, (H, W) or (K, J, I)."""
        return tuple(self.labels.shape)

    @property
    def ndim(self) -> int:
        """Number of the image's dimensions, 2 or 3."""
        return int(self.labels.ndim)

    @property
    def marked(self) -> NDArray[np.bool_]:
        """Bool of the image's shape: where a label is asked for."""
        return np.asarray(self.labels != UNMARKED)

    @property
    def count(self) -> int:
        """Number of marked pixels."""
        return int(np.count_nonzero(self.marked))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is marked."""
        return self.count == 0

    def values(self) -> tuple[int, ...]:
        """Return the labels that occur, in ascending order; UNMARKED is none."""
        return tuple(int(value) for value in np.unique(self.labels[self.marked]))

    def mask(self, label: int) -> NDArray[np.bool_]:
        """Return bool of the image's shape: where `label` is asked for."""
        return np.asarray(self.labels == _label(label))

    def with_scribble(self, mask: ArrayLike, label: int) -> LabelScribbles:
        """Add a stroke of `label`; older marks under it give way.

        Args:
            mask: Bool, or numbers that are above zero where it is painted, of the image's shape.
            label: 0 for the background, 1 and above for the network's labels.

        Raises:
            PromptError: Another shape, not numbers or NaN, nothing painted, or a label out of range.
        """
        label = _label(label)
        painted = _painted(validation.numeric_array(mask, name="stroke", error=PromptError), self.shape, name="stroke")
        if not painted.any():
            raise PromptError("The stroke is empty: no pixel of it is painted. Paint at least one pixel of the image.")
        return self._with(painted, label)

    def with_point(
        self, index: Sequence[int], label: int, radius: float = 0.0, *, spacing_mm: ArrayLike | None = None
    ) -> LabelScribbles:
        """Add a point: one pixel, or the disc or ball around it; older marks under it give way.

        Args:
            index: Position along the array's axes, (row, column) or (k, j, i).
            label: 0 for the background, 1 and above for the network's labels.
            radius: Of the disc, in pixels, or in millimetres if `spacing_mm` is given; 0 marks one pixel. What lies
                outside the image is cut off.
            spacing_mm: Size of a pixel along each axis.

        Raises:
            PromptError: Outside the image, of another dimension, a negative or infinite radius, a label out of range.
            GeometryError: Spacings of another number, or not above zero.
        """
        position = np.asarray(index)
        if position.shape != (self.ndim,) or position.dtype.kind not in "iu":
            raise PromptError(f"Point {index} on an image of shape {self.shape}: give {self.ndim} whole numbers.")
        if ((position < 0) | (position >= self.shape)).any():
            raise PromptError(f"Point {tuple(position.tolist())} is outside the image of shape {self.shape}.")
        if not (np.isfinite(radius) and radius >= 0):
            raise PromptError(f"The point's radius is {radius}; give 0 for one pixel, or a size above it.")
        spacing = validation.spacing_mm((1.0,) * self.ndim if spacing_mm is None else spacing_mm, self.ndim)
        return self._with(_squared_distance(self.shape, position.tolist(), spacing) <= radius**2, _label(label))

    def with_box(
        self,
        start: Sequence[int],
        stop: Sequence[int],
        label: int,
        *,
        core: float = 0.5,
        outside: int | ArrayLike | None = BACKGROUND,
        gap: int = 1,
    ) -> LabelScribbles:
        """Add a box drawn around a structure, read as: its core is the structure, and just outside of it is none.

        A box is no mask: its corners seldom belong to the structure. So only the ellipse (3D: ellipsoid) of `core`
        times the box's sides around its centre is marked with the label, at least one pixel, and older marks under it
        give way. Around the box, `gap` pixels away, a ring one pixel thick is marked with what lies outside; it leaves
        older marks alone. A box of background (label 0) says that there is nothing in it: all of it is marked, and no
        ring.

        Args:
            start: First pixel inside, along the array's axes.
            stop: One past the last pixel inside.
            label: Of the structure.
            core: Size of the marked ellipse as a part of the box's sides, above 0 and up to 1.
            outside: Label of the ring; or an array of labels of the image's shape, such as the network's own result:
                the ring takes its labels from there, and background where the array holds `label`; None for no ring.
            gap: Pixels between the box and its ring, at least 0.

        Raises:
            PromptError: Reversed, empty or outside the image, of another dimension, options or labels out of range.
        """
        label = _label(label)
        if not 0 < core <= 1:
            raise PromptError(f"core is {core}, expected a fraction of the box's sides, above 0 and at most 1.")
        if not isinstance(gap, int | np.integer) or gap < 0:
            raise PromptError(f"gap is {gap!r}, expected a whole number of pixels from 0.")
        corners = self._checked_corners(start, stop)
        marks, ring = np.zeros(self.shape, bool), np.zeros(self.shape, bool)
        inside = tuple(slice(first, last) for first, last in corners)
        if label == BACKGROUND:
            marks[inside] = True
            return self._with(marks, label)
        sides = [last - first for first, last in corners]
        middle = [(side - 1) / 2 for side in sides]
        marks[inside] = _squared_distance(sides, middle, [2 / (core * side) for side in sides]) <= 1
        marks[tuple(first + side // 2 for (first, _), side in zip(corners, sides, strict=True))] = True
        added = self._with(marks, label)
        if outside is None:
            return added
        for distance, value in ((gap + 1, True), (gap, False)):
            ring[tuple(slice(max(first - distance, 0), last + distance) for first, last in corners)] = value
        if np.ndim(outside) == 0:
            around = np.full(self.shape, _label(outside), np.int16)
        else:
            around = np.array(label_array(outside, name="outside", lowest=0))
            validation.same_shape(around.shape, self.shape, name="outside", error=PromptError)
        around[around == label] = BACKGROUND
        return added._with(ring & ~added.marked, around)

    def without(self, mask: ArrayLike) -> LabelScribbles:
        """Erase the marks where `mask`, bool of the image's shape, is True."""
        erased = _painted(validation.numeric_array(mask, name="eraser", error=PromptError), self.shape, name="eraser")
        return self._with(erased, UNMARKED)

    def equals(self, other: LabelScribbles) -> bool:
        """Whether both ask for the same labels."""
        return isinstance(other, LabelScribbles) and np.array_equal(self.labels, other.labels)

    def _with(self, mask: NDArray[np.bool_], label: int | Labels) -> LabelScribbles:
        labels = np.where(mask, np.asarray(label, np.int16), self.labels)
        labels.flags.writeable = False
        scribbles = object.__new__(LabelScribbles)  # what was made here is not checked again
        object.__setattr__(scribbles, "labels", labels)
        return scribbles

    def _checked_corners(self, start: Sequence[int], stop: Sequence[int]) -> list[tuple[int, int]]:
        corners = np.array([np.asarray(start), np.asarray(stop)]) if np.shape(start) == np.shape(stop) else np.empty(0)
        if corners.shape != (2, self.ndim) or corners.dtype.kind not in "iu":
            raise PromptError(
                f"A box from {start} to {stop} on an image of shape {self.shape}: give {self.ndim} whole numbers for "
                "each corner."
            )
        if (corners[0] >= corners[1]).any() or (corners[0] < 0).any() or (corners[1] > self.shape).any():
            raise PromptError(
                f"Box from {tuple(corners[0].tolist())} to {tuple(corners[1].tolist())} is reversed, empty, or reaches "
                f"outside the image of shape {self.shape}. Every start is below its stop; the stop itself is excluded."
            )
        return [(first, last) for first, last in zip(*corners.tolist(), strict=True)]


def _label(value: Any) -> int:
    label = validation.whole_number(value, name="Label", error=PromptError)
    if not 0 <= label <= LARGEST_LABEL:
        raise PromptError(
            f"Label {label} is not from 0 to {LARGEST_LABEL}. 0 is the background, 1 and above are the network's "
            "labels."
        )
    return label


def _painted(array: NDArray[Any], shape: tuple[int, ...], *, name: str) -> NDArray[np.bool_]:
    validation.same_shape(array.shape, shape, name=name, error=PromptError)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise PromptError(f"{name} holds NaN. Pass a bool mask (mask > 0).")
    return np.asarray(array > 0)


def _squared_distance(shape: Sequence[int], centre: Sequence[float], steps: Sequence[float]) -> NDArray[np.float64]:
    """Squared distance of every pixel from `centre`, in units of 1 / `steps` pixels."""
    squared = np.zeros(tuple(shape))
    for axis, (side, at, step) in enumerate(zip(shape, centre, steps, strict=True)):
        along = ((np.arange(side) - at) * step) ** 2
        squared += along.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return squared
