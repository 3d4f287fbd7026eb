"""Which voxels belong to which segments, whatever layers, lattices and extents their label maps have.

Several segments may share one label map (a *layer*), each with a label value of its own. Every function here looks at a
layer once, however many of its segments are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from slicer import (
    vtkOrientedImageData,
    vtkOrientedImageDataResample,
    vtkSegmentationConversionPaths,
    vtkSegmentationConverter,
)
from vtkmodules.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from scribblesegment.data.geometry import Grid, SlicePlane, nearest_voxels
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import Extent, ReferenceGeometry, image_to_mm, transformed


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


def resampled(labelmap: Any, lattice: Any, *, beyond: bool = False, transform: Any = None) -> Any:
    """A new label map with the nearest voxels of another one, on the lattice of an image.

    It has the image's extent, or with `beyond` one that the whole label map fits in as well; `transform` leads from the
    label map's millimetres to the image's.
    """
    result = vtkOrientedImageData()
    resample = vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    resample(labelmap, lattice, result, False, beyond, transform)
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


def checked_kji(kji: ArrayLike, grid: Grid, *, name: str = "kji") -> NDArray[np.int64]:
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


@dataclass(frozen=True)
class _Cut:
    """A plane through a grid; equal to another one with the same numbers."""

    numbers: tuple[object, ...]
    grid: Grid = field(compare=False)
    plane: SlicePlane = field(compare=False)


def oblique_pixels(grid: Grid, plane: SlicePlane) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The voxel nearest to each pixel of a plane: int64 (N, 3), for the pixels, bool (H, W), that lie in the grid."""
    arrays = (grid.ijk_to_mm, plane.origin_mm, plane.row_step_mm, plane.column_step_mm)
    return _pixels(_Cut((grid.shape, plane.shape, *(array.tobytes() for array in arrays)), grid, plane))


@lru_cache(maxsize=4)  # each takes some 10 MB in a CT
def _pixels(cut: _Cut) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    voxels, inside = nearest_voxels(cut.grid, cut.plane)
    return np.stack([index[inside] for index in voxels]).T, inside  # columns are faster to work on than rows


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
            kji, inside = oblique_pixels(reference.grid, plane)
        shown[inside] |= _has_label(values_at(labelmap, reference, kji), labels.values())
    return shown


def segments_in_volume(
    segmentation_node: Any, segment_ids: Iterable[str], reference: ReferenceGeometry
) -> NDArray[np.bool_]:
    """Which voxels of the whole grid belong to any of several segments, bool (K, J, I).

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    belongs = np.zeros(reference.grid.shape, bool)
    for labelmap, labels in layers(segmentation_node, segment_ids).items():
        if is_empty(labelmap):
            continue
        fitting = labelmap if on_lattice(labelmap, reference) else resampled(labelmap, reference.image)
        here, there = overlap(fitting.GetExtent(), reference.extent)
        values = voxels_of(fitting)[here]
        for label in labels.values():
            belongs[there] |= values == label
    return belongs


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


def edit_as_labelmaps(segmentation_node: Any) -> None:
    """Make label maps what the segmentation is stored as, as the Segment Editor does before anything is edited.

    A surface that was there is made again from them. Nothing happens to a segmentation of label maps.

    Raises:
        ImageError: The segmentation cannot be converted.
    """
    segmentation = segmentation_node.GetSegmentation()
    if segmentation.GetSourceRepresentationName() == BINARY_LABELMAP:
        return
    had_surface = segmentation.ContainsRepresentation(CLOSED_SURFACE)
    if segmentation.GetNumberOfSegments():
        derive_labelmaps(segmentation_node)
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    if had_surface:
        segmentation.CreateRepresentation(CLOSED_SURFACE)
    display_node = segmentation_node.GetDisplayNode()
    if display_node is not None:
        display_node.SetPreferredDisplayRepresentationName2D(BINARY_LABELMAP)


def refresh_derived(segmentation_node: Any, segment_ids: Collection[str]) -> None:
    """Make all that is derived from the label maps of some segments again: surfaces, for instance.

    Forms that Slicer cannot derive from label maps are left as they are, and segments that have gone passed over.
    """
    segmentation = segmentation_node.GetSegmentation()
    found = [segmentation.GetSegment(segment_id) for segment_id in segment_ids]
    segments = [segment for segment in found if segment is not None]
    derived: dict[str, None] = {}
    for segment in segments:
        names: list[str] = []
        segment.GetContainedRepresentationNames(names)
        derived.update(dict.fromkeys(name for name in names if name != BINARY_LABELMAP))
    for name in derived:
        paths = vtkSegmentationConversionPaths()
        segmentation.GetPossibleConversions(name, paths)
        path = vtkSegmentationConverter.GetCheapestPath(paths)
        for index in range(path.GetNumberOfRules() if path is not None else 0):
            rule = path.GetRule(index)
            rule.PreConvert(segmentation)
            for segment in segments:
                rule.Convert(segment)
            rule.PostConvert(segmentation)
