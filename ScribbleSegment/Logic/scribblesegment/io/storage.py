"""Files that are written whole or not at all, one program at a time, and the folders of the user's files."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scribblesegment.errors import FileFormatError, ScribbleSegmentError

PathLike = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\.scribblesegment-[0-9a-f]{32}(\.[a-z]+)*")
_ABANDONED_S = 3600.0  # no writer takes that long between two writes

_LOCK_STEP_S = 0.02
# What a file system answers that has no locks, such as some network drives.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def system_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn a refusal of the operating system into a FileFormatError: what failed, its reason, and the remedy."""
    try:
        yield
    except OSError as cause:
        if isinstance(cause, ScribbleSegmentError):
            raise
        raise FileFormatError(f"{what}: {cause.strerror or cause}. {remedy}") from cause


@contextmanager
def atomic_file(path: PathLike, extension: str, *, follow_link: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` when the block ends without an error.

    The temporary file lies in the same folder, because a file can be renamed in one step only within a file system, and
    ends in the same extension, because writers choose the format by it. Whatever fails, it is removed and a file that
    was at `path` before is untouched; what a killed program left behind is removed by a later write to the folder.

    Args:
        path: file to write. Through a link, the file behind it is replaced and the link stays.
        extension: of the temporary file.
        follow_link: False refuses a link.

    Raises:
        FileFormatError: the folder is missing, `path` is a folder or a refused link, or the operating system refuses.
    """
    if not follow_link and os.path.islink(path):
        raise FileFormatError(f"Cannot write {path}: it is a link. Replace it by a file, or remove it.")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise FileFormatError(f"Cannot write {path}: it is a folder. Add a file name.")
    if not target.parent.is_dir():
        raise FileFormatError(f"Cannot write {path}: the folder {target.parent} does not exist. Create it first.")
    remove_abandoned(target.parent)
    temporary = target.parent / f".scribblesegment-{uuid.uuid4().hex}{extension}"
    remedy = "Check free space and permissions of the folder; nothing was changed."
    try:
        with system_errors(f"Cannot write {path}", remedy):
            yield temporary
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())  # else a power cut after the rename could leave an empty file of that name
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `atomic_file` writes to."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that killed programs left in a folder; younger ones may still be written."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # another program was faster
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                        os.unlink(entry.path)


@contextmanager
def file_lock(path: PathLike, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Keep other users of the same lock file waiting while the block runs.

    The lock belongs to the operating system and ends with the process that holds it, however that ends. The empty file
    stays: were it removed, two programs could hold locks on two files of one name. Where the file system has no locks
    the block runs without one. A program that holds the lock must not ask for it again.

    Raises:
        FileFormatError: the lock was not free in time, or the file cannot be opened; its folder must exist.
    """
    with system_errors(f"Cannot open the lock file {path}", "Check the folder and its permissions."):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    deadline = time.monotonic() + timeout_s
    try:
        while not _is_locked(handle, path):
            if time.monotonic() > deadline:
                raise FileFormatError(
                    f"Another program is writing and holds the lock {path}. Try again in a moment; if this goes on, "
                    "close other windows of ScribbleSegment."
                )
            time.sleep(_LOCK_STEP_S)
        yield
    finally:
        os.close(handle)  # which frees the lock


def _is_locked(handle: int, path: PathLike) -> bool:
    """Take the lock if it is free, or if there are no locks here."""
    try:
        _try_to_lock(handle)
    except OSError as cause:
        if cause.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if cause.errno not in _NO_LOCKS:
            raise FileFormatError(
                f"Cannot lock {path}: {cause.strerror or cause}. Check the drive and its permissions."
            ) from cause
    return True


if sys.platform == "win32":
    import msvcrt

    def _try_to_lock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist

else:
    import fcntl

    def _try_to_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def user_folder(kind: str, variable: str, chosen: PathLike | None = None) -> Path:
    """Return the folder of one kind of the user's files, which need not exist.

    Args:
        kind: name of the folder among the user's data, such as "weights".
        variable: environment variable that names another folder.
        chosen: comes first if given.
    """
    elsewhere = chosen or os.environ.get(variable)
    if elsewhere:
        return Path(elsewhere)
    try:
        home = Path.home()
    except RuntimeError:  # no account, as in some containers
        home = Path(os.sep, "nonexistent")
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    return base / "ScribbleSegment" / kind
