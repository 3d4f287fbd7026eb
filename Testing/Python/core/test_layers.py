"""DESIGN's table of layers, held against the imports of every file."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import scribblesegment

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "ScribbleSegment"
LOGIC = MODULE / "Logic"
PACKAGE = LOGIC / "scribblesegment"

STDLIB = frozenset(sys.stdlib_module_names)
SLICER = frozenset(
    {"slicer", "vtk", "vtkmodules", "qt", "ctk", "SegmentEditorEffects", "qSlicerSegmentationsEditorEffectsPythonQt"}
)
COMPUTE_LIBRARIES = frozenset({"numpy", "scipy", "torch", "skimage", "safetensors", "tqdm", "PIL"})
IO_MODULES = frozenset({"atomic_file", "io"})
DATA_MODULES = IO_MODULES | {
    *("checks", "clean_up", "context", "context_selection", "context_store", "exceptions", "file_lock"),
    *("gesture_picture", "gesture_recorder", "gestures", "label_scribbles", "neighbours"),
    *("postprocessing", "preprocessing", "prompts", "propagation_request", "rasterization", "resampling"),
    *("segmentation_sets", "slice_context", "slice_interpolation", "slice_plane", "slice_request"),
    *("slice_view", "user_folder", "volume", "voxel_grid"),
}


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, its line, and when it is imported."""

    name: str
    line: int
    deferred: bool
    """Inside a function: only paid for, and only needed, when it is called."""
    only_types: bool
    """Under `if TYPE_CHECKING`: never imported at run time."""

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Layer:
    """What the files of a layer may import, besides the standard library."""

    name: str
    libraries: frozenset[str] = frozenset()
    deferred_libraries: frozenset[str] = frozenset()
    package: frozenset[str] | None = frozenset()
    """Modules of the package, by their first name; None is all but `mrml`."""


DATA = Layer("core data", frozenset({"numpy", "scipy"}), frozenset({"torch"}), DATA_MODULES)
IO = Layer("core IO", DATA.libraries | {"SimpleITK"}, frozenset({"torch", "PIL"}), DATA_MODULES)
COMPUTE = Layer("core compute", COMPUTE_LIBRARIES, package=None)
# Other people's networks come with their own libraries, which are asked for by name where they are missing.
NETWORK_FORMATS = Layer(
    "networks of other formats", COMPUTE_LIBRARIES, frozenset({"monai", "nnunetv2", "nibabel"}), None
)
# The command line starts fast, so what computes is imported by the command that needs it.
COMMAND_LINE = Layer("command line", frozenset({"numpy"}), COMPUTE_LIBRARIES, package=None)
# Evaluation compares with the methods that people use today, Slicer's own among them (docs/decisions/0003).
EVALUATION = Layer(
    "evaluation", COMPUTE_LIBRARIES, frozenset({"vtk", "vtkmodules", "slicer", "cv2", "matplotlib"}), None
)
MRML = Layer("mrml", frozenset({"numpy", "vtk", "vtkmodules", "slicer"}), package=DATA_MODULES | {"mrml"})
# Slicer starts without loading torch.
LIBRARY = Layer(
    "Slicer application",
    SLICER | {"numpy", "scipy", "SimpleITK"},
    COMPUTE_LIBRARIES | {"SampleData", "PyTorchUtils"},  # modules that a Slicer may lack
    None,
)
# DESIGN says "their libs"; a module cannot be declared without Slicer's base classes (docs/decisions/0004).
MODULE_FILE = Layer("module file", SLICER | {"numpy"})
SCRIPT = Layer("script", COMPUTE_LIBRARIES | {"matplotlib", "SimpleITK"}, package=None)
BOOTSTRAP = Layer("bootstrap", package=frozenset())

# Times the bridge to Slicer's classes on those classes.
MRML_SCRIPT = Layer("script on MRML", SCRIPT.libraries | {"slicer", "vtk", "vtkmodules"}, package=None)

MRML_SCRIPTS = {"benchmark_effect.py"}
BOOTSTRAP_SCRIPTS = {"_environment.py", "demo.py", "test.py"}
SLICER_LIBS = frozenset({"ScribbleSegmentLib", "SegmentEditorScribbleSegmentLib"})
MODEL_INTERNALS = frozenset({"models", "training", "simulation", "evaluation"})
SLICER_APPLICATION = frozenset({"app", "modules", "mrmlScene", "i18n", "util", "parameterNodeWrapper", "packaging"})


def layer_of(path: Path) -> Layer:
    """The layer a file belongs to by its place in the tree."""
    if PACKAGE in path.parents:
        first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if first in DATA_MODULES:
            return IO if first in IO_MODULES else DATA
        if path.parent == PACKAGE / "refinement" / "networks":
            return NETWORK_FORMATS
        by_name = {"cli": COMMAND_LINE, "__main__": COMMAND_LINE, "evaluation": EVALUATION, "mrml": MRML}
        return by_name.get(first, COMPUTE)
    if path.parent == MODULE:
        return MODULE_FILE
    if path.parent.parent == ROOT and path.parent.name == "scripts":
        if path.name in MRML_SCRIPTS:
            return MRML_SCRIPT
        return BOOTSTRAP if path.name in BOOTSTRAP_SCRIPTS else SCRIPT
    return LIBRARY


def module_name(path: Path) -> str:
    """Dotted name under which a file of the package or of a Slicer library is imported."""
    base = LOGIC if PACKAGE in path.parents else MODULE
    relative = path.relative_to(base) if base in path.parents else Path(path.name)
    parts = relative.with_suffix("").parts
    return ".".join(parts)


def imports_of(source: str, name: str = "") -> list[Import]:
    """Every module imported by a source text, relative imports resolved against its dotted name."""
    found: list[Import] = []

    def resolve(node: ast.ImportFrom) -> list[str]:
        if node.level == 0:
            return [f"{node.module}.{alias.name}" for alias in node.names]
        base = ".".join(name.split(".")[: -node.level])
        prefix = f"{base}.{node.module}" if node.module else base
        return [f"{prefix}.{alias.name}" for alias in node.names]

    def visit(node: ast.AST, deferred: bool, only_types: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = resolve(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        found.extend(Import(imported, node.lineno, deferred, only_types) for imported in names)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, deferred, True)
            for child in node.orelse:
                visit(child, deferred, only_types)
            return
        inner = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inner, only_types)

    visit(ast.parse(source), False, False)
    return found


def violation(found: Import, layer: Layer) -> str | None:
    """Why a layer may not import this, or None when it may."""
    if found.top in STDLIB or found.only_types:
        return None
    if found.top == "scribblesegment":
        return _package_violation(found, layer)
    if found.top in SLICER_LIBS:
        return None if layer in (MODULE_FILE, LIBRARY) else "is above it"
    if found.top == "_environment":
        return None if layer is BOOTSTRAP else "is for bootstrap scripts"
    if layer is MRML and found.top == "slicer" and set(found.name.split(".")) & SLICER_APPLICATION:
        return "needs the application; nodes are passed in"
    if found.top in layer.libraries or (found.deferred and found.top in layer.deferred_libraries):
        return None
    if found.top in layer.deferred_libraries:
        return "may only be imported inside a function"
    return "is not of this layer"


def _package_violation(found: Import, layer: Layer) -> str | None:
    name = found.name.split(".")[1] if "." in found.name else ""
    # A public name of the package stands for the module that defines it.
    inner = scribblesegment._MODULE_OF.get(name, name).partition(".")[0]
    if layer.package is not None:
        return None if inner in layer.package else "is above it"
    if layer is LIBRARY:
        return "is a model internal" if inner in MODEL_INTERNALS else None
    return "is above it" if inner == "mrml" and layer is not MRML_SCRIPT else None


def applications_attributes(source: str) -> list[str]:
    """Uses of the running application, such as `slicer.app`, which `mrml` must not need."""
    uses = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in uses
        if isinstance(node.value, ast.Name) and node.value.id == "slicer" and not node.attr.startswith("vtk")
    ]


def sources() -> list[Path]:
    folders = [PACKAGE, ROOT / "scripts", *MODULE.glob("*Lib")]
    files = {path for folder in folders for path in folder.rglob("*.py")} | set(MODULE.glob("*.py"))
    return sorted(files)


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_layer_may(path):
    layer = layer_of(path)
    source = path.read_text(encoding="utf-8")
    broken = [
        f"line {found.line}: {found.name} {reason}"
        for found in imports_of(source, module_name(path))
        if (reason := violation(found, layer)) is not None
    ]
    if layer is MRML:
        broken += applications_attributes(source)
    assert not broken, f"{path.relative_to(ROOT)} is of layer '{layer.name}':\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        (DATA, "import torch"),
        (DATA, "import SimpleITK"),
        (DATA, "from .predictor import Predictor"),
        (DATA, "def f():\n    from . import models"),
        (DATA, "def f():\n    import vtk"),
        (DATA, "try:\n    import torch\nexcept ImportError:\n    pass"),
        (COMPUTE, "import slicer"),
        (COMPUTE, "def f():\n    from qt import QTimer"),
        (COMPUTE, "import importlib\nimportlib.import_module('vtk')"),
        (COMPUTE, "from scribblesegment.mrml import volumes"),
        (COMMAND_LINE, "import torch"),
        (EVALUATION, "import vtk"),
        (MRML, "import qt"),
        (MRML, "from slicer import util"),
        (MRML, "from scribblesegment.predictor import Predictor"),
        (MRML, "from scribblesegment import Predictor"),
        (LIBRARY, "from scribblesegment.models import factory"),
        (MODULE_FILE, "from scribblesegment import load_predictor"),
        (MODULE_FILE, "import torch"),
        (SCRIPT, "import scribblesegment.mrml"),
        (SCRIPT, "import slicer"),
        (BOOTSTRAP, "import numpy"),
        (BOOTSTRAP, "def f():\n    import scribblesegment"),
    ],
)
def test_an_import_against_the_table_is_found(layer, source):
    reasons = [violation(found, layer) for found in imports_of(source, "scribblesegment.example")]
    assert any(reasons)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        (DATA, "import os\nimport numpy as np\nfrom scipy import ndimage\nfrom ..exceptions import ImageError"),
        (DATA, "def f():\n    import torch"),
        (DATA, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        (COMPUTE, "import torch\nfrom ..volume import Volume"),
        (EVALUATION, "def f():\n    import slicer"),
        (MRML, "from slicer import vtkMRMLScalarVolumeNode\nfrom scribblesegment import Volume"),
        (LIBRARY, "import qt\nfrom scribblesegment import Prompts"),
        (MODULE_FILE, "import slicer\nfrom ScribbleSegmentLib.EmbeddedModel import EmbeddedModel"),
    ],
)
def test_an_import_of_the_table_passes(layer, source):
    reasons = [violation(found, layer) for found in imports_of(source, "scribblesegment.training.example")]
    assert not any(reasons)


def test_use_of_the_running_application_is_found():
    assert applications_attributes("import slicer\nslicer.mrmlScene.Clear()\nslicer.vtkMRMLScene()") == [
        "line 2: slicer.mrmlScene"
    ]


HEAVY = ("torch", "vtk", "vtkmodules", "slicer", "qt", "skimage", "matplotlib", "cv2")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("scribblesegment", (*HEAVY, "SimpleITK", "scipy", "numpy")),
        ("scribblesegment.exceptions", (*HEAVY, "SimpleITK", "scipy", "numpy")),
        ("scribblesegment.volume", (*HEAVY, "SimpleITK")),
        ("scribblesegment.prompts", (*HEAVY, "SimpleITK")),
        ("scribblesegment.preprocessing", (*HEAVY, "SimpleITK")),
        ("scribblesegment.postprocessing", (*HEAVY, "SimpleITK")),
        ("scribblesegment.io", HEAVY),
        ("scribblesegment.session", HEAVY),
        ("scribblesegment.cli", HEAVY),
    ],
)
def test_importing_a_module_does_not_load_heavy_libraries(module, forbidden):
    program = f"import sys, {module}; print(*sorted(set({forbidden!r}) & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(LOGIC)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
