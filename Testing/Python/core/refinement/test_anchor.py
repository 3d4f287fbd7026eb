from __future__ import annotations

import pytest
import torch

from scribblesegment.refinement.lagrangian import Anchor, RefinementConfig

CONFIG = RefinementConfig(anchor_confidence=0.9, anchor_distance=2.0, anchor_trust=10.0)
NOWHERE = torch.zeros((0, 2), dtype=torch.int64)


def anchored(logits, positions=NOWHERE, asked=None, decisive=None, *, known_labels: int = 2) -> Anchor:
    """Hold a prediction; what is asked for is what it says, unless said otherwise."""
    if asked is None:
        asked = logits[0].argmax(0)[tuple(positions.T)]
    if decisive is None:
        decisive = torch.ones(len(positions), dtype=torch.bool)
    return Anchor.of(logits, positions, asked, decisive, known_labels, CONFIG)


def sure_of(labels: torch.Tensor, count: int = 2) -> torch.Tensor:
    """Class logits (1, labels, H, W) that are sure of given labels."""
    return 8.0 * torch.nn.functional.one_hot(labels, count).permute(2, 0, 1)[None].float()


def test_a_prediction_does_not_diverge_from_itself():
    logits = torch.randn(1, 3, 8, 8) * 5
    anchor = anchored(logits, known_labels=3)
    assert anchor.divergence(logits).item() == pytest.approx(0, abs=1e-6)
    assert anchor.divergence(torch.randn(1, 3, 8, 8)).item() > 0


def test_pixels_near_scribbles_are_not_held():
    anchor = anchored(sure_of(torch.zeros(9, 9, dtype=torch.int64)), torch.tensor([[4, 4]]))
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    near = (rows - 4) ** 2 + (columns - 4) ** 2 <= 4
    assert torch.equal(anchor.weights == 0, near)


def test_pixels_of_which_the_network_was_not_sure_are_not_held():
    logits = sure_of(torch.zeros(4, 4, dtype=torch.int64))
    logits[0, 1, 0, 0] = 7.0
    assert anchored(logits).weights[0, 0] == 0
    assert anchored(logits).weights[1, 1] > 0


def test_every_label_counts_the_same_however_large_it_is():
    labels = torch.zeros(10, 10, dtype=torch.int64)
    labels[0, 0] = 1
    weights = anchored(sure_of(labels)).weights
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0, 0].item() == pytest.approx(0.5)


def test_predictions_of_an_added_label_are_not_held():
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[:2] = 2
    weights = anchored(sure_of(labels, 3)).weights
    assert not weights[:2].any()
    assert weights[2:].all()


def test_without_a_pixel_to_hold_there_is_no_divergence():
    anchor = anchored(torch.zeros(1, 2, 4, 4))
    assert anchor.divergence(torch.randn(1, 2, 4, 4)).item() == 0


def test_a_volume_is_held_too():
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[0, 0] = 9
    anchor = anchored(logits, torch.tensor([[0, 0, 0]]))
    assert anchor.weights.shape == (4, 4, 4)
    assert anchor.weights[3, 3, 3] > 0
    assert anchor.weights[0, 0, 2] == 0


def test_a_label_that_scribbles_found_wrong_is_held_less():
    labels = torch.zeros(20, 20, dtype=torch.int64)
    labels[10:] = 1
    positions = torch.stack([torch.zeros(10, dtype=torch.int64), torch.arange(10)], dim=1)
    wrong = torch.ones(10, dtype=torch.int64)
    plain, doubted = anchored(sure_of(labels), positions), anchored(sure_of(labels), positions, wrong)
    # Ten pixels of label 0 were wrong, as many as it was trusted for.
    torch.testing.assert_close(doubted.weights[:10], plain.weights[:10] / 2)
    torch.testing.assert_close(doubted.weights[10:], plain.weights[10:])


def test_grown_pixels_say_nothing_about_trust():
    labels = torch.zeros(20, 20, dtype=torch.int64)
    positions = torch.stack([torch.zeros(10, dtype=torch.int64), torch.arange(10)], dim=1)
    grown = anchored(sure_of(labels), positions, torch.ones(10, dtype=torch.int64), torch.zeros(10, dtype=torch.bool))
    torch.testing.assert_close(grown.weights, anchored(sure_of(labels), positions).weights)
