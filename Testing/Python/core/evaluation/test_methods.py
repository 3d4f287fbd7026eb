from __future__ import annotations

import sys

import numpy as np
import pytest

from scribblesegment import predictor
from scribblesegment.evaluation import baselines, methods
from scribblesegment.evaluation.dependencies import MissingDependencyError
from scribblesegment.exceptions import ConfigError, WeightsError


class RecordingPredictor:
    """Predicts the positive strokes, and keeps what it was given."""

    def __init__(self):
        self.images, self.prompts = [], []

    def set_image(self, image, *, spacing_mm):
        self.images.append((image, spacing_mm))

    def predict(self, prompts):
        self.prompts.append(prompts)
        return self

    def mask(self):
        return self.prompts[-1].scribbles[0] > 0


def test_a_network_gets_the_image_and_all_strokes_at_once():
    predictor_ = RecordingPredictor()
    image = np.random.default_rng(0).random((6, 7), dtype=np.float32)
    scribbles = np.zeros((2, 6, 7), np.float32)
    scribbles[0, 1, 1:3] = scribbles[1, 4, 4] = 1
    scribbles[:, 5, 5] = 1  # painted as both, as people do
    mask = methods.network_method(predictor_)(image, scribbles)
    assert np.array_equal(mask, scribbles[0] > 0)
    ((seen, spacing),) = predictor_.images
    (prompts,) = predictor_.prompts
    assert np.array_equal(seen, image)
    assert spacing == (1.0, 1.0)
    assert np.array_equal(prompts.scribbles, scribbles)
    assert prompts.mask_input is None
    assert len(prompts.point_coords) == len(prompts.boxes) == 0


def test_a_network_is_loaded_once_for_all_examples(monkeypatch):
    loaded = []

    def load(name, *, device):
        loaded.append((name, device))
        return RecordingPredictor()

    monkeypatch.setattr(predictor, "load_predictor", load)
    method = methods.load_method("mine.safetensors", device="cpu")
    scribbles = np.ones((2, 4, 4), np.float32)
    for _ in range(3):
        assert method(np.zeros((4, 4), np.float32), scribbles).all()
    assert loaded == [("mine.safetensors", "cpu")]


def test_classical_methods_are_loaded_by_name():
    pytest.importorskip("cv2")
    assert methods.classical_names() == ("grow-from-seeds", "random-walker", "grabcut")
    assert methods.load_method("random-walker") is baselines.random_walker
    assert methods.load_method("grabcut") is baselines.grabcut


def test_an_unknown_method_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ConfigError, match=r"No method 'grabcat'.*grow-from-seeds, random-walker, grabcut"):
        methods.load_method("grabcat")


def test_a_missing_file_of_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.safetensors"):
        methods.load_method(str(tmp_path / "none.safetensors"))


def test_a_damaged_file_of_weights_is_reported_as_such(tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="damaged"):
        methods.load_method(str(path))


def test_methods_without_their_library_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    loaded, skipped = methods.load_methods(["random-walker", "grabcut", "random-walker"])
    assert list(loaded) == ["random-walker"]
    assert list(skipped) == ["grabcut"]
    assert "OpenCV" in skipped["grabcut"]


def test_slicer_is_asked_for_when_grow_from_seeds_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer", None)
    monkeypatch.delitem(sys.modules, "scribblesegment.mrml.grow_from_seeds", raising=False)
    with pytest.raises(MissingDependencyError, match="slicer-core"):
        methods.load_method("grow-from-seeds")


def test_no_method_left_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"no method to measure.*OpenCV"):
        methods.load_methods(["grabcut"])
    with pytest.raises(ConfigError, match="No method was named"):
        methods.load_methods([])
