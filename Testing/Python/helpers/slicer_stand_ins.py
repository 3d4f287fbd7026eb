"""Stand-ins for what only the Slicer application brings, so that its libraries can be imported without it."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

MODULE = Path(__file__).resolve().parents[3] / "ScribbleSegment"


def install() -> None:
    """Put the module's libraries on the path, and stand-ins where Qt and the application are missing."""
    if str(MODULE) not in sys.path:
        sys.path.append(str(MODULE))
    for name in ("qt", "ctk", "slicer.i18n", "slicer.parameterNodeWrapper", "slicer.ScriptedLoadableModule"):
        if name not in sys.modules:
            stand_in = mock.MagicMock(name=name)
            stand_in.tr = lambda text: text
            sys.modules[name] = stand_in
