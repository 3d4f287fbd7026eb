"""Atomic files, locks, the user's folders, and values from JSON files by others."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scribblesegment.errors import FileFormatError, ImageError, WeightsError
from scribblesegment.io import storage
from scribblesegment.io.fields import Fields, parse_json
from scribblesegment.io.storage import atomic_file, file_lock, user_folder


def a_program(program: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def write(target: Path, error: BaseException | None = None) -> None:
    with atomic_file(target, ".nrrd") as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nrrd")
        assert not target.exists() or target.read_text() == "old"
        if error is not None:
            raise error


def test_the_file_appears_only_at_the_end_and_under_its_own_name(tmp_path):
    write(tmp_path / "mask.nrrd")
    assert (tmp_path / "mask.nrrd").read_text() == "new"
    assert os.listdir(tmp_path) == ["mask.nrrd"]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ImageError("bad"), ImageError, "bad"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (RuntimeError("bug"), RuntimeError, "bug"),
        (OSError(errno.ENOSPC, "No space left on device"), FileFormatError, r"mask\.nrrd: No space left.*free space"),
    ],
)
def test_any_failure_leaves_the_old_file_and_nothing_else(tmp_path, error, raised, message):
    target = tmp_path / "mask.nrrd"
    target.write_text("old")
    with pytest.raises(raised, match=message):
        write(target, error)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["mask.nrrd"]


def test_what_cannot_be_written_is_named_with_the_cause(tmp_path, monkeypatch):
    for target, message in ((tmp_path / "absent" / "a.nii", "absent does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(FileFormatError, match=message), atomic_file(target, ".nii"):
            pytest.fail("the block must not run")
    with pytest.raises(FileFormatError), atomic_file(tmp_path / "a.nii", ".nii"):
        pass  # wrote nothing

    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileFormatError, match="Permission denied"):
        write(tmp_path / "a.nrrd")
    assert os.listdir(tmp_path) == []


def test_through_a_link_the_file_behind_it_is_replaced_unless_links_are_refused(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    link = tmp_path / "link.txt"
    try:
        link.symlink_to(tmp_path / "real.txt")
    except OSError:
        pytest.skip("links need a privilege here")
    with atomic_file(link, ".txt") as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    with pytest.raises(FileFormatError, match="is a link"), atomic_file(link, ".txt", follow_link=False):
        pytest.fail("the block must not run")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileFormatError, match="lock file"), file_lock(tmp_path / "lock"):
        pytest.fail("the block must not run")
    assert not (tmp_path / "elsewhere").exists()


KILLED = """
import os, sys, time
from scribblesegment.io.storage import atomic_file
with atomic_file(sys.argv[1], ".nrrd") as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_killed_program_left_is_removed_by_a_later_write_and_nothing_else_is(tmp_path):
    with a_program(KILLED, tmp_path / "mask.nrrd") as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = os.listdir(tmp_path)
    foreign = [".scribblesegment-notes.nrrd", f".{'0' * 32}.nrrd", ".scribblesegment-" + "g" * 32]
    for name in foreign:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    write(tmp_path / "mask.nrrd")
    assert left in os.listdir(tmp_path)  # its program may be slow
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / left, (two_hours_ago, two_hours_ago))
    write(tmp_path / "other.nrrd")
    assert sorted(os.listdir(tmp_path)) == sorted([*foreign, "mask.nrrd", "other.nrrd"])


# --- Locks -----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from scribblesegment.io.storage import file_lock
with file_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_freed_by_an_error_and_by_the_death_of_its_process(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "lock"):
        1 / 0  # noqa: B018
    with file_lock(tmp_path / "lock", timeout_s=0):
        pass
    with a_program(HOLDER, tmp_path / "lock") as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FileFormatError, match="Another program"), file_lock(tmp_path / "lock", timeout_s=0.05):
            pytest.fail("the block must not run")
        process.kill()
    with file_lock(tmp_path / "lock", timeout_s=5):
        pass


def test_where_there_are_no_locks_the_block_runs_and_other_failures_are_reported(tmp_path, monkeypatch):
    with pytest.raises(FileFormatError, match="Cannot open the lock file"), file_lock(tmp_path / "absent" / "lock"):
        pytest.fail("the block must not run")
    for code, works in ((errno.ENOLCK, True), (errno.EIO, False)):

        def failing(handle, code=code):
            raise OSError(code, "Input/output error")

        monkeypatch.setattr(storage, "_try_to_lock", failing)
        if works:
            with file_lock(tmp_path / "lock"):
                pass
            continue
        with pytest.raises(FileFormatError, match="Input/output error"), file_lock(tmp_path / "lock"):
            pytest.fail("the block must not run")


# --- Folders ---------------------------------------------------------------------------------------------------------

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
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env"))
    assert user_folder("things", VARIABLE) == tmp_path / "env"
    assert user_folder("things", VARIABLE, tmp_path / "given") == tmp_path / "given"


def test_without_an_account_the_folder_of_the_user_is_one_that_is_not_there(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert not user_folder("things", VARIABLE).exists()


# --- JSON by others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}', b"9" * 5000])
def test_texts_that_are_no_json_are_refused(data):
    with pytest.raises(WeightsError, match=r"a\.json is not valid JSON.*again"):
        parse_json(data, "a.json", WeightsError)


@pytest.mark.parametrize(
    ("value", "take", "message"),
    [
        (3, lambda fields: fields.text("a"), "3, expected a text"),
        ("a" * 201, lambda fields: fields.text("a"), "at most 200 characters"),
        (10**400, lambda fields: fields.integer("a", 0, 10), "expected a whole number from 0 to 10"),
        (11, lambda fields: fields.integer("a", 0, 10), "11, expected"),
        (1.0, lambda fields: fields.integer("a", 0, 10), "1.0, expected"),
        ([1], lambda fields: fields.integers("a", 2, 0, 10), "a list of 2"),
        ([1, "1"], lambda fields: fields.integers("a", 2, 0, 10), "a text, expected"),
        ([1, 10**400], lambda fields: fields.numbers("a", 2, 0, 10), "expected a number from 0 to 10"),
        ({}, lambda fields: fields.numbers("a", 2, 0, 10), "an object, expected a list"),
        ([1, 2, 3], lambda fields: fields.items("a", 2), "3 a; at most 2"),
        (1, lambda fields: fields.text("b"), "lacks 'b'"),
    ],
)
def test_values_of_another_type_or_range_are_refused_by_name(value, take, message):
    with pytest.raises(FileFormatError, match=rf"the file.*{message}"):
        take(Fields({"a": value}, "the file"))
    with pytest.raises(FileFormatError, match="a list, expected an object"):
        Fields([], "the file")
