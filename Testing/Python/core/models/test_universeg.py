"""Tests of the published network for segmentation from a context set alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.models.encoding import CHANNELS, IMAGE
from scribblesegment.models.universeg import UniverSeg, UniverSegConfig


def test_the_default_network_has_the_published_parameters(shared_dir: Path) -> None:
    shapes = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = UniverSeg()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes["universeg_v1_nf64"]


@pytest.mark.parametrize("piece_values", [None, 1])
def test_published_parameters_give_the_published_logits(shared_dir: Path, piece_values: int | None) -> None:
    with np.load(shared_dir / "golden" / "universeg.npz") as file:
        vectors = {name: torch.tensor(file[name]) for name in file}
    network = UniverSeg(UniverSegConfig(features=(6,) * 4))
    network.load_state_dict({name[3:]: value for name, value in vectors.items() if name.startswith("w::")})
    network.piece_values = piece_values
    with torch.no_grad():
        context = network.encode_context(vectors["support_images"], vectors["support_labels"])
        logits = network(vectors["x"], context)
    np.testing.assert_allclose(logits.numpy(), vectors["y"].numpy(), atol=1e-5, rtol=0)


def test_of_the_target_only_the_image_is_read() -> None:
    torch.manual_seed(0)
    network = UniverSeg(UniverSegConfig(features=(4, 4)))
    x, images = torch.rand(2, CHANNELS, 8, 8), torch.rand(2, 3, 1, 8, 8)
    image_alone, other_image = torch.zeros_like(x), x.clone()
    image_alone[:, IMAGE] = x[:, IMAGE]
    other_image[:, IMAGE] = 1.0 - x[:, IMAGE]
    with torch.no_grad():
        context = network.encode_context(images, (images > 0.5).float())
        logits = network(x, context)
        assert torch.equal(network(image_alone, context), logits)
        torch.testing.assert_close(network(x[:, IMAGE : IMAGE + 1], context), logits)
        assert (network(other_image, context) - logits).abs().max() > 1e-4


@pytest.mark.parametrize("features", [(8,), (), (4, -1)])
def test_an_impossible_shape_is_refused(features: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="two positive widths"):
        UniverSegConfig(features)
