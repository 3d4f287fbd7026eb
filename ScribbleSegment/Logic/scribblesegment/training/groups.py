"""Training samples in groups: images of one task, each of which is target and, for the others, context.

A group shows one structure in several images: other images of its set, slices near the first one, or copies that are
deformed differently. Group number i of a run depends on the seed and on i alone. An image is encoded once and serves
as target and as context entry, so contexts cost nothing. Every image comes on the network's grid and, for the second
look, as a part of it at finer pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import box_of
from scribblesegment.errors import ConfigError
from scribblesegment.inference.devices import limited_threads
from scribblesegment.io.storage import atomic_file
from scribblesegment.simulation.painting import Stroke, draw_strokes, paint_first
from scribblesegment.simulation.user import SimulatedUserConfig, simulate_first_round
from scribblesegment.training.corpus import HierarchicalSampler, Sample, SegmentationSet
from scribblesegment.training.synthesis import pick_superpixel, reshaped, smooth_shape, superpixels, synthetic_image

_ELSEWHERE = -(2**31)  # in place of an image's number: any image of another set

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class GroupConfig:
    """Which groups are drawn. Numbers that end in `_p` are probabilities."""

    size: int = 192  # side of the network's grid
    kinds: tuple[tuple[int, int], ...] = ((12, 1), (3, 4), (1, 8))  # groups a step, images a group
    kind_shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    superpixel_p: float = 0.15  # a superpixel is the structure
    shapes_p: float = 0.12  # image and structure are synthetic
    shapes_pool: int = 240
    outline_p: float = 0.06  # the structure is a smooth outline that the image does not show
    reshaped_p: float = 0.15  # the structure is what lies in or around a label's shape
    part_p: float = 0.12  # only the part of the structure on one side of a line is wanted
    union_p: float = 0.25  # several labels are one structure
    absent_p: float = 0.12  # an image of a group does not show the structure
    all_objects_p: float = 0.5  # in sets of objects all are the structure
    neighbour_p: float = 0.5  # the other images of a group are slices near the first
    copies_p: float = 0.1  # the other images of a group are copies of the first
    silent_p: float = 0.4  # an image with a context has no prompts in the first round
    alone_p: float = 0.25  # an image of a group is segmented without its context
    poor_p: float = 0.0  # an image has a poor mask where it is context of the others
    focus_p: float = 0.5  # a step ends with a second look at finer pixels
    published_p: float = 0.0  # the published simulation's scribbles instead of strokes as people paint them
    background_p: float = 0.5  # strokes mark the background from the start, not the structure alone
    clicks_p: float = 0.25  # clicks beside, or instead of, strokes
    box_p: float = 0.25
    min_area: int = 24  # fewest pixels of a structure on the grid
    modality_balance: float = 0.4

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ConfigError(f"groups.size is a multiple of 32, got {self.size}.")
        if len(self.kinds) != len(self.kind_shares) or not math.isclose(sum(self.kind_shares), 1.0):
            raise ConfigError(f"groups.kind_shares, one for each of groups.kinds, add up to 1; got {self.kind_shares}.")


@dataclass
class GroupSample:
    """Images of one task. K is their number, S the side of the grid."""

    images: NDArray[np.uint8]  # (K, S, S)
    masks: BoolArray  # (K, S, S)
    strokes: list[list[Stroke]]  # on the grid
    boxes: FloatArray  # (K, 4): start row, column, stop row, column; negative without
    fine_images: NDArray[np.uint8] | None  # (K, S, S): a part at finer pixels
    fine_masks: BoolArray | None
    windows: FloatArray  # (K, 3): start row, start column, side of that part on the grid
    allowed: BoolArray  # (K, K): which images of the group each one may use as context
    extra: FloatArray | None = None  # (K, 2, S, S): prompts that are no painted strokes


@dataclass
class Batch:
    """Groups together; B = groups * images a group."""

    groups: int
    images: Tensor  # (B, 1, S, S) in [0, 1]
    masks: Tensor  # (B, 1, S, S)
    fine_images: Tensor | None
    fine_masks: Tensor | None
    windows: Tensor  # (B, 3)
    allowed: Tensor  # (B, K)
    strokes: list[list[Stroke]]
    boxes: FloatArray
    extra: FloatArray | None
    rounds: int = 1
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """An image with its structure before augmentation."""

    image: FloatArray  # (side, side) in [0, 1]
    mask: BoolArray
    unwanted: BoolArray | None = None  # what looks like the structure and is not wanted
    shown: bool = True  # whether the image shows where it ends; else the prompts have to say so


class GroupDataset(Dataset[Batch]):
    """All steps of a run, numbered; building one is independent of the others."""

    def __init__(
        self,
        sets: Sequence[SegmentationSet],
        config: GroupConfig,
        *,
        steps: int,
        seed: int,
        cache: Path,
        first: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Index the corpus.

        Args:
            sets: The corpus.
            config: What is drawn.
            steps: Of the whole run.
            seed: Of everything random.
            cache: Folder where synthetic images are kept.
            first: Step that item 0 is.
            rank: Of this process among all that train together; each has groups of its own.
            processes: Their number.
        """
        self._sets, self._config, self._steps, self._seed, self._first = sets, config, steps, seed, first
        self._rank, self._processes = rank, processes
        self._sampler = HierarchicalSampler(
            sets, min_fraction=config.min_area / config.size**2, modality_balance=config.modality_balance
        )
        self._lacking = [_images_without(entry) for entry in sets]
        self._superpixels: dict[tuple[int, int], NDArray[Any]] = {}
        self._shapes = _synthetic_pool(cache, config.shapes_pool)

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __getitem__(self, index: int) -> Batch:
        with limited_threads(1):
            return self._batch(index)

    def _batch(self, index: int) -> Batch:
        step = (index + self._first) * self._processes + self._rank
        rng = np.random.default_rng((self._seed, step))
        config = self._config
        groups, each = config.kinds[int(rng.choice(len(config.kinds), p=config.kind_shares))]
        rounds = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
        fine = bool(rng.random() < config.focus_p)
        samples = [
            self._group(each, fine, np.random.default_rng((self._seed, step, number))) for number in range(groups)
        ]
        return _collate(samples, rounds, [int(seed) for seed in rng.integers(2**31, size=groups * each)])

    def _group(self, count: int, fine: bool, rng: np.random.Generator) -> GroupSample:
        for _ in range(100):
            sources, absent = self._sources(count, rng)
            sample = self._augmented(sources, absent, fine, rng)
            if sample is not None:
                return sample
        raise RuntimeError("None of 100 drawn groups shows enough of its structure; lower min_area.")

    def _sources(self, count: int, rng: np.random.Generator) -> tuple[list[_Source], list[bool]]:
        """Choose the images of a group with their structure, and tell which of them lack it."""
        config = self._config
        kind = rng.random()
        if kind < config.shapes_p:
            return [self._synthetic(rng)] * count, [False] * count
        sample = self._sampler.draw(rng)
        entry = self._sets[sample.set_index]
        image = _normalised(entry.images[sample.image_index])
        if kind < config.shapes_p + config.superpixel_p:
            mask = self._superpixel(sample.set_index, sample.image_index, image, rng)
            if mask is not None:
                return [_Source(image, mask)] * count, [False] * count
        if rng.random() < config.outline_p:
            return [_Source(image, smooth_shape(len(image), rng), shown=False)] * count, [False] * count
        wanted = self._wanted(sample, count, rng)
        indices = self._others(sample.set_index, sample.image_index, wanted, count - 1, rng)
        absent = self._replaced_by_absent(indices, sample, wanted, rng)
        sources = []
        reshape = None
        if rng.random() < config.reshaped_p:
            reshape = str(rng.choice(["hull", "closed", "grown", "shrunk"])), float(rng.uniform(0.1, 0.5))
        split = float(rng.uniform(0, 2 * np.pi)) if count == 1 and rng.random() < config.part_p else None
        for number, index in enumerate(indices):
            if index == _ELSEWHERE:
                other = self._sets[(sample.set_index + int(rng.integers(1, len(self._sets)))) % len(self._sets)]
                picture = _normalised(other.images[int(rng.integers(len(other.images)))])
                sources.append(_Source(picture, np.zeros(picture.shape, bool)))
                continue
            if index < 0:
                picture = _normalised(np.asarray(entry.meta["negatives"][-1 - index]))
                sources.append(_Source(picture, np.zeros(picture.shape, bool)))
                continue
            labels = entry.labels[index]
            mask = labels > 0 if wanted is None else np.isin(labels, wanted)
            picture = image if index == sample.image_index else _normalised(entry.images[index])
            if reshape is not None:
                mask = reshaped(mask, *reshape)
            unwanted = None
            if split is not None and not absent[number]:
                mask, unwanted = _halved(mask, split, rng)
            elif wanted is not None and entry.instances and rng.random() < 0.5:
                unwanted = (labels > 0) & ~mask
            sources.append(_Source(picture, mask, unwanted, shown=reshape is None and split is None))
        return sources, absent

    def _synthetic(self, rng: np.random.Generator) -> _Source:
        images, labels = self._shapes
        number = int(rng.integers(len(images)))
        found = np.unique(labels[number])
        found = found[found > 0]
        chosen = rng.permutation(found)[: int(rng.integers(1, len(found) + 1)) if rng.random() < 0.4 else 1]
        return _Source(images[number].astype(np.float32) / 255, np.isin(labels[number], chosen))

    def _wanted(self, sample: Sample, count: int, rng: np.random.Generator) -> tuple[int, ...] | None:
        """Choose the labels that are the structure together; None for all objects."""
        config = self._config
        if self._sets[sample.set_index].instances and (rng.random() < config.all_objects_p or count > 1):
            return None
        if rng.random() < config.union_p:
            others = [label for label in self._sampler.labels_of(sample) if label != sample.label]
            if others:
                extra = rng.permutation(others)[: int(rng.integers(1, len(others) + 1))]
                return (sample.label, *(int(label) for label in extra))
        return (sample.label,)

    def _replaced_by_absent(
        self, indices: list[int], sample: Sample, wanted: tuple[int, ...] | None, rng: np.random.Generator
    ) -> list[bool]:
        """Exchange some images for such without the structure, negative where they are none of the set's own."""
        config, entry, count = self._config, self._sets[sample.set_index], len(indices)
        absent = [False] * count
        if count == 1 and wanted is None:
            return absent
        lacking = [] if wanted is None or entry.instances else self._without(sample.set_index, wanted)
        negatives = entry.meta.get("negatives")
        known = bool(lacking) or negatives is not None
        chance = config.absent_p * (1.0 if count > 1 else 0.4)
        for number in range(1, count) if count > 1 else [0]:
            if rng.random() < chance and (known or len(self._sets) > 1):
                absent[number] = True
                if not known:
                    indices[number] = _ELSEWHERE
                elif negatives is not None and (not lacking or rng.random() < 0.5):
                    indices[number] = -1 - int(rng.integers(len(negatives)))
                else:
                    indices[number] = lacking[int(rng.integers(len(lacking)))]
        return absent

    def _others(
        self, set_index: int, image_index: int, wanted: tuple[int, ...] | None, count: int, rng: np.random.Generator
    ) -> list[int]:
        if count == 0:
            return [image_index]
        config = self._config
        if rng.random() < config.copies_p:
            return [image_index] * (count + 1)
        candidates = [index for index in self._sampler.images_with(set_index, wanted) if index != image_index]
        meta = self._sets[set_index].meta
        axes, slices, subjects = (meta.get(name) or [] for name in ("axis", "index", "subjects"))
        known = all(
            isinstance(one, list) and len(one) == len(self._sets[set_index].images) for one in (axes, slices, subjects)
        )
        if known and rng.random() < config.neighbour_p and slices[image_index] is not None:
            reach = int(rng.choice([3, 8, 20]))
            near = [
                index
                for index in candidates
                if (subjects[index], axes[index]) == (subjects[image_index], axes[image_index])
                and slices[index] is not None
                and abs(slices[index] - slices[image_index]) <= reach
            ]
            candidates = near or candidates
        if not candidates:
            return [image_index] * (count + 1)
        chosen = rng.permutation(candidates)[:count].tolist()
        while len(chosen) < count:
            chosen.append(int(candidates[int(rng.integers(len(candidates)))]))
        return [image_index, *chosen]

    def _without(self, set_index: int, wanted: tuple[int, ...]) -> list[int]:
        lacking = self._lacking[set_index]
        return sorted(set.intersection(*(lacking.get(label, set()) for label in wanted)))

    def _superpixel(
        self, set_index: int, image_index: int, image: FloatArray, rng: np.random.Generator
    ) -> BoolArray | None:
        key = (set_index, image_index)
        if key not in self._superpixels:
            half = len(image) // 2
            small = image[: 2 * half, : 2 * half].reshape(half, 2, half, 2).mean(axis=(1, 3))
            own = np.random.default_rng((self._seed, *key))
            self._superpixels[key] = superpixels(small, float(own.uniform(1.0, 500.0)))
        mask = pick_superpixel(self._superpixels[key], rng, min_area=40, area_power=0.75, union_p=0.3)
        if mask is None:
            return None
        return np.pad(np.kron(mask, np.ones((2, 2), bool)), (0, len(image) % 2), mode="edge")

    def _augmented(
        self, sources: list[_Source], absent: list[bool], fine: bool, rng: np.random.Generator
    ) -> GroupSample | None:
        config, size, count = self._config, self._config.size, len(sources)
        task = _Transform.draw(rng, wide=True)
        look = _Look.draw(rng, wide=True)
        images = np.zeros((count, size, size), np.uint8)
        masks = np.zeros((count, size, size), bool)
        fine_images, fine_masks = np.zeros_like(images), np.zeros_like(masks)
        windows = np.zeros((count, 3), np.float32)
        strokes: list[list[Stroke]] = []
        boxes = np.full((count, 4), -1.0, np.float32)
        extra: FloatArray | None = None
        allowed = rng.random((count, count)) < rng.choice([0.35, 0.7, 1.0], size=(count, 1))
        allowed[np.arange(count), np.arange(count)] = False
        allowed[rng.random(count) < config.alone_p] = False
        for number, source in enumerate(sources):
            within = _Transform.draw(rng, wide=False) if count > 1 else None
            own = _Look.draw(rng, wide=False) if count > 1 else None
            image, mask, unwanted = None, None, None
            for attempt in range(4):
                coordinates = task.coordinates(size, within)
                image, mask, unwanted = _read(source, coordinates)
                if absent[number] or config.min_area <= mask.sum() < mask.size:
                    break
                if attempt == 3:
                    return None
                if count == 1:
                    task = _Transform.draw(rng, wide=True)
                else:
                    within = _Transform.draw(rng, wide=False)
            assert image is not None
            assert mask is not None
            seed = int(rng.integers(2**31))
            images[number] = _shown(image, coordinates, [look, own], seed)
            masks[number] = mask
            has_context = bool(allowed[number].any())
            silent = has_context and rng.random() < config.silent_p
            strokes.append([])
            if not silent:
                if not mask.any() or rng.random() >= config.published_p:
                    strokes[-1], boxes[number] = _prompts(mask, unwanted, source.shown, rng, config)
                else:
                    if extra is None:
                        extra = np.zeros((count, 2, size, size), np.float32)
                    extra[number], boxes[number] = _published_prompts(mask, rng)
            if fine:
                windows[number] = _window(mask, strokes[-1], size, rng)
                part = _part(coordinates, windows[number], size)
                image, fine_masks[number], _ = _read(source, part)
                fine_images[number] = _shown(image, part, [look, own], seed)
        return GroupSample(
            images,
            masks,
            strokes,
            boxes,
            fine_images if fine else None,
            fine_masks if fine else None,
            windows,
            allowed,
            extra,
        )


@dataclass(frozen=True)
class _Transform:
    """A random affine map with a smooth deformation."""

    matrix: NDArray[np.float64]  # (2, 2): from the grid's to the source's coordinates, both from -1 to 1
    shift: NDArray[np.float64]  # (2,)
    bend: FloatArray  # (n, n, 2), coarse displacements

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wide: bool) -> _Transform:
        angle, zoom, shift = 0.0, 1.0, np.zeros(2)
        if rng.random() < (0.8 if wide else 0.6):
            angle = float(
                rng.uniform(0, 2 * np.pi) if wide and rng.random() < 0.35 else rng.normal(0, 0.25 if wide else 0.15)
            )
            # One in seven is small, as small slices are on the grid (`inference.ridge_network`).
            closest, farthest = (0.7, 0.3) if rng.random() < 0.15 else (2.2, 0.7)
            zoom = float(np.exp(rng.uniform(np.log(farthest), np.log(closest)) if wide else rng.normal(0, 0.09)))
            shift = rng.uniform(-1, 1, 2) * (0.3 if wide else 0.12)
        stretch = np.exp(rng.normal(0, 0.12 if wide else 0.06, 2))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = rotation @ np.diag(stretch / zoom)
        if wide:
            matrix = matrix @ np.diag(rng.choice([-1.0, 1.0], 2))
        nodes = int(rng.integers(3, 9))
        strength = rng.uniform(0, 0.35) / nodes if rng.random() < (0.35 if wide else 0.8) else 0.0
        return cls(matrix, shift, (strength * rng.standard_normal((nodes, nodes, 2))).astype(np.float32))

    def coordinates(self, size: int, within: _Transform | None) -> Tensor:
        """Where each pixel of the grid reads, (size, size, 2): column and row of the source, from -1 to 1."""
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        place = torch.stack([columns, rows], dim=-1)
        for transform in (within, self):
            if transform is None:
                continue
            place = place @ torch.from_numpy(transform.matrix.T.astype(np.float32)) + torch.from_numpy(
                transform.shift.astype(np.float32)
            )
            if transform.bend.any():
                bend = torch.from_numpy(transform.bend).permute(2, 0, 1)[None]
                place = place + functional.interpolate(bend, size=(size, size), mode="bicubic")[0].permute(1, 2, 0)
        return place


@dataclass(frozen=True)
class _Look:
    """A random change of how intensities are shown."""

    gamma: float
    contrast: float
    brightness: float
    invert: bool
    blur: float
    noise: float
    speckle: float
    shading: float
    sharpen: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wide: bool) -> _Look:
        def maybe(p: float, value: float, otherwise: float = 0.0) -> float:
            return float(value) if rng.random() < p else otherwise

        if not wide:
            return cls(
                maybe(0.3, np.exp(rng.normal(0, 0.2)), 1.0),
                maybe(0.3, rng.uniform(0.75, 1.3), 1.0),
                maybe(0.3, rng.uniform(-0.08, 0.08)),
                False,
                maybe(0.15, rng.uniform(0.2, 0.8)),
                maybe(0.2, rng.uniform(0, 0.04)),
                0.0,
                maybe(0.2, rng.uniform(0, 0.2)),
                0.0,
            )
        return cls(
            maybe(0.35, np.exp(rng.uniform(-0.7, 0.7)), 1.0),
            maybe(0.5, rng.uniform(0.5, 1.6), 1.0),
            maybe(0.5, rng.uniform(-0.15, 0.15)),
            bool(rng.random() < 0.2),
            maybe(0.25, rng.uniform(0.3, 1.8)),
            maybe(0.3, rng.uniform(0, 0.06)),
            maybe(0.1, rng.uniform(0, 0.3)),
            maybe(0.25, rng.uniform(0, 0.35)),
            maybe(0.15, rng.uniform(0.3, 2.0)),
        )


def _shown(image: Tensor, coordinates: Tensor, looks: list[_Look | None], seed: int) -> NDArray[np.uint8]:
    """Change how an image (S, S) is shown; padding stays zero."""
    rng = np.random.default_rng(seed)
    inside = coordinates.abs().amax(dim=-1) <= 1.0
    for look in looks:
        if look is None:
            continue
        if look.invert:
            image = 1.0 - image
        if look.gamma != 1.0:
            image = image.clamp(0.0, 1.0) ** look.gamma
        if look.contrast != 1.0 or look.brightness:
            mean = image.mean()
            image = (image - mean) * look.contrast + mean + look.brightness
        if look.shading:
            nodes = torch.from_numpy(rng.standard_normal((1, 1, 4, 4), dtype=np.float32))
            field = functional.interpolate(nodes, size=tuple(image.shape), mode="bicubic")[0, 0]
            image = image * torch.exp(look.shading * field)
        if look.blur:
            image = _blurred(image, look.blur)
        if look.sharpen:
            image = image + look.sharpen * (image - _blurred(image, 1.0))
        if look.noise or look.speckle:
            noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
            if look.speckle:
                image = image * (1.0 + look.speckle * noise)
            image = image + look.noise * noise
    return (255.0 * image.clamp(0.0, 1.0) * inside).round().to(torch.uint8).numpy()


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, int(2.5 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])[0, 0]


def _read(source: _Source, coordinates: Tensor) -> tuple[Tensor, BoolArray, BoolArray | None]:
    """Read image, mask and what is unwanted at coordinates of the source."""
    maps = [torch.from_numpy(source.image), torch.from_numpy(source.mask.astype(np.float32))]
    if source.unwanted is not None:
        maps.append(torch.from_numpy(source.unwanted.astype(np.float32)))
    stacked = torch.stack(maps)[None]
    size, side = len(coordinates), stacked.shape[-1]
    step = float((coordinates[-1, 0] - coordinates[0, 0]).norm()) / (size - 1) * side / 2
    if step > 1.6:
        stacked = functional.avg_pool2d(stacked, 2)
    read = functional.grid_sample(stacked, coordinates[None], padding_mode="border", align_corners=False)[0]
    inside = (coordinates.abs().amax(dim=-1) <= 1.0).numpy()
    mask = (read[1] > 0.5).numpy() & inside
    unwanted = None if source.unwanted is None else (read[2] > 0.5).numpy() & inside & ~mask
    return read[0], mask, unwanted


def _part(coordinates: Tensor, window: FloatArray, size: int) -> Tensor:
    """Coordinates of a window of the grid at finer pixels."""
    row, column, side = (float(value) for value in window)
    steps = (torch.arange(size) + 0.5) / size * side - 0.5
    rows, columns = row + steps, column + steps
    grid = torch.stack(
        torch.meshgrid((rows + 0.5) / size * 2 - 1, (columns + 0.5) / size * 2 - 1, indexing="ij"), dim=-1
    )
    read = functional.grid_sample(
        coordinates.permute(2, 0, 1)[None], grid.flip(-1)[None], padding_mode="border", align_corners=False
    )
    return read[0].permute(1, 2, 0)


def _window(mask: BoolArray, strokes: list[Stroke], size: int, rng: np.random.Generator) -> FloatArray:
    """Choose a square that a second look might show: around structure and positive strokes, or a part of it."""
    marked = np.argwhere(mask)
    if len(marked) == 0:
        side = size * float(rng.uniform(0.35, 0.8))
        return np.array([*rng.uniform(0, size - side, 2), side], np.float32)
    low, high = marked.min(axis=0), marked.max(axis=0) + 1
    extent = float((high - low).max())
    side = float(np.clip(extent * rng.uniform(1.3, 1.7) + 4, 0.28 * size, 0.8 * size))
    center = (low + high) / 2
    if extent > 0.6 * size:
        side = size * float(rng.uniform(0.5, 0.85))
        center = marked[int(rng.integers(len(marked)))].astype(float)
    center = center + rng.uniform(-0.08, 0.08, 2) * side
    return np.array([*np.clip(center - side / 2, 0, size - side), side], np.float32)


_CLICKS = (0.6, 0.25, 0.15)  # chances of one, two and three on the structure, of none, one and two on the rest


def _prompts(
    mask: BoolArray, unwanted: BoolArray | None, shown: bool, rng: np.random.Generator, config: GroupConfig
) -> tuple[list[Stroke], FloatArray]:
    """Prompt an image: strokes as people paint them, clicks, a box, in any combination."""
    box = np.full(4, -1.0, np.float32)
    strokes: list[Stroke] = []
    has_box = mask.any() and rng.random() < config.box_p
    has_clicks = rng.random() < config.clicks_p
    if has_box:
        rows, columns = box_of(mask)
        extent = max(rows.stop - rows.start, columns.stop - columns.start)  # tight, as people drag, or as published
        loose = rng.uniform(0, 0.15, 4) * (extent if rng.random() < 0.6 else len(mask) * rng.random())
        sides = np.array([rows.start, columns.start, rows.stop, columns.stop]) + loose * (-1, -1, 1, 1)
        box = np.clip(np.rint(sides), 0, len(mask)).astype(np.float32)
    if has_clicks:
        for region, positive in ((mask, True), (~mask, False)):
            pixels, count = np.argwhere(region), int(rng.choice(3, p=_CLICKS)) + positive
            if len(pixels):
                strokes += [
                    Stroke(point[None].astype(float), 1.0, positive)
                    for point in pixels[rng.integers(len(pixels), size=count)]
                ]
    if not (has_box or (has_clicks and shown)) or rng.random() < 0.3:
        background_p = config.background_p if shown else 1.0
        strokes += paint_first(mask, rng, unwanted=unwanted, background_p=background_p)
    return strokes, box


def _published_prompts(mask: BoolArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Prompt an image as the training so far does."""
    user = SimulatedUserConfig(
        max_interactions=2,
        scribble_weights=(1.0, 1.0, 1.0, 0.75),
        type_probabilities=(0.9, 0.35, 0.25),
        slip_p=0.35,
        margin_p=0.5,
    )
    prompts = simulate_first_round(mask, rng, config=user)
    drawn = np.array(prompts.scribbles)
    clicks = [
        Stroke(point[None].astype(float), 1.0, bool(label))
        for point, label in zip(prompts.point_coords, prompts.point_labels, strict=True)
    ]
    box = np.full(4, -1.0, np.float32)
    if len(prompts.boxes):
        box = np.asarray(prompts.boxes[0].reshape(4), np.float32)
    return np.maximum(drawn, draw_strokes(clicks, len(mask))), box


def _halved(mask: BoolArray, angle: float, rng: np.random.Generator) -> tuple[BoolArray, BoolArray | None]:
    """Keep the part of a mask on one side of a line; also give the other."""
    pixels = np.argwhere(mask)
    if len(pixels) < 200:
        return mask, None
    across = np.cos(angle) * np.arange(len(mask))[:, None] + np.sin(angle) * np.arange(mask.shape[1])
    place = float(np.quantile(across[mask], rng.uniform(0.25, 0.75)))
    return mask & (across < place), mask & (across >= place)


def _normalised(image: NDArray[Any]) -> FloatArray:
    return IntensityRange.estimate(image).normalize(image)


def _images_without(entry: SegmentationSet) -> dict[int, set[int]]:
    """List, for every label, the images that do not show it."""
    shown = [set(np.unique(labels).tolist()) - {0} for labels in entry.labels]
    every = set().union(*shown)
    if entry.instances:
        return {}
    return {int(label): {n for n, labels in enumerate(shown) if label not in labels} for label in every}


def _synthetic_pool(cache: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    path = cache / f"shapes_{count}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images, labels = zip(*(synthetic_image(256, np.random.default_rng((7, n))) for n in range(count)), strict=True)
        with atomic_file(path, ".npz") as whole:  # the other processes of a run look for it, too
            np.savez_compressed(
                whole, images=np.rint(255 * np.stack(images)).astype(np.uint8), labels=np.stack(labels).astype(np.uint8)
            )
    with np.load(path) as archive:
        return archive["images"], archive["labels"]


def _collate(samples: list[GroupSample], rounds: int, seeds: list[int]) -> Batch:
    def joined(arrays: Sequence[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays))[:, None]

    fine = samples[0].fine_images is not None
    extras = [sample.extra for sample in samples]
    shape = (len(samples[0].images), 2, *samples[0].images.shape[1:])
    return Batch(
        groups=len(samples),
        images=joined([sample.images for sample in samples]),
        masks=joined([sample.masks for sample in samples]),
        fine_images=joined([sample.fine_images for sample in samples]) if fine else None,  # type: ignore[misc]
        fine_masks=joined([sample.fine_masks for sample in samples]) if fine else None,  # type: ignore[misc]
        windows=torch.from_numpy(np.concatenate([sample.windows for sample in samples])),
        allowed=torch.from_numpy(np.concatenate([sample.allowed for sample in samples])),
        strokes=[strokes for sample in samples for strokes in sample.strokes],
        boxes=np.concatenate([sample.boxes for sample in samples]),
        extra=None
        if all(extra is None for extra in extras)
        else np.concatenate([np.zeros(shape, np.float32) if extra is None else extra for extra in extras]),
        rounds=rounds,
        seeds=seeds,
    )
