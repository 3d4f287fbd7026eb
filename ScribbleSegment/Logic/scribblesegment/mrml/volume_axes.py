"""Slices along the axes of the grid a segmentation is edited on, and slice views that show them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import GeometryError
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.geometry import array_of, transformed, view_plane, world_to_mm
from scribblesegment.slice_plane import SlicePlane, plane_through
from scribblesegment.voxel_grid import VoxelGrid


def grid_slice(grid: VoxelGrid, axis: int, index: int) -> SlicePlane:
    """A slice of a grid as a plane whose pixels are voxels.

    Raises:
        GeometryError: No such slice, or the rows and columns of the slice are not at right angles.
    """
    if not 0 <= index < grid.shape[axis]:
        raise GeometryError(
            f"Slice {index} along axis {axis} is outside the volume; choose from 0 to {grid.shape[axis] - 1}."
        )
    plane = plane_through(grid, _centre(grid, axis, index), _normal(grid, axis))
    if plane.voxel_slice != (axis, index):
        raise GeometryError(
            f"The slices along axis {axis} are sheared: their rows and columns are not at right angles. Choose "
            "another view, or resample the volume."
        )
    return plane


def shown_slice(slice_node: Any, target: EditTarget) -> tuple[int, int]:
    """Axis and index of the slice that a view shows.

    Raises:
        GeometryError: The view does not cut the volume, or is not along one of its axes.
    """
    plane = view_plane(slice_node, target.segmentation_node, target.reference.grid)
    if plane.voxel_slice is None:
        away = _angle_to_axis(plane, target.reference.grid)
        raise GeometryError(
            f"The view is oblique, {away:.0f}° away from the nearest axis of the volume. Slices are accepted and "
            "propagated along the volume's axes: press 'Align view'."
        )
    return plane.voxel_slice


def align_view(slice_node: Any, target: EditTarget) -> None:
    """Turn a slice view to the nearest axis of the volume, onto the slice nearest to the middle of the view.

    Raises:
        GeometryError: The segmentation is under a transform that is not linear.
    """
    grid = target.reference.grid
    to_mm = world_to_mm(target.segmentation_node)
    to_world = np.linalg.inv(to_mm)
    view = array_of(slice_node.GetSliceToRAS())
    steps = grid.steps_kji_mm @ to_world[:3, :3].T
    normals = [_unit(np.cross(*(steps[other] for other in range(3) if other != axis))) for axis in range(3)]
    axis = int(np.argmax([abs(normal @ view[:3, 2]) for normal in normals]))
    toward = _alike(normals[axis], view[:3, 2])
    in_plane = [steps[other] for other in range(3) if other != axis]
    across = _alike(_unit(max(in_plane, key=lambda step: abs(_unit(step) @ view[:3, 0]))), view[:3, 0])
    position = grid.to_kji(transformed(to_mm, view[:3, 3]))
    position[axis] = min(max(round(position[axis]), 0), grid.shape[axis] - 1)
    # Up may turn over: views that are mirrored, as those from the feet, stay so.
    up = np.cross(toward, across)
    if np.linalg.det(view[:3, :3]) < 0:
        up = -up
    for row in range(3):
        for column, direction in enumerate((across, up, toward)):
            slice_node.GetSliceToRAS().SetElement(row, column, float(direction[row]))
        slice_node.GetSliceToRAS().SetElement(row, 3, float(transformed(to_world, grid.to_mm(position))[row]))
    slice_node.UpdateMatrices()


def show_slice(slice_node: Any, target: EditTarget, index: int) -> None:
    """Move a view that is along an axis of the volume to another slice of that axis.

    Raises:
        GeometryError: The view is not along an axis, or there is no such slice.
    """
    axis, _ = shown_slice(slice_node, target)
    plane = grid_slice(target.reference.grid, axis, index)
    to_world = np.linalg.inv(world_to_mm(target.segmentation_node))
    x, y, z = transformed(to_world, plane.to_mm((np.array(plane.shape) - 1) / 2.0)).tolist()
    slice_node.JumpSliceByOffsetting(x, y, z)


def _centre(grid: VoxelGrid, axis: int, index: int) -> NDArray[np.float64]:
    kji = (np.array(grid.shape) - 1) / 2.0
    kji[axis] = index
    return grid.to_mm(kji)


def _normal(grid: VoxelGrid, axis: int) -> NDArray[np.float64]:
    first, second = (grid.steps_kji_mm[other] for other in range(3) if other != axis)
    return _unit(np.cross(first, second))


def _angle_to_axis(plane: SlicePlane, grid: VoxelGrid) -> float:
    cosine = max(abs(float(_normal(grid, axis) @ plane.normal)) for axis in range(3))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _alike(direction: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """A direction or its opposite, whichever is closer to another one."""
    return direction if direction @ other >= 0 else -direction
