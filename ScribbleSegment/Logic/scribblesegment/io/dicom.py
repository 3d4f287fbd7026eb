"""A DICOM series as one volume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.sitk import LPS_TO_RAS, ijk_to_ras_of, simpleitk_errors, spatial_size, voxels_of
from scribblesegment.io.storage import PathLike

_DESCRIPTION = "0008|103e"
_SERIES_ID = "0020|000e"
_INSTANCE_NUMBER = "0020|0013"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"

# Positions are written with few digits, and scanners step with some slack; a missing slice deviates by 1.
_LARGEST_DEVIATION = 0.1  # of the distance between slices

_REMEDY = "A file of the series is truncated, damaged or does not belong to it: export the series again."


def is_dicom_file(path: PathLike) -> bool:
    """Whether the file carries the mark of DICOM at byte 128, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


@dataclass(frozen=True)
class _SliceFile:
    """What the header of one DICOM image says."""

    path: Path
    series_id: str
    description: str
    number: int
    position: tuple[float, ...] | None  # LPS millimetres
    normal: tuple[float, ...] | None


def read_series(folder: PathLike, series_id: str | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the DICOM series in a folder (not in the folders inside it).

    Files are grouped and ordered by their headers here: GDCM's own listing keeps the pixels of every file in memory.

    Args:
        folder: folder with the files of one or more series.
        series_id: Series Instance UID; needed only if there are several.

    Returns:
        Voxels (K, J, I), or (K, J, I, C) with colours, in stored or rescaled units (Hounsfield units for CT), and the
        matrix from voxel index to RAS millimetres; a tilted gantry gives a sheared one.

    Raises:
        FileFormatError: no DICOM file, no such series, several series and none chosen, or a damaged file.
        GeometryError: slices are missing, or not evenly spaced.
        ImageError: several images at one position (a time series or repeated images).
    """
    slices, unreadable = _scan(folder)
    chosen = _ordered(_chosen_series(folder, slices, series_id))
    _refuse_damaged(unreadable, example=chosen[0].path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([os.fspath(piece.path) for piece in chosen])
    try:
        with simpleitk_errors(folder, "read", _REMEDY):
            image = reader.Execute()
    except FileFormatError:
        _refuse_damaged([piece.path for piece in chosen if not _reads(piece.path)], example=chosen[0].path)
        raise
    spatial_size(image, folder)
    matrix = ijk_to_ras_of(image)
    positions = [piece.position for piece in chosen if piece.position is not None]
    if 1 < len(positions) == len(chosen):
        matrix[:3, 2] = LPS_TO_RAS[:3, :3] @ _slice_step(np.array(positions), folder)
    return voxels_of(image), matrix


def _scan(folder: PathLike) -> tuple[list[_SliceFile], list[Path]]:
    """Read the headers of all DICOM files in a folder; also return the files that GDCM cannot read as images."""
    slices, unreadable = [], []
    for path in sorted(Path(folder).iterdir()):
        if not path.is_file() or not is_dicom_file(path):
            continue
        reader = sitk.ImageFileReader()
        reader.SetFileName(os.fspath(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # a report, an index, or a damaged image: told apart once the series is known
            unreadable.append(path)
            continue
        slices.append(_slice_file(path, reader))
    return slices, unreadable


def _slice_file(path: Path, reader: sitk.ImageFileReader) -> _SliceFile:
    def text(key: str) -> str:
        return str(reader.GetMetaData(key)).strip().rstrip("\0") if reader.HasMetaDataKey(key) else ""

    def numbers(key: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(part) for part in text(key).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count else None

    orientation = numbers(_ORIENTATION, 6)
    normal = None if orientation is None else tuple(np.cross(orientation[:3], orientation[3:]).tolist())
    instance = numbers(_INSTANCE_NUMBER, 1)
    return _SliceFile(
        path,
        text(_SERIES_ID),
        text(_DESCRIPTION),
        0 if instance is None else int(instance[0]),
        numbers(_POSITION, 3),
        normal,
    )


def _chosen_series(folder: PathLike, slices: list[_SliceFile], series_id: str | None) -> list[_SliceFile]:
    if not slices:
        raise FileFormatError(f"No DICOM series in the folder {folder}. Give the folder that directly holds the files.")
    groups: dict[str, list[_SliceFile]] = {}
    for piece in slices:
        groups.setdefault(piece.series_id, []).append(piece)
    listing = "; ".join(
        f"{uid} ({files[0].description or 'without description'}, {len(files)} files)" for uid, files in groups.items()
    )
    if series_id is not None:
        if series_id not in groups:
            raise FileFormatError(f"No series {series_id} in {folder}. There are: {listing}. Choose one of these.")
        return groups[series_id]
    if len(groups) > 1:
        raise FileFormatError(f"{folder} holds {len(groups)} DICOM series: {listing}. Choose one by its series_id.")
    return slices


def _ordered(slices: list[_SliceFile]) -> list[_SliceFile]:
    """Sort slices along the normal of the first; by instance number where a header lacks its position."""
    normal = slices[0].normal

    positions = [piece.position for piece in slices if piece.position is not None]
    if normal is None or len(positions) < len(slices):
        return sorted(slices, key=lambda piece: (piece.number, piece.path.name))
    order = np.argsort(np.array(positions) @ np.array(normal), kind="stable")
    return [slices[index] for index in order]


def _refuse_damaged(unreadable: list[Path], *, example: Path) -> None:
    """Raise FileFormatError if a file that cannot be read is of the series' kind.

    Files of another kind (reports, plans, the index DICOMDIR) are rightly left out.
    """
    kind = _sop_class(example)
    for path in unreadable:
        if kind and _sop_class(path) == kind:
            raise FileFormatError(f"Cannot read {path}: it is truncated or damaged. Copy or export the series again.")


def _reads(path: Path) -> bool:
    try:
        sitk.ReadImage(os.fspath(path))
    except RuntimeError:
        return False
    return True


def _sop_class(path: Path) -> bytes:
    """Return the kind of a DICOM file, element (0002,0002) of its preamble (DICOM PS3.10, section 7.1), or b""."""
    with open(path, "rb") as file:
        start = file.read(1024)
    mark = start.find(b"\x02\x00\x02\x00UI", 132)
    if mark < 0:
        return b""
    length = int.from_bytes(start[mark + 6 : mark + 8], "little")
    return start[mark + 8 : mark + 8 + length].rstrip(b"\0 ")


def _slice_step(positions: NDArray[np.float64], folder: PathLike) -> NDArray[np.float64]:
    """Return the vector from one slice to the next, in LPS millimetres.

    ITK takes the normal of the first slice instead, which moves the slices of a tilted gantry, and only prints a
    warning when one is missing.
    """
    places, repeats = np.unique(positions.round(3), axis=0, return_counts=True)
    if repeats.max() > 1:
        raise ImageError(
            f"{folder} holds {repeats.max()} images at the position {places[repeats.argmax()].tolist()}: a time "
            "series, or images sent twice. Keep one volume in the folder."
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    deviation_mm = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(positions)), step), axis=1)
    typical = float(np.median(steps))
    if max(deviation_mm.max(), np.abs(steps - typical).max()) > _LARGEST_DEVIATION * typical:
        raise GeometryError(
            f"The slices in {folder} are not evenly spaced: mostly {typical:.3f} mm apart, but {steps.max():.3f} mm "
            f"after slice {int(steps.argmax()) + 1}. Add missing files, or resample the series to even distances first."
        )
    return step
