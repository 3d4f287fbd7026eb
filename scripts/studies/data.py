"""Images, structures and volumes to measure on.

A set is an `.npz` as in training (`scribblesegment.training.corpus`). A set with strokes drawn by people is one
`medscribble_<task>.npz` with `scribbles` uint8 (N, annotator, 2, H, W) besides, strokes on the object first. Volumes
are `<set>/<name>_image.nii.gz` with `<name>_label.nii.gz`.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.training.corpus import SegmentationSet, load_set, read_arrays, subjects_of
from studies.common import PIXEL_MM, FloatArray, Mask, Row, generator

PREFIX = "medscribble_"

# As in training: 16 pixels of the 128 x 128 grid are 64 of the 256 x 256 images.
MIN_AREA = 64

# Structures with fewer images with and without them are measured in no folder.
LEAST_ABSENT = 4

# Structures of volumes with fewer slices along an axis are left out there, as are those whose usual slice (the median)
# is smaller: scattered small lesions.
LEAST_SLICES, LEAST_SLICE_AREA = 8, 16

# Slices beyond each end of a structure that are looked at as well: nothing should be segmented there.
_BEYOND = 2

# Sets whose labels are kinds or grades of one structure: which of them an image shows cannot be told from a context.
ALTERNATIVES = frozenset({"breastdm_mri", "edd2020_endoscopy", "kidney_t2w_mri", "sipakmed_cervical"})


@dataclass(frozen=True, eq=False)
class Example:
    """One structure in one image."""

    set_name: str
    task: str  # what is segmented in what: `<set>/<label's name>`; in instance sets `<set>/object` or `/objects`
    subject: str
    image_index: int  # position in the set
    label: int  # number in the label map; 0 for all objects of an image together
    image: FloatArray  # (H, W) in [0, 1]
    reference: Mask  # (H, W)
    scribbles: FloatArray | None = None  # (2, H, W), 0 or 1: strokes of a person on the object, on the background
    annotator: int = 0

    @property
    def key(self) -> Row:
        """Its columns in a table of results."""
        return {"set": self.set_name, "task": self.task, "subject": self.subject, "image": self.image_index}

    def entry(self, mask: Mask | None = None) -> ContextEntry:
        """Make a context entry of the image, with its reference or another mask (H, W)."""
        image = np.array(IntensityRange.estimate(self.image).normalize(self.image))
        source = f"{self.set_name} {self.image_index}"
        return ContextEntry(image, self.reference if mask is None else mask, PIXEL_MM, source=source)


@dataclass(frozen=True, eq=False)
class Task:
    """One structure with every image of its set that shows enough of it, in the set's order."""

    set_name: str
    name: str
    examples: tuple[Example, ...]

    def context(self, target: Example, draw: int, size: int, seed: int) -> ContextSet:
        """Draw images of other subjects with their references; a smaller set is the beginning of a larger one."""
        others = [example for example in self.examples if example.subject != target.subject]
        order = generator(seed, self.name, target.image_index, draw).permutation(len(others))[:size]
        return ContextSet(self.name, tuple(others[n].entry() for n in order.tolist()))


@dataclass(frozen=True, eq=False)
class Folder:
    """Images for a batch of which half lack the structure, and what it is shown."""

    set_name: str
    name: str
    context: ContextSet
    examples: tuple[Example, ...]  # those without the structure have an empty reference


def manual_examples(folder: Path, *, per_set: int | None = None, include_only: bool = False) -> list[Example]:
    """Read the first images of all sets with strokes of people, each with every annotator who drew on its object.

    With `include_only` the strokes on the background are left out.

    Raises:
        DatasetError: If there is no set, or one is damaged or of another layout.
    """
    examples = []
    for path in _paths(folder, manual=True):
        arrays, meta = read_arrays(path, ("images", "labels", "scribbles"))
        images, labels, scribbles = arrays["images"], arrays["labels"], arrays["scribbles"]
        expected = (len(images), *scribbles.shape[1:2], 2, *images.shape[1:])
        if images.ndim != 3 or labels.shape != images.shape or scribbles.shape != expected or images.dtype != np.uint8:
            raise DatasetError(
                f"{path}: expected images uint8 (N, H, W), labels of that shape and scribbles (N, annotator, 2, H, W); "
                f"got {images.dtype} {images.shape}, {labels.shape} and {scribbles.shape}."
            )
        task, subjects = path.stem.removeprefix(PREFIX), subjects_of(meta, len(images))
        drawn = np.argwhere(scribbles[:per_set, :, 0].any(axis=(2, 3))).tolist()
        if not drawn:
            raise DatasetError(f"{path}: no annotator drew on an object, so there is nothing to segment from.")
        for n, annotator in drawn:
            image, reference = _unit(images[n]), np.asarray(labels[n] > 0)
            strokes = (scribbles[n, annotator] > 0).astype(np.float32)
            if include_only:
                strokes[1] = 0.0
            examples.append(Example(task, task, subjects[n] or str(n), n, 1, image, reference, strokes, annotator))
    return examples


def plain_examples(*, per_set: int | None = None, seed: int = 0) -> list[Example]:
    """Draw what a tool is tried on first: an ellipse that is plain to see, with a stroke on it.

    The sets are the strokes: a dot, lines of a half and of three quarters of the width, and the first of these together
    with one on the background.
    """
    grounds = ((1.0, 0.0, 0.0), (1.0, 0.25, 0.0), (0.2, 0.08, 0.4), (-0.8, 0.1, 1.0))  # contrast, noise, background
    kinds = itertools.product((64, 128, 256, 512), (0.12, 0.19, 0.3), grounds)
    examples = []
    for number, (side, radius, ground) in enumerate(itertools.islice(kinds, per_set)):
        rng, (contrast, noise, background) = generator(seed, number), ground
        center, half = side * rng.uniform(0.45, 0.55, 2), side * radius * rng.uniform(0.8, 1.2, 2)
        down, across = (np.arange(side) - middle for middle in center)
        inside = (down[:, None] / half[0]) ** 2 + (across / half[1]) ** 2 < 1
        image = background + contrast * inside + noise * rng.standard_normal(inside.shape)
        image = np.asarray((image - image.min()) / np.ptp(image), np.float32)
        thick = max(0.5, side / 256)
        line = {name: np.abs(across) <= part * half[1] for name, part in (("half", 0.5), ("three quarters", 0.75))}
        line |= {"dot": np.abs(across) <= thick, "beside": np.abs(across - half[1] - 0.1 * side) <= thick}
        drawn = {name: (np.abs(down) <= thick)[:, None] & one for name, one in line.items()}
        nothing = np.zeros_like(inside)
        pairs = {name: (drawn[name], nothing) for name in ("dot", "half", "three quarters")}
        pairs["half and beside"] = drawn["half"], drawn["beside"]
        for name, pair in pairs.items():
            examples.append(
                Example(name, name, str(number), number, 1, image, inside, np.stack(pair).astype(np.float32))
            )
    return examples


def read_sets(folder: Path) -> list[SegmentationSet]:
    """Read all sets of a folder without strokes of people.

    Raises:
        DatasetError: If there is no set, two have the same name, or one is bad.
    """
    sets = [load_set(path) for path in _paths(folder, manual=False)]
    repeated = [name for name, count in Counter(entry.name for entry in sets).items() if count > 1]
    if repeated:
        raise DatasetError(f"{folder} holds several sets of the name {', '.join(repeated)}. Leave one of them.")
    return sets


def label_examples(folder: Path, *, per_set: int, seed: int = 0) -> list[Example]:
    """Choose structures of every set without strokes of people, in instance sets single objects.

    The choice goes round the labels of a set, each time taking an image whose subject was used least. It depends on the
    seed and on the set alone.

    Raises:
        ConfigError: If a number is out of range.
        DatasetError: If there is no set, one is bad, or shows no structure that is large enough.
    """
    if per_set < 1 or seed < 0:
        raise ConfigError(f"per_set is at least 1 and seed at least 0; got {per_set} and {seed}.")
    examples = []
    for entry in read_sets(folder):
        subjects = _subjects(entry)
        candidates = []  # (key of the task, image, label)
        for n, labels in enumerate(entry.labels):
            areas = np.bincount(labels.ravel())
            shown = np.flatnonzero((areas[1:] >= MIN_AREA) & (areas[1:] < labels.size)) + 1
            candidates += [(0 if entry.instances else label, n, label) for label in shown.tolist()]
        if not candidates:
            raise DatasetError(f"Set {entry.name} shows no structure of at least {MIN_AREA} pixels.")
        rng = np.random.default_rng((seed, zlib.crc32(entry.name.encode())))
        for _, n, label in sorted(_choose(candidates, subjects, per_set, rng)):
            task = f"{entry.name}/{'object' if entry.instances else entry.label_name(label)}"
            reference = np.asarray(entry.labels[n] == label)
            examples.append(Example(entry.name, task, subjects[n], n, label, _unit(entry.images[n]), reference))
    return examples


def context_tasks(folder: Path, *, least_images: int, per_set: int | None = None) -> tuple[list[Task], dict[str, str]]:
    """Read every structure that enough images of its set show; in instance sets all objects together.

    Images with less than `MIN_AREA` of the structure do not count; nor do those that it fills.

    Args:
        folder: Holds the sets.
        least_images: Structures that fewer images show are left out.
        per_set: Most structures of a set, those that the most images show; None for all.

    Returns:
        The tasks, and for each that was left out, why.

    Raises:
        DatasetError: If there is no set, one is bad, or no structure is left.
    """
    tasks: list[Task] = []
    left_out: dict[str, str] = {}
    for entry in read_sets(folder):
        of_set, images = [], [_unit(image) for image in entry.images]
        for name, label, masks in _structures(entry):
            areas = masks.sum(axis=(1, 2))
            shown = np.flatnonzero((areas >= MIN_AREA) & (areas < masks[0].size)).tolist()
            if len(shown) >= least_images:
                of_set.append(Task(entry.name, name, tuple(_examples(entry, images, name, label, masks, shown))))
            else:
                left_out[name] = f"{len(shown)} images show it, {least_images} are needed"
        kept = sorted(of_set, key=lambda task: -len(task.examples))[:per_set]
        tasks += [task for task in of_set if task in kept]
        left_out |= {task.name: "others of its set are shown by more images" for task in of_set if task not in kept}
    if not tasks:
        raise DatasetError(f"No structure in {folder} is shown by {least_images} images. Ask for fewer.")
    return tasks, left_out


def absence_folders(
    folder: Path, *, entries: int, per_set: int | None = None, seed: int = 0
) -> tuple[list[Folder], dict[str, str]]:
    """Make folders of which half of the images lack the structure, from sets whose images do and do not show it.

    Images without it are those of the set that do not show the label, and its `negatives`. The context are images with
    the structure; nobody in it is among the subjects of the other images that show it.

    Args:
        folder: Holds the sets.
        entries: Images of the context.
        per_set: Most structures of a set, those with the most images; None for all.
        seed: Of the choice.

    Returns:
        The folders, and for each structure that was left out, why.

    Raises:
        DatasetError: If there is no set, one is bad, or nothing is left.
    """
    folders: list[Folder] = []
    left_out: dict[str, str] = {}
    for path in _paths(folder, manual=False):
        entry = load_set(path)
        with np.load(path, allow_pickle=False) as archive:
            negatives = archive["negatives"] if "negatives" in archive.files else entry.images[:0]
        of_set, images = [], [_unit(image) for image in entry.images]
        for name, label, masks in _structures(entry, merge=entry.name in ALTERNATIVES):
            areas = masks.sum(axis=(1, 2))
            rng = generator(seed, name)
            shown = rng.permutation(np.flatnonzero(areas >= MIN_AREA)).tolist()
            lacking = rng.permutation(np.flatnonzero(areas == 0)).tolist()
            present = list(_examples(entry, images, name, label, masks, shown))
            absent = list(_examples(entry, images, name, label, masks, lacking))
            for n, image in enumerate(negatives, start=len(entry.images)):
                absent.append(
                    Example(entry.name, name, f"negative {n}", n, label, _unit(image), np.zeros(image.shape, bool))
                )
            in_context, known = present[:entries], {one.subject for one in present[:entries]}
            present = [one for one in present[entries:] if one.subject not in known]
            count = min(len(present), len(absent))
            if len(in_context) < entries or count < LEAST_ABSENT:
                left_out[name] = f"{len(present)} images with it and {len(absent)} without it besides the context"
                continue
            context = ContextSet(name, tuple(one.entry() for one in in_context))
            of_set.append(Folder(entry.name, name, context, (*present[:count], *absent[:count])))
        kept = sorted(of_set, key=lambda one: -len(one.examples))[:per_set]
        folders += [one for one in of_set if one in kept]
    if not folders:
        raise DatasetError(
            f"No set in {folder} has {LEAST_ABSENT} images with and {LEAST_ABSENT} without a structure. Ask for fewer."
        )
    return folders, left_out


@dataclass(frozen=True, eq=False)
class Case:
    """One structure of a volume along one axis."""

    set_name: str  # of the volume's folder
    volume_name: str
    structure: int  # number of the label
    axis: int
    slices: Mask  # (slices, H, W), the reference

    @property
    def extent(self) -> tuple[int, int]:
        """Half-open range from the first slice that shows the structure to the last one."""
        shown = np.flatnonzero(self.slices.any(axis=(1, 2)))
        return int(shown[0]), int(shown[-1]) + 1

    def annotated(self, places: Sequence[float]) -> dict[int, Mask]:
        """Give the slices at places of the extent, 0 to 1; the nearest that shows the structure where one does not."""
        shown = np.flatnonzero(self.slices.any(axis=(1, 2)))
        wanted = [shown[0] + place * (shown[-1] - shown[0]) for place in places]
        return {int(n): self.slices[n] for n in sorted({int(shown[np.argmin(np.abs(shown - one))]) for one in wanted})}

    @property
    def measured(self) -> range:
        """The slices that are looked at: the extent, and some beyond each end."""
        start, stop = self.extent
        return range(max(start - _BEYOND, 0), min(stop + _BEYOND, len(self.slices)))


def find_volumes(folder: Path) -> list[Path]:
    """List the images of a folder's volumes.

    Raises:
        DatasetError: If there are none, or one has no labels.
    """
    paths = sorted(folder.glob("*/*_image.nii.gz"))
    lacking = [path for path in paths if not _label_path(path).is_file()]
    if not paths or lacking:
        what = f"{lacking[0]} has no {_label_path(lacking[0]).name} beside it" if lacking else f"No volumes in {folder}"
        raise DatasetError(f"{what}. Volumes are */*_image.nii.gz with *_label.nii.gz.")
    return paths


def read_cases(path: Path, *, per_volume: int | None = None, one_axis: bool = False) -> tuple[Volume, list[Case]]:
    """Read a volume with its structures.

    Args:
        path: Of `find_volumes`.
        per_volume: Most structures, the largest ones; None for all.
        one_axis: Whether only the first axis is used. A volume whose spacing differs by more than 1.5 times between
            axes is cut along the axis of the largest one, as it was acquired; any other one along all three.

    Raises:
        DatasetError: If image and labels are not of the same shape.
        FileFormatError: If one of them cannot be read.
    """
    from scribblesegment.io import read_labelmap, read_volume

    volume, labels = read_volume(path), read_labelmap(_label_path(path)).array
    if labels.shape != volume.shape:
        raise DatasetError(f"{path} has the shape {volume.shape} and its labels have {labels.shape}. Resample them.")
    spacing, counts = volume.spacing_kji_mm, np.bincount(labels.ravel())
    axes = [int(np.argmax(spacing))] if max(spacing) > 1.5 * min(spacing) else [0] if one_axis else [0, 1, 2]
    structures = sorted((np.flatnonzero(counts[1:]) + 1).tolist(), key=lambda label: -counts[label])
    cases = []
    for label in sorted(structures[:per_volume]):
        for axis in axes:
            mask = np.moveaxis(labels == label, axis, 0)
            areas = mask.sum(axis=(1, 2))
            if int((areas > 0).sum()) >= LEAST_SLICES and np.median(areas[areas > 0]) >= LEAST_SLICE_AREA:
                cases.append(Case(path.parent.name, path.name.removesuffix("_image.nii.gz"), label, axis, mask))
    return volume, cases


def _paths(folder: Path, *, manual: bool) -> list[Path]:
    paths = [path for path in sorted(folder.glob("*.npz")) if path.name.startswith(PREFIX) == manual]
    if not paths:
        kind = f"with strokes of people ({PREFIX}*.npz)" if manual else f"(*.npz other than {PREFIX}*)"
        raise DatasetError(f"{folder} holds no set {kind}. Name the folder that does by --data.")
    return paths


def _label_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("_image.nii.gz") + "_label.nii.gz")


def _unit(image: NDArray[np.uint8]) -> FloatArray:
    return np.asarray(image.astype(np.float32) / np.float32(255))


def _subjects(entry: SegmentationSet) -> list[str]:
    return [name or str(n) for n, name in enumerate(subjects_of(entry.meta, len(entry.images)))]


def _structures(entry: SegmentationSet, *, merge: bool = False) -> Iterator[tuple[str, int, Mask]]:
    """Give name, label and masks (N, H, W) of each structure; all objects together are one in sets of instances."""
    if entry.instances or merge:
        yield f"{entry.name}/{'objects' if entry.instances else 'all'}", 0, np.asarray(entry.labels > 0)
        return
    for label in np.unique(entry.labels[entry.labels > 0]).tolist():
        yield f"{entry.name}/{entry.label_name(label)}", label, np.asarray(entry.labels == label)


def _examples(
    entry: SegmentationSet,
    images: Sequence[FloatArray],
    name: str,
    label: int,
    masks: NDArray[Any],
    indices: Sequence[int],
) -> Iterator[Example]:
    subjects = _subjects(entry)
    for n in indices:
        yield Example(entry.name, name, subjects[n], n, label, images[n], masks[n])


def _choose(
    candidates: list[tuple[int, int, int]], subjects: list[str], count: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Take candidates in turn from every key, each time one whose subject, then whose image, was used least."""
    shuffled = [candidates[n] for n in rng.permutation(len(candidates))]
    left = {key: [one for one in shuffled if one[0] == key] for key in dict.fromkeys(one[0] for one in shuffled)}
    uses: Counter[object] = Counter()  # of subjects, by name, and of images, by number
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < count and any(left.values()):
        for key in [key for key, remaining in left.items() if remaining][: count - len(chosen)]:
            best = min(left[key], key=lambda one: (uses[subjects[one[1]]], uses[one[1]]))
            left[key].remove(best)
            uses.update((subjects[best[1]], best[1]))
            chosen.append(best)
    return chosen
