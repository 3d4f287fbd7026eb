"""Context entries from what the Segment Editor shows: one slice of the image with the segment on it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np

from scribblesegment.context import ContextEntry, ContextSet
from scribblesegment.exceptions import PromptError
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.mrml.segments import segment_on_plane
from scribblesegment.mrml.source_image import SourceImage
from scribblesegment.slice_context import SliceContext
from scribblesegment.slice_plane import SlicePlane, sample

_LONGEST_NAME = 150

# Voxels along each axis that tell volumes apart.
_SAMPLES = 16


def context_entry(target: EditTarget, plane: SlicePlane) -> ContextEntry:
    """Make an entry of the segment on a slice, as it is now.

    Raises:
        PromptError: The segment has no pixel on the slice.
    """
    mask = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
    if not mask.any():
        raise PromptError(
            f"The segment {target.segment.GetName()!r} is empty on this slice, so the slice shows nothing to learn "
            "from. Segment it first."
        )
    source = target.source
    image = sample(source.array, target.reference.grid, plane, outside=source.intensity_range.low)
    axis, index = plane.voxel_slice or (None, None)
    return ContextEntry(
        source.intensity_range.normalize(image),
        mask,
        plane.spacing_mm,
        source=source_name(target),
        axis=axis,
        index=index,
    )


def slice_context(target: EditTarget, plane: SlicePlane, entries: ContextSet | None) -> SliceContext | None:
    """What a slice is predicted from besides its prompts; None where there is nothing."""
    if entries is None or len(entries) == 0:
        return None
    axis, index = plane.voxel_slice or (None, None)
    return SliceContext(entries, source_name(target), axis, index)


def source_name(target: EditTarget) -> str:
    """Name of the volume in context entries: the same for the same voxels, and hardly ever for others.

    Volumes of different patients are often called alike, and slices of one volume replace each other in context sets.
    """
    name = "".join(c if c.isprintable() else " " for c in target.source_node.GetName() or "")
    # Nothing that could be taken for a path, of which only the end would be kept.
    name = re.sub(r"[\\/:~]+", "_", name)[:_LONGEST_NAME].strip() or "volume"
    return f"{name} [{_digest(target.source)}]"


def _digest(source: SourceImage) -> str:
    # Some voxels will do: reading all of a large volume would be felt.
    steps = tuple(slice(None, None, max(side // _SAMPLES, 1)) for side in source.array.shape)
    voxels: Any = np.ascontiguousarray(source.array[steps])
    return hashlib.sha256(repr(source.array.shape).encode() + voxels.tobytes()).hexdigest()[:8]
