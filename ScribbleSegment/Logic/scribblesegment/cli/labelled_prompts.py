"""Strokes, clicks and boxes of several labels, anywhere in a volume, and what they say about each label in a slice.

What marks one label as object is background for all others. The network sees one label in one slice at a time:
`LabelledPrompts` finds the slices that can be segmented and hands out the `Prompts` for each label in each.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.cli.options import AXES, SliceChoice
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import PromptError

_SIGN = re.compile(r"([+-])(\d+)?")


@dataclass(frozen=True)
class Mark:
    """A click, or a box around an object."""

    start: tuple[
        int, ...
    ]  # first voxel (k, j, i), or pixel (j, i) of an image with one slice; in a slice (row, column)
    stop: tuple[int, ...]  # one past the last
    positive: bool = True
    # From 1. None: if positive, the only label there is (1 if nothing is painted); if negative, background for all.
    label: int | None = None
    is_box: bool = False

    def __str__(self) -> str:
        if self.is_box:
            return f"box from {_text(self.start)} to {_text(self.stop)}"
        return f"click {_text(self.start)}"

    @property
    def sign(self) -> str:
        """As on the command line: "+", "-2"."""
        return f"{'+' if self.positive else '-'}{self.label or ''}"


def read_click(text: str) -> Mark:
    """Read "k,j,i,+", "j,i,-", "k,j,i,+2"."""
    *numbers, sign = (part.strip() for part in text.split(","))
    index, label = _integers(numbers), _SIGN.fullmatch(sign)
    if label is None or len(index) not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not a click. Give k,j,i,+ or k,j,i,- (or j,i,+ for one slice)")
    return Mark(index, tuple(n + 1 for n in index), label[1] == "+", _label(label[2], text))


def read_box(text: str) -> Mark:
    """Read "k0,j0,i0,k1,j1,i1" or "j0,i0,j1,i1", with or without ",+2"."""
    parts = [part.strip() for part in text.split(",")]
    label = re.fullmatch(r"\+(\d+)", parts[-1]) if len(parts) % 2 else None
    corners = _integers(parts[:-1] if label else parts)
    if len(corners) not in (4, 6):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a box. Give k0,j0,i0,k1,j1,i1 (or j0,i0,j1,i1 for one slice), and ,+2 for label 2"
        )
    half = len(corners) // 2
    return Mark(corners[:half], corners[half:], label=_label(label and label[1], text), is_box=True)


@dataclass(frozen=True, eq=False)
class Strokes:
    """Painted voxels of a label map of `shape` (K, J, I): few, so kept one by one instead of in a second volume."""

    shape: tuple[int, int, int]
    voxels: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 3), np.int32))  # (N, 3), k, j, i
    labels: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.uint8))  # (N,) unsigned, never 0

    @classmethod
    def of(cls, labelmap: Volume) -> Strokes:
        """Collect the painted voxels of a label map, one plane in memory at a time."""
        planes = [np.insert(np.argwhere(plane), 0, k, axis=1) for k, plane in enumerate(labelmap.array)]
        voxels = np.concatenate([plane.astype(np.int32) for plane in planes])
        return cls(labelmap.shape, voxels, labelmap.array[tuple(voxels.T)])

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """The label map (H, W) of one slice, 0 where nothing is painted."""
        inside = self.voxels[:, axis] == index
        plane = np.zeros(np.delete(self.shape, axis), self.labels.dtype)
        plane[tuple(np.delete(self.voxels[inside], axis, axis=1).T)] = self.labels[inside]
        return plane

    def painted_in(self, axis: int, label: int) -> set[int]:
        """Find the slices along an axis that strokes of a label were painted in, not those that they only cross.

        A stroke was painted in the one slice that it lies in. Where strokes of several views meet, these are slices in
        which a quarter of the voxels, or more, have none of the label around them in the slices beside.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
        from scipy.spatial import cKDTree

        voxels, found = self.voxels[self.labels == label], set()
        pairs = cKDTree(voxels).query_pairs(1.0, p=np.inf, output_type="ndarray")
        along = voxels[:, axis]
        beside = np.zeros(len(voxels), bool)
        beside[pairs[along[pairs[:, 0]] != along[pairs[:, 1]]]] = True
        neighbours = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(voxels), len(voxels)))
        count, strokes = connected_components(neighbours, directed=False)
        for number in range(count):
            inside = strokes == number
            flat = np.ptp(voxels[inside], axis=0) == 0
            for index in np.unique(along[inside]).tolist() if flat[axis] or not flat.any() else ():
                if flat[axis] or np.mean(beside[inside & (along == index)]) <= 0.75:
                    found.add(index)
        return found


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """All prompts in one slice."""

    axis: int  # that the slice is cut along
    index: int  # position on that axis
    strokes: NDArray[Any]  # (H, W) labels painted, 0 where nothing is
    marks: tuple[Mark, ...] = ()  # those that reach into the slice, by (row, column)
    background: int | None = None  # label whose strokes only mark background

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that something points at in this slice, ascending."""
        found = {int(label) for label in np.unique(self.strokes)} - {0, self.background}
        return tuple(sorted(found | {mark.label for mark in self.marks if mark.positive and mark.label}))

    def prompts(self, label: int) -> Prompts:
        """What the slice's prompts say about one label: those of every other label are negative."""
        positive = self.strokes == label
        # "Not label 2" says nothing about label 1.
        clicks = [m for m in self.marks if not m.is_box and (m.positive or m.label in (None, label))]
        boxes = [(mark.start, mark.stop) for mark in self.marks if mark.is_box and mark.label == label]
        return Prompts(
            scribbles=np.stack([positive, (self.strokes != 0) & ~positive]),
            point_coords=np.array([click.start for click in clicks], np.int64).reshape(-1, 2),
            point_labels=np.array([click.positive and click.label == label for click in clicks], np.int64),
            boxes=np.array(boxes, np.int64).reshape(-1, 2, 2),
        )


class LabelledPrompts:
    """Everything the user said about a volume.

    Args:
        strokes: What was painted.
        marks: Clicks and boxes, with two indices for a volume of one slice or with three.
        background: Label whose strokes only mark background and which is not segmented; None if there is none.

    Raises:
        PromptError: Nothing at all or only background; outside the volume; two labels on one pixel; a click or box
            that could mean several labels; a label with negative clicks only.
    """

    def __init__(self, strokes: Strokes, marks: Sequence[Mark] = (), background: int | None = None) -> None:
        self.shape, self.background, self._strokes = strokes.shape, background, strokes
        painted = {int(label) for label in np.unique(strokes.labels)}
        if background is not None and background not in painted:
            raise PromptError(f"No stroke has the background label {background}; there are {sorted(painted)}.")
        painted -= {background or 0}
        default = _default_label(painted, marks)
        self._marks = [self._in_volume(mark, default) for mark in marks]
        labels = painted | {mark.label for mark in self._marks if mark.positive}
        if not labels:
            if len(strokes.labels) or marks:
                raise PromptError("Only background is marked: mark the object, too, with a stroke, click or box.")
            raise PromptError("There is no stroke, click or box: mark the object with one.")
        if background in labels:
            raise PromptError(
                f"Label {background} is the background and has a click or box of its own. Use another label."
            )
        for mark in self._marks:
            if mark.label not in labels | {None}:
                raise PromptError(f"Label {mark.label} has negative clicks only: mark it with a positive one as well.")
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
        axis, index = choice or (self._likely_axis(), None)
        held = sorted(self._held(axis, positive=True))
        if index is None:
            return axis, held
        if not 0 <= index < self.shape[axis]:
            raise PromptError(
                f"Slice {AXES[axis]}:{index} is outside the image of shape {self.shape}; choose from 0 to "
                f"{self.shape[axis] - 1}."
            )
        for mark in self._marks:
            if not mark.start[axis] <= index < mark.stop[axis]:
                what = str(mark).capitalize()
                raise PromptError(f"{what} does not lie in the chosen slice {AXES[axis]}:{index}. Move or remove it.")
        if index not in held:
            there = ", ".join(f"{AXES[axis]}:{n}" for n in held[:5]) + (", ..." if len(held) > 5 else "")
            raise PromptError(
                f"Nothing points at an object in slice {AXES[axis]}:{index}; strokes, clicks or boxes are in {there}."
            )
        return axis, [index]

    def unused_slices(self, axis: int, indices: Sequence[int]) -> list[int]:
        """Slices along an axis that hold prompts and are not among `indices`."""
        return sorted(self._held(axis) - set(indices))

    def in_slice(self, axis: int, index: int) -> SlicePrompts:
        """Cut the prompts of one slice out."""

        def cut(position: tuple[int, ...]) -> tuple[int, ...]:
            return position[:axis] + position[axis + 1 :]

        marks = [mark for mark in self._marks if mark.start[axis] <= index < mark.stop[axis]]
        return SlicePrompts(
            axis,
            index,
            self._strokes.plane(axis, index),
            tuple(replace(mark, start=cut(mark.start), stop=cut(mark.stop)) for mark in marks),
            self.background,
        )

    def _in_volume(self, mark: Mark, default: int | None) -> Mark:
        """Give a mark the label it means, and its k in an image of one slice; refuse what is not in the volume."""
        start, stop, what = mark.start, mark.stop, str(mark).capitalize()
        if len(start) == 2 and self.shape[0] == 1:
            start, stop = (0, *start), (1, *stop)
        if len(start) != 3:
            raise PromptError(f"{what} has {len(start)} indices, the image has the shape {self.shape}. Give k,j,i.")
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            raise PromptError(f"{what} is reversed or empty. Every start must be below its stop, which is excluded.")
        if min(start) < 0 or any(b > side for b, side in zip(stop, self.shape, strict=True)):
            raise PromptError(
                f"{what} is outside the image of shape {self.shape} (k, j, i). Indices start at 0"
                f"{'; the stop is excluded' if mark.is_box else ''}."
            )
        return replace(mark, start=start, stop=stop, label=mark.label or (default if mark.positive else None))

    def _refuse_conflicts(self) -> None:
        said: dict[tuple[int, ...], list[tuple[str, Mark]]] = {}
        for click in (mark for mark in self._marks if not mark.is_box):
            if click.start not in said:
                painted = self._strokes.labels[(self._strokes.voxels == click.start).all(axis=1)].tolist()
                said[click.start] = [(f"a stroke of label {n}", Mark((), (), n != self.background, n)) for n in painted]
            for what, other in said[click.start]:
                if self._contradict(click, other):
                    raise PromptError(
                        f"Two labels on one pixel: {_text(click.start)} has {what} and a click {click.sign}. Remove "
                        "one."
                    )
            said[click.start].append((f"a click {click.sign}", click))

    def _contradict(self, one: Mark, other: Mark) -> bool:
        if one.positive == other.positive:
            return one.positive and one.label != other.label
        positive, negative = (one, other) if one.positive else (other, one)
        return negative.label in (None, self.background, positive.label)

    def _held(self, axis: int, *, positive: bool = False) -> set[int]:
        """Slices along an axis that hold prompts, or that hold positive ones."""
        painted = self._strokes.voxels[:, axis]
        if positive:
            painted = painted[self._strokes.labels != (self.background or 0)]
        marks = [mark for mark in self._marks if mark.positive or not positive]
        return set(np.unique(painted).tolist()).union(*(range(mark.start[axis], mark.stop[axis]) for mark in marks))

    def _likely_axis(self) -> int:
        held = [self._held(axis) for axis in range(3)]
        flat = [axis for axis in range(3) if len(held[axis]) == 1]
        if 0 in flat or not flat:
            return 0
        if len(flat) == 2:
            (j,), (i,) = held[1:]
            raise PromptError(
                f"All prompts lie on the line j = {j}, i = {i}, which belongs to slices along j and along i. Say which "
                f"with --slice j:{j} or --slice i:{i}."
            )
        return flat[0]


def _default_label(painted: set[int], marks: Sequence[Mark]) -> int | None:
    """The label of clicks and boxes that name none: the only one painted, or 1; None if several could be meant."""
    named = painted | {mark.label for mark in marks if mark.label is not None}
    default = next(iter(painted), 1)
    if named <= {default}:
        return default
    for mark in marks:
        if mark.positive and mark.label is None:
            raise PromptError(
                f"There are the labels {sorted(named)}, and the {mark} does not say which it means. Put the number "
                f"after the sign, as in +{max(named)}."
            )
    return None


def _integers(parts: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(int, parts)) if all(re.fullmatch(r"-?\d+", part) for part in parts) else ()


def _label(digits: str | None, text: str) -> int | None:
    if digits is not None and int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} names label {digits}; labels are numbered from 1")
    return None if digits is None else int(digits)


def _text(index: tuple[int, ...]) -> str:
    return ",".join(map(str, index))
