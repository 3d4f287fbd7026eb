"""Structures to segment with simulated prompts: a balanced choice from sets of images with label maps."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.baselines import FloatArray, Mask
from scribblesegment.evaluation.datasets import PREFIX
from scribblesegment.training.corpus import SegmentationSet, load_set, subjects_of

EXAMPLES_PER_SET = 6

# As in training: 16 pixels of the 128 x 128 grid are 64 of the 256 x 256 images.
MIN_AREA = 64

_OBJECT = "object"


@dataclass(frozen=True, eq=False)
class LabelExample:
    """One structure in one image.

    Attributes:
        set_name: The set it comes from.
        task: What is segmented in what: `<set>/<label's name>`; in instance sets `<set>/object`.
        subject: Whose image it is; the image's position in the set if the set does not say.
        image_index: Position of the image in its set.
        label: Number of the structure or object in the label map.
        image: float32 (H, W) in [0, 1].
        reference: bool (H, W), not empty.
    """

    set_name: str
    task: str
    subject: str
    image_index: int
    label: int
    image: FloatArray
    reference: Mask


@dataclass(frozen=True)
class _Candidate:
    """A structure that may be chosen: its task's key, its image, and its number."""

    key: int
    image_index: int
    label: int


def read_label_examples(
    folder: str | Path, *, per_set: int = EXAMPLES_PER_SET, seed: int = 0, min_area: int = MIN_AREA
) -> list[LabelExample]:
    """Choose examples from every set of a folder, `*.npz`, other than those with strokes drawn by people.

    The choice goes round the labels of a set, each time taking an image whose subject was used least, until there are
    enough or none is left. In instance sets, where label numbers mean nothing across images, there is a single label
    and one object of an image is the structure. The choice depends on the seed and on the set alone, not on what other
    sets lie in the folder.

    Args:
        folder: Holds the sets, in the format of `scribblesegment.training.corpus`.
        per_set: Most examples of a set.
        seed: Of the choice.
        min_area: Smaller structures, in pixels, are left out; so are those that fill their image.

    Returns:
        Examples in the order of the sets' file names, labels and images.

    Raises:
        ConfigError: If a number is out of range.
        DatasetError: If the folder is missing, holds no such set, two sets have the same name, or a set is bad or
            shows no structure that is large enough.
    """
    if per_set < 1 or min_area < 1 or seed < 0:
        raise ConfigError(
            f"per_set and min_area are at least 1 and seed at least 0; got {per_set}, {min_area} and {seed}."
        )
    return [example for entry in read_label_sets(folder) for example in _examples(entry, per_set, seed, min_area)]


def read_label_sets(folder: str | Path) -> list[SegmentationSet]:
    """Read all sets of a folder, `*.npz`, other than those with strokes drawn by people.

    Raises:
        DatasetError: If the folder is missing, holds no such set, two sets have the same name, or a set is bad.
    """
    if not Path(folder).is_dir():
        raise DatasetError(f"There is no folder {folder}. Give the folder that holds the sets (*.npz).")
    paths = sorted(path for path in Path(folder).glob("*.npz") if not path.name.startswith(PREFIX))
    if not paths:
        raise DatasetError(f"{folder} holds no set with label maps (*.npz other than {PREFIX}*). Give one that does.")
    sets = [load_set(path) for path in paths]
    names = Counter(entry.name for entry in sets)
    if len(names) < len(sets):
        repeated = ", ".join(name for name, count in names.items() if count > 1)
        raise DatasetError(f"{folder} holds several sets of the name {repeated}. Leave one, or correct its meta.")
    return sets


def _examples(entry: SegmentationSet, per_set: int, seed: int, min_area: int) -> Iterator[LabelExample]:
    rng = np.random.default_rng((seed, zlib.crc32(entry.name.encode())))
    subjects = [name or str(n) for n, name in enumerate(subjects_of(entry.meta, len(entry.images)))]
    candidates = list(_candidates(entry, min_area))
    if not candidates:
        raise DatasetError(
            f"Set {entry.name} shows no structure of at least {min_area} pixels. Lower the smallest area."
        )
    chosen = _choose(candidates, subjects, per_set, rng)
    for candidate in sorted(chosen, key=lambda one: (one.key, one.image_index, one.label)):
        label_name = _OBJECT if entry.instances else entry.label_name(candidate.label)
        yield LabelExample(
            set_name=entry.name,
            task=f"{entry.name}/{label_name}",
            subject=subjects[candidate.image_index],
            image_index=candidate.image_index,
            label=candidate.label,
            image=entry.images[candidate.image_index].astype(np.float32) / np.float32(255),
            reference=np.asarray(entry.labels[candidate.image_index] == candidate.label),
        )


def _candidates(entry: SegmentationSet, min_area: int) -> Iterator[_Candidate]:
    for image_index, labels in enumerate(entry.labels):
        areas = np.bincount(labels.ravel())
        for label in (np.flatnonzero((areas[1:] >= min_area) & (areas[1:] < labels.size)) + 1).tolist():
            yield _Candidate(0 if entry.instances else label, image_index, label)


def _choose(
    candidates: list[_Candidate], subjects: list[str], count: int, rng: np.random.Generator
) -> list[_Candidate]:
    """Take candidates in turn from every key, each time one whose subject, then whose image, was used least."""
    shuffled = [candidates[n] for n in rng.permutation(len(candidates))]
    left = {key: [one for one in shuffled if one.key == key] for key in dict.fromkeys(one.key for one in shuffled)}
    subject_uses: Counter[str] = Counter()
    image_uses: Counter[int] = Counter()
    chosen: list[_Candidate] = []
    while len(chosen) < count and any(left.values()):
        for key in [key for key, remaining in left.items() if remaining][: count - len(chosen)]:
            best = min(
                left[key], key=lambda one: (subject_uses[subjects[one.image_index]], image_uses[one.image_index])
            )
            left[key].remove(best)
            subject_uses[subjects[best.image_index]] += 1
            image_uses[best.image_index] += 1
            chosen.append(best)
    return chosen
