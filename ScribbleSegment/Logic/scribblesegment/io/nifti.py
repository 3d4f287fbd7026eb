"""NIfTI-1 files: voxels in one array, geometry as ITK, and with it 3D Slicer, makes it of the header's two matrices.

Neither library reads as is wanted here: ITK holds the voxels twice, does not notice damage and straightens sheared
matrices when it writes; nibabel takes another one of the two matrices and is not part of 3D Slicer.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.data.volume import Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.segmentation import GZIP_LEVEL, write_planes
from scribblesegment.io.sitk import DAMAGED, ijk_to_ras_of, simpleitk_errors
from scribblesegment.io.storage import PathLike
from scribblesegment.io.streams import InflatedFile, read_voxels

# nifti1.h, https://nifti.nimh.nih.gov/nifti-1; what is not looked at is left out.
_HEADER = np.dtype(
    [
        ("sizeof_hdr", "<i4"), ("", "V34"), ("regular", "S1"), ("", "V1"), ("dim", "<i2", 8), ("", "V14"),
        ("datatype", "<i2"), ("bitpix", "<i2"), ("", "V2"), ("pixdim", "<f4", 8), ("vox_offset", "<f4"),
        ("scl_slope", "<f4"), ("scl_inter", "<f4"), ("", "V3"), ("xyzt_units", "u1"), ("", "V24"), ("descrip", "S80"),
        ("", "V24"), ("qform_code", "<i2"), ("sform_code", "<i2"), ("quatern", "<f4", 3), ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)), ("", "V16"), ("magic", "S4"),
    ]
)  # fmt: skip
_VOXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COLOR_COMPONENTS = {128: 3, 2304: 4}  # RGB and RGBA, 8 bits each
_LONGEST_SIDE = 32767
_MILLIMETRES = 2
_SCANNER_COORDINATES = 1


def read_nifti(path: PathLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a .nii or .nii.gz file.

    Returns:
        The voxels, (K, J, I) or with colours (K, J, I, C), in the file's type, or floating point where the header
        scales them; and the matrix from voxel index to RAS millimetres.

    Raises:
        FileFormatError: not NIfTI-1, truncated or damaged.
        ImageError: more than three dimensions, empty, or complex voxels.
        GeometryError: a distance of voxels that is zero or not a number.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"  # by content: files are renamed more often than recompressed
        file.seek(0)
        stream: Any = InflatedFile(file, path) if compressed else file
        header = _read_header(stream, path)
        shape, dtype = _layout(header, path)
        _skip_to_voxels(stream, header, path)
        file_bytes = os.fstat(file.fileno()).st_size
        voxels = read_voxels(stream, shape, dtype, path, file_bytes=file_bytes, exact=False)
    matrix = _geometry(path, header, compressed=compressed)
    return _scaled(voxels, float(header["scl_slope"]), float(header["scl_inter"])), matrix


def _read_header(stream: IO[bytes], path: PathLike) -> NDArray[Any]:
    data = b""
    while len(data) < _HEADER.itemsize and (piece := stream.read(_HEADER.itemsize - len(data))):
        data += piece
    if len(data) < _HEADER.itemsize:
        raise FileFormatError(f"Cannot read {path}: it ends inside its header, after {len(data)} bytes. {DAMAGED}")
    for layout in (_HEADER, _HEADER.newbyteorder("S")):  # as written here, or with bytes swapped
        header = np.frombuffer(data, layout)[0]
        if header["sizeof_hdr"] == _HEADER.itemsize and header["magic"] == b"n+1":
            return header
    raise FileFormatError(
        f"Cannot read {path}: it is not a single-file NIfTI-1 image (NIfTI-2 and .hdr/.img pairs are not read). "
        "Convert it to NIfTI-1 or NRRD."
    )


def _layout(header: NDArray[Any], path: PathLike) -> tuple[tuple[int, ...], np.dtype[Any]]:
    count = int(header["dim"][0])
    size = [int(side) for side in header["dim"][1 : 1 + max(count, 0)]]
    if not 1 <= count <= 7 or min(size) < 0:
        raise FileFormatError(f"Cannot read {path}: its header gives the size {size}. {DAMAGED}")
    if any(side > 1 for side in size[3:]):
        raise ImageError(
            f"{path} has {count} dimensions (size {tuple(size)}): a time series or a vector field. Extract one volume "
            "and give that."
        )
    if 0 in size:
        raise ImageError(f"{path} is an empty image of size {tuple(size)}. Export it again.")
    shape = (1, 1, 1, *reversed(size[:3]))[-3:]
    code = int(header["datatype"])
    if code in _COLOR_COMPONENTS:
        return (*shape, _COLOR_COMPONENTS[code]), np.dtype("u1")
    if code not in _VOXEL_TYPES:
        raise ImageError(f"{path} has voxels of NIfTI type {code} (complex, bits, or wider than 64). Convert to float.")
    return shape, np.dtype(_VOXEL_TYPES[code]).newbyteorder(header.dtype["dim"].base.byteorder)


def _skip_to_voxels(stream: IO[bytes], header: NDArray[Any], path: PathLike) -> None:
    offset = float(header["vox_offset"])
    if not _HEADER.itemsize <= offset <= 1 << 31 or offset != int(offset):  # false for NaN
        raise FileFormatError(f"Cannot read {path}: its header says that voxels begin at byte {offset:g}. {DAMAGED}")
    left = int(offset) - _HEADER.itemsize
    while left and (piece := stream.read(min(left, 1 << 16))):
        left -= len(piece)


def _scaled(voxels: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    # A slope of 0 means "not scaled" (nifti1.h, section on scl_slope).
    if slope == 0 or not np.isfinite([slope, intercept]).all() or (slope, intercept) == (1, 0):
        return voxels
    scaled = np.empty(voxels.shape, np.result_type(voxels.dtype, np.float32))
    for source, target in zip(voxels, scaled, strict=True):
        np.multiply(source, slope, out=target, casting="unsafe")
        target += intercept
    return scaled


def _geometry(path: PathLike, header: NDArray[Any], *, compressed: bool) -> NDArray[np.float64]:
    spacings = header["pixdim"][1:4]
    used = header["dim"][1:4][: header["dim"][0]]
    for spacing, side in zip(spacings, used, strict=False):  # ITK takes 1 mm for these, without a word
        if not np.isfinite(spacing) or (spacing == 0 and side > 1):
            raise GeometryError(
                f"{path} gives the distances {spacings.tolist()} of its voxels, which must be numbers above zero. "
                "Correct its header, or export it again."
            )
    if header["sform_code"] > 0 and np.isfinite(header["srow"]).all():
        matrix = np.vstack([header["srow"].astype(np.float64), (0.0, 0.0, 0.0, 1.0)])
        # ITK replaces a sheared matrix by the nearest one without shear, and so moves the image.
        if np.abs(np.linalg.det(matrix)) > 0 and Volume(np.zeros((1, 1, 1), np.uint8), matrix).is_sheared:
            return matrix
    reader = sitk.ImageFileReader()
    with contextlib.ExitStack() as stack:
        named = os.fspath(path)
        # ITK goes by the name, its case and .gz; of an image with fewer than three dimensions it drops part of the
        # matrix. Where that matters it gets the header alone, plainly named.
        plain = named.isascii() and named.endswith(".nii.gz" if compressed else ".nii")
        if not plain or header["dim"][0] < 3:
            header = header.copy()
            header["dim"][1 + header["dim"][0] :] = 1
            header["dim"][0] = max(header["dim"][0], 3)
            named = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "header.nii")
            Path(named).write_bytes(header.tobytes() + bytes(4))
        reader.SetFileName(named)
        with simpleitk_errors(path, "read", DAMAGED):
            reader.ReadImageInformation()
    return ijk_to_ras_of(reader)


def write_nifti(path: Path, array: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> None:
    """Write a label map (K, J, I), uint8, uint16 or uint32, as NIfTI-1, compressed if the name ends in .gz.

    The matrix is stored as float32 in both of the header's forms.

    Raises:
        GeometryError: a sheared matrix, which ITK and Slicer would straighten, or more than 32767 voxels along a side.
        OSError: the operating system refuses to write.
    """
    volume = Volume(array, ijk_to_ras)
    if volume.is_sheared:
        raise GeometryError(
            f"The axes of this volume are not at right angles, which NIfTI readers do not keep: {ijk_to_ras.tolist()}. "
            "Write .nrrd, .seg.nrrd or .mha instead."
        )
    if max(array.shape) > _LONGEST_SIDE:
        raise GeometryError(f"NIfTI-1 holds {_LONGEST_SIDE} voxels a side, not {array.shape}. Write .nrrd instead.")
    header = _label_header(volume).tobytes() + bytes(4)  # four zero bytes: no extensions follow
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as stream:
                stream.write(header)
                write_planes(stream, array)
        else:
            file.write(header)
            write_planes(file, array)


def _label_header(volume: Volume) -> NDArray[Any]:
    from scipy.spatial.transform import Rotation  # here, because it doubles the time importing this module takes

    header = np.zeros((), _HEADER)
    itemsize = volume.array.dtype.itemsize
    directions = volume.directions
    handedness = 1.0 if np.linalg.det(directions) > 0 else -1.0
    directions[:, 2] *= handedness  # a quaternion only rotates; pixdim[0] tells readers to mirror the third axis back
    x, y, z, w = Rotation.from_matrix(directions).as_quat()
    header["sizeof_hdr"] = _HEADER.itemsize
    header["regular"] = b"r"
    header["dim"] = (3, *volume.shape[::-1], 1, 1, 1, 1)
    header["datatype"] = {1: 2, 2: 512, 4: 768}[itemsize]
    header["bitpix"] = 8 * itemsize
    header["pixdim"] = (handedness, *volume.spacing_ijk_mm, 1, 1, 1, 1)
    header["vox_offset"] = _HEADER.itemsize + 4
    header["scl_slope"] = 1
    header["xyzt_units"] = _MILLIMETRES
    header["descrip"] = b"ScribbleSegment label map"
    header["qform_code"] = header["sform_code"] = _SCANNER_COORDINATES
    header["quatern"] = np.array((x, y, z)) * (1 if w >= 0 else -1)
    header["qoffset"] = volume.origin_ras
    header["srow"] = volume.ijk_to_ras[:3]
    header["magic"] = b"n+1"
    return header
