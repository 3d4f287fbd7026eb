"""What propagation through a volume is compared with: methods of today that get the same annotated slices.

Each gives masks by slice index; slices it says nothing about are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.masks import interpolate_slices
from scribblesegment.data.volume import Volume
from scribblesegment.errors import MissingDependencyError, PromptError, require_package
from scribblesegment.evaluation.baselines import Mask

Baseline = Callable[[Volume, Mapping[int, Mask], int, tuple[int, int]], Mapping[int, Mask]]
"""Maps a volume, masks bool (H, W) of annotated slices, the axis, and the half-open range of slices that are measured
to masks of other slices."""

INTERPOLATION, GROW_FROM_SEEDS = "shape interpolation", "grow from seeds"

_OBJECT, _BACKGROUND = 1, 2

# Slicer's effect works on the box around all seeds, enlarged on each side by a fifth of it and three voxels at least.
_GROWTH, _LEAST_GROWTH = 0.2, 3

# The filter expects padding: outer voxels take labels but pass none on.
_FRAME = 1


def interpolate_shapes(
    volume: Volume, annotated: Mapping[int, Mask], axis: int, measured: tuple[int, int]
) -> Mapping[int, Mask]:
    """Interpolate shapes linearly, without looking at the image; beyond the outermost annotated slices is nothing."""
    return interpolate_slices(annotated, spacing_mm=volume.slice(axis, 0).spacing_mm)


def grow_from_slices(
    volume: Volume, annotated: Mapping[int, Mask], axis: int, measured: tuple[int, int]
) -> Mapping[int, Mask]:
    """Grow from annotated slices in three dimensions by `vtkImageGrowCutSegment`, the filter of *Grow from seeds*.

    The structure in the annotated slices are the seeds of one segment, all the rest of these slices those of the
    other, as if a user had painted both and pressed Initialize; seed locality is 0 and nothing is masked, as in the
    effect's own settings. The effect works on the box around the seeds, here whole slices, with a margin; along the
    axis that box is enlarged to all slices that are measured, where the effect would leave the outermost ones empty.

    Args:
        volume: The image, whose values are used as they are.
        annotated: bool (H, W) masks by index; one at least is not empty.
        axis: Axis of the array.
        measured: Half-open range of slices that have to be reached.

    Raises:
        MissingDependencyError: If slicer-core is not installed.
        PromptError: If no annotated slice shows the structure.
    """
    grow_cut = load_grow_cut()
    if not any(mask.any() for mask in annotated.values()):
        raise PromptError("No annotated slice shows the structure, so nothing can grow. Annotate one that does.")
    slices = np.moveaxis(volume.array, axis, 0)
    first, stop = min(annotated), max(annotated) + 1
    margin = max(_LEAST_GROWTH, int(_GROWTH * (stop - 1 - first)))
    start, stop = max(min(first - margin, measured[0]), 0), min(max(stop + margin, measured[1]), len(slices))
    seeds = np.zeros((stop - start, *slices.shape[1:]), np.uint8)
    for index, mask in annotated.items():
        seeds[index - start] = np.where(mask, _OBJECT, _BACKGROUND)
    if (seeds[seeds > 0] == _OBJECT).all():
        grown = np.ones(seeds.shape, bool)  # nothing stands against the structure
    else:
        grown = grow_cut(np.ascontiguousarray(slices[start:stop]), seeds) == _OBJECT
    return {index: grown[index - start] for index in range(start, stop) if index not in annotated}


def load_grow_cut() -> Callable[[NDArray[Any], NDArray[np.uint8]], NDArray[np.uint8]]:
    """Load Slicer's filter as a function of intensities and seeds, both (K, J, I), that gives the label of each voxel.

    Raises:
        MissingDependencyError: If slicer-core is not installed.
    """
    slicer = require_package(
        "slicer",
        purpose="Grow from seeds in three dimensions",
        remedy='It is part of slicer-core. Install it with: pip install "scribblesegment[evaluation]".',
    )
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData

    def framed(array: NDArray[Any]) -> Any:
        padded = np.pad(array, _FRAME, mode="edge")
        image = vtkImageData()
        image.SetDimensions(*reversed(padded.shape))
        image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
        return image

    def grow(intensities: NDArray[Any], seeds: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grow_cut = slicer.vtkImageGrowCutSegment()
        grow_cut.SetIntensityVolume(framed(intensities))
        grow_cut.SetSeedLabelVolume(framed(seeds))
        grow_cut.Update()
        labels = vtk_to_numpy(grow_cut.GetOutput().GetPointData().GetScalars())
        inner = (slice(_FRAME, -_FRAME),) * 3
        # A copy: the array shares the memory of an output that goes away with the filter.
        return np.array(labels.reshape([side + 2 * _FRAME for side in seeds.shape])[inner], dtype=np.uint8)

    return grow


def load_baselines() -> tuple[dict[str, Baseline], dict[str, str]]:
    """Load both by name; gives besides, for one whose library is not installed, the reason."""
    baselines: dict[str, Baseline] = {INTERPOLATION: interpolate_shapes}
    try:
        load_grow_cut()
    except MissingDependencyError as error:
        return baselines, {GROW_FROM_SEEDS: str(error)}
    return baselines | {GROW_FROM_SEEDS: grow_from_slices}, {}
