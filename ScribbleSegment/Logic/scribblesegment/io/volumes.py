"""Images and label maps from files and to files.

Extensions decide the format. Reading keeps one copy of the voxels; writing replaces a file in one step or not at all.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.dicom import is_dicom_file, read_series
from scribblesegment.io.nifti import read_nifti, write_nifti
from scribblesegment.io.segmentation import (
    default_segment,
    labels_from_layers,
    unnamed_labels,
    unsigned_labels,
    write_nrrd,
    write_segmentation,
)
from scribblesegment.io.sitk import ijk_to_ras_of, image_from, simpleitk_errors, spatial_size, voxels_of
from scribblesegment.io.storage import PathLike, atomic_file

_REMEDY = "The file is truncated or damaged: copy or export it again."


_START_OF_SCAN = 0xDA

_END_OF_IMAGE = b"\xff\xd9"


# TIFF 6.0, section 2: code of a type -> its struct code and bytes; 16 to 18 are BigTIFF's. Only integers are looked at.
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # positions and lengths, of strips and of tiles

_BITS_PER_SAMPLE, _TILE_OFFSETS = 258, 324


def check_jpeg(path: PathLike) -> None:
    """Raise FileFormatError unless the end-of-image marker follows the first scan (ITU-T T.81, annex B)."""
    data = Path(path).read_bytes()
    position = 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xFF:  # fill byte before a marker
            position += 1
            continue
        # Segments before the scan are stepped over, so the end of an embedded thumbnail is not taken for the picture's;
        # inside a scan every 0xFF is followed by zero or a restart marker.
        if data[position + 1] == _START_OF_SCAN:
            if data.find(_END_OF_IMAGE, position) > 0:
                return
            break
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise FileFormatError(f"Cannot read {path}: its JPEG data end too early. {_REMEDY}")


def check_tiff(path: PathLike) -> None:
    """Raise unless every page of the file and all its pixels are there, and ITK reads them at full depth.

    Raises:
        FileFormatError: a page or a strip lies beyond the end of the file, or it is no TIFF.
        ImageError: tiles of more than 8 bits, which ITK would silently reduce to 8.
    """
    data = Path(path).read_bytes()
    try:
        for tags in _tiff_pages(data):
            for offsets, lengths in _TIFF_DATA_TAGS:
                for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=True):
                    if start + length > len(data):
                        raise ValueError(f"pixels are announced up to byte {start + length} of {len(data)}")
            if _TILE_OFFSETS in tags and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
                raise ImageError(f"{path} is a tiled TIFF of more than 8 bits, which is not read. Save as strips.")
    except (struct.error, ValueError) as cause:
        if isinstance(cause, ImageError):
            raise
        raise FileFormatError(f"Cannot read {path}: {cause}. {_REMEDY}") from cause


def _tiff_pages(data: bytes) -> list[dict[int, tuple[int, ...]]]:
    """Return the integer tags of every page (image file directory)."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("it does not start like a TIFF file")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count_code, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    (offset,) = struct.unpack_from(order + word, data, 8 if big else 4)
    pages: list[dict[int, tuple[int, ...]]] = []
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ValueError("its pages point at each other in a circle")
        seen.add(offset)
        (entries,) = struct.unpack_from(order + count_code, data, offset)
        first = offset + struct.calcsize("<" + count_code)
        tags = {}
        for entry in range(first, first + entries * entry_bytes, entry_bytes):
            tag, code, count = struct.unpack_from(order + "HH" + word, data, entry)
            value_at = entry + entry_bytes - struct.calcsize("<" + word)
            if count * _TIFF_BYTES.get(code, 1) > struct.calcsize("<" + word):  # stored elsewhere
                (value_at,) = struct.unpack_from(order + word, data, value_at)
            if code in _TIFF_INTEGERS:
                tags[tag] = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[code]}", data, value_at)
        pages.append(tags)
        (offset,) = struct.unpack_from(order + word, data, first + entries * entry_bytes)
    return pages


_JPEG = (".jpg", ".jpeg")

_TIFF = (".tif", ".tiff")

_NIFTI = (".nii.gz", ".nii")

_FLAT = (".png", *_TIFF)


# Longest first: .seg.nrrd before .nrrd.
READ_EXTENSIONS = (".seg.nrrd", ".nrrd", ".nhdr", *_NIFTI, ".mha", ".mhd", ".dcm", ".png", *_JPEG, *_TIFF)

WRITE_EXTENSIONS = (".seg.nrrd", ".nrrd", *_NIFTI, ".mha", *_FLAT)


# ITU-R BT.601, the weights by which the training images were made grey.
_LUMINANCE = (0.299, 0.587, 0.114)


class _Voxels(NamedTuple):
    array: NDArray[Any]  # (K, J, I) or, with several components, (K, J, I, C)
    ijk_to_ras: NDArray[np.float64]
    metadata: dict[str, str]


def read_volume(path: PathLike, *, series_id: str | None = None) -> Volume:
    """Read an image.

    Args:
        path: .nrrd, .nhdr, .nii, .nii.gz, .mha, .mhd, .dcm, .png, .jpg, .tif file, or a folder with a DICOM series.
            Colours become luminance (Rec. 601), transparency is ignored; a 2D image becomes one slice (1, H, W).
        series_id: Series Instance UID, where a folder holds several series.

    Returns:
        The image, in the file's own type and geometry. Its voxels are read-only.

    Raises:
        FileFormatError: missing, truncated, damaged, of unknown extension, or a folder with none or several series.
        ImageError: four-dimensional, empty, or with components that are not colours.
        GeometryError: a degenerate matrix, or unevenly spaced DICOM slices.
    """
    array, ijk_to_ras, _ = _read(path, series_id)
    return Volume(_luminance(array, path) if array.ndim == 4 else array, ijk_to_ras)


def read_labelmap(path: PathLike) -> LabelVolume:
    """Read a label map or mask, with the names and colours of its segments from a .seg.nrrd file.

    Args:
        path: any file `read_volume` takes except JPEG, which does not keep labels.

    Returns:
        Labels as uint8, uint16 or uint32, and the segments the file names (none in other formats).

    Raises:
        FileFormatError: as `read_volume`; JPEG.
        ImageError: as `read_volume`; fractions or negative labels, colours, or overlapping segments.
        GeometryError: as `read_volume`.
    """
    if _extension(path, READ_EXTENSIONS) in _JPEG:
        raise FileFormatError(f"{path} is a JPEG file, whose compression changes labels. Save the label map as .png.")
    array, ijk_to_ras, metadata = _read(path, None)
    segments: tuple[Segment, ...] = ()
    if "Segment0_ID" in metadata:
        array, segments = labels_from_layers(array, metadata, path)
    elif array.ndim == 4:
        array = _single_channel(array, path)
    if array.dtype.kind == "f":
        array = _whole_numbers(array, path)
    return LabelVolume(unsigned_labels(array), ijk_to_ras, segments)


def write_labelmap(path: PathLike, volume: Volume) -> None:
    """Write a mask or label map on the grid of `volume`, compressed; an existing file is replaced in one step.

    Args:
        path: .nrrd, .nii, .nii.gz, .mha; .seg.nrrd, with the names of a `LabelVolume` and default names for other
            labels; .png or .tif for a single slice (K = 1), which keep the spacing but not position and orientation.
        volume: labels (K, J, I), bool or integers from 0; stored as uint8 where that holds them.

    Raises:
        FileFormatError: unknown extension, missing folder, or the operating system refuses to write.
        ImageError: fractions or negative labels, or several slices or too large labels for a flat format.
        GeometryError: a sheared grid in a format that cannot hold it (.nii, .nii.gz, .png, .tif).
    """
    extension = _extension(path, WRITE_EXTENSIONS)
    if not extension:
        raise FileFormatError(
            f"Cannot write a label map to {path}: choose one of the extensions {', '.join(WRITE_EXTENSIONS)} "
            "(.nhdr and .mhd need two files, JPEG does not keep labels)."
        )
    labels = unsigned_labels(volume.array)
    if extension == ".seg.nrrd":
        given = volume.segments if isinstance(volume, LabelVolume) else ()
        unnamed = unnamed_labels(LabelVolume(labels, volume.ijk_to_ras, given))
        write_segmentation(path, volume, [*given, *(default_segment(label) for label in unnamed)])
        return
    if extension in _FLAT:
        _check_flat(path, volume, labels, extension)
    with atomic_file(path, extension) as temporary:
        if extension == ".nrrd":
            write_nrrd(temporary, labels, volume.ijk_to_ras)
        elif extension in _NIFTI:
            write_nifti(temporary, labels, volume.ijk_to_ras)
        else:
            _write_by_simpleitk(temporary, path, labels, volume.ijk_to_ras, flat=extension in _FLAT)


def _extension(path: PathLike, known: tuple[str, ...]) -> str:
    name = Path(path).name.lower()
    return next((extension for extension in known if name.endswith(extension)), "")


def _read(path: PathLike, series_id: str | None) -> _Voxels:
    if not os.path.exists(path):
        raise FileFormatError(f"Cannot read {path}: there is no such file or folder. Check the path.")
    is_folder = os.path.isdir(path)
    if series_id is not None and not is_folder:
        raise FileFormatError(f"{path} is a file; a series_id chooses among the series of a folder. Leave it out.")
    try:
        return _Voxels(*read_series(path, series_id), metadata={}) if is_folder else _read_file(path)
    except OSError as cause:
        if isinstance(cause, FileFormatError):
            raise
        raise FileFormatError(f"Cannot read {path}: {cause.strerror or cause}. Check its permissions.") from cause


def _read_file(path: PathLike) -> _Voxels:
    if os.path.getsize(path) == 0:
        raise FileFormatError(f"Cannot read {path}: the file has no content. Copy or export it again.")
    extension = _extension(path, READ_EXTENSIONS)
    if not extension and not is_dicom_file(path):  # DICOM files often come without an extension
        raise FileFormatError(
            f"Cannot read {path}: unknown extension. Known are {', '.join(READ_EXTENSIONS)} and folders with a DICOM "
            "series."
        )
    if extension in _NIFTI:
        return _Voxels(*read_nifti(path), metadata={})
    if extension in _JPEG:
        check_jpeg(path)
    if extension in _TIFF:
        check_tiff(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    with simpleitk_errors(path, "read", _REMEDY):
        reader.ReadImageInformation()
    spatial_size(reader, path)  # before the voxels, which may be large
    with simpleitk_errors(path, "read", _REMEDY):
        image = reader.Execute()
    metadata = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return _Voxels(voxels_of(image), ijk_to_ras_of(image), metadata)


def _luminance(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    # Colours come as unsigned numbers; three floating point components are a vector field.
    if array.shape[3] not in (3, 4) or array.dtype.kind != "u":
        raise ImageError(
            f"{path} has {array.shape[3]} components of type {array.dtype} in every voxel; only colours (3 or 4 "
            "unsigned components) have a grey value. Extract one component and give that."
        )
    grey = np.empty(array.shape[:3], array.dtype)
    for source, target in zip(array, grey, strict=True):  # plane by plane, as the weighted sum is floating point
        target[...] = np.rint(source[..., :3] @ np.asarray(_LUMINANCE))
    return grey


def _single_channel(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    colors = array[..., :3]
    if array.shape[3] not in (3, 4) or (colors != colors[..., :1]).any():
        raise ImageError(
            f"{path} has {array.shape[3]} components in every pixel; a label map has one number. Save it as a grey "
            "image or .nrrd; a palette image shows its labels as colours."
        )
    channel: NDArray[Any] = array[..., 0]
    return channel


def _whole_numbers(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    if not all(np.array_equal(plane, np.rint(plane)) for plane in array):  # false for NaN
        raise ImageError(f"{path} holds fractions or NaN and is no label map. Give a file of whole numbers.")
    if array.min() < 0 or array.max() > np.iinfo(np.uint32).max:
        raise ImageError(f"{path} holds labels from {array.min()} to {array.max()}. Number segments from 1 upwards.")
    return array.astype(np.uint32)


def _check_flat(path: PathLike, volume: Volume, labels: NDArray[Any], extension: str) -> None:
    if volume.shape[0] != 1:
        raise ImageError(f"{extension} holds one slice, not {volume.shape[0]}. Write {path} as .nrrd or .nii.gz.")
    if labels.dtype == np.uint32:
        raise ImageError(f"{extension} holds labels up to 65535, not {int(labels.max())}. Write {path} as .nrrd.")
    if volume.is_sheared:
        raise GeometryError(f"{extension} cannot hold axes that are not at right angles. Write {path} as .nrrd.")


def _write_by_simpleitk(
    temporary: Path, path: PathLike, labels: NDArray[Any], ijk_to_ras: NDArray[np.float64], *, flat: bool
) -> None:
    image = image_from(labels, ijk_to_ras)
    remedy = "Check free space and permissions of the folder; nothing was changed."
    with simpleitk_errors(path, "write", remedy):
        sitk.WriteImage(image[:, :, 0] if flat else image, os.fspath(temporary), useCompression=True)
    del image  # a copy of the labels, which need not be there while they are read back
    # ITK's writers do not notice a full disk: only what reads back equal has been written.
    with simpleitk_errors(path, "write", remedy):
        written = voxels_of(sitk.ReadImage(os.fspath(temporary)))
    if not np.array_equal(written, labels):
        raise FileFormatError(f"Cannot write {path}: it reads back differently. {remedy}")
