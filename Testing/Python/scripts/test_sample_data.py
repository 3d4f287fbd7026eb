"""The volumes that come with the extension: what the code makes, and what Slicer's module Sample Data checks."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

from scribblesegment import read_volume

SAMPLE = load_script("sample_data")
MODULE_FILE = Path(__file__).resolve().parents[3] / "ScribbleSegment" / "ScribbleSegment.py"


@pytest.mark.parametrize("name", SAMPLE.PATIENTS)
def test_a_sample_is_the_registered_file_and_what_the_code_makes(name):
    assigned = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse(MODULE_FILE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
    }
    file = SAMPLE.FOLDER / f"{name}.nrrd"
    assert ast.literal_eval(assigned["SAMPLES_SHA256"])[name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_size < 1e6
    volume, (image, labels) = read_volume(file), SAMPLE.abdomen(SAMPLE.PATIENTS[name])
    assert volume.spacing_kji_mm == SAMPLE.SPACING_KJI_MM
    assert (volume.array != image).mean() < 1e-4  # another processor may round a value the other way
    assert set(np.unique(labels)) == {0, *SAMPLE.LABELS}
