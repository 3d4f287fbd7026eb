"""Which modules of the library can be used without Slicer, and stay so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_SLICER = (
    "DeviceReport",
    "EffectName",
    "EmbeddedModel",
    "ModelChoices",
    "Panels",
    "RequiredPackages",
    "Selection",
    "TaskContexts",
)


@pytest.mark.parametrize("name", WITHOUT_SLICER)
def test_a_module_without_qt_imports_neither_qt_nor_slicer_nor_torch(module_folder: Path, name: str) -> None:
    code = (
        f"import sys; sys.path.append({str(module_folder)!r}); import ScribbleSegmentLib.{name}; "
        "print(*sorted({'qt', 'ctk', 'slicer', 'vtk', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
