"""The painted segments of a segmentation as labels on another one's voxels: what a network is asked to say.

*mm* are the millimetres of the node whose grid is asked about; segmentation and grid may be under different transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import vtkMRMLTransformNode, vtkOrientedImageData, vtkOrientedImageDataResample
from vtkmodules.vtkCommonTransforms import vtkGeneralTransform

from scribblesegment.exceptions import PromptError
from scribblesegment.label_scribbles import UNMARKED
from scribblesegment.mrml.correction_labels import SegmentMeaning
from scribblesegment.mrml.geometry import Extent, ReferenceGeometry, image_to_mm, transformed
from scribblesegment.mrml.labelmaps import (
    bounds,
    flat_index,
    is_empty,
    on_lattice,
    overlap,
    recut,
    voxels_of,
)
from scribblesegment.mrml.segments import layers
from scribblesegment.voxel_grid import nearest_index

Labels = NDArray[np.int16]


class ContradictionError(PromptError):
    """Voxels that two segments claim for different labels.

    Attributes:
        kji: The first of them, on the grid that was asked about.
    """

    def __init__(self, message: str, kji: tuple[int, int, int]) -> None:
        super().__init__(message)
        self.kji = kji


@dataclass(frozen=True, eq=False)
class MarkedVoxels:
    """The voxels that a segment says something about.

    Attributes:
        kji: int64 (N, 3), on the grid.
        slivers_kji: int64 (M, 3); marks that would vanish because the grid is coarser than the segment's own voxels.
            They count where nothing else is said.
    """

    kji: NDArray[np.int64]
    slivers_kji: NDArray[np.int64]


def painted_labels(
    segmentation_node: Any, meanings: Sequence[SegmentMeaning], reference: ReferenceGeometry, grid_node: Any
) -> Labels:
    """Bring painted segments together as labels on a grid.

    Args:
        segmentation_node: vtkMRMLSegmentationNode that was painted in.
        meanings: What its segments stand for; those without a label, and those that are gone, are left out.
        reference: The grid.
        grid_node: The node that the grid belongs to: the result's segmentation, or the volume.

    Returns:
        int16 (K, J, I), UNMARKED where nothing is painted. No painted voxel is lost where the grid is coarser.

    Raises:
        ContradictionError: Two segments that stand for different labels have a voxel in common.
        ImageError: The segmentation cannot be converted to label maps.
    """
    labels = np.full(reference.grid.shape, UNMARKED, np.int16)
    flat = labels.reshape(-1)
    slivers = []
    claimed: dict[int, str] = {}
    for row in meanings:
        if row.label is None or row.is_empty:
            continue
        marked = marked_voxels(segmentation_node, row.segment_id, reference, grid_node)
        index, _ = flat_index(marked.kji, labels.shape)
        before = flat[index]
        contradicting = (before != UNMARKED) & (before != row.label)
        if contradicting.any():
            raise _contradiction(marked.kji[contradicting], claimed[int(before[contradicting][0])], row.name)
        flat[index] = row.label
        claimed.setdefault(row.label, row.name)
        slivers.append((row.label, marked.slivers_kji))
    for label, kji in slivers:
        index, _ = flat_index(kji, labels.shape)
        flat[index[flat[index] == UNMARKED]] = label
    return labels


def marked_voxels(
    segmentation_node: Any, segment_id: str, reference: ReferenceGeometry, grid_node: Any
) -> MarkedVoxels:
    """Find the voxels of a grid that belong to a segment, wherever the two lie.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        segment_id: Of the segment; one that does not exist has no voxels.
        reference: The grid.
        grid_node: The node that the grid belongs to.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    nothing = np.zeros((0, 3), np.int64)
    for labelmap, values in layers(segmentation_node, [segment_id]).items():
        if is_empty(labelmap):
            continue
        value = values[segment_id]
        to_grid = _between(segmentation_node, grid_node)
        if to_grid is None and on_lattice(labelmap, reference):
            return MarkedVoxels(_on_same_lattice(labelmap, value, reference), nothing)
        return _resampled(labelmap, value, reference, to_grid)
    return MarkedVoxels(nothing, nothing)


def slice_of(labels: NDArray[Any], place: tuple[int, int] | None) -> NDArray[Any]:
    """The part of an array (K, J, I) that is worked on: a slice (H, W) by axis and index, or with None all of it."""
    return labels if place is None else np.moveaxis(labels, place[0], 0)[place[1]]


def marked_slices(labels: Labels, axis: int) -> list[int]:
    """Indices along an axis of the slices that something is painted on."""
    others = tuple(other for other in range(3) if other != axis)
    indices: list[int] = np.flatnonzero((labels != UNMARKED).any(axis=others)).tolist()
    return indices


@dataclass(frozen=True)
class Violation:
    """A label that was asked for and is not there.

    Attributes:
        label: Its value.
        count: How many marked voxels do not have it.
        kji: The first of them on the grid.
    """

    label: int
    count: int
    kji: tuple[int, int, int]


def violations_left(
    violations: NDArray[np.bool_], painted: Labels, place: tuple[int, int] | None
) -> tuple[Violation, ...]:
    """Sort the voxels that a result does not follow by label.

    Args:
        violations: bool of the shape of `painted`: marked voxels that got another label.
        painted: int16 (K, J, I) or, with a place, (H, W): what was asked for.
        place: Axis and index of the slice, or None.

    Returns:
        Those with most voxels first.
    """
    indices = np.argwhere(violations)
    if place is not None:
        indices = np.insert(indices, place[0], place[1], axis=1)
    labels, first, counts = np.unique(painted[violations], return_index=True, return_counts=True)
    found = [
        Violation(int(label), int(count), _index(indices[position]))
        for label, position, count in zip(labels, first, counts, strict=True)
        if label != UNMARKED
    ]
    return tuple(sorted(found, key=lambda violation: -violation.count))


def _index(kji: NDArray[np.int64]) -> tuple[int, int, int]:
    k, j, i = (int(part) for part in kji)
    return k, j, i


def _contradiction(kji: NDArray[np.int64], first: str, second: str) -> ContradictionError:
    k, j, i = _index(kji[0])
    count = "1 voxel is" if len(kji) == 1 else f"{len(kji)} voxels are"
    return ContradictionError(
        f"{count} painted both as {first!r} and as {second!r}, the first at ({k}, {j}, {i}), counted from 0 along K, J "
        "and I. A voxel can have one label only: erase one of the two there.",
        (k, j, i),
    )


def _on_same_lattice(labelmap: Any, value: int, reference: ReferenceGeometry) -> NDArray[np.int64]:
    here, there = overlap(labelmap.GetExtent(), reference.extent)
    found = np.argwhere(voxels_of(labelmap)[here] == value)
    return found + np.array([part.start for part in there])


def _resampled(labelmap: Any, value: int, reference: ReferenceGeometry, to_grid: Any) -> MarkedVoxels:
    own = np.argwhere(voxels_of(labelmap) == value)
    if not len(own):
        return MarkedVoxels(own, own)
    ijk = own[:, ::-1] + np.array(labelmap.GetExtent()[::2])
    mm = transformed(image_to_mm(labelmap), ijk)
    if to_grid is not None:
        mm = np.array([to_grid.TransformPoint(point) for point in mm])
    forward = nearest_index(reference.grid.to_kji(mm))
    result = vtkOrientedImageData()
    vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        _cut_out(labelmap, value, own), reference.image, result, False, False, to_grid
    )
    gathered = np.argwhere(voxels_of(result) != 0)
    _, inside = flat_index(forward, reference.grid.shape)
    return MarkedVoxels(gathered, forward if inside is None else forward[inside])


def _cut_out(labelmap: Any, value: int, kji: NDArray[np.int64]) -> Any:
    """A label map of one label, with a margin in which it is surely zero."""
    (k0, j0, i0), (k1, j1, i1) = bounds(kji)
    i, j, k = labelmap.GetExtent()[::2]
    extent: Extent = (i + i0 - 1, i + i1 + 1, j + j0 - 1, j + j1 + 1, k + k0 - 1, k + k1 + 1)
    mask = recut(labelmap, extent)
    voxels_of(mask)[...] = voxels_of(mask) == value
    return mask


def _between(source_node: Any, target_node: Any) -> Any:
    """The transform from one node's millimetres to another's; None where they are the same."""
    parents = source_node.GetParentTransformNode(), target_node.GetParentTransformNode()
    if parents[0] is parents[1]:
        return None
    transform = vtkGeneralTransform()
    vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, transform)
    return transform
