"""Context sets on disk: as a folder of pictures with a context.json, or all of that in one zip file.

Images are 16-bit grey PNG (65535 is an intensity of 1), masks 8-bit grey PNG (0 and 255), so that any program shows
them. Files are read as if a stranger had sent them: nothing is written to disk, nothing is read that context.json does
not name, and everything has a limit.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet, from_levels, to_levels
from scribblesegment.errors import ContextError, FileFormatError, GeometryError
from scribblesegment.io.storage import PathLike, atomic_file

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY = 0  # colour type, PNG specification (ISO/IEC 15948), section 11.2.2


# More than zlib needs for noise, and what other programs write about a picture besides its pixels.
_OVERHEAD = 1 << 16


_REMEDY = "Export it again, or save it as a grey picture of the same size."


def png_bytes(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode pixels (H, W) as a grey PNG of 8 or 16 bits."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def largest_png(shape: tuple[int, int], bits: int) -> int:
    """Tell how many bytes a sound PNG of this shape may have; longer files need not be read to be refused."""
    height, width = shape
    pixels = height * (1 + width * bits // 8)
    return pixels + pixels // 100 + _OVERHEAD


def read_png(data: bytes, shape: tuple[int, int], bits: tuple[int, ...], where: str) -> NDArray[Any]:
    """Decode a grey PNG.

    The header is looked at before anything is decoded, so that a small file cannot ask for a large picture.

    Args:
        data: The file.
        shape: Its rows and columns.
        bits: Bits a pixel may have; of 1, 8 and 16.
        where: What messages call it.

    Returns:
        (H, W), bool for 1 bit, uint8 for 8 bits, uint16 for 16 bits.

    Raises:
        FileFormatError: Truncated or damaged, no PNG, or of another shape, depth or with colours.
    """
    from PIL import Image

    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise FileFormatError(f"{where} is no PNG picture, or only the beginning of one. {_REMEDY}")
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    if (height, width) != shape:
        raise FileFormatError(
            f"{where} has {height} rows and {width} columns; {shape[0]} and {shape[1]} were announced. {_REMEDY}"
        )
    if color != _GREY or depth not in bits:
        raise FileFormatError(
            f"{where} has {depth} bits and colour type {color}; expected grey (type 0) with "
            f"{' or '.join(map(str, bits))} bits. {_REMEDY}"
        )
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.verify()  # checksums, which decoding skips
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            # A second header further on would have changed what the first one said.
            if picture.size != (width, height):
                raise ValueError(f"it also announces {picture.size[1]} rows and {picture.size[0]} columns")
            pixels = np.asarray(picture)
    except Exception as cause:  # whatever a decoder raises in the middle of damaged data, the file is what is wrong
        raise FileFormatError(f"{where} is damaged: {cause}. {_REMEDY}") from cause
    wanted = {1: np.bool_, 8: np.uint8, 16: np.uint16}[depth]
    return pixels.astype(wanted, copy=False)  # Pillow gives 16 bits as int32 in some versions


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


EXTENSION = ".context.zip"

LIMITS = Limits()


# What an interrupted `atomic_file` leaves behind.
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.(png|json)")


# A folder is read again if another program saved it meanwhile, and so took away pictures of the former state. How often
# at most hardly matters: it would have to be saved as often within one reading.
_READINGS = 10


_END, _END_BYTES, _ZIP64_LOCATOR_BYTES = b"PK\x05\x06", 22, 20

_MEMBER_BYTES = 512  # of a zip's directory for each member: 46, its name, and what zip programs add


_Read = Callable[[str, int], bytes]


@dataclass(frozen=True)
class ContextSummary:
    """What context.json says about a set, without its pictures.

    Attributes:
        label_name: Name of the structure.
        entries: Number of entries.
    """

    label_name: str
    entries: int


def read_context(path: PathLike, *, limits: Limits = LIMITS) -> ContextSet:
    """Read a context set from a folder or from a file that `write_context_file` wrote.

    Args:
        path: Folder or file.
        limits: How much is accepted.

    Raises:
        FileFormatError: Missing, damaged, of an unknown version, larger than accepted, or with content that no context
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


def read_context_summary(folder: PathLike, *, limits: Limits = LIMITS) -> ContextSummary:
    """Read what a context set in a folder is about, without its pictures.

    Raises:
        FileFormatError: As `read_context`.
    """
    data = _read_file(Path(folder), MANIFEST, limits.manifest_bytes)
    manifest = parse_manifest(data, str(folder), limits)
    return ContextSummary(manifest.label_name, len(manifest.records))


def write_context_file(path: PathLike, context: ContextSet, *, limits: Limits = LIMITS) -> None:
    """Write a context set to one file, whole or not at all; an existing one is replaced.

    Args:
        path: File to write; its name ends in .context.zip.
        context: The set.
        limits: How much is accepted.

    Raises:
        FileFormatError: Another extension, a missing folder, or the operating system refuses to write.
        ContextError: The set is larger than could be read again.
    """
    if not os.fspath(path).lower().endswith(EXTENSION):
        raise FileFormatError(f"Cannot write a context set to {path}: the name must end in {EXTENSION}.")
    limits.check([entry.shape for entry in context], f"The set {context.label_name!r}")
    with atomic_file(path, EXTENSION) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_member(MANIFEST), manifest_bytes(context), zipfile.ZIP_DEFLATED)
        for entry in context:
            record = record_of(entry)
            archive.writestr(_member(record.image), _image_png(entry))  # stored: PNG is compressed already
            archive.writestr(_member(record.mask), _mask_png(entry))


def write_context_folder(folder: PathLike, context: ContextSet, *, limits: Limits = LIMITS) -> None:
    """Write a context set to a folder, so that at any moment the folder holds the old set or the new one.

    Pictures never change under their name. New ones are written first, then context.json is replaced in one step, then
    pictures that are no longer named are removed; what the folder holds already is not written again. Only one program
    may write to a folder at a time (`scribblesegment.context.store` sees to that for the user's sets).

    Args:
        folder: A folder that holds a context set, an empty one, or one to create in an existing folder.
        context: The set.
        limits: How much is accepted.

    Raises:
        FileFormatError: The folder holds other files and no context set, its parent is missing, or the operating
            system refuses to write; the former set is intact.
        ContextError: The set is larger than could be read again.
    """
    limits.check([entry.shape for entry in context], f"The set {context.label_name!r}")
    path = Path(folder)
    _make_folder(path)
    records = [record_of(entry) for entry in context]
    for entry, record in zip(context, records, strict=True):
        _write_new(path / record.image, entry, _image_png)
        _write_new(path / record.mask, entry, _mask_png)
    with atomic_file(path / MANIFEST, ".json") as temporary:
        temporary.write_bytes(manifest_bytes(context))
    _remove_own_files(path, keep={name for record in records for name in (record.image, record.mask)})


def remove_context_folder(folder: PathLike) -> None:
    """Remove a context set, and its folder unless other files lie there, which are left alone.

    Raises:
        FileFormatError: The operating system refuses to remove context.json; nothing was removed then.
    """
    path = Path(folder)
    try:
        (path / MANIFEST).unlink(missing_ok=True)  # first: without it nothing that is left passes for a set
    except OSError as cause:
        raise FileFormatError(
            f"Cannot remove {path / MANIFEST}: {cause.strerror or cause}. Close programs that use it; nothing was "
            "removed."
        ) from cause
    _remove_own_files(path, keep=set())
    with contextlib.suppress(OSError):  # not empty
        path.rmdir()


def holds_other_files(folder: PathLike) -> bool:
    """Whether a folder holds anything besides the files of a context set, or remains of one."""
    return any(
        name != MANIFEST and not OWN_PICTURE.fullmatch(name) and not _LEFTOVER.fullmatch(name)
        for name in os.listdir(folder)
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
        foreign = not (path / MANIFEST).exists() and holds_other_files(path)
    except OSError as cause:
        raise FileFormatError(
            f"Cannot write to the folder {path}: {cause.strerror or cause}. Its parent must be an existing folder "
            "with permission to write."
        ) from cause
    if foreign:
        raise FileFormatError(f"The folder {path} holds other files and no context set. Choose a new or empty folder.")


def _write_new(path: Path, entry: ContextEntry, encode: Callable[[ContextEntry], bytes]) -> None:
    if not path.is_file():  # else it has these pixels: the name says so
        with atomic_file(path, ".png") as temporary:
            temporary.write_bytes(encode(entry))


def _remove_own_files(path: Path, keep: set[str]) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            if name not in keep and (OWN_PICTURE.fullmatch(name) or _LEFTOVER.fullmatch(name)):
                with contextlib.suppress(OSError):  # another program shows it: the next save removes it
                    (path / name).unlink()


def _image_png(entry: ContextEntry) -> bytes:
    return png_bytes(to_levels(entry.image))


def _mask_png(entry: ContextEntry) -> bytes:
    return png_bytes(entry.mask.astype(np.uint8) * np.uint8(255))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the same set gives the same file
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _read_folder(folder: Path, limits: Limits) -> ContextSet:
    def read(name: str, most: int) -> bytes:
        return _read_file(folder, name, most)

    data = read(MANIFEST, limits.manifest_bytes)
    for _ in range(_READINGS - 1):
        try:
            return _assembled(parse_manifest(data, str(folder), limits), read, folder)
        except FileFormatError:
            latest = read(MANIFEST, limits.manifest_bytes)
            if latest == data:
                raise
            data = latest
    return _assembled(parse_manifest(data, str(folder), limits), read, folder)


def _read_file(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise FileFormatError(f"{path} is a link or no file. Put the file itself there.")
        with open(path, "rb") as file:
            return _bounded(file, most, str(path))
    except FileNotFoundError as cause:
        raise FileFormatError(f"{folder} lacks {name}. It is no context set, or not a complete one.") from cause
    except OSError as cause:
        if isinstance(cause, FileFormatError):
            raise
        raise FileFormatError(f"Cannot read {path}: {cause.strerror or cause}. Check its permissions.") from cause


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
        raise FileFormatError(f"Cannot read {path}: it is no zip file, or only a part of one. Export it again.")
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

    def read(name: str, most: int) -> bytes:
        where = f"{path}: {name}"
        if name not in members:
            raise FileFormatError(f"{path} lacks {name}. It is no context set, or not a complete one.")
        if members[name].file_size > most:
            raise FileFormatError(f"{where} is larger than the {most} bytes it may have.")
        with archive.open(members[name]) as file:
            return _bounded(file, most, where)

    manifest = parse_manifest(read(MANIFEST, limits.manifest_bytes), str(path), limits)
    unknown = sorted(members.keys() - manifest.files().keys() - {MANIFEST})
    if unknown:
        raise FileFormatError(f"{path} holds {unknown[0]!r}, which {MANIFEST} does not name. Export it again.")
    return _assembled(manifest, read, path)


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
        problem = "which is a link or no file"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        problem = "which is encrypted or compressed in an unusual way"
    else:
        return
    raise FileFormatError(
        f"{path} holds {name[:100]!r}, {problem}. A context set has only plain files; nothing was read."
    )


def _assembled(manifest: Manifest, read: _Read, path: PathLike) -> ContextSet:
    entries = [_entry(record, read, f"{path}: entry {place}") for place, record in enumerate(manifest.records)]
    try:
        return ContextSet(manifest.label_name, tuple(entries))
    except ContextError as cause:
        raise FileFormatError(f"{path}: {cause}") from cause


def _entry(record: Record, read: _Read, where: str) -> ContextEntry:
    most = record.files()
    image, mask = f"{where}, {record.image}", f"{where}, {record.mask}"
    levels = read_png(read(record.image, most[record.image]), record.shape, IMAGE_BITS, image)
    values = read_png(read(record.mask, most[record.mask]), record.shape, MASK_BITS, mask)
    if values.dtype == np.uint8 and not np.isin(values, (0, 255)).all():
        raise FileFormatError(f"{mask} has grey values; a mask is black and white (0 and 255). Threshold it.")
    try:
        return ContextEntry(
            from_levels(levels),
            values != 0,
            record.spacing_mm,
            source=record.source,
            axis=record.axis,
            index=record.index,
            identifier=record.identifier,
            created=record.created,
        )
    except (ContextError, GeometryError) as cause:
        raise FileFormatError(f"{where}: {cause}") from cause
