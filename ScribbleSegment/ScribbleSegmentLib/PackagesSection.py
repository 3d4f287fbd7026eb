"""Section *Python packages* of the module's panel: what is missing, and one button that installs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import slicer
from slicer.i18n import tr as _

from .PackageInstaller import InstallationError, PackageInstaller
from .RequiredPackages import RequiredPackages, Requirement, downloadSize


class PackagesSection:
    """Says what is missing; asks and installs when the user presses *Set up*, and never otherwise."""

    def __init__(
        self, ui, packages: RequiredPackages, installer: PackageInstaller, onInstalled: Callable[[], None]
    ) -> None:
        """Use the widgets of a form.

        Args:
            ui: Its widgets by name.
            packages: What is needed.
            installer: Installs it.
            onInstalled: Called after an installation that worked.
        """
        self._ui = ui
        self._packages = packages
        self._installer = installer
        self._onInstalled = onInstalled
        ui.setUpButton.connect("clicked()", self._onSetUp)

    def refresh(self) -> bool:
        """Say what is missing, and return whether anything is."""
        missing = self._packages.missing
        if missing:
            self._ui.packagesLabel.text = _("To be installed: {packages}. Press 'Set up'; you are asked first.").format(
                packages=_names(missing)
            )
        else:
            self._ui.packagesLabel.text = _("Everything needed is installed: {packages}.").format(
                packages=_names(self._packages.all)
            )
        return bool(missing)

    def _onSetUp(self) -> None:
        missing = self._packages.missing
        # PyTorch alone is large and depends on the computer, so it is what can be damaged.
        again = not missing
        requirements = missing or [self._packages.torch]
        torch = self._packages.torch
        if torch in requirements and self._packages.isLoaded(torch):
            self._ui.packagesLabel.text = _(
                "PyTorch is in use and cannot be replaced now. Restart Slicer, and press 'Set up' before anything else."
            )
            return
        if slicer.util.confirmOkCancelDisplay(self._question(requirements, again), _("Scribble Segment: set up")):
            self._install(requirements, again)

    def _question(self, requirements: Sequence[Requirement], again: bool) -> str:
        size = downloadSize(requirements, mayUseCuda=self._installer.choosesCuda)
        head = (
            _("Everything needed is installed. Should PyTorch be installed again, to repair it?")
            if again
            else _("These Python packages will be installed into Slicer: {packages}.").format(
                packages=_names(requirements)
            )
        )
        amount = (
            _(
                "About {megabytes} MB are downloaded; about {large} GB if PyTorch fits your NVIDIA graphics card."
            ).format(megabytes=size.megabytes, large=round(size.withCuda / 1000))
            if size.withCuda > size.megabytes
            else _("About {megabytes} MB are downloaded.").format(megabytes=size.megabytes)
        )
        if self._packages.torch in requirements:
            amount += " " + _("They need about three times as much disk space. This can take several minutes.")
        return f"{head}\n\n{amount}"

    def _install(self, requirements: Sequence[Requirement], again: bool) -> None:
        self._ui.setUpButton.enabled = False
        try:
            with slicer.util.WaitCursor():
                self._installer.install(requirements, self._showProgress, again=again)
        except InstallationError as error:
            self._ui.packagesLabel.text = str(error)
            return
        finally:
            self._ui.setUpButton.enabled = True
        self.refresh()
        self._onInstalled()

    def _showProgress(self, text: str) -> None:
        self._ui.packagesLabel.text = text
        slicer.app.processEvents()


def _names(requirements: Sequence[Requirement]) -> str:
    return ", ".join(str(requirement) for requirement in requirements)
