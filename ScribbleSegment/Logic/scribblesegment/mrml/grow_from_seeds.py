"""Slicer's *Grow from seeds* for one slice, by the class that the Segment Editor effect itself uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkImageGrowCutSegment
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData

from scribblesegment.data import validation
from scribblesegment.errors import ImageError, PromptError

# The filter expects padding: outer voxels take labels but pass none on. So the slice gets a frame on all sides: a copy
# before and one behind it, and its outer pixels once more around it. Else a stroke along the edge would do nothing.
_FRAME = 1

# The filter adds up differences of intensity along a path; in whole numbers the sums are exact, and paths that are
# equally good stay so. These are the steps of an 8-bit image.
_INTENSITY_STEPS = 255


def grow_from_seeds(image: NDArray[np.floating[Any]], seeds: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Give every pixel the label of the seed it is reached from with the least change of intensity on the way.

    The slice is repeated three times along K, seeds included, because the filter works in three dimensions; the middle
    copy of the result is returned.

    Args:
        image: (H, W) in [0, 1]; seen in 256 steps.
        seeds: (H, W) labels 1 to 255, 0 where nothing was painted; at least one seed.

    Returns:
        uint8 (H, W), the label of every pixel.

    Raises:
        ImageError: If the image is not 2D, or has values outside [0, 1].
        PromptError: If the seeds are on another grid, are no labels, or there are none.

    References:
        Zhu et al. 2014, An effective interactive medical image segmentation method using fast GrowCut. MICCAI
        workshop on interactive medical image computing.
    """
    intensities, labels = _checked(image, seeds)
    grow_cut = vtkImageGrowCutSegment()
    grow_cut.SetIntensityVolume(_framed(np.round(intensities * _INTENSITY_STEPS).astype(np.uint8)))
    grow_cut.SetSeedLabelVolume(_framed(labels))
    grow_cut.Update()
    grown = vtk_to_numpy(grow_cut.GetOutput().GetPointData().GetScalars())
    height, width = labels.shape
    volume = grown.reshape(1 + 2 * _FRAME, height + 2 * _FRAME, width + 2 * _FRAME)
    # A copy: the array shares the memory of an output that goes away with the filter.
    return np.array(volume[_FRAME, _FRAME:-_FRAME, _FRAME:-_FRAME], dtype=np.uint8)


def _checked(image: NDArray[Any], seeds: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    intensities = validation.image_array(image, ndim=(2,))
    validation.unit_range(intensities, name="image", error=ImageError)
    labels = validation.image_array(seeds, ndim=(2,), name="seeds", error=PromptError)
    validation.same_shape(labels.shape, intensities.shape, name="seeds", error=PromptError)
    if labels.dtype.kind == "f" or labels.min() < 0 or labels.max() > 255:
        raise PromptError(
            f"seeds holds {labels.dtype} values from {labels.min()} to {labels.max()}, expected integer labels from 0 "
            "to 255. Cast or renumber them."
        )
    if not labels.any():
        raise PromptError("There are no seeds. Paint at least one pixel.")
    return intensities, labels.astype(np.uint8)


def _framed(slice_array: NDArray[np.uint8]) -> vtkImageData:
    volume = np.pad(slice_array[np.newaxis], _FRAME, mode="edge")
    image = vtkImageData()
    image.SetDimensions(*reversed(volume.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(volume.ravel(), deep=True))
    return image
