"""Writing label maps as NRRD, plane by plane.

SimpleITK would copy the whole label map first; a mask for a CT of 512 x 512 x 1000 voxels is written here with the
memory of one plane. Reading goes through SimpleITK, whose NRRD reader fills its buffer directly.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.io.sitk_image import LPS_TO_RAS

# Label maps are long runs of equal values: stronger settings cost several times the time for a few per cent.
GZIP_LEVEL = 3

_TYPE_NAMES = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int"}


def write_nrrd(
    path: Path, array: NDArray[Any], ijk_to_ras: NDArray[np.float64], metadata: Mapping[str, str] | None = None
) -> None:
    """Write an unsigned label map with the geometry of `ijk_to_ras`, gzip-compressed.

    Args:
        path: file to create.
        array: (K, J, I) uint8, uint16 or uint32.
        ijk_to_ras: (4, 4) voxel index to RAS millimetres; any shear is kept.
        metadata: key/value pairs for the header; line breaks and backslashes in the values are escaped.

    Raises:
        OSError: the operating system refuses to write.
    """
    itemsize = array.dtype.itemsize
    ijk_to_lps = LPS_TO_RAS @ ijk_to_ras
    fields = [
        "NRRD0004",
        f"type: {_TYPE_NAMES[itemsize]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(side) for side in reversed(array.shape))}",
        f"space directions: {' '.join(_vector(column) for column in ijk_to_lps[:3, :3].T)}",
        "kinds: domain domain domain",
        *(["endian: little"] if itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {_vector(ijk_to_lps[:3, 3])}",
        *(f"{key}:={_escaped(value)}" for key, value in (metadata or {}).items()),
    ]
    with open(path, "wb") as file:
        file.write(("\n".join(fields) + "\n\n").encode())
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as stream:
            write_planes(stream, array)


def write_planes(stream: gzip.GzipFile | IO[bytes], array: NDArray[Any]) -> None:
    """Write the voxels in little-endian order, one plane in memory at a time."""
    for plane in array:
        stream.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).tobytes())


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")
