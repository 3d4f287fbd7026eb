"""Peak memory of segmenting one slice of a large volume from disk: `benchmark_memory.py`.

Writes a volume and a label map of strokes into a temporary folder, runs `scribblesegment segment` on them in a process
of its own, and compares that process's largest resident memory with the size of the volume. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scribblesegment import Segment, Volume, write_segmentation

LIMIT_MB = 500
_MB = 1e6
# Linux counts in KiB, macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> int:
    """Measure and return 0, 1 if a run needs more than the volume and the limit, or 2 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(1000, 512, 512), metavar=("K", "J", "I"))
    parser.add_argument("--image", nargs="+", choices=("nrrd", "mha"), default=["nrrd", "mha"], help="formats to read")
    parser.add_argument(
        "--output",
        nargs="+",
        choices=("seg.nrrd", "nrrd", "nii.gz", "mha"),
        default=["seg.nrrd", "nii.gz", "mha"],
        help="formats to write",
    )
    options = parser.parse_args()
    k, j, i = options.shape
    volume_mb = k * j * i * np.dtype(np.int16).itemsize / _MB
    print(f"volume {k} x {j} x {i} int16: {volume_mb:.0f} MB; limit {volume_mb + LIMIT_MB:.0f} MB", flush=True)
    print(f"{'read':>5} {'write':>9} {'peak MB':>8} {'above volume':>13} {'seconds':>8}", flush=True)
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        strokes = Path(folder) / "strokes.seg.nrrd"
        write_strokes(strokes, (k, j, i))
        for image_format in options.image:
            image = Path(folder) / f"image.{image_format}"
            write_volume(image, (k, j, i))
            for output_format in options.output:
                code, peak_mb, seconds = measure(image, strokes, Path(folder) / f"result.{output_format}")
                if code != 0:
                    print(f"error: the command failed with exit code {code}", file=sys.stderr)
                    return 2
                largest = max(largest, peak_mb - volume_mb)
                row = f"{image_format:>5} {output_format:>9} {peak_mb:8.0f} {peak_mb - volume_mb:13.0f} {seconds:8.1f}"
                print(row, flush=True)
            image.unlink()
    return int(largest > LIMIT_MB)


def measure(image: Path, strokes: Path, output: Path) -> tuple[int, float, float]:
    """Segment in a process of its own; returns exit code, peak resident memory in MB, and seconds.

    The system counts a new process's peak from that of the process that starts it, so this one must stay small.
    """
    command = [sys.executable, "-m", "scribblesegment.cli", "segment", str(image), "--scribbles", str(strokes)]
    command += ["-o", str(output), "--overlay", str(output.parent / "overlay.png")]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * _RSS_UNIT / _MB, time.perf_counter() - started


def write_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """Write a noisy ball as an uncompressed int16 volume, plane by plane so that this process stays small."""
    k, j, i = shape
    if path.suffix == ".nrrd":
        header = (
            f"NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: {i} {j} {k}\n"
            "space directions: (0.7,0,0) (0,0.7,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
            "encoding: raw\nspace origin: (0,0,0)\n\n"
        )
    else:
        header = (
            f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = {i} {j} {k}\n"
            "ElementSpacing = 0.7 0.7 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 20.0, (j, i))
    rows, columns = np.ogrid[-1 : 1 : j * 1j, -1 : 1 : i * 1j]
    with open(path, "wb") as file:
        file.write(header.encode())
        for depth in np.linspace(-1, 1, k):
            ball = 1000.0 * (rows**2 + columns**2 + depth**2 < 0.5) - 500.0
            file.write((ball + np.roll(noise, int(1000 * depth))).astype("<i2").tobytes())


def write_strokes(path: Path, shape: tuple[int, int, int]) -> None:
    """Write one stroke in the middle slice, as a label map of the volume's size."""
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 2, shape[1] // 2, shape[2] // 3 : shape[2] // 2] = 1
    # Right and anterior of a file in LPS are negative.
    matrix = np.diag((-0.7, -0.7, 1.0, 1.0))
    write_segmentation(path, Volume(labels, matrix), [Segment(1, "ball", (0.2, 0.8, 0.2))])


if __name__ == "__main__":
    sys.exit(main())
