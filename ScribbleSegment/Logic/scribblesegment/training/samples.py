"""Training samples: an augmented image, its mask, and the first round of prompts.

Sample number i of a run depends on the run's seed and on i alone. A run can therefore be resumed, or spread over
processes, without replaying what came before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from scribblesegment.exceptions import DatasetError
from scribblesegment.models.encoding import encode_batch
from scribblesegment.preprocessing import IntensityRange
from scribblesegment.prompts import Prompts
from scribblesegment.simulation.fields import FloatArray
from scribblesegment.simulation.rounds import simulate_first_round
from scribblesegment.training.augmentation import (
    change_intensities,
    halve,
    is_inside,
    random_coordinates,
    refine_coordinates,
    resample,
)
from scribblesegment.training.config import TrainingConfig
from scribblesegment.training.datasets import HierarchicalSampler, Sample, SegmentationSet
from scribblesegment.training.synthesis import UnsignedArray, pick_superpixel, superpixels
from scribblesegment.training.synthetic_images import synthetic_image

BoolArray = NDArray[np.bool_]

# Samples are made at this many times the resolution of the network's grid, for second looks at finer pixels.
FINE = 2

# Augmentations tried on one structure before another is drawn: an augmentation may move a small structure out of sight.
_ATTEMPTS = 6

# Structures drawn for one sample before the corpus or the configuration is found unusable.
_MAX_DRAWS = 200

# Reading every second source pixel or fewer would alias: beyond this step a halved copy is read.
_HALVE_ABOVE = 1.5


@dataclass(frozen=True)
class TrainingSample:
    """One sample.

    Attributes:
        fine_image: float32 (2 size, 2 size) in [0, 1]: at twice the resolution of the network's grid.
        fine_mask: bool (2 size, 2 size).
        mask: bool (size, size), on the network's grid.
        prompts: On the network's grid.
    """

    fine_image: FloatArray
    fine_mask: BoolArray
    mask: BoolArray
    prompts: Prompts

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
    """

    images: Tensor
    masks: Tensor
    prompts: list[Prompts]
    fine_images: Tensor
    fine_masks: Tensor

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

    return Batch(
        images=stack([sample.image for sample in samples]),
        masks=stack([sample.mask for sample in samples]),
        prompts=[sample.prompts for sample in samples],
        fine_images=stack([sample.fine_image for sample in samples]),
        fine_masks=stack([sample.fine_mask for sample in samples]),
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
        image, fine_mask = self._draw(rng)
        mask = halve(fine_mask) >= 0.5
        return TrainingSample(image, fine_mask, mask, simulate_first_round(mask, rng, config=self._config.user))

    def _draw(self, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
        """Draw structures and augmentations until one shows enough of its structure; both at twice the resolution."""
        data = self._config.data
        for _ in range(_MAX_DRAWS):
            drawn = self._draw_shape(rng) if rng.random() < data.shapes_p else self._draw_structure(rng)
            if drawn is None:
                continue
            image, mask = drawn
            for _ in range(_ATTEMPTS):
                moved, moved_mask, inside = self._move(image, mask, rng)
                on_grid = halve(moved_mask) >= 0.5
                if data.min_area <= on_grid.sum() < on_grid.size:
                    # The padding of a real slice is exactly zero, whatever its contrast: keep it so.
                    return change_intensities(moved, rng, data.augmentation) * inside, moved_mask
        raise DatasetError(
            f"None of {_MAX_DRAWS} drawn structures covers at least {data.min_area} pixels, and not everything, of a "
            f"{self._config.size} x {self._config.size} grid. Lower data.min_area, or leave out sets whose structures "
            "fill the image."
        )

    def _draw_structure(self, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
        """Draw an image of the corpus and one of its labels, or a superpixel in a label's place."""
        sample = self._sampler.draw(rng)
        source = self._sets[sample.set_index].images[sample.image_index]
        image = IntensityRange.estimate(source).normalize(source)
        mask = self._synthetic_mask(sample, image, rng) if rng.random() < self._config.data.synthetic_p else None
        return image, self._real_mask(sample, rng) if mask is None else mask

    def _draw_shape(self, rng: np.random.Generator) -> tuple[FloatArray, BoolArray] | None:
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
        return image.astype(np.float32) / np.float32(255), np.isin(labels, rng.permutation(large)[:count])

    def _move(
        self, image: FloatArray, mask: BoolArray, rng: np.random.Generator
    ) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Bring image and mask to twice the grid by one random map; also tell which pixels lie inside the image."""
        side = image.shape[0]
        rows, columns = random_coordinates(side, self._config.size, rng, self._config.data.augmentation)
        rows, columns = refine_coordinates(rows, FINE), refine_coordinates(columns, FINE)
        inside = is_inside(side, rows, columns)
        pixels_apart = float(np.hypot(rows[-1, 0] - rows[0, 0], columns[-1, 0] - columns[0, 0])) / (len(rows) - 1)
        halvings = max(0, math.ceil(math.log2(pixels_apart / _HALVE_ABOVE)))
        of_mask = 0 if len(mask) == side else 1  # superpixels come on the half-size grid
        moved = resample(halve(image, halvings), rows, columns, halvings=halvings)
        moved_mask = resample(halve(mask, halvings - of_mask), rows, columns, halvings=max(halvings, of_mask))
        return moved * inside, (moved_mask > 0.5) & inside, inside

    def _real_mask(self, sample: Sample, rng: np.random.Generator) -> BoolArray:
        labels = self._sets[sample.set_index].labels[sample.image_index]
        others = [label for label in self._sampler.labels_of(sample) if label != sample.label]
        if others and rng.random() < self._config.data.union_p:
            extra = rng.permutation(others)[: int(rng.integers(1, len(others) + 1))]
            return np.isin(labels, [sample.label, *extra])
        return np.asarray(labels == sample.label, dtype=np.bool_)

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
