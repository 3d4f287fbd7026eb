"""Propagating and accepting slices: between the panel, the slice views and the package."""

from __future__ import annotations

from slicer.i18n import tr as _

from scribblesegment.exceptions import FileFormatError, GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.accepted_slices import read_accepted
from scribblesegment.mrml.propagation_plan import PropagationOptions
from scribblesegment.mrml.volume_axes import align_view, show_slice, shown_slice
from ScribbleSegmentLib.SharedInference import sharedInference

from .PropagationWords import reportInWords

_PARAMETER = "AllSegments"


class PropagationControl:
    """Carries out what the user wants in the section *Propagate* while the effect is active."""

    def __init__(self, scriptedEffect, panel, controller, propagation, views, *, tell) -> None:
        """Connect the parts.

        Args:
            scriptedEffect: The qSlicerSegmentEditorScriptedEffect with the parameters.
            panel: The PropagationPanel.
            controller: The ScribbleController.
            propagation: The VolumePropagation.
            views: The SliceViews.
            tell: Called with a text for the status area, and `problem=True` if it is one.
        """
        self._effect = scriptedEffect
        self._panel = panel
        self._controller = controller
        self._propagation = propagation
        self._views = views
        self._tell = tell
        # A propagation that waits for the answer to the newest stroke, which it is to start from.
        self._waiting = False
        self._axis: int | None = None  # of the latest propagation

    @staticmethod
    def setDefaults(scriptedEffect) -> None:
        """Give the parameters their first values."""
        scriptedEffect.setParameterDefault(_PARAMETER, 0)

    @property
    def busy(self) -> bool:
        """Whether a propagation is under way, so that `poll` must be called."""
        return self._waiting or self._propagation.busy

    # What the user does -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Propagate, once everything that was drawn is answered."""
        self._waiting = True
        self._panel.showReport(None)
        self.poll()

    def interrupt(self) -> None:
        """End a propagation and keep what is done, because the user does something else."""
        self._waiting = False
        if self._propagation.stop():
            self._views.refreshSoon()

    def accept(self, wanted: bool) -> None:
        """Accept the shown slice, or take that back.

        Raises:
            ScribbleSegmentError: The view shows no slice along an axis of the volume.
        """
        act = self._controller.accept_slice if wanted else self._controller.take_back_slice
        act(self._editorNode, self._shownSliceNode())

    def alignView(self) -> None:
        """Turn the view that was used last to the nearest axis of the volume.

        Raises:
            ScribbleSegmentError: Nothing is selected.
        """
        align_view(self._shownSliceNode(), self._controller.target(self._editorNode))

    def goTo(self, segmentId: str, index: int) -> None:
        """Show a slice of the direction of the latest propagation in all views that are along it.

        Raises:
            ScribbleSegmentError: No view is along it, or the segment has gone.
        """
        if self._editorNode.GetSelectedSegmentID() != segmentId:
            self._editorNode.SetSelectedSegmentID(segmentId)
        target = self._controller.target(self._editorNode)
        moved = 0
        for sliceNode in self._views.sliceNodes():
            try:
                if shown_slice(sliceNode, target)[0] == self._axis:
                    show_slice(sliceNode, target, index)
                    moved += 1
            except GeometryError:
                continue  # an oblique view, or one beside the volume
        if not moved:
            raise PromptError(_("No slice view shows the direction in which was propagated. Choose such a view."))

    def setAllSegments(self, wanted: bool) -> None:
        """Choose whether all visible segments are propagated."""
        self._effect.setParameter(_PARAMETER, int(wanted))

    # What happens meanwhile ---------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Begin what waits, and take in what was made. Returns whether a segment changed."""
        if self._waiting and not self._controller.busy:
            self._waiting = False
            self._begin()
        update = self._propagation.poll()
        self._panel.showProgress(self._propagation.progress if self.busy else None)
        if update.report is not None:
            self._panel.showReport(update.report)
            self._tell(reportInWords(update.report))
        if update.problem:
            self._tell(update.problem, problem=True)
        return update.changed

    def showSlice(self, target, plane) -> None:
        """Show what is known of the slice that is looked at; None for none."""
        self._panel.showAllSegments(bool(self._effect.integerParameter(_PARAMETER)))
        if plane is None or plane.voxel_slice is None:
            self._panel.showSlice(None, oblique=plane is not None)
        else:
            grid = target.reference.grid
            axis = plane.voxel_slice[0]
            try:
                accepted = read_accepted(target.segment, grid).indices[axis]
            except FileFormatError:
                accepted = ()  # propagating says so
            view = self._shownSliceNode().GetLayoutName()
            self._panel.showSlice(
                plane.voxel_slice,
                view=view,
                length=grid.shape[axis],
                image=target.source.token,
                accepted=accepted,
            )
        self._panel.showProgress(self._propagation.progress if self.busy else None)

    def leave(self) -> None:
        """End a propagation because the effect is left; what is done is kept."""
        self.interrupt()
        self._panel.showProgress(None)

    def forget(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._waiting = False
        self._propagation.forget()
        self._panel.showReport(None)
        self._panel.showProgress(None)
        self._panel.showSlice(None)

    def _begin(self) -> None:
        options = self._controller.options
        try:
            sliceNode = self._shownSliceNode()
            # Going on to other slices finishes the one that was worked on.
            self._controller.acceptance.looked_at()
            self._axis = shown_slice(sliceNode, self._controller.target(self._editorNode))[0]
            self._propagation.start(
                self._editorNode,
                sliceNode,
                PropagationOptions(
                    index_range=self._panel.indexRange,
                    protect_visible=options.protect_visible,
                    clean_up=options.clean_up,
                    model=sharedInference().state.model,
                ),
                all_segments=bool(self._effect.integerParameter(_PARAMETER)),
            )
        except ScribbleSegmentError as error:
            self._tell(str(error), problem=True)

    @property
    def _editorNode(self):
        return self._effect.parameterSetNode()

    def _shownSliceNode(self):
        viewWidget = self._views.activeView
        if viewWidget is None:
            raise PromptError(_("There is no slice view. Choose a layout that has one."))
        return viewWidget.mrmlSliceNode()
