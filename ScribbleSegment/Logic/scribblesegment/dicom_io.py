"""A DICOM series as one volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.atomic_file import PathLike
from scribblesegment.exceptions import FileFormatError, GeometryError, ImageError
from scribblesegment.sitk_image import LPS_TO_RAS, ijk_to_ras_of, simpleitk_errors, spatial_size, voxels_of

_DESCRIPTION = "0008|103e"
_POSITION = "0020|0032"

# Positions are written with few digits, and scanners step with some slack; a missing slice deviates by 1.
_LARGEST_DEVIATION = 0.1  # of the distance between slices

_REMEDY = "A file of the series is truncated, damaged or does not belong to it: export the series again."


def is_dicom_file(path: PathLike) -> bool:
    """Whether the file carries the mark of DICOM at byte 128, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(folder: PathLike, series_id: str | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the DICOM series in a folder (not in the folders inside it).

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
    files = _series_files(folder, _chosen_series(folder, series_id))
    _refuse_unreadable_images(folder, files[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()  # keeps every slice's own position
    with simpleitk_errors(folder, "read", _REMEDY):
        image = reader.Execute()
    spatial_size(image, folder)
    matrix = ijk_to_ras_of(image)
    if len(files) > 1 and all(reader.HasMetaDataKey(number, _POSITION) for number in range(len(files))):
        texts = [reader.GetMetaData(number, _POSITION) for number in range(len(files))]
        positions = np.array([[float(part) for part in text.split("\\")] for text in texts])
        matrix[:3, 2] = LPS_TO_RAS[:3, :3] @ _slice_step(positions, folder)
    return voxels_of(image), matrix


def _chosen_series(folder: PathLike, series_id: str | None) -> str:
    # ITK is not asked where there is none, as it would print a warning; the error below says it.
    known: tuple[str, ...] = ()
    if _dicom_files(folder):
        known = sitk.ImageSeriesReader.GetGDCMSeriesIDs(os.fspath(folder))
    if not known:
        raise FileFormatError(f"No DICOM series in the folder {folder}. Give the folder that directly holds the files.")
    listing = "; ".join(f"{uid} ({_describe(_series_files(folder, uid))})" for uid in known)
    if series_id is not None:
        if series_id not in known:
            raise FileFormatError(f"No series {series_id} in {folder}. There are: {listing}. Choose one of these.")
        return series_id
    if len(known) > 1:
        raise FileFormatError(f"{folder} holds {len(known)} DICOM series: {listing}. Choose one by its series_id.")
    return known[0]


def _dicom_files(folder: PathLike) -> list[Path]:
    return [path for path in sorted(Path(folder).iterdir()) if path.is_file() and is_dicom_file(path)]


def _refuse_unreadable_images(folder: PathLike, example: str) -> None:
    """Raise FileFormatError if GDCM left out an image: it lists only files it can read, without a word on the others.

    Files of another kind (reports, plans, the index DICOMDIR) are rightly left out.
    """
    uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(os.fspath(folder))
    listed = {Path(name).name for uid in uids for name in _series_files(folder, uid)}
    kind = _sop_class(Path(example))
    for path in _dicom_files(folder):
        if path.name not in listed and kind and _sop_class(path) == kind:
            raise FileFormatError(f"Cannot read {path}: it is truncated or damaged. Copy or export the series again.")


def _sop_class(path: Path) -> bytes:
    """Return the kind of a DICOM file, element (0002,0002) of its preamble (DICOM PS3.10, section 7.1), or b""."""
    with open(path, "rb") as file:
        start = file.read(1024)
    mark = start.find(b"\x02\x00\x02\x00UI", 132)
    if mark < 0:
        return b""
    length = int.from_bytes(start[mark + 6 : mark + 8], "little")
    return start[mark + 8 : mark + 8 + length].rstrip(b"\0 ")


def _series_files(folder: PathLike, series_id: str) -> list[str]:
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(os.fspath(folder), series_id))


def _describe(files: list[str]) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(files[0])
    with simpleitk_errors(files[0], "read", _REMEDY):
        reader.ReadImageInformation()
    description = reader.GetMetaData(_DESCRIPTION).strip() if reader.HasMetaDataKey(_DESCRIPTION) else ""
    return f"{description or 'without description'}, {len(files)} files"


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
