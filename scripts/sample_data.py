"""Make the sample volumes that come with the extension: `python scripts/sample_data.py`.

Synthetic abdomens from formulas and random numbers alone, so they are nobody's data: a body with fat, spine, liver with
a lesion, spleen, two kidneys and aorta, in 48 slices of 4 mm with 2 mm pixels, and noise. One is a CT in Hounsfield
units; two are contrast-enhanced T1-weighted MRs with suppressed fat, of two patients who differ in the shape of their
organs, in contrast and in the field of the coil. Prints the SHA-256, which `ScribbleSegment.py` registers with Slicer's
module Sample Data.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

FOLDER = Path(__file__).resolve().parent.parent / "ScribbleSegment/Resources/SampleData"
SPACING_KJI_MM = (4.0, 2.0, 2.0)
LABELS = {1: "Liver", 2: "Spleen", 3: "Kidneys", 4: "Aorta", 5: "Liver lesion"}
_SHAPE = (48, 128, 160)

# Centre (mm from the middle: head, back, left), half axes, label, what it is made of; later ones replace earlier ones.
_ORGANS = (
    ((10, -12, -62), (62, 62, 66), 1, "liver"),
    ((18, -22, 2), (34, 34, 42), 1, "liver"),
    ((20, 38, 98), (44, 36, 26), 2, "spleen"),
    ((-28, 46, -58), (44, 24, 22), 3, "kidney"),
    ((-20, 46, 62), (44, 24, 22), 3, "kidney"),
    ((0, 30, 10), (400, 9, 9), 4, "aorta"),
    ((0, 34, -12), (400, 10, 11), 0, "vein"),
    ((6, -20, -84), (17, 17, 19), 5, "lesion"),
    ((0, 62, 0), (400, 20, 22), 0, "bone"),
    ((0, 62, 0), (400, 14, 16), 0, "marrow"),
    ((0, 84, 0), (400, 9, 9), 0, "canal"),
)
_TISSUES = ("air", "skin", "muscle", "fat", "liver", "spleen", "kidney", "aorta", "vein", "lesion", "bone", "marrow",
            "canal")  # fmt: skip


class Patient(NamedTuple):
    """Who is imaged, and how."""

    seed: int  # of the waves of the surfaces, and of the noise
    size: float  # of organs, 1 for those above
    tissues: tuple[float, ...]  # intensities of `_TISSUES`
    field: float  # share by which the field of an MR coil makes the image darker at the back than at the front
    noise: float


PATIENTS = {
    "ScribbleSegmentAbdomen": Patient(0, 1.0, (-1000, -100, 45, -85, 105, 118, 165, 190, 130, 55, 320, 190, 35), 0, 14),
    "ScribbleSegmentMR1": Patient(1, 1.0, (0, 40, 150, 60, 300, 350, 420, 520, 400, 190, 50, 160, 90), 0.3, 12),
    "ScribbleSegmentMR2": Patient(2, 0.9, (0, 50, 170, 80, 280, 360, 470, 540, 380, 170, 50, 190, 100), 0.4, 16),
}


def abdomen(patient: Patient) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, int16, and its labels (`LABELS`), uint8, both (K, J, I): to the head, the back, the left."""
    rng = np.random.default_rng(patient.seed)
    head, back, left = (
        (np.arange(size) - (size - 1) / 2) * spacing for size, spacing in zip(_SHAPE, SPACING_KJI_MM, strict=True)
    )
    # Organs share one displacement, so that their surfaces wave and they keep their neighbours.
    grid = np.stack(np.broadcast_arrays(head[:, None, None], back[:, None], left))
    for axis in grid:
        wave = ndimage.gaussian_filter(rng.normal(size=_SHAPE), (3, 6, 6))
        axis += 5 * wave / wave.std()

    def inside(centre: tuple[float, ...], axes: tuple[float, ...]) -> np.ndarray:
        return sum(((grid[i] - centre[i]) / axes[i]) ** 2 for i in range(3)) < 1

    tissues = dict(zip(_TISSUES, patient.tissues, strict=True))
    image = np.full(_SHAPE, float(tissues["air"]))
    image[inside((0, 0, 0), (1000, 112, 144))] = tissues["skin"]
    image[inside((0, 0, 0), (1000, 100, 130))] = tissues["muscle"]
    image[inside((0, -8, 0), (1000, 86, 118))] = tissues["fat"]
    labels = np.zeros(_SHAPE, np.uint8)
    for centre, axes, label, tissue in _ORGANS:
        organ = inside(centre, tuple(patient.size * axis for axis in axes))
        image[organ], labels[organ] = tissues[tissue], label
    image = ndimage.gaussian_filter(image, (0.4, 0.8, 0.8)) * (1 - patient.field * (back[:, None] / np.ptp(back)))
    noise = ndimage.gaussian_filter(rng.normal(size=_SHAPE), (0, 0.6, 0.6))
    values = image + patient.noise * noise / noise.std()
    return (4 * np.round(values / 4)).astype(np.int16), labels


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder to write to")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, patient in PATIENTS.items():
        image = sitk.GetImageFromArray(abdomen(patient)[0])
        spacing = SPACING_KJI_MM[::-1]
        image.SetSpacing(spacing)
        image.SetOrigin([-step * (size - 1) / 2 for step, size in zip(spacing, image.GetSize(), strict=True)])
        file = folder / f"{name}.nrrd"
        sitk.WriteImage(image, str(file), useCompression=True, compressionLevel=9)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
