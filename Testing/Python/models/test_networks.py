"""All networks: their published parameters and results, their shapes, their names and options, their input."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError
from scribblesegment.models.efficient_unet import EfficientUNet, EfficientUNetConfig, InvertedResidual
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, encode_batch, encode_prompts
from scribblesegment.models.factory import build_network, network_names
from scribblesegment.weights.checkpoints import NetworkDescription, load_network, save_network

# What published implementations computed; not redistributed.
GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"needs the folder {GOLDEN}")
CUES = {"intensity_cues": True, "geodesic_cues": True}
TINY = {
    "context_unet": {"features": [4, 8, 8], **CUES},
    "efficient_unet": {"features": [4, 8, 8], "fused_levels": 1, "norm_groups": 4},
    "multiverseg": {"features": [4, 6, 5]},
    "scribble_unet": {"features": [4, 8, 8], "norm_groups": 4, **CUES},
    "scribbleprompt_sam": {
        "image_size": 64,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "global_blocks": [1],
        "window": 3,
        "prompt_width": 16,
        "decoder_hidden": 16,
    },
    "universeg": {"features": [4, 6, 5]},
}
networks = pytest.mark.parametrize("name", TINY)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.tensor(file[key]) for key in file}


def drawn_on(batch, height=16, width=16):
    x = torch.rand(batch, 5, height, width, generator=torch.Generator().manual_seed(batch))
    x[:, 1:4] = (x[:, 1:4] > 0.95).float()
    return x


# What was published.


@needs_golden
@pytest.mark.parametrize(
    ("name", "published", "file", "width"),
    [
        ("scribble_unet", "scribbleprompt_unet_v1_nf192", "scribbleprompt_unet", 5),
        ("multiverseg", "multiverseg_v0_v1_nf256", "multiverseg", 4),
        ("universeg", "universeg_v1_nf64", "universeg", 4),
    ],
)
@pytest.mark.parametrize("piece_values", [None, 1])
def test_published_parameters_fit_and_give_the_published_logits(name, published, file, width, piece_values):
    with torch.device("meta"):  # shapes without numbers
        shapes = {key: list(value.shape) for key, value in build_network(name).state_dict().items()}
    assert shapes == json.loads((GOLDEN / "published_state_dict_shapes.json").read_text())[published]
    vectors = golden(file)
    network = build_network(name, {"features": [6] * width})
    network.load_state_dict({key[3:]: value for key, value in vectors.items() if key.startswith("w::")})
    network.piece_values = piece_values
    if name != "universeg":
        expected = vectors["y" if name == "scribble_unet" else "y_empty_context"]
        torch.testing.assert_close(network(vectors["x"]), expected, atol=1e-5, rtol=0)
    if name != "scribble_unet":
        of = "context" if name == "multiverseg" else "support"
        for with_gradients in (False, True):
            with torch.set_grad_enabled(with_gradients):
                context = network.encode_context(vectors[f"{of}_images"], vectors[f"{of}_labels"])
                torch.testing.assert_close(network(vectors["x"], context), vectors["y"], atol=1e-5, rtol=0)


@needs_golden
def test_the_published_encoding_is_reproduced():
    vectors = golden("scribbleprompt_prompt_encoding")
    same = {key: vectors[key] for key in ("image", "scribbles", "point_labels", "mask_input")}
    coords, boxes = vectors["point_coords_xy"].flip(-1), vectors["boxes_xyxy"].reshape(2, 1, 2, 2).flip(-1)
    encoded = encode_prompts(**same, point_coords=coords, boxes=boxes)
    torch.testing.assert_close(encoded, vectors["network_input"], atol=1e-5, rtol=0)


def test_parameter_names_do_not_depend_on_files_beside_the_project():
    def names(name, features):
        return {key.rpartition(".")[0] for key in build_network(name, {"features": features}).state_dict()}

    unet = {f"{block}.conv.{part}" for block in ("downs.0", "downs.1", "bottleneck", "ups.1", "ups.3") for part in "01"}
    assert names("scribble_unet", [4, 4, 4]) == unet | {"final_conv.conv.0"}
    parts = {"cross.cross_conv", "target.vmapped.conv", "support.vmapped.conv"}
    norms = {"target.vmapped.norml", "support.vmapped.norml"}
    for name, expected in (("universeg", parts), ("multiverseg", parts | norms)):
        blocks = {f"{block}.{part}" for block in ("enc_blocks.0", "enc_blocks.1", "dec_blocks.0") for part in expected}
        assert names(name, [2, 2]) == blocks | {"out_conv.conv"}


# Shapes, gradients, files.


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"scribbleprompt_sam"}))  # which nobody trains here
def test_gradients_reach_every_parameter_that_has_a_say(name):
    network = build_network(name, TINY[name])
    images = torch.rand(2, 3, 1, 16, 16)
    for _ in range(2):  # as in training: several rounds with one context
        context = [network.encode_context(images, (images > 0.6).float())] if hasattr(network, "encode_context") else []
        (network(drawn_on(2), *context) - 1.0).square().sum().backward()
    # Nobody reads the entries' features of the last block; the published checkpoints hold its parameters all the same.
    silent = {key for key, _ in network.named_parameters() if key.startswith("dec_blocks.1.support.")}
    assert bool(silent) == (name in ("multiverseg", "universeg"))
    for key, parameter in network.named_parameters():
        assert (parameter.grad is None) == (key in silent), key
        assert parameter.grad is None or parameter.grad.abs().sum() > 0 or key.startswith("matching"), key


@networks
def test_a_saved_network_is_built_again_with_its_options_and_computes_each_image_alone(name, tmp_path):
    network, path = build_network(name, TINY[name]).half().float(), tmp_path / "net.safetensors"  # files hold halves
    save_network(path, network.state_dict(), NetworkDescription(name, asdict(network.config), size=32))
    loaded, description = load_network(path)
    assert (type(loaded), loaded.config, description.size) == (type(network), network.config, 32)
    with torch.no_grad():
        together, x = network.eval()(drawn_on(3, 17, 22)), drawn_on(3, 17, 22)  # of any size
        assert torch.equal(loaded(x), together)
        alone = torch.cat([loaded(one[None]) for one in x])
    assert together.shape == (3, 1, 17, 22)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_blocks_of_the_efficient_network():
    def depthwise(fused):
        modules = EfficientUNet(EfficientUNetConfig((4, 8, 8), fused_levels=fused, norm_groups=4)).modules()
        return sum(isinstance(module, nn.Conv2d) and module.groups > 1 for module in modules)

    # Three blocks lead down and two up; those of a level are alike.
    assert [depthwise(fused) for fused in (0, 1, 2, 3, 9)] == [5, 3, 1, 0, 0]
    image = torch.rand(2, 8, 5, 6)
    for fused in (False, True):
        same, wider = (InvertedResidual(8, n, expansion=2, fused=fused, norm_groups=4) for n in (8, 12))
        for block in (same, wider):
            nn.init.zeros_(block.block[-1].weight)
        assert torch.equal(same(image), image)  # its input is added where the channels agree
        assert not wider(image).any()
    assert InvertedResidual(6, 8, expansion=3, fused=True, norm_groups=4).block[0].out_channels == 20  # whole groups
    block = InvertedResidual(8, 8, expansion=1, fused=False, norm_groups=4)
    excitation = next(module for module in block.modules() if hasattr(module, "excite"))
    weights = (excitation(image) / image).flatten(2)  # one a channel, of the mean alone
    torch.testing.assert_close(weights, weights[..., :1].expand_as(weights))
    torch.testing.assert_close(excitation(image.flip(-1)), excitation(image).flip(-1))


# Names and options.


def test_every_listed_name_can_be_built():
    with torch.device("meta"):
        built = {name: type(build_network(name)).__name__.lower() for name in network_names()}
    assert all(kind == name.replace("_", "") for name, kind in built.items())
    assert set(built) - set(TINY) == {"ridge_unet"}  # whose sides are divisible by 32; it has tests of its own


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unett", {}, "Unknown network 'unett'; known are context_unet, efficient_unet, multiv"),
        ("scribble_unet", {"depth": 3}, r"no options depth; known are .*features"),
        ("scribble_unet", {"features": 64}, "Option features of network scribble_unet must be a list of whole numbers"),
        ("scribble_unet", {"features": "64"}, "must be a list of whole numbers, got '64'"),
        ("scribble_unet", {"activation": 1}, "Option activation .* must be a text, got 1"),
        ("scribble_unet", {"intensity_cues": "no"}, "Option intensity_cues .* must be true or false, got 'no'"),
        ("efficient_unet", {"expansion": 2.5}, "Option expansion .* must be a whole number, got 2.5"),
        ("scribble_unet", {"features": [8, 0]}, "two positive widths"),
        ("scribble_unet", {"convolutions": 0}, "must be positive"),
        ("scribble_unet", {"activation": "tanh"}, "activation is one of"),
        ("scribble_unet", {"features": [8, 12], "norm_groups": 8}, "does not divide"),
        ("scribble_unet", {"norm_groups": -1}, "does not divide"),
        ("context_unet", {"heads": 0}, "heads must be at least 1, got 0"),
        ("context_unet", {"features": [8]}, "two positive widths"),
        ("multiverseg", {"features": [8]}, "two positive widths"),
        ("multiverseg", {"in_channels": 0}, "in_channels must be positive, got 0"),
        ("universeg", {"features": [4, -1]}, "two positive widths"),
        ("efficient_unet", {"features": [8]}, "at least two levels"),
        ("efficient_unet", {"expansion": 0}, "must be positive"),
        ("efficient_unet", {"fused_levels": -1}, "fused_levels must be at least 0"),
        ("efficient_unet", {"features": [8, 12]}, r"norm_groups 8 does not divide all of the features \(8, 12\)"),
    ],
)
def test_what_no_network_can_have_is_refused_by_name(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_network(name, options)


# Input and layers.


def test_prompts_become_channels():
    image, logits, scribbles = torch.rand(1, 1, 5, 5), torch.randn(1, 1, 5, 5), torch.zeros(1, 2, 5, 5)
    scribbles[0, 0, 0] = 0.25
    alone = encode_prompts(image.expand(2, -1, -1, -1))
    assert torch.equal(alone[:, IMAGE], image[:, 0].expand(2, -1, -1))
    assert not alone[:, BOX:].any()
    prompts = Prompts.empty((5, 5)).with_scribble(scribbles[0, 0].numpy(), positive=True)
    prompts = prompts.with_click((0, 1), positive=True).with_click((4, 3), positive=False)
    prompts = prompts.with_box((0, 0), (2, 1)).with_box((1, 0), (3, 2))
    encoded = encode_batch(image, [prompts], logits)
    assert torch.equal(encoded[0, ::4], torch.cat([image[0], logits[0]]))
    assert encoded[0, POSITIVE, 0].tolist() == [0.25, 1.0, 0.25, 0.25, 0.25]
    assert encoded[0, NEGATIVE].nonzero().tolist() == [[4, 3]]
    assert encoded[0, BOX].nonzero().tolist() == [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]  # half-open and united
