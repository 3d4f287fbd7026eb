from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.refinement.lagrangian import Agreement, RefinementConfig, agreement, constraint_loss, minimise

PAPER = RefinementConfig.paper(likelihood="scribbles", learning_rate=0.1, alpha=0.05)


class LinearProblem:
    """Pixels whose class logits are a linear map of their features: a network of one layer."""

    def __init__(self, features: Tensor, asked: Tensor, config: RefinementConfig) -> None:
        self.features, self.asked, self.config = features, asked, config

    def evaluate(self, weights):
        logits = self.features @ weights["w"].T
        found = agreement(logits, self.asked)

        def add_gradient(factor: float) -> None:
            (factor * constraint_loss(logits, self.asked, found, self.config)).backward()

        return found, add_gradient


def problem(config: RefinementConfig, *, seed: int = 0, labels: int = 3) -> tuple[LinearProblem, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, 8, generator=generator)
    asked = torch.randint(labels, (20,), generator=generator)
    return LinearProblem(features, asked, config), {"w": torch.randn(labels, 8, generator=generator)}


# g -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.integers(0, 2)), min_size=1))
def test_g_is_zero_if_and_only_if_every_scribbled_pixel_is_predicted_as_asked(rows):
    logits = torch.tensor([values for values, _ in rows])
    asked = torch.tensor([label for _, label in rows])
    found = agreement(logits, asked)
    assert (found.g == 0) == bool((logits.argmax(1) == asked).all())
    assert found.g >= 0


def test_g_is_the_cross_entropy_of_the_violating_pixels_over_all_scribbled_ones():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.0, 5.0]])
    found = agreement(logits, torch.tensor([0, 0, 1]))
    assert found.wrong.tolist() == [False, True, False]
    assert found.predicted.tolist() == [0, 1, 1]
    assert found.g == pytest.approx(math.log(1 + math.exp(2)) / 3)


def test_only_pixels_that_decide_count_in_g():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    asked = torch.tensor([1, 0])
    found = agreement(logits, asked, torch.tensor([True, False]))
    assert found.g == pytest.approx(math.log(1 + math.exp(2)))
    assert found.wrong.tolist() == [True, True]
    assert agreement(logits, torch.tensor([0, 0]), torch.tensor([True, False])).g == 0


def test_g_of_a_prediction_that_is_wrong_beyond_doubt_is_finite():
    assert math.isfinite(agreement(torch.tensor([[1e4, -1e4]]), torch.tensor([1])).g)


# The step ------------------------------------------------------------------------------------------------------------


def test_a_step_is_that_of_algorithm_1():
    task, pretrained = problem(PAPER)
    first = minimise(task, pretrained, RefinementConfig.paper(**steps(1)))
    second = minimise(task, pretrained, RefinementConfig.paper(**steps(2)))
    weights = pretrained["w"].clone()
    for expected in (first.weights["w"], second.weights["w"]):
        weights = by_hand(weights, pretrained["w"], task)
        torch.testing.assert_close(expected, weights)


def steps(count: int) -> dict[str, object]:
    return {"likelihood": "scribbles", "learning_rate": 0.1, "alpha": 0.05, "iterations": count}


def by_hand(weights: Tensor, pretrained: Tensor, task: LinearProblem) -> Tensor:
    """W - eta (g dPsi/dW + alpha (W - W_l) / |W - W_l|), with Psi the mean log-likelihood of the wrong predictions."""
    logits = task.features @ weights.T
    predicted = logits.argmax(1)
    wrong = predicted != task.asked
    probabilities = logits.softmax(1)
    g = -(probabilities[torch.arange(20), task.asked].log() * wrong).sum() / 20
    # d log softmax(z)_y / dz = onehot(y) - softmax(z)
    rows = (functional.one_hot(predicted, 3) - probabilities)[wrong] / wrong.sum()
    gradient = g * rows.T @ task.features[wrong]
    distance = (weights - pretrained).norm()
    pull = (weights - pretrained) / distance if distance > 0 else torch.zeros_like(weights)
    return weights - 0.1 * (gradient + 0.05 * pull)


def test_the_regulariser_pulls_the_weights_towards_the_pretrained_ones():
    class NoPreference:
        """Never satisfied, and without a gradient: only the regulariser moves the weights."""

        def evaluate(self, weights):
            return Agreement(1.0, torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)), lambda _: None

    pretrained = {"a": torch.tensor([0.0]), "b": torch.tensor([0.0])}
    start = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    config = RefinementConfig.paper(iterations=1, learning_rate=0.5, alpha=1.0)
    moved = minimise(NoPreference(), pretrained, config, start=start).weights
    # The norm is that of all refined weights together: (3, 4) / 5.
    torch.testing.assert_close(moved["a"], torch.tensor([3 - 0.5 * 0.6]))
    torch.testing.assert_close(moved["b"], torch.tensor([4 - 0.5 * 0.8]))


def test_equation_2_lowers_the_likelihood_of_wrong_predictions_only():
    logits = torch.tensor([[0.2, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    asked = torch.tensor([2, 1])
    constraint_loss(logits, asked, agreement(logits, asked), PAPER).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0
    assert (logits.grad[0, 1:] < 0).all()
    assert not logits.grad[1].any()


def test_cross_entropy_raises_the_label_asked_for_on_every_scribbled_pixel():
    logits = torch.tensor([[0.2, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    asked = torch.tensor([2, 1])
    config = RefinementConfig(objective="cross_entropy", balanced=False)
    loss = constraint_loss(logits, asked, agreement(logits, asked), config)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, asked))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] < 0
    assert logits.grad[1, 1] < 0


def test_balanced_labels_count_the_same_however_many_pixels_they_have():
    one = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
    asked = torch.tensor([0, 1])
    config = RefinementConfig(objective="cross_entropy", balanced=True)

    def loss(logits: Tensor, labels: Tensor) -> float:
        return float(constraint_loss(logits, labels, agreement(logits, labels), config))

    many = torch.cat([one, one[1:].expand(9, 3)])
    assert loss(many, torch.tensor([0] + [1] * 10)) == pytest.approx(loss(one, asked))


# The loop ------------------------------------------------------------------------------------------------------------


OPTIONS = [
    PAPER,
    RefinementConfig(learning_rate=0.05),
    RefinementConfig(objective="cross_entropy", optimiser="momentum", learning_rate=0.2),
    RefinementConfig(objective="likelihood", optimiser="adam", learning_rate=0.05),
    RefinementConfig.paper(likelihood="scribbles", learning_rate=0.1, penalty_growth=1.1),
]


@pytest.mark.parametrize("config", OPTIONS)
def test_every_option_reaches_g_zero_on_a_problem_that_has_a_solution(config):
    task, _ = problem(config, labels=2)
    task.features = torch.cat([task.features, 4 * functional.one_hot(task.asked, 2)], dim=1)
    optimum = minimise(task, {"w": torch.zeros(2, 10).index_fill(1, torch.tensor([0]), 0.1)}, config)
    assert optimum.stopped == "satisfied"
    assert optimum.g_history[-1] == 0
    assert 0 < optimum.iterations < 130
    assert agreement(task.features @ optimum.weights["w"].T, task.asked).g == 0


def test_nothing_is_changed_when_the_scribbles_are_satisfied_from_the_start():
    task, pretrained = problem(PAPER)
    task.asked = (task.features @ pretrained["w"].T).argmax(1)
    optimum = minimise(task, pretrained, PAPER)
    assert optimum.stopped == "satisfied"
    assert optimum.iterations == 0
    assert torch.equal(optimum.weights["w"], pretrained["w"])


@pytest.mark.parametrize("config", OPTIONS)
def test_the_pretrained_weights_are_never_written_to(config):
    task, pretrained = problem(config)
    before = pretrained["w"].clone()
    minimise(task, pretrained, config)
    assert torch.equal(pretrained["w"], before)


def impossible() -> tuple[LinearProblem, dict[str, Tensor]]:
    """Two pixels with the same features, and different labels."""
    features = torch.ones(2, 1)
    return LinearProblem(features, torch.tensor([0, 1]), RefinementConfig()), {"w": torch.tensor([[1.0], [0.0]])}


def test_settling_goes_on_after_g_is_zero_and_ends_with_satisfied_weights():
    config = RefinementConfig(learning_rate=0.05, settle=5)
    task, _ = problem(config, labels=2)
    task.features = torch.cat([task.features, 4 * functional.one_hot(task.asked, 2)], dim=1)
    pretrained = {"w": torch.zeros(2, 10).index_fill(1, torch.tensor([0]), 0.1)}
    settled = minimise(task, pretrained, config)
    at_once = minimise(task, pretrained, RefinementConfig(learning_rate=0.05, settle=0))
    assert settled.g_history[: len(at_once.g_history)] == at_once.g_history
    assert settled.iterations >= at_once.iterations + 5
    assert agreement(task.features @ settled.weights["w"].T, task.asked).g == 0


def test_a_refinement_that_was_satisfied_before_the_iterations_ended_is_satisfied():
    config = RefinementConfig(learning_rate=0.05, settle=100, iterations=40)
    task, _ = problem(config, labels=2)
    task.features = torch.cat([task.features, 4 * functional.one_hot(task.asked, 2)], dim=1)
    optimum = minimise(task, {"w": torch.zeros(2, 10).index_fill(1, torch.tensor([0]), 0.1)}, config)
    assert optimum.iterations == 40
    assert optimum.stopped == "satisfied"
    assert agreement(task.features @ optimum.weights["w"].T, task.asked).g == 0


def test_it_ends_after_the_most_iterations():
    task, pretrained = impossible()
    optimum = minimise(task, pretrained, RefinementConfig(iterations=7))
    assert optimum.stopped == "iterations"
    assert optimum.iterations == 7
    assert len(optimum.g_history) == 8


def test_without_success_the_weights_with_the_least_g_are_kept_or_the_last_ones():
    for keep_best in (True, False):
        config = RefinementConfig.paper(
            likelihood="scribbles", learning_rate=5.0, iterations=6, keep_best=keep_best, alpha=0.0
        )
        task, pretrained = problem(config, seed=3)
        optimum = minimise(task, pretrained, config)
        left = agreement(task.features @ optimum.weights["w"].T, task.asked).g
        assert optimum.stopped == "iterations"
        assert left == pytest.approx(min(optimum.g_history) if keep_best else optimum.g_history[-1])


def test_patience_ends_what_gets_no_better():
    task, pretrained = impossible()
    optimum = minimise(task, pretrained, RefinementConfig(patience=3, learning_rate=1e-9))
    assert optimum.stopped == "stalled"
    assert optimum.iterations <= 5


def test_the_penalty_grows_with_every_iteration():
    factors: list[float] = []

    class Recording(LinearProblem):
        def evaluate(self, weights):
            found, add_gradient = super().evaluate(weights)
            return found, lambda factor: (factors.append(factor), add_gradient(factor))

    task, pretrained = impossible()
    recording = Recording(task.features, task.asked, task.config)
    minimise(recording, pretrained, RefinementConfig(iterations=4, penalty_growth=2.0))
    assert factors == [1, 2, 4, 8]


def test_every_iteration_is_told():
    told: list[tuple[int, float]] = []
    task, pretrained = impossible()
    config = RefinementConfig(iterations=3)
    optimum = minimise(task, pretrained, config, on_iteration=lambda count, g: told.append((count, g)))
    assert told == list(enumerate(optimum.g_history))


def test_cancelling_ends_it_before_the_next_iteration():
    answers = itertools.chain([False, False], itertools.repeat(True))
    task, pretrained = impossible()
    optimum = minimise(task, pretrained, RefinementConfig(), cancelled=lambda: next(answers))
    assert optimum.stopped == "cancelled"
    assert len(optimum.g_history) == 2


def test_a_gradient_that_is_not_finite_ends_it_with_the_best_weights_so_far():
    class Breaking(LinearProblem):
        calls = 0

        def evaluate(self, weights):
            self.calls += 1
            found, add_gradient = super().evaluate(weights)
            if self.calls < 3:
                return found, add_gradient
            return (
                found,
                lambda _: (
                    weights["w"].grad.fill_(math.nan)
                    if weights["w"].grad is not None
                    else (weights["w"].__setattr__("grad", torch.full_like(weights["w"], math.nan)))
                ),
            )

    task, pretrained = impossible()
    breaking = Breaking(task.features, task.asked, task.config)
    optimum = minimise(breaking, pretrained, RefinementConfig())
    assert optimum.stopped == "not finite"
    assert optimum.weights["w"].isfinite().all()


def test_logits_that_are_not_finite_end_it():
    task, _ = impossible()
    optimum = minimise(task, {"w": torch.tensor([[math.nan], [0.0]])}, RefinementConfig())
    assert optimum.stopped == "not finite"
    assert optimum.g_history == ()


# Options -------------------------------------------------------------------------------------------------------------


def test_the_paper_s_options_add_nothing():
    paper = RefinementConfig.paper()
    assert (paper.objective, paper.likelihood, paper.optimiser) == ("likelihood", "image", "sgd")
    assert not paper.balanced
    assert not paper.keep_best
    assert paper.penalty_growth == 1
    assert paper.anchor == 0
    assert paper.settle == 0
    assert paper.patience == 0
    assert RefinementConfig.paper(iterations=80).iterations == 80


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 0},
        {"layers": ()},
        {"iterations": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"alpha": -1.0},
        {"alpha": math.inf},
        {"penalty_growth": 0.9},
        {"anchor": -0.1},
        {"anchor": math.inf},
        {"anchor_confidence": 1.1},
        {"anchor_distance": math.nan},
        {"anchor_trust": 0.0},
        {"patience": -1},
        {"settle": -1},
        {"objective": "dice"},
        {"likelihood": "all"},
        {"optimiser": "lbfgs"},
        {"precision": "float16"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        RefinementConfig(**options)


def test_layer_names_may_come_as_a_list():
    assert RefinementConfig(layers=["head"]).layers == ("head",)  # type: ignore[arg-type]
