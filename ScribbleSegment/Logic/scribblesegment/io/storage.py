"""One program at a time, also across processes."""

from __future__ import annotations

import errno
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scribblesegment.errors import FileFormatError, ScribbleSegmentError

PathLike = str | os.PathLike[str]


@contextmanager
def atomic_file(path: PathLike, extension: str) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` when the block ends without an error.

    The temporary file lies in the same folder, because a file can be renamed in one step only within a file system,
    and ends in the same extension, because writers choose the format by it. Whatever fails, nothing is left behind and
    a file that was at `path` before is untouched.

    Raises:
        FileFormatError: the folder is missing, `path` is a folder, or the operating system refuses to write.
    """
    target = Path(os.path.realpath(path))  # through a link, the file behind it is replaced and the link stays
    if target.is_dir():
        raise FileFormatError(f"Cannot write {path}: it is a folder. Add a file name.")
    if not target.parent.is_dir():
        raise FileFormatError(f"Cannot write {path}: the folder {target.parent} does not exist. Create it first.")
    temporary = target.parent / f".{uuid.uuid4().hex}{extension}"
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())  # else a power cut after the rename could leave an empty file under the new name
        os.replace(temporary, target)
    except OSError as cause:
        if isinstance(cause, ScribbleSegmentError):
            raise
        raise FileFormatError(
            f"Cannot write {path}: {cause.strerror or cause}. Check free space and permissions of the folder; nothing "
            "was changed."
        ) from cause
    finally:
        temporary.unlink(missing_ok=True)


_STEP_S = 0.02


# What a file system answers that has no locks, such as some network drives.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def file_lock(path: PathLike, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Keep other users of the same lock file waiting while the block runs.

    The lock belongs to the operating system and ends with the process that holds it, however that ends, so nothing ever
    has to be cleaned up. The empty file stays: were it removed, two programs could hold locks on two files of one name.
    Where the file system has no locks the block runs without one. A program that holds the lock must not ask for it
    again.

    Args:
        path: The lock file, which is created if need be; its folder must exist.
        timeout_s: How long to wait.

    Raises:
        FileFormatError: The lock was not free in time, or the file cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as cause:
        raise FileFormatError(
            f"Cannot open the lock file {path}: {cause.strerror or cause}. Check the folder and its permissions."
        ) from cause
    try:
        _wait_for(handle, path, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(handle)  # which frees the lock


def _wait_for(handle: int, path: PathLike, deadline: float) -> None:
    while True:
        try:
            _try_to_lock(handle)
            return
        except OSError as cause:
            if cause.errno in _UNSUPPORTED:
                return
            if cause.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise FileFormatError(f"Cannot lock {path}: {cause.strerror or cause}.") from cause
            if time.monotonic() > deadline:
                raise FileFormatError(
                    f"Another program has been writing for too long; it holds the lock {path}. Try again, and close "
                    "other windows of the program if it stays so."
                ) from cause
        time.sleep(_STEP_S)


if sys.platform == "win32":
    import msvcrt

    def _try_to_lock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist

else:
    import fcntl

    def _try_to_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def user_folder(kind: str, variable: str, chosen: str | os.PathLike[str] | None = None) -> Path:
    """Tell where files of one kind are kept; the folder need not exist.

    Args:
        kind: Name of the folder among the user's data, such as "weights".
        variable: Environment variable that names another folder.
        chosen: The answer, if given; else that of the environment variable, else a folder in the user's data folder of
            the operating system.
    """
    elsewhere = chosen or os.environ.get(variable)
    if elsewhere:
        return Path(elsewhere)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "ScribbleSegment" / kind
