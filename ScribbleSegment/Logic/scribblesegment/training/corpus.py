"""The training corpus on disk, and how samples are drawn from it; for the format see `segmentation_sets`."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid
from scribblesegment.errors import DatasetError, ScribbleSegmentError

_LABEL_TYPES = (np.uint8, np.uint16)


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """One data set in memory."""

    name: str
    images: NDArray[np.uint8]  # (N, S, S)
    labels: NDArray[np.integer[Any]]  # uint8 or uint16 (N, S, S), 0 background
    instances: bool  # whether each label number is one object and not one structure
    meta: dict[str, Any]  # the file's description, and as `negatives` images (M, S, S) that show no structure

    def label_name(self, label: int) -> str:
        """Give the name of a structure, or its number where the set has no name for it."""
        names = self.meta.get("label_names")
        return str(names.get(str(label), label)) if isinstance(names, dict) else str(label)


def load_set(path: str | Path) -> SegmentationSet:
    """Read one set.

    Raises:
        DatasetError: If the file is missing, damaged, or of another layout; the message names it.
    """
    path = Path(path)
    arrays, meta = read_arrays(path, ("images", "labels"), optional=("negatives",))
    images, labels = arrays["images"], arrays["labels"]
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
    if "negatives" in arrays and len(arrays["negatives"]):
        meta["negatives"] = arrays["negatives"]
    return SegmentationSet(str(meta.get("name", path.stem)), images, labels, bool(meta.get("instances")), meta)


def read_arrays(
    path: Path, names: Sequence[str], *, optional: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read arrays of a set, whatever they are, and its description; never pickled objects, which could run code.

    Args:
        path: The `.npz` file.
        names: The arrays; `meta` is read besides.
        optional: Arrays that the file may lack.

    Returns:
        The arrays by name, and the parsed `meta`.

    Raises:
        DatasetError: If the file is missing or damaged, an array is missing, or `meta` is no JSON object; the message
            names the file.
    """
    wanted = (*names, "meta")
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DatasetError(f"{path} holds a single array; a set is an .npz of {', '.join(wanted)}.")
        with archive:
            missing = [name for name in wanted if name not in archive.files]
            if missing:
                raise DatasetError(f"{path} lacks {', '.join(missing)}; a set is an .npz of {', '.join(wanted)}.")
            arrays = {name: archive[name] for name in (*wanted, *optional) if name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
    except DatasetError:
        raise
    # A damaged archive ends in any of these, a huge wrong size in the last.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise DatasetError(f"{path} cannot be read: {error}. Copy or convert it again.") from error
    if not isinstance(meta, dict):
        raise DatasetError(f"{path}: meta must be a JSON object, got {type(meta).__name__}.")
    return arrays, meta


def subjects_of(meta: dict[str, Any], count: int) -> tuple[str, ...]:
    """Give whose image each of a set's `count` images is; empty names if the set does not say for every one."""
    subjects = meta.get("subjects")
    if not isinstance(subjects, list) or len(subjects) != count:
        return ("",) * count
    return tuple(map(str, subjects))


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
    """Read all sets of a folder: files `*.npz`, and folders of images as `load_folders` reads them.

    Args:
        folder: Holds the sets.
        exclude: Names of files without `.npz`; these are not even opened.
        skip_bad: Told of everything that is damaged or of another layout, which is then passed over; without it the
            first such thing is an error.

    Raises:
        DatasetError: The folder holds no set, a name to exclude does not occur, or something is bad and is not to be
            skipped, or everything is bad.
    """
    if not Path(folder).is_dir():
        raise DatasetError(f"There is no folder {folder}; give the one that holds the training sets.")
    paths = sorted(Path(folder).glob("*.npz"))
    excluded = set(exclude)
    unknown = excluded - {path.stem for path in paths}
    if unknown:
        raise DatasetError(f"Sets to exclude that are not in {folder}: {', '.join(sorted(unknown))}.")
    sets = []
    for path in paths:
        if path.stem in excluded:
            continue
        try:
            sets.append(load_set(path))
        except DatasetError as error:
            if skip_bad is None:
                raise
            skip_bad(str(error))
    sets += load_folders(folder, skip_bad=skip_bad)
    if not sets:
        raise DatasetError(
            f"There is no usable training set in {folder}: neither an .npz file, nor a folder of pairs NAME_image.EXT "
            "and NAME_label.EXT. See docs/training.md."
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


_SIDE = 256  # of the slices in pixels, as in the sets of images
_FEWEST_PIXELS = 30  # slices without any structure, or with one of fewer pixels, teach nothing


def load_folders(folder: str | Path, *, skip_bad: Callable[[str], None] | None = None) -> list[SegmentationSet]:
    """Read images and volumes with their labels, one folder a set, as sets of their slices.

    A set's folder holds pairs `NAME_image.EXT` and `NAME_label.EXT`, of any format that `read_volume` reads. Slices of
    all axes are laid out with square pixels, intensities are scaled once a volume. A folder "nc" is passed over (other
    licences); one with "nuclei" or "stardist" in its name numbers objects.

    Raises:
        DatasetError: A pair cannot be read or does not fit; the message names it.
    """
    from scribblesegment.io import READ_EXTENSIONS

    sets = []
    for path in sorted(Path(folder).iterdir()):
        images = sorted(path.glob("*_image.*")) if path.is_dir() and path.name != "nc" else []
        images = [image for image in images if image.name.lower().endswith(READ_EXTENSIONS)]
        if images:
            try:
                sets.append(_load(path.name, images, skip_bad))
            except DatasetError as error:
                if skip_bad is None:
                    raise
                skip_bad(str(error))
    return sets


def _label_of(image: Path) -> Path:
    """Find the labels of `NAME_image.EXT`: `NAME_label` with the same extension, or with another that can be read."""
    from scribblesegment.io import READ_EXTENSIONS

    name, extension = image.name.rsplit("_image.", 1)
    same = image.with_name(f"{name}_label.{extension}")
    others = (image.with_name(f"{name}_label{one}") for one in READ_EXTENSIONS)
    return same if same.exists() else next((path for path in others if path.exists()), same)


def _load(name: str, paths: list[Path], skip_bad: Callable[[str], None] | None) -> SegmentationSet:
    from scribblesegment.io import read_labelmap, read_volume

    images, labels = [], []
    meta: dict[str, Any] = {"name": name, "modality": name, "subjects": [], "axis": [], "index": []}
    for path in paths:
        subject = path.name.rsplit("_image.", 1)[0]
        try:
            volume = read_volume(path)
            structures = read_labelmap(_label_of(path), grid=volume)
            if structures.array.max() > np.iinfo(np.uint16).max:
                raise DatasetError(f"labels go up to {structures.array.max()}; number structures up to 65535.")
        except ScribbleSegmentError as error:
            message = f"{path} cannot be used: {error}"
            if skip_bad is None:
                raise DatasetError(message) from error
            skip_bad(message)
            continue
        intensities = IntensityRange.estimate(volume.array)
        for axis in range(3) if min(volume.shape) > 1 else (int(np.argmin(volume.shape)),):
            for index in range(volume.shape[axis]):
                here = structures.slice(axis, index)
                if np.count_nonzero(here.image) < _FEWEST_PIXELS:
                    continue
                grid = NetworkGrid(here.image.shape, here.spacing_mm, _SIDE)
                picture = grid.image_to_grid(intensities.normalize(volume.slice(axis, index).image))
                images.append(np.rint(255 * picture).astype(np.uint8))
                labels.append(_nearest(grid, here.image.astype(np.uint16)))
                meta["subjects"].append(subject)
                meta["axis"].append(axis)
                meta["index"].append(index)
    if not images:
        raise DatasetError(f"The images of {name} show no structure of {_FEWEST_PIXELS} pixels or more.")
    return SegmentationSet(f"{name} volumes", np.stack(images), np.stack(labels), _has_instances(name), meta)


def _nearest(grid: NetworkGrid, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Bring labels (H, W) to a grid without mixing them."""
    cells = np.arange(grid.size)
    rows, columns = np.rint(grid.from_grid_coords(np.stack([cells, cells], axis=1))).astype(int).T
    inside = [(axis >= 0) & (axis < length) for axis, length in zip((rows, columns), labels.shape, strict=True)]
    laid_out = np.zeros((grid.size, grid.size), np.uint16)
    laid_out[np.ix_(*inside)] = labels[np.ix_(rows[inside[0]], columns[inside[1]])]
    return laid_out


def _has_instances(name: str) -> bool:
    return "nuclei" in name or "stardist" in name
