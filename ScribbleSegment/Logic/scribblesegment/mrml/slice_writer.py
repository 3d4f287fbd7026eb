"""From masks on slice planes to voxels of a segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import GeometryError
from scribblesegment.mrml.edit_mask import editable_at
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.oblique_cuts import oblique_cut
from scribblesegment.mrml.segment_writer import write_voxels
from scribblesegment.mrml.segments import segment_at, segment_on_plane
from scribblesegment.slice_plane import PlaneVoxels, SlicePlane, plane_voxels


def write_mask(target: EditTarget, plane: SlicePlane, mask: NDArray[np.bool_], *, protect: Sequence[str] = ()) -> bool:
    """Make the segment equal to a mask on one plane, as far as masking and protection allow it.

    Args:
        target: Segment to change.
        plane: The slice; voxels it does not cut stay as they are.
        mask: bool (H, W) on the plane's raster.
        protect: Identifiers of segments that must not change.

    Returns:
        Whether a voxel changed.
    """
    node, segment_id, reference = target.segmentation_node, target.segment_id, target.reference
    voxels = _voxels(target, plane, mask)
    if not len(voxels.kji):
        return False
    wanted = mask[tuple(voxels.pixels.T)]
    present = segment_at(node, segment_id, reference, voxels.kji)
    return _write(target, voxels.kji[wanted & ~present], voxels.kji[present & ~wanted], protect)


def write_slices(
    target: EditTarget, masks: Sequence[tuple[SlicePlane, NDArray[np.bool_]]], *, protect: Sequence[str] = ()
) -> bool:
    """Make the segment equal to masks on several slices at once, as `write_mask` does on each.

    Args:
        target: Segment to change.
        masks: Different slices of the target's grid, and bool (H, W) for each.
        protect: Identifiers of segments that must not change.

    Returns:
        Whether a voxel changed.
    """
    added: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    removed = added.copy()
    for plane, mask in masks:
        present = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
        added.append(slice_voxels(plane, mask & ~present))
        removed.append(slice_voxels(plane, present & ~mask))
    return _write(target, np.concatenate(added), np.concatenate(removed), protect)


def slice_voxels(plane: SlicePlane, pixels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The voxels (N, 3) of the marked pixels, bool (H, W), of a plane that is a slice of its grid.

    Raises:
        GeometryError: The plane is oblique.
    """
    if plane.voxel_slice is None:
        raise GeometryError("The plane is oblique: its pixels are no voxels. Write it with write_mask.")
    axis, index = plane.voxel_slice
    return np.insert(np.argwhere(pixels), axis, index, axis=1)


def _write(target: EditTarget, added: NDArray[np.int64], removed: NDArray[np.int64], protect: Sequence[str]) -> bool:
    node, segment_id, reference = target.segmentation_node, target.segment_id, target.reference

    def editable(kji: NDArray[np.int64], *, removing: bool) -> NDArray[np.int64]:
        if not len(kji):
            return kji
        allowed = editable_at(
            node, target.editor_node, segment_id, reference, target.source.masking_array, kji, removing=removing
        )
        return kji[allowed]

    added, removed = editable(added, removing=False), editable(removed, removing=True)
    if not (len(added) or len(removed)):
        return False
    changed = write_voxels(node, target.editor_node, segment_id, reference, added, removed, protect=protect)
    return changed is not None


def _voxels(target: EditTarget, plane: SlicePlane, mask: NDArray[np.bool_]) -> PlaneVoxels:
    """The voxels of the plane that may change."""
    grid = target.reference.grid
    if plane.voxel_slice is None:
        # All of them: a pixel may show a voxel far from where its centre projects to, and some voxels no pixel shows.
        return oblique_cut(grid, plane).voxels
    shown = mask | segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not rows.size:
        return PlaneVoxels(np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64))
    return plane_voxels(grid, plane, ((int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)))
