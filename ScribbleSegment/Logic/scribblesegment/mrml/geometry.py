"""Where voxels and slice views lie, in the millimetres of a segmentation node.

*mm* are the node's own RAS millimetres: what the matrices of its label maps map to. The parent transform of the node
lies between them and *world*, the RAS millimetres in which slice views are placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from slicer import vtkOrientedImageData, vtkSegmentationConverter, vtkSlicerSegmentEditorLogic
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment.data import validation
from scribblesegment.data.geometry import Grid, SlicePlane, plane_through
from scribblesegment.errors import GeometryError

# First and one past the last voxel along each axis of the array, ((k0, k1), (j0, j1), (i0, i1)).
BoxKji = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# VTK's (i0, i1, j0, j1, k0, k1), last voxels included; empty where a last one is smaller than its first.
Extent = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, eq=False)
class ReferenceGeometry:
    """The lattice that a segmentation is edited on."""

    image: Any  # as Slicer's functions take it: matrix and extent, no voxels
    grid: Grid  # the same as an array: index 0 is the first voxel of the extent
    start_ijk: tuple[int, int, int]  # VTK index of that first voxel; any integers, also negative ones

    def extent_of(self, box: BoxKji) -> Extent:
        """VTK's extent of a half-open box of voxels."""
        (k0, k1), (j0, j1), (i0, i1) = box
        i, j, k = self.start_ijk
        return (i + i0, i + i1 - 1, j + j0, j + j1 - 1, k + k0, k + k1 - 1)

    @property
    def extent(self) -> Extent:
        """VTK's extent of the whole grid."""
        k, j, i = self.grid.shape
        return self.extent_of(((0, k), (0, j), (0, i)))


def reference_geometry(segmentation_node: Any, source_node: Any = None) -> ReferenceGeometry:
    """The lattice on which Slicer's Segment Editor edits a segmentation.

    It covers all segments. A segmentation that has none yet gets that of the source volume, and remembers it, as in the
    Segment Editor.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        source_node: vtkMRMLScalarVolumeNode, or None.

    Raises:
        GeometryError: there is no lattice and no volume to take it from, or it is empty or degenerate.
    """
    text = _reference_text(segmentation_node)
    if not text and source_node is not None and source_node.GetImageData() is not None:
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(source_node)
        text = _reference_text(segmentation_node)
    if not text:
        raise GeometryError(
            f"The segmentation {_name(segmentation_node)} does not know its voxel size yet. Select a source volume."
        )
    image = vtkOrientedImageData()
    if not vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        raise GeometryError(
            f"The reference geometry of the segmentation {_name(segmentation_node)} cannot be read: {text!r}. Choose "
            "it again with the button beside the source volume."
        )
    return geometry_of(image, name=f"the reference geometry of the segmentation {_name(segmentation_node)}")


def geometry_of(image: Any, *, name: str = "the image") -> ReferenceGeometry:
    """The lattice of a vtkOrientedImageData, whose matrix and extent are used as they are.

    Raises:
        GeometryError: without voxels, or with a degenerate matrix.
    """
    extent = image.GetExtent()
    i, j, k = (int(last - first + 1) for first, last in zip(extent[::2], extent[1::2], strict=True))
    if min(i, j, k) < 1:
        raise GeometryError(f"{name} has no voxels (extent {tuple(extent)}). Choose a source volume that is not empty.")
    start_ijk = (extent[0], extent[2], extent[4])
    ijk_to_mm = image_to_mm(image) @ translation(start_ijk)
    return ReferenceGeometry(image, Grid((k, j, i), validation.affine_matrix(ijk_to_mm, name=name)), start_ijk)


def world_to_mm(segmentation_node: Any) -> NDArray[np.float64]:
    """(4, 4) matrix from world to the segmentation's own millimetres.

    Raises:
        GeometryError: the parent transform is not linear, or flattens space.
    """
    matrix = np.eye(4)
    transform_node = segmentation_node.GetParentTransformNode()
    if transform_node is not None:
        if not transform_node.IsTransformToWorldLinear():
            raise GeometryError(
                f"The segmentation {_name(segmentation_node)} is under a non-linear transform, so a slice view is no "
                "plane in it. Harden the transform (Data module, right click), or take the segmentation out of it."
            )
        vtk_matrix = vtkMatrix4x4()
        # Not GetMatrixTransformFromWorld: of a matrix that has no inverse, it makes the identity without a word.
        transform_node.GetMatrixTransformToWorld(vtk_matrix)
        matrix = array_of(vtk_matrix)
    matrix = validation.affine_matrix(matrix, name=f"The parent transform of {_name(segmentation_node)}")
    return np.asarray(np.linalg.inv(matrix), np.float64)


def view_plane(slice_node: Any, segmentation_node: Any, grid: Grid) -> SlicePlane:
    """The plane that a slice view shows, as a raster on the segmentation's grid.

    Args:
        slice_node: vtkMRMLSliceNode in any orientation.
        segmentation_node: vtkMRMLSegmentationNode.
        grid: the grid of `reference_geometry`.

    Raises:
        GeometryError: the view does not cut the grid, or the segmentation is under a transform that is not linear.
    """
    to_mm = world_to_mm(segmentation_node)
    slice_to_world = array_of(slice_node.GetSliceToRAS())
    across, up, toward = (to_mm[:3, :3] @ slice_to_world[:3, :3]).T
    # Not the transformed normal: scaling and shear turn it out of the right angle.
    normal = np.cross(across, up)
    if normal @ toward < 0:
        normal = -normal
    return plane_through(grid, transformed(to_mm, slice_to_world[:3, 3]), normal, column_hint=across)


def xy_to_world(slice_node: Any, xy: ArrayLike) -> NDArray[np.float64]:
    """(..., 3) world positions of points (..., 2) in a slice view, in pixels from its lower left; fractions count.

    Slicer's own `XyToRas` is only safe for one slice in the view as well (no light box).
    """
    points = np.asarray(xy, np.float64)
    flat = np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)
    return transformed(array_of(slice_node.GetXYToRAS()), flat)


def world_to_xy(slice_node: Any, world: ArrayLike) -> NDArray[np.float64]:
    """(..., 2) pixels, with fractions, at which a slice view shows world positions (..., 3), seen along its normal."""
    return transformed(np.linalg.inv(array_of(slice_node.GetXYToRAS())), world)[..., :2]


def transformed(matrix: NDArray[np.floating[Any]], points: ArrayLike) -> NDArray[np.float64]:
    """Points (..., 3) after an affine (4, 4) matrix."""
    result: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return result


def length_scale(matrix: NDArray[np.float64]) -> float:
    """How much an affine (4, 4) matrix stretches lengths, on average over the directions."""
    return float(abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))


def image_to_mm(image: Any) -> NDArray[np.float64]:
    """(4, 4) matrix from the VTK index (i, j, k, 1) of a vtkOrientedImageData to millimetres."""
    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return array_of(matrix)


def array_of(matrix: Any) -> NDArray[np.float64]:
    """A vtkMatrix4x4 as a new (4, 4) array."""
    array = np.eye(4)
    matrix.DeepCopy(array.ravel(), matrix)
    return array


def slice_normals(steps_kji_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) unit normals of the slices along K, J and I of a grid with these steps (3, 3)."""
    normals = np.array([np.cross(*np.delete(steps_kji_mm, axis, axis=0)) for axis in range(3)])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def translation(offset: ArrayLike) -> NDArray[np.float64]:
    """(4, 4) matrix that moves by `offset` (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _reference_text(segmentation_node: Any) -> str:
    segmentation = segmentation_node.GetSegmentation()
    return str(vtkSlicerSegmentEditorLogic.GetReferenceImageGeometryStringFromSegmentation(segmentation))


def _name(node: Any) -> str:
    return repr(node.GetName() or "without a name")
