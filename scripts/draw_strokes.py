"""Draw strokes given as polylines into a labelmap on an image's grid: `draw_strokes.py IMAGE STROKES.json -o OUT`."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from scribblesegment import ScribbleSegmentError, Segment, Volume, read_volume, write_segmentation


def main() -> int:
    """Write the labelmap and return 0, or say what is wrong and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path, help="image whose grid the strokes are drawn on")
    parser.add_argument("strokes", type=Path, help="slice, brush radius and polylines, as in demo_strokes.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="labelmap to write (.seg.nrrd)")
    options = parser.parse_args()
    strokes = json.loads(options.strokes.read_text(encoding="utf-8"))
    try:
        image = read_volume(options.image)
        labels = np.zeros(image.shape, dtype=np.uint8)
        plane = labels[strokes["slice_k"]]
        for segment in strokes["segments"]:
            for polyline in segment["polylines"]:
                plane[polyline_mask(plane.shape, polyline, strokes["radius_pixels"])] = segment["label"]
        segments = [Segment(s["label"], s["name"], tuple(s["color_rgb"])) for s in strokes["segments"]]
        write_segmentation(options.output, Volume(labels, image.ijk_to_ras), segments)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def polyline_mask(shape: tuple[int, ...], polyline: list[list[float]], radius: float) -> np.ndarray:
    """Pixels (H, W) no further than `radius` pixels from the line through the (row, column) corners `polyline`."""
    pixels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(np.float64)
    mask = np.zeros(shape, dtype=bool)
    corners = np.asarray(polyline, dtype=np.float64)
    for start, stop in itertools.pairwise(corners):
        along = stop - start
        position = np.clip(((pixels - start) @ along) / max(float(along @ along), 1e-12), 0.0, 1.0)
        mask |= np.linalg.norm(pixels - start - position[..., None] * along, axis=-1) <= radius
    return mask


if __name__ == "__main__":
    sys.exit(main())
