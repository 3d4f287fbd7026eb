"""DICOM series and multi-frame images, written by pydicom as scanners and archives write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
SPACING = (0.7, 0.9)  # rows, columns
CLASS = "1.2.840.10008.5.1.4.1.1."
CT, ENHANCED_CT, ENHANCED_MR, ULTRASOUND, DOSE, NUCLEAR = "2", "2.1", "4.1", "6.2", "481.2", "20"


def some_voxels(planes: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (planes, 6, 8)).astype(np.int16)


def write(path: Path, voxels: np.ndarray, kind: str = CT, **fields: Any) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASS + kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    common = {
        "SOPClassUID": CLASS + kind, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1", "Modality": "CT", "Rows": voxels.shape[-2], "Columns": voxels.shape[-1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 1,
    }  # fmt: skip
    for keyword, value in {**common, **fields}.items():
        if value is not None:
            setattr(data, keyword, value)
    data.PixelData = voxels.astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def a_slice(path: Path, plane: np.ndarray, position, axes=AXIAL, **fields: Any) -> Path:
    place = {"ImagePositionPatient": list(position), "ImageOrientationPatient": [*axes[0], *axes[1]]}
    return write(path, plane, **{"PixelSpacing": list(SPACING), **place, **fields})


def a_series(folder: Path, voxels: np.ndarray, step=(0.0, 0.0, 3.0), axes=AXIAL, **fields: Any) -> Path:
    """Write slices whose file names run against the order in the patient."""
    folder.mkdir(exist_ok=True)
    prefix = str(fields.get("SeriesInstanceUID", "a")).replace(".", "_")
    for k, plane in enumerate(voxels):
        position = np.array((10.0, 20.0, 30.0)) + k * np.asarray(step)
        a_slice(folder / f"{prefix}_{99 - k}.dcm", plane, position, axes, InstanceNumber=k + 1, **fields)
    return folder


def expected_matrix(step, axes=AXIAL) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([np.array(axes[0]) * SPACING[1], np.array(axes[1]) * SPACING[0], step])
    lps[:3, 3] = (10, 20, 30)
    return np.diag((-1.0, -1, 1, 1)) @ lps
