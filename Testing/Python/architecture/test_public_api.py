from __future__ import annotations

import importlib.metadata
import sys

import pytest

import scribblesegment

PUBLIC = (
    "AnnotatedSegment", "CancelledError", "ConfigError", "ContextEntry", "ContextError", "ContextSet",
    "ContextStore", "Correction", "CorrectionResult", "DatasetError", "DeviceError", "FileFormatError",
    "GeometryError", "GrowthConfig", "ImageError", "IntensityRange", "InteractiveSession", "LabelScribbles",
    "LabelVolume", "MissingPackageError", "Network", "NetworkError", "Prediction", "Predictor", "PromptError",
    "Prompts", "PropagatedSlice", "Propagation", "PropagationConfig", "Propagator", "RefinementConfig",
    "RefinementResult", "Refiner", "ScribbleSegmentError", "Segment", "Volume", "WeightsError", "fetch_weights",
    "grow_scribbles", "list_weights", "load_network", "load_predictor", "read_labelmap", "read_volume", "refine",
    "write_labelmap", "write_segmentation",
)  # fmt: skip


def test_the_public_names_are_exactly_these():
    assert set(scribblesegment.__all__) == {*PUBLIC, "__version__"} <= set(dir(scribblesegment))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_documented_object_of_its_module(name):
    defined = getattr(scribblesegment, name)
    assert getattr(sys.modules[defined.__module__], name) is defined
    assert defined.__doc__
    assert not name.endswith("Error") or issubclass(defined, scribblesegment.ScribbleSegmentError)


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'scribblesegment' has no attribute 'Predicter'"):
        scribblesegment.Predicter  # noqa: B018


def test_the_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("scribblesegment")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is on the path, but not installed")
    assert installed == scribblesegment.__version__
