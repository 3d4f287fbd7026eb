"""Training sets on disk and how samples are drawn from them.

A set is one `.npz` file: `images` uint8 (N, S, S), square, `labels` uint8 or uint16 (N, S, S) with 0 as background, and
`meta`, a JSON string; of its entries `name` and `instances` are read here, the latter telling that every object has a
number of its own.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import DatasetError

_ARRAYS = ("images", "labels", "meta")
_LABEL_TYPES = (np.uint8, np.uint16)


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """One data set in memory.

    Attributes:
        name: Its name.
        images: uint8 (N, S, S).
        labels: uint8 or uint16 (N, S, S), 0 background.
        instances: True if each label number is one object and not one structure.
        meta: The file's description.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    instances: bool
    meta: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Which structure of which image is to be segmented: positions in the corpus and a label number."""

    set_index: int
    image_index: int
    label: int


def load_set(path: str | Path) -> SegmentationSet:
    """Read one set.

    Raises:
        DatasetError: If the file is missing, damaged, or of another layout; the message names it.
    """
    path = Path(path)
    try:
        images, labels, meta = _read(path)
    except DatasetError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as a training set: {error}. Copy or convert it again.") from error
    if images.ndim != 3 or images.shape != labels.shape or images.dtype != np.uint8 or labels.dtype not in _LABEL_TYPES:
        raise DatasetError(
            f"{path}: expected images uint8 and labels uint8 or uint16, both (N, S, S); got images {images.dtype} "
            f"{images.shape} and labels {labels.dtype} {labels.shape}."
        )
    if images.size == 0 or images.shape[1] != images.shape[2]:
        raise DatasetError(
            f"{path}: expected at least one image, and square ones; got shape {images.shape}. Pad the images to a "
            "square with zeros."
        )
    if not isinstance(meta, dict):
        raise DatasetError(f"{path}: meta must be a JSON object, got {type(meta).__name__}.")
    return SegmentationSet(str(meta.get("name", path.stem)), images, labels, bool(meta.get("instances")), meta)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Read images, labels and the parsed meta, whatever they are; never pickled objects, which could run code."""
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise DatasetError(f"{path} holds a single array; a set is an .npz of {', '.join(_ARRAYS)}.")
    with archive:
        missing = [name for name in _ARRAYS if name not in archive.files]
        if missing:
            raise DatasetError(f"{path} lacks {', '.join(missing)}; a set is an .npz of {', '.join(_ARRAYS)}.")
        return archive["images"], archive["labels"], json.loads(str(archive["meta"]))


def load_corpus(folder: str | Path, *, exclude: Iterable[str] = ()) -> list[SegmentationSet]:
    """Read all sets of a folder, sorted by file name, except those whose file stem is in `exclude`.

    Raises:
        DatasetError: If the folder holds no set, a name to exclude does not occur, or a file is bad.
    """
    paths = sorted(Path(folder).glob("*.npz"))
    excluded = set(exclude)
    unknown = excluded - {path.stem for path in paths}
    if unknown:
        raise DatasetError(f"Sets to exclude that are not in {folder}: {', '.join(sorted(unknown))}.")
    sets = [load_set(path) for path in paths if path.stem not in excluded]
    if not sets:
        raise DatasetError(f"No training set (*.npz) in {folder}; give the folder that holds them.")
    return sets


class HierarchicalSampler:
    """Draws a set, then a label, then an image that shows it (ScribblePrompt, section 3.3, "Task Diversity").

    In instance sets label numbers mean nothing across images: there an image is drawn first, then one of its objects.
    """

    def __init__(self, sets: Sequence[SegmentationSet], *, min_fraction: float = 0.0) -> None:
        """Index which labels occur where.

        Args:
            sets: The corpus.
            min_fraction: Structures that cover a smaller fraction of their image are left out.

        Raises:
            DatasetError: If a set has no usable structure.
        """
        self._images_of_label: list[dict[int, list[int]]] = []
        self._labels_of_image: list[dict[int, list[int]]] = []
        self._instances = [entry.instances for entry in sets]
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
        """Draw one sample; sets are equally likely, then labels, then images."""
        set_index = int(rng.integers(len(self._images_of_label)))
        if self._instances[set_index]:
            image_index = _pick(sorted(self._labels_of_image[set_index]), rng)
            return Sample(set_index, image_index, _pick(self._labels_of_image[set_index][image_index], rng))
        label = _pick(sorted(self._images_of_label[set_index]), rng)
        return Sample(set_index, _pick(self._images_of_label[set_index][label], rng), label)

    def labels_of(self, sample: Sample) -> list[int]:
        """List all labels of the sample's image that are large enough."""
        return self._labels_of_image[sample.set_index][sample.image_index]


def _pick(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]
