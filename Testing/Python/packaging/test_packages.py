"""What a user gets: the extension's package as Slicer's factory makes it, and the wheel, each used where it was put."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import missing_packages
import pytest

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = Path(__file__).with_name("slicer")
LARGEST = 25e6  # bytes; docs/releasing.md promises it
LABORATORY = ("simulation", "training")  # packages that only the laboratory uses; they are in the wheel, for its extra

pytestmark = pytest.mark.slow

# The module's own test, as Slicer runs it, on stand-ins for the few parts of the application that it meets.
SELF_TEST = """
import sys, types, unittest
from unittest import mock

class Base:
    def __init__(self, parent=None): pass

class Node:
    def __init__(self, array): self.array = array
    def GetSpacing(self): return 0.8, 0.8, 3.0

slicer = mock.MagicMock()
slicer.util.VTKObservationMixin = type("Mixin", (), {})
slicer.util.addVolumeFromArray = Node
slicer.util.arrayFromVolume = lambda node: node.array
base = types.ModuleType("slicer.ScriptedLoadableModule")
for name in ("Module", "ModuleWidget", "ModuleLogic"):
    setattr(base, f"ScriptedLoadable{name}", type(name, (Base,), {}))
base.ScriptedLoadableModuleTest = type("Test", (unittest.TestCase,), {"delayDisplay": lambda self, text: print(text)})
modules = {"slicer": slicer, "slicer.util": slicer.util, "slicer.ScriptedLoadableModule": base}
sys.modules |= modules | {name: mock.MagicMock() for name in (
    "qt", "ctk", "vtk", "slicer.i18n", "slicer.parameterNodeWrapper")}
sys.path.insert(0, sys.argv[1])

import ScribbleSegment, scribblesegment
assert scribblesegment.__file__.startswith(sys.argv[1]), scribblesegment.__file__
ScribbleSegment.ScribbleSegmentTest().runTest()
"""


def run(*command, cwd, **environment):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    result = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sources(*left_out: str) -> set[str]:
    """The files of the module, where they are installed."""
    names = {name.removeprefix("Logic/") for name in files_below(ROOT / "ScribbleSegment")}
    ours = {name for name in names if not re.search(r"CMakeLists\.txt$|__pycache__|\.egg-info/", name)}
    return {name for name in ours if not name.startswith(tuple(f"scribblesegment/{one}/" for one in left_out))}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The extension's package, made in a folder of its own."""
    if shutil.which("cmake") is None:
        pytest.skip("CMake is not installed")
    build = tmp_path_factory.mktemp("build")
    run("cmake", "-S", ROOT, "-B", build, f"-DSlicer_DIR={STAND_IN}", "-DBUILD_TESTING=ON", cwd=build)
    run("cmake", "--build", build, "--target", "package", cwd=build)
    return build / "ScribbleSegment.tar.gz"


@pytest.fixture(scope="module")
def installed(package, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with tarfile.open(package) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / "ScribbleSegment"


def test_the_extension_holds_the_module_its_licences_and_nothing_else(package, installed):
    modules, licences = (installed / name / "Slicer-5.12/qt-scripted-modules" for name in ("lib", "share"))
    assert files_below(modules) == sources(*LABORATORY)
    assert files_below(licences) == {"ScribbleSegment/LICENSE.txt", "ScribbleSegment/THIRD_PARTY_NOTICES.md"}
    assert files_below(installed) == {f"{path.relative_to(installed).as_posix()}/{name}"
                                      for path in (modules, licences) for name in files_below(path)}  # fmt: skip
    assert package.stat().st_size <= LARGEST


def test_no_file_of_the_extension_knows_where_it_was_made(package, installed):
    places = [str(place).encode() for place in (ROOT, package.parent, Path.home() / "")]
    assert not [
        name for name in files_below(installed) if any(one in (installed / name).read_bytes() for one in places)
    ]


def test_the_extension_passes_its_own_test_where_nothing_can_be_written(installed, tmp_path):
    before = files_below(installed)
    modules = installed / "lib/Slicer-5.12/qt-scripted-modules"
    for path in (installed, *installed.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        told = run(sys.executable, "-c", SELF_TEST, modules, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    finally:
        for path in (installed, *installed.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert "Test passed" in told
    assert files_below(installed) == before


WITHOUT = f"""
import sys
sys.path.append({str(Path(missing_packages.__file__).parent)!r})
from missing_packages import hide
hide("torch", "safetensors", "skimage")
"""
SEGMENT = """
import numpy as np
from scribblesegment import Prompts, load_predictor

rows, columns = np.ogrid[:96, :128]
disc = (rows - 50) ** 2 + (columns - 60) ** 2 < 25**2
stroke, around = np.zeros(disc.shape, bool), np.zeros(disc.shape, bool)
stroke[48:51, 45:76] = around[10:13, 20:100] = True
predictor = load_predictor()
predictor.set_image(100 + 60 * disc + np.random.default_rng(0).normal(0, 8, disc.shape))
found = predictor.predict(Prompts.empty(disc.shape).with_scribble(stroke).with_scribble(around, False)).mask()
print(2 * (found & disc).sum() / (found.sum() + disc.sum()))
"""


def test_a_wheel_works_without_torch(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    for name in ("pyproject.toml", "LICENSE.txt", "THIRD_PARTY_NOTICES.md", "docs/pypi.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    logic = "ScribbleSegment/Logic"
    shutil.copytree(ROOT / logic, tmp_path / logic, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", ".", cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = HeaderParser().parsestr(archive.read(metadata).decode())
    assert names == {name for name in sources() if name.startswith("scribblesegment/")}
    always = {line for line in described.get_all("Requires-Dist") if "extra ==" not in line}
    assert {re.match(r"[\w-]+", line)[0].lower() for line in always} == {
        *("numpy", "scipy", "simpleitk", "pillow", "pydicom", "tqdm")
    }
    assert {"torch", "train", "studies", "nnunet", "monai"} <= set(described.get_all("Provides-Extra"))

    run(*pip, "install", "--no-deps", "--no-index", "--target", "site", wheel, cwd=tmp_path)
    site = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path / "site")}
    for arguments, expected in ((["info"], "torch           not installed"), (["info", "--report"], "SHA-256")):
        program = f"{WITHOUT}from scribblesegment.cli import main; sys.exit(main({arguments}))"
        assert expected in run(sys.executable, "-c", program, **site)
    assert float(run(sys.executable, "-c", WITHOUT + SEGMENT, **site)) > 0.8
    assert "scribblesegment 0." in run(sys.executable, "-m", "scribblesegment", "--version", **site)
