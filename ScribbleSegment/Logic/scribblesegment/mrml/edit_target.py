"""What the Segment Editor is set to edit: which segment of which segmentation, on which image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scribblesegment.exceptions import ImageError, PromptError
from scribblesegment.gestures import SegmentGestures
from scribblesegment.mrml.geometry import ReferenceGeometry, reference_geometry
from scribblesegment.mrml.prompt_tags import read_gestures
from scribblesegment.mrml.source_image import SourceImage, SourceImages


@dataclass(frozen=True, eq=False)
class EditTarget:
    """A snapshot of the Segment Editor's selections, with the image on the segmentation's own voxels.

    Attributes:
        editor_node: vtkMRMLSegmentEditorNode, which holds masking and overwrite mode.
        segmentation_node: vtkMRMLSegmentationNode.
        segment_id: Of the selected segment.
        source_node: vtkMRMLScalarVolumeNode.
        reference: Lattice that all voxel indices are of.
        source: The image on that lattice.
    """

    editor_node: Any
    segmentation_node: Any
    segment_id: str
    source_node: Any
    reference: ReferenceGeometry
    source: SourceImage

    @property
    def segment(self) -> Any:
        """The vtkSegment, or None when it was removed."""
        segmentation = self.segmentation_node.GetSegmentation()
        return None if segmentation is None else segmentation.GetSegment(self.segment_id)

    @property
    def gestures(self) -> SegmentGestures:
        """Everything drawn for the segment so far."""
        return read_gestures(self.segment)

    @property
    def exists(self) -> bool:
        """Whether segmentation and segment are still in the scene."""
        scene = self.segmentation_node.GetScene()
        return scene is not None and not scene.IsClosing() and self.segment is not None

    def same_segment(self, other: EditTarget) -> bool:
        """Whether both are about the same segment."""
        return self.segmentation_node is other.segmentation_node and self.segment_id == other.segment_id


def resolve_target(editor_node: Any, images: SourceImages) -> EditTarget:
    """Read the Segment Editor's selections.

    Args:
        editor_node: vtkMRMLSegmentEditorNode, or None.
        images: Where the image on the segmentation's lattice is kept.

    Returns:
        The target; its parts are known to exist and fit together.

    Raises:
        PromptError: No segmentation or no segment is selected.
        ImageError: No source volume is selected, or it cannot be segmented.
        GeometryError: The geometries cannot be brought together.
    """
    segmentation_node = editor_node.GetSegmentationNode() if editor_node is not None else None
    if segmentation_node is None or segmentation_node.GetSegmentation() is None:
        raise PromptError("No segmentation is selected. Choose or create one at the top of the Segment Editor.")
    segment_id = editor_node.GetSelectedSegmentID() or ""
    if segmentation_node.GetSegmentation().GetSegment(segment_id) is None:
        raise PromptError("No segment is selected. Press Add to create one, or select one in the list of segments.")
    return target_of(editor_node, segmentation_node, segment_id, images)


def target_of(editor_node: Any, segmentation_node: Any, segment_id: str, images: SourceImages) -> EditTarget:
    """Bring a segment together with the editor's source volume, as it is now.

    Args:
        editor_node: vtkMRMLSegmentEditorNode.
        segmentation_node: vtkMRMLSegmentationNode.
        segment_id: Of one of its segments.
        images: Where the image on the segmentation's lattice is kept.

    Raises:
        ImageError: No source volume is selected, or it cannot be segmented.
        GeometryError: The geometries cannot be brought together.
    """
    source_node = editor_node.GetSourceVolumeNode()
    if source_node is None:
        raise ImageError("No source volume is selected. Choose the image to segment at the top of the Segment Editor.")
    reference = reference_geometry(segmentation_node, source_node)
    source = images.get(source_node, segmentation_node, reference)
    return EditTarget(editor_node, segmentation_node, segment_id, source_node, reference, source)
