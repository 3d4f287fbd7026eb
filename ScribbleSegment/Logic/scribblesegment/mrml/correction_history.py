"""Undo of a network's result: states of a segmentation that go back as a whole, whatever the Segment Editor edits.

The Segment Editor's own history belongs to the one segmentation that it edits, which is that of the corrections most of
the time. Slicer allows several histories of a segmentation.
"""

from __future__ import annotations

from typing import Any

from slicer import vtkSegmentationHistory

# Every state is a copy of all label maps that have changed.
_MOST_STATES = 6


class ResultHistory:
    """States of one segmentation, kept in memory until another one is followed."""

    def __init__(self) -> None:
        self._history = vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(_MOST_STATES)
        self._node: Any = None

    def follow(self, segmentation_node: Any) -> None:
        """Keep states of this vtkMRMLSegmentationNode from now on, and forget those of another one; None for none."""
        self._node = segmentation_node
        self._history.SetSegmentation(None if segmentation_node is None else segmentation_node.GetSegmentation())

    def save(self) -> None:
        """Keep the present state, to which `undo` goes back; called before a change."""
        if self._node is not None:
            self._history.SaveState()

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier state."""
        return self._node is not None and bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Whether there is a later state."""
        return self._node is not None and bool(self._history.IsRestoreNextStateAvailable())

    def undo(self) -> bool:
        """Go back to the state before the newest result. Returns whether there was one."""
        return self.can_undo and self._restore(self._history.RestorePreviousState)

    def redo(self) -> bool:
        """Take an undo back. Returns whether there was one."""
        return self.can_redo and self._restore(self._history.RestoreNextState)

    def _restore(self, restore: Any) -> bool:
        was_modifying = self._node.StartModify()
        try:
            restored = bool(restore())
        finally:
            self._node.EndModify(was_modifying)
        display_node = self._node.GetDisplayNode()
        if display_node is not None:
            display_node.Modified()  # or the views keep what they showed
        return restored
