"""Which images a folder holds, what they are called, and which files each consists of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scribblesegment.errors import FileFormatError
from scribblesegment.io import READ_EXTENSIONS
from scribblesegment.io.dicom import is_dicom_file
from scribblesegment.io.segmentation import EXTENSION as SEGMENTATION
from scribblesegment.io.storage import system_errors

# Text headers whose voxels lie in files of their own.
_HEADERS = (".mhd", ".nhdr")
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, order=True)
class BatchImage:
    """One image of a folder."""

    name: str  # its path from the folder, with "/" on every operating system; identifies its record and result
    path: Path  # a file, or a folder with a DICOM series

    @property
    def result_name(self) -> str:
        """Path of its result from the output folder. The whole name is kept: "a.nrrd" may lie beside "a.nii.gz"."""
        return self.name + SEGMENTATION


def find_images(folder: Path, *, recursive: bool, leave_out: Path | None = None) -> list[BatchImage]:
    """List the images of a folder by name.

    Images are files of a known extension, and folders that directly hold DICOM files, which are one image each. Without
    `recursive` only the folder itself is searched, and for DICOM also the folders directly in it. Segmentations
    (.seg.nrrd) and what begins with a dot are no images. The folder `leave_out`, where results go, is not searched.

    Raises:
        FileFormatError: The folder is missing or cannot be listed.
    """
    if not folder.is_dir():
        raise FileFormatError(f"Cannot read {folder}: there is no such folder. Check the path.")
    with system_errors(f"Cannot read {folder}", "Check its permissions."):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    root = folder.resolve()
    skipped = {root} if leave_out is None else {root, leave_out.resolve()}
    found = [BatchImage(entry.name, Path(entry.path)) for entry in entries if _is_image_file(entry)]
    found += _images_below(entries, prefix="", recursive=recursive, skipped=skipped)
    if any(map(_is_dicom, entries)):
        name, taken = root.name or "image", {image.name for image in found}
        while name in taken:
            name += "_"
        found.append(BatchImage(name, folder))
    return sorted(found)


def files_of(path: Path) -> list[Path]:
    """List the files an image consists of, sorted by name.

    Raises:
        OSError: The image is missing or cannot be listed.
    """
    if path.is_dir():
        return sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_file())
    if not path.name.lower().endswith(_HEADERS):
        return [path]
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES).decode("utf-8", errors="replace")
    beside = [Path(entry.path) for entry in os.scandir(path.parent) if entry.is_file() and Path(entry.path) != path]
    if "%" not in header:  # a numbered list of files, as "slice%03d.raw", may mean any of them
        # A name counts where it stands by itself or at the end of a path.
        beside = [one for one in beside if re.search(rf"(?<![^\s/\\=:]){re.escape(one.name)}(?![^\s])", header)]
    return sorted([path, *beside])


def _images_below(
    entries: list[os.DirEntry[str]], *, prefix: str, recursive: bool, skipped: set[Path]
) -> Iterator[BatchImage]:
    """Images in the folders among `entries`, whose names begin with `prefix`."""
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        path, name = Path(entry.path), prefix + entry.name
        real = path.resolve()
        if real in skipped:  # the results, or a link that leads back
            continue
        try:
            below = sorted(os.scandir(path), key=lambda one: one.name)
        except OSError:
            yield BatchImage(name, path)  # its record will say why it cannot be read
            continue
        if any(map(_is_dicom, below)):
            yield BatchImage(name, path)
        if recursive:
            yield from (BatchImage(f"{name}/{one.name}", Path(one.path)) for one in below if _is_image_file(one))
            yield from _images_below(below, prefix=name + "/", recursive=True, skipped={*skipped, real})


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    name = entry.name.lower()
    is_image = name.endswith(READ_EXTENSIONS) and not name.endswith((SEGMENTATION, ".dcm"))
    return is_image and not name.startswith(".") and entry.is_file()


def _is_dicom(entry: os.DirEntry[str]) -> bool:
    """Whether a file is DICOM by its extension, or, where it has no known one, by its content."""
    name = entry.name.lower()
    if name.startswith(".") or name == "dicomdir" or not entry.is_file():  # the index of a disc is no image
        return False
    if name.endswith((".dcm", *READ_EXTENSIONS)):
        return name.endswith(".dcm")
    try:
        return is_dicom_file(entry.path)
    except OSError:
        return False
