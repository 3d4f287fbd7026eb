"""The forms a segmentation is stored in: which one is edited, and keeping those derived from it up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicer import vtkSegmentationConversionPaths, vtkSegmentationConverter

from scribblesegment.mrml.segments import BINARY_LABELMAP, CLOSED_SURFACE, derive_labelmaps


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


def refresh_derived(segmentation_node: Any, segment_ids: Sequence[str]) -> None:
    """Make all that is derived from the label maps of some segments again: surfaces, for instance.

    Forms that Slicer cannot derive from label maps are left as they are.
    """
    segmentation = segmentation_node.GetSegmentation()
    segments = [segmentation.GetSegment(segment_id) for segment_id in segment_ids]
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
