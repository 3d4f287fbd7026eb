"""Stand-ins for what only the application has: Qt's timers, and translation; the scene is Slicer's real MRML."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import pytest

MODULE = Path(__file__).resolve().parents[3] / "ScribbleSegment"
if str(MODULE) not in sys.path:
    sys.path.append(str(MODULE))


class Timer:
    """A QTimer that `spin` drives."""

    running: ClassVar[set[Timer]] = set()

    def setInterval(self, milliseconds: int) -> None:  # noqa: N802 - as Qt names it
        self.milliseconds = milliseconds

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        self.slot = slot

    def start(self) -> None:
        Timer.running.add(self)

    def stop(self) -> None:
        Timer.running.discard(self)


pytest.importorskip("slicer", reason="needs slicer-core")
qt, translation = ModuleType("qt"), ModuleType("slicer.i18n")
qt.QTimer, translation.tr = Timer, lambda text: text  # type: ignore[attr-defined]
stand_ins: dict[str, Any] = {"qt": qt, "slicer.i18n": translation}
for name in ("ctk", "slicer.parameterNodeWrapper", "slicer.ScriptedLoadableModule"):
    stand_ins[name] = mock.MagicMock(name=name)
for name, stand_in in stand_ins.items():
    sys.modules.setdefault(name, stand_in)


@pytest.fixture
def spin() -> Callable[[Callable[[], bool]], None]:
    """Lets timers tick until something is so."""

    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "It did not happen."
            for timer in list(Timer.running):
                if timer in Timer.running:
                    timer.slot()

    Timer.running.clear()
    return until
