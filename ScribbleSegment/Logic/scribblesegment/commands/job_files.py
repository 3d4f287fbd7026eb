"""What commands that segment volumes have in common: files that are checked before any work, and words for slices."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scribblesegment.commands.labelled_prompts import AXES
from scribblesegment.data.volume import Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io import WRITE_EXTENSIONS

# Formats without a place in the patient: one slice, matched by its size alone.
_FLAT = (".png", ".tif", ".tiff")
# Formats that cannot hold axes that are not at right angles.
_STRAIGHT = (*_FLAT, ".nii", ".nii.gz")

_MOST_RANGES = 10


def extension_of(path: Path, known: Sequence[str]) -> str:
    """Return which of the known extensions a file has, or an empty text."""
    return next((extension for extension in known if path.name.lower().endswith(extension)), "")


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file."""
    return first.resolve() == second.resolve()


def check_labelmap_target(path: Path, sources: Sequence[Path | None]) -> None:
    """Refuse a label map that could not be written.

    Raises:
        FileFormatError: An extension that holds no labels, or as `check_target`.
    """
    if not extension_of(path, WRITE_EXTENSIONS):
        raise FileFormatError(f"Cannot write {path}: unknown extension. Choose one of {', '.join(WRITE_EXTENSIONS)}.")
    check_target(path, sources)


def check_picture_target(picture: Path | None, output: Path, sources: Sequence[Path | None]) -> None:
    """Refuse a picture that could not be written; None is none.

    Raises:
        FileFormatError: It is no PNG file, would be one file with the segmentation, or as `check_target`.
    """
    if picture is None:
        return
    if picture.suffix.lower() != ".png":
        raise FileFormatError(f"Cannot write the picture {picture}: its name must end in .png.")
    check_target(picture, sources)
    if same_file(picture, output):
        raise FileFormatError(f"Segmentation and picture would be one file, {output}. Name them apart.")


def check_target(path: Path, sources: Sequence[Path | None]) -> None:
    """Refuse an output that could not be written, or would replace what is read.

    Raises:
        FileFormatError: A folder, in a missing or protected folder, or one of the files that are read.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise FileFormatError(f"Cannot write {path}: it is a folder. Add a file name.")
    if not folder.is_dir():
        raise FileFormatError(f"Cannot write {path}: the folder {folder} does not exist. Create it first.")
    if not os.access(folder, os.W_OK):
        raise FileFormatError(f"Cannot write {path}: the folder {folder} is write-protected. Choose another.")
    for source in sources:
        if source is not None and same_file(source, path):
            raise FileFormatError(f"Cannot write {path}: it is the file that is read. Choose another name.")


def check_format_holds(path: Path, volume: Volume) -> None:
    """Refuse a format that cannot hold a label map of a volume.

    Raises:
        ImageError: Several slices in a picture.
        GeometryError: Axes that are not at right angles in a format that does not know them.
    """
    extension = extension_of(path, WRITE_EXTENSIONS)
    if extension in _FLAT and volume.shape[0] != 1:
        raise ImageError(f"{extension} holds one slice, the image has {volume.shape[0]}. Write .seg.nrrd or .nii.gz.")
    if extension in _STRAIGHT and volume.is_sheared:
        raise GeometryError(
            f"The image's axes are not at right angles, which {extension} cannot hold. Write .seg.nrrd or .nrrd."
        )


def check_same_grid(path: Path, grid: Volume, image: Path, volume: Volume, *, what: str) -> None:
    """Refuse a label map that does not lie on the image's grid.

    Args:
        path: File of the label map.
        grid: Its grid.
        image: File of the image.
        volume: The image.
        what: What was painted, as "strokes".

    Raises:
        GeometryError: With both grids.
    """
    # A picture has no place in the patient, and its resolution is whatever the paint program wrote.
    flat = extension_of(path, _FLAT)
    if grid.shape == volume.shape if flat else volume.same_grid(grid):
        return
    raise GeometryError(
        f"{path} is not on the grid of {image}: {_described(grid)} against {_described(volume)}. "
        f"Resample the {what} to the image with nearest neighbours, or paint them on it."
    )


def listed_slices(axis: int, indices: Sequence[int]) -> str:
    """Write ascending slices as ranges: "3 slices k:3-4,12"."""
    return f"{'slice' if len(indices) == 1 else f'{len(indices)} slices'} {AXES[axis]}:{listed(indices)}"


def listed(indices: Sequence[int]) -> str:
    """Write ascending numbers as ranges: "3-4,12"."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ",".join(parts[:_MOST_RANGES]) + (",..." if len(parts) > _MOST_RANGES else "")


def show_download(fraction: float, text: str) -> None:
    """Show how far the download of a network is, if somebody is watching."""
    if sys.stderr.isatty():
        end = "\n" if fraction >= 1.0 else ""
        print(f"\r{text} ({100 * fraction:.0f} %)", end=end, file=sys.stderr, flush=True)


def _described(volume: Volume) -> str:
    def numbers(values: Sequence[float] | NDArray[Any]) -> str:
        # Rounded first, plus zero: "-3.7e-09" and "-0" are noise of file headers.
        return "(" + ", ".join(f"{round(float(value), 6) + 0.0:.6g}" for value in values) + ")"

    return (
        f"shape (k, j, i) {volume.shape}, spacing {numbers(volume.spacing_kji_mm)} mm, origin "
        f"{numbers(volume.origin_ras)} RAS, directions of i, j, k "
        + " ".join(numbers(column) for column in volume.directions.T)
    )
