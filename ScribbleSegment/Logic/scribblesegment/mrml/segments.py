"""Which voxels belong to which segments, whatever layers, lattices and extents their label maps have.

Several segments may share one label map (a *layer*), each with a label value of its own. Every function here looks at a
layer once, however many of its segments are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkSegmentationConverter

from scribblesegment.exceptions import ImageError, PromptError
from scribblesegment.mrml.geometry import ReferenceGeometry
from scribblesegment.mrml.labelmaps import is_empty, offset_kji, on_lattice, values_at, voxels_of
from scribblesegment.mrml.oblique_cuts import oblique_cut
from scribblesegment.slice_plane import SlicePlane

BINARY_LABELMAP = vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
CLOSED_SURFACE = vtkSegmentationConverter.GetClosedSurfaceRepresentationName()


def segment_at(
    segmentation_node: Any, segment_id: str, reference: ReferenceGeometry, kji: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which voxels belong to a segment.

    Args:
        segmentation_node: vtkMRMLSegmentationNode. If its segments are surfaces, label maps are derived from them.
        segment_id: Of the segment.
        reference: The grid that `kji` counts on.
        kji: int64 (N, 3), voxels of that grid.

    Returns:
        bool (N,).

    Raises:
        PromptError: There is no such segment.
        ImageError: The segmentation cannot be converted to label maps.
    """
    segment_of(segmentation_node, segment_id)
    return segments_at(segmentation_node, [segment_id], reference, kji)


def segments_at(
    segmentation_node: Any, segment_ids: Iterable[str], reference: ReferenceGeometry, kji: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which voxels belong to any of several segments, as `segment_at`; identifiers of no segment are passed over."""
    belongs = np.zeros(len(kji), bool)
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        belongs |= _has_label(values_at(labelmap, reference, kji), labels.values())
    return belongs


def segments_among(
    segmentation_node: Any, segment_ids: Iterable[str], reference: ReferenceGeometry, kji: NDArray[np.int64]
) -> list[str]:
    """Those of several segments that have at least one of the voxels (N, 3)."""
    found: list[str] = []
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        present = set(np.unique(values_at(labelmap, reference, kji)).tolist())
        found.extend(segment_id for segment_id, label in labels.items() if label in present)
    return found


def segment_on_plane(
    segmentation_node: Any, segment_id: str, reference: ReferenceGeometry, plane: SlicePlane
) -> NDArray[np.bool_]:
    """A segment as the pixels of a plane show it.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        segment_id: Of the segment.
        reference: The grid that the plane was made for.
        plane: Any plane through that grid.

    Returns:
        bool (H, W), of the voxel nearest to each pixel; False outside the grid.

    Raises:
        PromptError: There is no such segment.
        ImageError: The segmentation cannot be converted to label maps.
    """
    segment_of(segmentation_node, segment_id)
    return segments_on_plane(segmentation_node, [segment_id], reference, plane)


def segments_on_plane(
    segmentation_node: Any, segment_ids: Iterable[str], reference: ReferenceGeometry, plane: SlicePlane
) -> NDArray[np.bool_]:
    """Any of several segments, as `segment_on_plane`; identifiers of no segment are passed over."""
    shown = np.zeros(plane.shape, bool)
    kji: NDArray[np.int64] | None = None
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        if is_empty(labelmap):
            continue
        if plane.voxel_slice is not None and on_lattice(labelmap, reference):
            pixels, values = _aligned_slice(labelmap, reference, plane.voxel_slice, plane.shape)
            shown[pixels] |= _has_label(values, labels.values())
            continue
        if kji is None:
            kji, inside = oblique_cut(reference.grid, plane).pixels
        shown[inside] |= _has_label(values_at(labelmap, reference, kji), labels.values())
    return shown


def visible_other_segments(segmentation_node: Any, segment_id: str) -> list[str]:
    """Identifiers of the segments that are switched on in the list of segments, without `segment_id`.

    Empty without a display node, as nothing is shown then.
    """
    display_node = segmentation_node.GetDisplayNode()
    if display_node is None:
        return []
    return [
        other
        for other in segmentation_node.GetSegmentation().GetSegmentIDs()
        if other != segment_id and display_node.GetSegmentVisibility(other)
    ]


def layers(segmentation_node: Any, segment_ids: Iterable[str]) -> dict[Any, dict[str, int]]:
    """Label values of segments by the label map (vtkOrientedImageData or None) that holds them.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    segmentation = segmentation_node.GetSegmentation()
    found: dict[Any, dict[str, int]] = {}
    for segment_id in segment_ids:
        segment = segmentation.GetSegment(segment_id)
        if segment is not None:
            labelmap = labelmap_of(segmentation_node, segment)
            found.setdefault(labelmap, {})[segment_id] = segment.GetLabelValue()
    return found


def labelmap_of(segmentation_node: Any, segment: Any) -> Any:
    """The label map that holds a vtkSegment, derived from its surface if need be; None where there never was one.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    labelmap = segment.GetRepresentation(BINARY_LABELMAP)
    segmentation = segmentation_node.GetSegmentation()
    if labelmap is None and segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        derive_labelmaps(segmentation_node)
        labelmap = segment.GetRepresentation(BINARY_LABELMAP)
    return labelmap


def derive_labelmaps(segmentation_node: Any) -> None:
    """Make label maps of segments that are stored in another form.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    segmentation = segmentation_node.GetSegmentation()
    if not segmentation.CreateRepresentation(BINARY_LABELMAP):
        raise ImageError(
            f"The segments of {segmentation_node.GetName()!r} are stored as "
            f"{segmentation.GetSourceRepresentationName()!r} and cannot be converted to voxels. Create a binary "
            "labelmap for it in the module Segmentations, under Representations."
        )


def segment_of(segmentation_node: Any, segment_id: str) -> Any:
    """The vtkSegment with an identifier.

    Raises:
        PromptError: There is none.
    """
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id or "")
    if segment is None:
        raise PromptError(
            f"The segmentation {segmentation_node.GetName()!r} has no segment {segment_id!r}. Select a segment in the "
            "list, or add one."
        )
    return segment


def _has_label(values: NDArray[Any], labels: Iterable[int]) -> NDArray[np.bool_]:
    wanted = list(labels)
    found: NDArray[np.bool_] = values == wanted[0] if len(wanted) == 1 else np.isin(values, wanted)
    return found


def _aligned_slice(
    labelmap: Any, reference: ReferenceGeometry, voxel_slice: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    """The pixels of a slice of the reference grid that a label map covers, and its values there."""
    axis, index = voxel_slice
    voxels, offset = voxels_of(labelmap), offset_kji(labelmap, reference)
    covered = 0 <= index - offset[axis] < voxels.shape[axis]
    pixels, own = [], []
    for size, other in zip(shape, (other for other in range(3) if other != axis), strict=True):
        start = min(max(offset[other], 0), size)
        stop = max(min(offset[other] + voxels.shape[other], size), start) if covered else start
        pixels.append(slice(start, stop))
        own.append(slice(start - offset[other], stop - offset[other]) if stop > start else slice(0, 0))
    values = np.moveaxis(voxels, axis, 0)[index - offset[axis] if covered else 0]
    return (pixels[0], pixels[1]), values[own[0], own[1]]
