"""Segmentations as 3D Slicer writes them (.seg.nrrd): a label map whose header names and colours every segment.

Keys and their meaning: vtkMRMLSegmentationStorageNode of 3D Slicer.
"""

from __future__ import annotations

import colorsys
import gzip
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError
from scribblesegment.io.sitk import LPS_TO_RAS
from scribblesegment.io.storage import PathLike, atomic_file

EXTENSION = ".seg.nrrd"

# Label maps are long runs of equal values: stronger settings cost several times the time for a few per cent.
GZIP_LEVEL = 3

_TYPE_NAMES = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int"}
# Successive hues a golden angle apart stay distinguishable for any number of segments.
_HUE_STEP = 0.618034
_SEGMENT_KEY = re.compile(r"Segment(\d{1,5})_(ID|Name|LabelValue)")
# Of a voxel, far below the half from which it would be another one: what rounded headers make of a matrix, and programs
# that straighten one which is slightly sheared, as ITK and with it 3D Slicer do with NIfTI.
_OFF_GRID = 0.25


def write_nrrd(
    path: Path, array: NDArray[Any], ijk_to_ras: NDArray[np.float64], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a label map (K, J, I), uint8, uint16 or uint32, gzip-compressed, one plane in memory at a time.

    Any shear is kept. Line breaks and backslashes in the values of `metadata` are escaped.

    Raises:
        OSError: the operating system refuses to write.
    """
    itemsize = array.dtype.itemsize
    ijk_to_lps = LPS_TO_RAS @ ijk_to_ras
    fields = [
        "NRRD0004",
        f"type: {_TYPE_NAMES[itemsize]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(side) for side in reversed(array.shape))}",
        f"space directions: {' '.join(_vector(column) for column in ijk_to_lps[:3, :3].T)}",
        "kinds: domain domain domain",
        *(["endian: little"] if itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {_vector(ijk_to_lps[:3, 3])}",
        *(f"{key}:={_escaped(value)}" for key, value in (metadata or {}).items()),
    ]
    with open(path, "wb") as file:
        file.write(("\n".join(fields) + "\n\n").encode())
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as stream:
            write_planes(stream, array)


def write_planes(stream: gzip.GzipFile | IO[bytes], array: NDArray[Any]) -> None:
    """Write the voxels in little-endian order, one plane in memory at a time."""
    for plane in array:
        stream.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).tobytes())


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")


def default_segment(label: int) -> Segment:
    """Return a segment named after its label, in a colour that differs from its neighbours'."""
    return Segment(label, f"Segment_{label}", colorsys.hsv_to_rgb((0.33 + (label - 1) * _HUE_STEP) % 1, 0.6, 0.9))


def unsigned_labels(array: NDArray[Any]) -> NDArray[Any]:
    """Return labels as the narrowest of uint8, uint16 and uint32 that holds them; uint8 and bool are not copied.

    Raises:
        ImageError: fractions, negative numbers, or labels from 2**32.
    """
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind not in "ui":
        raise ImageError(f"Labels are whole numbers, not {array.dtype}. Threshold or round them: (array > 0.5).")
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.uint16, np.uint32):
        if low >= 0 and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    raise ImageError(f"Labels from {low} to {high} cannot be stored. Number segments from 1; 0 is the background.")


def write_segmentation(path: PathLike, volume: Volume, segments: Sequence[Segment]) -> None:
    """Write labels with names and colours to a .seg.nrrd file that 3D Slicer opens as a segmentation.

    Args:
        path: file to write, whole or not at all; an existing one is replaced.
        volume: labels (K, J, I), bool or integers from 0.
        segments: one for every label that occurs; those without voxels become empty segments.

    Raises:
        FileFormatError: another extension, a missing folder, or the operating system refuses to write.
        ImageError: not labels, two segments of one label, or a label without a segment.
    """
    if not str(path).lower().endswith(EXTENSION):
        raise FileFormatError(f"Cannot write a segmentation to {path}: the name must end in {EXTENSION}.")
    labels = LabelVolume(unsigned_labels(volume.array), volume.ijk_to_ras, tuple(segments))
    unnamed = unnamed_labels(labels)
    if unnamed:
        raise ImageError(f"Labels {unnamed} occur in the volume and have no segment. Add one for each, or clear them.")
    with atomic_file(path, EXTENSION) as temporary:
        write_nrrd(temporary, labels.array, labels.ijk_to_ras, _header(labels))


def unnamed_labels(volume: LabelVolume) -> list[int]:
    """Return the labels that occur in the volume and have no segment."""
    return sorted(set(volume.labels_present()) - {segment.label for segment in volume.segments})


def _header(volume: LabelVolume) -> dict[str, str]:
    k, j, i = volume.shape
    extent = f"0 {i - 1} 0 {j - 1} 0 {k - 1}"
    header: dict[str, str] = {}
    for number, segment in enumerate(volume.segments):
        header |= {
            f"Segment{number}_ID": f"Segment_{segment.label}",
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{part:.6g}" for part in segment.color_rgb),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(segment.label),
            f"Segment{number}_Layer": "0",
            # Segments that share a layer share its array in Slicer, so all have the extent of the layer.
            f"Segment{number}_Extent": extent,
            f"Segment{number}_Tags": "",
        }
    # What Slicer calls the reference geometry: the grid on which it goes on painting.
    geometry = ";".join([repr(float(value)) for value in volume.ijk_to_ras.ravel()] + extent.split()) + ";"
    return header | {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|&",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def has_segments(metadata: Mapping[str, str]) -> bool:
    """Whether the header of a file describes segments."""
    return any(_SEGMENT_KEY.fullmatch(key) for key in metadata)


def labels_from_layers(
    layers: NDArray[Any], metadata: Mapping[str, str], path: PathLike
) -> tuple[NDArray[Any], tuple[Segment, ...]]:
    """Flatten the layers of a .seg.nrrd file to one label map.

    Args:
        layers: (K, J, I), or (K, J, I, L) if the file has several layers, where layers may use the same label.
        metadata: key/value pairs of the file's header.
        path: for messages.

    Returns:
        Labels (K, J, I) and their segments. With several layers that use a label twice, segments are numbered from 1.

    Raises:
        ImageError: segments overlap, so that a pixel would need two labels.
        FileFormatError: the header contradicts itself.
    """
    found = _segments(metadata, path)
    segments = [segment for segment, _ in found]
    unique = len({segment.label for segment in segments}) == len(segments)
    if layers.ndim == 3:
        if not unique:
            raise FileFormatError(
                f"{path} has one label for two segments: {[s.label for s in segments]}. Save it again."
            )
        return layers, tuple(segments)
    merged = np.zeros(layers.shape[:3], np.uint16)
    numbered: list[Segment] = []
    for number, (segment, layer) in enumerate(found, start=1):
        if not 0 <= layer < layers.shape[3]:
            raise FileFormatError(
                f"{path} has {layers.shape[3]} layers; the segment {segment.name!r} is said to lie in layer {layer}. "
                "Save it again."
            )
        voxels = layers[..., layer] == segment.label
        overlap = voxels & (merged > 0)
        if overlap.any():
            other = next(s for s in numbered if s.label == merged[overlap][0])
            raise ImageError(
                f"In {path} the segments {other.name!r} and {segment.name!r} overlap in {int(overlap.sum())} voxels, "
                "and a pixel has one label only. Erase the overlap, for instance by painting with 'Overwrite all'."
            )
        label = segment.label if unique else number
        merged[voxels] = label
        numbered.append(Segment(label, segment.name, segment.color_rgb))
    return merged, tuple(numbered)


def _segments(metadata: Mapping[str, str], path: PathLike) -> list[tuple[Segment, int]]:
    """Return every segment with its layer; names and colours that make no sense are replaced by default ones."""
    numbers = sorted({int(match[1]) for key in metadata if (match := _SEGMENT_KEY.fullmatch(key))})
    found = []
    for number in numbers:
        prefix = f"Segment{number}_"
        try:
            # Without the newer keys every segment has a layer of its own, with label 1, as Slicer reads it.
            label = _whole_number(metadata.get(prefix + "LabelValue", "1"))
            layer = _whole_number(metadata.get(prefix + "Layer", str(number)))
            usual = default_segment(label)
        except (ValueError, ImageError) as cause:
            raise FileFormatError(f"Segment {number} of {path} is damaged: {cause} Save the file again.") from cause
        name = metadata.get(prefix + "Name", "").strip() or metadata.get(prefix + "ID", "").strip() or usual.name
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # what was not UTF-8 in the file
        color = _color(metadata.get(prefix + "Color", "")) or _color(metadata.get(prefix + "DefaultColor", ""))
        found.append((Segment(label, name, color or usual.color_rgb), layer))
    return found


def _whole_number(text: str) -> int:
    """Return the integer of a text; some writers write 1.0."""
    number = float(text)
    if not number.is_integer() or abs(number) >= 1 << 32:
        raise ValueError(f"{text!r:.40} is not a whole number.")
    return int(number)


def _color(text: str) -> tuple[float, float, float] | None:
    """Return red, green and blue in [0, 1] of a text that gives them in [0, 1] or up to 255; None if it does not."""
    try:
        red, green, blue = (float(part) for part in text.split()[:3])
    except ValueError:
        return None
    largest = max(red, green, blue)
    scale = 1 if largest <= 1.001 else 255  # some writers round up
    if not math.isfinite(red + green + blue) or min(red, green, blue) < 0 or largest > 255:
        return None
    return min(red / scale, 1.0), min(green / scale, 1.0), min(blue / scale, 1.0)


def placed_on(labels: LabelVolume, grid: Volume, path: PathLike) -> LabelVolume:
    """Return the same labels on the grid of an image, of which they cover a part, not to be resampled.

    The file may count voxels from other corners or along other axes. 3D Slicer saves only the part of the grid that is
    painted on, and one voxel in no particular place for a segmentation without any.

    Raises:
        GeometryError: voxels that are not those of the grid, or labels outside of it.
    """
    if labels.same_grid(grid):
        return labels
    if not labels.labels_present():
        return LabelVolume(np.zeros(grid.shape, labels.array.dtype), grid.ijk_to_ras, labels.segments)
    to_grid = np.linalg.inv(grid.ijk_to_ras) @ labels.ijk_to_ras  # index (i, j, k, 1) to index
    steps = np.rint(to_grid[:3, :3])
    first = np.rint(to_grid[:3, 3])
    last_ijk = np.array(labels.shape[::-1]) - 1
    corners = np.array([last_ijk * corner for corner in np.ndindex(2, 2, 2)]).T
    off_ijk = (to_grid[:3, :3] - steps) @ corners + (to_grid[:3, 3] - first)[:, None]
    is_turn = (np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all()
    if not is_turn or np.abs(off_ijk).max() > _OFF_GRID:
        raise _not_on_grid(labels, grid, path, "")
    axes = np.abs(steps).argmax(axis=1)  # of the labels, for each axis i, j, k of the grid
    array = labels.array.T.transpose(axes)
    flips = steps[np.arange(3), axes] < 0
    array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    start = np.rint((steps @ corners + first[:, None]).min(axis=1)).astype(int)
    source, target = [], []
    for begin, length, side in zip(start.tolist(), array.shape, grid.shape[::-1], strict=True):
        source.append(slice(max(0, -begin), max(0, min(length, side - begin))))
        target.append(slice(max(0, begin), max(0, min(side, begin + length))))
    inside = array[tuple(source)]
    lost = int(np.count_nonzero(array)) - int(np.count_nonzero(inside))
    if lost:
        raise _not_on_grid(labels, grid, path, f"{lost} labelled voxels lie outside of it, ")
    whole = np.zeros(grid.shape, labels.array.dtype)
    whole.T[tuple(target)] = inside
    return LabelVolume(whole, grid.ijk_to_ras, labels.segments)


def _not_on_grid(labels: Volume, grid: Volume, path: PathLike, why: str) -> GeometryError:
    return GeometryError(
        f"{path} is not on the grid of the image: {why}{_described(labels)} against {_described(grid)}. Resample it to "
        "the image with nearest neighbours, or paint on the image."
    )


def _described(volume: Volume) -> str:
    def numbers(values: Any) -> str:
        return "(" + ", ".join(f"{round(float(value), 4) + 0.0:g}" for value in values) + ")"

    directions = " ".join(numbers(column) for column in volume.directions.T)
    return (
        f"shape (k, j, i) {volume.shape}, spacing {numbers(volume.spacing_kji_mm)} mm, origin "
        f"{numbers(volume.origin_ras)} RAS, directions of i, j, k {directions}"
    )
