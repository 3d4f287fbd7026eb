"""The module's panel: its sections, and what they have to do with each other."""

from __future__ import annotations

from collections.abc import Callable

import ctk
import qt
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper

from scribblesegment.errors import WeightsError
from scribblesegment.inference.devices import torch_problem
from scribblesegment.service.service import ServiceState

from .DeviceSection import DeviceSection
from .Inference import rememberedSelection, sharedInference, startingSelection
from .NetworkChoices import ModelChoices, Selection, deviceNames
from .NetworkSection import NetworkSection
from .Packages import PackageInstaller, PackagesSection, RequiredPackages
from .RefinementPanel import RefinementPanel
from .SegmentEditorAccess import openSegmentEditor


class SampleDataSection:
    """Loads one of the extension's own sample volumes or of Slicer's."""

    def __init__(self, ui, say: Callable[[str], None]) -> None:
        """Use the widgets of a form; `say` is told what the user should know."""
        self._ui = ui
        self._say = say
        for label, name in (
            (_("Abdomen MR 1 (synthetic)"), "ScribbleSegmentMR1"),
            (_("Abdomen MR 2 (synthetic)"), "ScribbleSegmentMR2"),
            (_("Abdomen CT (synthetic)"), "ScribbleSegmentAbdomen"),
            (_("Chest CT"), "CTChest"),
            (_("Head MR"), "MRHead"),
        ):
            ui.sampleComboBox.addItem(label, name)
        ui.loadSampleButton.connect("clicked()", self.load)
        if not hasattr(slicer.modules, "sampledata"):
            reason = _("Slicer's module Sample Data is not available.")
            for widget in (ui.sampleComboBox, ui.loadSampleButton):
                widget.enabled = False
                widget.toolTip = reason

    def load(self) -> None:
        """Download and show the chosen volume; what was downloaded before is taken from Slicer's cache."""
        import SampleData

        name = self._ui.sampleComboBox.currentData
        self._say(_("Loading..."))
        slicer.app.processEvents()
        volumeNode = None
        with slicer.util.tryWithErrorDisplay(_("The sample data could not be loaded."), waitCursor=True):
            try:
                volumeNode = next(iter(SampleData.downloadSamples(name)), None)
            finally:
                self._say(
                    ""
                    if volumeNode is not None
                    else _("{name} could not be loaded. Check the internet connection.").format(name=name)
                )
        if volumeNode is not None:
            self._ui.volumeSelector.setCurrentNode(volumeNode)


@parameterNodeWrapper
class ScribbleSegmentParameterNode:
    """The choice that was made in this scene."""

    model: str = ""  # name of a network; empty for the user's last choice


# Each tick lends Python's global lock to the thread that loads the network.
_INTERVAL_MS = 20

_WAIT_SECONDS = 0.01


class ModulePanel:
    """Connects the sections with the scene's parameters and with the shared inference service.

    Nothing is loaded or installed until the user asks for it. While the module is not shown, it watches nothing.
    """

    def __init__(self, ui) -> None:
        """Use the widgets of `Resources/UI/ScribbleSegment.ui`, by name."""
        self._ui = ui
        self._models = ModelChoices()
        self._parameterNode: ScribbleSegmentParameterNode | None = None
        self._observation: int | None = None
        self._shownState: ServiceState | None = None
        self.network = NetworkSection(ui, self._models, lambda name: self._choose(Selection(model=name)))
        self.device = DeviceSection(ui, lambda name: self._choose(Selection(device=name)))
        self.packages = PackagesSection(ui, RequiredPackages(), PackageInstaller(), self._onInstalled)
        self.sampleData = SampleDataSection(ui, self._say)
        self.refinement = RefinementPanel()
        self._addSection(self.refinement)
        ui.openSegmentEditorButton.connect("clicked()", self._onOpenSegmentEditor)
        # Later, because the other selector does not know a new volume yet.
        ui.volumeSelector.connect(
            "currentNodeChanged(vtkMRMLNode*)", lambda node: qt.QTimer.singleShot(0, self._shareVolume)
        )
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.connect("timeout()", self._onTimer)

    # What the module's widget calls -----------------------------------------------------------------------------

    def setParameterNode(self, parameterNode: ScribbleSegmentParameterNode | None) -> None:
        """Use the parameters of the scene; None while the scene is closed."""
        if self._parameterNode is not None and self._observation is not None:
            self._parameterNode.RemoveObserver(self._observation)
        self._parameterNode, self._observation = parameterNode, None
        if parameterNode is not None:
            self._observation = parameterNode.AddObserver("ModifiedEvent", lambda caller, event: self._useSelection())
            self._useSelection()

    def enter(self) -> None:
        """The module is shown."""
        self.packages.refresh()
        self._say("")
        self._showState()
        if sharedInference().state.kind == "loading":
            self._timer.start()
        self.refinement.enter()

    def exit(self) -> None:
        """Another module is shown."""
        self._timer.stop()
        self.refinement.exit()

    def cleanup(self) -> None:
        """Leave nothing behind."""
        self.exit()
        self.setParameterNode(None)
        self.network.cleanup()
        self.device.cleanup()
        self.refinement.cleanup()

    # Choices ----------------------------------------------------------------------------------------------------

    @property
    def selection(self) -> Selection:
        """What is used: the scene's choice as far as it exists here, else the user's last one, else the default."""
        node = self._parameterNode
        chosen = Selection() if node is None else Selection(node.model)  # the device is the computer's
        return chosen.restrictedTo(self._modelNames(), deviceNames()).completedBy(startingSelection())

    def _choose(self, change: Selection) -> None:
        """Take the user's choice, and load the network so that the user sees at once whether it works."""
        selection = change.completedBy(self.selection)
        remembered = rememberedSelection()
        remembered.save(change.completedBy(remembered.load()))  # only what was chosen: defaults may change
        if self._parameterNode is not None and change.model:
            self._parameterNode.model = change.model
        sharedInference().choose(selection.model, selection.device)
        self._load()

    def _useSelection(self) -> None:
        """Bring widgets and inference in line with the parameters; loads nothing."""
        selection = self.selection
        sharedInference().choose(selection.model, selection.device)
        self.network.showModels(selection.model)
        self.device.showDevice(selection.device)
        self._showState()

    def _modelNames(self) -> list[str]:
        try:
            return [choice.name for choice in self._models.all()]
        except WeightsError:
            # The section that lists them says so.
            return []

    # State ------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        sharedInference().prepare()
        self._timer.start()
        self._showState()

    def _onInstalled(self) -> None:
        torch_problem.cache_clear()
        sharedInference().retry()
        self._load()

    def _onTimer(self) -> None:
        sharedInference().wait(_WAIT_SECONDS)
        self._showState()
        if sharedInference().state.kind in ("ready", "failed"):
            self._timer.stop()

    def _showState(self) -> None:
        self.network.showState(sharedInference().state)

    # Segment Editor, and further sections -----------------------------------------------------------------------

    def _shareVolume(self) -> None:
        """Take the chosen volume for the correction, too, where none is chosen."""
        if self.refinement.volumeNode is None:
            self.refinement.chooseVolume(self._ui.volumeSelector.currentNode())

    def _onOpenSegmentEditor(self) -> None:
        self._say(openSegmentEditor(self._ui.volumeSelector.currentNode()))

    def _say(self, text: str) -> None:
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def _addSection(self, panel: RefinementPanel) -> None:
        section = ctk.ctkCollapsibleButton()
        section.text = _("Correct a network's result")
        section.collapsed = True
        layout = qt.QVBoxLayout(section)
        panel.setup(layout)
        self._ui.panelsFrame.layout().addWidget(section)
