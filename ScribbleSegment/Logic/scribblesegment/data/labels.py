"""What the user asks a network to say: one label, or none, at every pixel of an image.

These are the scribbles S of Sambaturu et al., "Efficient and Generic Interactive Segmentation Framework to Correct
Mispredictions during Clinical Evaluation of Medical Images": "the location in the image where correction is required
and the desired segmentation class label" (section 3). Strokes, points and boxes (table 1) all end here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.errors import PromptError

UNMARKED = -1
BACKGROUND = 0
LARGEST_LABEL = int(np.iinfo(np.int16).max)


def _label(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= LARGEST_LABEL:
        raise PromptError(
            f"Label {value!r} is not a whole number from 0 to {LARGEST_LABEL}. 0 is the background, 1 and above are "
            "the network's labels."
        )
    return int(value)


def _label_array(value: ArrayLike, *, name: str, lowest: int) -> NDArray[Any]:
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
    return array


@dataclass(frozen=True, eq=False)
class LabelScribbles:
    """Marked pixels of one image with the label each should get; frozen, every change returns a new object.

    The `with_` methods follow one another in time: where they meet, the newest mark wins, as an eraser does. Marks that
    hold at the same time come through `from_masks`, which refuses a pixel that two labels claim.

    Attributes:
        labels: int16 (H, W) or (K, J, I), read-only: UNMARKED (-1) where nothing is said, 0 for the background, 1 and
            above for the network's labels or, beyond its last one, new labels.

    Raises:
        PromptError: another dimension, no pixels, fractions, NaN, or values out of range.
    """

    labels: NDArray[np.int16]

    def __post_init__(self) -> None:
        labels = _label_array(self.labels, name="labels", lowest=UNMARKED)
        object.__setattr__(self, "labels", validation.read_only(labels, np.int16))

    @classmethod
    def empty(cls, shape: Sequence[int]) -> LabelScribbles:
        """Return scribbles for an image of `shape`, (H, W) or (K, J, I), without any mark.

        Raises:
            PromptError: not two or three whole numbers above zero.
        """
        sides = np.atleast_1d(np.asarray(shape))
        if sides.shape not in ((2,), (3,)) or sides.dtype.kind not in "iu" or (sides < 1).any():
            raise PromptError(f"An image of shape {shape} cannot be marked; give (H, W) or (K, J, I), each at least 1.")
        return cls(np.full(tuple(sides.tolist()), UNMARKED, np.int16))

    @classmethod
    def from_labels(cls, labels: ArrayLike) -> LabelScribbles:
        """Take an array as `labels` is described above, of any whole-number type; it is copied.

        Raises:
            PromptError: another dimension, no pixels, fractions, NaN, or values out of range.
        """
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
            masks: for each label a bool mask, or numbers that are above zero where it is painted; all of one shape. A
                mask without a painted pixel is allowed.
            shape: of the image; needed only where `masks` may be empty.
            names: what messages call the labels.

        Raises:
            PromptError: two labels on one pixel, masks of different shapes, no mask and no shape, not numbers or NaN.
        """
        scribbles = None if shape is None else cls.empty(shape)
        called = {label: f"{label} ({name})" for label, name in (names or {}).items()}
        labels = None if scribbles is None else np.array(scribbles.labels)
        for label, mask in masks.items():
            array = validation.image_array(mask, name=f"The mask of label {label}", error=PromptError)
            if labels is None:
                labels = np.full(array.shape, UNMARKED, np.int16)
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
        return cls(labels)

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
        return int(np.count_nonzero(self.labels != UNMARKED))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is marked."""
        return self.count == 0

    def values(self) -> tuple[int, ...]:
        """Return the labels that occur, in ascending order; UNMARKED is none."""
        return tuple(int(value) for value in np.unique(self.labels[self.labels != UNMARKED]))

    def mask(self, label: int) -> NDArray[np.bool_]:
        """Return bool of the image's shape: where `label` is asked for."""
        return np.asarray(self.labels == _label(label))

    def with_scribble(self, mask: ArrayLike, label: int) -> LabelScribbles:
        """Add a stroke of `label`; older marks under it give way.

        Args:
            mask: bool, or numbers that are above zero where it is painted, of the image's shape.
            label: 0 for the background, 1 and above for the network's labels.

        Raises:
            PromptError: another shape, not numbers or NaN, nothing painted, or a label out of range.
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
            index: position along the array's axes, (row, column) or (k, j, i).
            label: 0 for the background, 1 and above for the network's labels.
            radius: of the disc, in pixels, or in millimetres if `spacing_mm` is given; 0 marks one pixel. What lies
                outside the image is cut off.
            spacing_mm: size of a pixel along each axis, in millimetres.

        Raises:
            PromptError: outside the image, of another dimension, a negative or infinite radius, a label out of range.
            GeometryError: spacings of another number, or not above zero.
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
            start: first pixel inside, along the array's axes.
            stop: one past the last pixel inside.
            label: of the structure.
            core: size of the marked ellipse as a part of the box's sides, above 0 and up to 1.
            outside: label of the ring; or an array of labels of the image's shape, such as the network's own result:
                the ring takes its labels from there, and background where the array holds `label`; None for no ring.
            gap: pixels between the box and its ring, at least 0.

        Raises:
            PromptError: reversed, empty or outside the image, of another dimension, options or labels out of range.
        """
        corners = self._checked_corners(start, stop)
        label = _label(label)
        if not 0 < core <= 1:
            raise PromptError(f"core is {core}, expected a part of the box's sides above 0 and up to 1.")
        if not isinstance(gap, int | np.integer) or gap < 0:
            raise PromptError(f"gap is {gap!r}, expected a whole number of pixels from 0.")
        inside = tuple(slice(first, last) for first, last in corners)
        marks = np.zeros(self.shape, bool)
        marks[inside] = True if label == BACKGROUND else _ellipse([last - first for first, last in corners], core)
        added = self._with(marks, label)
        if label == BACKGROUND or outside is None:
            return added
        ring = _ring(self.shape, corners, int(gap))
        free = ring & (added.labels == UNMARKED)
        if np.ndim(outside) == 0:
            around = np.full(self.shape, _label(outside), np.int16)
        else:
            around = _label_array(outside, name="outside", lowest=0).astype(np.int16)
            validation.same_shape(around.shape, self.shape, name="outside", error=PromptError)
        around[around == label] = BACKGROUND
        return added._with(free, around)

    def without(self, mask: ArrayLike) -> LabelScribbles:
        """Erase the marks where `mask`, bool of the image's shape, is True."""
        erased = _painted(validation.numeric_array(mask, name="eraser", error=PromptError), self.shape, name="eraser")
        return self._with(erased, UNMARKED)

    def equals(self, other: LabelScribbles) -> bool:
        """Whether both ask for the same labels."""
        return isinstance(other, LabelScribbles) and np.array_equal(self.labels, other.labels)

    def _with(self, mask: NDArray[np.bool_], label: int | NDArray[np.int16]) -> LabelScribbles:
        labels = np.where(mask, np.asarray(label, np.int16), self.labels)
        labels.flags.writeable = False  # nobody else holds it, so that it is taken without another copy
        return LabelScribbles(labels)

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


def _painted(array: NDArray[Any], shape: tuple[int, ...], *, name: str) -> NDArray[np.bool_]:
    validation.same_shape(array.shape, shape, name=name, error=PromptError)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise PromptError(f"{name} holds NaN. Pass a bool mask (mask > 0).")
    return np.asarray(array > 0)


def _squared_distance(shape: Sequence[int], centre: Sequence[float], steps: Sequence[float]) -> NDArray[np.float64]:
    """Return, float of `shape`, the squared distance of every pixel from `centre`, in units of 1 / `steps` pixels."""
    squared = np.zeros(tuple(shape))
    for axis, (side, at, step) in enumerate(zip(shape, centre, steps, strict=True)):
        along = ((np.arange(side) - at) * step) ** 2
        squared += along.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return squared


def _ellipse(sides: Sequence[int], core: float) -> NDArray[np.bool_]:
    """Mark the ellipse of `core` times the sides around the centre of a box, and its middle pixel in any case."""
    squared = _squared_distance(sides, [(side - 1) / 2 for side in sides], [2 / (core * side) for side in sides])
    marked = squared <= 1
    marked[tuple(side // 2 for side in sides)] = True
    return marked


def _ring(shape: tuple[int, ...], corners: Sequence[tuple[int, int]], gap: int) -> NDArray[np.bool_]:
    """Mark the pixels whose distance from the box along the farthest axis is `gap` + 1."""
    ring = np.zeros(shape, bool)
    ring[tuple(slice(max(first - gap - 1, 0), last + gap + 1) for first, last in corners)] = True
    ring[tuple(slice(max(first - gap, 0), last + gap) for first, last in corners)] = False
    return ring
