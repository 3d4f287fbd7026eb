"""The module's library without the application: Qt is a stand-in, so only what needs no widget is tested."""

from __future__ import annotations

import pytest
import slicer_stand_ins

pytest.importorskip("slicer", reason="needs slicer-core")
slicer_stand_ins.install()
