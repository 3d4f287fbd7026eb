"""Section *Sample data* of the module's panel: an image to try the effect on."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _


class SampleDataSection:
    """Loads one of Slicer's own sample volumes."""

    def __init__(self, ui, onLoaded: Callable[[slicer.vtkMRMLScalarVolumeNode], None]) -> None:
        """Use the widgets of a form.

        Args:
            ui: Its widgets by name.
            onLoaded: Given the volume that was loaded.
        """
        self._ui = ui
        self._onLoaded = onLoaded
        for label, name in ((_("CT of a chest"), "CTChest"), (_("MR of a head"), "MRHead")):
            ui.sampleComboBox.addItem(label, name)
        ui.loadSampleButton.connect("clicked()", self.load)
        self._say("")
        if not hasattr(slicer.modules, "sampledata"):
            reason = _("Slicer's module Sample Data is not available.")
            for widget in (ui.sampleComboBox, ui.loadSampleButton):
                widget.enabled = False
                widget.toolTip = reason
            self._say(reason)

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
            self._onLoaded(volumeNode)

    def _say(self, text: str) -> None:
        self._ui.sampleLabel.text = text
        self._ui.sampleLabel.visible = bool(text)
