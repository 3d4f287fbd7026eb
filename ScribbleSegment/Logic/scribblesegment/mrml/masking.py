"""Where the Segment Editor's masking settings allow voxels to be edited."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from slicer import vtkMRMLSegmentationNode
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkImagingCore import vtkImageThreshold

from scribblesegment.data import validation
from scribblesegment.errors import ImageError
from scribblesegment.mrml.geometry import ReferenceGeometry
from scribblesegment.mrml.labelmaps import (
    checked_kji,
    segment_at,
    segments_at,
    segments_in_volume,
    visible_other_segments,
)
from scribblesegment.mrml.target import EditTarget


def editable_at(
    segmentation_node: Any,
    editor_node: Any,
    segment_id: str,
    reference: ReferenceGeometry,
    source_array: NDArray[Any] | None,
    kji: NDArray[np.int64],
    removing: bool,
) -> NDArray[np.bool_]:
    """Which voxels Slicer's other effects could change now.

    The same as the mask that vtkSlicerSegmentEditorLogic applies, but only for the voxels asked for. Slicer makes it
    for the whole reference geometry, which takes a quarter of a second in a CT.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        editor_node: vtkMRMLSegmentEditorNode with mask mode, mask segment and editable intensity range.
        segment_id: The segment that is edited.
        reference: The grid that `kji` counts on.
        source_array: (K, J, I) intensities on that grid that the editable range is about
            (`SourceImage.masking_array`); None is enough when the range is not in use.
        kji: int64 (N, 3), voxels of that grid.
        removing: Whether the voxels are to be taken out of the segment rather than added to it. Inside a single
            segment, Slicer lets everything of the edited segment be taken out, to be given to that segment.

    Returns:
        bool (N,).

    Raises:
        GeometryError: `kji` or `source_array` are not on the grid.
        ImageError: An editable intensity range is set, but there is no image.
    """
    voxels = checked_kji(kji, reference.grid)
    limiting, inside = _mask_segments(segmentation_node, editor_node, [segment_id])
    among = segments_at(segmentation_node, limiting, reference, voxels)
    editable = among if inside else ~among
    if editor_node.GetSourceVolumeIntensityMask():
        image = _masking_image(source_array, reference)
        editable &= _in_intensity_range(editor_node, image[tuple(voxels.T)])
    if removing and editor_node.GetMaskMode() == vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment:
        editable |= segment_at(segmentation_node, segment_id, reference, voxels)
    return editable


Protect = Literal["all", "visible", "none"]
"""Which other segments an edit may not change."""


def protected_segments(
    segmentation_node: Any, editor_node: Any, segment_ids: Collection[str], protect: Protect
) -> list[str]:
    """Identifiers of the segments that may not change while others are edited.

    The segment that editing is limited to the inside of is none of them: nothing could be drawn.
    """
    if protect == "all":
        protected = segmentation_node.GetSegmentation().GetSegmentIDs()
    else:
        protected = visible_other_segments(segmentation_node, "") if protect == "visible" else []
    single = editor_node.GetMaskMode() == vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
    editable = {*segment_ids, editor_node.GetMaskSegmentID()} if single else set(segment_ids)
    return [other for other in protected if other not in editable]


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
    limiting, inside = _mask_segments(node, editor_node, segment_ids)
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
        outside = ~_in_intensity_range(editor_node, _masking_image(target.source.masking_array, reference))
        forbidden = outside if forbidden is None else np.logical_or(forbidden, outside, out=forbidden)
    return forbidden


def _mask_segments(segmentation_node: Any, editor_node: Any, segment_ids: Sequence[str]) -> tuple[list[str], bool]:
    """Which segments limit editing now.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        editor_node: vtkMRMLSegmentEditorNode.
        segment_ids: The segments that are edited; outside of themselves nothing is forbidden to them.

    Returns:
        Their identifiers, and whether editing is allowed inside of them (True) or outside (False).
    """
    modes = vtkMRMLSegmentationNode
    mode = editor_node.GetMaskMode()
    everything = segmentation_node.GetSegmentation().GetSegmentIDs()
    display_node = segmentation_node.GetDisplayNode()
    # The segment's own switch: Slicer does not ask whether the segmentation as a whole is shown.
    visible = [other for other in everything if display_node is not None and display_node.GetSegmentVisibility(other)]
    single = [editor_node.GetMaskSegmentID() or ""]
    inside = {
        modes.EditAllowedInsideAllSegments: everything,
        modes.EditAllowedInsideVisibleSegments: visible,
        modes.EditAllowedInsideSingleSegment: single,
    }
    outside = {modes.EditAllowedOutsideAllSegments: everything, modes.EditAllowedOutsideVisibleSegments: visible}
    if mode in inside:
        return list(inside[mode]), True
    return [other for other in outside.get(mode, ()) if other not in segment_ids], False


def _in_intensity_range(editor_node: Any, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which intensities the editable range allows.

    Args:
        editor_node: vtkMRMLSegmentEditorNode; whether its range is in use is not looked at.
        values: Any shape, of the type of the image.

    Returns:
        bool, of the same shape.
    """
    if not values.size:
        return np.zeros(values.shape, bool)
    # By Slicer's filter, which casts the limits to the type of the image.
    contiguous = np.ascontiguousarray(values).ravel()
    image = vtkImageData()
    image.SetDimensions(len(contiguous), 1, 1)
    image.GetPointData().SetScalars(numpy_to_vtk(contiguous))  # no copy
    threshold = vtkImageThreshold()
    threshold.SetInputData(image)
    threshold.ThresholdBetween(*editor_node.GetSourceVolumeIntensityMaskRange())
    threshold.SetInValue(1)
    threshold.SetOutValue(0)
    threshold.SetOutputScalarTypeToUnsignedChar()
    threshold.Update()
    found: NDArray[np.bool_] = vtk_to_numpy(threshold.GetOutput().GetPointData().GetScalars()).astype(bool)
    return found.reshape(values.shape)


def _masking_image(source_array: NDArray[Any] | None, reference: ReferenceGeometry) -> NDArray[Any]:
    """The image that the editable intensity range is about.

    Raises:
        GeometryError: It is not on the grid.
        ImageError: There is none.
    """
    if source_array is None:
        raise ImageError(
            "An editable intensity range is set, but there is no source volume. Select one, or switch the range off "
            "under Masking."
        )
    validation.same_shape(source_array.shape, reference.grid.shape, name="source_array", reference="the reference grid")
    return source_array
