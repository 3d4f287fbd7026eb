"""Modules, and the package's own interactive networks, as adapters: what they see of an image, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from refinable_networks import Identity, SmallNet, tiled_logits
from torch import nn

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, GeometryError, NetworkError, PromptError
from scribblesegment.inference.predictor import Network, Predictor
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.refinement.adapters import EmbeddedNetwork, ModuleNetwork
from scribblesegment.refinement.adapters.embedded import load_embedded
from scribblesegment.refinement.adapters.modules import normalised
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

SIZE = 32


@pytest.fixture
def volume() -> Volume:
    array = np.random.default_rng(0).normal(100, 20, (5, 20, 27)).astype(np.float32)
    return Volume(array, np.diag([0.8, 1.0, 3.0, 1.0]))


# Modules -------------------------------------------------------------------------------------------------------------


def test_dimension_channels_and_labels_are_found_by_parameters_and_a_trial_run():
    flat, solid = ModuleNetwork(SmallNet(2).train()), ModuleNetwork(SmallNet(3, labels=2))
    assert (flat.name, flat.ndim, flat.labels) == ("SmallNet", 2, ("background", "label 1", "label 2"))
    assert (solid.ndim, solid.labels) == (3, ("background", "label 1"))
    assert not flat.module.training
    assert ModuleNetwork(SmallNet(labels=1)).labels == ("background", "label 1")
    assert ModuleNetwork(nn.Conv2d(1, 2, 999), labels=("background", "liver")).labels == ("background", "liver")


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (nn.Identity(), {}, NetworkError, "ndim"),
        (SmallNet(channels=4), {}, NetworkError, "4 channels"),
        (SmallNet(3, channels=3), {}, NetworkError, "3 channels"),
        (nn.Conv2d(1, 2, 999), {}, NetworkError, "trial run"),
        (nn.Conv2d(1, 2, 3), {}, NetworkError, "logits for every pixel"),
        (SmallNet(), {"normalize": "none"}, ConfigError, "normalize"),
        (SmallNet(2), {"spacing_mm": (1.0, 1.0, 1.0)}, ConfigError, "spacing_mm"),
    ],
)
def test_a_network_that_does_not_explain_itself_is_refused(volume, module, options, error, message):
    with pytest.raises(error, match=message):
        ModuleNetwork(module, **options)
    with pytest.raises(NetworkError, match="sees volumes"):
        ModuleNetwork(SmallNet(3)).prepare(volume, index=0)
    with pytest.raises(GeometryError, match="outside the volume"):
        ModuleNetwork(SmallNet()).prepare(volume, index=5)


@pytest.mark.parametrize("index", [None, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_slices_of_an_image_that_is_left_as_it_is(volume, axis, index):
    network = ModuleNetwork(Identity(), normalise="none")
    prepared = network.prepare(volume, axis=axis, index=index)
    expected = volume.array if index is None else volume.slice(axis, index).image
    assert prepared.shape == expected.shape
    assert np.array_equal(prepared.tensor[0].numpy(), expected)
    found = prepared.to_image(tiled_logits(network, prepared))
    np.testing.assert_allclose(found, np.stack([expected, -expected]), rtol=1e-6)


def test_a_3d_network_sees_patches_of_the_volume(volume):
    network = ModuleNetwork(Identity(3), normalise="none", patch_size=(4, 16, 16))
    prepared = network.prepare(volume)
    assert len(prepared.tiling.windows) > 1
    np.testing.assert_allclose(prepared.to_image(tiled_logits(network, prepared))[0], volume.array, rtol=1e-5)
    large = Volume(np.zeros((3, 200, 130), np.int16), np.eye(4))
    assert ModuleNetwork(Identity(3), labels=("a", "b")).prepare(large).tiling.patch_size == (16, 128, 128)


def test_images_are_brought_to_the_spacing_of_the_network_and_back(volume):
    smooth = np.add.outer(np.arange(20.0), np.arange(27.0)).astype(np.float32)
    image = volume.with_array(np.repeat(smooth[None], 5, axis=0))
    network = ModuleNetwork(Identity(), normalise="none", spacing_mm=(0.5, 0.4))
    prepared = network.prepare(image)
    assert prepared.grid == (5, 40, 54)
    found = prepared.to_image(tiled_logits(network, prepared))
    np.testing.assert_allclose(found[0, :, 1:-1, 1:-1], image.array[:, 1:-1, 1:-1], atol=0.01)
    assert network.prepare(image, axis=0, index=3).grid == (40, 54)


def test_inputs_are_padded_to_the_multiple_and_repeated_for_colours(volume):
    seen: list[tuple[int, ...]] = []

    class Watched(Identity):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(image.shape))
            return super().forward(image)

    network = ModuleNetwork(Watched(), labels=("a", "b"), multiple_of=32)
    assert tiled_logits(network, network.prepare(volume, index=0)).shape == (2, 20, 27)
    assert seen == [(1, 1, 32, 32)]
    prepared = ModuleNetwork(SmallNet(channels=3)).prepare(volume, index=1)
    assert prepared.tensor.shape == (3, 20, 27)
    assert torch.equal(prepared.tensor[0], prepared.tensor[2])


def test_each_normalisation_does_what_it_says_by_the_whole_volume(volume):
    array = np.random.default_rng(0).normal(50, 5, (4, 50, 50))
    array[3] += 1000
    part = array[1]
    standard = normalised(part, array, "zscore")
    np.testing.assert_allclose(standard, (part - array.mean()) / array.std(), atol=1e-4)
    np.testing.assert_allclose(normalised(part, array, (40.0, 60.0)), np.clip((part - 40) / 20, 0, 1), atol=1e-5)
    np.testing.assert_allclose(normalised(part, array, "none"), part, rtol=1e-6)
    assert normalised(part, part, "robust").max() == 1.0 > normalised(part, array, "robust").max()
    network = ModuleNetwork(SmallNet(), normalise="robust")
    assert torch.equal(network.prepare(volume).tensor[:, 1], network.prepare(volume, index=1).tensor)
    for image in (np.array([[np.nan, np.inf, -np.inf], [100.0, 3e38, -4.0]]), np.full((3, 3), 7, np.int16)):
        assert all(np.isfinite(normalised(image, image, how)).all() for how in ("robust", "zscore", "none", (90, 110)))


# Interactive networks ------------------------------------------------------------------------------------------------


def a_module() -> ScribbleUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScribbleUNet(ScribbleUNetConfig(features=(3, 4, 5), convolutions=2)).eval()


@pytest.fixture
def network() -> EmbeddedNetwork:
    return EmbeddedNetwork(a_module(), size=SIZE, temperature=2.0, name="tiny")


def strokes(shape: tuple[int, int]) -> LabelScribbles:
    labels = np.full(shape, -1, np.int16)
    labels[shape[0] // 2, 1:4] = 1
    labels[0, :] = 0
    return LabelScribbles.from_labels(labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_unrefined_prediction_is_that_of_the_predictor_alone_and_together(network, volume, axis):
    cut = volume.slice(axis, 3)
    drawn = strokes(cut.image.shape)
    one = network.prepare(volume, axis=axis, index=3, scribbles=drawn)
    alone = one.to_image(tiled_logits(network, one))
    predictor = Predictor(
        Network(network.module, size=SIZE, temperature=2.0, device="cpu", capabilities=("scribbles",))
    )
    whole_range = IntensityRange.estimate(volume.array)
    predictor.set_image(cut.image, spacing_mm=cut.spacing_mm, intensity_range=whole_range)
    prompts = Prompts.empty(cut.image.shape).with_scribble(drawn.mask(1)).with_scribble(drawn.mask(0), positive=False)
    expected = predictor.predict(prompts).logits
    np.testing.assert_allclose(alone[1] - alone[0], expected, atol=0.02)  # the predictor may run in half precision

    labels = np.full((volume.shape[axis], *drawn.shape), -1)
    labels[3] = drawn.labels
    everywhere = LabelScribbles.from_labels(np.moveaxis(labels, 0, axis))
    whole = network.prepare(volume, axis=axis, scribbles=everywhere)
    assert torch.equal(whole.tensor[:, 3], one.tensor)
    together = whole.to_image(tiled_logits(network, whole))
    assert together.shape == (2, *volume.shape)
    np.testing.assert_allclose(together.take(3, axis=axis + 1), alone, atol=1e-5)
    assert (together.take(1, axis=axis + 1).argmax(axis=0) == 0).all()  # nothing is marked there
    on_grid = whole.to_grid(everywhere)
    assert np.array_equal(on_grid.labels[3], one.to_grid(drawn).labels)
    assert not on_grid.marked[1].any()


def test_only_strokes_on_the_structure_say_that_there_is_something(network, volume):
    shape = volume.slice(0, 0).image.shape
    for drawn in (None, LabelScribbles.empty(shape).with_point((3, 3), 0)):
        prepared = network.prepare(volume, index=0, scribbles=drawn)
        assert (prepared.to_labels(tiled_logits(network, prepared)) == 0).all()
    other = network.prepare(volume, index=0, scribbles=LabelScribbles.empty(shape).with_point((10, 10), 2)).tensor
    assert not other[2].any()
    assert other[3].any()
    with pytest.raises(PromptError, match="shape"):
        network.prepare(volume, index=0, scribbles=LabelScribbles.empty(volume.shape))


def test_networks_of_files_names_and_predictors_are_taken_if_they_work_from_scribbles_alone(tmp_path: Path):
    path = tmp_path / "tiny.safetensors"
    options = {"features": [3, 4, 5], "convolutions": 2}
    save_network(path, a_module().state_dict(), NetworkDescription("scribble_unet", options, size=SIZE, name="mine"))
    network = load_embedded(path)
    assert (network.name, network.labels, network.ndim) == ("mine", ("background", "object"), 2)
    assert network.prepare(Volume(np.ones((1, 20, 20)), np.eye(4)), index=0).tensor.shape == (5, SIZE, SIZE)
    assert load_embedded("default").licence
    predictor = Predictor(Network(a_module(), size=SIZE, temperature=1.5, device="cpu", name="tiny"))
    assert EmbeddedNetwork.of_predictor(predictor).module is predictor.network
    in_context = Predictor(Network(a_module(), capabilities=("context",), size=SIZE, device="cpu", name="universeg"))
    with pytest.raises(NetworkError, match="from scribbles alone"):
        EmbeddedNetwork.of_predictor(in_context)
