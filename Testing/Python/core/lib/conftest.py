"""Puts the module's own library on the path; the modules tested here import neither Qt nor Slicer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[4] / "ScribbleSegment"
if str(MODULE) not in sys.path:
    sys.path.append(str(MODULE))


@pytest.fixture(scope="session")
def module_folder() -> Path:
    """Folder that holds `ScribbleSegmentLib`."""
    return MODULE
