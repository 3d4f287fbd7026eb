"""The volume that comes with the extension: what the code makes, and what Slicer's module Sample Data checks."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import numpy as np
from scripts import load_script

from scribblesegment import read_volume

MODULE_FILE = Path(__file__).resolve().parents[3] / "ScribbleSegment" / "ScribbleSegment.py"


def test_the_sample_is_the_registered_file_and_what_the_code_makes():
    sample = load_script("sample_data")
    assigned = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse(MODULE_FILE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
    }
    assert ast.literal_eval(assigned["SAMPLE_SHA256"]) == hashlib.sha256(sample.FILE.read_bytes()).hexdigest()
    assert sample.FILE.stat().st_size < 1e6
    volume, (image, labels) = read_volume(sample.FILE), sample.abdomen()
    assert volume.spacing_kji_mm == sample.SPACING_KJI_MM
    assert (volume.array != image).mean() < 1e-4  # another processor may round a value the other way
    assert set(np.unique(labels)) == {0, *sample.LABELS}
