from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig
from tiled_inference import tiled_logits

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import NetworkError, PromptError, WeightsError
from scribblesegment.inference.predictor import Network, Predictor
from scribblesegment.refinement.adapters.embedded import EmbeddedNetwork, load_embedded
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

SIZE = 32
CONFIG = ScribbleUNetConfig(features=(3, 4, 5), convolutions=2)


def make_module() -> ScribbleUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScribbleUNet(CONFIG).eval()


@pytest.fixture
def network() -> EmbeddedNetwork:
    return EmbeddedNetwork(make_module(), size=SIZE, temperature=2.0, name="tiny")


@pytest.fixture
def volume() -> Volume:
    array = np.random.default_rng(0).normal(100, 20, (6, 40, 25)).astype(np.float32)
    return Volume(array, np.diag([1.5, 0.8, 3.0, 1.0]))


def strokes(shape: tuple[int, int]) -> LabelScribbles:
    positive, negative = np.zeros(shape, bool), np.zeros(shape, bool)
    positive[shape[0] // 2, 1:4] = True
    negative[0, :] = True
    return LabelScribbles.from_masks({1: positive, 0: negative})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_unrefined_prediction_is_that_of_the_predictor(network: EmbeddedNetwork, volume: Volume, axis: int) -> None:
    cut = volume.slice(axis, 3)
    drawn = strokes(cut.image.shape)
    prepared = network.prepare(volume, axis=axis, index=3, scribbles=drawn)
    found = prepared.to_image(tiled_logits(network, prepared))

    from scribblesegment.data.preprocessing import IntensityRange

    predictor = Predictor(
        Network(network.module, size=SIZE, temperature=2.0, device="cpu", capabilities=("scribbles",))
    )
    whole = IntensityRange.estimate(volume.array)
    predictor.set_image(cut.image, spacing_mm=cut.spacing_mm, intensity_range=whole)
    prompts = Prompts.empty(cut.image.shape).with_scribble(drawn.mask(1)).with_scribble(drawn.mask(0), positive=False)
    expected = predictor.predict(prompts).logits
    assert found.shape == (2, *cut.image.shape)
    np.testing.assert_allclose(found[1] - found[0], expected, atol=0.02)  # the predictor may run in half precision


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_the_same_alone_and_together(network: EmbeddedNetwork, volume: Volume, axis: int) -> None:
    drawn = strokes(volume.slice(axis, 2).image.shape)
    labels = np.full((volume.shape[axis], *drawn.shape), -1)
    labels[2] = drawn.labels
    everywhere = LabelScribbles.from_labels(np.moveaxis(labels, 0, axis))
    whole = network.prepare(volume, axis=axis, scribbles=everywhere)
    one = network.prepare(volume, axis=axis, index=2, scribbles=drawn)
    assert torch.equal(whole.tensor[:, 2], one.tensor)
    together = whole.to_image(tiled_logits(network, whole))
    assert together.shape == (2, *volume.shape)
    np.testing.assert_allclose(together.take(2, axis=axis + 1), one.to_image(tiled_logits(network, one)), atol=1e-5)
    assert np.array_equal(whole.to_grid(everywhere).labels[2], one.to_grid(drawn).labels)
    assert not whole.to_grid(everywhere).marked[1].any()


def test_a_slice_on_which_no_structure_is_marked_is_background(network: EmbeddedNetwork, volume: Volume) -> None:
    shape = volume.slice(0, 0).image.shape
    negative = LabelScribbles.empty(shape).with_point((3, 3), 0)
    for drawn in (None, negative):
        prepared = network.prepare(volume, index=0, scribbles=drawn)
        found = prepared.to_image(tiled_logits(network, prepared))
        assert (found.argmax(axis=0) == 0).all()


def test_every_mark_lies_on_a_cell_that_shows_the_slice(network: EmbeddedNetwork) -> None:
    image = Volume(np.ones((1, 61, 7)), np.diag([1.3, 0.9, 1.0, 1.0]))
    drawn = LabelScribbles.from_labels(np.ones((61, 7), int))
    prepared = network.prepare(image, index=0, scribbles=drawn)
    marked = prepared.to_grid(drawn).marked
    from scribblesegment.data.preprocessing import NetworkGrid

    inside = np.zeros((SIZE, SIZE), bool)
    inside[NetworkGrid((61, 7), (0.9, 1.3), SIZE).content] = True
    assert np.array_equal(marked, inside)


def test_other_labels_than_the_object_are_negative_for_the_network(network: EmbeddedNetwork, volume: Volume) -> None:
    shape = volume.slice(0, 0).image.shape
    drawn = LabelScribbles.empty(shape).with_point((10, 10), 2)
    tensor = network.prepare(volume, index=0, scribbles=drawn).tensor
    assert not tensor[2].any()
    assert tensor[3].any()


def test_scribbles_of_another_shape_are_refused(network: EmbeddedNetwork, volume: Volume) -> None:
    with pytest.raises(PromptError, match="shape"):
        network.prepare(volume, index=0, scribbles=LabelScribbles.empty(volume.shape))


def test_a_network_is_loaded_by_its_file_or_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    options = {"features": [3, 4, 5], "convolutions": 2}
    save_network(path, make_module().state_dict(), NetworkDescription("scribble_unet", options, size=SIZE, name="mine"))
    network = load_embedded(path)
    assert (network.name, network.labels, network.ndim) == ("mine", ("background", "object"), 2)
    assert network.prepare(Volume(np.ones((1, 20, 20)), np.eye(4)), index=0).tensor.shape == (5, SIZE, SIZE)
    assert load_embedded("default").licence


def test_a_network_that_needs_a_context_is_refused(tmp_path: Path) -> None:
    predictor = Predictor(Network(make_module(), capabilities=("context",), size=SIZE, device="cpu", name="universeg"))
    with pytest.raises(NetworkError, match="from scribbles alone"):
        EmbeddedNetwork.of_predictor(predictor)


def test_the_network_of_a_predictor_is_taken_as_it_is() -> None:
    predictor = Predictor(Network(make_module(), size=SIZE, temperature=1.5, device="cpu", name="tiny"))
    network = EmbeddedNetwork.of_predictor(predictor)
    assert network.module is predictor.network
    assert network.name == "tiny"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(WeightsError, match="no weights named"):
        load_embedded("nothing")
