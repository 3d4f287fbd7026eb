"""The section *Propagate* of the effect's options: widgets only."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.mrml.propagation_report import PropagationReport
from scribblesegment.propagation_request import PropagationProgress

from .PropagationWords import acceptedInWords, certaintyInWords, goToInWords

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

    def showProgress(self, progress: PropagationProgress | None) -> None:
        """Show how far a propagation is; None when none is under way."""
        ui = self.ui
        running = progress is not None
        ui.cancelButton.enabled = running
        ui.propagateButton.enabled = not running and self._index is not None
        ui.progressFrame.visible = running
        if progress is None:
            return
        ui.progressBar.value = round(100 * progress.part)
        ui.speedLabel.text = _("{count} slices, {speed} per second").format(
            count=progress.made, speed=f"{progress.slices_per_second:.1f}"
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
