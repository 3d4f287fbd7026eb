from __future__ import annotations

import pytest
import torch
from refinable_networks import Returning, small_unet
from torch import nn

from scribblesegment.refinement.lagrangian import RefinementConfig, agreement, constraint_loss
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.outputs import Output, log_likelihood
from scribblesegment.refinement.refiner import Asked, Piece, ScribbledPieces, in_bfloat16, runs_in_bfloat16

IMAGES = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(5))
POSITIONS = torch.tensor([[2, 3], [8, 8], [15, 0]])
ASKED = Asked(torch.tensor([1, 2, 0]), torch.tensor([True, True, True]))
OUTPUT = Output("softmax", probabilities=False)


def split_network(network: nn.Module | None = None):
    return TracedNetwork(network or small_unet(), IMAGES[0], OUTPUT).split(2)


def piece(split, image: int, rows: list[int], share: float) -> Piece:
    return Piece(
        lambda: split.features(IMAGES[image]),
        POSITIONS[rows],
        torch.tensor(rows),
        torch.full((len(rows),), share),
    )


def constraints(split, pieces: list[Piece], config: RefinementConfig, asked: Asked = ASKED) -> ScribbledPieces:
    return ScribbledPieces(split, pieces, asked, OUTPUT, config, start=split.pretrained, known_labels=3)


def gradients(problem: ScribbledPieces, split) -> dict[str, torch.Tensor]:
    weights = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    _, add_gradient = problem.evaluate(weights)
    add_gradient(2.0)
    return {name: value.grad for name, value in weights.items() if value.grad is not None}


def by_hand(split, config: RefinementConfig, parts) -> dict[str, torch.Tensor]:
    """The gradient of twice the loss of logits blended in one go."""
    weights = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    outputs = [split.run(weights, split.features(image)) for image in IMAGES]
    blended = torch.zeros(3, 3)
    for image, rows, share in parts:
        at = POSITIONS[rows]
        blended = blended.index_add(0, torch.tensor(rows), outputs[image][0][:, at[:, 0], at[:, 1]].T * share)
    found = agreement(blended, ASKED.labels)
    if config.objective == "likelihood" and config.likelihood == "image":
        used = [outputs[image] for image, *_ in parts]
        flat = [output[0].flatten(1).T for output in used]
        loss = found.g * sum(log_likelihood(one, one.argmax(1)).mean() for one in flat) / len(flat)
    else:
        loss = constraint_loss(blended, ASKED.labels, found, config)
    (2.0 * loss).backward()
    return {name: value.grad for name, value in weights.items() if value.grad is not None}


CONFIGS = [
    RefinementConfig(precision="float32", anchor=0.0),
    RefinementConfig.paper(),
    RefinementConfig.paper(likelihood="scribbles"),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "parts", [[(0, [0, 1, 2], 1.0)], [(0, [0, 1], 1.0), (1, [2], 1.0)], [(0, [0, 1, 2], 0.25), (1, [0, 1, 2], 0.75)]]
)
def test_several_windows_give_the_gradient_of_their_blended_prediction(config, parts):
    split = split_network()
    pieces = [piece(split, *part) for part in parts]
    found = gradients(constraints(split, pieces, config), split)
    expected = by_hand(split, config, parts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_agreement_is_that_of_the_blended_prediction():
    split = split_network()
    pieces = [piece(split, 0, [0, 1, 2], 0.25), piece(split, 1, [0, 1, 2], 0.75)]
    found, _ = constraints(split, pieces, CONFIGS[0]).evaluate(split.pretrained)
    at = POSITIONS.T
    rows = [split.run(split.pretrained, split.features(image))[0][:, at[0], at[1]].T for image in IMAGES]
    assert found.g == pytest.approx(agreement(0.25 * rows[0] + 0.75 * rows[1], ASKED.labels).g)


def test_bfloat16_comes_close_to_float32():
    split = split_network()
    config = RefinementConfig(precision="bfloat16", anchor=0.0)
    exact = gradients(constraints(split, [piece(split, 0, [0, 1, 2], 1.0)], CONFIGS[0]), split)
    rounded = gradients(constraints(split, [piece(split, 0, [0, 1, 2], 1.0)], config), split)
    assert rounded["head.weight"].dtype == torch.float32
    torch.testing.assert_close(rounded["head.weight"], exact["head.weight"], rtol=0.05, atol=0.02)


def test_whether_a_network_runs_in_bfloat16_is_tried():
    assert runs_in_bfloat16(split_network(), split_network().features(IMAGES[0]))

    class Fixed(nn.Module):
        """Its second convolution has a constant kernel in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 3, 1)
            self.register_buffer("kernel", torch.ones(3, 3, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(self.first(x), self.kernel)

    split = split_network(Fixed())
    assert not runs_in_bfloat16(split, split.features(IMAGES[0]))


def test_a_network_that_overflows_in_bfloat16_is_not_run_in_it():
    overflowing = Returning(
        small_unet(), lambda logits: logits * float("inf") * 0 if logits.dtype == torch.bfloat16 else logits
    )
    split = split_network(overflowing)
    infinite = tuple(torch.full_like(tensor, torch.finfo(torch.float32).max) for tensor in split.features(IMAGES[0]))
    assert not runs_in_bfloat16(split, infinite)


def test_indices_among_the_features_stay_whole_numbers():
    whole = torch.arange(4)
    converted = in_bfloat16((whole, torch.rand(1, 2, 3, 3), torch.rand(5)))
    assert converted[0] is whole
    assert converted[1].dtype == torch.bfloat16
    assert converted[1].is_contiguous(memory_format=torch.channels_last)


def test_grown_pixels_are_learnt_from_but_do_not_decide():
    split = split_network()
    predicted = split.run(split.pretrained, split.features(IMAGES[0]))[0].argmax(0)[tuple(POSITIONS.T)]
    # The first pixel, as drawn, is right already; the grown ones are not.
    labels = torch.where(torch.tensor([True, False, False]), predicted, (predicted + 1) % 3)
    asked = Asked(labels, torch.tensor([True, False, False]))
    problem = constraints(split, [piece(split, 0, [0, 1, 2], 1.0)], CONFIGS[0], asked)
    found, _ = problem.evaluate(split.pretrained)
    assert found.g == 0
    assert found.wrong.tolist() == [False, True, True]
    assert any(gradient.any() for gradient in gradients(problem, split).values())


@pytest.mark.parametrize("parts", [[(0, [0, 1, 2], 1.0)], [(0, [0, 1], 1.0), (1, [2], 1.0)]])
def test_the_pretrained_prediction_is_held_where_nothing_was_drawn(parts):
    config = RefinementConfig(precision="float32", anchor=5.0, anchor_confidence=0.0, anchor_distance=1.0)
    split = split_network()
    problem = constraints(split, [piece(split, *part) for part in parts], config)
    plain = gradients(constraints(split, [piece(split, *part) for part in parts], CONFIGS[0]), split)
    # At the pretrained weights nothing diverges yet.
    for name, value in gradients(problem, split).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5)
    moved = {name: (value + 0.1).requires_grad_() for name, value in split.pretrained.items()}
    _, add_gradient = problem.evaluate(moved)
    add_gradient(0.0)
    assert any(value.grad is not None and value.grad.abs().max() > 1e-4 for value in moved.values())
