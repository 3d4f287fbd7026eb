"""The embedded network: what it computes, what adds up, and that export changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from scribblesegment.models.encoding import IMAGE, NEGATIVE, POSITIVE
from scribblesegment.models.ridge_unet import RidgeUNet, measure_paths


@pytest.fixture
def network() -> RidgeUNet:
    torch.manual_seed(0)
    network = RidgeUNet()
    network.encode(torch.rand(4, 1, 64, 64))  # for the batch norms' statistics
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


def test_the_classifier_tells_what_is_like_the_strokes(network, prompts):
    with torch.no_grad():
        output = network.decode(network.encode(prompts[:, :1]), prompts)
    assert output.logits.shape == (1, 1, 64, 64)
    assert output.valid.tolist() == [[1, 1, 0, 1]]
    assert (output.scores[0, 0, 6:24, 20:24] > 0).all()
    assert (output.scores[0, 0, 6:24, 8:11] < 0).all()
    assert not output.scores[0, 2].any()


def test_context_tells_the_structure_without_prompts(network, prompts):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    nothing = torch.zeros_like(prompts)
    nothing[:, IMAGE] = prompts[:, IMAGE]
    with torch.no_grad():
        features = network.encode(prompts[:, :1])
        evidence = network.evidence(features, network.entries(features, mask))
        scores = network.decode(features, nothing, evidence).scores[0, 2]
    assert scores[4:28, 18:30].mean() > 0.3
    assert scores[4:28, 2:14].mean() < -0.3
    assert evidence.carried[0, 0, :, 20:].mean() > evidence.carried[0, 0, :, :12].mean()


def test_an_entry_given_twice_counts_as_once(network):
    torch.manual_seed(2)
    images, masks = torch.rand(2, 1, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
    with torch.no_grad():
        target = network.encode(torch.rand(1, 1, 64, 64))
        once = network.evidence(target, network.entries(network.encode(images), masks))
        twice = network.entries(network.encode(images.repeat(2, 1, 1, 1)), masks.repeat(2, 1, 1, 1))
        twice_evidence = network.evidence(target, twice)
    torch.testing.assert_close(tuple(once), tuple(twice_evidence), atol=1e-4, rtol=1e-3)


def test_without_an_allowed_entry_there_is_no_context(network, prompts):
    with torch.no_grad():
        features = network.encode(prompts[:, :1])
        entries = network.entries(features, torch.ones(1, 1, 64, 64))
        evidence = network.evidence(features, entries, torch.tensor([[False]]))
        assert torch.equal(network.decode(features, prompts, evidence).logits, network.decode(features, prompts).logits)


def test_folding_the_batch_norms_changes_nothing(network, prompts):
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
        torch.testing.assert_close(
            folded.decode(folded.encode(prompts[:, :1]), prompts).logits, expected, rtol=1e-4, atol=1e-4
        )


def test_paths_keep_to_even_ground_and_count_from_both_sides():
    halved = torch.zeros(1, 5, 32, 32)
    halved[:, IMAGE, :, 16:] = 0.8
    halved[:, POSITIVE, 8, 20] = 1
    halved[:, NEGATIVE, 8, 4] = 1
    paths = measure_paths(halved, torch.zeros(1, 32, 32)).unflatten(1, (3, 3))[0]
    image, even, straight = paths[0], paths[1], paths[2]
    assert image[0, 30, 30] > 0.8 > 0.3 > image[0, 30, 14]  # across the edge it is far
    assert even[0, 30, 14] > 0.8
    assert (image[2, :, 16:] > 0).all()
    assert (image[2, :, :16] < 0).all()
    assert straight[2, 8, 12] == 0  # half way
    distance = (torch.arange(32)[:, None] - 8).abs() + (torch.arange(32) - 20).abs()
    torch.testing.assert_close(straight[0], torch.exp(-distance / 32 / 0.06))


def test_paths_go_around_corners():
    halved = torch.zeros(1, 5, 32, 32)
    halved[:, IMAGE] = 1
    halved[:, IMAGE, 4:28, 4:7] = 0
    halved[:, IMAGE, 25:28, 4:28] = 0
    halved[:, POSITIVE, 5, 5] = 1
    nearness = measure_paths(halved, torch.zeros(1, 32, 32))[0, 0]
    assert nearness[26, 26] > 0.7
    assert nearness[10, 20] < 0.2
