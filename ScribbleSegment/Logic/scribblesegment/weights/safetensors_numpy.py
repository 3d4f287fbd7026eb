"""Safetensors files read with NumPy alone.

A file begins with the header's length (8 bytes, little endian) and the header (JSON), which tells type, shape and
place of every tensor behind it (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import WeightsError

_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


def read_safetensors(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Read all floating-point tensors, as float32, and the metadata.

    Raises:
        WeightsError: The file is missing, damaged, of another format, or holds NaN or infinite numbers.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
            data = memoryview(file.read())
        metadata = header.pop("__metadata__", {})
        arrays = {name: _array(data, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}. Get it again.") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{path} holds NaN or infinite numbers in {name}: it is damaged. Get another file.")
    return arrays, {str(key): str(value) for key, value in metadata.items()}


def read_header(file: IO[bytes]) -> dict[str, Any]:
    """Read the header from a file's beginning; the tensors' bytes are what follows.

    Raises:
        ValueError: There is none.
    """
    length = int.from_bytes(file.read(8), "little")
    content = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    if not content or len(content) != length:
        raise ValueError("its header is not inside the file")
    header: dict[str, Any] = json.loads(content)
    return header


def _array(data: memoryview, entry: dict[str, Any]) -> NDArray[np.float32]:
    kind, shape, (start, stop) = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if not 0 <= start <= stop <= len(data) or math.prod(shape) * kind.itemsize != stop - start:
        raise ValueError("a tensor is not inside the file")
    return np.frombuffer(data[start:stop], kind).reshape(shape).astype(np.float32)
