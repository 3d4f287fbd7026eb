"""Whether files are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileState:
    """What tells files from changed ones.

    Attributes:
        stamp: Digest of their names, sizes and times of change: cheap, but other after a copy.
        size: Bytes of all files.
        sha256: Digest of their names and contents.
    """

    stamp: str
    size: int
    sha256: str


def state_of(files: Sequence[Path]) -> FileState:
    """Read files to the end.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    # The times before the contents: what is changed meanwhile is then seen to be changed.
    stamp, size = _stamp(files)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name!a} {path.stat().st_size} ".encode())
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    return FileState(stamp, size, digest.hexdigest())


def is_unchanged(files: Sequence[Path], before: FileState) -> bool:
    """Whether files are as they were; they are read only if their times differ.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    stamp, size = _stamp(files)
    if stamp == before.stamp:
        return True
    return size == before.size and state_of(files).sha256 == before.sha256


def _stamp(files: Sequence[Path]) -> tuple[str, int]:
    """Digest of names, sizes and times, and the bytes in all."""
    digest, total = hashlib.sha256(), 0
    for path in files:
        about = path.stat()
        digest.update(f"{path.name!a} {about.st_size} {about.st_mtime_ns}\n".encode())
        total += about.st_size
    return digest.hexdigest()[:32], total
