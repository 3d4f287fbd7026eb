"""Images with strokes drawn by people.

A set is one `medscribble_<task>.npz`: `images` uint8 (N, H, W), `labels` uint8 (N, H, W) with 0 as background,
`scribbles` uint8 (N, annotator, 2, H, W), strokes on the object first, and `meta`, a JSON string; of its entries only
`subjects`, a name for each image, is read here, and may be missing. Images need not be square, as those of other sets
(`scribblesegment.training.corpus`) are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import DatasetError
from scribblesegment.training.corpus import read_arrays, subjects_of

PREFIX = "medscribble_"


@dataclass(frozen=True, eq=False)
class Example:
    """One image with the strokes of one annotator.

    Attributes:
        task: What is segmented in what.
        subject: Whose image it is; empty if the set does not say.
        image_index: Position of the image in its set.
        annotator: Who drew the strokes, counted from 0.
        image: float32 (H, W) in [0, 1].
        scribbles: float32 (2, H, W), 0 or 1: strokes on the object, strokes on the background.
        reference: bool (H, W).
    """

    task: str
    subject: str
    image_index: int
    annotator: int
    image: NDArray[np.float32]
    scribbles: NDArray[np.float32]
    reference: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ScribbleSet:
    """Images of one task with the strokes of several annotators; arrays as in the file.

    Attributes:
        task: Name of the task.
        images: uint8 (N, H, W).
        labels: integers (N, H, W), 0 background.
        scribbles: uint8 (N, annotator, 2, H, W), above 0 where painted.
        subjects: One name for each image.
    """

    task: str
    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    scribbles: NDArray[np.uint8]
    subjects: tuple[str, ...]

    def examples(self) -> Iterator[Example]:
        """Give every image with every annotator who drew on its object."""
        for index, annotator in np.argwhere(self.scribbles[:, :, 0].any(axis=(2, 3))).tolist():
            yield Example(
                task=self.task,
                subject=self.subjects[index],
                image_index=index,
                annotator=annotator,
                image=self.images[index].astype(np.float32) / np.float32(255),
                scribbles=(self.scribbles[index, annotator] > 0).astype(np.float32),
                reference=np.asarray(self.labels[index] > 0),
            )


def read_scribble_sets(folder: str | Path) -> list[ScribbleSet]:
    """Read all sets of a folder, `medscribble_*.npz`, sorted by file name.

    Raises:
        DatasetError: If the folder is missing, holds no set, or a set is damaged or of another layout.
    """
    if not Path(folder).is_dir():
        raise DatasetError(f"There is no folder {folder}. Give the folder that holds {PREFIX}*.npz.")
    paths = sorted(Path(folder).glob(f"{PREFIX}*.npz"))
    if not paths:
        raise DatasetError(f"{folder} holds no {PREFIX}*.npz. Give the folder that does.")
    return [read_scribble_set(path) for path in paths]


def read_scribble_set(path: str | Path) -> ScribbleSet:
    """Read one set.

    Raises:
        DatasetError: If the file is missing, damaged, or of another layout; the message names it.
    """
    path = Path(path)
    arrays, meta = read_arrays(path, ("images", "labels", "scribbles"))
    images, labels, scribbles = arrays["images"], arrays["labels"], arrays["scribbles"]
    _check_layout(path, images, labels, scribbles)
    return ScribbleSet(path.stem.removeprefix(PREFIX), images, labels, scribbles, subjects_of(meta, len(images)))


def _check_layout(path: Path, images: NDArray[Any], labels: NDArray[Any], scribbles: NDArray[Any]) -> None:
    fits = (
        (images.ndim, scribbles.ndim) == (3, 5)
        and images.shape == labels.shape
        and (len(scribbles), *scribbles.shape[2:]) == (len(images), 2, *images.shape[1:])
        and all(array.dtype == np.uint8 for array in (images, scribbles))
        and labels.dtype.kind in "bui"
    )
    if not fits:
        raise DatasetError(
            f"{path}: expected images uint8 (N, H, W), labels integers of that shape and scribbles uint8 "
            f"(N, annotator, 2, H, W); got images {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}, "
            f"scribbles {scribbles.dtype} {scribbles.shape}."
        )
    if not scribbles[:, :, 0].any():
        raise DatasetError(f"{path}: no annotator drew on an object, so there is nothing to segment from.")
