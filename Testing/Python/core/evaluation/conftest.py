"""Small sets of strokes on disk, in the layout of the real ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scribblesegment.evaluation.simulated import Simulation, SimulationPlan, StepResult


def set_content():
    """Arrays of a set of two images and two annotators: a bright square in each image, a stroke in it and one above."""
    content = {
        "images": np.full((2, 16, 16), 40, np.uint8),
        "labels": np.zeros((2, 16, 16), np.uint8),
        "scribbles": np.zeros((2, 2, 2, 16, 16), np.uint8),
        "meta": json.dumps({"name": "a set", "subjects": ["subject 0", "subject 1"]}),
    }
    content["images"][:, 4:10, 4:10] = 255
    content["labels"][:, 4:10, 4:10] = 1
    content["scribbles"][:, :, 0, 6, 5:9] = 1
    content["scribbles"][:, :, 1, 1, 2:14] = 1
    return content


@pytest.fixture
def write_set(tmp_path):
    """Writes a set `medscribble_<task>.npz`, some arrays replaced or (None) left out; returns its path."""

    def write(task="square", **replaced):
        content = {**set_content(), **replaced}
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        path = folder / f"medscribble_{task}.npz"
        np.savez(path, **{name: value for name, value in content.items() if value is not None})
        return path

    return write


@pytest.fixture
def simulate():
    """Makes a simulation up from the Dice of every step, one list for each (procedure, method, subject)."""

    def make(dice, *, seconds=0.1, unable=(), **options):
        results = [
            StepResult(
                procedure=procedure,
                method=method,
                set_name=f"set {subject[0]}",
                task=f"set {subject[0]}/disc",
                subject=subject,
                image_index=0,
                label=1,
                repetition=0,
                step=step,
                dice=value,
                hausdorff95_mm=100 * (1 - value),
                surface_dice=value / 2,
                seconds=seconds,
            )
            for (procedure, method, subject), values in dice.items()
            for step, value in enumerate(values, start=1)
        ]
        procedures = tuple(dict.fromkeys(key[0] for key in dice)) or ("boxes",)
        return Simulation(SimulationPlan(procedures, **{"steps": 2, **options}), results, list(unable))

    return make
