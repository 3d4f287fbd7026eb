"""The training corpus on disk, and how samples are drawn from it; for the format see `segmentation_sets`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import DatasetError
from scribblesegment.segmentation_sets import SegmentationSet, load_set

__all__ = ["HierarchicalSampler", "Sample", "SegmentationSet", "load_corpus", "load_set"]

# Words by which kinds of images are told apart; whole ones, because CT is part of others, such as OCT.
_MODALITIES = ("mri", "ultrasound", "microscopy", "fluorescence", "fundus", "x-ray", "ct")


@dataclass(frozen=True)
class Sample:
    """Which structure of which image is to be segmented: positions in the corpus and a label number."""

    set_index: int
    image_index: int
    label: int


def load_corpus(
    folder: str | Path, *, exclude: Iterable[str] = (), skip_bad: Callable[[str], None] | None = None
) -> list[SegmentationSet]:
    """Read all sets of a folder, sorted by file name, except those whose file stem is in `exclude`.

    Args:
        folder: Holds the sets, `*.npz`.
        exclude: File stems; these sets are not even opened.
        skip_bad: Told of every file that is damaged or of another layout, which is then passed over; without it the
            first such file is an error.

    Raises:
        DatasetError: If the folder holds no set, a name to exclude does not occur, or a file is bad and is not to be
            skipped, or all files are bad.
    """
    paths = sorted(Path(folder).glob("*.npz"))
    excluded = set(exclude)
    unknown = excluded - {path.stem for path in paths}
    if unknown:
        raise DatasetError(f"Sets to exclude that are not in {folder}: {', '.join(sorted(unknown))}.")
    wanted = [path for path in paths if path.stem not in excluded]
    if not wanted:
        raise DatasetError(f"No training set (*.npz) in {folder}; give the folder that holds them.")
    sets = []
    for path in wanted:
        try:
            sets.append(load_set(path))
        except DatasetError as error:
            if skip_bad is None:
                raise
            skip_bad(str(error))
    if not sets:
        raise DatasetError(
            f"None of the {len(wanted)} sets (*.npz) in {folder} can be read. Copy or convert them again."
        )
    return sets


class HierarchicalSampler:
    """Draws a set, then a label, then an image that shows it (ScribblePrompt, section 3.3, "Task Diversity").

    In instance sets label numbers mean nothing across images: there an image is drawn first, then one of its objects.
    """

    def __init__(
        self, sets: Sequence[SegmentationSet], *, min_fraction: float = 0.0, modality_balance: float = 0.0
    ) -> None:
        """Index which labels occur where.

        Args:
            sets: The corpus.
            min_fraction: Structures that cover a smaller fraction of their image are left out.
            modality_balance: 0 draws all sets alike, 1 all modalities alike and then their sets; between, a mixture.

        Raises:
            DatasetError: If a set has no usable structure.
        """
        self._images_of_label: list[dict[int, list[int]]] = []
        self._labels_of_image: list[dict[int, list[int]]] = []
        self._instances = [entry.instances for entry in sets]
        self._shares = _shares([modality(entry) for entry in sets], modality_balance)
        for entry in sets:
            by_label: dict[int, list[int]] = {}
            by_image: dict[int, list[int]] = {}
            fewest = max(1.0, min_fraction * entry.labels[0].size)
            for image_index, labels in enumerate(entry.labels):
                areas = np.bincount(labels.ravel())
                for label in np.flatnonzero(areas[1:] >= fewest) + 1:
                    by_label.setdefault(int(label), []).append(image_index)
                    by_image.setdefault(image_index, []).append(int(label))
            if not by_label:
                raise DatasetError(f"Set {entry.name} shows no structure that is large enough to train on.")
            self._images_of_label.append(by_label)
            self._labels_of_image.append(by_image)

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one sample: a set, then one of its labels, then an image of it, each equally likely."""
        set_index = int(rng.choice(len(self._shares), p=self._shares))
        if self._instances[set_index]:
            image_index = _pick(sorted(self._labels_of_image[set_index]), rng)
            return Sample(set_index, image_index, _pick(self._labels_of_image[set_index][image_index], rng))
        label = _pick(sorted(self._images_of_label[set_index]), rng)
        return Sample(set_index, _pick(self._images_of_label[set_index][label], rng), label)

    def images_with(self, set_index: int, labels: Sequence[int] | None) -> list[int]:
        """List the images of a set that show all of some labels large enough, or any object for None."""
        if labels is None:
            return sorted(self._labels_of_image[set_index])
        by_label = self._images_of_label[set_index]
        shared = set.intersection(*(set(by_label.get(label, ())) for label in labels))
        return sorted(shared)

    def is_instance_set(self, set_index: int) -> bool:
        """Tell whether a set's label numbers are objects and not structures."""
        return self._instances[set_index]

    def labels_of(self, sample: Sample) -> list[int]:
        """List all labels of the sample's image that are large enough."""
        return self._labels_of_image[sample.set_index][sample.image_index]


def modality(entry: SegmentationSet) -> str:
    """Name the kind of images of a set by the first of `_MODALITIES` its description mentions, else by all of it."""
    described = str(entry.meta.get("modality", "")).lower()
    return next((name for name in _MODALITIES if re.search(rf"\b{name}\b", described)), described)


def _shares(modalities: Sequence[str], balance: float) -> NDArray[np.float64]:
    sizes = np.array([modalities.count(name) for name in modalities], dtype=np.float64)
    by_modality = 1.0 / (sizes * len(set(modalities)))
    shares = balance * by_modality + (1.0 - balance) / len(modalities)
    return np.asarray(shares / shares.sum())


def _pick(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]
