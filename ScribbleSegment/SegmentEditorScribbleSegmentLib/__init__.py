"""The Segment Editor effect; importing it makes its class known to Slicer, see `SegmentEditorScribbleSegment`."""

# Puts the package `scribblesegment` on the path of a source tree.
import ScribbleSegmentLib  # noqa: F401
from SegmentEditorScribbleSegmentLib.SegmentEditorScribbleSegmentEffect import SegmentEditorScribbleSegmentEffect

__all__ = ["SegmentEditorScribbleSegmentEffect"]
