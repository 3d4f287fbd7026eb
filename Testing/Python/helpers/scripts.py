"""Scripts of the repository as modules, to test what is in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def load_script(name: str) -> ModuleType:
    """Import `scripts/NAME.py` under its name, without what it does as a program."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"There is no script {name}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
