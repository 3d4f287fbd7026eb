"""Between SimpleITK's images (LPS, reversed axes) and arrays with an `ijk_to_ras` matrix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io.storage import PathLike

DAMAGED = "The file is truncated or damaged: copy or export it again."

# ITK counts x to the patient's left and y to the back, Slicer to the right and to the front.
LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def itk_name(path: PathLike) -> str:
    """Return a path as SimpleITK takes it: a name that is not Unicode would end the process."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError as cause:
        raise FileFormatError(f"{path} has a name that is not Unicode (UTF-8). Rename the file or folder.") from cause
    return name


class _ImageBuffer:
    """Keeps a SimpleITK image alive for as long as an array shows its memory."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def voxels_of(image: sitk.Image) -> NDArray[Any]:
    """Return the voxels as a read-only array (K, J, I), or (K, J, I, C) with several components, without copying.

    `sitk.GetArrayFromImage` copies, so that reading a CT of 500 MB would hold 1 GB; `GetArrayViewFromImage` does not,
    but its result points to freed memory once the image is gone. Here the array owns the image instead.
    """
    voxels = np.asarray(_ImageBuffer(image))
    components = image.GetNumberOfComponentsPerPixel()
    sides = voxels.shape if components == 1 else voxels.shape[:-1]
    sides = (1, *sides)[-3:]  # a 2D image is one plane; sides beyond the third have length 1 (see `spatial_size`)
    return voxels.reshape(sides if components == 1 else (*sides, components))


def spatial_size(source: sitk.Image | sitk.ImageFileReader, path: PathLike) -> tuple[int, ...]:
    """Return the (I, J) or (I, J, K) size of what an image or a reader describes.

    Raises:
        ImageError: more than three sides longer than 1, or a side of length 0.
    """
    size = tuple(source.GetSize())
    if any(side > 1 for side in size[3:]):
        raise ImageError(
            f"{path} has {len(size)} dimensions (size {size}): a time series or a stack of volumes. Extract one volume "
            "and give that."
        )
    if 0 in size:
        raise ImageError(f"{path} is an empty image of size {size}. Export it again.")
    return size[:3]


def ijk_to_ras_of(source: sitk.Image | sitk.ImageFileReader) -> NDArray[np.float64]:
    """Return the 4x4 matrix of an image, or of a reader that knows its header; a 2D image lies in the plane z = 0."""
    dimension = source.GetDimension()
    used = min(dimension, 3)
    direction = np.asarray(source.GetDirection()).reshape(dimension, dimension)[:used, :used]
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:used, :used] = direction * np.asarray(source.GetSpacing()[:used])
    ijk_to_lps[:used, 3] = source.GetOrigin()[:used]
    matrix: NDArray[np.float64] = LPS_TO_RAS @ ijk_to_lps
    return matrix


def image_from(array: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> sitk.Image:
    """Return a SimpleITK image with a copy of `array` (K, J, I) and the geometry of `ijk_to_ras`."""
    ijk_to_lps = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    return image


@contextmanager
def simpleitk_errors(path: PathLike, action: str, remedy: str) -> Iterator[None]:
    """Turn SimpleITK's several lines of source positions and addresses into one line with cause and remedy.

    Raises:
        FileFormatError: a RuntimeError came out of the block.
    """
    try:
        yield
    except RuntimeError as cause:
        raise FileFormatError(f"Cannot {action} {path}: {_reason(str(cause), str(path))}. {remedy}") from cause


def _reason(message: str, path: str) -> str:
    # The first line names SimpleITK's own source file; MetaImage blames a missing file for every failure.
    lines = [line.strip() for line in message.splitlines()[1:] if line.strip()]
    lines = [line for line in lines if line != "Reason: No such file or directory"] or ["unknown reason"]
    text = " ".join(lines) if len(lines) <= 2 else lines[-1]
    text = re.sub(r"^(sitk::ERROR|ITK ERROR): (\w+\(0x[0-9a-fA-F]+\): )?", "", text)
    if text.startswith("File cannot be read"):
        return "its header and its data do not fit together"
    text = text.replace(f'"{path}"', "the file").replace(path, "the file").replace("file: the file", "the file")
    return text.rstrip(".: ")[:200]
