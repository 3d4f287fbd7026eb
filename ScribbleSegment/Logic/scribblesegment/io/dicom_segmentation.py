"""DICOM Segmentation objects, by which results go back to a PACS; written by highdicom."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.volume import LabelVolume
from scribblesegment.errors import FileFormatError, GeometryError, ImageError, require_package
from scribblesegment.io.dicom import is_dicom_file, source_files
from scribblesegment.io.segmentation import default_segment
from scribblesegment.io.storage import PathLike, atomic_file

EXTENSION = ".dcm"

_SERIES_NUMBER, _LONGEST_NAME = 300, 64

# What images may leave empty (type 2 in DICOM PS3.3), but not out; some programs leave it out.
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator",
)  # fmt: skip


def require_highdicom() -> Any:
    """Import highdicom; a MissingPackageError says how to install it."""
    remedy = "Install it: python -m pip install 'scribblesegment[dicom]'."
    return require_package("highdicom", purpose="Writing DICOM segmentations", remedy=remedy)


def is_dicom_source(path: PathLike) -> bool:
    """Whether an image is a folder, or a DICOM file, as a DICOM segmentation refers to."""
    return os.path.isdir(path) or (os.path.isfile(path) and is_dicom_file(path))


def write_dicom_segmentation(
    path: PathLike, volume: LabelVolume, source: PathLike, *, series: str | int | None = None
) -> None:
    """Write labels as a DICOM Segmentation of the images that they were made from, whole or not at all.

    Patient and study are those of the images. Segments are numbered from 1 in the order of their labels, and named as
    in `volume`, otherwise by their label.

    Args:
        path: file to write, ending in .dcm.
        volume: labels (K, J, I) on the grid that `read_volume(source, series=series)` gives.
        source: folder of the DICOM series, or DICOM file.
        series: as for `read_volume`.

    Raises:
        MissingPackageError: highdicom is not installed.
        FileFormatError: another extension, `source` is not DICOM or lacks what DICOM demands, or the system refuses.
        GeometryError: `source` has another number of slices, rows or columns.
        ImageError: no label occurs.
    """
    highdicom = require_highdicom()
    from scribblesegment import __version__

    if not str(path).lower().endswith(EXTENSION):
        raise FileFormatError(f"Cannot write a DICOM segmentation to {path}: the name must end in {EXTENSION}.")
    if not is_dicom_source(source):
        raise FileFormatError(f"{path} would refer to DICOM images, and {source} is none. Choose another format.")
    labels = volume.labels_present()
    if not labels:
        raise ImageError(f"Nothing is segmented, and a DICOM segmentation cannot be empty: {path} was not written.")
    files, order = source_files(source, series)
    images = [_complete_image(file, volume.spacing_kji_mm[0]) for file in files]
    shape = (len(order), int(images[0].Rows), int(images[0].Columns))
    if shape != volume.shape:
        raise GeometryError(f"The labels have the shape {volume.shape}, the images of {source} {shape}.")
    numbers: NDArray[Any] = np.zeros(max(labels) + 1, np.min_scalar_type(len(labels)))
    numbers[list(labels)] = np.arange(1, len(labels) + 1)
    stored = np.empty(shape, numbers.dtype)
    stored[order] = numbers[volume.array]
    named = {segment.label: segment for segment in volume.segments}
    descriptions = _descriptions(highdicom, [(named.get(label) or default_segment(label)).name for label in labels])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on values of other forms than the standard's
            segmentation = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=stored,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="ScribbleSegment developers",
                manufacturer_model_name="ScribbleSegment",
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise FileFormatError(
            f"Cannot make a DICOM segmentation of {source}: {' '.join(str(cause).split())}. Its headers lack what "
            "DICOM demands; write .seg.nrrd instead."
        ) from cause
    with atomic_file(Path(path), EXTENSION) as temporary:
        segmentation.save_as(temporary)


def _complete_image(file: Path, spacing_mm: float) -> Any:
    """Read a source image, and fill in what highdicom asks for and some programs leave out."""
    import pydicom

    image = pydicom.dcmread(file)
    image.decode()
    image.SpecificCharacterSet = "ISO_IR 192"  # Unicode, which holds the names of patient and segments alike
    for keyword in _MAY_BE_EMPTY:
        if keyword not in image:
            setattr(image, keyword, "")
    if "SliceThickness" not in image:
        image.SliceThickness = float(f"{spacing_mm:.6g}")
    return image


def _descriptions(highdicom: Any, names: list[str]) -> list[Any]:
    """Describe segments of these names, numbered from 1."""
    from pydicom.sr.codedict import codes

    from scribblesegment import __version__

    tissue = codes.SCT.Tissue
    made_by = highdicom.AlgorithmIdentificationSequence(
        name="ScribbleSegment", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name.replace("\\", "/")[:_LONGEST_NAME],
            segmented_property_category=tissue,
            segmented_property_type=tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, name in enumerate(names, start=1)
    ]
