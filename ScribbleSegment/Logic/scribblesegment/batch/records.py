"""What became of each image, kept beside the results so that a batch can go on where it was left.

A record is written after the result it speaks of, and removed before that result is replaced: at whatever moment the
program ends, a record never speaks of a result that is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scribblesegment.batch.file_state import FileState
from scribblesegment.errors import FileFormatError
from scribblesegment.io.storage import atomic_file

FOLDER = ".scribblesegment"

_VERSION = 1
_LONGEST_NAME = 40  # of the readable part

# What an interrupted `atomic_file` leaves behind.
LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.(json|csv|seg\.nrrd|context\.zip)")


@dataclass(frozen=True)
class StructureResult:
    """One structure in one image.

    Attributes:
        name: What it is called.
        slices: Slices in which it was found.
        volume_ml: Its volume in millilitres; None in an image of one slice.
        area_mm2: Its area in square millimetres; None in a volume.
        mean_confidence: Of the slices, in [0, 1]; None if there are none.
        lowest_confidence: Of the slices, in [0, 1]; None if there are none.
    """

    name: str
    slices: int
    volume_ml: float | None
    area_mm2: float | None
    mean_confidence: float | None
    lowest_confidence: float | None


@dataclass(frozen=True)
class ImageRecord:
    """What became of one image.

    Attributes:
        name: The image.
        made_by: Digests of what the result depends on besides the image, by what they are of.
        status: Whether there is a result.
        structures: What was found, in the order of the context sets.
        source: The image's files; None if they could not be read.
        result: The result's file; None without a result.
        seconds: How long it took.
        error: Why there is no result.
        traceback: Where, if that was no fault of the image.
    """

    name: str
    made_by: Mapping[str, str]
    status: Literal["done", "failed"]
    structures: tuple[StructureResult, ...] = ()
    source: FileState | None = None
    result: FileState | None = None
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""


class RecordFolder:
    """The records of an output folder, one file for each image.

    Attributes:
        folder: Where they lie.
    """

    def __init__(self, output: Path) -> None:
        """Use the records in an output folder, whose folder of records may be missing."""
        self.folder = output / FOLDER

    def read(self, name: str) -> ImageRecord | None:
        """Read what became of an image; None if nothing is known, or the record is damaged or of another version."""
        try:
            content = json.loads(self._path(name, ".json").read_bytes())
            if content.pop("version") != _VERSION or content["name"] != name:
                return None
            structures = tuple(StructureResult(**one) for one in content.pop("structures"))
            source, result = (_state(content.pop(key)) for key in ("source", "result"))
            return ImageRecord(**content, structures=structures, source=source, result=result)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, record: ImageRecord) -> None:
        """Keep a record, in place of the former one.

        Raises:
            FileFormatError: The operating system refuses to write.
        """
        content = {"version": _VERSION, **asdict(record)}
        with atomic_file(self._path(record.name, ".json"), ".json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")

    def forget(self, name: str) -> None:
        """Remove the record of an image, if there is one.

        Raises:
            FileFormatError: The operating system refuses to remove it.
        """
        path = self._path(name, ".json")
        try:
            path.unlink(missing_ok=True)
        except OSError as cause:
            raise FileFormatError(f"Cannot remove {path}: {cause.strerror or cause}. Check its permissions.") from cause

    def begin(self, name: str, run: str) -> int:
        """Note that work on an image begins; returns how often it was begun before in the same run, and not ended.

        Raises:
            FileFormatError: The operating system refuses to write.
        """
        path = self._path(name, ".begun")
        try:
            with open(path, "a+", encoding="ascii") as file:
                file.seek(0)
                before = file.read().splitlines().count(run)
                file.write(run + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as cause:
            raise FileFormatError(f"Cannot write {path}: {cause.strerror or cause}. Check free space.") from cause
        return before

    def end(self, name: str) -> None:
        """Note that work on an image has ended, whatever became of it."""
        with contextlib.suppress(OSError):  # it only tells which images were never ended
            self._path(name, ".begun").unlink(missing_ok=True)

    def was_left(self, name: str) -> bool:
        """Whether work on an image was begun and not ended: perhaps it is what ended the program."""
        return self._path(name, ".begun").exists()

    def _path(self, name: str, extension: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_LONGEST_NAME].strip("-")
        # The digest keeps names apart that look alike so, and is all there is of names in other scripts.
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        return self.folder / f"{readable}-{digest}{extension}".lstrip("-")


def _state(content: Mapping[str, Any] | None) -> FileState | None:
    return None if content is None else FileState(**content)
