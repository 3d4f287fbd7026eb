"""Context sets of training samples: other examples of the target's task (MultiverSeg, section 3.3, appendix B).

A task is a structure in images that were all changed alike (task augmentation); every example is also changed on its
own (within-task augmentation). Real labels take their examples from other images that show them, slices near the
target's among them. Superpixels and synthetic images have only one, which is deformed anew for every example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.preprocessing import IntensityRange
from scribblesegment.segmentation_sets import SegmentationSet, subjects_of
from scribblesegment.simulation.fields import FloatArray, gaussian_blur, sample_linear
from scribblesegment.training.augmentation import (
    change_contrast,
    change_texture,
    halve,
    is_inside,
    random_coordinates,
    resample,
)
from scribblesegment.training.config import DataConfig
from scribblesegment.training.datasets import HierarchicalSampler, Sample

BoolArray = NDArray[np.bool_]

# Reading every second source pixel or fewer would alias: beyond this step a halved copy is read.
_HALVE_ABOVE = 1.5

# A mask as logits of a previous prediction: blurred by up to so many pixels, and this far from zero inside.
_PREVIOUS_BLUR, _PREVIOUS_LOGIT = (0.5, 3.0), (2.0, 8.0)

# Half the width of the border that stands in for a structure, as a fraction of the image's side.
_BORDER = 1 / 128


@dataclass(frozen=True)
class Drawn:
    """A structure before augmentation.

    Attributes:
        image: float32 (side, side) in [0, 1].
        mask: bool, of the image's side or of half of it.
        sample: The image in the corpus; None for synthetic ones.
        labels: Which labels the structure consists of; None for all objects of an image; empty where other images do
            not show the same structure.
    """

    image: FloatArray
    mask: BoolArray
    sample: Sample | None = None
    labels: tuple[int, ...] | None = ()


@dataclass(frozen=True)
class TaskChange:
    """What is changed alike in all examples of a task.

    Attributes:
        rows: float32 (size, size), the row of the source that each pixel of the network's grid reads.
        columns: float32 (size, size).
        contrast_seed: Seed of the change of contrast.
        border_only: Whether the structure's border stands for the structure.
    """

    rows: FloatArray
    columns: FloatArray
    contrast_seed: int
    border_only: bool = False


class ContextDrawer:
    """Draws the examples of a task."""

    def __init__(
        self, sets: Sequence[SegmentationSet], sampler: HierarchicalSampler, data: DataConfig, size: int
    ) -> None:
        """Note which slice of which subject every image is."""
        self._sets, self._sampler, self._data, self._size = sets, sampler, data, size
        self._places = [_places(entry) for entry in sets]

    def draw(
        self, drawn: Drawn, change: TaskChange, count: int, rng: np.random.Generator
    ) -> tuple[FloatArray, BoolArray]:
        """Draw a context set.

        Args:
            drawn: The target.
            change: What the target is changed by, too.
            count: Entries.
            rng: Source of randomness.

        Returns:
            Images float32 (count, size, size) in [0, 1] and masks bool (count, size, size).
        """
        context = self._data.context
        others = self._others(drawn)
        if rng.random() < context.copy_p:
            others = []
        images = np.zeros((count, self._size, self._size), np.float32)
        masks = np.zeros(images.shape, bool)
        for index in range(count):
            example, within = drawn, context.of_copies
            if others:
                example, within = self._example(drawn, self._choose(drawn, others, rng)), context.within
            rows, columns = random_coordinates(self._size, self._size, rng, within)
            inside = is_inside(self._size, rows, columns)
            rows, columns = np.clip(rows, 0, self._size - 1), np.clip(columns, 0, self._size - 1)
            rows, columns = sample_linear(change.rows, rows, columns), sample_linear(change.columns, rows, columns)
            image, masks[index], covered = read_example(example, rows, columns, border_only=change.border_only)
            image = change_contrast(image, np.random.default_rng(change.contrast_seed), self._data.augmentation)
            image = change_texture(change_contrast(image, rng, within), rng, within)
            images[index] = image * (inside & covered)
            masks[index] &= inside
        return images, masks

    def _others(self, drawn: Drawn) -> list[int]:
        """List the images that show the same structure as the target's."""
        if drawn.sample is None or drawn.labels == ():
            return []
        return [
            index
            for index in self._sampler.images_with(drawn.sample.set_index, drawn.labels)
            if index != drawn.sample.image_index
        ]

    def _choose(self, drawn: Drawn, others: list[int], rng: np.random.Generator) -> int:
        context = self._data.context
        if drawn.sample is not None and rng.random() < context.neighbour_p:
            places = self._places[drawn.sample.set_index]
            volume, position = places[drawn.sample.image_index]
            near = [
                index
                for index in others
                if volume and places[index][0] == volume and abs(places[index][1] - position) <= context.reach
            ]
            others = near or others
        return others[int(rng.integers(len(others)))]

    def _example(self, drawn: Drawn, image_index: int) -> Drawn:
        if drawn.sample is None:
            return drawn
        entry = self._sets[drawn.sample.set_index]
        source, labels = entry.images[image_index], entry.labels[image_index]
        return Drawn(IntensityRange.estimate(source).normalize(source), label_mask(labels, drawn.labels))


def label_mask(labels: NDArray[np.generic], wanted: tuple[int, ...] | None) -> BoolArray:
    """Give where a label map (H, W) has one of some labels, or any for None."""
    return np.asarray(labels != 0 if wanted is None else np.isin(labels, wanted), dtype=np.bool_)


def read_example(
    example: Drawn, rows: FloatArray, columns: FloatArray, *, border_only: bool = False
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Read image and mask at coordinates of the source; also tell which of them lie inside it."""
    side = example.image.shape[0]
    inside = is_inside(side, rows, columns)
    pixels_apart = float(np.hypot(rows[-1, 0] - rows[0, 0], columns[-1, 0] - columns[0, 0])) / (len(rows) - 1)
    halvings = max(0, math.ceil(math.log2(max(pixels_apart, 1e-6) / _HALVE_ABOVE)))
    of_mask = 0 if len(example.mask) == side else 1  # superpixels come on the half-size grid
    mask = border(example.mask) if border_only else example.mask
    moved = resample(halve(example.image, halvings), rows, columns, halvings=halvings)
    moved_mask = resample(halve(mask, halvings - of_mask), rows, columns, halvings=max(halvings, of_mask))
    return moved * inside, (moved_mask > 0.5) & inside, inside


def border(mask: BoolArray) -> BoolArray:
    """Give the pixels of a mask (H, W), and beside it, that are next to its outline."""
    reach = max(1, round(_BORDER * len(mask)))
    inner = ndimage.binary_erosion(mask, iterations=reach, border_value=1)
    return np.asarray(ndimage.binary_dilation(mask, iterations=reach) & ~inner, dtype=np.bool_)


def as_previous(mask: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Turn the mask of a neighbouring slice into logits of a previous prediction, float32 (H, W)."""
    blurred = gaussian_blur(mask.astype(np.float32), rng.uniform(*_PREVIOUS_BLUR))
    return np.asarray((2.0 * blurred - 1.0) * rng.uniform(*_PREVIOUS_LOGIT), dtype=np.float32)


def _places(entry: SegmentationSet) -> list[tuple[str, int]]:
    """Give for each image its volume and axis, empty where the set does not say, and its slice number."""
    count = len(entry.images)
    axes, slices = entry.meta.get("axis"), entry.meta.get("index")
    if not (isinstance(axes, list) and isinstance(slices, list) and len(axes) == len(slices) == count):
        return [("", 0)] * count
    return [
        (f"{subject}/{axis}" if subject and isinstance(axis, int) and isinstance(index, int) else "", int(index or 0))
        for subject, axis, index in zip(subjects_of(entry.meta, count), axes, slices, strict=True)
    ]
