from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import scribblesegment
from scribblesegment.errors import FileFormatError
from scribblesegment.io import storage as module
from scribblesegment.io.storage import file_lock

HOLDER = """
import sys, time
from scribblesegment.io.storage import file_lock
with file_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_one_at_a_time_is_inside(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with file_lock(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "lock"):
        1 / 0  # noqa: B018
    with file_lock(tmp_path / "lock", timeout_s=0):
        pass


def test_waiting_has_an_end(tmp_path):
    with (
        file_lock(tmp_path / "lock"),
        pytest.raises(FileFormatError, match="Another program"),
        file_lock(tmp_path / "lock", timeout_s=0.05),
    ):
        pytest.fail("the block must not run")


def test_a_killed_process_frees_its_lock(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FileFormatError), file_lock(tmp_path / "lock", timeout_s=0):
            pytest.fail("the block must not run")
        process.kill()
    with file_lock(tmp_path / "lock", timeout_s=5):
        pass


def test_where_there_are_no_locks_the_block_runs_all_the_same(tmp_path, monkeypatch):
    def unsupported(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_try_to_lock", unsupported)
    with file_lock(tmp_path / "lock"):
        pass


def test_other_failures_are_reported(tmp_path, monkeypatch):
    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(FileFormatError, match="Cannot open the lock file"), file_lock(tmp_path / "absent" / "lock"):
        pytest.fail("the block must not run")
    monkeypatch.setattr(module, "_try_to_lock", broken)
    with pytest.raises(FileFormatError, match="Input/output error"), file_lock(tmp_path / "lock"):
        pytest.fail("the block must not run")
