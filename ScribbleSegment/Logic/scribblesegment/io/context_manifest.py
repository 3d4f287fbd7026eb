"""context.json: what the pictures of a context set are, and where they come from.

It is read as something a stranger may have written: every type, number and name is checked before it is used.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from scribblesegment.context import ContextEntry, ContextSet
from scribblesegment.exceptions import ContextError, FileFormatError
from scribblesegment.io.png import largest_png

MANIFEST = "context.json"
FORMAT = "ScribbleSegment context set"
VERSION = 1

IMAGE_BITS, MASK_BITS = (16,), (1, 8)

# No folders, no drive letters, no "..", no Windows device (they end before the first dot), no hidden files.
_PICTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{4,127}\.png")


@dataclass(frozen=True)
class Limits:
    """How large a context set on disk may be.

    Attributes:
        entries: Most entries.
        side: Most rows or columns of an image.
        pixels: Most pixels of an image.
        pixels_in_all: Most pixels of all images together; each takes 5 bytes of memory.
        manifest_bytes: Largest context.json.
    """

    entries: int = 4096
    side: int = 16384
    pixels: int = 1 << 24
    pixels_in_all: int = 1 << 28
    manifest_bytes: int = 1 << 24

    def check(self, shapes: list[tuple[int, int]], where: str) -> None:
        """Raise ContextError if images of these shapes are too many or too large."""
        if len(shapes) > self.entries:
            raise ContextError(f"{where} has {len(shapes)} entries; at most {self.entries} are stored together.")
        for place, (height, width) in enumerate(shapes):
            if max(height, width) > self.side or height * width > self.pixels:
                raise ContextError(
                    f"{where}: entry {place} has {height} x {width} pixels; at most {self.pixels} pixels and "
                    f"{self.side} on a side are stored. Crop it or make it smaller."
                )
        total = sum(height * width for height, width in shapes)
        if total > self.pixels_in_all:
            raise ContextError(
                f"{where} has {total} pixels in all its images; at most {self.pixels_in_all} are stored together. "
                "Remove entries or make two sets."
            )


@dataclass(frozen=True)
class Record:
    """One entry of context.json; what it says is checked for types only."""

    image: str
    mask: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    source: str
    axis: int | None
    index: int | None
    identifier: str
    created: str

    def files(self) -> dict[str, int]:
        """Give the names of its two pictures with the most bytes each may have."""
        return {
            self.image: largest_png(self.shape, max(IMAGE_BITS)),
            self.mask: largest_png(self.shape, max(MASK_BITS)),
        }


@dataclass(frozen=True)
class Manifest:
    """What context.json says."""

    label_name: str
    records: tuple[Record, ...]

    def files(self) -> dict[str, int]:
        """Give the names of all pictures with the most bytes each may have."""
        return {name: size for record in self.records for name, size in record.files().items()}


def record_of(entry: ContextEntry) -> Record:
    """Describe an entry. File names change with the pixels, so that no picture is ever written over another one."""
    stem = f"{entry.identifier}-{entry.digest[:16]}"
    return Record(
        image=f"{stem}-image.png",
        mask=f"{stem}-mask.png",
        shape=entry.shape,
        spacing_mm=entry.spacing_mm,
        source=entry.source,
        axis=entry.axis,
        index=entry.index,
        identifier=entry.identifier,
        created=entry.created,
    )


OWN_PICTURE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}-[0-9a-f]{16}-(image|mask)\.png")
"""Names that `record_of` gives to pictures."""


def manifest_bytes(context: ContextSet) -> bytes:
    """Write what context.json says about a set."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "label_name": context.label_name,
        "entries": [vars(record_of(entry)) for entry in context],
    }
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def parse_manifest(data: bytes, where: str, limits: Limits) -> Manifest:
    """Read context.json.

    Args:
        data: Its content.
        where: What messages call the set.
        limits: How much is accepted.

    Raises:
        FileFormatError: Not such a file, of an unknown version, with missing fields, wrong types, unsafe or repeated
            names, or more than is accepted.
    """
    content = _parse_object(data, where)
    if content.get("format") != FORMAT:
        raise FileFormatError(f"{where} is no context set: {MANIFEST} does not say format {FORMAT!r}.")
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        raise FileFormatError(
            f"{where} has version {content.get('version')!r} of the format; this program reads version {VERSION}. "
            "Update the program."
        )
    label_name = _field(content, "label_name", str, where)
    items = _field(content, "entries", list, where)
    if len(items) > limits.entries:
        raise FileFormatError(f"{where} has {len(items)} entries; at most {limits.entries} are read.")
    records = tuple(_record(item, f"{where}: entry {place}") for place, item in enumerate(items))
    try:
        limits.check([record.shape for record in records], where)
    except ContextError as cause:
        raise FileFormatError(str(cause)) from cause
    seen: set[str] = set()
    for name in (name for record in records for name in (record.image, record.mask)):
        if name.lower() in seen:  # also where case does not count
            raise FileFormatError(f"{where} names the picture {name!r} twice. Each image and mask needs its own.")
        seen.add(name.lower())
    return Manifest(label_name, records)


def _parse_object(data: bytes, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        content = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as cause:
        raise FileFormatError(f"{where}: {MANIFEST} is no JSON text: {cause}. Export the set again.") from cause
    return _checked(content, dict, f"{where}: {MANIFEST}")


def _record(item: Any, where: str) -> Record:
    values = _checked(item, dict, where)
    shape = _pair(values, "shape", int, where)
    if min(shape) < 1:
        raise FileFormatError(f"{where} has the shape {list(shape)}; both numbers must be 1 or above.")
    return Record(
        image=_picture(values, "image", where),
        mask=_picture(values, "mask", where),
        shape=shape,
        spacing_mm=_pair(values, "spacing_mm", float, where),
        source=_field(values, "source", str, where),
        axis=_optional_int(values, "axis", where),
        index=_optional_int(values, "index", where),
        identifier=_field(values, "identifier", str, where),
        created=_field(values, "created", str, where),
    )


def _picture(values: dict[str, Any], key: str, where: str) -> str:
    name: str = _field(values, key, str, where)
    if not _PICTURE.fullmatch(name):
        raise FileFormatError(
            f"{where} names {name[:100]!r} as its {key}. Pictures lie beside {MANIFEST}; their names have 5 or "
            "more letters, digits, '-' and '_' and end in .png."
        )
    return name


def _optional_int(values: dict[str, Any], key: str, where: str) -> int | None:
    number: int | None = None if key in values and values[key] is None else _field(values, key, int, where)
    return number


def _pair(values: dict[str, Any], key: str, kind: type, where: str) -> tuple[Any, Any]:
    pair = _field(values, key, list, where)
    if len(pair) != 2:
        raise FileFormatError(f"{where} has {len(pair)} numbers as {key!r}, expected two: rows and columns.")
    first, second = (_checked(value, kind, f"{where}, {key!r}") for value in pair)
    return first, second


def _field(values: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in values:
        raise FileFormatError(f"{where} lacks {key!r}. Export the set again.")
    return _checked(values[key], kind, f"{where}, {key!r}")


def _checked(value: Any, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FileFormatError(f"{where} is a {type(value).__name__}, expected a {kind.__name__}. Export the set again.")
    return value
