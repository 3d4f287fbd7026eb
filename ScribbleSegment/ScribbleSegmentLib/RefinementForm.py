"""The widgets of the section *Correct a network's result*, and nothing that they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.mrml.correction_labels import SegmentMeaning
from scribblesegment.mrml.correction_result import ATTRIBUTE
from scribblesegment.mrml.correction_scribbles import Violation

from .RefinementNetworks import NetworkEntry
from .RefinementPlot import RefinementPlot
from .RefinementWords import iterationInWords, meaningInWords, violationInWords
from .RefinementWork import RefinementOptions

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentRefinement.ui"

SLICE, VOLUME = 0, 1

# Pixels; longer ones scroll.
_TALLEST_TABLE, _TALLEST_LIST = 150, 90
_NARROWEST = 200


class RefinementForm:
    """Shows how things stand, and tells what the user wants.

    Attributes:
        widget: The QWidget to add to the panel.
        ui: The named widgets of the .ui file.
    """

    def __init__(self, onAction: Callable[[str], None], onChosen: Callable[[str], None]) -> None:
        """Build the widgets.

        Args:
            onAction: Called with the name of what the user pressed: "run", "paint", "refine", "cancel", "undo",
                "redo", "addFile", "addFolder", "removeNetwork", or "violation" after one of them was clicked.
            onChosen: Called with what the user has chosen anew: "network", "volume", "result" or "newLabels".
        """
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self.widget.setMRMLScene(slicer.mrmlScene)
        # Only segmentations that are a network's result.
        ui.refinementResultSelector.addAttribute("vtkMRMLSegmentationNode", ATTRIBUTE)
        self._plot = RefinementPlot(ui.refinementPlotLabel)
        self._violations: tuple[Violation, ...] = ()
        self.clickedViolation: Violation | None = None
        self._running = False
        self._history = (False, False)
        self._tell, self._tellChosen = onAction, onChosen
        self._quiet = False
        for button, action in (
            (ui.runNetworkButton, "run"),
            (ui.paintCorrectionsButton, "paint"),
            (ui.refineButton, "refine"),
            (ui.cancelRefinementButton, "cancel"),
            (ui.undoRefinementButton, "undo"),
            (ui.redoRefinementButton, "redo"),
        ):
            button.connect("clicked()", lambda action=action: onAction(action))
        self._menu = qt.QMenu(ui.addNetworkButton)
        for text, action in (
            (_("Network file..."), "addFile"),
            (_("Folder (nnU-Net, MONAI bundle)..."), "addFolder"),
            (_("Remove from this list"), "removeNetwork"),
        ):
            self._menu.addAction(text).connect("triggered()", lambda action=action: onAction(action))
        ui.addNetworkButton.setMenu(self._menu)
        ui.correctedNetworkComboBox.connect("currentIndexChanged(int)", lambda index: onChosen("network"))
        ui.refinementVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._onNode("volume"))
        ui.refinementResultSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._onNode("result"))
        ui.newLabelsComboBox.connect("currentIndexChanged(int)", lambda index: onChosen("newLabels"))
        ui.violationsList.connect("itemClicked(QListWidgetItem*)", self._onViolation)
        ui.growingCheckBox.connect("toggled(bool)", lambda checked: setattr(ui.thresholdSpinBox, "enabled", checked))
        header = ui.correctionsTable.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
        header.setStretchLastSection(True)
        self.showRunning(False)
        self.showMeanings(())
        self.showViolations((), ())
        self.showIterations((), 0, 0)

    # What the user has chosen -----------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """What the chosen network is loaded from; empty for none."""
        return str(self.ui.correctedNetworkComboBox.currentData or "")

    @property
    def volumeNode(self):
        """The chosen volume, or None."""
        return self.ui.refinementVolumeSelector.currentNode()

    @property
    def resultNode(self):
        """The chosen result, or None."""
        return self.ui.refinementResultSelector.currentNode()

    @property
    def wantsSlice(self) -> bool:
        """Whether only the shown slice is worked on."""
        return self.ui.scopeComboBox.currentIndex == SLICE

    @property
    def viewName(self) -> str:
        """Name of the slice view that gives slice and direction; empty for none."""
        return str(self.ui.viewComboBox.currentText)

    @property
    def options(self) -> RefinementOptions:
        """What is set under *Advanced*."""
        ui = self.ui
        threshold = float(ui.thresholdSpinBox.value)
        return RefinementOptions(
            layers=int(ui.layersSpinBox.value),
            iterations=int(ui.iterationsSpinBox.value),
            growing=bool(ui.growingCheckBox.checked),
            holding=bool(ui.holdCheckBox.checked),
            threshold=threshold or None,
            newLabels=ui.newLabelsComboBox.currentIndex == 0,
        )

    # How things stand -------------------------------------------------------------------------------------------

    def showNetworks(self, entries: Sequence[NetworkEntry], source: str) -> None:
        """List the networks with one of them chosen, without telling anyone."""
        combo = self.ui.correctedNetworkComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        for entry in entries:
            combo.addItem(_("{name} (missing)").format(name=entry.name) if entry.missing else entry.name, entry.source)
            combo.setItemData(combo.count - 1, entry.source, qt.Qt.ToolTipRole)
        combo.setCurrentIndex(combo.findData(source))
        combo.blockSignals(wasBlocked)

    def showViews(self, names: Sequence[str]) -> None:
        """List the slice views of the layout, and keep the chosen one."""
        combo = self.ui.viewComboBox
        chosen = combo.currentText or "Red"
        combo.clear()
        combo.addItems(list(names))
        combo.setCurrentIndex(max(combo.findText(chosen), 0))

    def chooseVolume(self, node) -> None:
        """Choose a volume, without telling anyone."""
        self._choose(self.ui.refinementVolumeSelector, node)

    def chooseResult(self, node) -> None:
        """Choose a result, without telling anyone."""
        self._choose(self.ui.refinementResultSelector, node)

    def showMeanings(self, rows: Sequence[SegmentMeaning]) -> None:
        """Show what the painted segments stand for."""
        table = self.ui.correctionsTable
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate((row.name, meaningInWords(row))):
                item = qt.QTableWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                table.setItem(number, column, item)
        table.resizeRowsToContents()
        rowsHeight = sum(table.rowHeight(row) for row in range(len(rows)))
        table.setFixedHeight(min(table.horizontalHeader().sizeHint.height() + rowsHeight + 4, _TALLEST_TABLE))
        table.visible = bool(rows)

    def showRunning(self, running: bool) -> None:
        """Show whether something is computed."""
        ui = self.ui
        self._running = running
        ui.cancelRefinementButton.enabled = running
        for widget in (ui.runNetworkButton, ui.refineButton, ui.correctedNetworkComboBox, ui.addNetworkButton):
            widget.enabled = not running
        ui.refinementProgressBar.visible = running
        if running:
            ui.refinementProgressBar.value = 0
        self.showHistory(*self._history)

    def showProgress(self, part: float, text: str) -> None:
        """Show how much is done."""
        self.ui.refinementProgressBar.value = round(100 * part)
        self.ui.refinementProgressBar.format = text.replace("%", "%%") or "%p %"

    def showHistory(self, canUndo: bool, canRedo: bool) -> None:
        """Show whether a result can be taken back."""
        self._history = (canUndo, canRedo)
        self.ui.undoRefinementButton.enabled = canUndo and not self._running
        self.ui.redoRefinementButton.enabled = canRedo and not self._running

    def showIterations(self, history: Sequence[float], number: int, most: int) -> None:
        """Show g so far.

        Args:
            history: Its values; empty for nothing to show.
            number: Of the newest iteration.
            most: How many there may be.
        """
        ui = self.ui
        ui.refinementPlotLabel.visible = ui.iterationLabel.visible = bool(history)
        if history:
            self._plot.show(history, most)
            ui.iterationLabel.text = iterationInWords(number, most, history[-1])

    def showViolations(self, violations: Sequence[Violation], names: Sequence[str]) -> None:
        """List what a result does not follow."""
        ui = self.ui
        self._violations = tuple(violations)
        ui.violationsList.clear()
        for violation in violations:
            ui.violationsList.addItem(violationInWords(violation, names))
        rowsHeight = sum(ui.violationsList.sizeHintForRow(row) for row in range(len(violations)))
        ui.violationsList.setFixedHeight(min(rowsHeight + 6, _TALLEST_LIST))
        ui.violationsList.visible = ui.violationsLabel.visible = bool(violations)

    def showNetwork(self, text: str) -> None:
        """Say what is known of the network."""
        ui = self.ui
        self._setText(ui.networkInfoLabel, text, ui.correctedNetworkComboBox.width + ui.addNetworkButton.width)

    def say(self, text: str, *, problem: bool = False) -> None:
        """Tell the user something."""
        self.ui.refinementStatusLabel.setStyleSheet("font-weight: bold" if problem else "")
        self._setText(self.ui.refinementStatusLabel, text, self.widget.width)

    def _setText(self, label, text: str, width: int) -> None:
        """Show a text of several lines in full; layouts do not ask labels how tall they become."""
        label.text = text
        label.visible = bool(text)
        label.minimumHeight = label.heightForWidth(max(width, _NARROWEST)) if text else 0

    def _choose(self, selector, node) -> None:
        # Blocking its signals would keep the selector from noticing the next change.
        self._quiet, wasQuiet = True, self._quiet
        try:
            selector.setCurrentNode(node)
        finally:
            self._quiet = wasQuiet

    def _onNode(self, what: str) -> None:
        if not self._quiet:
            self._tellChosen(what)

    def _onViolation(self, item) -> None:
        row = self.ui.violationsList.row(item)
        self.clickedViolation = self._violations[row] if 0 <= row < len(self._violations) else None
        self._tell("violation")
