"""Images and label maps from files and to files.

Extensions decide the format. Reading keeps one copy of the voxels; writing replaces a file in one step or not at all.
"""

from __future__ import annotations

import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.data import validation
from scribblesegment.data.preprocessing import grey_of_colours
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.dicom import is_dicom_file, is_dicom_segmentation, read_dicom_file, read_series
from scribblesegment.io.nifti import read_nifti, write_nifti
from scribblesegment.io.segmentation import (
    default_segment,
    has_segments,
    labels_from_layers,
    placed_on,
    unnamed_labels,
    unsigned_labels,
    write_nrrd,
    write_segmentation,
)
from scribblesegment.io.sitk import (
    DAMAGED,
    ijk_to_ras_of,
    image_from,
    itk_name,
    simpleitk_errors,
    spatial_size,
    voxels_of,
)
from scribblesegment.io.storage import PathLike, atomic_file, system_errors
from scribblesegment.io.streams import read_after_header

_JPEG = (".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")
_NIFTI = (".nii.gz", ".nii")
_FLAT = (".png", *_TIFF)
_WITH_TEXT_HEADER = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")

# Longest first: .seg.nrrd before .nrrd.
READ_EXTENSIONS = (".seg.nrrd", ".nrrd", ".nhdr", *_NIFTI, ".mha", ".mhd", ".dcm", ".png", *_JPEG, *_TIFF)
WRITE_EXTENSIONS = (".seg.nrrd", ".nrrd", *_NIFTI, ".mha", *_FLAT)

# From nanometres to kilometres; what lies outside comes from damaged headers, and products of it overflow.
_SPACING_RANGE_MM = (1e-6, 1e6)

# What scaling and single precision leave behind in labels, as in 1.0000001.
_WHOLE = 1e-4

# TIFF 6.0, section 2: code of a type -> its struct code and bytes; 16 to 18 are BigTIFF's. Only integers are looked at.
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # positions and lengths, of strips and of tiles
_BITS_PER_SAMPLE, _COMPRESSION, _ORIENTATION, _SAMPLES, _PLANES, _TILE_OFFSETS = 258, 259, 274, 277, 284, 324
_SAMPLE_FORMAT, _FLOATING_POINT = 339, 3
_DEFLATE = ((8,), (32946,))
_TURNED = range(2, 9)  # values of the orientation for which viewers turn or mirror; other values mean nothing to them
_GREY, _GREY_WITH_ALPHA = 0, 4


class _Voxels(NamedTuple):
    array: NDArray[Any]  # (K, J, I) or, with several components, (K, J, I, C)
    ijk_to_ras: NDArray[np.float64]
    metadata: dict[str, str]


def read_volume(path: PathLike, *, series: str | int | None = None) -> Volume:
    """Read an image.

    Args:
        path: .nrrd, .nhdr, .nii, .nii.gz, .mha, .mhd, .dcm, .png, .jpg, .tif file, or a folder with a DICOM series.
            Colours become luminance (Rec. 601), transparency is ignored; a 2D image becomes one slice (1, H, W).
        series: Series Number or Series Instance UID, where a folder holds several series.

    Returns:
        The image, in the file's own type and geometry. Its voxels are read-only.

    Raises:
        FileFormatError: missing, truncated, damaged, of unknown extension, or a folder with none or several series.
        ImageError: four-dimensional, empty, or with components that are not colours.
        GeometryError: a degenerate matrix, or slices that are missing, unevenly spaced or not parallel.
    """
    array, ijk_to_ras, _ = _read(path, series)
    return Volume(_grey(array, path) if array.ndim == 4 else array, ijk_to_ras)


def read_labelmap(path: PathLike, *, grid: Volume | None = None) -> LabelVolume:
    """Read a label map or mask, with the names and colours of its segments from a .seg.nrrd file.

    Args:
        path: any file `read_volume` takes except JPEG, which does not keep labels, and DICOM segmentations.
        grid: an image whose grid, or a part of it, the file covers; the labels come on this grid, 0 elsewhere. Of
            .png and .tif, which have no place in the patient, only the size is compared.

    Returns:
        Labels as uint8, uint16 or uint32, and the segments the file names (none in other formats).

    Raises:
        FileFormatError: as `read_volume`; JPEG, or a DICOM segmentation.
        ImageError: as `read_volume`; fractions or negative labels, colours, or overlapping segments.
        GeometryError: as `read_volume`; voxels that are not those of `grid`, or labels outside of it.
    """
    extension = _extension(path, READ_EXTENSIONS)
    if extension in _JPEG:
        raise FileFormatError(f"{path} is a JPEG file, whose compression changes labels. Save the label map as .png.")
    with system_errors(f"Cannot read {path}", "Check its permissions."):
        is_segmentation = os.path.isfile(path) and is_dicom_segmentation(path)
    if is_segmentation:
        raise FileFormatError(
            f"{path} is a DICOM segmentation, which is not read as labels. Give the labels as .seg.nrrd or .nii.gz; 3D "
            "Slicer's DICOM module opens the file, and saves it as that."
        )
    array, ijk_to_ras, metadata = _read(path, None)
    segments: tuple[Segment, ...] = ()
    if has_segments(metadata):
        array, segments = labels_from_layers(array, metadata, path)
    elif array.ndim == 4:
        array = _single_channel(array, path)
    if array.dtype.kind == "f":
        array = _whole_numbers(array, path)
    labels = LabelVolume(unsigned_labels(array), ijk_to_ras, segments)
    if grid is None:
        return labels
    if extension in _FLAT:
        validation.same_shape(labels.shape, grid.shape, name=os.fspath(path))
        return LabelVolume(labels.array, grid.ijk_to_ras)
    return placed_on(labels, grid, path)


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


def _read(path: PathLike, series: str | int | None) -> _Voxels:
    if not os.path.exists(path):
        raise FileFormatError(f"Cannot read {path}: there is no such file or folder. Check the path.")
    is_folder = os.path.isdir(path)
    if series is not None and not is_folder:
        raise FileFormatError(f"{path} is a file; a series is chosen among those of a folder. Leave out the choice.")
    with system_errors(f"Cannot read {path}", "Check its permissions."):
        voxels = _Voxels(*read_series(path, series), metadata={}) if is_folder else _read_file(path)
    spacings = np.linalg.norm(voxels.ijk_to_ras[:3, :3], axis=0)
    low, high = _SPACING_RANGE_MM
    if not ((spacings >= low) & (spacings <= high)).all():  # written so that NaN is caught as well
        raise GeometryError(
            f"{path} has voxels {' x '.join(f'{spacing:g}' for spacing in spacings)} mm apart, which is not possible. "
            "Correct its header, or export it again."
        )
    return voxels


def _read_file(path: PathLike) -> _Voxels:
    if os.path.getsize(path) == 0:
        raise FileFormatError(f"Cannot read {path}: the file has no content. Copy or export it again.")
    extension = _extension(path, READ_EXTENSIONS)
    if extension == ".dcm" or not extension:  # DICOM files often come without an extension
        if is_dicom_file(path):
            return _Voxels(*read_dicom_file(path), metadata={})
        if not extension:
            raise FileFormatError(
                f"Cannot read {path}: unknown extension. Known are {', '.join(READ_EXTENSIONS)} and folders with a "
                "DICOM series."
            )
    if extension in _NIFTI:
        return _Voxels(*read_nifti(path), metadata={})
    if extension in _TIFF:
        _check_tiff(path)
    if extension in (".png", *_JPEG):
        _check_picture(path)
    if extension == ".png" and (pixels := _transparent_grey(path)) is not None:
        return _Voxels(pixels, np.diag([-1.0, -1.0, 1.0, 1.0]), {})
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    if extension in (".mha", ".mhd"):
        reader.SetImageIO("MetaImageIO")  # which does not know them in capitals
    with simpleitk_errors(path, "read", DAMAGED):
        reader.ReadImageInformation()
    spatial_size(reader, path)  # before the voxels, which may be large
    array = read_after_header(path, reader) if extension in _WITH_TEXT_HEADER else None
    if array is None:
        with simpleitk_errors(path, "read", DAMAGED):
            array = voxels_of(reader.Execute())
    metadata = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return _Voxels(array, ijk_to_ras_of(reader), metadata)


def _check_picture(path: PathLike) -> None:
    """Raise FileFormatError unless a PNG has its checksums right, or a JPEG can be decoded to its end."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on large pictures, and on Exif entries that are damaged
            with Image.open(path, formats=["PNG", "JPEG"]) as picture:
                turned = picture.format != "PNG" and picture.getexif().get(_ORIENTATION) in _TURNED
                if picture.format == "PNG":
                    picture.verify()
                else:
                    picture.load()
    except Image.DecompressionBombError as cause:
        raise FileFormatError(f"{path} is larger than pictures may be: {cause}. Crop it or make it smaller.") from cause
    except Exception as cause:  # whatever a decoder raises in the middle of damaged data
        reason = str(cause).replace(repr(os.fspath(path)), "it")
        raise FileFormatError(f"Cannot read {path}: {reason}. {DAMAGED}") from cause
    if turned:
        raise FileFormatError(
            f"{path} is stored turned (Exif orientation): its rows and columns are not those that viewers show. Save "
            "it the right way up."
        )


def _transparent_grey(path: PathLike) -> NDArray[Any] | None:
    """Read a PNG that is grey with transparency, which SimpleITK does not, as colours (1, H, W, 4); else None."""
    from PIL import Image

    with open(path, "rb") as file:
        bits, kind = file.read(26)[24:]  # PNG specification, IHDR
    if kind == _GREY_WITH_ALPHA and bits > 8:
        raise FileFormatError(f"{path} has {bits}-bit grey with transparency, which is not read. Save it without.")
    with Image.open(path) as picture:
        if kind != _GREY_WITH_ALPHA and not (kind == _GREY and "transparency" in picture.info):
            return None
        return np.array(picture if bits > 8 else picture.convert("RGBA"))[None]


def _check_tiff(path: PathLike) -> None:
    """Raise unless every page of the file and all its pixels are there, and ITK reads them as they are."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for tags in _tiff_pages(data):
                for offsets, lengths in _TIFF_DATA_TAGS:
                    for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=True):
                        if start + length > len(data):
                            raise ValueError(f"pixels are announced up to byte {start + length} of {len(data)}")
                        if tags.get(_COMPRESSION) in _DEFLATE:
                            zlib.decompress(data[start : start + length])  # raises for a wrong checksum
                if unread := _unread_tiff(tags):
                    raise ImageError(f"{path} is a TIFF {unread}, which is not read. Save it as a plain one.")
        except (struct.error, zlib.error, ValueError) as cause:
            if isinstance(cause, ImageError):
                raise
            raise FileFormatError(f"Cannot read {path}: {cause}. {DAMAGED}") from cause


def _unread_tiff(tags: dict[int, tuple[int, ...]]) -> str:
    """Return what of a page ITK takes for something else, or reads with 8 bits only; "" if it reads it."""
    bits, (samples, *_) = max(tags.get(_BITS_PER_SAMPLE, (1,))), tags.get(_SAMPLES, (1,))
    if samples not in (1, 3, 4):
        return f"with {samples} values in every pixel (such as grey with transparency)"
    if bits < 32 and _FLOATING_POINT in tags.get(_SAMPLE_FORMAT, ()):
        return f"of {bits}-bit floating point"
    if any(value in _TURNED and value != 4 for value in tags.get(_ORIENTATION, ())):  # which ITK mirrors itself
        return "that viewers turn"
    if bits > 8 and (_TILE_OFFSETS in tags or (samples > 1 and tags.get(_PLANES) == (2,))):
        return "of more than 8 bits in tiles or colour by colour"
    return ""


def _tiff_pages(data: mmap.mmap) -> Iterator[dict[int, tuple[int, ...]]]:
    """Yield the integer tags of every page (image file directory); Pillow's reader lets pass what is cut off."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("it does not start like a TIFF file")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count_code, entry_bytes, word_bytes = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (offset,) = struct.unpack_from(order + word, data, 8 if big else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ValueError("its pages point at each other in a circle")
        seen.add(offset)
        (entries,) = struct.unpack_from(order + count_code, data, offset)
        first = offset + struct.calcsize("<" + count_code)
        tags = {}
        for entry in range(first, min(first + entries * entry_bytes, len(data)), entry_bytes):
            tag, code, count = struct.unpack_from(order + "HH" + word, data, entry)
            value_at = entry + entry_bytes - word_bytes
            if count * _TIFF_BYTES.get(code, 1) > word_bytes:  # stored elsewhere
                (value_at,) = struct.unpack_from(order + word, data, value_at)
                if value_at + count * _TIFF_BYTES.get(code, 1) > len(data):
                    raise ValueError(f"tag {tag} of a page lies beyond its end")
            if code in _TIFF_INTEGERS:
                tags[tag] = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[code]}", data, value_at)
        (offset,) = struct.unpack_from(order + word, data, first + entries * entry_bytes)
        yield tags
    if not seen:
        raise ValueError("it has no page")


def _grey(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    # Colours come as unsigned numbers; three floating point components are a vector field.
    if array.shape[3] not in (3, 4) or array.dtype.kind != "u":
        raise ImageError(
            f"{path} has {array.shape[3]} components of type {array.dtype} in every voxel; only colours (3 or 4 "
            "unsigned components) have a grey value. Extract one component and give that."
        )
    return grey_of_colours(array)


def _single_channel(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    colors = array[..., :3]
    if array.shape[3] == 4:
        colors = colors * (array[..., 3:] > 0)  # nothing is painted where it is transparent
    if array.shape[3] not in (3, 4) or (colors != colors[..., :1]).any():
        raise ImageError(
            f"{path} has {array.shape[3]} components in every pixel; a label map has one number. Save it as a grey "
            "image or .nrrd; a palette image shows its labels as colours."
        )
    channel: NDArray[Any] = colors[..., 0]
    return channel


def _whole_numbers(array: NDArray[Any], path: PathLike) -> NDArray[Any]:
    whole = np.empty(array.shape, array.dtype)
    for plane, target in zip(array, whole, strict=True):
        np.rint(plane, out=target)
        if not np.allclose(plane, target, rtol=0, atol=_WHOLE):  # false for NaN
            raise ImageError(f"{path} holds fractions or NaN, so it is not a label map. Give a file of whole numbers.")
    if whole.min() < 0 or whole.max() > np.iinfo(np.uint32).max:
        raise ImageError(f"{path} holds labels from {whole.min()} to {whole.max()}. Number segments from 1 upwards.")
    return whole.astype(np.uint32)


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
        sitk.WriteImage(image[:, :, 0] if flat else image, itk_name(temporary), useCompression=True)
    del image  # a copy of the labels, which need not be there while they are read back
    # ITK's writers do not notice a full disk: only what reads back equal has been written.
    with simpleitk_errors(path, "write", remedy):
        written = voxels_of(sitk.ReadImage(itk_name(temporary)))
    if not np.array_equal(written, labels):
        raise FileFormatError(f"Cannot write {path}: it reads back differently. {remedy}")
