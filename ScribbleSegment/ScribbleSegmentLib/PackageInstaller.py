"""Installs Python packages into Slicer, PyTorch in the build that fits the computer."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence

import slicer
from slicer.i18n import tr as _

from scribblesegment.exceptions import ScribbleSegmentError

from .RequiredPackages import Requirement

# PyPI's build for Linux brings 3 GB of CUDA libraries; this index has the one for the processor, too.
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class InstallationError(ScribbleSegmentError):
    """Packages that could not be installed."""


class PackageInstaller:
    """Installs through the PyTorch extension where it is there, and through pip otherwise. Asks nothing."""

    @property
    def choosesCuda(self) -> bool:
        """Whether PyTorch may come with the libraries for a graphics card."""
        return hasattr(slicer.modules, "pytorchutils")

    def install(
        self, requirements: Sequence[Requirement], progress: Callable[[str], None], *, again: bool = False
    ) -> None:
        """Install packages; takes minutes, and the user interface waits.

        Args:
            requirements: What to install.
            progress: Told what is being installed.
            again: Replace what is installed.

        Raises:
            InstallationError: It did not work; the message says what to do.
        """
        for number, requirement in enumerate(requirements, start=1):
            progress(
                _("Installing {package} ({number} of {count})...").format(
                    package=requirement.name, number=number, count=len(requirements)
                )
            )
            try:
                if requirement.name == "torch":
                    self._installTorch(requirement, again)
                else:
                    _pipInstall([str(requirement), *(["--force-reinstall", "--no-deps"] if again else [])])
            except (subprocess.CalledProcessError, OSError, ImportError, RuntimeError, ValueError) as error:
                logging.exception("Installation of %s failed", requirement)
                raise InstallationError(
                    _(
                        "{package} could not be installed: {error}. Check the internet connection and the free disk "
                        "space, and try again; the application's error log has the details."
                    ).format(package=requirement.name, error=str(error).rstrip("."))
                ) from error
        importlib.invalidate_caches()

    def _installTorch(self, requirement: Requirement, again: bool) -> None:
        if not self.choosesCuda:
            index = [] if sys.platform == "darwin" else ["--extra-index-url", _CPU_INDEX]
            _pipInstall([str(requirement), *index, *(["--force-reinstall", "--no-deps"] if again else [])])
            return
        from PyTorchUtils import PyTorchUtilsLogic

        logic = PyTorchUtilsLogic()
        if again:
            logic.uninstallTorch()
        # It returns None when nothing was installed.
        if logic.installTorch(askConfirmation=False, torchVersionRequirement=requirement.specifier) is None:
            raise RuntimeError(_("the PyTorch extension did not install it"))


def _pipInstall(arguments: list[str]) -> None:
    try:
        from slicer.packaging import pip_install
    except ImportError:
        # Slicer before 5.12.
        slicer.util.pip_install(arguments)
        return
    pip_install(arguments, requester=_("Scribble Segment"))
