"""From the module to the Segment Editor with the effect active."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from scribblesegment.mrml.corrections import volume_of

# Not translated: modules and scripts find effects by name.
EFFECT_NAME = "Scribble Segment"


def openSegmentEditor(volumeNode: slicer.vtkMRMLScalarVolumeNode | None) -> str:
    """Show the Segment Editor, ready to paint.

    Args:
        volumeNode: Volume to segment; None takes what the Segment Editor takes.

    Returns:
        Why the effect could not be made active and what to do, or an empty text.
    """
    nothingToSegment = _("There is no volume to segment. Load one first, or take the sample data.")
    if volumeNode is None and slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is None:
        return nothingToSegment
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    if volumeNode is not None and editor.sourceVolumeNode() is not volumeNode:
        editor.setSegmentationNode(_segmentationOf(volumeNode, editor.segmentationNode()))
        editor.setSourceVolumeNode(volumeNode)
    if editor.sourceVolumeNode() is None:
        return nothingToSegment
    _selectSegment(editor)
    editor.setActiveEffectByName(EFFECT_NAME)
    if editor.activeEffect() is None or editor.activeEffect().name != EFFECT_NAME:
        return _("The effect {name} is not available. Restart Slicer after installing the extension.").format(
            name=EFFECT_NAME
        )
    return ""


def openSegmentEditorOn(segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode) -> None:
    """Show the Segment Editor on a segmentation and its source volume, ready to paint."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    editor.setSegmentationNode(segmentationNode)
    editor.setSourceVolumeNode(volumeNode)
    _selectSegment(editor)
    editor.setActiveEffectByName("Paint")


def _segmentationOf(volumeNode, currentNode):
    """Give a segmentation on the volume's voxels: the current one, an existing one, or a new one."""
    existing = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    for node in [currentNode, *existing]:
        if node is not None and volume_of(node) is volumeNode:
            return node
    if currentNode is not None and currentNode.GetSegmentation().GetNumberOfSegments() == 0:
        node = currentNode
    else:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", _("{volume} segmentation").format(volume=volumeNode.GetName())
        )
        node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    return node


def _selectSegment(editor) -> None:
    """Select a segment, so that a stroke has somewhere to go."""
    segmentation = editor.segmentationNode().GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        editor.setCurrentSegmentID(segmentation.AddEmptySegment())
    elif not editor.currentSegmentID():
        editor.setCurrentSegmentID(segmentation.GetNthSegmentID(0))
