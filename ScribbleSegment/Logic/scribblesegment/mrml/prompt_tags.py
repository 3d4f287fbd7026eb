"""What was drawn for a segment, kept in the segment itself.

Slicer's undo history copies a segment's tags with its voxels, and scenes, bundles (.mrb) and segmentation files
(.seg.nrrd) keep them; so strokes come back with the mask that they led to.
"""

from __future__ import annotations

from typing import Any

from scribblesegment.exceptions import FileFormatError
from scribblesegment.gestures import SegmentGestures
from scribblesegment.mrml.segment_tags import read_tag, write_tag

TAG = "ScribbleSegment.Prompts"


def read_gestures(segment: Any) -> SegmentGestures:
    """What was drawn for a vtkSegment; nothing for None, or a segment that was never drawn in.

    Raises:
        FileFormatError: The tag is damaged, or was written by a newer version.
    """
    text = read_tag(segment, TAG)
    if not text:
        return SegmentGestures()
    try:
        return SegmentGestures.from_text(text)
    except FileFormatError as cause:
        raise FileFormatError(
            f"The strokes stored with the segment {segment.GetName()!r} cannot be read: {cause} The segment itself is "
            "intact; remove all its strokes to start over."
        ) from cause


def write_gestures(segment: Any, gestures: SegmentGestures) -> None:
    """Store what was drawn with a vtkSegment."""
    write_tag(segment, TAG, gestures.to_text())
