"""DICOM: one series of a folder, or one file with one or many frames, as a volume.

Headers are read by pydicom, pixels by SimpleITK, which decodes every transfer syntax and rescales.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.errors import FileFormatError, GeometryError, ImageError, require_package
from scribblesegment.io.sitk import LPS_TO_RAS, ijk_to_ras_of, itk_name, simpleitk_errors, spatial_size, voxels_of
from scribblesegment.io.storage import PathLike, system_errors

# Positions are written with few digits, and scanners step with some slack; a missing slice deviates by 1.
_LARGEST_DEVIATION = 0.1  # of the distance between slices
_LARGEST_TURN = 1e-3  # of direction cosines between slices of one volume

_MOST_FRAMES = 1 << 16

_REMEDY = "A file of the series is truncated, damaged or does not belong to it: export the series again."
_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "InstanceNumber", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "GridFrameOffsetVector", "SliceVector",
    "DetectorInformationSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # of segments, and as a label map
# Enhanced and legacy converted CT, MR and PET, and 3D X-ray
_RESCALED_BY_ITK = {
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("2.1", "2.2", "4.1", "4.4", "128.1", "130", "13.1.1", "13.1.2", "13.1.3")
}


def is_dicom_file(path: PathLike) -> bool:
    """Whether the file carries the mark of DICOM at byte 128, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_dicom_segmentation(path: PathLike) -> bool:
    """Whether the file is DICOM that holds segments, not an image."""
    return is_dicom_file(path) and _sop_class(Path(path)) in _SEGMENTATIONS


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder, as its headers describe it."""

    uid: str  # Series Instance UID
    number: int | None  # Series Number, by which scanners and viewers list it
    description: str
    modality: str
    size: tuple[int, int, int]  # columns, rows, slices
    files: int

    def __str__(self) -> str:
        named = self.description or "without description"
        size = " x ".join(map(str, self.size))
        return f"{'-' if self.number is None else self.number}: {named} ({self.modality}, {size}), {self.uid}"


def list_series(folder: PathLike) -> list[SeriesInfo]:
    """List the DICOM series in a folder (not in the folders inside it), by number.

    Raises:
        FileFormatError: no DICOM image, or a file that the system does not let read.
    """
    with system_errors(f"Cannot read {folder}", "Check its permissions."):
        return [_described(headers) for headers in _series_of(folder).values()]


def read_series(folder: PathLike, series: str | int | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the DICOM series in a folder (not in the folders inside it).

    Args:
        folder: folder with the files of one or more series.
        series: Series Number or Series Instance UID; needed only if there are several.

    Returns:
        Voxels (K, J, I), or (K, J, I, C) with colours, in stored or rescaled units (Hounsfield units for CT), and the
        matrix from voxel index to RAS millimetres; a tilted gantry gives a sheared one.

    Raises:
        FileFormatError: no DICOM image, no such series, several series and none chosen, or a damaged file.
        GeometryError: slices are missing, not evenly spaced, or not parallel.
        ImageError: several images at one position (a time series or repeated images).
    """
    unreadable: list[Path] = []
    chosen = _chosen(folder, _series_of(folder, unreadable), series)
    kind = chosen[0].data.get("SOPClassUID")
    damaged = next((path for path in unreadable if kind and _sop_class(path) == kind), None)
    if damaged is not None:  # files of another kind (reports, plans, the index DICOMDIR) are rightly left out
        raise FileFormatError(f"Cannot read {damaged}: it is truncated or damaged. Copy or export the series again.")
    if any(header.frames > 1 for header in chosen):
        if len(chosen) > 1:
            raise ImageError(
                f"The series in {folder} has {len(chosen)} files, some with several frames each. Give the one file "
                "to read."
            )
        return read_dicom_file(chosen[0].path)
    chosen = _ordered(chosen)
    spacings = [_pixel_spacing(header.data, header.path) for header in chosen]
    if not np.allclose(spacings, spacings[0]):
        raise GeometryError(f"The slices of {folder} have several pixel spacings. Export them as separate series.")
    positions = [header.position for header in chosen if header.position is not None]
    known = 1 < len(positions) == len(chosen)
    step = _slice_step(np.array(positions), folder, "slice") if known else None
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([itk_name(header.path) for header in chosen])
    scales = {tuple(str(header.data.get(key)) for key in ("RescaleSlope", "RescaleIntercept")) for header in chosen}
    if len(scales) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # by itself it takes the first slice's, which need not hold them
    try:
        with simpleitk_errors(folder, "read", _REMEDY):
            image = reader.Execute()
    except FileFormatError:
        for header in chosen:
            with simpleitk_errors(header.path, "read", "Copy or export the series again."):
                sitk.ReadImage(itk_name(header.path))
        raise
    spatial_size(image, folder)
    matrix = ijk_to_ras_of(image)
    if step is not None:
        matrix[:3, 2] = LPS_TO_RAS[:3, :3] @ step
    return voxels_of(image), matrix


def source_files(source: PathLike, series: str | int | None = None) -> tuple[list[Path], NDArray[np.intp]]:
    """Find the files of the image that `read_series` or `read_dicom_file` reads, and the order of their frames.

    Returns:
        Files, and for each slice of the volume the number of its frame, counted through all files.

    Raises:
        FileFormatError: no DICOM image, no such series, or several and none chosen.
    """
    if os.path.isdir(source):
        chosen = _chosen(source, _series_of(source), series)
        if not any(header.frames > 1 for header in chosen):
            return [header.path for header in _ordered(chosen)], np.arange(len(chosen))
        source = chosen[0].path
    header, _, placed = _read_frames(source)
    return [header.path], np.arange(header.frames) if placed is None else placed[0]


def read_dicom_file(path: PathLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read one DICOM file; the frames of a multi-frame image come in the order of their positions.

    Raises:
        FileFormatError: truncated or damaged.
        GeometryError: frames are missing, not evenly spaced, or not parallel.
        ImageError: several frames at one position (a time series).
    """
    header, groups, placed = _read_frames(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    with simpleitk_errors(path, "read", "Copy or export it again."):
        image = reader.Execute()
    spatial_size(image, path)
    voxels = voxels_of(image)
    if header.frames == 1 or len(voxels) != header.frames:
        return voxels, ijk_to_ras_of(image)
    voxels = _rescaled(voxels, groups, str(header.data.get("SOPClassUID", "")))
    if placed is None:
        return voxels, ijk_to_ras_of(image)
    order, matrix = placed
    return voxels if (np.diff(order) == 1).all() else voxels[order], matrix


@dataclass(frozen=True)
class _Header:
    """What the header of one DICOM image says."""

    path: Path
    data: Any  # pydicom.Dataset

    @property
    def position(self) -> NDArray[np.float64] | None:
        return _numbers(self.data, "ImagePositionPatient", 3)

    @property
    def orientation(self) -> NDArray[np.float64] | None:
        return _numbers(self.data, "ImageOrientationPatient", 6)

    @property
    def frames(self) -> int:
        return int(self.data.get("NumberOfFrames") or 1)


def _read_header(path: Path) -> _Header | None:
    """Read the header of an image; None for other objects and for damaged files."""
    purpose, remedy = "DICOM files", "Install it: python -m pip install pydicom."
    pydicom = require_package("pydicom", purpose=purpose, remedy=remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on values of another form than the standard's
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            header = _Header(path, data)
            is_image = data.get("Rows") and data.get("Columns") and 0 < header.frames <= _MOST_FRAMES
            return header if is_image and data.get("SOPClassUID") not in _SEGMENTATIONS else None
    except Exception:  # damaged bytes make the parser fail in arbitrary ways
        return None


def _series_of(folder: PathLike, unreadable: list[Path] | None = None) -> dict[str, list[_Header]]:
    """Read all headers in a folder, by series; files that are marked as DICOM but hold no image are `unreadable`."""
    groups: dict[str, list[_Header]] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and is_dicom_file(path):
            header = _read_header(path)
            if header is not None:
                groups.setdefault(str(header.data.get("SeriesInstanceUID", "")), []).append(header)
            elif unreadable is not None:
                unreadable.append(path)
    if not groups:
        raise FileFormatError(f"No DICOM series in the folder {folder}. Give the folder that directly holds the files.")
    numbers = {uid: _described(headers).number for uid, headers in groups.items()}
    return {uid: groups[uid] for uid in sorted(groups, key=lambda uid: (numbers[uid] is None, numbers[uid] or 0, uid))}


def _described(headers: list[_Header]) -> SeriesInfo:
    data = headers[0].data
    number = _numbers(data, "SeriesNumber", 1)
    return SeriesInfo(
        str(data.get("SeriesInstanceUID", "")),
        None if number is None else int(number[0]),
        str(data.get("SeriesDescription", "")).strip(),
        str(data.get("Modality", "")),
        (int(data.Columns), int(data.Rows), sum(header.frames for header in headers)),
        len(headers),
    )


def _chosen(folder: PathLike, groups: dict[str, list[_Header]], series: str | int | None) -> list[_Header]:
    infos = [_described(headers) for headers in groups.values()]
    listing = "; ".join(map(str, infos))
    if series is None:
        if len(groups) > 1:
            raise FileFormatError(
                f"{folder} holds {len(groups)} DICOM series: {listing}. Choose one by its number or UID (--series on "
                "the command line, series= in Python)."
            )
        return next(iter(groups.values()))
    found = [info for info in infos if str(series) in (info.uid, str(info.number))]
    if not found:
        raise FileFormatError(f"No series {series} in {folder}. There are: {listing}. Choose one of these.")
    if len(found) > 1:
        raise FileFormatError(f"{len(found)} series in {folder} have the number {series}: {listing}. Give the UID.")
    return groups[found[0].uid]


def _ordered(headers: list[_Header]) -> list[_Header]:
    """Sort slices along their normal; by instance number where a header lacks its position."""
    orientations = [header.orientation for header in headers]
    positions = [header.position for header in headers if header.position is not None]
    first = orientations[0]
    if first is None or len(positions) < len(headers):
        numbers = {header.path: _numbers(header.data, "InstanceNumber", 1) for header in headers}
        return sorted(headers, key=lambda header: (float((numbers[header.path] or [0])[0]), header.path.name))
    _check_parallel(orientations, headers[0].path.parent, "slices")
    order = np.argsort(np.array(positions) @ _normal(first), kind="stable")
    return [headers[index] for index in order]


def _read_frames(
    path: PathLike,
) -> tuple[_Header, list[dict[str, Any]], tuple[NDArray[np.intp], NDArray[np.float64]] | None]:
    """Read the header of an image, the functional groups of its frames, and where several of them lie."""
    header = _read_header(Path(path))
    if header is None:
        raise FileFormatError(f"Cannot read {path}: it is damaged, or holds no image. Copy or export it again.")
    _pixel_spacing(header.data, path)
    groups = [_groups(header.data, frame) for frame in range(header.frames)]
    return header, groups, _placed_frames(header.data, groups, path) if header.frames > 1 else None


def _placed_frames(
    data: Any, groups: list[dict[str, Any]], path: PathLike
) -> tuple[NDArray[np.intp], NDArray[np.float64]] | None:
    """Return the order of frames along their normal and the matrix to RAS; None if they do not say where they lie."""
    orientations = [_frame_value(data, group, "ImageOrientation", 6) for group in groups]
    orientation = orientations[0]
    positions = _frame_positions(data, groups, orientation)
    if orientation is None or positions is None:
        return None
    _check_parallel(orientations, path, "frames")
    order = np.argsort(positions @ _normal(orientation), kind="stable")
    positions = positions[order]
    step = _slice_step(positions, path, "frame")
    spacings = [_pixel_spacing(group.get("PixelMeasuresSequence", data), path) for group in groups]
    if not np.allclose(spacings, spacings[0]):
        raise GeometryError(f"The frames of {path} have several pixel spacings. Export them as separate series.")
    row_mm, column_mm = spacings[0]
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.column_stack([orientation[:3] * column_mm, orientation[3:] * row_mm, step])
    ijk_to_lps[:3, 3] = positions[0]
    return order, LPS_TO_RAS @ ijk_to_lps


def _groups(data: Any, frame: int) -> dict[str, Any]:
    """Return the functional groups of a frame by keyword, its own before the shared ones (DICOM PS3.3, C.7.6.16)."""
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    parts = [*(data.get("SharedFunctionalGroupsSequence") or [])[:1], *own[frame : frame + 1]]
    return {item.keyword: item.value[0] for part in parts for item in part if item.VR == "SQ" and item.value}


def _frame_value(data: Any, group: dict[str, Any], what: str, count: int) -> NDArray[np.float64] | None:
    """Return position or orientation of a frame: of the patient, of a volume (ultrasound), of a detector, or of all."""
    kind = what.removeprefix("Image")
    detector = (data.get("DetectorInformationSequence") or [None])[0]
    for source, keyword in (
        (group.get(f"Plane{kind}Sequence"), f"{what}Patient"),
        (group.get(f"Plane{kind}VolumeSequence"), f"{what}Volume"),
        (detector, f"{what}Patient"),
        (data, f"{what}Patient"),
    ):
        value = _numbers(source, keyword, count)
        if value is not None:
            return value
    return None


def _frame_positions(
    data: Any, groups: list[dict[str, Any]], orientation: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Return (frames, 3) positions in LPS millimetres: of each frame, or from the first one by distances."""
    frames = len(groups)
    own = [_frame_value(data, group, "ImagePosition", 3) for group in groups]
    if any(value is None for value in own):
        return None
    positions = np.array(own)
    if orientation is None or any("PlanePositionSequence" in g or "PlanePositionVolumeSequence" in g for g in groups):
        return positions
    offsets = _numbers(data, "GridFrameOffsetVector", frames)  # of a dose
    if offsets is None:
        between = _numbers(data, "SpacingBetweenSlices", 1)
        numbers = _numbers(data, "SliceVector", frames)  # of nuclear medicine, from 1
        if between is None or between[0] == 0:
            return None
        offsets = between[0] * (np.arange(frames) if numbers is None else numbers - 1)
    return positions + np.outer(offsets - offsets[0], _normal(orientation))


def _normal(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def _rescaled(voxels: NDArray[Any], groups: list[dict[str, Any]], kind: str) -> NDArray[Any]:
    """Rescale each frame by its own slope and intercept; SimpleITK rescales all by the first frame's, or none."""
    scales = [_scale(group) for group in groups]
    done = scales[0] if kind in _RESCALED_BY_ITK else (1.0, 0.0)
    if set(scales) == {done}:
        return voxels
    values = np.empty(voxels.shape, np.float32)
    for (slope, intercept), source, target in zip(scales, voxels, values, strict=True):
        target[...] = np.rint((source.astype(np.float64) - done[1]) / done[0]) * slope + intercept
    return values


def _scale(group: dict[str, Any]) -> tuple[float, float]:
    values = group.get("PixelValueTransformationSequence")
    slope, intercept = _numbers(values, "RescaleSlope", 1), _numbers(values, "RescaleIntercept", 1)
    return (1.0 if slope is None else float(slope[0])) or 1.0, 0.0 if intercept is None else float(intercept[0])


def _numbers(data: Any, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Return `count` finite numbers of a dataset; None where it lacks them."""
    try:
        value = None if data is None else data.get(keyword)
        numbers = np.array(value if count > 1 else [value], np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _pixel_spacing(data: Any, path: PathLike) -> tuple[float, float]:
    """Return the distance of rows and of columns, 1 mm where there is none; SimpleITK takes 1 mm for damage, too."""
    given, spacing = data.get("PixelSpacing"), _numbers(data, "PixelSpacing", 2)
    if spacing is not None and (spacing > 0).all():
        return float(spacing[0]), float(spacing[1])
    if not given:
        return 1.0, 1.0
    raise GeometryError(
        f"{path} has the pixel spacing {list(given)}, which must be two numbers above zero. Export it again."
    )


def _check_parallel(orientations: list[NDArray[np.float64] | None], path: PathLike, what: str) -> None:
    first = orientations[0]
    for other in orientations:
        if first is not None and other is not None and np.abs(other - first).max() > _LARGEST_TURN:
            raise GeometryError(
                f"The {what} of {path} are not parallel: {first.tolist()} and {other.tolist()} are directions of rows "
                "and columns. It is a localizer, or several volumes in one; export one of them."
            )


def _sop_class(path: Path) -> str:
    """Return the kind of a DICOM file, element (0002,0002) of its preamble (DICOM PS3.10, section 7.1), or ""."""
    with open(path, "rb") as file:
        start = file.read(1024)
    mark = start.find(b"\x02\x00\x02\x00UI", 132)
    if mark < 0:
        return ""
    length = int.from_bytes(start[mark + 6 : mark + 8], "little")
    return start[mark + 8 : mark + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def _slice_step(positions: NDArray[np.float64], path: PathLike, what: str) -> NDArray[np.float64]:
    """Return the vector from one slice to the next, in LPS millimetres.

    ITK takes the normal of the first slice instead, which moves the slices of a tilted gantry, and only prints a
    warning when one is missing.
    """
    places, repeats = np.unique(positions.round(3), axis=0, return_counts=True)
    if repeats.max() > 1:
        raise ImageError(
            f"{path} holds {repeats.max()} {what}s at the position {places[repeats.argmax()].tolist()}: a time "
            "series, or images sent twice. Keep one volume."
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    deviation_mm = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(positions)), step), axis=1)
    typical = float(np.median(steps))
    odd = int(np.abs(steps - typical).argmax())
    if max(deviation_mm.max(), abs(steps[odd] - typical)) > _LARGEST_DEVIATION * typical:
        raise GeometryError(
            f"The {what}s of {path} are not evenly spaced: mostly {typical:.3f} mm apart, but {steps[odd]:.3f} mm "
            f"after {what} {odd + 1}. Add what is missing, or resample to even distances first."
        )
    return step
