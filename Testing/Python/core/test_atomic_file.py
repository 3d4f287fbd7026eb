from __future__ import annotations

import errno
import os

import pytest

from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io.storage import atomic_file


def test_the_file_appears_only_at_the_end_and_under_its_own_name(tmp_path):
    target = tmp_path / "mask.nrrd"
    with atomic_file(target, ".nrrd") as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nrrd")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["mask.nrrd"]


def write_half_and_fail(target, error):
    with atomic_file(target, ".nrrd") as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ImageError("bad"), KeyboardInterrupt(), RuntimeError("bug")])
def test_any_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "mask.nrrd"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_half_and_fail(target, error)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["mask.nrrd"]


def test_a_full_disk_is_reported_with_cause_and_remedy(tmp_path):
    target = tmp_path / "mask.nrrd"
    with pytest.raises(FileFormatError, match=r"mask\.nrrd: No space left.*free space"):
        write_half_and_fail(target, OSError(errno.ENOSPC, "No space left on device"))
    assert os.listdir(tmp_path) == []


def test_a_failing_rename_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(FileFormatError, match="Permission denied"),
        atomic_file(tmp_path / "a.nii", ".nii") as temporary,
    ):
        temporary.write_text("new")
    assert os.listdir(tmp_path) == []


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileFormatError), atomic_file(tmp_path / "a.nii", ".nii"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileFormatError, match=r"absent does not exist"),
        atomic_file(tmp_path / "absent" / "a.nii", ".nii"),
    ):
        pytest.fail("the block must not run")


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(FileFormatError, match="is a folder"), atomic_file(tmp_path, ".nii"):
        pytest.fail("the block must not run")


def test_through_a_link_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    try:
        (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    except OSError:
        pytest.skip("links need a privilege here")
    with atomic_file(tmp_path / "link.txt", ".txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
