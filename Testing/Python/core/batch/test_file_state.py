from __future__ import annotations

import os
import shutil

import pytest

from scribblesegment.batch.file_state import is_unchanged, state_of


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode() * 100)
    return paths


def test_files_that_nobody_touched_are_unchanged(files):
    assert is_unchanged(files, state_of(files))


def test_a_copy_with_the_same_content_is_unchanged(files, tmp_path):
    state = state_of(files)
    (tmp_path / "copy").mkdir()
    copies = [tmp_path / "copy" / path.name for path in files]
    for path, copy in zip(files, copies, strict=True):
        shutil.copyfile(path, copy)
        os.utime(copy, (1, 1))
    assert is_unchanged(copies, state)


def test_other_content_of_the_same_length_is_a_change(files):
    state = state_of(files)
    files[1].write_bytes(b"c" * 100)
    os.utime(files[1], (1, 1))
    assert not is_unchanged(files, state)


def test_content_that_moved_from_one_file_to_the_next_is_a_change(files):
    state = state_of(files)
    files[0].write_bytes(b"a" * 99)
    files[1].write_bytes(b"a" + b"b" * 100)
    assert not is_unchanged(files, state)


def test_a_file_that_was_renamed_or_removed_is_a_change(files):
    state = state_of(files)
    assert not is_unchanged(files[:1], state)
    files[1] = files[1].rename(files[1].with_name("c"))
    assert not is_unchanged(files, state)


def test_unchanged_times_spare_reading(files):
    state = state_of(files)
    about = files[0].stat()
    files[0].write_bytes(b"x" * 100)
    os.utime(files[0], ns=(about.st_atime_ns, about.st_mtime_ns))
    assert is_unchanged(files, state)


def test_a_missing_file_is_an_error(files):
    state = state_of(files)
    files[0].unlink()
    with pytest.raises(OSError, match="a"):
        is_unchanged(files, state)
