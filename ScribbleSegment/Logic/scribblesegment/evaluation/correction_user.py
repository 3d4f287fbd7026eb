"""The simulated user who corrects a segmentation with several labels.

One interaction marks, for each label, the background included, the largest region that has this label in truth and got
another one. Regions are what a person sees as wrong: a border that is one pixel off is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import ConfigError
from scribblesegment.simulation.clicks import largest_component_center
from scribblesegment.simulation.regions import BoolArray, bounding_slices
from scribblesegment.simulation.rounds import SCRIBBLE_KINDS, simulate_scribble
from scribblesegment.simulation.scribbles import VISIBLE, ScribbleConfig

INPUTS = ("scribbles", "points", "boxes")

Labels = NDArray[np.integer]

_CROSS = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class CorrectingUser:
    """Habits of the user; lengths in pixels of 256 x 256 images.

    Attributes:
        kind: Of the scribbles, one of `scribblesegment.simulation.SCRIBBLE_KINDS`.
        length: Most pixels along a scribble.
        thickness: Of the brush, up to 5 as drawn by people on such images (docs/evaluation.md).
        least_error: Regions with fewer pixels are not worth a stroke.
        point_radius: Of a point.

    Raises:
        ConfigError: If a value is refused.
    """

    kind: str = "centerline"
    length: int = 40
    thickness: int = 3
    least_error: int = 30
    point_radius: float = 2.0

    def __post_init__(self) -> None:
        """Refuse impossible habits."""
        if self.kind not in SCRIBBLE_KINDS:
            raise ConfigError(f"Unknown scribble kind {self.kind!r}; known are {', '.join(SCRIBBLE_KINDS)}.")
        if min(self.length, self.thickness, self.least_error) < 1 or self.point_radius < 0:
            raise ConfigError(f"length, thickness and least_error are at least 1, point_radius at least 0; got {self}.")


def correct(
    before: LabelScribbles,
    truth: Labels,
    predicted: Labels,
    rng: np.random.Generator,
    user: CorrectingUser,
    *,
    outputs: int,
    input_kind: str = "scribbles",
) -> tuple[LabelScribbles, int]:
    """Make one interaction.

    Args:
        before: All marks so far.
        truth: (H, W), labels below `outputs`.
        predicted: (H, W), the segmentation to correct.
        rng: Source of randomness.
        user: Habits.
        outputs: Number of labels, the background among them.
        input_kind: One of `INPUTS`. The background has no box; where only it is wrong, it gets a scribble.

    Returns:
        The marks with the new ones, and how many strokes, points or boxes these are: 0 if nothing is worth one.

    Raises:
        ConfigError: If there is no such kind of input.
    """
    if input_kind not in INPUTS:
        raise ConfigError(f"No input {input_kind!r}; there are {', '.join(INPUTS)}.")
    scribbles, count = before, 0
    for label, region in wrong_regions(truth, predicted, user.least_error, outputs=outputs):
        if input_kind == "points":
            center = largest_component_center(region)[0]
            disc = LabelScribbles.empty(truth.shape).with_point(center.tolist(), 1, user.point_radius).marked
            # A disc may reach beyond the region; a person would not put it there.
            scribbles = scribbles.with_scribble(disc & (truth == label), label)
        elif input_kind == "boxes" and label > 0:
            scribbles = _with_box(scribbles, truth, predicted, region, label)
        else:
            scribbles = scribbles.with_scribble(_stroke(region, rng, user), label)
        count += 1
    return scribbles, count


def wrong_regions(truth: Labels, predicted: Labels, least: int, *, outputs: int) -> Iterator[tuple[int, BoolArray]]:
    """Give, for every label, the largest connected region that should have it and has not, if it is large enough.

    Regions are compared, and given, without parts thinner than three pixels.
    """
    for label in range(outputs):
        wrong = (truth == label) & (predicted != label)
        seen = ndimage.binary_opening(wrong, _CROSS)
        components, count = ndimage.label(seen)
        if count:
            areas = np.bincount(components.ravel())[1:]
            if areas.max() >= least:
                yield label, components == int(areas.argmax()) + 1


def as_prompt_masks(scribbles: LabelScribbles, label: int) -> tuple[BoolArray, BoolArray]:
    """Give the same strokes as a method for one structure takes them: on it, and on anything else."""
    on = scribbles.labels == label
    return on, scribbles.marked & ~on


def _stroke(region: BoolArray, rng: np.random.Generator, user: CorrectingUser) -> BoolArray:
    habits = ScribbleConfig(
        thickness=(user.thickness, user.thickness),
        break_sigma=(16.0, 40.0),  # one stroke, seldom broken
        max_pixels=user.length * user.thickness,
    )
    return np.asarray(simulate_scribble(region, user.kind, rng, config=habits) >= VISIBLE)


def _with_box(
    scribbles: LabelScribbles, truth: Labels, predicted: Labels, region: BoolArray, label: int
) -> LabelScribbles:
    """Draw a tight box around the structure that the wrong region is a part of."""
    components, _ = ndimage.label(truth == label)
    number = int(np.bincount(components[region]).argmax())
    rows, columns = bounding_slices(components == number)
    outside = np.asarray(predicted, dtype=np.int16)
    return scribbles.with_box((rows.start, columns.start), (rows.stop, columns.stop), label, outside=outside)
