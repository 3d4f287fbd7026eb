"""PyTorch and what comes with it: what is missing, how large it is, and how it is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from scribblesegment.errors import ScribbleSegmentError

REQUIREMENTS_FILE = Path(__file__).resolve().parent.parent / "Resources" / "requirements.txt"


# Megabytes to download, with what comes along, rounded up; of PyTorch's build for the processor.
_MEGABYTES = {"torch": 250, "safetensors": 1, "scipy": 45}

_OF_CUDA_BUILD = 3000


_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*(?P<minimum>\d+(?:\.\d+)*))?")


@dataclass(frozen=True)
class Requirement:
    """One package."""

    name: str  # as pip knows it
    minimum: str = ""  # lowest version that will do, such as "2.4"; empty for any

    @property
    def specifier(self) -> str:
        """The version as pip reads it, such as ">=2.4"; empty for any."""
        return f">={self.minimum}" if self.minimum else ""

    def isMetBy(self, version: str | None) -> bool:
        """Tell whether an installed version will do; None stands for none."""
        return version is not None and _release(version) >= _release(self.minimum)

    def __str__(self) -> str:
        return self.name + self.specifier


def parseRequirements(text: str) -> list[Requirement]:
    """Read lines such as "torch>=2.4  # comment".

    Raises:
        ValueError: A line says something else than a name and a lowest version.
    """
    requirements = []
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise ValueError(f"{line!r} is not a requirement; write a name and a lowest version, such as 'torch>=2.4'.")
        requirements.append(Requirement(match["name"], match["minimum"] or ""))
    return requirements


def installedVersion(name: str) -> str | None:
    """Give the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def downloadSize(requirements: Iterable[Requirement], *, mayUseCuda: bool) -> tuple[int, int]:
    """Estimate how many megabytes the installation of some packages downloads: at least, and at most.

    The most is with the libraries for NVIDIA's graphics cards, which PyTorch may bring along if it may use them.
    """
    names = [requirement.name for requirement in requirements]
    megabytes = sum(_MEGABYTES.get(name, 1) for name in names)
    extra = _OF_CUDA_BUILD - _MEGABYTES["torch"] if mayUseCuda and "torch" in names else 0
    return megabytes, megabytes + extra


class RequiredPackages:
    """PyTorch and the packages that are used with it, compared with what is installed."""

    def __init__(
        self, file: Path = REQUIREMENTS_FILE, versionOf: Callable[[str], str | None] = installedVersion
    ) -> None:
        """Read the list.

        Args:
            file: A requirements file.
            versionOf: Gives the version of an installed package, or None.
        """
        self.all = parseRequirements(file.read_text(encoding="utf-8"))
        self._versionOf = versionOf

    @property
    def missing(self) -> list[Requirement]:
        """What is not installed, or too old."""
        importlib.invalidate_caches()
        return [requirement for requirement in self.all if not requirement.isMetBy(self._versionOf(requirement.name))]

    @property
    def torch(self) -> Requirement:
        """PyTorch, which is installed in a way of its own."""
        return next(requirement for requirement in self.all if requirement.name == "torch")

    @staticmethod
    def isLoaded(requirement: Requirement) -> bool:
        """Tell whether Slicer has imported a package, so that a replaced one only counts after a restart."""
        return requirement.name in sys.modules


def _release(version: str) -> tuple[int, ...]:
    """Numbers of a version: "2.10.0+cpu" gives (2, 10, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


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


class PackagesSection:
    """Says what PyTorch would bring; asks and installs when the user presses the button, and never otherwise."""

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
        self._install_text, self._repair_text = _("Install PyTorch..."), _("Repair PyTorch...")
        ui.setUpButton.connect("clicked()", self._onSetUp)

    def refresh(self) -> None:
        """Say what is installed, and what PyTorch would bring."""
        missing = self._packages.missing
        if missing:
            megabytes, _most = downloadSize(missing, mayUseCuda=self._installer.choosesCuda)
            text = _(
                "Ready. Runs on the processor, nothing to install. PyTorch makes it faster, and other networks and "
                "corrections of their results need it: {megabytes} MB to download."
            ).format(megabytes=megabytes)
        else:
            text = _("Ready. PyTorch {version} is installed.").format(version=installedVersion("torch"))
        self._ui.packagesLabel.text = text
        self._ui.setUpButton.text = self._install_text if missing else self._repair_text

    def _onSetUp(self) -> None:
        missing = self._packages.missing
        # PyTorch alone is large and depends on the computer, so it is what can be damaged.
        again = not missing
        requirements = missing or [self._packages.torch]
        torch = self._packages.torch
        if torch in requirements and self._packages.isLoaded(torch):
            self._ui.packagesLabel.text = _(
                "PyTorch is in use and cannot be replaced now. Restart Slicer, and press this before anything else."
            )
            return
        if slicer.util.confirmOkCancelDisplay(self._question(requirements, again), _("Install PyTorch")):
            self._install(requirements, again)

    def _question(self, requirements: Sequence[Requirement], again: bool) -> str:
        megabytes, most = downloadSize(requirements, mayUseCuda=self._installer.choosesCuda)
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
            ).format(megabytes=megabytes, large=round(most / 1000))
            if most > megabytes
            else _("About {megabytes} MB are downloaded.").format(megabytes=megabytes)
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
