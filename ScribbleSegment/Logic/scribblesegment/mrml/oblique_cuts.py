"""The voxels of oblique planes, kept while the same view is being worked on.

Finding them takes tens of milliseconds in a CT, and every gesture asks for them several times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from scribblesegment.slice_plane import PlaneVoxels, SlicePlane, nearest_voxels, plane_voxels
from scribblesegment.voxel_grid import VoxelGrid

# Each takes some 15 MB in a CT.
_KEPT = 4


@dataclass(frozen=True)
class ObliqueCut:
    """A plane through a grid; equal to another one with the same numbers.

    Attributes:
        numbers: What it is recognised by.
        grid: The voxels.
        plane: The plane.
    """

    numbers: tuple[object, ...]
    grid: VoxelGrid = field(compare=False)
    plane: SlicePlane = field(compare=False)

    @cached_property
    def voxels(self) -> PlaneVoxels:
        """All voxels that the plane cuts."""
        return plane_voxels(self.grid, self.plane)

    @cached_property
    def pixels(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The voxel nearest to each pixel: int64 (N, 3), for the pixels, bool (H, W), that lie in the grid."""
        voxels, inside = nearest_voxels(self.grid, self.plane)
        return np.stack([index[inside] for index in voxels], axis=1), inside


def oblique_cut(grid: VoxelGrid, plane: SlicePlane) -> ObliqueCut:
    """Give the cut of a plane through a grid, the same one as last time when the numbers are the same."""
    arrays = (grid.ijk_to_mm, plane.origin_mm, plane.row_step_mm, plane.column_step_mm)
    return _kept(ObliqueCut((grid.shape, plane.shape, *(array.tobytes() for array in arrays)), grid, plane))


@lru_cache(maxsize=_KEPT)
def _kept(cut: ObliqueCut) -> ObliqueCut:
    return cut
