"""Whether JPEG and TIFF files are complete.

libjpeg fills the missing part of a truncated picture with grey and libtiff stops at the last page it can find; ITK
passes both on as good images. So the files' own structure is followed to its end before they are read.
"""

from __future__ import annotations

import struct
from pathlib import Path

from scribblesegment.atomic_file import PathLike
from scribblesegment.exceptions import FileFormatError, ImageError

_REMEDY = "The file is truncated or damaged: copy or export it again."

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"

# TIFF 6.0, section 2: code of a type -> its struct code and bytes; 16 to 18 are BigTIFF's. Only integers are looked at.
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # positions and lengths, of strips and of tiles
_BITS_PER_SAMPLE, _TILE_OFFSETS = 258, 324


def check_jpeg(path: PathLike) -> None:
    """Raise FileFormatError unless the end-of-image marker follows the first scan (ITU-T T.81, annex B)."""
    data = Path(path).read_bytes()
    position = 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xFF:  # fill byte before a marker
            position += 1
            continue
        # Segments before the scan are stepped over, so the end of an embedded thumbnail is not taken for the picture's;
        # inside a scan every 0xFF is followed by zero or a restart marker.
        if data[position + 1] == _START_OF_SCAN:
            if data.find(_END_OF_IMAGE, position) > 0:
                return
            break
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise FileFormatError(f"Cannot read {path}: its JPEG data end too early. {_REMEDY}")


def check_tiff(path: PathLike) -> None:
    """Raise unless every page of the file and all its pixels are there, and ITK reads them at full depth.

    Raises:
        FileFormatError: a page or a strip lies beyond the end of the file, or it is no TIFF.
        ImageError: tiles of more than 8 bits, which ITK would silently reduce to 8.
    """
    data = Path(path).read_bytes()
    try:
        for tags in _tiff_pages(data):
            for offsets, lengths in _TIFF_DATA_TAGS:
                for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=True):
                    if start + length > len(data):
                        raise ValueError(f"pixels are announced up to byte {start + length} of {len(data)}")
            if _TILE_OFFSETS in tags and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
                raise ImageError(f"{path} is a tiled TIFF of more than 8 bits, which is not read. Save as strips.")
    except (struct.error, ValueError) as cause:
        if isinstance(cause, ImageError):
            raise
        raise FileFormatError(f"Cannot read {path}: {cause}. {_REMEDY}") from cause


def _tiff_pages(data: bytes) -> list[dict[int, tuple[int, ...]]]:
    """Return the integer tags of every page (image file directory)."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("it does not start like a TIFF file")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count_code, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    (offset,) = struct.unpack_from(order + word, data, 8 if big else 4)
    pages: list[dict[int, tuple[int, ...]]] = []
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ValueError("its pages point at each other in a circle")
        seen.add(offset)
        (entries,) = struct.unpack_from(order + count_code, data, offset)
        first = offset + struct.calcsize("<" + count_code)
        tags = {}
        for entry in range(first, first + entries * entry_bytes, entry_bytes):
            tag, code, count = struct.unpack_from(order + "HH" + word, data, entry)
            value_at = entry + entry_bytes - struct.calcsize("<" + word)
            if count * _TIFF_BYTES.get(code, 1) > struct.calcsize("<" + word):  # stored elsewhere
                (value_at,) = struct.unpack_from(order + word, data, value_at)
            if code in _TIFF_INTEGERS:
                tags[tag] = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[code]}", data, value_at)
        pages.append(tags)
        (offset,) = struct.unpack_from(order + word, data, first + entries * entry_bytes)
    return pages
