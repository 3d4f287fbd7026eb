"""Training samples: an augmented image, its mask, and the first round of prompts.

Sample number i of a run depends on the run's seed and on i alone. A run can therefore be resumed, or spread over
processes, without replaying what came before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import DatasetError
from scribblesegment.models.encoding import encode_batch
from scribblesegment.simulation.scribbles import FloatArray, gaussian_blur, sample_linear
from scribblesegment.simulation.user import simulate_first_round
from scribblesegment.training.augmentation import (
    change_contrast,
    change_texture,
    halve,
    is_inside,
    random_coordinates,
    refine_coordinates,
    resample,
)
from scribblesegment.training.config import DataConfig, TrainingConfig
from scribblesegment.training.corpus import HierarchicalSampler, Sample, SegmentationSet, subjects_of
from scribblesegment.training.synthesis import UnsignedArray, pick_superpixel, superpixels, synthetic_image

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


# Samples are made at this many times the resolution of the network's grid, for second looks at finer pixels.
FINE = 2


# Augmentations tried on one structure before another is drawn: an augmentation may move a small structure out of sight.
_ATTEMPTS = 6


# Structures drawn for one sample before the corpus or the configuration is found unusable.
_MAX_DRAWS = 200


# Tells the generator of a step's context size from those of its samples.
_CONTEXT_KEY = 2**31 + 1


# Chance that all objects of an image are the structure, where objects have no counterparts in other images.
_ALL_OBJECTS_P = 0.5


@dataclass(frozen=True)
class TrainingSample:
    """One sample.

    Attributes:
        fine_image: float32 (2 size, 2 size) in [0, 1]: at twice the resolution of the network's grid.
        fine_mask: bool (2 size, 2 size).
        mask: bool (size, size), on the network's grid.
        prompts: On the network's grid; without any where the first look has the context alone.
        context_images: float32 (S, size, size) in [0, 1], other examples of the task; None in a run without.
        context_masks: bool (S, size, size).
        previous_logits: float32 (size, size), what the first look is given as previous prediction; None for nothing.
    """

    fine_image: FloatArray
    fine_mask: BoolArray
    mask: BoolArray
    prompts: Prompts
    context_images: FloatArray | None = None
    context_masks: BoolArray | None = None
    previous_logits: FloatArray | None = None

    @property
    def image(self) -> FloatArray:
        """The image on the network's grid, float32 (size, size)."""
        return halve(self.fine_image)


@dataclass(frozen=True)
class Batch:
    """Samples together.

    Attributes:
        images: (B, 1, H, W) in [0, 1].
        masks: (B, 1, H, W), 0 or 1.
        prompts: One for each image.
        fine_images: (B, 1, 2 H, 2 W), the same images at twice the resolution.
        fine_masks: (B, 1, 2 H, 2 W).
        context_images: (B, S, 1, H, W), other examples of each image's task; None in a run without.
        context_masks: (B, S, 1, H, W), 0 or 1.
        previous_logits: (B, 1, H, W), what the first look is given as previous prediction; zeros for nothing, and None
            where no sample has any.
    """

    images: Tensor
    masks: Tensor
    prompts: list[Prompts]
    fine_images: Tensor
    fine_masks: Tensor
    context_images: Tensor | None = None
    context_masks: Tensor | None = None
    previous_logits: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Bring what the network sees to a device; second looks are cut from the fine images where they are."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            images=self.images.to(device),
            masks=self.masks.to(device),
            context_images=moved(self.context_images),
            context_masks=moved(self.context_masks),
            previous_logits=moved(self.previous_logits),
        )

    def encode(self, previous_logits: Tensor | None) -> Tensor:
        """Build the network's input, (B, 5, H, W) on the images' device.

        Args:
            previous_logits: (B, 1, H, W), or None before the first prediction.
        """
        return encode_batch(self.images, self.prompts, previous_logits)


def collate(samples: Sequence[TrainingSample]) -> Batch:
    """Stack samples into a batch."""

    def stack(arrays: list[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays).astype(np.float32, copy=False))[:, None]

    def stack_contexts(arrays: list[NDArray[Any] | None]) -> Tensor | None:
        given = [array for array in arrays if array is not None]
        return stack(given).swapaxes(1, 2) if given else None

    previous = [sample.previous_logits for sample in samples]
    nothing = np.zeros_like(samples[0].mask, dtype=np.float32)
    return Batch(
        images=stack([sample.image for sample in samples]),
        masks=stack([sample.mask for sample in samples]),
        prompts=[sample.prompts for sample in samples],
        fine_images=stack([sample.fine_image for sample in samples]),
        fine_masks=stack([sample.fine_mask for sample in samples]),
        context_images=stack_contexts([sample.context_images for sample in samples]),
        context_masks=stack_contexts([sample.context_masks for sample in samples]),
        previous_logits=None
        if all(logits is None for logits in previous)
        else stack([nothing if logits is None else logits for logits in previous]),
    )


class SampleDataset(Dataset[TrainingSample]):
    """All samples of a run, numbered; building one is independent of the others."""

    def __init__(self, sets: Sequence[SegmentationSet], config: TrainingConfig) -> None:
        """Index the corpus.

        Raises:
            DatasetError: If a set has no usable structure.
        """
        self._sets = sets
        self._config = config
        fraction = config.data.min_area / config.size**2
        self._sampler = HierarchicalSampler(sets, min_fraction=fraction, modality_balance=config.data.modality_balance)
        self._contexts = ContextDrawer(sets, self._sampler, config.data, config.size)
        self._superpixels: dict[tuple[int, int, int], UnsignedArray] = {}
        self._shapes: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        """Give the number of samples of the whole run."""
        return self._config.steps * self._config.batch_size

    def __getitem__(self, index: int) -> TrainingSample:
        """Build sample `index`.

        Raises:
            DatasetError: If no drawn structure can be seen on the network's grid.
        """
        rng = np.random.default_rng((self._config.seed, index))
        drawn, change, image, fine_mask = self._draw(rng)
        mask = halve(fine_mask) >= 0.5
        prompts = simulate_first_round(mask, rng, config=self._config.user)
        context = self._config.data.context
        if context.max_size == 0:
            return TrainingSample(image, fine_mask, mask, prompts)
        images, masks = self._contexts.draw(drawn, change, self._context_size(index), rng)
        previous = None
        if len(images) > 0 and rng.random() < context.silent_p:
            prompts = Prompts.empty((self._config.size, self._config.size))
            if rng.random() < context.previous_p:
                previous = as_previous(masks[int(rng.integers(len(masks)))], rng)
        return TrainingSample(image, fine_mask, mask, prompts, images, masks, previous)

    def _context_size(self, index: int) -> int:
        """Draw the number of context entries, the same for all samples of a step."""
        step = index // self._config.batch_size
        rng = np.random.default_rng((self._config.seed, _CONTEXT_KEY, step))
        return int(rng.integers(self._config.data.context.max_size + 1))

    def _draw(self, rng: np.random.Generator) -> tuple[Drawn, TaskChange, FloatArray, BoolArray]:
        """Draw structures and augmentations until one shows enough of its structure.

        Returns:
            The structure, what is changed alike in its context, and the augmented image and mask at twice the grid.
        """
        data = self._config.data
        for _ in range(_MAX_DRAWS):
            drawn = self._draw_shape(rng) if rng.random() < data.shapes_p else self._draw_structure(rng)
            if drawn is None:
                continue
            border_only = data.context.max_size > 0 and rng.random() < data.context.edges_p
            for _ in range(_ATTEMPTS):
                rows, columns = random_coordinates(len(drawn.image), self._config.size, rng, data.augmentation)
                image, mask, inside = read_example(
                    drawn, refine_coordinates(rows, FINE), refine_coordinates(columns, FINE), border_only=border_only
                )
                on_grid = halve(mask) >= 0.5
                if data.min_area <= on_grid.sum() < on_grid.size:
                    change = TaskChange(rows, columns, int(rng.integers(2**31)), border_only)
                    contrast = np.random.default_rng(change.contrast_seed)
                    image = change_texture(change_contrast(image, contrast, data.augmentation), rng, data.augmentation)
                    # The padding of a real slice is exactly zero, whatever its contrast: keep it so.
                    return drawn, change, image * inside, mask
        raise DatasetError(
            f"None of {_MAX_DRAWS} drawn structures covers at least {data.min_area} pixels, and not everything, of a "
            f"{self._config.size} x {self._config.size} grid. Lower data.min_area, or leave out sets whose structures "
            "fill the image."
        )

    def _draw_structure(self, rng: np.random.Generator) -> Drawn:
        """Draw an image of the corpus and one of its labels, or a superpixel in a label's place."""
        sample = self._sampler.draw(rng)
        source = self._sets[sample.set_index].images[sample.image_index]
        image = IntensityRange.estimate(source).normalize(source)
        if rng.random() < self._config.data.synthetic_p:
            mask = self._synthetic_mask(sample, image, rng)
            if mask is not None:
                return Drawn(image, mask, sample)
        wanted = self._real_labels(sample, rng)
        mask = label_mask(self._sets[sample.set_index].labels[sample.image_index], wanted)
        if self._sampler.is_instance_set(sample.set_index) and wanted is not None:
            return Drawn(image, mask, sample)  # an object has no others of its own in other images
        return Drawn(image, mask, sample, wanted)

    def _draw_shape(self, rng: np.random.Generator) -> Drawn | None:
        """Draw a synthetic image and one of its labels, or several; None where it shows none that is large enough."""
        data = self._config.data
        number = int(rng.integers(data.shapes_pool))
        if number not in self._shapes:
            # A generator of its own, as for superpixels; kept in bytes, because there are many.
            own_rng = np.random.default_rng((self._config.seed, number))
            drawn, labels = synthetic_image(FINE * self._config.size, own_rng)
            self._shapes[number] = np.rint(255 * drawn).astype(np.uint8), labels
        image, labels = self._shapes[number]
        areas = np.bincount(labels.ravel(), minlength=2)
        large = np.flatnonzero(areas[1:] >= data.min_area * FINE**2) + 1
        if large.size == 0:
            return None
        count = int(rng.integers(1, large.size + 1)) if rng.random() < data.union_p else 1
        return Drawn(image.astype(np.float32) / np.float32(255), np.isin(labels, rng.permutation(large)[:count]))

    def _real_labels(self, sample: Sample, rng: np.random.Generator) -> tuple[int, ...] | None:
        """Choose the labels that make up the structure; None for all objects of an instance set's image."""
        with_context = self._config.data.context.max_size > 0
        if with_context and self._sampler.is_instance_set(sample.set_index) and rng.random() < _ALL_OBJECTS_P:
            return None
        others = [label for label in self._sampler.labels_of(sample) if label != sample.label]
        if others and rng.random() < self._config.data.union_p:
            extra = rng.permutation(others)[: int(rng.integers(1, len(others) + 1))]
            return (sample.label, *(int(label) for label in extra))
        return (sample.label,)

    def _synthetic_mask(self, sample: Sample, image: FloatArray, rng: np.random.Generator) -> BoolArray | None:
        """Pick a superpixel; the mask has half the image's side, which is where superpixels are computed."""
        data = self._config.data
        variant = int(rng.integers(data.superpixel_variants))
        key = (sample.set_index, sample.image_index, variant)
        if key not in self._superpixels:
            # A generator of its own: the map must not depend on which sample asks for it first.
            own_rng = np.random.default_rng((self._config.seed, *key))
            self._superpixels[key] = superpixels(halve(image), own_rng.uniform(*data.superpixel_scale))
        partition = self._superpixels[key]
        # The area is set on the network's grid, which may be finer or coarser than the partition.
        min_area = math.ceil(data.min_area * partition.size / self._config.size**2)
        return pick_superpixel(
            partition,
            rng,
            min_area=min_area,
            area_power=data.superpixel_area_power,
            union_p=data.superpixel_union_p,
        )
