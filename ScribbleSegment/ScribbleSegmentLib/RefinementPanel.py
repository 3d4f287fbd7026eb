"""Section *Correct a network's result* of the module's panel: any network, any image, corrected by painting."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from scribblesegment import list_weights
from scribblesegment.errors import MissingPackageError, ScribbleSegmentError, WeightsError
from scribblesegment.mrml.corrections import ATTRIBUTE, SegmentMeaning, Violation, corrections_of, source_of, volume_of

from .Inference import sharedInference
from .Packages import InstallationError, PackageInstaller, Requirement
from .RefinementLogic import RefinementChoice, RefinementControl, RefinementOptions, RefinementProgress, RefinementView
from .RefinementText import gInWords, iterationInWords, meaningInWords, violationInWords
from .Widget import registerPanel

_KEY = "ScribbleSegment/CorrectedNetworks"


@dataclass(frozen=True)
class NetworkEntry:
    """A network to choose.

    Attributes:
        source: What it is loaded from: a path, `file.py:function`, or the name of one of the extension's own.
        name: As it is listed.
        added: Whether the user has added it, and can remove it.
        missing: Whether its file or folder has vanished.
    """

    source: str
    name: str
    added: bool
    missing: bool = False


class RefinementNetworks:
    """Remembers where added networks lie. Their files stay where they are: a trained-model folder may be large."""

    def __init__(
        self,
        read: Callable[[str], object],
        write: Callable[[str, str], None],
        own: Callable[[], list[str]],
    ) -> None:
        """Use a store of settings.

        Args:
            read: Gives the value of a key, or None.
            write: Sets it.
            own: Gives the names of the extension's own networks.
        """
        self._read = read
        self._write = write
        self._own = own

    def all(self) -> list[NetworkEntry]:
        """List them: those that were added, the newest first, then the extension's own."""
        added = [
            NetworkEntry(source, nameOf(source), added=True, missing=not fileOf(source).exists())
            for source in self._added()
        ]
        return [*added, *(NetworkEntry(name, name, added=False) for name in self._own())]

    def find(self, source: str) -> NetworkEntry | None:
        """Give the one that is loaded from somewhere, or None."""
        return next((entry for entry in self.all() if entry.source == source), None)

    def add(self, source: str) -> NetworkEntry:
        """Remember one; one that is known already becomes the newest."""
        path, function = _split(source)
        source = str(Path(path).expanduser().absolute()) + (f":{function}" if function else "")
        self._save([source, *(other for other in self._added() if other != source)])
        return NetworkEntry(source, nameOf(source), added=True, missing=not fileOf(source).exists())

    def remove(self, source: str) -> None:
        """Forget one; its file stays."""
        self._save([other for other in self._added() if other != source])

    def _added(self) -> list[str]:
        value = self._read(_KEY)
        try:
            stored = json.loads(value) if isinstance(value, str) else []
        except ValueError:
            return []
        return [one for one in stored if isinstance(one, str) and one] if isinstance(stored, list) else []

    def _save(self, sources: list[str]) -> None:
        self._write(_KEY, json.dumps(sources))


def nameOf(source: str) -> str:
    """Give a network's name in the list, from where it lies."""
    path, function = _split(source)
    file = Path(path)
    if function:
        return f"{file.stem}:{function}"
    # nnU-Net calls the folders of one data set by trainer, plans and configuration.
    parts = [file.parent.name, file.name] if file.name.count("__") >= 2 else [file.name]
    return " / ".join(part for part in parts if part) or source


def fileOf(source: str) -> Path:
    """Give the file or folder of a network."""
    return Path(_split(source)[0])


def _split(source: str) -> tuple[str, str]:
    """Take the function off `file.py:function`; a drive's colon is none."""
    path, colon, function = source.rpartition(":")
    return (path, function) if colon and path.endswith(".py") else (source, "")


_MARGIN = 4

_SMALLEST = (160, 60)


class RefinementPlot:
    """Shows a curve that grows while numbers come in."""

    def __init__(self, label) -> None:
        """Draw into this QLabel, in the colours of its palette."""
        self._label = label
        self._shown: tuple[tuple[float, ...], int, int, int] | None = None

    def show(self, history: Sequence[float], most: int) -> None:
        """Draw the curve.

        Args:
            history: g of each iteration so far; values that are not finite end the curve.
            most: How many iterations there may be: the width of the axis.
        """
        # The label itself has no width yet when it has just been shown.
        width = max(self._label.parentWidget().width, _SMALLEST[0])
        height = max(self._label.minimumHeight, _SMALLEST[1])
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
            self._draw(painter, _finite(history), most, width, height, palette)
        finally:
            painter.end()
        self._label.setPixmap(pixmap)

    def _draw(self, painter, history: list[float], most: int, width: int, height: int, palette) -> None:
        text = painter.fontMetrics().height()
        left, right, top, bottom = _MARGIN, width - _MARGIN, text + _MARGIN, height - text - _MARGIN
        painter.setPen(palette.color(qt.QPalette.Mid))
        painter.drawLine(left, bottom, right, bottom)
        painter.drawLine(left, top, left, bottom)
        painter.setPen(palette.color(qt.QPalette.Text))
        largest = max(history, default=0.0)
        painter.drawText(left + 3, text, f"g = {gInWords(history[-1])}" if history else "g")
        painter.drawText(left, height - _MARGIN, "0")
        end = str(most)
        painter.drawText(right - 7 * len(end), height - _MARGIN, end)
        if largest > 0:
            top_text = gInWords(largest)
            painter.drawText(right - 7 * len(top_text), text, top_text)
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


def _finite(history: Sequence[float]) -> list[float]:
    numbers: list[float] = []
    for g in history:
        if not math.isfinite(g):
            break
        numbers.append(g)
    return numbers


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


_SUFFIXES = (".pt", ".pth", ".ts", ".pt2", ".ckpt", ".safetensors", ".py", ".zip")


_SEGMENTATION_EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
    slicer.vtkSegmentation.SourceRepresentationModified,
)


@registerPanel(order=20)
class RefinementPanel(VTKObservationMixin):
    """Connects the form with what it does. While the module is not shown, it watches nothing but the scene's end.

    A network that runs when another module is shown goes on, and its result is written: the user may paint meanwhile.
    """

    def __init__(self) -> None:
        VTKObservationMixin.__init__(self)
        settings = qt.QSettings()
        self.networks = RefinementNetworks(settings.value, settings.setValue, _ownNetworks)
        self._watched = None
        self._entered = False
        self._most = 0

    @property
    def title(self) -> str:
        """Its headline."""
        return _("Correct a network's result")

    def setup(self, layout) -> None:
        """Build the widgets; loads nothing."""
        self.form = RefinementForm(self._onAction, self._onChosen)
        layout.addWidget(self.form.widget)
        self.control = RefinementControl(
            RefinementView(
                say=self.form.say,
                showProgress=self._showProgress,
                showRunning=self._showRunning,
                showResult=self._showResult,
                showViolations=self.form.showViolations,
                showNetwork=self.form.showNetwork,
                ask=self._ask,
                offerPackage=self._offerPackage,
            )
        )
        self._showNetworks("")
        self._onChosen("network")
        self.form.say("")
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def enter(self) -> None:
        """Show how things stand, and follow them."""
        self._entered = True
        self._showNetworks(self.form.source)
        self.form.showViews(slicer.app.layoutManager().sliceViewNames())
        slicer.app.layoutManager().connect("layoutChanged(int)", self._onLayoutChanged)
        if self.form.volumeNode is None:
            self.form.chooseVolume(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"))
        self._follow()

    def exit(self) -> None:
        """Follow nothing any more."""
        if self._entered:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self._onLayoutChanged)
        self._entered = False
        self._watch(None)

    def cleanup(self) -> None:
        """Leave nothing behind."""
        self.exit()
        self.control.forget()
        self.removeObservers()

    # What the user does -----------------------------------------------------------------------------------------

    def addNetwork(self, source: str) -> None:
        """Add a network to the list and choose it, without asking."""
        entry = self.networks.add(source)
        self._showNetworks(entry.source)
        self._onChosen("network")

    def _onAction(self, action: str) -> None:
        try:
            self._act(action)
        except ScribbleSegmentError as error:
            self.form.say(str(error), problem=True)
        self._showHistory()

    def _act(self, action: str) -> None:
        control, form = self.control, self.form
        if action in ("run", "refine", "paint"):
            getattr(control, action)(self._choice())
        elif action in ("cancel", "undo", "redo"):
            getattr(control, action)()
        elif action == "violation" and form.clickedViolation is not None:
            control.goTo(form.clickedViolation)
        elif action == "addFile":
            self._addFile()
        elif action == "addFolder":
            folder = qt.QFileDialog.getExistingDirectory(form.widget.window(), _("Add a network"))
            if folder:
                self.addNetwork(folder)
        elif action == "removeNetwork":
            self.networks.remove(form.source)
            self._showNetworks("")
            self._onChosen("network")

    def _addFile(self) -> None:
        patterns = " ".join(f"*{suffix}" for suffix in _SUFFIXES)
        file = qt.QFileDialog.getOpenFileName(
            self.form.widget.window(),
            _("Add a network"),
            "",
            _("Network files ({patterns})").format(patterns=patterns),
        )
        if file and file.endswith(".py"):
            function = qt.QInputDialog.getText(
                self.form.widget.window(),
                _("Add a network"),
                _("Name of the function in {file} that returns the network:").format(file=Path(file).name),
            )
            file = f"{file}:{function.strip()}" if function and function.strip() else ""
        if file:
            self.addNetwork(file)

    def _onChosen(self, what: str) -> None:
        if what == "network":
            self.form.showNetwork(self._aboutNetwork())
        elif what == "result":
            self._showResultsOwn()
        if what in ("result", "newLabels"):
            self._follow()
        elif what == "volume":
            self.form.say("")

    def _ask(self, reason: str) -> bool:
        """Ask whether code that comes with a network may run."""
        return bool(
            slicer.util.confirmOkCancelDisplay(
                _(
                    "{reason}\n\nSuch code can do whatever you can do on this computer. Go on only if you trust where "
                    "the network comes from."
                ).format(reason=reason),
                _("Run the code of this network?"),
            )
        )

    def _offerPackage(self, error: MissingPackageError) -> None:
        """Install what a network's format needs, if the user wants that."""
        question = _(
            "{problem}\n\nShall {package} be installed into Slicer now? It is downloaded with all that it needs "
            "itself, which can take several minutes."
        ).format(problem=str(error), package=error.package)
        if not slicer.util.confirmOkCancelDisplay(question, _("Install a Python package?")):
            return
        try:
            with slicer.util.WaitCursor():
                PackageInstaller().install([Requirement(error.package)], self._showInstalling)
        except InstallationError as problem:
            self.form.say(str(problem), problem=True)
            return
        self.form.say(_("{package} is installed. Try again.").format(package=error.package))

    def _showInstalling(self, text: str) -> None:
        self.form.say(text)
        slicer.app.processEvents()

    # How things stand -------------------------------------------------------------------------------------------

    def _choice(self) -> RefinementChoice:
        form = self.form
        layout = slicer.app.layoutManager()
        widget = layout.sliceWidget(form.viewName) if form.viewName else None
        self._most = form.options.iterations
        return RefinementChoice(
            form.source,
            form.volumeNode,
            form.resultNode,
            form.wantsSlice,
            None if widget is None else widget.mrmlSliceNode(),
            sharedInference().state.device or "auto",
            form.options,
        )

    def _showNetworks(self, source: str) -> None:
        """List the networks with one of them chosen; for none, the one that the user has added last."""
        entries = self.networks.all()
        newest = next((entry.source for entry in entries if entry.added), "")
        self.form.showNetworks(entries, source or newest)

    def _aboutNetwork(self) -> str:
        source = self.form.source
        entry = self.networks.find(source) if source else None
        if entry is None:
            return _("Add the network whose result you want to correct.")
        if entry.missing:
            return _("{file} is missing. Add the network from where it lies now.").format(file=fileOf(source))
        return "" if entry.added else _("An interactive network: its one label is the structure that you paint.")

    def _showResultsOwn(self) -> None:
        """Choose the volume and the network of the chosen result, if they are there."""
        node = self.form.resultNode
        source = source_of(node)
        self.form.showViolations((), ())
        self.control.history.follow(None if source is None else node)
        self._showHistory()
        if source is None:
            return
        if volume_of(node) is not None:
            self.form.chooseVolume(volume_of(node))
        if self.networks.find(source.network) is None:
            self.form.say(
                _("This result was made by {network}, which is not in the list. Add it to go on.").format(
                    network=nameOf(source.network)
                )
            )
        elif source.network != self.form.source:
            self._showNetworks(source.network)
            self.form.showNetwork(self._aboutNetwork())

    def _showResult(self, node) -> None:
        self.form.chooseResult(node)
        self._follow()
        self._showHistory()

    def _showProgress(self, state: RefinementProgress) -> None:
        self.form.showProgress(state.part, state.text)
        self.form.showIterations(state.history, state.iteration, self._most)

    def _showRunning(self, running: bool) -> None:
        self.form.showRunning(running)
        self._showHistory()

    def _showHistory(self) -> None:
        self.form.showHistory(self.control.history.can_undo, self.control.history.can_redo)

    # What is followed -------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Show what is painted, and follow it while the module is shown."""
        node = self.form.resultNode
        self.form.showMeanings(self.control.meanings(node, self.form.options.newLabels))
        self._watch(corrections_of(node) if self._entered and source_of(node) is not None else None)

    def _watch(self, node) -> None:
        if node is self._watched:
            return
        if self._watched is not None:
            self.removeObservers(self._onPainted)
        self._watched = node
        for event in _SEGMENTATION_EVENTS if node is not None else ():
            self.addObserver(node, event, self._onPainted)

    def _onPainted(self, caller, event) -> None:
        self._follow()

    def _onLayoutChanged(self, layout) -> None:
        self.form.showViews(slicer.app.layoutManager().sliceViewNames())

    def _onSceneStartClose(self, caller, event) -> None:
        self._watch(None)
        self.control.forget()
        self.form.showMeanings(())
        self.form.showIterations((), 0, 0)
        self.form.say("")


def _ownNetworks() -> list[str]:
    try:
        entries = list_weights()
    except WeightsError:
        # The section Network says so.
        return []
    inContext = {entry.in_context for entry in entries}
    return [entry.name for entry in entries if entry.name not in inContext]
