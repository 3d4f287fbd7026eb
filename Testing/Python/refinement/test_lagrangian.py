"""Algorithm 1 of the paper on a network of one layer, computed by hand beside it; the anchor; the options."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.refinement.lagrangian import (
    Agreement,
    Anchor,
    RefinementConfig,
    agreement,
    constraint_loss,
    minimise,
)

PAPER = RefinementConfig.paper(likelihood="scribbles", learning_rate=0.1, alpha=0.05)


class LinearProblem:
    """Pixels whose class logits are a linear map of their features."""

    def __init__(self, features: Tensor, targets: Tensor, config: RefinementConfig) -> None:
        self.features, self.targets, self.config = features, targets, config
        self.factors: list[float] = []

    def g(self, weights: Tensor) -> float:
        return agreement(self.features @ weights.T, self.targets).g

    def __call__(self, weights):
        logits = self.features @ weights["w"].T
        found = agreement(logits, self.targets)

        def add_gradient(factor: float) -> None:
            self.factors.append(factor)
            (factor * constraint_loss(logits, self.targets, found, self.config)).backward()

        return found, add_gradient


def a_problem(config: RefinementConfig, *, seed: int = 0, labels: int = 3) -> tuple[LinearProblem, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, 8, generator=generator)
    targets = torch.randint(labels, (20,), generator=generator)
    return LinearProblem(features, targets, config), {"w": torch.randn(labels, 8, generator=generator)}


def a_solvable_problem(config: RefinementConfig) -> tuple[LinearProblem, dict[str, Tensor]]:
    task, _ = a_problem(config, labels=2)
    task.features = torch.cat([task.features, 4 * functional.one_hot(task.targets, 2)], dim=1)
    return task, {"w": torch.zeros(2, 10).index_fill(1, torch.tensor([0]), 0.1)}


def an_impossible_problem() -> tuple[LinearProblem, dict[str, Tensor]]:
    """Two pixels with the same features, and different labels."""
    targets = torch.tensor([0, 1])
    return LinearProblem(torch.ones(2, 1), targets, RefinementConfig()), {"w": torch.tensor([[1.0], [0.0]])}


@given(st.lists(st.tuples(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.integers(0, 2)), min_size=1))
def test_g_is_zero_if_and_only_if_every_scribbled_pixel_has_its_label(rows):
    logits = torch.tensor([values for values, _ in rows])
    targets = torch.tensor([label for _, label in rows])
    found = agreement(logits, targets)
    assert (found.g == 0) == bool((logits.argmax(1) == targets).all())
    assert found.g >= 0


def test_g_is_the_cross_entropy_of_the_violating_among_the_decisive_pixels():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.0, 5.0]])
    found = agreement(logits, torch.tensor([0, 0, 1]))
    assert (found.wrong.tolist(), found.predicted.tolist()) == ([False, True, False], [0, 1, 1])
    assert found.g == pytest.approx(math.log(1 + math.exp(2)) / 3)
    targets, decisive = torch.tensor([1, 0]), torch.tensor([True, False])
    assert agreement(logits[:2], targets, decisive).g == pytest.approx(math.log(1 + math.exp(2)))
    assert agreement(logits[:2], torch.tensor([0, 0]), decisive).g == 0
    assert math.isfinite(agreement(torch.tensor([[1e4, -1e4]]), torch.tensor([1])).g)


def test_a_step_is_that_of_algorithm_1():
    """W - eta (g dPsi/dW + alpha (W - W_l) / |W - W_l|), with Psi the mean log-likelihood of the wrong predictions."""
    task, pretrained = a_problem(PAPER)
    weights = pretrained["w"].clone()
    for count in (1, 2):
        logits = task.features @ weights.T
        predicted = logits.argmax(1)
        wrong, probabilities = predicted != task.targets, logits.softmax(1)
        g = -(probabilities[torch.arange(20), task.targets].log() * wrong).sum() / 20
        # d log softmax(z)_y / dz = onehot(y) - softmax(z)
        rows = (functional.one_hot(predicted, 3) - probabilities)[wrong] / wrong.sum()
        distance = (weights - pretrained["w"]).norm()
        pull = (weights - pretrained["w"]) / distance if distance > 0 else torch.zeros_like(weights)
        weights = weights - 0.1 * (g * rows.T @ task.features[wrong] + 0.05 * pull)
        config = RefinementConfig.paper(likelihood="scribbles", learning_rate=0.1, alpha=0.05, iterations=count)
        torch.testing.assert_close(minimise(task, pretrained, config).weights["w"], weights)


def test_the_regulariser_pulls_the_weights_towards_the_pretrained_ones():
    def never_satisfied(weights):
        return Agreement(1.0, torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)), lambda _: None

    pretrained = {"a": torch.tensor([0.0]), "b": torch.tensor([0.0])}
    start = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    config = RefinementConfig.paper(iterations=1, learning_rate=0.5, alpha=1.0)
    moved = minimise(never_satisfied, pretrained, config, start=start).weights
    # The norm is that of all refined weights together: (3, 4) / 5.
    torch.testing.assert_close(moved["a"], torch.tensor([3 - 0.5 * 0.6]))
    torch.testing.assert_close(moved["b"], torch.tensor([4 - 0.5 * 0.8]))


@pytest.mark.parametrize(("balanced", "weights"), [(False, [1, 1, 1]), (True, [1, 1, 2])])
def test_cross_entropy_raises_the_target_labels_each_alike_or_each_pixel_alike(balanced, weights):
    logits, targets = torch.tensor([[0.2, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 1.0]]), torch.tensor([1, 1, 2])
    loss = constraint_loss(logits, targets, agreement(logits, targets), RefinementConfig(balanced=balanced))
    each, weights = functional.cross_entropy(logits, targets, reduction="none"), torch.tensor(weights)
    torch.testing.assert_close(loss, (each * weights).sum() / weights.sum())


OPTIONS = [
    PAPER,
    RefinementConfig(learning_rate=0.05),
    RefinementConfig(objective="cross_entropy", optimiser="momentum", learning_rate=0.2),
    RefinementConfig(objective="likelihood", optimiser="adam", learning_rate=0.05),
    RefinementConfig.paper(likelihood="scribbles", learning_rate=0.1, penalty_growth=1.1),
]


@pytest.mark.parametrize("config", OPTIONS)
def test_every_option_reaches_g_zero_where_it_can_and_leaves_the_pretrained_weights(config):
    task, pretrained = a_solvable_problem(config)
    before = pretrained["w"].clone()
    optimum = minimise(task, pretrained, config)
    assert optimum.stopped == "satisfied"
    assert optimum.g_history[-1] == task.g(optimum.weights["w"]) == 0
    assert 1 < len(optimum.g_history) < 131
    assert torch.equal(pretrained["w"], before)


@pytest.mark.parametrize(("settle", "iterations", "updates"), [(5, 130, None), (100, 40, 40)])
def test_settling_goes_on_after_g_is_zero_and_ends_with_satisfied_weights(settle, iterations, updates):
    task, pretrained = a_solvable_problem(RefinementConfig())
    config = RefinementConfig(learning_rate=0.05, settle=settle, iterations=iterations)
    settled = minimise(task, pretrained, config)
    at_once = minimise(task, pretrained, RefinementConfig(learning_rate=0.05, settle=0))
    assert settled.stopped == "satisfied"
    assert settled.g_history[: len(at_once.g_history)] == at_once.g_history
    assert settled.g_history.count(0.0) == settle + 1 or len(settled.g_history) - 1 == updates
    assert task.g(settled.weights["w"]) == 0


def test_iterations_patience_and_penalty_are_counted():
    task, pretrained = an_impossible_problem()
    calls: list[tuple[int, float]] = []
    config = RefinementConfig(iterations=4, penalty_growth=2.0)
    ended = minimise(task, pretrained, config, on_iteration=lambda count, g: calls.append((count, g)))
    assert (ended.stopped, len(ended.g_history)) == ("iterations", 5)
    assert calls == list(enumerate(ended.g_history))
    assert task.factors == [1, 2, 4, 8]
    stalled = minimise(task, pretrained, RefinementConfig(patience=3, learning_rate=1e-9))
    assert stalled.stopped == "stalled"
    assert len(stalled.g_history) <= 6


@pytest.mark.parametrize("keep_best", [True, False])
def test_without_success_the_weights_with_the_least_g_are_kept_or_the_last_ones(keep_best):
    config = RefinementConfig.paper(
        likelihood="scribbles", learning_rate=5.0, iterations=6, keep_best=keep_best, alpha=0.0
    )
    task, pretrained = a_problem(config, seed=3)
    optimum = minimise(task, pretrained, config)
    assert optimum.stopped == "iterations"
    assert min(optimum.g_history) < optimum.g_history[-1]
    assert task.g(optimum.weights["w"]) == pytest.approx(min(optimum.g_history) if keep_best else optimum.g_history[-1])


def test_what_is_not_finite_ends_it_with_the_best_weights_so_far():
    task, pretrained = an_impossible_problem()

    def breaking(weights):
        found, add_gradient = task(weights)

        def add(factor: float) -> None:
            add_gradient(factor)
            if len(task.factors) == 3:
                weights["w"].grad.fill_(math.nan)

        return found, add

    optimum = minimise(breaking, pretrained, RefinementConfig(keep_best=False))
    assert optimum.stopped == "not finite"
    assert task.g(optimum.weights["w"]) == pytest.approx(min(optimum.g_history))
    lost = minimise(task, {"w": torch.tensor([[math.nan], [0.0]])}, RefinementConfig())
    assert (lost.stopped, lost.g_history) == ("not finite", ())


# Anchor --------------------------------------------------------------------------------------------------------------

ANCHORED = RefinementConfig(anchor_confidence=0.9, anchor_distance=2.0, anchor_trust=10.0)
NOWHERE = torch.zeros((0, 2), dtype=torch.int64)
ROW = torch.stack([torch.zeros(10, dtype=torch.int64), torch.arange(10)], dim=1)


def anchored(logits, positions=NOWHERE, targets=None, decisive=None, *, known_labels: int = 2) -> Anchor:
    """Hold a prediction; the targets are what it predicts, unless given."""
    if targets is None:
        targets = logits[0].argmax(0)[tuple(positions.T)]
    if decisive is None:
        decisive = torch.ones(len(positions), dtype=torch.bool)
    return Anchor.of(logits, positions, targets, decisive, known_labels, ANCHORED)


def sure_of(labels: Tensor, count: int = 2) -> Tensor:
    """Class logits (1, labels, H, W) that are sure of given labels."""
    return 8.0 * functional.one_hot(labels, count).permute(2, 0, 1)[None].float()


def test_pixels_near_scribbles_unsure_ones_and_added_labels_are_not_held():
    anchor = anchored(sure_of(torch.zeros(9, 9, dtype=torch.int64)), torch.tensor([[4, 4]]))
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    assert torch.equal(anchor.weights == 0, (rows - 4) ** 2 + (columns - 4) ** 2 <= 4)
    unsure = sure_of(torch.zeros(4, 4, dtype=torch.int64))
    unsure[0, 1, 0, 0] = 7.0
    assert torch.equal(anchored(unsure).weights == 0, torch.arange(16).reshape(4, 4) == 0)
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[:2] = 2
    weights = anchored(sure_of(labels, 3)).weights
    assert not weights[:2].any()
    assert weights[2:].all()
    volume = torch.zeros(1, 2, 4, 4, 4)
    volume[0, 0] = 9
    held = anchored(volume, torch.tensor([[0, 0, 0]])).weights
    assert held[3, 3, 3] > 0
    assert held[0, 0, 2] == 0


def test_every_label_counts_the_same_but_less_where_drawn_pixels_found_it_wrong():
    labels = torch.zeros(10, 10, dtype=torch.int64)
    labels[0, 0] = 1
    weights = anchored(sure_of(labels)).weights
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0, 0].item() == pytest.approx(0.5)
    halves = torch.zeros(20, 20, dtype=torch.int64)
    halves[10:] = 1
    plain = anchored(sure_of(halves), ROW).weights
    doubted = anchored(sure_of(halves), ROW, torch.ones(10, dtype=torch.int64)).weights
    # Ten pixels of label 0 were wrong, as many as it was trusted for.
    torch.testing.assert_close(doubted[:10], plain[:10] / 2)
    torch.testing.assert_close(doubted[10:], plain[10:])
    grown = torch.zeros(10, dtype=torch.bool)
    torch.testing.assert_close(anchored(sure_of(halves), ROW, torch.ones(10, dtype=torch.int64), grown).weights, plain)


# Options -------------------------------------------------------------------------------------------------------------


def test_the_paper_s_options_add_nothing():
    paper = RefinementConfig.paper(iterations=80)
    assert (paper.objective, paper.likelihood, paper.optimiser) == ("likelihood", "image", "sgd")
    assert (paper.balanced, paper.keep_best, paper.iterations) == (False, False, 80)
    assert (paper.penalty_growth, paper.anchor, paper.settle, paper.patience) == (1, 0, 0, 0)
    assert RefinementConfig(layers=["head"]).layers == ("head",)  # type: ignore[arg-type]


NUMBERS = {"alpha": -1.0, "penalty_growth": 0.9, "anchor": -0.1, "anchor_confidence": 1.1, "anchor_distance": math.nan}
COUNTS = {"layers": (), "iterations": 0, "anchor_trust": 0.0, "patience": -1, "settle": -1, "learning_rate": math.nan}
CHOICES = {"objective": "dice", "likelihood": "all", "optimiser": "lbfgs", "precision": "float16"}


@pytest.mark.parametrize(
    ("name", "value"),
    [*(NUMBERS | COUNTS | CHOICES).items(), ("layers", 0), ("learning_rate", 0.0), ("alpha", math.inf)],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        RefinementConfig(**{name: value})
