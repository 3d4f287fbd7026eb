"""Which Python packages the network needs, which of them are missing, and how large they are."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS_FILE = Path(__file__).resolve().parent.parent / "Resources" / "requirements.txt"

# Megabytes to download, with what comes along, rounded up; of PyTorch's build for the processor.
_MEGABYTES = {"torch": 250, "safetensors": 1, "scipy": 45}
_OF_CUDA_BUILD = 3000

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*(?P<minimum>\d+(?:\.\d+)*))?")


@dataclass(frozen=True)
class Requirement:
    """One package.

    Attributes:
        name: As pip knows it.
        minimum: Lowest version that will do, such as "2.4"; empty for any.
    """

    name: str
    minimum: str = ""

    @property
    def specifier(self) -> str:
        """The version as pip reads it, such as ">=2.4"; empty for any."""
        return f">={self.minimum}" if self.minimum else ""

    def isMetBy(self, version: str | None) -> bool:
        """Tell whether an installed version will do; None stands for none."""
        return version is not None and _release(version) >= _release(self.minimum)

    def __str__(self) -> str:
        return self.name + self.specifier


@dataclass(frozen=True)
class DownloadSize:
    """How much an installation downloads, in megabytes.

    Attributes:
        megabytes: At least.
        withCuda: With the libraries for an NVIDIA graphics card; equal where these are no question.
    """

    megabytes: int
    withCuda: int


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
            raise ValueError(f"{line!r} is no requirement; write a name and a lowest version, such as 'torch>=2.4'.")
        requirements.append(Requirement(match["name"], match["minimum"] or ""))
    return requirements


def installedVersion(name: str) -> str | None:
    """Give the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def downloadSize(requirements: Iterable[Requirement], *, mayUseCuda: bool) -> DownloadSize:
    """Estimate how much the installation of some packages downloads.

    Args:
        requirements: What will be installed.
        mayUseCuda: Whether PyTorch may come in a build for NVIDIA's graphics cards.
    """
    names = [requirement.name for requirement in requirements]
    megabytes = sum(_MEGABYTES.get(name, 1) for name in names)
    extra = _OF_CUDA_BUILD - _MEGABYTES["torch"] if mayUseCuda and "torch" in names else 0
    return DownloadSize(megabytes, megabytes + extra)


class RequiredPackages:
    """The packages that the network needs, compared with what is installed."""

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
