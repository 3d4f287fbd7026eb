from __future__ import annotations

import importlib
import importlib.metadata

import pytest

import scribblesegment

PUBLIC = {
    "context.context_set": {"ContextEntry", "ContextSet"},
    "context.store": {"ContextStore"},
    "errors": {
        "CancelledError",
        "ConfigError",
        "ContextError",
        "DatasetError",
        "DeviceError",
        "FileFormatError",
        "GeometryError",
        "ImageError",
        "MissingPackageError",
        "NetworkError",
        "PromptError",
        "ScribbleSegmentError",
        "WeightsError",
    },
    "io": {"read_labelmap", "read_volume", "write_labelmap", "write_segmentation"},
    "inference.predictor": {"Network", "Prediction", "Predictor", "load_predictor"},
    "data.prompts": {"Prompts"},
    "propagation": {"AnnotatedSegment", "PropagatedSlice", "Propagation", "PropagationConfig", "Propagator"},
    "data.preprocessing": {"IntensityRange"},
    "refinement.correction": {"Correction", "CorrectionResult"},
    "data.labels": {"LabelScribbles"},
    "refinement.lagrangian": {"RefinementConfig"},
    "refinement.adapters": {"load_network"},
    "refinement.refiner": {"RefinementResult", "Refiner", "refine"},
    "refinement.region_growing": {"GrowthConfig", "grow_scribbles"},
    "inference.session": {"InteractiveSession"},
    "data.volume": {"LabelVolume", "Segment", "Volume"},
    "weights.registry": {"fetch_weights", "list_weights"},
}


def test_the_public_names_are_exactly_these():
    assert set(scribblesegment.__all__) == set().union(*PUBLIC.values(), {"__version__"})


@pytest.mark.parametrize(("module", "name"), sorted((module, name) for module in PUBLIC for name in PUBLIC[module]))
def test_a_public_name_is_the_object_of_its_module(module, name):
    defined = getattr(importlib.import_module(f"scribblesegment.{module}"), name)
    assert getattr(scribblesegment, name) is defined
    assert defined.__doc__, f"{module}.{name} has no docstring"


def test_every_error_is_a_scribble_segment_error():
    for name in PUBLIC["errors"]:
        assert issubclass(getattr(scribblesegment, name), scribblesegment.ScribbleSegmentError)


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'scribblesegment' has no attribute 'Predicter'"):
        scribblesegment.Predicter  # noqa: B018


def test_dir_lists_names_that_are_not_imported_yet():
    assert set(scribblesegment.__all__) <= set(dir(scribblesegment))


def test_the_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("scribblesegment")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is on the path, but not installed")
    assert installed == scribblesegment.__version__
