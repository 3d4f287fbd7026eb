from __future__ import annotations

import sys

import pytest

from scribblesegment.errors import ConfigError, MissingDependencyError, WeightsError
from scribblesegment.evaluation import baselines, methods
from scribblesegment.inference import predictor


def test_classical_methods_are_loaded_by_name():
    pytest.importorskip("cv2")
    assert methods.classical_names() == ("grow-from-seeds", "random-walker", "grabcut")
    assert methods.load_classical("random-walker") is baselines.random_walker
    assert methods.load_classical("grabcut") is baselines.grabcut


def test_an_unknown_classical_method_is_refused():
    with pytest.raises(ConfigError, match="No classical method 'default'"):
        methods.load_classical("default")


def test_a_network_is_loaded_for_the_device(monkeypatch):
    monkeypatch.setattr(predictor, "load_predictor", lambda name, *, device: (name, device))
    assert methods.load_network("mine.safetensors", device="cpu") == ("mine.safetensors", "cpu")


def test_an_unknown_network_is_refused_and_the_known_methods_are_named():
    with pytest.raises(ConfigError, match=r"No method 'grabcat'.*grow-from-seeds, random-walker, grabcut"):
        methods.load_network("grabcat")


def test_a_missing_file_of_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.safetensors"):
        methods.load_network(str(tmp_path / "none.safetensors"))


def test_a_damaged_file_of_weights_is_reported_as_such(tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="damaged"):
        methods.load_network(str(path))


def test_slicer_is_asked_for_when_grow_from_seeds_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer", None)
    monkeypatch.delitem(sys.modules, "scribblesegment.mrml.grow_from_seeds", raising=False)
    with pytest.raises(MissingDependencyError, match="slicer-core"):
        methods.load_classical("grow-from-seeds")
