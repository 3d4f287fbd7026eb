"""All voxels at once that segments may not be given: what `edit_mask` says of single ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkOrientedImageData, vtkOrientedImageDataResample

from scribblesegment.mrml.edit_mask import in_intensity_range, mask_segments, masking_image
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.geometry import ReferenceGeometry
from scribblesegment.mrml.labelmaps import is_empty, on_lattice, overlap, voxels_of
from scribblesegment.mrml.segments import layers


def forbidden_voxels(
    target: EditTarget, segment_ids: Sequence[str], protect: Sequence[str]
) -> NDArray[np.bool_] | None:
    """Where segments may not grow, by masking settings and protected segments.

    Args:
        target: One of the segments that are edited together.
        segment_ids: Identifiers of all of them; they do not limit each other.
        protect: Identifiers of segments that must not change.

    Returns:
        bool (K, J, I) on the target's grid, or None when nothing is forbidden.

    Raises:
        ImageError: A segment cannot be converted to a label map.
    """
    node, editor_node, reference = target.segmentation_node, target.editor_node, target.reference
    limiting, inside = mask_segments(node, editor_node, segment_ids)
    protected = [other for other in protect if other not in segment_ids]
    forbidden: NDArray[np.bool_] | None = None
    if inside:
        forbidden = ~segments_in_volume(node, limiting, reference)
    elif limiting:
        forbidden = segments_in_volume(node, limiting, reference)
    if protected:
        kept = segments_in_volume(node, protected, reference)
        forbidden = kept if forbidden is None else np.logical_or(forbidden, kept, out=forbidden)
    if editor_node.GetSourceVolumeIntensityMask():
        outside = ~in_intensity_range(editor_node, masking_image(target.source.masking_array, reference))
        forbidden = outside if forbidden is None else np.logical_or(forbidden, outside, out=forbidden)
    return forbidden


def segments_in_volume(
    segmentation_node: Any, segment_ids: Sequence[str], reference: ReferenceGeometry
) -> NDArray[np.bool_]:
    """Which voxels of the whole grid belong to any of several segments, bool (K, J, I).

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    belongs = np.zeros(reference.grid.shape, bool)
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        if is_empty(labelmap):
            continue
        fitting = labelmap if on_lattice(labelmap, reference) else _resampled(labelmap, reference)
        here, there = overlap(fitting.GetExtent(), reference.extent)
        values = voxels_of(fitting)[here]
        for label in labels.values():
            belongs[there] |= values == label
    return belongs


def _resampled(labelmap: Any, reference: ReferenceGeometry) -> Any:
    resampled = vtkOrientedImageData()
    vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        labelmap, reference.image, resampled, False, False
    )
    return resampled
