"""Make the sample volume that comes with the extension: `python scripts/sample_data.py`.

A synthetic abdomen in Hounsfield units, from formulas and random numbers alone, so it is nobody's data: a body with
fat, spine, liver with a lesion, spleen, two kidneys and aorta, in 48 slices of 4 mm with 2 mm pixels, and noise.
Prints the SHA-256, which `ScribbleSegment.py` registers with Slicer's module Sample Data.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

FILE = Path(__file__).resolve().parent.parent / "ScribbleSegment/Resources/SampleData/ScribbleSegmentAbdomen.nrrd"
SPACING_KJI_MM = (4.0, 2.0, 2.0)
LABELS = {1: "Liver", 2: "Spleen", 3: "Kidneys", 4: "Aorta", 5: "Liver lesion"}
_SHAPE = (48, 128, 160)

# Centre (mm from the middle: head, back, left), half axes, Hounsfield units, label; later ones replace earlier ones.
_ORGANS = (
    ((10, -12, -62), (62, 62, 66), 105, 1),
    ((18, -22, 2), (34, 34, 42), 105, 1),
    ((20, 38, 98), (44, 36, 26), 118, 2),
    ((-28, 46, -58), (44, 24, 22), 165, 3),
    ((-20, 46, 62), (44, 24, 22), 165, 3),
    ((0, 30, 10), (400, 9, 9), 190, 4),
    ((0, 34, -12), (400, 10, 11), 130, 0),
    ((6, -20, -84), (17, 17, 19), 55, 5),
    ((0, 62, 0), (400, 20, 22), 320, 0),
    ((0, 62, 0), (400, 14, 16), 190, 0),
    ((0, 84, 0), (400, 9, 9), 35, 0),
)


def abdomen() -> tuple[np.ndarray, np.ndarray]:
    """Return the image, int16, and its labels (`LABELS`), uint8, both (K, J, I): to the head, the back, the left."""
    rng = np.random.default_rng(0)
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

    image = np.full(_SHAPE, -1000.0)
    image[inside((0, 0, 0), (1000, 112, 144))] = -100
    image[inside((0, 0, 0), (1000, 100, 130))] = 45
    image[inside((0, -8, 0), (1000, 86, 118))] = -85
    labels = np.zeros(_SHAPE, np.uint8)
    for centre, axes, intensity, label in _ORGANS:
        organ = inside(centre, axes)
        image[organ], labels[organ] = intensity, label
    blurred = ndimage.gaussian_filter(image, (0.4, 0.8, 0.8))
    noise = ndimage.gaussian_filter(rng.normal(size=_SHAPE), (0, 0.6, 0.6))
    values = blurred + 14 * noise / noise.std()
    return (4 * np.round(values / 4)).astype(np.int16), labels


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(abdomen()[0])
    spacing = SPACING_KJI_MM[::-1]
    image.SetSpacing(spacing)
    image.SetOrigin([-step * (size - 1) / 2 for step, size in zip(spacing, image.GetSize(), strict=True)])
    sitk.WriteImage(image, str(output), useCompression=True, compressionLevel=9)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, SHA-256 {hashlib.sha256(output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
