"""Strokes, clicks and boxes of several labels, anywhere in a volume, and what they say about each label in a slice.

What marks label n as object marks every other label as background there. The network sees one label in one slice at a
time; `LabelledPrompts` finds the slices that can be segmented and hands out the `Prompts` for each label in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import PromptError

AXES = "kji"
"""Names of the array's axes 0, 1 and 2."""


@dataclass(frozen=True)
class LabelClick:
    """One click.

    Attributes:
        index: Voxel (k, j, i), or pixel (j, i) of an image with one slice; within a slice (row, column).
        positive: Whether the pixel belongs to the label.
        label: The label, from 1. None means: if positive, the only label there is (1 if nothing is painted); if
            negative, background for all.
    """

    index: tuple[int, ...]
    positive: bool
    label: int | None = None

    def __post_init__(self) -> None:
        _check_label(self.label)


@dataclass(frozen=True)
class LabelBox:
    """A box around an object.

    Attributes:
        start: First voxel inside, in the axes of `LabelClick.index`.
        stop: One past the last voxel inside.
        label: The label, from 1, or None as for a positive click.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    label: int | None = None

    def __post_init__(self) -> None:
        _check_label(self.label)


@dataclass(frozen=True)
class SliceChoice:
    """What the user wants segmented: all slices with prompts along `axis` (0 = K, 1 = J, 2 = I), or only `index`."""

    axis: int
    index: int | None = None


@dataclass(frozen=True, eq=False)
class Strokes:
    """Painted voxels of a label map: few, so kept one by one instead of in a second volume.

    Attributes:
        shape: Shape (K, J, I) of the label map.
        positions: int64 (N,), ascending positions in the flattened label map.
        labels: (N,) unsigned, the label at each position, never 0.
    """

    shape: tuple[int, int, int]
    positions: NDArray[np.int64]
    labels: NDArray[Any]

    @classmethod
    def of(cls, labelmap: Volume) -> Strokes:
        """Collect the painted voxels of a label map, one plane in memory at a time."""
        plane_size = labelmap.shape[1] * labelmap.shape[2]
        found = [np.flatnonzero(plane) for plane in labelmap.array]
        labels = [plane.reshape(-1)[at] for plane, at in zip(labelmap.array, found, strict=True)]
        positions = [at + k * plane_size for k, at in enumerate(found)]
        return cls(labelmap.shape, np.concatenate(positions).astype(np.int64), np.concatenate(labels))

    @classmethod
    def none(cls, shape: tuple[int, int, int]) -> Strokes:
        """Nothing painted."""
        return cls(shape, np.zeros(0, np.int64), np.zeros(0, np.uint8))

    def label_at(self, index: tuple[int, ...]) -> int:
        """The label painted on a voxel (k, j, i), or 0."""
        position = np.ravel_multi_index(index, self.shape)
        at = int(np.searchsorted(self.positions, position))
        return int(self.labels[at]) if at < len(self.positions) and self.positions[at] == position else 0

    def along(self, axis: int) -> NDArray[np.int64]:
        """The index (N,) of every painted voxel along an axis."""
        return self.positions // math.prod(self.shape[axis + 1 :]) % self.shape[axis]

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """The label map (H, W) of one slice, 0 where nothing is painted."""
        inside = np.flatnonzero(self.along(axis) == index)
        coords = np.unravel_index(self.positions[inside], self.shape)
        rows, columns = (coords[other] for other in range(3) if other != axis)
        plane = np.zeros([side for other, side in enumerate(self.shape) if other != axis], self.labels.dtype)
        plane[rows, columns] = self.labels[inside]
        return plane


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """All prompts in one slice.

    Attributes:
        axis: Axis of the array the slice is cut along.
        index: Position on that axis.
        strokes: (H, W) labels painted, 0 where nothing is.
        clicks: Those in the slice, by (row, column).
        boxes: Those that reach into the slice, by (row, column).
        background: Label whose strokes only mark background, or None.
    """

    axis: int
    index: int
    strokes: NDArray[Any]
    clicks: tuple[LabelClick, ...] = ()
    boxes: tuple[LabelBox, ...] = ()
    background: int | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that something points at in this slice, ascending."""
        found = {int(label) for label in np.unique(self.strokes)} - {0}
        found |= {click.label for click in self.clicks if click.positive and click.label is not None}
        found |= {box.label for box in self.boxes if box.label is not None}
        return tuple(sorted(found - {self.background}))

    def prompts(self, label: int) -> Prompts:
        """What the slice's prompts say about one label: those of every other label are negative."""
        positive = self.strokes == label
        points = [
            (click.index, int(click.positive and click.label == label))
            for click in self.clicks
            if click.positive or click.label in (None, label)  # "not label 2" says nothing about label 1
        ]
        boxes = [(box.start, box.stop) for box in self.boxes if box.label == label]
        return Prompts(
            scribbles=np.stack([positive, (self.strokes != 0) & ~positive]),
            point_coords=np.array([index for index, _ in points], np.int64).reshape(-1, 2),
            point_labels=np.array([sign for _, sign in points], np.int64),
            boxes=np.array(boxes, np.int64).reshape(-1, 2, 2),
        )


class LabelledPrompts:
    """Everything the user said about a volume.

    Args:
        strokes: What was painted.
        clicks: Clicks, with two indices for a volume of one slice or with three.
        boxes: Boxes, likewise.
        background: Label whose strokes only mark background and which is not segmented; None if there is none.

    Raises:
        PromptError: Nothing at all or only background; outside the volume; two labels on one pixel; a click or box
            that could mean several labels; a label with negative clicks only.
    """

    def __init__(
        self,
        strokes: Strokes,
        clicks: Sequence[LabelClick] = (),
        boxes: Sequence[LabelBox] = (),
        background: int | None = None,
    ) -> None:
        self.shape = strokes.shape
        self.background = background
        self._strokes = strokes
        painted = {int(label) for label in np.unique(strokes.labels)}
        if background is not None and background not in painted:
            raise PromptError(f"No stroke has the background label {background}; there are {sorted(painted)}.")
        default = _default_label(painted - {background}, clicks, boxes)
        self._clicks = tuple(
            LabelClick(
                self._voxel(click.index, "Click"),
                click.positive,
                default if click.positive and click.label is None else click.label,
            )
            for click in clicks
        )
        self._boxes = tuple(self._whole_box(box, default) for box in boxes)
        pointed_at = {click.label for click in self._clicks if click.positive} | {box.label for box in self._boxes}
        self.labels: tuple[int, ...] = tuple(sorted({n for n in pointed_at if n} | (painted - {background})))
        self._refuse_one_sided()
        self._refuse_conflicts()

    def find_slices(self, choice: SliceChoice | None = None) -> tuple[int, list[int]]:
        """Find the slices to segment: those in which something points at an object.

        Args:
            choice: What the user asked for. Without it slices along k are taken, or along another axis if all prompts
                lie in one slice of that and not of k.

        Returns:
            The axis (0 = K, 1 = J, 2 = I) and the ascending indices, one at least.

        Raises:
            PromptError: The chosen slice does not exist, has no positive prompt, or misses a click or box; or the
                prompts lie on one line, so that two axes fit.
        """
        if choice is None:
            choice = SliceChoice(self._likely_axis())
        axis, index = choice.axis, choice.index
        if index is None:
            return axis, sorted(self._positive_along(axis))
        if not 0 <= index < self.shape[axis]:
            raise PromptError(
                f"Slice {AXES[axis]}:{index} is outside the image of shape {self.shape}; choose from 0 to "
                f"{self.shape[axis] - 1}."
            )
        for what, start, stop in self._extents():
            if not start[axis] <= index < stop[axis]:
                raise PromptError(f"{what} does not lie in the chosen slice {AXES[axis]}:{index}. Move or remove it.")
        held = self._positive_along(axis)
        if index not in held:
            there = ", ".join(f"{AXES[axis]}:{n}" for n in sorted(held)[:5]) + (", ..." if len(held) > 5 else "")
            raise PromptError(
                f"Nothing points at an object in slice {AXES[axis]}:{index}; strokes, clicks or boxes are in {there}."
            )
        return axis, [index]

    def unused_slices(self, axis: int, indices: Sequence[int]) -> list[int]:
        """Slices along an axis that hold prompts and are not among `indices`."""
        return sorted(self._occupied(axis) - set(indices))

    def in_slice(self, axis: int, index: int) -> SlicePrompts:
        """Cut the prompts of one slice out."""

        def cut(position: tuple[int, ...]) -> tuple[int, ...]:
            return position[:axis] + position[axis + 1 :]

        return SlicePrompts(
            axis,
            index,
            self._strokes.plane(axis, index),
            tuple(replace(click, index=cut(click.index)) for click in self._clicks if click.index[axis] == index),
            tuple(
                replace(box, start=cut(box.start), stop=cut(box.stop))
                for box in self._boxes
                if box.start[axis] <= index < box.stop[axis]
            ),
            self.background,
        )

    def _voxel(self, index: tuple[int, ...], what: str, *, stop: bool = False) -> tuple[int, ...]:
        """Give a pixel of a single slice its k, and check that the voxel lies in the volume."""
        if len(index) == 2 and self.shape[0] == 1:
            index = (int(stop), *index)
        if len(index) != 3:
            raise PromptError(
                f"{what} {_text(index)} has {len(index)} indices, the image has the shape {self.shape}. Give k,j,i."
            )
        lowest = int(stop)
        if not all(lowest <= n < side + lowest for n, side in zip(index, self.shape, strict=True)):
            raise PromptError(
                f"{what} {_text(index)} is outside the image of shape {self.shape} (k, j, i). Indices start at 0"
                f"{'; the stop is excluded' if stop else ''}."
            )
        return index

    def _whole_box(self, box: LabelBox, default: int | None) -> LabelBox:
        start = self._voxel(box.start, "Box start")
        stop = self._voxel(box.stop, "Box stop", stop=True)
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            raise PromptError(
                f"Box from {_text(box.start)} to {_text(box.stop)} is reversed or empty. Every start must be below its "
                "stop, which is excluded."
            )
        return LabelBox(start, stop, default if box.label is None else box.label)

    def _refuse_one_sided(self) -> None:
        if not self.labels:
            if len(self._strokes.positions) or self._clicks:
                raise PromptError("All prompts are negative: mark the object with a positive stroke, click or box.")
            raise PromptError("There is no stroke, click or box: mark the object with one.")
        if self.background in self.labels:
            raise PromptError(
                f"Label {self.background} is the background and has a click or box of its own. Use another label."
            )
        for click in self._clicks:
            if click.label is not None and click.label not in self.labels:
                raise PromptError(f"Label {click.label} has negative clicks only: mark it with a positive one as well.")

    def _refuse_conflicts(self) -> None:
        said: dict[tuple[int, ...], list[LabelClick]] = {}
        for click in self._clicks:
            painted = self._strokes.label_at(click.index)
            if painted:
                stroke = LabelClick(click.index, painted != self.background, painted)
                if painted == self.background:
                    stroke = replace(stroke, label=None)
                _refuse_conflict(stroke, click, f"a stroke of label {painted}")
            for other in said.setdefault(click.index, []):
                _refuse_conflict(other, click, f"a click {_sign(other)}")
            said[click.index].append(click)

    def _extents(self) -> Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        for click in self._clicks:
            yield f"Click {_text(click.index)}", click.index, tuple(n + 1 for n in click.index)
        for box in self._boxes:
            yield f"Box from {_text(box.start)} to {_text(box.stop)}", box.start, box.stop

    def _occupied(self, axis: int) -> set[int]:
        found = set(np.unique(self._strokes.along(axis)).tolist())
        for _, start, stop in self._extents():
            found.update(range(start[axis], stop[axis]))
        return found

    def _positive_along(self, axis: int) -> set[int]:
        painted = self._strokes.along(axis)
        if self.background is not None:
            painted = painted[self._strokes.labels != self.background]
        found = set(np.unique(painted).tolist())
        found.update(click.index[axis] for click in self._clicks if click.positive)
        for box in self._boxes:
            found.update(range(box.start[axis], box.stop[axis]))
        return found

    def _likely_axis(self) -> int:
        flat = [axis for axis in range(3) if len(self._occupied(axis)) == 1]
        if 0 in flat or not flat:
            return 0
        if len(flat) == 2:
            j, i = (next(iter(self._occupied(axis))) for axis in (1, 2))
            raise PromptError(
                f"All prompts lie on the line j = {j}, i = {i}, which belongs to slices along j and along i. Say which "
                f"with --slice j:{j} or --slice i:{i}."
            )
        return flat[0]


def _check_label(label: int | None) -> None:
    if label is not None and label < 1:
        raise PromptError(f"Label {label} is no label: 0 is the background. Number labels from 1.")


def _default_label(painted: set[int], clicks: Sequence[LabelClick], boxes: Sequence[LabelBox]) -> int | None:
    """The label of clicks and boxes that name none: the only one painted, or 1; None if several could be meant."""
    named = {click.label for click in clicks if click.label is not None}
    named |= {box.label for box in boxes if box.label is not None}
    default = next(iter(painted), 1)
    if painted | named <= {default}:
        return default
    anonymous = [f"click {_text(click.index)}" for click in clicks if click.positive and click.label is None]
    anonymous += [f"box {_text(box.start)}" for box in boxes if box.label is None]
    if anonymous:
        raise PromptError(
            f"There are the labels {sorted(painted | named)}, and the {anonymous[0]} does not say which it means. Put "
            f"the number after the sign, as in +{max(painted | named)}."
        )
    return None


def _refuse_conflict(first: LabelClick, second: LabelClick, what: str) -> None:
    if first.positive and second.positive:
        clash = first.label != second.label
    elif first.positive != second.positive:
        positive, negative = (first, second) if first.positive else (second, first)
        clash = negative.label in (None, positive.label)
    else:
        clash = False
    if clash:
        raise PromptError(
            f"Two labels on one pixel: {_text(second.index)} has {what} and a click {_sign(second)}. Remove one."
        )


def _sign(click: LabelClick) -> str:
    return f"{'+' if click.positive else '-'}{click.label or ''}"


def _text(index: tuple[int, ...]) -> str:
    return ",".join(map(str, index))
