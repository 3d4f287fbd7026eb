"""A virtual environment beside the checkout, made and kept up to date with the standard library only.

The first run creates it, installs the checkout into it (editable, so the checkout is what runs) at the versions of
constraints.txt, and leaves a stamp. A later run finds the stamp and starts at once. A stamp that no longer fits
(pyproject.toml, constraints.txt, the extras or Python changed) means installing again; an environment stamped as
unfinished is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence  # noqa: UP035 - an older Python must get as far as the message about its version

ROOT = Path(__file__).resolve().parent.parent
MINIMUM_PYTHON = (3, 10)
_STAMP = "scribblesegment-environment.sha256"
_UNFINISHED = "unfinished"
_CONSTRAINTS = ROOT / "constraints.txt"
_FILES_THAT_DECIDE = (ROOT / "pyproject.toml", _CONSTRAINTS)


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def ensure_environment(folder: Path, extras: Sequence[str] = ()) -> Path:
    """Make `folder` a finished virtual environment with the package in it, and return its Python.

    Args:
        folder: The environment, created when missing.
        extras: Optional dependency groups of pyproject.toml to install.

    Returns:
        Path of the environment's Python executable.

    Raises:
        SetupError: This Python cannot make environments, `folder` holds something else, or an install step failed.
    """
    _require_capable_python()
    fingerprint = _fingerprint(extras)
    stamp = folder / _STAMP
    state = stamp.read_text(encoding="ascii") if stamp.is_file() else None
    intact = state not in (None, _UNFINISHED) and _works(folder)
    if intact and state == fingerprint:
        return python_of(folder)

    if not intact:
        _create(folder)
    # An install that is broken off leaves this word behind, and the next run starts from nothing.
    stamp.write_text(_UNFINISHED, encoding="ascii")
    _install(folder, extras)
    stamp.write_text(fingerprint, encoding="ascii")
    return python_of(folder)


def python_of(folder: Path) -> Path:
    """Path of the Python executable of the virtual environment `folder`."""
    return _executables(folder) / ("python.exe" if os.name == "nt" else "python")


def command_of(folder: Path, name: str) -> Path:
    """Path of the command `name` that a package installed into the virtual environment `folder`."""
    return _executables(folder) / (name + ".exe" if os.name == "nt" else name)


def run(command: Sequence[str], *, what: str) -> None:
    """Run `command` in the checkout, its output going to the terminal.

    Raises:
        SetupError: It failed; the message names `what`.
    """
    # What was printed so far must not come out after the output of the command.
    sys.stdout.flush()
    code = subprocess.run(list(command), cwd=ROOT).returncode
    if code != 0:
        raise SetupError(f"{what} failed with exit code {code}; the reason is printed above.")


def _executables(folder: Path) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin")


def _require_capable_python() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        raise SetupError(f"Python {wanted} or newer is needed, and this is {version} ({sys.executable}).")
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        major, minor = sys.version_info[:2]
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: its module {' and '.join(missing)} is missing. "
            f"On Debian and Ubuntu install it with 'apt install python{major}.{minor}-venv'; elsewhere use Python from "
            "python.org."
        )


def _fingerprint(extras: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in _FILES_THAT_DECIDE:
        digest.update(path.read_bytes())
    # The checkout's place counts because the install is editable: a moved checkout leaves a dangling path.
    digest.update(repr((sorted(extras), sys.version_info[:2], sys.base_prefix, str(ROOT))).encode())
    return digest.hexdigest()


def _works(folder: Path) -> bool:
    """Whether the environment's Python starts: it does not once the Python that made it is gone."""
    python = python_of(folder)
    if not python.is_file():
        return False
    try:
        return subprocess.run([str(python), "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def _create(folder: Path) -> None:
    if folder.exists():
        # Only what an earlier run made is ever removed, never an environment or a folder of the user's own.
        if not (folder / _STAMP).is_file():
            raise SetupError(f"{folder} exists and was not made by this script. Move it away and start again.")
        print(f"Removing the unusable environment {folder}")
        shutil.rmtree(folder)
    print(f"Making a virtual environment in {folder}")
    folder.mkdir(parents=True)
    (folder / _STAMP).write_text(_UNFINISHED, encoding="ascii")
    run([sys.executable, "-m", "venv", str(folder)], what=f"Making the virtual environment {folder}")


def _install(folder: Path, extras: Sequence[str]) -> None:
    print("Installing the package and what it needs; the first time this takes some minutes, most of them for PyTorch")
    pip = [str(python_of(folder)), "-m", "pip", "--disable-pip-version-check", "install"]
    pip += ["--constraint", str(_CONSTRAINTS)]
    # Asked for by its exact version, PyTorch comes as the small CPU build wherever an index offers one.
    run([*pip, _pinned_torch()], what="Installing PyTorch")
    checkout = str(ROOT) + (f"[{','.join(extras)}]" if extras else "")
    run([*pip, "--editable", checkout], what="Installing the package")


def _pinned_torch() -> str:
    match = re.search(r"^torch==\S+", _CONSTRAINTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if match is None:
        raise SetupError(f"{_CONSTRAINTS} pins no version of torch; restore the line 'torch==...'.")
    return match.group()
