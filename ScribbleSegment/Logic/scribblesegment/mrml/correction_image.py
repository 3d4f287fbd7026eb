"""What a network is run on: a volume, on the voxels of the segmentation that gets its result."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from slicer import vtkMRMLSliceNode, vtkOrientedImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.exceptions import GeometryError, ImageError
from scribblesegment.mrml.geometry import (
    ReferenceGeometry,
    array_of,
    geometry_of,
    reference_geometry,
    view_plane,
    world_to_mm,
)
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.volume import Volume


@dataclass(frozen=True, eq=False)
class CorrectionImage:
    """An image and its grid, as they were when it was asked for.

    Attributes:
        volume: (K, J, I) intensities; colours as luminance. Where possible it is the volume node's own memory.
        reference: The grid of the result.
        token: Equal for equal content only.
        note: What the user should know about the image, or None.
    """

    volume: Volume
    reference: ReferenceGeometry
    token: Hashable
    note: str | None


def correction_image(volume_node: Any, result_node: Any, images: SourceImages) -> CorrectionImage:
    """Take the image of a volume for a network.

    Args:
        volume_node: vtkMRMLScalarVolumeNode under any transform, or None.
        result_node: vtkMRMLSegmentationNode whose grid is used, or None for the volume's own.
        images: Where the image is kept.

    Raises:
        ImageError: No volume, or none that has intensities.
        GeometryError: Volume and segmentation do not overlap, or the geometry is degenerate.
    """
    if volume_node is None:
        raise ImageError("No volume is selected. Choose the image that the network shall segment.")
    if result_node is None:
        image_data = volume_node.GetImageData()
        if image_data is None or min(image_data.GetDimensions()) < 1:
            raise ImageError(f"The volume {volume_node.GetName()!r} is empty. Load the image again, or choose another.")
        reference = geometry_of(_lattice(volume_node), name=f"the volume {volume_node.GetName()!r}")
    else:
        reference = reference_geometry(result_node, volume_node)
    source = images.get(volume_node, volume_node if result_node is None else result_node, reference)
    volume = Volume(source.array, reference.grid.ijk_to_mm)
    return CorrectionImage(volume, reference, source.token, source.note)


def shown_place(slice_node: Any, grid_node: Any, reference: ReferenceGeometry) -> tuple[int, int]:
    """Axis and index of the slice of a grid that a view shows.

    Args:
        slice_node: vtkMRMLSliceNode.
        grid_node: The node that the grid belongs to: the result's segmentation, or the volume.
        reference: The grid.

    Raises:
        GeometryError: The view does not cut the grid, or is not along one of its axes.
    """
    plane = view_plane(slice_node, grid_node, reference.grid)
    if plane.voxel_slice is None:
        raise GeometryError(
            f"The view {slice_node.GetName()} is oblique to the voxels of the volume, so it shows none of its slices. "
            "Choose another view, turn it to the volume's axes (the button in its bar rotates it to the volume plane), "
            "or choose the whole volume."
        )
    return plane.voxel_slice


def nearest_axis(slice_node: Any, grid_node: Any, reference: ReferenceGeometry) -> int:
    """Axis of a grid (0 = K, 1 = J, 2 = I) whose slices a view comes nearest to; K under a non-linear transform."""
    try:
        to_mm = world_to_mm(grid_node)
    except GeometryError:
        return 0
    across, up, _ = (to_mm[:3, :3] @ array_of(slice_node.GetSliceToRAS())[:3, :3]).T
    steps = reference.grid.steps_kji_mm
    normals = np.array([np.cross(*(steps[other] for other in range(3) if other != axis)) for axis in range(3)])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return int(np.argmax(abs(normals @ np.cross(across, up))))


def jump_to(grid_node: Any, reference: ReferenceGeometry, kji: tuple[int, int, int]) -> None:
    """Show a voxel of a grid in the middle of all slice views of the scene.

    Args:
        grid_node: The node that the grid belongs to, in a scene.
        reference: The grid.
        kji: The voxel.
    """
    world = [0.0, 0.0, 0.0]
    grid_node.TransformPointToWorld(reference.grid.to_mm(kji).tolist(), world)
    vtkMRMLSliceNode.JumpAllSlices(grid_node.GetScene(), *world, vtkMRMLSliceNode.CenteredJumpSlice)


def _lattice(volume_node: Any) -> Any:
    """The voxels of a volume as a vtkOrientedImageData without values."""
    matrix = vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    lattice = vtkOrientedImageData()
    lattice.SetExtent(volume_node.GetImageData().GetExtent())
    lattice.SetImageToWorldMatrix(matrix)
    return lattice
