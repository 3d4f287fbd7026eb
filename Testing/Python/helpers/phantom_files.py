"""Image files of a phantom, the same on every machine, for command lines to work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from scribblesegment import Segment, Volume, read_volume, write_labelmap, write_segmentation


def make_phantoms(folder: Path) -> None:
    """Write a CT of 12 x 64 x 64 voxels with two structures in several formats, with strokes and annotations."""

    def ellipsoid(centre: tuple[int, ...], radii: tuple[float, ...]) -> np.ndarray:
        indices = np.indices((12, 64, 64)).transpose(1, 2, 3, 0)
        return (((indices - centre) / radii) ** 2).sum(axis=-1) < 1

    liver, spleen = ellipsoid((5, 30, 20), (5, 16, 11)), ellipsoid((6, 34, 46), (4.5, 12, 9))
    noise = np.random.default_rng(7).normal(0, 8, liver.shape)
    voxels = np.round(-20 + 200 * liver + 110 * spleen + noise).astype(np.int16)
    labels = (liver + 3 * spleen).astype(np.uint8)
    names = [Segment(1, "Liver", (0.8, 0.5, 0.4)), Segment(3, "Spleen", (0.2, 0.5, 0.9))]

    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.8, 0.9, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    for name in ("ct.nrrd", "ct.nii.gz", "ct.mha", "scans/a.nrrd", "scans/b.nii.gz", "scans/deep/c.mha"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / name))
    gray = sitk.GetImageFromArray(np.clip(voxels[5] + 30, 0, 255).astype(np.uint8))
    for name in ("slice.png", "slice.tif", "slice.jpg"):
        sitk.WriteImage(gray, str(folder / name))
    make_dicom_series(folder / "dicom", voxels[2:8])

    matrix = read_volume(folder / "ct.nrrd").ijk_to_ras
    strokes, few, marks = (np.zeros_like(labels) for _ in range(3))
    for k in (4, 6):
        strokes[k, 22:38, 20:22], strokes[k, 28:40, 45:47], strokes[k, 4:8, 5:55] = 1, 3, 9
    few[[3, 7]] = labels[[3, 7]]
    marks[5, 28:32, 14:26], marks[5, 2:4, 4:60] = 2, 255
    write_segmentation(folder / "strokes.seg.nrrd", Volume(strokes, matrix), [*names, Segment(9, "rest", (0, 0, 0))])
    write_segmentation(folder / "few.seg.nrrd", Volume(few, matrix), names)
    few_along_j = np.zeros_like(labels)
    few_along_j[:, [26, 40]] = labels[:, [26, 40]]
    write_labelmap(folder / "few_along_j.nii.gz", Volume(few_along_j, matrix))
    write_labelmap(folder / "marks.nrrd", Volume(marks, matrix))
    write_labelmap(folder / "new_mark.nrrd", Volume(np.where(marks == 2, 7, marks).astype(np.uint8), matrix))
    mark = np.where(marks[5:6] == 2, 1, marks[5:6]).astype(np.uint8)
    write_labelmap(folder / "mark_2d.nrrd", Volume(mark, read_volume(folder / "slice.tif").ijk_to_ras))
    between = matrix.copy()
    between[:3, 3] += matrix[:3, 0] / 2
    write_labelmap(folder / "shifted.nrrd", Volume(strokes, between))
    (folder / "damaged.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes()[:9000])


def make_dicom_series(folder: Path, voxels: np.ndarray) -> None:
    folder.mkdir()
    for k, plane in enumerate(voxels):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.8, 0.9, 3.0))
        image.SetOrigin((10.0, 20.0, 30.0 + 3.0 * k))
        tags = {
            "0008|0060": "CT",
            "0008|0018": f"1.2.3.1.{k}",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.1",
            "0020|0013": str(k + 1),
            "0020|0032": f"10.0\\20.0\\{30.0 + 3.0 * k}",
            "0020|0037": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{90 - k}.dcm"))
        writer.Execute(image)
