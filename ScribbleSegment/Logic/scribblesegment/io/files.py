"""Images and label maps from files and to files.

Extensions decide the format. Reading keeps one copy of the voxels; writing replaces a file in one step or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.atomic_file import PathLike, atomic_file
from scribblesegment.exceptions import FileFormatError, GeometryError, ImageError
from scribblesegment.io.dicom import is_dicom_file, read_series
from scribblesegment.io.nifti import read_nifti, write_nifti
from scribblesegment.io.nrrd import write_nrrd
from scribblesegment.io.raster import check_jpeg, check_tiff
from scribblesegment.io.segmentation import (
    default_segment,
    labels_from_layers,
    unnamed_labels,
    unsigned_labels,
    write_segmentation,
)
from scribblesegment.io.sitk_image import ijk_to_ras_of, image_from, simpleitk_errors, spatial_size, voxels_of
from scribblesegment.volume import LabelVolume, Segment, Volume

_JPEG = (".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")
_NIFTI = (".nii.gz", ".nii")
_FLAT = (".png", *_TIFF)

# Longest first: .seg.nrrd before .nrrd.
READ_EXTENSIONS = (".seg.nrrd", ".nrrd", ".nhdr", *_NIFTI, ".mha", ".mhd", ".dcm", ".png", *_JPEG, *_TIFF)
WRITE_EXTENSIONS = (".seg.nrrd", ".nrrd", *_NIFTI, ".mha", *_FLAT)

_REMEDY = "The file is truncated or damaged: copy or export it again."

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
