from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scribblesegment.io.storage import user_folder

VARIABLE = "SCRIBBLESEGMENT_TEST_DIR"


@pytest.mark.parametrize(
    ("platform", "variable", "default"),
    [
        ("linux", "XDG_DATA_HOME", (".local", "share")),
        ("win32", "LOCALAPPDATA", ("AppData", "Local")),
        ("darwin", None, ("Library", "Application Support")),
    ],
)
def test_every_system_has_its_place(monkeypatch, tmp_path, platform, variable, default):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "data"))
        assert user_folder("things", VARIABLE) == tmp_path / "data" / "ScribbleSegment" / "things"
        monkeypatch.delenv(variable)
    assert user_folder("things", VARIABLE) == tmp_path.joinpath("home", *default, "ScribbleSegment", "things")


def test_what_is_given_comes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env"))
    assert user_folder("things", VARIABLE) == tmp_path / "env"
    assert user_folder("things", VARIABLE, tmp_path / "given") == tmp_path / "given"
