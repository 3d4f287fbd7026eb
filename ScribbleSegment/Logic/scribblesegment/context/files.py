"""Context sets on disk: as a folder of pictures with a context.json, or all of that in one zip file.

Images are 16-bit grey PNG (65535 is an intensity of 1), masks 8-bit grey PNG (0 and 255), so that any program shows
them. Files are read as if a stranger had sent them: nothing is written to disk, nothing is read that context.json does
not name, no link is followed, and everything has a limit.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet, from_uint16, to_uint16
from scribblesegment.errors import ContextError, FileFormatError, GeometryError
from scribblesegment.io.fields import Fields, parse_json
from scribblesegment.io.storage import PathLike, atomic_file, is_temporary, system_errors

EXTENSION = ".context.zip"
MANIFEST = "context.json"
FORMAT = "ScribbleSegment context set"
VERSION = 1

# No folders, no drive letters, no "..", no Windows device (they end before the first dot), no hidden files.
_PICTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{4,127}\.png")
_OWN_PICTURE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}-[0-9a-f]{16}-(image|mask)\.png")

_MODES = {16: ("I;16", "I"), 8: ("1", "L")}  # Pillow's names of grey pictures, by their largest number of bits
_KINDS = {"1": "1-bit grey", "L": "8-bit grey", "I;16": "16-bit grey", "I": "16-bit grey"}
_PNG_OVERHEAD = 1 << 16  # more than zlib needs for noise, and what other programs write beside the pixels
_KEPT = ("source", "axis", "index", "identifier", "created")  # as they are
_SPACING_RANGE_MM = (1e-6, 1e6)
_HIGHEST_INDEX = (1 << 31) - 1
_LONGEST_SOURCE = 4096  # of which an entry keeps a name

# A folder is read again if another program saved it meanwhile, and so took away pictures of the former state. How often
# at most hardly matters: it would have to be saved as often within one reading.
_READINGS = 10

_END, _END_BYTES, _ZIP64_LOCATOR_BYTES = b"PK\x05\x06", 22, 20
_MEMBER_BYTES = 512  # of a zip's directory for each member: 46, its name, and what zip programs add

_Read = Callable[[str, int], bytes]


@dataclass(frozen=True)
class Limits:
    """How large a context set on disk may be."""

    entries: int = 4096
    side: int = 16384  # rows or columns of an image
    pixels: int = 1 << 24  # of an image
    pixels_in_all: int = 1 << 28  # each takes 5 bytes of memory
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


LIMITS = Limits()


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_context(path: PathLike, *, limits: Limits = LIMITS) -> ContextSet:
    """Read a context set from a folder, or from a file that `write_context_file` wrote.

    Raises:
        FileFormatError: missing, damaged, of an unknown version, larger than accepted, or with content that no context
            set has; the message names the file and the entry.
    """
    if os.path.isdir(path):
        return _read_folder(Path(path), limits)
    if not os.path.exists(path):
        raise FileFormatError(f"Cannot read {path}: there is no such file or folder. Check the path.")
    try:
        with open(path, "rb") as file:
            _check_directory(file, path, limits)
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, path, limits)
    except FileFormatError:
        raise
    # A damaged archive ends in any of these, one with an encrypted or exotically compressed member in RuntimeError.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error) as cause:
        raise FileFormatError(f"Cannot read {path}: {cause}. Copy or export it again.") from cause


def read_context_summary(folder: PathLike) -> tuple[str, int]:
    """Return the name of the structure and the number of entries of a set in a folder; no picture is read.

    Raises:
        FileFormatError: as `read_context`.
    """
    data = read_plain_file(Path(folder), MANIFEST, LIMITS.manifest_bytes)
    label_name, records = _parse_manifest(data, str(folder), LIMITS)
    return label_name, len(records)


def read_plain_file(folder: Path, name: str, most: int) -> bytes:
    """Return the bytes of a file, unless it is a link or longer than `most`.

    Raises:
        FileFormatError: that, or it is missing or cannot be read.
    """
    path = folder / name
    with system_errors(f"Cannot read {path}", "Check its permissions."):
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise FileFormatError(f"{path} is a link or not a file. Put the file itself there.")
            with open(path, "rb") as file:
                return _bounded(file, most, str(path))
        except FileNotFoundError as cause:
            raise FileFormatError(f"{folder} lacks {name}. It is not a context set, or not a complete one.") from cause


def _read_folder(folder: Path, limits: Limits) -> ContextSet:
    def read(name: str, most: int) -> bytes:
        return read_plain_file(folder, name, most)

    data = read(MANIFEST, limits.manifest_bytes)
    for _ in range(_READINGS - 1):
        try:
            return _assembled(data, read, str(folder), limits)
        except FileFormatError:
            latest = read(MANIFEST, limits.manifest_bytes)
            if latest == data:
                raise
            data = latest
    return _assembled(data, read, str(folder), limits)


def _bounded(file: IO[bytes], most: int, where: str) -> bytes:
    # One byte more than may be there: what a header says about the length is never believed.
    data = file.read(most + 1)
    if len(data) > most:
        raise FileFormatError(f"{where} is larger than the {most} bytes it may have.")
    return data


def _check_directory(file: IO[bytes], path: PathLike, limits: Limits) -> None:
    """Refuse an archive whose directory alone is too long, before zipfile reads it into memory.

    The end of a zip file says how long the directory is (APPNOTE.TXT, section 4.3.16). Archives that need the 64-bit
    format have more members or bytes than any set that is accepted.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES - 0xFFFF - _ZIP64_LOCATOR_BYTES))
    tail = file.read()
    start = tail.rfind(_END)
    if start < 0 or start + _END_BYTES > len(tail):
        raise FileFormatError(f"Cannot read {path}: it is not a zip file, or only a part of one. Export it again.")
    members, directory_bytes = struct.unpack("<HI", tail[start + 10 : start + 16])
    is_zip64 = tail[max(0, start - _ZIP64_LOCATOR_BYTES) : start].startswith(b"PK\x06\x07")
    most = 2 * limits.entries + 1
    if is_zip64 or members > most or directory_bytes > most * _MEMBER_BYTES:
        raise FileFormatError(
            f"{path} has {members} members, with {directory_bytes} bytes of directory; at most {most} members are read."
        )
    file.seek(0)


def _read_archive(archive: zipfile.ZipFile, path: PathLike, limits: Limits) -> ContextSet:
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in archive.infolist():
        _check_member(info, path)
        if info.filename.lower() in seen:
            raise FileFormatError(f"{path} holds {info.filename!r} twice, and the two may differ. Export it again.")
        seen.add(info.filename.lower())
        members[info.filename] = info
    used = {MANIFEST}

    def read(name: str, most: int) -> bytes:
        where = f"{path}: {name}"
        if name not in members:
            raise FileFormatError(f"{path} lacks {name}. It is not a context set, or not a complete one.")
        if members[name].file_size > most:
            raise FileFormatError(f"{where} is larger than the {most} bytes it may have.")
        used.add(name)
        with archive.open(members[name]) as file:
            return _bounded(file, most, where)  # to its end, where zipfile compares the checksum

    context = _assembled(read(MANIFEST, limits.manifest_bytes), read, str(path), limits)
    unknown = sorted(members.keys() - used)
    if unknown:
        raise FileFormatError(f"{path} holds {unknown[0]!r}, which {MANIFEST} does not name. Export it again.")
    return context


def _check_member(info: zipfile.ZipInfo, path: PathLike) -> None:
    name = info.orig_filename  # as it is in the archive
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        problem = "which is an absolute path"
    elif ".." in re.split(r"[/\\]", name):
        problem = "which leads out of the archive"
    elif "/" in name or "\\" in name or "\0" in name:
        problem = "which lies in a folder or has no proper name"
    elif kind not in (0, stat.S_IFREG):
        problem = "which is a link or not a file"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        problem = "which is encrypted or compressed in an unusual way"
    else:
        return
    raise FileFormatError(
        f"{path} holds {name[:100]!r}, {problem}. A context set has only plain files; nothing was read."
    )


def _assembled(manifest: bytes, read: _Read, where: str, limits: Limits) -> ContextSet:
    label_name, records = _parse_manifest(manifest, where, limits)
    entries = [_entry(record, read, f"{where}: entry {place}") for place, record in enumerate(records)]
    try:
        return ContextSet(label_name, tuple(entries))
    except ContextError as cause:
        raise FileFormatError(f"{where}: {cause}") from cause


def _entry(record: _Record, read: _Read, where: str) -> ContextEntry:
    image, mask = (
        read_png(read(name, _largest_png(record.shape, bits)), record.shape, bits, f"{where}, {name}")
        for name, bits in ((record.image, 16), (record.mask, 8))
    )
    if mask.dtype == np.uint8 and not np.isin(mask, (0, 255)).all():
        raise FileFormatError(
            f"{where}, {record.mask} has grey values; a mask is black and white (0 and 255). Threshold it."
        )
    kept = {name: getattr(record, name) for name in _KEPT}
    try:
        return ContextEntry(from_uint16(image.astype(np.uint16, copy=False)), mask != 0, record.spacing_mm, **kept)
    except (ContextError, GeometryError) as cause:
        raise FileFormatError(f"{where}: {cause}") from cause


# --- context.json ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """One entry of context.json, field by field."""

    image: str
    mask: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    source: str
    axis: int | None
    index: int | None
    identifier: str
    created: str


def _record_of(entry: ContextEntry) -> _Record:
    """Describe an entry. File names change with the pixels, so that no picture is ever written over another one."""
    stem = f"{entry.identifier}-{entry.digest[:16]}"
    kept = {name: getattr(entry, name) for name in ("shape", "spacing_mm", *_KEPT)}
    return _Record(f"{stem}-image.png", f"{stem}-mask.png", **kept)


def _manifest_bytes(context: ContextSet) -> bytes:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "label_name": context.label_name,
        "entries": [vars(_record_of(entry)) for entry in context],
    }
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _parse_manifest(data: bytes, where: str, limits: Limits) -> tuple[str, list[_Record]]:
    """Return the name of the structure and the entries, checked for types, sizes and unsafe or repeated names."""
    content = parse_json(data, f"{where}: {MANIFEST}")
    fields = Fields(content, f"{where}: {MANIFEST}")
    if content.get("format") != FORMAT:
        raise FileFormatError(f"{where} is not a context set: {MANIFEST} does not say format {FORMAT!r}.")
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        raise FileFormatError(
            f"{where} has version {str(content.get('version'))[:40]} of the format; this program reads version "
            f"{VERSION}. Update the program."
        )
    label_name = fields.text("label_name")
    items = fields.items("entries", limits.entries)
    records = [_record(item, f"{where}: entry {place}", limits) for place, item in enumerate(items)]
    try:
        limits.check([record.shape for record in records], where)
    except ContextError as cause:
        raise FileFormatError(str(cause)) from cause
    seen: set[str] = set()
    for name in (name for record in records for name in (record.image, record.mask)):
        if name.lower() in seen:  # also where case does not count
            raise FileFormatError(f"{where} names the picture {name!r} twice. Each image and mask needs its own.")
        seen.add(name.lower())
    return label_name, records


def _record(item: Any, where: str, limits: Limits) -> _Record:
    fields = Fields(item, where)
    for key in ("image", "mask"):
        if not _PICTURE.fullmatch(fields.text(key, 1000)):
            raise FileFormatError(
                f"{where} names {item[key][:100]!r} as its {key}. Pictures lie beside {MANIFEST}; their names have 5 "
                "or more letters, digits, '-' and '_' and end in .png."
            )
    height, width = fields.integers("shape", 2, 1, 1 << 40)
    row_mm, column_mm = fields.numbers("spacing_mm", 2, *_SPACING_RANGE_MM)
    return _Record(
        item["image"],
        item["mask"],
        (height, width),
        (row_mm, column_mm),
        fields.text("source", _LONGEST_SOURCE),
        fields.integer("axis", 0, 2, optional=True),
        fields.integer("index", 0, _HIGHEST_INDEX, optional=True),
        fields.text("identifier"),
        fields.text("created"),
    )


# --- Pictures --------------------------------------------------------------------------------------------------------


def png_bytes(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode pixels (H, W) as a grey PNG of 8 or 16 bits."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _largest_png(shape: tuple[int, int], bits: int) -> int:
    """Return how many bytes a sound PNG of this shape may have; longer files need not be read to be refused."""
    height, width = shape
    pixels = height * (1 + width * bits // 8)
    return pixels + pixels // 100 + _PNG_OVERHEAD


def read_png(data: bytes, shape: tuple[int, int], bits: int, where: str) -> NDArray[Any]:
    """Decode a grey PNG of this shape, after a look at its header, so that a small file cannot ask for a large picture.

    It has 16 bits, or 8 for a mask, which may have 1 bit as well.

    Raises:
        FileFormatError: truncated or damaged, no PNG, or of another shape or depth, or with colours.
    """
    from PIL import Image

    remedy = "Export it again, or save it as a grey picture of the same size."
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            size, mode = picture.size[::-1], picture.mode
            if size == shape and mode in _MODES[bits]:
                picture.verify()  # checksums, which decoding skips
                with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
                    return np.asarray(again)
    except Exception as cause:  # whatever a decoder raises in the middle of damaged data, the file is what is wrong
        raise FileFormatError(f"{where} is damaged, or is not a PNG picture: {cause}. {remedy}") from cause
    raise FileFormatError(
        f"{where} has {size[0]} rows and {size[1]} columns of {_KINDS.get(mode, 'colours')}; expected {shape[0]} and "
        f"{shape[1]} of {bits}-bit grey. {remedy}"
    )


# --- Writing ---------------------------------------------------------------------------------------------------------


def write_context_file(path: PathLike, context: ContextSet) -> None:
    """Write a context set to one file (.context.zip), whole or not at all; an existing one is replaced.

    Raises:
        FileFormatError: another extension, a missing folder, or the operating system refuses to write.
        ContextError: the set is larger than could be read again.
    """
    if not os.fspath(path).lower().endswith(EXTENSION):
        raise FileFormatError(f"Cannot write a context set to {path}: the name must end in {EXTENSION}.")
    LIMITS.check([entry.shape for entry in context], f"The set {context.label_name!r}")
    with atomic_file(path, EXTENSION) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_member(MANIFEST), _manifest_bytes(context), zipfile.ZIP_DEFLATED)
        for entry in context:
            for name, pixels in _pictures(entry):
                archive.writestr(_member(name), png_bytes(pixels()))  # stored: PNG is compressed already


def write_context_folder(folder: PathLike, context: ContextSet) -> None:
    """Write a context set to a folder, so that at any moment the folder holds the old set or the new one.

    Pictures never change under their name. New ones are written first, then context.json is replaced in one step, then
    pictures that are no longer named are removed; what the folder holds already is not written again. Only one program
    may write to a folder at a time (`scribblesegment.context.store` sees to that for the user's sets). The folder holds
    a context set, is empty, or is created in an existing folder.

    Raises:
        FileFormatError: the folder holds links, or other files and no context set, its parent is missing, or the
            operating system refuses to write; the former set is intact.
        ContextError: the set is larger than could be read again.
    """
    LIMITS.check([entry.shape for entry in context], f"The set {context.label_name!r}")
    path = Path(folder)
    remedy = "Its parent must be an existing folder with permission to write."
    with system_errors(f"Cannot write to the folder {path}", remedy):
        path.mkdir(exist_ok=True)
        foreign = not os.path.lexists(path / MANIFEST) and holds_other_files(path)
    if foreign:
        raise FileFormatError(f"The folder {path} holds other files and no context set. Choose a new or empty folder.")
    named = set()
    for entry in context:
        for name, pixels in _pictures(entry):
            named.add(name)
            if os.path.islink(path / name) or not os.path.isfile(path / name):  # else it has these pixels, by its name
                with atomic_file(path / name, ".png", follow_link=False) as temporary:
                    temporary.write_bytes(png_bytes(pixels()))
    with atomic_file(path / MANIFEST, ".json", follow_link=False) as temporary:
        temporary.write_bytes(_manifest_bytes(context))
    _remove_own_files(path, keep=named)


def remove_context_folder(folder: PathLike) -> None:
    """Remove a context set, and its folder unless other files lie there, which are left alone.

    Raises:
        FileFormatError: the operating system refuses to remove context.json; nothing was removed then.
    """
    path = Path(folder)
    with system_errors(f"Cannot remove {path / MANIFEST}", "Close programs that use it; nothing was removed."):
        (path / MANIFEST).unlink(missing_ok=True)  # first: without it nothing that is left passes for a set
    _remove_own_files(path, keep=())
    with contextlib.suppress(OSError):  # not empty
        path.rmdir()


def holds_other_files(folder: PathLike) -> bool:
    """Whether a folder holds anything besides the files of a context set, or remains of one."""
    return any(name != MANIFEST and not _is_own(name) and not is_temporary(name) for name in os.listdir(folder))


def _is_own(name: str) -> bool:
    return _OWN_PICTURE.fullmatch(name) is not None


def _remove_own_files(path: Path, keep: Iterable[str]) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            if name not in keep and _is_own(name):
                with contextlib.suppress(OSError):  # another program shows it: the next save removes it
                    (path / name).unlink()


def _pictures(entry: ContextEntry) -> list[tuple[str, Callable[[], NDArray[Any]]]]:
    """Return the names of the two pictures of an entry, with what makes their pixels."""
    record = _record_of(entry)
    return [
        (record.image, lambda: to_uint16(entry.image)),
        (record.mask, lambda: entry.mask.astype(np.uint8) * np.uint8(255)),
    ]


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the same set gives the same file
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
