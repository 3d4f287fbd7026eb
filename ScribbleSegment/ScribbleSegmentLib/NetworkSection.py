"""Section *Network* of the module's panel: which network is used, under what licence, and how it is doing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.errors import WeightsError
from scribblesegment.service.service import ServiceState, explain
from scribblesegment.service.worker import Task

from .Inference import BackgroundJob
from .NetworkChoices import FILE_SUFFIXES, ModelChoice, ModelChoices

_PROGRESS_MS = 200
_SPDX = re.compile(r"[A-Za-z]+(-[A-Za-z0-9.]+)+")


class NetworkSection:
    """Shows the networks to choose from, downloads published ones, and adds one from a file."""

    def __init__(self, ui, models: ModelChoices, onChosen: Callable[[str], None]) -> None:
        """Use the widgets of a form.

        Args:
            ui: Its widgets by name.
            models: The networks.
            onChosen: Told the name of the network that the user chose.
        """
        self._ui = ui
        self._models = models
        self._onChosen = onChosen
        self._import = BackgroundJob("ScribbleSegment import")
        self._download = BackgroundJob("ScribbleSegment download")
        self._downloading: Task[ModelChoice] | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_PROGRESS_MS)
        self._timer.connect("timeout()", self._showProgress)
        # What the user tried in vain; it stays on show until the next try or choice.
        self._problem = ""
        ui.modelComboBox.connect("currentIndexChanged(int)", self._onIndexChanged)
        ui.addModelButton.connect("clicked()", self._onAdd)
        ui.downloadModelButton.connect("clicked()", self._onDownload)

    def cleanup(self) -> None:
        """Leave nothing behind."""
        self._timer.stop()
        self._import.cancel()
        self._download.cancel()

    def showModels(self, name: str) -> None:
        """List the networks, with one of them selected."""
        combo = self._ui.modelComboBox
        try:
            choices = self._models.all()
        except WeightsError as error:
            self._problem = str(error)
            return
        combo.blockSignals(True)
        combo.clear()
        for choice in choices:
            combo.addItem(choice.name, choice.name)
            combo.setItemData(combo.count - 1, choice.info.description, qt.Qt.ToolTipRole)
        combo.setCurrentIndex(combo.findData(name))
        combo.blockSignals(False)
        self._showLicence()

    def showState(self, state: ServiceState) -> None:
        """Say in words where inference stands."""
        if state.kind == "idle":
            text = _("Not loaded yet. It is loaded when it is first used.")
        elif state.kind == "loading":
            text = _("Loading...")
        elif state.kind == "ready":
            where = _("Ready on {device}.").format(device=_deviceInWords(state.device))
            speed = (
                ""
                if state.milliseconds is None
                else " " + _("A prediction takes {ms} ms.").format(ms=max(1, round(state.milliseconds)))
            )
            text = " ".join(part for part in (where + speed, state.message) if part)
        else:
            text = state.message
        self._ui.networkStateLabel.text = "\n".join(part for part in (self._problem, text) if part)

    def _showLicence(self) -> None:
        choice = self._models.find(self._ui.modelComboBox.currentData or "")
        parts = [] if choice is None else [_licenceInWords(choice.licence, linked=True)]
        if choice is not None and choice.info.embedded:
            parts.append(_("It comes with the extension."))
        if choice is not None and choice.missing:
            parts = [_("Its file is missing. Install the extension again, or choose another network.")]
        if choice is not None and choice.downloadMegabytes:
            parts.append(_("Press 'Download...' to get it ({size} MB).").format(size=choice.downloadMegabytes))
        if choice is not None and choice.sha256:
            parts.append(_("SHA-256: {digest}.").format(digest=choice.sha256))
        self._ui.licenceLabel.text = " ".join(parts)
        if self._downloading is None:
            self._ui.downloadModelButton.enabled = choice is not None and choice.downloadMegabytes > 0

    def _onIndexChanged(self, index: int) -> None:
        self._problem = ""
        self._showLicence()
        name = self._ui.modelComboBox.currentData
        if name:
            self._onChosen(name)

    def _onAdd(self) -> None:
        patterns = " ".join(f"*{suffix}" for suffix in FILE_SUFFIXES)
        file = qt.QFileDialog.getOpenFileName(
            self._ui.addModelButton.window(),
            _("Add a network"),
            "",
            _("Network files ({patterns})").format(patterns=patterns),
        )
        if not file or not slicer.util.confirmOkCancelDisplay(self._question(file), _("Add a network")):
            return
        self.addFile(file)

    def _onDownload(self) -> None:
        if self._downloading is not None:
            self._downloading.cancel()
            return
        choice = self._models.find(self._ui.modelComboBox.currentData or "")
        if choice is None or not choice.downloadMegabytes:
            return
        question = _(
            "{name} by {authors} ({size} MB) is downloaded to the folder {folder}.\n\n{licence}\n\nUse it only as its "
            "licence permits, and cite: {citation}"
        ).format(
            name=choice.name,
            authors=choice.info.authors,
            size=choice.downloadMegabytes,
            folder=self._models.folder,
            licence=_licenceInWords(choice.licence),
            citation=choice.info.citation,
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Download a network")):
            self.download(choice.name)

    def download(self, name: str) -> None:
        """Download a published network, without asking; pressing the button again cancels."""
        self._problem = ""
        self._ui.downloadModelButton.text = _("Cancel download")
        self._downloading = self._download.start(lambda task: self._models.download(name, task), self._onDownloaded)
        self._timer.start()

    def _showProgress(self) -> None:
        if self._downloading is None:
            return
        progress = self._downloading.progress
        shown = f"{progress.text} {100 * progress.fraction:.0f} %"
        if self._ui.networkStateLabel.text != shown:
            self._ui.networkStateLabel.text = shown

    def _onDownloaded(self, choice: ModelChoice | None, error: BaseException | None) -> None:
        self._timer.stop()
        self._downloading = None
        self._ui.downloadModelButton.text = _("Download...")
        self._onAdded(choice, error)
        self._showLicence()

    def addFile(self, file: str) -> None:
        """Check a file and add it to the networks, without asking."""
        self._ui.addModelButton.enabled = False
        self._problem = ""
        self._ui.networkStateLabel.text = _("Checking {file}...").format(file=Path(file).name)
        self._import.start(lambda task: self._models.add(file), self._onAdded)

    def _question(self, file: str) -> str:
        return _(
            "{file} is checked, and copied to the folder {folder}.\n\n{licence}\n\nUse it only as its licence permits."
        ).format(
            file=Path(file).name,
            folder=self._models.folder,
            licence=_licenceInWords(self._models.statedLicence(file)),
        )

    def _onAdded(self, choice: ModelChoice | None, error: BaseException | None) -> None:
        self._ui.addModelButton.enabled = True
        if choice is None:
            self._problem = str(explain(error)) if error is not None else ""
            self._ui.networkStateLabel.text = self._problem
            return
        self.showModels(choice.name)
        self._onChosen(choice.name)


def _licenceInWords(licence: str, *, linked: bool = False) -> str:
    if not licence:
        return _("No licence is stated; ask who provided it.")
    if linked and _SPDX.fullmatch(licence):
        licence = f'<a href="https://spdx.org/licenses/{licence}.html">{licence}</a>'
    return _("Licence: {licence}.").format(licence=licence)


def _deviceInWords(device: str) -> str:
    if device == "cpu":
        return _("the processor")
    return _("the graphics card ({device})").format(device=device)
