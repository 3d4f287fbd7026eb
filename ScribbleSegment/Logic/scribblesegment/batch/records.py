"""What became of each image, kept beside the results so that a batch can be resumed, and the tables made of it.

A record is written after the result it describes, and removed before that result is replaced: at whatever moment the
program ends, no record describes a result that is not there.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from scribblesegment.batch.images import BatchImage, files_of
from scribblesegment.io.storage import atomic_file, system_errors

FOLDER = ".scribblesegment"
RESULTS, TIMES = "results.csv", "times.csv"
COLUMNS = (
    *("file", "structure", "volume_ml", "area_mm2", "slices", "mean_confidence", "lowest_confidence"),
    *("status", "error"),
)

_VERSION = 1
_LONGEST_NAME = 40  # of the readable part
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileState:
    """What distinguishes files from changed ones."""

    stamp: str  # digest of names, sizes and times of change: cheap, but another one after a copy
    size: int  # bytes of all files
    sha256: str  # digest of names and contents


def state_of(files: Sequence[Path]) -> FileState:
    """Read files to the end; OSError if one is missing or cannot be read."""
    # The times before the contents: a file that is changed meanwhile then counts as changed.
    stamp, size = _stamp(files)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name!a} {path.stat().st_size} ".encode())
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return FileState(stamp, size, digest.hexdigest())


def is_unchanged(files: Sequence[Path], before: FileState) -> bool:
    """Whether files are as they were; they are read only if their times differ. OSError as in `state_of`."""
    stamp, size = _stamp(files)
    if stamp == before.stamp:
        return True
    return size == before.size and state_of(files).sha256 == before.sha256


def _stamp(files: Sequence[Path]) -> tuple[str, int]:
    digest, total = hashlib.sha256(), 0
    for path in files:
        status = path.stat()
        digest.update(f"{path.name!a} {status.st_size} {status.st_mtime_ns}\n".encode())
        total += status.st_size
    return digest.hexdigest()[:32], total


@dataclass(frozen=True)
class StructureResult:
    """One structure in one image."""

    name: str
    slices: int  # in which it was found
    volume_ml: float | None  # None in an image of one slice
    area_mm2: float | None  # None in a volume
    mean_confidence: float | None  # of these slices, in [0, 1]; None if there are none
    lowest_confidence: float | None


@dataclass(frozen=True)
class ImageRecord:
    """What became of one image."""

    name: str
    made_by: Mapping[str, str]  # digests of what the result depends on besides the image, by what they are of
    status: Literal["done", "failed"]
    structures: tuple[StructureResult, ...] = ()  # in the order of the context sets
    source: FileState | None = None  # of the image; None if it could not be read
    result: FileState | None = None
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""  # of a failure that was not the image's fault

    def is_current(self, image: BatchImage, output: Path, made_by: Mapping[str, str]) -> bool:
        """Whether there is a result, made from the present content of the image as it would be made now."""
        if self.status != "done" or self.source is None or self.made_by != made_by:
            return False
        try:
            return (output / image.result_name).is_file() and is_unchanged(files_of(image.path), self.source)
        except OSError:  # the image cannot be read: processing it will record why
            return False

    def result_was_edited(self, image: BatchImage, output: Path) -> bool:
        """Whether the result is there, but is not the file that was written."""
        if self.result is None:
            return False
        try:
            return not is_unchanged([output / image.result_name], self.result)
        except OSError:  # it is gone, and is made again
            return False


class RecordFolder:
    """The records in an output folder, one file for each image. What cannot be written raises FileFormatError."""

    def __init__(self, output: Path) -> None:
        """The folder of records may be missing."""
        self.folder = output / FOLDER

    def read(self, name: str) -> ImageRecord | None:
        """Read the record of an image; None if there is none, or it is damaged or of another version."""
        try:
            content = json.loads(self._path(name, ".json").read_bytes())
            if content.pop("version") != _VERSION or content["name"] != name:
                return None
            structures = tuple(StructureResult(**one) for one in content.pop("structures"))
            for key in ("source", "result"):
                content[key] = None if content[key] is None else FileState(**content[key])
            return ImageRecord(**content, structures=structures)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, record: ImageRecord) -> None:
        """Write a record in place of the former one."""
        content = {"version": _VERSION, **asdict(record)}
        with atomic_file(self._path(record.name, ".json"), ".json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")

    def remove(self, name: str) -> None:
        """Remove the record of an image, if there is one."""
        path = self._path(name, ".json")
        with system_errors(f"Cannot remove {path}", "Check its permissions."):
            path.unlink(missing_ok=True)

    def begin(self, name: str, run: str) -> int:
        """Note that work on an image begins; returns how often it was begun before in the same run, and not ended."""
        path = self._path(name, ".begun")
        with system_errors(f"Cannot write {path}", "Check free space."), open(path, "a+", encoding="ascii") as file:
            file.seek(0)
            before = file.read().splitlines().count(run)
            file.write(run + "\n")
            file.flush()
            os.fsync(file.fileno())
        return before

    def end(self, name: str) -> None:
        """Note that work on an image has ended, whatever became of it."""
        with contextlib.suppress(OSError):  # the note only serves to find images whose work never ended
            self._path(name, ".begun").unlink(missing_ok=True)

    def was_left(self, name: str) -> bool:
        """Whether work on an image was begun and not ended: perhaps it is what ended the program."""
        return self._path(name, ".begun").exists()

    def _path(self, name: str, extension: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_LONGEST_NAME].strip("-")
        # The digest distinguishes names with the same readable part, and is all there is of names in other scripts.
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        return self.folder / f"{readable}-{digest}{extension}".lstrip("-")


def write_tables(
    output: Path, names: Iterable[str], records: Mapping[str, ImageRecord], edited: Collection[str]
) -> None:
    """Write results.csv and times.csv, each whole or not at all.

    The first is the same however often a batch was interrupted. Images without a record are still to do; the record of
    those whose result was edited by hand does not describe it any more.

    Raises:
        FileFormatError: The operating system refuses to write.
    """
    rows, times = [], []
    for name in names:
        record = records.get(name)
        if name in edited:
            rows.append(_row(name, "changed", "the result was changed after it was written, and left as it is"))
        elif record is None:
            rows.append(_row(name, "to do"))
        elif record.status == "failed":
            rows.append(_row(name, "failed", record.error))
        else:
            rows += [_row(name, "done", found=one) for one in record.structures]
        if record is not None:
            times.append((name, f"{record.seconds:.1f}"))
    for path, header, lines in ((output / RESULTS, COLUMNS, rows), (output / TIMES, ("file", "seconds"), times)):
        # backslashreplace: names of files need not be valid text on Linux.
        with (
            atomic_file(path, ".csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([header, *lines])


def _row(name: str, status: str, error: str = "", found: StructureResult | None = None) -> tuple[str, ...]:
    if found is None:
        return (name, *[""] * 6, status, error)
    measures: list[tuple[float | None, int]] = [(found.volume_ml, 4), (found.area_mm2, 2), (found.slices, 0)]
    measures += [(found.mean_confidence, 4), (found.lowest_confidence, 4)]
    return (name, found.name, *("" if one is None else f"{one:.{digits}f}" for one, digits in measures), status, error)
