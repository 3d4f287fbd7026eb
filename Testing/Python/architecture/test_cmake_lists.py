"""What CMake does not list, Slicer's packages lack: the lists must be the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "ScribbleSegment"
PACKAGE = MODULE / "Logic" / "scribblesegment"
LABORATORY = ("simulation/", "training/")  # what only scripts need is in the wheel, and not in Slicer
MODULE_FILES = {"ScribbleSegment.py", "SegmentEditorScribbleSegment.py"}


def listed(cmake: Path, variable: str) -> list[str]:
    """Entries of `set(<variable> ...)`, with other variables of the file filled in."""
    text = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
    sets = {name: value.split() for name, value in re.findall(r"\bset\((\w+)\s+([^)]*)\)", text)}
    assert variable in sets, f"{cmake} has no set({variable} ...)"

    def filled(entry: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: " ".join(sets[match.group(1)]), entry)

    return [filled(entry) for entry in sets[variable]]


def files_below(folder: Path, base: Path) -> set[str]:
    found = (path.relative_to(base) for path in folder.rglob("*") if path.is_file())
    # Python's and the tools' caches are no files of the project.
    ours = (path for path in found if not any(part == "__pycache__" or part.startswith(".") for part in path.parts))
    return {path.as_posix() for path in ours if path.name != "CMakeLists.txt"}


def split_scripts(files: set[str]) -> tuple[set[str], set[str]]:
    scripts = {name for name in files if name.endswith(".py")}
    return scripts, files - scripts


def package_tree() -> tuple[set[str], set[str]]:
    return split_scripts({name for name in files_below(PACKAGE, PACKAGE) if not name.startswith(LABORATORY)})


def module_tree() -> tuple[set[str], set[str]]:
    scripts = {path.name for path in MODULE.glob("*.py")}
    for library in MODULE.glob("*Lib"):
        scripts |= files_below(library, MODULE)
    return scripts, files_below(MODULE / "Resources", MODULE)


@pytest.mark.parametrize(
    ("folder", "tree", "variable"),
    [
        (PACKAGE, package_tree()[0], "PACKAGE_SCRIPTS"),
        (PACKAGE, package_tree()[1], "PACKAGE_RESOURCES"),
        (MODULE, module_tree()[0], "MODULE_PYTHON_SCRIPTS"),
        (MODULE, module_tree()[1], "MODULE_PYTHON_RESOURCES"),
    ],
    ids=["package-scripts", "package-resources", "module-scripts", "module-resources"],
)
def test_cmake_lists_exactly_the_files_of_the_tree(folder, tree, variable):
    entries = listed(folder / "CMakeLists.txt", variable)
    missing, stale = sorted(tree - set(entries)), sorted(set(entries) - tree)
    assert (missing, stale) == ([], [])
    assert len(entries) == len(tree), "an entry is listed twice"


def test_only_module_files_lie_where_slicer_looks_for_modules():
    assert {path.name for path in MODULE.glob("*.py")} <= MODULE_FILES


def test_folders_beside_the_package_are_no_packages():
    for folder in (MODULE / "Logic", MODULE / "Resources", ROOT / "Testing"):
        inits = {path.relative_to(ROOT).as_posix() for path in folder.rglob("__init__.py")}
        assert not {name for name in inits if "Logic/scribblesegment/" not in name}
