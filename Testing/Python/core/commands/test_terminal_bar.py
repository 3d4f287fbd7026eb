from __future__ import annotations

import io
import sys

import pytest

from scribblesegment.commands import terminal_bar as module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_nobody_is_watching(capsys: pytest.CaptureFixture[str]) -> None:
    with module.terminal_bar(3, "refining", "update") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_is_told_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with module.terminal_bar(3, "refining", "update") as bar:
        bar.update(2)
        bar.refresh()
        assert "refining" in terminal.getvalue()
        assert "2/3" in terminal.getvalue()
