"""From a mask on a slice plane to voxels of a segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scribblesegment.mrml.edit_mask import editable_at
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.segment_writer import write_voxels
from scribblesegment.mrml.segments import segment_at, segment_on_plane
from scribblesegment.slice_plane import SlicePlane, plane_voxels

# Voxels that an oblique plane cuts may lie this many pixels beside those that the raster samples them at.
_MARGIN = 2


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
    region = _region(mask | segment_on_plane(node, segment_id, reference, plane))
    if region is None:
        return False
    voxels = plane_voxels(reference.grid, plane, region)
    wanted = mask[tuple(voxels.pixels.T)]
    present = segment_at(node, segment_id, reference, voxels.kji)
    added, removed = voxels.kji[wanted & ~present], voxels.kji[present & ~wanted]

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


def _region(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    height, width = mask.shape
    return (
        (max(int(rows[0]) - _MARGIN, 0), min(int(rows[-1]) + 1 + _MARGIN, height)),
        (max(int(columns[0]) - _MARGIN, 0), min(int(columns[-1]) + 1 + _MARGIN, width)),
    )
