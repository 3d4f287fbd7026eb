"""Where the Segment Editor's masking settings allow voxels to be edited."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkMRMLSegmentationNode
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkImagingCore import vtkImageThreshold

from scribblesegment import checks
from scribblesegment.exceptions import ImageError
from scribblesegment.mrml.geometry import ReferenceGeometry
from scribblesegment.mrml.labelmaps import checked_kji
from scribblesegment.mrml.segments import segment_at, segments_at


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
    mode = editor_node.GetMaskMode()
    editable = _inside_mask(segmentation_node, editor_node, mode, segment_id, reference, voxels)
    if editor_node.GetSourceVolumeIntensityMask():
        editable &= _in_intensity_range(editor_node, source_array, reference, voxels)
    if removing and mode == vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment:
        editable |= segment_at(segmentation_node, segment_id, reference, voxels)
    return editable


def _inside_mask(
    segmentation_node: Any,
    editor_node: Any,
    mode: int,
    segment_id: str,
    reference: ReferenceGeometry,
    kji: NDArray[np.int64],
) -> NDArray[np.bool_]:
    modes = vtkMRMLSegmentationNode
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
        return segments_at(segmentation_node, inside[mode], reference, kji)
    others = [other for other in outside.get(mode, ()) if other != segment_id]
    return ~segments_at(segmentation_node, others, reference, kji)


def _in_intensity_range(
    editor_node: Any, source_array: NDArray[Any] | None, reference: ReferenceGeometry, kji: NDArray[np.int64]
) -> NDArray[np.bool_]:
    if source_array is None:
        raise ImageError(
            "An editable intensity range is set, but there is no source volume. Select one, or switch the range off "
            "under Masking."
        )
    checks.same_shape(source_array.shape, reference.grid.shape, name="source_array", reference="the reference grid")
    if not len(kji):
        return np.zeros(0, bool)
    values = np.ascontiguousarray(source_array[tuple(kji.T)])
    # By Slicer's filter, which casts the limits to the type of the image.
    image = vtkImageData()
    image.SetDimensions(len(values), 1, 1)
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
    threshold = vtkImageThreshold()
    threshold.SetInputData(image)
    threshold.ThresholdBetween(*editor_node.GetSourceVolumeIntensityMaskRange())
    threshold.SetInValue(1)
    threshold.SetOutValue(0)
    threshold.SetOutputScalarTypeToUnsignedChar()
    threshold.Update()
    found: NDArray[np.bool_] = vtk_to_numpy(threshold.GetOutput().GetPointData().GetScalars()).astype(bool)
    return found
