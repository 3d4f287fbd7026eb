"""The voxels of label maps (vtkOrientedImageData) as arrays, wherever a label map's lattice and extent lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from slicer import vtkOrientedImageData, vtkOrientedImageDataResample
from vtkmodules.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from scribblesegment.exceptions import GeometryError
from scribblesegment.mrml.geometry import Extent, ReferenceGeometry, image_to_mm, transformed
from scribblesegment.voxel_grid import VoxelGrid


def voxels_of(image: Any) -> NDArray[Any]:
    """The voxels of a VTK image that has some: a view (K, J, I), or (K, J, I, C) with several components."""
    i, j, k = image.GetDimensions()
    voxels: NDArray[Any] = vtk_to_numpy(image.GetPointData().GetScalars())
    return voxels.reshape((k, j, i) if voxels.ndim == 1 else (k, j, i, voxels.shape[1]))


def is_empty(labelmap: Any) -> bool:
    """Whether there are no voxels, as in segments that nothing was drawn in."""
    return labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None


def blank_labelmap(lattice: Any, extent: Extent, dtype: DTypeLike = np.uint8) -> Any:
    """A new label map of zeros on the lattice of another image."""
    labelmap = vtkOrientedImageData()
    labelmap.SetExtent(*extent)
    labelmap.AllocateScalars(get_vtk_array_type(np.dtype(dtype)), 1)
    labelmap.SetSpacing(lattice.GetSpacing())
    labelmap.SetOrigin(lattice.GetOrigin())
    labelmap.CopyDirections(lattice)
    voxels_of(labelmap)[...] = 0
    return labelmap


def recut(labelmap: Any, extent: Extent, dtype: DTypeLike | None = None) -> Any:
    """A new label map with the same voxels in another extent: zeros around them, or cut off."""
    voxels = voxels_of(labelmap)
    result = blank_labelmap(labelmap, extent, dtype or voxels.dtype)
    here, there = overlap(labelmap.GetExtent(), extent)
    voxels_of(result)[there] = voxels[here]
    return result


def overlap(first: Extent, second: Extent) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels that two extents of one lattice share, as indices into the arrays (K, J, I) of each."""
    starts = [max(a, b) for a, b in zip(first[::2], second[::2], strict=True)]
    stops = [max(start, min(a, b) + 1) for start, a, b in zip(starts, first[1::2], second[1::2], strict=True)]
    axes = list(zip(starts, stops, strict=True))
    of_first = tuple(slice(a - o, b - o) for (a, b), o in zip(axes, first[::2], strict=True))
    of_second = tuple(slice(a - o, b - o) for (a, b), o in zip(axes, second[::2], strict=True))
    return of_first[::-1], of_second[::-1]


def on_lattice(labelmap: Any, reference: ReferenceGeometry) -> bool:
    """Whether the voxels of a label map are voxels of the reference, by the tolerance that Slicer has."""
    return bool(vtkOrientedImageDataResample.DoGeometriesMatch(labelmap, reference.image))


def offset_kji(labelmap: Any, reference: ReferenceGeometry) -> tuple[int, int, int]:
    """Index of the label map's first voxel on the reference grid, on whose lattice it must lie."""
    extent = labelmap.GetExtent()
    i, j, k = (first - start for first, start in zip(extent[::2], reference.start_ijk, strict=True))
    return k, j, i


def values_at(labelmap: Any, reference: ReferenceGeometry, kji: NDArray[np.int64]) -> NDArray[Any]:
    """Values of a label map at voxels of the reference grid.

    Args:
        labelmap: vtkOrientedImageData on any lattice and extent, or None.
        reference: what `kji` counts on.
        kji: int64 (N, 3).

    Returns:
        (N,) of the label map's type; 0 outside it; of the nearest voxel where the lattices differ.
    """
    if is_empty(labelmap):
        return np.zeros(len(kji), np.uint8)
    voxels = voxels_of(labelmap)
    flat, inside = flat_index(kji - index_shift(labelmap, reference, kji), voxels.shape)
    if inside is None:
        return voxels.ravel()[flat]
    values = np.zeros(len(kji), voxels.dtype)
    values[inside] = voxels.ravel()[flat]
    return values


def index_shift(labelmap: Any, reference: ReferenceGeometry, kji: NDArray[np.int64]) -> NDArray[np.int64]:
    """What to subtract from an index on the reference grid to get one into the label map's array: (3,) or (N, 3)."""
    if on_lattice(labelmap, reference):
        return np.asarray(offset_kji(labelmap, reference))
    ijk = transformed(np.linalg.inv(image_to_mm(labelmap)), reference.grid.to_mm(kji))
    own = np.floor(ijk + 0.5).astype(np.int64) - np.asarray(labelmap.GetExtent()[::2])
    shift: NDArray[np.int64] = kji - own[:, ::-1]
    return shift


def flat_index(index: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Positions in a flattened array of those of the indices (N, 3) that lie inside, and which do (None: all)."""
    k, j, i = index[:, 0], index[:, 1], index[:, 2]
    flat: NDArray[np.int64] = (k * shape[1] + j) * shape[2] + i
    if not len(index):
        return flat, None
    low, high = bounds(index)
    if min(low) >= 0 and all(last < size for last, size in zip(high, shape, strict=True)):
        return flat, None
    inside = np.asarray(((index >= 0) & (index < np.asarray(shape))).all(axis=1))
    return flat[inside], inside


def bounds(kji: NDArray[Any]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest and largest (k, j, i) of at least one index (N, 3)."""
    k, j, i = kji.T  # column by column: several times faster than along an axis of length 3
    return (int(k.min()), int(j.min()), int(i.min())), (int(k.max()), int(j.max()), int(i.max()))


def checked_kji(kji: ArrayLike, grid: VoxelGrid, *, name: str = "kji") -> NDArray[np.int64]:
    """Voxel indices as int64 (N, 3), all of them on the grid.

    Raises:
        GeometryError: another shape, fractions, or outside the grid.
    """
    array = np.asarray(kji)
    if array.size == 0:
        return np.zeros((0, 3), np.int64)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu":
        raise GeometryError(
            f"{name} has shape {array.shape} of {array.dtype}, expected (N, 3) integers: indices (k, j, i) of voxels."
        )
    low, high = bounds(array)
    if min(low) < 0 or any(last >= size for last, size in zip(high, grid.shape, strict=True)):
        raise GeometryError(
            f"{name} has indices from {low} to {high}, but the grid has {grid.shape} voxels. Take the voxels from the "
            "current reference geometry."
        )
    return array.astype(np.int64, copy=False)
