"""Voxels from files into one array, with compressed streams read to their end, where their checksums are."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.errors import FileFormatError, GeometryError
from scribblesegment.io.sitk import DAMAGED, voxels_of
from scribblesegment.io.storage import PathLike

_PIECE_BYTES = 1 << 18
_LARGEST_RATIO = 1040  # no deflate stream expands by more than 1032 to 1
_LONGEST_HEADER = 1 << 24
_TRUE = ("T", "t", "1")  # MetaImage looks at the first letter
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class InflatedFile(io.RawIOBase):
    """What a gzip or zlib file holds; gzip files may have several members, one after the other.

    Reading to the end raises FileFormatError for a wrong checksum, a stream that is cut off, and bytes behind it.
    """

    def __init__(self, file: IO[bytes], path: PathLike) -> None:
        self._file, self._path = file, path
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        first = file.read(1)
        self._gzip = first == b"\x1f"
        file.seek(-len(first), os.SEEK_CUR)

    def readable(self) -> bool:
        """Return True, as `io.RawIOBase` asks for."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill the target, or the beginning of it; 0 is the end."""
        while not self._inflate.eof or self._next_member():
            compressed = self._inflate.unconsumed_tail or self._file.read(_PIECE_BYTES)
            if not compressed:
                raise self._damage("they end too early")
            try:
                data = self._inflate.decompress(compressed, len(target))
            except zlib.error as cause:
                raise self._damage(str(cause).rpartition(": ")[2]) from cause
            if data:
                target[: len(data)] = data
                return len(data)
        return 0

    def _next_member(self) -> bool:
        rest = (self._inflate.unused_data + self._file.read(_PIECE_BYTES)).lstrip(b"\0")  # padding of tape drives
        if not rest:
            return False
        if not (self._gzip and rest.startswith(b"\x1f")):
            raise self._damage("other bytes follow them")
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._file.seek(-len(rest), os.SEEK_CUR)
        return True

    def _damage(self, problem: str) -> FileFormatError:
        return FileFormatError(f"Cannot read {self._path}: its compressed data are damaged ({problem}). {DAMAGED}")


def read_voxels(
    stream: io.RawIOBase | IO[bytes],
    shape: Sequence[int],
    dtype: np.dtype[Any],
    path: PathLike,
    *,
    file_bytes: int,
    exact: bool = True,
) -> NDArray[Any]:
    """Fill one array from a stream that is at the first voxel, and read a compressed stream to its end.

    The array has the processor's byte order. One that a file of `file_bytes` cannot hold takes no memory. If `exact`,
    nothing may follow the voxels.

    Raises:
        FileFormatError: the stream is damaged, or holds fewer or more voxels than announced.
    """
    compressed = isinstance(stream, InflatedFile)
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if wanted > file_bytes * (_LARGEST_RATIO if compressed else 1):
        raise FileFormatError(
            f"Cannot read {path}: {wanted} bytes of voxels are announced, the file has {file_bytes}. {DAMAGED}"
        )
    voxels = np.empty(shape, dtype)
    target: memoryview = voxels.reshape(-1).view(np.uint8).data
    got = 0
    while got < wanted:
        count = stream.readinto(target[got : got + _PIECE_BYTES])  # type: ignore[union-attr]
        if not count:
            raise FileFormatError(f"Cannot read {path}: {got} of {wanted} bytes of voxels are there. {DAMAGED}")
        got += count
    if compressed:
        while piece := stream.read(_PIECE_BYTES):
            if exact:
                raise FileFormatError(
                    f"Cannot read {path}: more than the {wanted} announced bytes of voxels are there. {DAMAGED}"
                )
            del piece
    return voxels if dtype.isnative else voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))


def read_after_header(path: PathLike, reader: sitk.ImageFileReader) -> NDArray[Any] | None:
    """Read the voxels of a NRRD or MetaImage file, whose damage SimpleITK does not notice where they are compressed.

    The reader knows their number and type.

    Returns:
        (K, J, I), or (K, J, I, C) with several components; None where the voxels are text, or lie somewhere else than
        after the header or in one file beside it: those are SimpleITK's to read.

    Raises:
        FileFormatError: the voxels are damaged or cut off, or do not fit the header.
        GeometryError: a NRRD file says that a distance of voxels is not a number.
    """
    with open(path, "rb") as file:
        is_nrrd = file.read(4) == b"NRRD"
        file.seek(0)
        fields = _nrrd_fields(file) if is_nrrd else _metaimage_fields(file)
        components = reader.GetNumberOfComponents()
        if is_nrrd:
            _check_nrrd_spacings(fields, components, path)
            kinds = [kind in ("domain", "space") for kind in fields.get("kinds", "").lower().split()] or [False]
            last = components > 1 and kinds[0] and not kinds[-1]  # the components; else they come first
            usual = components == 1 or last or not kinds[0]
            skipped = any(fields.get(name, "0") != "0" for name in ("line skip", "byte skip"))
            encoding = fields.get("encoding", "").lower()
            compressed = encoding in ("gzip", "gz")
            usual = usual and (compressed or encoding == "raw") and not skipped
            data_file = fields.get("data file", fields.get("datafile", ""))
            big = fields.get("endian", "").lower() == "big"
        else:
            last = False
            compressed = fields.get("CompressedData", "F")[:1] in _TRUE
            usual = fields.get("HeaderSize", "0") == "0" and fields.get("BinaryData", "T")[:1] in _TRUE
            data_file = fields.get("ElementDataFile", "")
            data_file = "" if data_file.lower() == "local" else data_file
            order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "F"))
            big = order[:1] in _TRUE
        elsewhere = Path(path).parent / data_file
        if not usual or (data_file and not elsewhere.is_file()):  # a list or a pattern of several files
            return None
        size = (*reader.GetSize(), 1, 1)[:3]
        one = voxels_of(sitk.Image([1, 1, 1], reader.GetPixelID(), components))
        several = [components] if components > 1 else []
        shape = [*several, *reversed(size)] if last else [*reversed(size), *several]
        with open(elsewhere, "rb") if data_file else file as data:
            file_bytes = os.fstat(data.fileno()).st_size
            stream: Any = InflatedFile(data, path) if compressed else data
            voxels = read_voxels(
                stream, shape, one.dtype.newbyteorder(">" if big else "<"), path, file_bytes=file_bytes
            )
            return np.moveaxis(voxels, 0, -1) if last else voxels


def _nrrd_fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a NRRD header; the file is left behind the empty line that ends it."""
    fields: dict[str, str] = {}
    while line := file.readline(_LONGEST_HEADER).strip():
        key, found, value = line.decode("utf-8", "replace").partition(": ")
        if found and not key.startswith("#") and ":=" not in key:
            fields[key.strip().lower()] = value.strip()
    return fields


def _metaimage_fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a MetaImage header; the file is left behind the last of them, ElementDataFile."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields and (line := file.readline(_LONGEST_HEADER)):
        key, _, value = line.decode("utf-8", "replace").partition("=")
        fields[key.strip()] = value.strip()
    return fields


def _check_nrrd_spacings(fields: dict[str, str], components: int, path: PathLike) -> None:
    spacings = fields.get("spacings", "").split()[0 if components == 1 else 1 :]  # components have no distance
    if any(re.fullmatch(r"[-+]?nan.*", spacing.lower()) for spacing in spacings):
        raise GeometryError(
            f"{path} has the spacings {' '.join(spacings)}: the distance of its voxels is unknown. Correct its header."
        )
