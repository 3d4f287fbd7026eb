"""The source volume as an array on the grid that the segmentation is edited on."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkMRMLTransformNode, vtkMRMLVectorVolumeNode, vtkOrientedImageData, vtkOrientedImageDataResample
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkGeneralTransform, vtkTransform

from scribblesegment.data import validation
from scribblesegment.data.preprocessing import IntensityRange, grey_of_colours
from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.geometry import Extent, ReferenceGeometry, array_of, transformed, translation
from scribblesegment.mrml.labelmaps import overlap, voxels_of

# Voxels of the volume this much of a voxel beside those of the reference are taken for the same: text headers and
# chains of transforms leave that behind.
_SAME_VOXEL = 1e-2


@dataclass(frozen=True, eq=False)
class SourceImage:
    """The image that is segmented."""

    # (K, J, I) read-only intensities on the reference grid; colours as `grey_of_colours`. Where possible it is the
    # volume's own memory.
    array: NDArray[Any]
    masking_array: NDArray[Any]  # the same, but the first component of colours: what the editable range is about
    token: Hashable  # equal for equal content only
    # As displayed, or of the volume's voxels, whatever part of them the grid shows.
    intensity_range: IntensityRange
    note: str | None  # what the user should know about the image


class SourceImages:
    """Makes source images, and keeps the newest until the volume, its place, or the grid changes."""

    def __init__(self) -> None:
        self._image: SourceImage | None = None
        self._range: tuple[Hashable, IntensityRange] | None = None

    def get(
        self, source_node: Any, segmentation_node: Any, reference: ReferenceGeometry, *, as_displayed: bool = False
    ) -> SourceImage:
        """The voxels of a volume on the grid of a segmentation.

        Args:
            source_node: vtkMRMLScalarVolumeNode, colours and vectors included.
            segmentation_node: vtkMRMLSegmentationNode; volume and segmentation may be under different transforms, that
                of the volume even a non-linear one.
            reference: the grid, from `reference_geometry`.
            as_displayed: whether intensities are those of the volume's display window, where it has one.

        Raises:
            ImageError: no volume, or none that has intensities.
            GeometryError: volume and grid do not overlap.
        """
        image_data = _image_data(source_node)
        placement = _Placement.of(source_node, segmentation_node)
        # Modification times are unique among all objects of the process, so another volume has another one too.
        content = (image_data.GetMTime(), _is_color(source_node))
        background = source_node.GetImageBackgroundScalarComponentAsDouble(0)
        grid = reference.grid
        window = _display_window(source_node) if as_displayed else None
        # Bytes, because NaN, as the background of an image with NaN in its corners, does not equal itself.
        numbers = np.array([background, *grid.ijk_to_mm.flat]).tobytes()
        token = (content, placement.key, numbers, grid.shape, reference.start_ijk, window)
        if self._image is None or self._image.token != token:
            self._image = None  # the old one need not stay in memory while the new one is made
            self._image = self._build(source_node, image_data, placement, background, reference, content, token, window)
        return self._image

    def clear(self) -> None:
        """Let go of the image and of the volume's memory."""
        self._image = None
        self._range = None

    def _build(
        self,
        source_node: Any,
        image_data: Any,
        placement: _Placement,
        background: float,
        reference: ReferenceGeometry,
        content: Hashable,
        token: Hashable,
        window: IntensityRange | None,
    ) -> SourceImage:
        voxels = voxels_of(image_data)
        first = voxels if voxels.ndim == 3 else voxels[..., 0]
        note = None
        if voxels.ndim == 4 and not _is_color(source_node):
            note = (
                f"{source_node.GetName()} has {voxels.shape[3]} values in every voxel (a time series, or vectors); "
                "only the first of them is segmented."
            )
        extent = image_data.GetExtent()
        masking = _on_reference(first, extent, placement, background, reference, source_node)
        array, intensities = masking, first
        if voxels.ndim == 4 and _is_color(source_node):
            intensities = grey_of_colours(voxels)
            array = _on_reference(intensities, extent, placement, background, reference, source_node)
        if window is None:
            if self._range is None or self._range[0] != content:
                self._range = (content, IntensityRange.estimate(intensities))
            window = self._range[1]
        return SourceImage(_read_only(array), _read_only(masking), token, window, note)


@dataclass(frozen=True, eq=False)
class _Placement:
    """How a volume's voxels get to the millimetres of a segmentation."""

    ijk_to_parent: NDArray[np.float64]
    transform: Any
    parent_to_mm: NDArray[np.float64] | None  # None for a transform that is not linear
    key: Hashable

    @classmethod
    def of(cls, source_node: Any, segmentation_node: Any) -> _Placement:
        vtk_matrix = vtkMatrix4x4()
        source_node.GetIJKToRASMatrix(vtk_matrix)
        ijk_to_parent = validation.affine_matrix(array_of(vtk_matrix), name=f"The geometry of {source_node.GetName()}")
        parents = source_node.GetParentTransformNode(), segmentation_node.GetParentTransformNode()
        transform, linear = vtkGeneralTransform(), vtkTransform()
        vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, transform)
        if vtkMRMLTransformNode.IsGeneralTransformLinear(transform, linear):
            name = f"The transform of {source_node.GetName()}"
            parent_to_mm = validation.affine_matrix(array_of(linear.GetMatrix()), name=name)
            return cls(ijk_to_parent, transform, parent_to_mm, (ijk_to_parent.tobytes(), parent_to_mm.tobytes()))
        times = [0 if parent is None else parent.GetTransformToWorldMTime() for parent in parents]
        return cls(ijk_to_parent, transform, None, (ijk_to_parent.tobytes(), *times))


def _image_data(source_node: Any) -> Any:
    if source_node is None:
        raise ImageError("No source volume is selected. Choose the image to segment at the top of the Segment Editor.")
    image_data = source_node.GetImageData()
    if image_data is None or min(image_data.GetDimensions()) < 1:
        raise ImageError(
            f"The source volume {source_node.GetName()!r} is empty. Load the image again or choose another."
        )
    if image_data.GetPointData().GetScalars() is None:
        raise ImageError(
            f"The source volume {source_node.GetName()!r} has no intensities (tensors, for instance). Compute a scalar "
            "volume from it and choose that."
        )
    return image_data


def _display_window(source_node: Any) -> IntensityRange | None:
    """The intensities that a volume shows as black and white; None where it has no window, or an empty one."""
    display = source_node.GetDisplayNode()
    if display is None or not hasattr(display, "GetWindowLevelMin"):
        return None
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    return IntensityRange(low, high) if low < high and math.isfinite(high - low) else None


def _is_color(source_node: Any) -> bool:
    image_data = source_node.GetImageData()
    if image_data.GetNumberOfScalarComponents() not in (3, 4) or image_data.GetScalarTypeMin() < 0:
        return False
    if not isinstance(source_node, vtkMRMLVectorVolumeNode):
        return False
    kinds = vtkMRMLVectorVolumeNode
    kind = source_node.GetVoxelVectorType()
    return kind in (kinds.VoxelVectorTypeColorRGB, kinds.VoxelVectorTypeColorRGBA, kinds.VoxelVectorTypeUndefined)


def _on_reference(
    voxels: NDArray[Any],
    extent: Extent,
    placement: _Placement,
    background: float,
    reference: ReferenceGeometry,
    source_node: Any,
) -> NDArray[Any]:
    shift = _shift(extent, placement, reference, source_node)
    if shift is None:
        return _resampled(voxels, extent, placement, background, reference)
    moved = tuple(int(index + shift[side // 2]) for side, index in enumerate(extent))
    here, there = overlap((moved[0], moved[1], moved[2], moved[3], moved[4], moved[5]), reference.extent)
    part = voxels[here]
    if part.shape == reference.grid.shape:
        return part
    kind = np.iinfo(voxels.dtype) if voxels.dtype.kind in "iu" else None
    value = background if kind is None else min(max(background, kind.min), kind.max)
    padded: NDArray[Any] = np.full(reference.grid.shape, value, voxels.dtype)
    padded[there] = part
    return padded


def _shift(
    extent: Extent, placement: _Placement, reference: ReferenceGeometry, source_node: Any
) -> NDArray[np.float64] | None:
    """What to add to a voxel's VTK index (i, j, k) to get that of the reference; None where voxels differ."""
    if placement.parent_to_mm is None:
        return None
    offset = translation(reference.start_ijk)
    to_reference = offset @ np.linalg.inv(reference.grid.ijk_to_mm) @ placement.parent_to_mm @ placement.ijk_to_parent
    # Of the outermost voxels, not their centres: one slice alone has a thickness, too.
    corners = np.array([(extent[i] + i, extent[2 + j] + j, extent[4 + k] + k) for i, j, k in np.ndindex(2, 2, 2)]) - 0.5
    moved = transformed(to_reference, corners)
    low, high = np.reshape(reference.extent, (3, 2)).T + np.array([[_SAME_VOXEL - 0.5], [0.5 - _SAME_VOXEL]])
    if ((moved.max(axis=0) < low) | (moved.min(axis=0) > high)).any():
        raise GeometryError(
            f"The source volume {source_node.GetName()!r} does not overlap the segmentation. Choose another source "
            "volume, or move one of them with a transform."
        )
    shift: NDArray[np.float64] = np.rint(moved[0] - corners[0])
    return shift if np.abs(moved - corners - shift).max() <= _SAME_VOXEL else None


def _resampled(
    voxels: NDArray[Any], extent: Extent, placement: _Placement, background: float, reference: ReferenceGeometry
) -> NDArray[Any]:
    source = vtkOrientedImageData()
    source.SetExtent(*extent)
    contiguous = np.ascontiguousarray(voxels).ravel()
    source.GetPointData().SetScalars(numpy_to_vtk(contiguous))  # no copy
    matrix = vtkMatrix4x4()
    matrix.DeepCopy(placement.ijk_to_parent.ravel().tolist())
    source.SetGeometryFromImageToWorldMatrix(matrix)
    result = vtkOrientedImageData()
    vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        source, reference.image, result, True, False, placement.transform, background
    )
    return voxels_of(result)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
