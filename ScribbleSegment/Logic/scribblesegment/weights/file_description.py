"""What a weights file says about itself, read without PyTorch and without touching its parameters."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

# The format's own limit; a longer header is a damaged or hostile file.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class FileDescription:
    """What is written in a weights file; empty where it says nothing.

    Attributes:
        name: What the network is called.
        licence: Licence of the parameters.
    """

    name: str = ""
    licence: str = ""


def describe_file(path: str | os.PathLike[str]) -> FileDescription:
    """Read the description of a safetensors file.

    The file begins with the header's length (8 bytes, little endian) and the header (JSON), whose entry
    `__metadata__` holds strings only (https://github.com/huggingface/safetensors, "Format").

    Returns:
        The description; empty for files of other formats, for damaged files and for missing ones: whether a file can
        be used is for `checkpoints.load_network` to find out.
    """
    from scribblesegment.weights.checkpoints import METADATA_KEY

    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                return FileDescription()
            header = json.loads(file.read(length))
        values = json.loads(header["__metadata__"][METADATA_KEY])
        return FileDescription(str(values.get("name", "")), str(values.get("licence", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return FileDescription()
