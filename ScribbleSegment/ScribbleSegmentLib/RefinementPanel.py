"""Section *Correct a network's result* of the module's panel: any network, any image, corrected by painting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from scribblesegment import list_weights
from scribblesegment.errors import MissingPackageError, ScribbleSegmentError, WeightsError
from scribblesegment.mrml.corrections import ATTRIBUTE, Violation, corrections_of, source_of, volume_of

from .Inference import sharedInference
from .Packages import InstallationError, PackageInstaller, Requirement
from .RefinementLogic import NetworkList, RefinementLogic, RefinementOptions, fileOf, nameOf
from .RefinementText import formatG, formatIteration, formatMapping, formatViolation

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentRefinement.ui"

SLICE, VOLUME = 0, 1

_SUFFIXES = (".pt", ".pth", ".ts", ".pt2", ".ckpt", ".safetensors", ".py", ".zip")

# Pixels; longer ones scroll.
_TALLEST_TABLE, _TALLEST_LIST = 150, 90

_NARROWEST = 200

_PLOT_MARGIN, _SMALLEST_PLOT = 4, (160, 60)

_SEGMENTATION_EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
    slicer.vtkSegmentation.SourceRepresentationModified,
)


class RefinementPanel(VTKObservationMixin):
    """Widgets and signals; `RefinementLogic` does what they are for.

    While the module is not shown, it observes nothing but the scene's end. A network that runs when another module is
    shown goes on, and its result is written: the user may paint meanwhile.
    """

    def __init__(self) -> None:
        VTKObservationMixin.__init__(self)
        self.networks = NetworkList(qt.QSettings(), _ownNetworks)
        self._observed: Any = None
        self._entered = False
        self._quiet = False
        self._violations: tuple[Violation, ...] = ()

    def setup(self, layout) -> None:
        """Build the widgets; loads nothing."""
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self.widget.setMRMLScene(slicer.mrmlScene)
        layout.addWidget(self.widget)
        self.logic = logic = RefinementLogic(self)
        # Only segmentations that are a network's result.
        ui.refinementResultSelector.addAttribute("vtkMRMLSegmentationNode", ATTRIBUTE)
        for button, action in (
            (ui.runNetworkButton, logic.run),
            (ui.paintCorrectionsButton, logic.paint),
            (ui.refineButton, logic.refine),
            (ui.cancelRefinementButton, logic.cancel),
            (ui.undoRefinementButton, logic.undo),
            (ui.redoRefinementButton, logic.redo),
        ):
            button.connect("clicked()", lambda action=action: self._attempt(action))
        self._menu = qt.QMenu(ui.addNetworkButton)
        for text, action in (
            (_("Network file..."), self._addFile),
            (_("Folder (nnU-Net, MONAI bundle)..."), self._addFolder),
            (_("Remove from this list"), self.removeNetwork),
        ):
            self._menu.addAction(text).connect("triggered()", lambda action=action: self._attempt(action))
        ui.addNetworkButton.setMenu(self._menu)
        ui.correctedNetworkComboBox.connect("currentIndexChanged(int)", lambda index: self._aboutNetwork())
        ui.refinementVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onVolume)
        ui.refinementResultSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onResult)
        ui.newLabelsComboBox.connect("currentIndexChanged(int)", lambda index: self._follow())
        ui.violationsList.connect("itemClicked(QListWidgetItem*)", self._onViolation)
        ui.growingCheckBox.connect("toggled(bool)", lambda checked: setattr(ui.thresholdSpinBox, "enabled", checked))
        ui.correctionsTable.setEditTriggers(qt.QAbstractItemView.DoubleClicked | qt.QAbstractItemView.EditKeyPressed)
        ui.correctionsTable.connect("itemChanged(QTableWidgetItem*)", self._onRenamed)
        header = ui.correctionsTable.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
        header.setStretchLastSection(True)
        self._plot = _Plot(ui.refinementPlotLabel)
        self.showRunning(False)
        self.showViolations((), ())
        self.showIterations((), 0, 0)
        self._showMappings(())
        self._showNetworks("")
        self._aboutNetwork()
        self.say("")
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def enter(self) -> None:
        """Show the present state, and follow it."""
        self._entered = True
        self._showNetworks(self.source)
        self._showViews()
        slicer.app.layoutManager().connect("layoutChanged(int)", self._showViews)
        if self.volumeNode is None:
            self.chooseVolume(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"))
        self._follow()

    def exit(self) -> None:
        """Follow nothing any more."""
        if self._entered:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self._showViews)
        self._entered = False
        self._observe(None)

    def cleanup(self) -> None:
        """Leave nothing behind."""
        self.exit()
        self.logic.reset()
        self.removeObservers()

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
    def sliceNode(self):
        """The node of the slice view that gives slice and direction, or None."""
        name = str(self.ui.viewComboBox.currentText)
        widget = slicer.app.layoutManager().sliceWidget(name) if name else None
        return None if widget is None else widget.mrmlSliceNode()

    @property
    def device(self) -> str:
        """The device chosen for all networks: "auto" or a torch device name."""
        return sharedInference().state.device or "auto"

    @property
    def options(self) -> RefinementOptions:
        """What is set under *Advanced*."""
        ui = self.ui
        return RefinementOptions(
            layers=int(ui.layersSpinBox.value),
            iterations=int(ui.iterationsSpinBox.value),
            growing=bool(ui.growingCheckBox.checked),
            holding=bool(ui.holdCheckBox.checked),
            threshold=float(ui.thresholdSpinBox.value) or None,
            newLabels=ui.newLabelsComboBox.currentIndex == 0,
        )

    def chooseVolume(self, node) -> None:
        """Choose a volume, without the reaction to a choice of the user."""
        self._choose(self.ui.refinementVolumeSelector, node)

    def chooseResult(self, node) -> None:
        """Choose a result, without the reaction to a choice of the user."""
        self._choose(self.ui.refinementResultSelector, node)

    def addNetwork(self, source: str) -> None:
        """Add a network to the list and choose it, without asking."""
        self._showNetworks(self.networks.add(source).source)
        self._aboutNetwork()

    def removeNetwork(self) -> None:
        """Take the chosen network off the list."""
        self.networks.remove(self.source)
        self._showNetworks("")
        self._aboutNetwork()

    def _addFile(self) -> None:
        patterns = _("Network files ({patterns})").format(patterns=" ".join(f"*{suffix}" for suffix in _SUFFIXES))
        window, title = self.widget.window(), _("Add a network")
        file = qt.QFileDialog.getOpenFileName(window, title, "", patterns)
        if file and file.endswith(".py"):
            question = _("Name of the function in {file} that returns the network:").format(file=Path(file).name)
            function = qt.QInputDialog.getText(window, title, question)
            file = f"{file}:{function.strip()}" if function and function.strip() else ""
        if file:
            self.addNetwork(file)

    def _addFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget.window(), _("Add a network"))
        if folder:
            self.addNetwork(folder)

    # Reactions --------------------------------------------------------------------------------------------------

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ScribbleSegmentError as error:
            self.say(str(error), problem=True)
        self._showHistory()

    def _onVolume(self, node) -> None:
        if not self._quiet:
            self.say("")

    def _onResult(self, node) -> None:
        """Choose the volume and the network of the chosen result, if they are there."""
        if self._quiet:
            return
        source = source_of(self.resultNode)
        self.showViolations((), ())
        self.logic.history.follow(None if source is None else self.resultNode)
        self._showHistory()
        if source is not None:
            volume = volume_of(self.resultNode)
            if volume is not None:
                self.chooseVolume(volume)
            if self.networks.find(source.network) is None:
                self.say(
                    _("This result was made by {network}, which is not in the list. Add it to go on.").format(
                        network=nameOf(source.network)
                    )
                )
            elif source.network != self.source:
                self._showNetworks(source.network)
                self._aboutNetwork()
        self._follow()

    def _onViolation(self, item) -> None:
        row = self.ui.violationsList.row(item)
        if 0 <= row < len(self._violations):
            self._attempt(lambda: self.logic.goTo(self._violations[row]))

    def _onRenamed(self, item) -> None:
        """Give a painted segment the name that was typed, and so perhaps another label."""
        corrections = corrections_of(self.resultNode)
        if corrections is not None and item.text().strip():
            corrections.GetSegmentation().GetSegment(item.data(qt.Qt.UserRole)).SetName(item.text().strip())
        self._follow()

    def _onPainted(self, caller, event) -> None:
        self._follow()

    def _onSceneStartClose(self, caller, event) -> None:
        self._observe(None)
        self.logic.reset()
        self._showMappings(())
        self.showIterations((), 0, 0)
        self.say("")

    def _follow(self) -> None:
        """Show what is painted, and follow it while the module is shown."""
        node = self.resultNode
        self._showMappings(self.logic.mappings())
        self._observe(corrections_of(node) if self._entered and source_of(node) is not None else None)

    def _observe(self, node) -> None:
        if node is self._observed:
            return
        if self._observed is not None:
            self.removeObservers(self._onPainted)
        self._observed = node
        for event in _SEGMENTATION_EVENTS if node is not None else ():
            self.addObserver(node, event, self._onPainted)

    # What happens, shown for the logic --------------------------------------------------------------------------

    def say(self, text: str, *, problem: bool = False) -> None:
        """Write to the status line, in bold for a problem."""
        self.ui.refinementStatusLabel.setStyleSheet("font-weight: bold" if problem else "")
        self._setText(self.ui.refinementStatusLabel, text, self.widget.width)

    def ask(self, reason: str) -> bool:
        """Ask whether code that comes with a network may run."""
        question = _(
            "{reason}\n\nSuch code can do whatever you can do on this computer. Go on only if you trust where "
            "the network comes from."
        ).format(reason=reason)
        return bool(slicer.util.confirmOkCancelDisplay(question, _("Run the code of this network?")))

    def offerPackage(self, error: MissingPackageError) -> None:
        """Install what a network's format needs, if the user wants that."""
        question = _(
            "{problem}\n\nShall {package} be installed into Slicer now? It is downloaded with all that it needs "
            "itself, which can take several minutes."
        ).format(problem=str(error), package=error.package)
        if not slicer.util.confirmOkCancelDisplay(question, _("Install a Python package?")):
            return

        def show(text: str) -> None:
            self.say(text)
            slicer.app.processEvents()

        try:
            with slicer.util.WaitCursor():
                PackageInstaller().install([Requirement(error.package)], show)
        except InstallationError as problem:
            self.say(str(problem), problem=True)
            return
        self.say(_("{package} is installed. Try again.").format(package=error.package))

    def showRunning(self, running: bool) -> None:
        """Show whether something is computed."""
        ui = self.ui
        ui.cancelRefinementButton.enabled = running
        for widget in (ui.runNetworkButton, ui.refineButton, ui.correctedNetworkComboBox, ui.addNetworkButton):
            widget.enabled = not running
        ui.refinementProgressBar.visible = running
        if running:
            ui.refinementProgressBar.value = 0
        self._showHistory(running)

    def showProgress(self, fraction: float, text: str) -> None:
        """Show how much is done."""
        self.ui.refinementProgressBar.value = round(100 * fraction)
        self.ui.refinementProgressBar.format = text.replace("%", "%%") or "%p %"

    def showIterations(self, history: Sequence[float], number: int, most: int) -> None:
        """Show g so far: its values, none to show nothing; the number of the newest iteration; and of how many."""
        ui = self.ui
        ui.refinementPlotLabel.visible = ui.iterationLabel.visible = bool(history)
        if history:
            self._plot.show(history, most)
            ui.iterationLabel.text = formatIteration(number, most, history[-1])

    def showResult(self, node) -> None:
        """Show the segmentation that a result was written to."""
        self.chooseResult(node)
        self._follow()
        self._showHistory()

    def showViolations(self, violations: Sequence[Violation], names: Sequence[str]) -> None:
        """List what a result does not follow, with the names of all labels."""
        ui = self.ui
        self._violations = tuple(violations)
        ui.violationsList.clear()
        for violation in violations:
            ui.violationsList.addItem(formatViolation(violation, names))
        rowsHeight = sum(ui.violationsList.sizeHintForRow(row) for row in range(len(violations)))
        ui.violationsList.setFixedHeight(min(rowsHeight + 6, _TALLEST_LIST))
        ui.violationsList.visible = ui.violationsLabel.visible = bool(violations)

    def showNetwork(self, text: str) -> None:
        """Show what is known of the network."""
        ui = self.ui
        self._setText(ui.networkInfoLabel, text, ui.correctedNetworkComboBox.width + ui.addNetworkButton.width)

    # Widgets ----------------------------------------------------------------------------------------------------

    def _showNetworks(self, source: str) -> None:
        """List the networks with one of them chosen; for none, the one that the user has added last."""
        entries = self.networks.all()
        combo = self.ui.correctedNetworkComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        for entry in entries:
            combo.addItem(_("{name} (missing)").format(name=entry.name) if entry.missing else entry.name, entry.source)
            combo.setItemData(combo.count - 1, entry.source, qt.Qt.ToolTipRole)
        newest = next((entry.source for entry in entries if entry.added), "")
        combo.setCurrentIndex(combo.findData(source or newest))
        combo.blockSignals(wasBlocked)

    def _aboutNetwork(self) -> None:
        entry = self.networks.find(self.source) if self.source else None
        if entry is None:
            self.showNetwork(_("Add the network whose result you want to correct."))
        elif entry.missing:
            file = fileOf(entry.source)
            self.showNetwork(_("{file} is missing. Add the network from where it lies now.").format(file=file))
        else:
            own = _("An interactive network: its one label is the structure that you paint.")
            self.showNetwork("" if entry.added else own)

    def _showViews(self, layout: int = 0) -> None:
        """List the slice views of the layout, and keep the chosen one."""
        combo = self.ui.viewComboBox
        chosen = combo.currentText or "Red"
        combo.clear()
        combo.addItems(list(slicer.app.layoutManager().sliceViewNames()))
        combo.setCurrentIndex(max(combo.findText(chosen), 0))

    def _showMappings(self, rows) -> None:
        """Show what the painted segments stand for."""
        table = self.ui.correctionsTable
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate((row.name, formatMapping(row))):
                item = qt.QTableWidgetItem(text)
                item.setData(qt.Qt.UserRole, row.segment_id)
                renamed = qt.Qt.ItemIsEditable if column == 0 else qt.Qt.NoItemFlags
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | renamed)
                table.setItem(number, column, item)
        table.blockSignals(wasBlocked)
        table.resizeRowsToContents()
        rowsHeight = sum(table.rowHeight(row) for row in range(len(rows)))
        table.setFixedHeight(min(table.horizontalHeader().sizeHint.height() + rowsHeight + 4, _TALLEST_TABLE))
        table.visible = bool(rows)

    def _showHistory(self, running: bool | None = None) -> None:
        """Show whether a result can be taken back."""
        running = self.logic.running if running is None else running
        self.ui.undoRefinementButton.enabled = self.logic.history.can_undo and not running
        self.ui.redoRefinementButton.enabled = self.logic.history.can_redo and not running

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


class _Plot:
    """A curve that grows while numbers come in, drawn into a QLabel in the colours of its palette."""

    def __init__(self, label) -> None:
        self._label = label
        self._shown: tuple[tuple[float, ...], int, int, int] | None = None

    def show(self, history: Sequence[float], most: int) -> None:
        """Draw g of each iteration so far, up to the first that is not finite, on an axis of `most` iterations."""
        # The label itself has no width yet when it has just been shown.
        width = max(self._label.parentWidget().width, _SMALLEST_PLOT[0])
        height = max(self._label.minimumHeight, _SMALLEST_PLOT[1])
        wanted = (tuple(history), most, width, height)
        if wanted == self._shown:
            return
        self._shown = wanted
        pixmap = qt.QPixmap(width, height)
        palette = self._label.palette
        pixmap.fill(palette.color(qt.QPalette.Base))
        painter = qt.QPainter()
        painter.begin(pixmap)
        try:
            painter.setRenderHint(qt.QPainter.Antialiasing)
            self._draw(painter, list(takewhile(math.isfinite, history)), most, width, height, palette)
        finally:
            painter.end()
        self._label.setPixmap(pixmap)

    def _draw(self, painter, history: list[float], most: int, width: int, height: int, palette) -> None:
        text = painter.fontMetrics().height()
        left, right = _PLOT_MARGIN, width - _PLOT_MARGIN
        top, bottom = text + _PLOT_MARGIN, height - text - _PLOT_MARGIN
        painter.setPen(palette.color(qt.QPalette.Mid))
        painter.drawLine(left, bottom, right, bottom)
        painter.drawLine(left, top, left, bottom)
        painter.setPen(palette.color(qt.QPalette.Text))
        largest = max(history, default=0.0)
        painter.drawText(left + 3, text, f"g = {formatG(history[-1])}" if history else "g")
        painter.drawText(left, height - _PLOT_MARGIN, "0")
        painter.drawText(right - 7 * len(str(most)), height - _PLOT_MARGIN, str(most))
        if largest > 0:
            painter.drawText(right - 7 * len(formatG(largest)), text, formatG(largest))
        if not history:
            return
        pen = qt.QPen(palette.color(qt.QPalette.Highlight))
        pen.setWidth(2)
        painter.setPen(pen)
        scale = (bottom - top) / largest if largest > 0 else 0.0
        step = (right - left) / max(most, len(history) - 1, 1)
        points = [(round(left + number * step), round(bottom - g * scale)) for number, g in enumerate(history)]
        if len(points) == 1:
            points = [points[0], (points[0][0] + 2, points[0][1])]
        for (x0, y0), (x1, y1) in pairwise(points):
            painter.drawLine(x0, y0, x1, y1)


def _ownNetworks() -> list[str]:
    try:
        entries = list_weights()
    except WeightsError:
        # The section Network says so.
        return []
    inContext = {entry.in_context for entry in entries}
    return [entry.name for entry in entries if entry.path().is_file() and entry.name not in inContext]
