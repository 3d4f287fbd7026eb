"""Grey PNG pictures in memory, with no surprises: the expected size and depth, undamaged, or an error."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import FileFormatError

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
