"""Context sets on disk: as a folder of pictures with a context.json, or all of that in one zip file.

Images are 16-bit grey PNG (65535 is an intensity of 1), masks 8-bit grey PNG (0 and 255), so that any program shows
them. Files are read as if a stranger had sent them: nothing is written to disk, nothing is read that context.json does
not name, and everything has a limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from scribblesegment.atomic_file import PathLike, atomic_file
from scribblesegment.context import ContextEntry, ContextSet, from_levels, to_levels
from scribblesegment.exceptions import ContextError, FileFormatError, GeometryError
from scribblesegment.io.context_manifest import (
    IMAGE_BITS,
    MANIFEST,
    MASK_BITS,
    OWN_PICTURE,
    Limits,
    Manifest,
    Record,
    manifest_bytes,
    parse_manifest,
    record_of,
)
from scribblesegment.io.png import png_bytes, read_png

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
    may write to a folder at a time (`scribblesegment.context_store` sees to that for the user's sets).

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
