"""The embedded network without torch computes what it computes with torch, step by step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.ridge_unet import RidgeUNet
from scribblesegment.models.ridge_unet_numpy import RidgeUNetNumpy

SIZE = 96


@pytest.fixture(scope="module")
def networks() -> tuple[RidgeUNet, RidgeUNetNumpy]:
    torch.manual_seed(0)
    trained = RidgeUNet()
    trained.encode(torch.rand(4, 1, SIZE, SIZE))
    for parameter in (trained.log_prior, trained.log_ridge, trained.preferences, trained.score_gain):
        parameter.data += 0.3 * torch.randn(parameter.shape)
    torch.nn.init.normal_(trained.hear.weight, std=0.3)  # begins at zero
    trained = trained.eval()
    folded = RidgeUNet(dataclasses.replace(trained.config, folded=True)).eval()
    parameters = trained.folded()
    folded.load_state_dict(parameters)
    return folded, RidgeUNetNumpy({name: value.numpy() for name, value in parameters.items()})


def example(kinds: set[str]) -> torch.Tensor:
    torch.manual_seed(1)
    prompts = torch.zeros(1, 5, SIZE, SIZE)
    prompts[:, IMAGE] = torch.rand(SIZE, SIZE)
    prompts[:, IMAGE, 30:70, 40:80] *= 0.3
    if "strokes" in kinds:
        prompts[:, POSITIVE, 40:60, 50:54] = 1
        prompts[:, NEGATIVE, 10:14, 5:40] = 1
    if "box" in kinds:
        prompts[:, BOX, 28:72, 38:82] = 1
    if "previous" in kinds:
        prompts[:, PREVIOUS_LOGITS] = 4 * torch.randn(SIZE, SIZE)
    return prompts


def close(mine: object, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    found = expected.numpy()
    if found.ndim == 3 and np.ndim(mine) == 3 and found.shape != np.shape(mine):
        found = found.transpose(1, 2, 0)
    np.testing.assert_allclose(mine, found, atol=tolerance * max(1.0, np.abs(found).max()))


@torch.no_grad()
@pytest.mark.parametrize("entries", [0, 1, 5])
@pytest.mark.parametrize("kinds", [set(), {"strokes"}, {"box"}, {"strokes", "box", "previous"}])
def test_every_step_is_the_same(networks: tuple[RidgeUNet, RidgeUNetNumpy], kinds: set[str], entries: int) -> None:
    trained, mine = networks
    prompts = example(kinds)
    expected, found = trained.encode(prompts[:, :1]), mine.encode(prompts[0, IMAGE].numpy())
    for level, wanted in zip(found.levels, expected.levels, strict=True):
        close(level, wanted[0])
    for name in ("embedding", "sparse", "everywhere", "filtered", "keys", "summary", "coarse"):
        close(getattr(found, name), getattr(expected, name)[0])
    evidence = found_evidence = None
    if entries:
        torch.manual_seed(2)
        images, masks = torch.rand(entries, 1, SIZE, SIZE), (torch.rand(entries, 1, SIZE, SIZE) > 0.7).float()
        kept = trained.entries(trained.encode(images), masks)
        evidence = trained.evidence(expected, kept, most=3)
        mine_kept = [
            mine.entry(mine.encode(image[0].numpy()), mask[0].numpy())
            for image, mask in zip(images, masks, strict=True)
        ]
        for name in ("moments", "keys", "values", "summary", "densities", "topics", "told"):
            close(getattr(mine_kept[-1], name), getattr(kept, name)[0, -1])
        found_evidence = mine.evidence(found, mine_kept, most=3)
        for name in ("moments", "carried", "densities", "level", "heard"):
            close(getattr(found_evidence, name), getattr(evidence, name)[0])
    output = trained.decode(expected, prompts, evidence)
    logits, presence = mine.decode(found, prompts[0].numpy(), found_evidence)
    close(logits, output.logits[0, 0], 1e-3)
    assert presence == pytest.approx(float(output.presence), abs=1e-3)
