"""Volumes as training sets: all their slices, so that a context can hold the slices next to a target's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import DatasetError, ScribbleSegmentError
from scribblesegment.preprocessing import IntensityRange, SliceGrid
from scribblesegment.segmentation_sets import SegmentationSet

_IMAGE, _LABEL = "_image.nii.gz", "_label.nii.gz"

# Side in pixels of the slices, as in the sets of images.
_SIDE = 256

# Slices without any structure, or with one of fewer pixels than this, teach nothing.
_FEWEST_PIXELS = 30


def load_volume_sets(folder: str | Path) -> list[SegmentationSet]:
    """Read volumes, `NAME_image.nii.gz` and `NAME_label.nii.gz` in one folder a set, as sets of their slices.

    Slices of all three axes are laid out with square pixels, intensities are scaled once a volume. A folder named "nc"
    holds volumes of other licences and is passed over; one with "nuclei" or "stardist" in its name numbers objects.

    Raises:
        DatasetError: If there is no volume, or one cannot be read; the message names it.
    """
    sets = []
    for path in sorted(Path(folder).iterdir()):
        images = sorted(path.glob(f"*{_IMAGE}")) if path.is_dir() and path.name != "nc" else []
        if images:
            sets.append(_load(path.name, images))
    if not sets:
        raise DatasetError(f"No volume (SET/NAME{_IMAGE} with NAME{_LABEL}) in {folder}; give the folder of the sets.")
    return sets


def _load(name: str, paths: list[Path]) -> SegmentationSet:
    from scribblesegment.io import read_labelmap, read_volume

    images, labels = [], []
    meta: dict[str, Any] = {"name": name, "modality": name, "subjects": [], "axis": [], "index": []}
    for path in paths:
        try:
            volume, structures = read_volume(path), read_labelmap(path.with_name(path.name.replace(_IMAGE, _LABEL)))
        except ScribbleSegmentError as error:
            raise DatasetError(f"The volume {path} cannot be used: {error}") from error
        if structures.shape != volume.shape:
            raise DatasetError(f"{path}: the labels have shape {structures.shape}, the volume {volume.shape}.")
        intensities = IntensityRange.estimate(volume.array)
        for axis, count in enumerate(volume.shape):
            for index in range(count):
                here = structures.slice(axis, index)
                if np.count_nonzero(here.image) < _FEWEST_PIXELS:
                    continue
                grid = SliceGrid(here.image.shape, here.spacing_mm, _SIDE)
                picture = grid.image_to_grid(intensities.normalize(volume.slice(axis, index).image))
                images.append(np.rint(255 * picture).astype(np.uint8))
                labels.append(_nearest(grid, here.image.astype(np.uint16)))
                meta["subjects"].append(path.name.removesuffix(_IMAGE))
                meta["axis"].append(axis)
                meta["index"].append(index)
    if not images:
        raise DatasetError(f"The volumes of {name} show no structure of {_FEWEST_PIXELS} pixels or more.")
    return SegmentationSet(f"{name} volumes", np.stack(images), np.stack(labels), _has_instances(name), meta)


def _nearest(grid: SliceGrid, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Bring labels (H, W) to a grid without mixing them."""
    cells = np.arange(grid.size)
    rows, columns = np.rint(grid.from_grid_coords(np.stack([cells, cells], axis=1))).astype(int).T
    inside = [(axis >= 0) & (axis < length) for axis, length in zip((rows, columns), labels.shape, strict=True)]
    laid_out = np.zeros((grid.size, grid.size), np.uint16)
    laid_out[np.ix_(*inside)] = labels[np.ix_(rows[inside[0]], columns[inside[1]])]
    return laid_out


def _has_instances(name: str) -> bool:
    return "nuclei" in name or "stardist" in name
