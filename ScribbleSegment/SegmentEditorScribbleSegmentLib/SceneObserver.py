"""Tells the effect when what it shows has changed in the scene."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk
from slicer.util import VTKObservationMixin


class SceneObserver(VTKObservationMixin):
    """Observes the editor's selections, its segmentation, and the scene, until it is stopped."""

    def __init__(self, editorNode, *, onChanged: Callable[[], None], onClosing: Callable[[], None]) -> None:
        """Start observing.

        Args:
            editorNode: The vtkMRMLSegmentEditorNode.
            onChanged: Called after the selected segment, its prompts or voxels have changed.
            onClosing: Called before the scene is closed.
        """
        VTKObservationMixin.__init__(self)
        self._onChanged = onChanged
        self._onClosing = onClosing
        self._segmentationNode = None
        self._editorNode = editorNode
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._closing)
        if editorNode is not None:
            self.addObserver(editorNode, vtk.vtkCommand.ModifiedEvent, self._selectionChanged)
            self._follow(editorNode.GetSegmentationNode())

    def stop(self) -> None:
        """Observe nothing any more."""
        self.removeObservers()

    def _follow(self, segmentationNode) -> None:
        if segmentationNode is self._segmentationNode:
            return
        if self._segmentationNode is not None:
            self.removeObservers(self._changed)
        self._segmentationNode = segmentationNode
        if segmentationNode is None:
            return
        for event in (
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
        ):
            self.addObserver(segmentationNode, event, self._changed)

    def _selectionChanged(self, caller, event) -> None:
        self._follow(self._editorNode.GetSegmentationNode())
        self._onChanged()

    def _changed(self, caller, event) -> None:
        self._onChanged()

    def _closing(self, caller, event) -> None:
        self._onClosing()
