"""Section *Correct a network's result* of the module's panel: any network, any image, corrected by painting."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from scribblesegment import list_weights
from scribblesegment.exceptions import MissingPackageError, ScribbleSegmentError, WeightsError
from scribblesegment.mrml.correction_result import corrections_of, source_of, volume_of

from .PackageInstaller import InstallationError, PackageInstaller
from .Panels import registerPanel
from .RefinementChoice import RefinementChoice, RefinementView
from .RefinementControl import RefinementControl
from .RefinementForm import RefinementForm
from .RefinementNetworks import RefinementNetworks, fileOf, nameOf
from .RefinementTalk import TalkState
from .RequiredPackages import Requirement
from .SharedInference import sharedInference

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
                showTalk=self._showTalk,
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

    def _showTalk(self, state: TalkState) -> None:
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
