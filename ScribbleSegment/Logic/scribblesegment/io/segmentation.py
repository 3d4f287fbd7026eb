"""Segmentations as 3D Slicer writes them (.seg.nrrd): a label map whose header names and colours every segment.

Keys and their meaning: vtkMRMLSegmentationStorageNode of 3D Slicer.
"""

from __future__ import annotations

import colorsys
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io.sitk import LPS_TO_RAS
from scribblesegment.io.storage import PathLike, atomic_file

# Label maps are long runs of equal values: stronger settings cost several times the time for a few per cent.
GZIP_LEVEL = 3


_TYPE_NAMES = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int"}


def write_nrrd(
    path: Path, array: NDArray[Any], ijk_to_ras: NDArray[np.float64], metadata: Mapping[str, str] | None = None
) -> None:
    """Write an unsigned label map with the geometry of `ijk_to_ras`, gzip-compressed.

    Args:
        path: file to create.
        array: (K, J, I) uint8, uint16 or uint32.
        ijk_to_ras: (4, 4) voxel index to RAS millimetres; any shear is kept.
        metadata: key/value pairs for the header; line breaks and backslashes in the values are escaped.

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


EXTENSION = ".seg.nrrd"


# Successive hues a golden angle apart stay distinguishable for any number of segments.
_HUE_STEP = 0.618034


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
            raise FileFormatError(f"{path} has {layers.shape[3]} layers, segment {segment.name!r} lies in {layer}.")
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
    found = []
    number = 0
    while f"Segment{number}_ID" in metadata:
        prefix = f"Segment{number}_"
        try:
            # Without the newer keys every segment has a layer of its own, with label 1, as Slicer reads it.
            label = int(metadata.get(prefix + "LabelValue", "1"))
            layer = int(metadata.get(prefix + "Layer", str(number)))
            name = metadata.get(prefix + "Name", metadata[prefix + "ID"])
            color = metadata.get(prefix + "Color") or metadata.get(prefix + "DefaultColor")
            rgb = tuple(float(part) for part in color.split()) if color else default_segment(number + 1).color_rgb
            found.append((Segment(label, name, rgb), layer))  # type: ignore[arg-type]
        except (ValueError, ImageError) as cause:
            raise FileFormatError(f"Segment {number} of {path} is damaged: {cause}. Save the file again.") from cause
        number += 1
    return found
