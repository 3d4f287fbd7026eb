from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scribblesegment.context.files import largest_png, png_bytes, read_png
from scribblesegment.errors import FileFormatError


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(height: int, width: int, bits: int, color: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))


def saved(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_pixels_come_back_as_they_were(rng, dtype, bits):
    pixels = rng.integers(0, np.iinfo(dtype).max, (7, 11), dtype, endpoint=True)
    data = png_bytes(pixels)
    read = read_png(data, (7, 11), (bits,), "a")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)
    assert len(data) <= largest_png((7, 11), bits)


def test_noise_fits_into_the_largest_png(rng):
    pixels = rng.integers(0, 65535, (300, 300), np.uint16, endpoint=True)
    assert len(png_bytes(pixels)) <= largest_png((300, 300), 16)


def test_a_picture_of_one_bit_is_read_as_bool(rng):
    pixels = rng.random((9, 13)) > 0.5
    read = read_png(saved(pixels), (9, 13), (1, 8), "a")
    assert read.dtype == np.bool_
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no PNG"),
        (b"GIF89a" + bytes(100), "no PNG"),
        (png_bytes(np.zeros((4, 5), np.uint8))[:30], "beginning"),
        (png_bytes(np.zeros((5, 4), np.uint8)), "5 rows and 4 columns; 4 and 5 were announced"),
        (png_bytes(np.zeros((4, 5), np.uint16)), "16 bits and colour type 0; expected grey"),
        (saved(np.zeros((4, 5, 3), np.uint8)), "colour type 2"),
        (saved(np.zeros((4, 5, 4), np.uint8)), "colour type 6"),
    ],
)
def test_other_pictures_are_refused(data, message):
    with pytest.raises(FileFormatError, match=f"the mask.*{message}"):
        read_png(data, (4, 5), (8,), "the mask")


def test_no_byte_can_be_missing_or_wrong(rng):
    data = png_bytes(rng.integers(0, 255, (6, 5), np.uint8))
    end = len(data) - 12  # the last chunk is the mark of the end, without content
    for length in range(end + 8):
        with pytest.raises(FileFormatError):
            read_png(data[:length], (6, 5), (8,), "a")
    for place in range(end):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(FileFormatError):
            read_png(bytes(damaged), (6, 5), (8,), "a")


def test_a_second_header_cannot_enlarge_the_picture():
    pixels = chunk(b"IDAT", zlib.compress(bytes(4 * 6)))
    data = b"\x89PNG\r\n\x1a\n" + header(4, 5, 8) + header(9000, 9000, 8) + pixels + chunk(b"IEND", b"")
    with pytest.raises(FileFormatError, match="damaged"):
        read_png(data, (4, 5), (8,), "a")


def test_pixels_that_inflate_beyond_the_picture_are_not_kept():
    bomb = chunk(b"IDAT", zlib.compress(bytes(50_000_000)))
    data = b"\x89PNG\r\n\x1a\n" + header(4, 5, 8) + bomb + chunk(b"IEND", b"")
    assert len(data) < largest_png((4, 5), 8)
    np.testing.assert_array_equal(read_png(data, (4, 5), (8,), "a"), np.zeros((4, 5)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_damaged_data_end_in_the_one_error_or_in_a_picture(seed):
    rng = np.random.default_rng(seed)
    data = bytearray(png_bytes(rng.integers(0, 65535, (5, 6), np.uint16)))
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data)))
        data[place : place + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
    with contextlib.suppress(FileFormatError):
        assert read_png(bytes(data), (5, 6), (16,), "a").shape == (5, 6)
