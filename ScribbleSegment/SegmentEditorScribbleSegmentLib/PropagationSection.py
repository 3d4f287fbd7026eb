"""Propagating and accepting slices: between the panel, the slice views and the package."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.errors import FileFormatError, GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.propagation import PropagationOptions, PropagationReport, SegmentReport
from scribblesegment.mrml.tags import read_accepted
from scribblesegment.mrml.target import align_view, show_slice, shown_slice
from scribblesegment.service.worker import Progress
from ScribbleSegmentLib.Inference import sharedInference


def reportInWords(report: PropagationReport) -> str:
    """Say how much was done, how sure it is, why it ended, and what to look at next."""
    if report.undone:
        return _("The propagation ended because what it built on was taken back or changed.")
    parts = [_("Cancelled; what was done is kept, and Propagate goes on from there.")] if report.cancelled else []
    done = _("{count} slices propagated").format(count=report.made)
    if report.slices_per_second > 0:
        done += ", " + _("{speed} per second").format(speed=f"{report.slices_per_second:.1f}")
    if report.mean_confidence is not None:
        done += ", " + _("mean confidence {percent} %").format(percent=round(100 * report.mean_confidence))
    parts.append(done + ".")
    several = len(report.segments) > 1
    for segment in report.segments:
        ends = _endsInWords(segment)
        if ends:
            parts.append(f"{segment.name}: {ends}" if several else ends)
    best = report.worth_correcting
    if best is not None:
        place = _("slice {index}").format(index=best.next_slice)
        parts.append(_("Worth correcting next: {place}.").format(place=f"{place} ({best.name})" if several else place))
    elif not report.cancelled and report.mean_confidence is not None:
        parts.append(_("All slices are certain."))
    return " ".join(parts)


def goToInWords(report: PropagationReport) -> str:
    """Name the slice whose correction would help most."""
    segment = report.worth_correcting
    if segment is None:
        return _("Go to slice")
    text = _("Go to slice {index}").format(index=segment.next_slice)
    return f"{text} ({segment.name})" if len(report.segments) > 1 else text


def certaintyInWords(index: int, confidence: float, name: str) -> str:
    """One of the slices that are not certain; `name` is empty if there is only one segment."""
    text = _("Slice {index}: {percent} %").format(index=index, percent=round(100 * confidence))
    return f"{text} ({name})" if name else text


def acceptedInWords(indices: Sequence[int]) -> str:
    """List the accepted slices of the shown direction."""
    if not indices:
        return _("No slice is accepted in this direction yet.")
    return _("Accepted slices: {slices}").format(slices=listed(indices))


def listed(indices: Iterable[int]) -> str:
    """Ascending whole numbers, neighbours drawn together: 3, 5–9."""
    runs = []
    for _distance, run in groupby(enumerate(indices), key=lambda one: one[1] - one[0]):
        members = [index for _place, index in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    return ", ".join(runs)


def _endsInWords(segment: SegmentReport) -> str:
    reasons = {
        "ENDED": _("the structure ends"),
        "UNCERTAIN": _("too uncertain to go on"),
        "ABSENT": _("the next accepted slice is without the structure"),
        "RANGE": _("end of the range"),
        "CANCELLED": _("cancelled"),
    }
    return " ".join(
        _("Slice {index}: {reason}.").format(index=end.index, reason=reasons.get(end.reason.name, end.reason.value))
        for end in sorted(segment.ends, key=lambda end: end.index)
    )


_PARAMETER = "AllSegments"


class PropagationControl:
    """Carries out what the user wants in the section *Propagate* while the effect is active."""

    def __init__(self, scriptedEffect, panel, controller, propagation, views, *, tell) -> None:
        """Connect the parts.

        Args:
            scriptedEffect: The qSlicerSegmentEditorScriptedEffect with the parameters.
            panel: The PropagationPanel.
            controller: The SliceSegmenter.
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

    def reset(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._waiting = False
        self._propagation.reset()
        self._panel.showReport(None)
        self._panel.showProgress(None)
        self._panel.showSlice(None)

    def _begin(self) -> None:
        options = self._controller.options
        try:
            sliceNode = self._shownSliceNode()
            # Going on to other slices finishes the one that was worked on.
            self._controller.slice_viewed()
            self._axis = shown_slice(sliceNode, self._controller.target(self._editorNode))[0]
            self._propagation.start(
                self._editorNode,
                sliceNode,
                PropagationOptions(
                    index_range=self._panel.indexRange,
                    protect=options.protect,
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


_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentPropagation.ui"


class PropagationPanel:
    """Shows how a propagation goes and what became of it, and tells what the user wants.

    Attributes:
        widget: The QWidget to add to the effect's options.
        ui: The named widgets of the .ui file.
    """

    def __init__(self, *, onAction, onAccept, onGoTo, onAllSegments) -> None:
        """Build the widgets.

        Args:
            onAction: Called with the name of a pressed button: "propagate", "cancelPropagation", "alignView".
            onAccept: Called with whether the shown slice is to be accepted.
            onGoTo: Called with the identifier of a segment and the index of a slice to show.
            onAllSegments: Called with whether all visible segments are to be propagated.
        """
        self._onGoTo = onGoTo
        self._proposed: tuple[str, int] | None = None
        self._rangeIsFor: Hashable = None
        self._index: int | None = None
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        for button, action in (
            (ui.propagateButton, "propagate"),
            (ui.cancelButton, "cancelPropagation"),
            (ui.alignButton, "alignView"),
        ):
            button.clicked.connect(lambda checked=False, action=action: onAction(action))
        ui.acceptSliceButton.clicked.connect(onAccept)
        ui.allSegmentsCheckBox.toggled.connect(onAllSegments)
        ui.rangeCheckBox.toggled.connect(lambda checked: setattr(ui.rangeWidget, "enabled", checked))
        ui.fromHereButton.clicked.connect(lambda checked=False: self._limit(first=True))
        ui.toHereButton.clicked.connect(lambda checked=False: self._limit(first=False))
        ui.goToButton.clicked.connect(lambda checked=False: self._goToProposed())
        ui.uncertainList.itemClicked.connect(lambda item: onGoTo(*item.data(qt.Qt.UserRole)))
        self.showReport(None)
        self.showProgress(None)
        self.showSlice(None)

    @property
    def indexRange(self) -> tuple[int, int] | None:
        """The half-open range of slices that the user has set; None for all."""
        if not self.ui.rangeCheckBox.checked:
            return None
        return round(self.ui.rangeWidget.minimumValue), round(self.ui.rangeWidget.maximumValue) + 1

    def showSlice(
        self,
        place: tuple[int, int] | None,
        *,
        view: str = "",
        length: int = 0,
        image: Hashable = None,
        accepted: tuple[int, ...] = (),
        oblique: bool = False,
    ) -> None:
        """Show what is known of the slice that is looked at.

        Args:
            place: Its axis and index; None where the view shows no slice along an axis.
            view: Name of the view.
            length: How many slices there are along the axis.
            image: What tells the image from others; a range of slices that was set for another one is forgotten.
            accepted: Indices of the accepted ones.
            oblique: Whether the view is turned away from the volume's axes.
        """
        ui = self.ui
        ui.alignButton.visible = oblique
        for widget in (ui.acceptSliceButton, ui.fromHereButton, ui.toHereButton, ui.propagateButton):
            widget.enabled = place is not None
        self._index = None if place is None else place[1]
        if place is None:
            ui.acceptSliceButton.checked = False
            ui.acceptedLabel.text = (
                _("The view is oblique. Slices are accepted and propagated along the volume's axes.") if oblique else ""
            )
            return
        ui.acceptSliceButton.checked = place[1] in accepted
        ui.acceptSliceButton.text = _("Accept slice {index} ({view})").format(index=place[1], view=view)
        ui.acceptedLabel.text = acceptedInWords(accepted)
        if self._rangeIsFor != (place[0], image):
            self._rangeIsFor = (place[0], image)
            ui.rangeCheckBox.checked = False
            ui.rangeWidget.setRange(0, max(length - 1, 0))
            ui.rangeWidget.setValues(0, max(length - 1, 0))

    def showProgress(self, progress: Progress | None) -> None:
        """Show how far a propagation is; None when none is under way."""
        ui = self.ui
        running = progress is not None
        ui.cancelButton.enabled = running
        ui.propagateButton.enabled = not running and self._index is not None
        ui.progressFrame.visible = running
        if progress is None:
            return
        ui.progressBar.value = round(100 * progress.fraction)
        ui.speedLabel.text = _("{count} slices, {speed} per second").format(
            count=progress.count, speed=f"{progress.per_second:.1f}"
        )

    def showAllSegments(self, wanted: bool) -> None:
        """Show whether all visible segments are propagated, without telling anyone."""
        box = self.ui.allSegmentsCheckBox
        wasBlocked = box.blockSignals(True)
        box.checked = wanted
        box.blockSignals(wasBlocked)

    def showReport(self, report: PropagationReport | None) -> None:
        """Offer the slices that are worth a look; None for none."""
        ui = self.ui
        segment = None if report is None else report.worth_correcting
        self._proposed = None if segment is None else (segment.segment_id, int(segment.next_slice))
        ui.goToButton.enabled = self._proposed is not None
        ui.goToButton.text = _("Go to slice") if report is None else goToInWords(report)
        ui.uncertainList.clear()
        several = report is not None and len(report.segments) > 1
        for one in () if report is None else report.segments:
            for index, confidence in one.uncertain():
                item = qt.QListWidgetItem(certaintyInWords(index, confidence, one.name if several else ""))
                item.setData(qt.Qt.UserRole, (one.segment_id, index))
                ui.uncertainList.addItem(item)
        ui.uncertainList.visible = ui.uncertainList.count > 0

    def _goToProposed(self) -> None:
        if self._proposed is not None:
            self._onGoTo(*self._proposed)

    def _limit(self, *, first: bool) -> None:
        """Let the range begin, or end, with the shown slice."""
        if self._index is None:
            return
        ui = self.ui
        ui.rangeCheckBox.checked = True
        low, high = round(ui.rangeWidget.minimumValue), round(ui.rangeWidget.maximumValue)
        if first:
            ui.rangeWidget.setValues(self._index, max(high, self._index))
        else:
            ui.rangeWidget.setValues(min(low, self._index), self._index)
