"""Sets of images with label maps on disk: one reader for training and evaluation.

A set is one `.npz` file: `images` uint8 (N, S, S), square, `labels` uint8 or uint16 (N, S, S) with 0 as background, and
`meta`, a JSON string. Of its entries are read here: `name`; `instances`, telling that every object has a number of its
own; `label_names`, names by label number; and `subjects`, a name for each image.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import DatasetError

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
    arrays, meta = read_arrays(path, ("images", "labels"))
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
    return SegmentationSet(str(meta.get("name", path.stem)), images, labels, bool(meta.get("instances")), meta)


def read_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read arrays of a set, whatever they are, and its description; never pickled objects, which could run code.

    Args:
        path: The `.npz` file.
        names: The arrays; `meta` is read besides.

    Returns:
        The arrays by name, and the parsed `meta`.

    Raises:
        DatasetError: If the file is missing or damaged, an array is missing, or `meta` is no JSON object; the message
            names the file.
    """
    wanted = (*names, "meta")
    try:
        arrays = _load(path, wanted)
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


def _load(path: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise DatasetError(f"{path} holds a single array; a set is an .npz of {', '.join(wanted)}.")
    with archive:
        missing = [name for name in wanted if name not in archive.files]
        if missing:
            raise DatasetError(f"{path} lacks {', '.join(missing)}; a set is an .npz of {', '.join(wanted)}.")
        return {name: archive[name] for name in wanted}
