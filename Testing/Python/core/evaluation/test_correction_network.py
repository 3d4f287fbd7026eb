from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scribblesegment.errors import WeightsError
from scribblesegment.evaluation.correction_network import PlainUNet, load_plain_unet, normalised, save_plain_unet


def test_logits_have_the_size_of_the_image_and_a_channel_for_every_label():
    assert PlainUNet(3, (4, 8, 8))(torch.zeros(2, 1, 16, 24)).shape == (2, 3, 16, 24)


def test_a_network_comes_back_as_it_was_written(tmp_path):
    network = PlainUNet(2, (4, 8)).eval()
    save_plain_unet(tmp_path / "a.safetensors", network, labels=("background", "disc"), licence="CC0")
    again, labels = load_plain_unet(tmp_path / "a.safetensors")
    image = torch.rand(1, 1, 8, 8)
    assert labels == ("background", "disc")
    assert not again.training
    assert torch.equal(again(image), network(image))


def test_another_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("other", "broken", "missing"):
        with pytest.raises(WeightsError, match=name):
            load_plain_unet(tmp_path / f"{name}.safetensors")


def test_images_are_normalised_and_constant_ones_are_zero():
    image = normalised(np.random.default_rng(0).random((8, 8), dtype=np.float32))
    assert image.shape == (1, 8, 8)
    assert image.dtype == np.float32
    assert float(image.mean()) == pytest.approx(0, abs=1e-6)
    assert float(image.std()) == pytest.approx(1, abs=1e-5)
    assert not normalised(np.full((4, 4), 0.3, np.float32)).any()
