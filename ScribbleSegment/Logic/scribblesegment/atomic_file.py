"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scribblesegment.exceptions import FileFormatError, ScribbleSegmentError

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
