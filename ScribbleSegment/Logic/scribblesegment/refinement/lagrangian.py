"""Refinement of a network's last layers until its prediction agrees with a user's scribbles.

Source: Sambaturu et al., "Efficient and Generic Interactive Segmentation Framework to Correct Mispredictions during
Clinical Evaluation of Medical Images", section 3, algorithm 1 and equation 2:

    min over W of  Psi(x, y, W) g(y, S) + alpha |W_l - W|      with y = argmax Psi(x, y, W)

y are the predicted labels, Psi their log-likelihood, and g the cross-entropy between the prediction and the scribbles
S, zero when every scribbled pixel is predicted as it should be. Each iteration predicts y, then takes one step of
gradient descent with y and g held fixed:

    W <- W - eta (g dPsi/dW + alpha (W - W_l) / |W - W_l|)

Algorithm 1 prints the difference of weights the other way round, which would drive them apart; equation 2, and the text
("regularizing W to stay close to the original weights"), decide. What the paper leaves open, and where the defaults
depart from it, is named in `RefinementConfig`; `constraint_loss` and `image_loss` are where its switches take effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import CancelledError, ConfigError
from scribblesegment.refinement.network_graph import Weights

_MOMENTUM = 0.9

_CHOICES = {
    "objective": ("likelihood", "cross_entropy"),
    "likelihood": ("image", "scribbles"),
    "optimiser": ("sgd", "momentum", "adam"),
    "precision": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class RefinementConfig:
    """How a network is refined. `RefinementConfig.paper()` is algorithm 1 with nothing added.

    Raises:
        ConfigError: Unknown names or values out of range.
    """

    # How many of the last layers are refined, or the names of layers or of modules that contain them.
    layers: int | tuple[str, ...] = 6
    iterations: Annotated[int, Range(1)] = 130  # at most; the paper's M (appendix A: 80 to 140)
    learning_rate: Annotated[float, Range(0, exclusive=True)] = 1e-2  # the paper's eta
    alpha: Annotated[float, Range(0)] = 0.0  # weight of the distance from the pretrained weights
    # "likelihood": the likelihood of a prediction that violates scribbles is lowered (equation 2); "cross_entropy"
    # (departure): that of the scribbles' labels is raised, on all scribbled pixels, until they are all predicted.
    objective: str = "cross_entropy"
    # For "likelihood", over which pixels Psi is the mean log-likelihood: all of the "image", or the "scribbles" that
    # are violated; the paper says neither.
    likelihood: str = "scribbles"
    optimiser: str = "adam"  # "sgd", as the paper; departures: "momentum" (0.9) and "adam"
    balanced: bool = True  # departure: every label's scribbles count the same, however many pixels they have
    # Departure: factor by which the constraint weighs more in each iteration.
    penalty_growth: Annotated[float, Range(1)] = 1.03
    # Departure: weight of the divergence from the pretrained prediction away from the scribbles.
    anchor: Annotated[float, Range(0)] = 10.0
    anchor_confidence: Annotated[float, Range(0, 1)] = 0.9  # probability from which a pixel's pretrained label is held
    anchor_distance: Annotated[float, Range(0)] = 6.0  # in cells of the grid; nearer to a scribble nothing is held
    # After so many scribbled pixels that were wrongly predicted as a label, that label is held half as much.
    anchor_trust: Annotated[float, Range(1)] = 100.0
    # Departure: iterations that follow once g = 0. The step that satisfies the last scribble is as long as any other,
    # and changes more than it needs to; these take that back (see `Anchor`).
    settle: Annotated[int, Range(0)] = 15
    # Departure: stop when g has not reached a new minimum in so many iterations; 0 never does.
    patience: Annotated[int, Range(0)] = 0
    keep_best: bool = True  # departure: with violations left, take the weights with the least g, not the last ones
    # Of iterations; "auto" is bfloat16 where the hardware computes with it. The result, and whether it follows the
    # scribbles, is always computed in float32.
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, int):
            object.__setattr__(self, "layers", tuple(self.layers))
        if (isinstance(self.layers, int) and self.layers < 1) or not self.layers:
            raise ConfigError(f"layers is a number of layers, 1 or above, or their names; got {self.layers!r}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        check_ranges(self)

    @classmethod
    def paper(cls, **changes: object) -> RefinementConfig:
        """Give algorithm 1 with nothing added; keyword arguments replace single fields."""
        plain = cls(
            objective="likelihood",
            likelihood="image",
            layers=4,
            optimiser="sgd",
            learning_rate=1e-2,
            alpha=1e-2,
            balanced=False,
            penalty_growth=1.0,
            anchor=0.0,
            settle=0,
            patience=0,
            keep_best=False,
            precision="float32",
        )
        return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How a prediction agrees with the scribbles."""

    g: float  # 0 if and only if every decisive pixel is predicted with its target label
    wrong: Tensor  # (n,) bool, the scribbled pixels that are not
    predicted: Tensor  # (n,) int64, their labels


def agreement(logits: Tensor, targets: Tensor, decisive: Tensor | None = None) -> Agreement:
    """Compare class logits (n, labels) of scribbled pixels with their target labels (n,).

    g is the mean cross-entropy of the wrong ones among the `decisive` pixels (n,), all if not given.
    """
    with torch.no_grad():
        values = logits.float()
        predicted = values.argmax(dim=1)
        wrong = predicted != targets
        # Where another label is as likely or likelier, the loss is at least log 2: g is zero only without violations.
        losses = functional.cross_entropy(values, targets, reduction="none") * wrong
        g = float(losses.mean() if decisive is None else losses[decisive].mean())
    return Agreement(g, wrong, predicted)


def constraint_loss(logits: Tensor, targets: Tensor, found: Agreement, config: RefinementConfig) -> Tensor | None:
    """What is lowered at the scribbled pixels, class logits (n, labels); None where `image_loss` takes its place."""
    values = logits.float()
    if config.objective == "likelihood":
        if config.likelihood == "image":
            return None
        log_likelihood = -functional.cross_entropy(values, found.predicted, reduction="none") * found.wrong
        return found.g * log_likelihood.sum() / found.wrong.sum().clamp_min(1)
    losses = functional.cross_entropy(values, targets, reduction="none")
    if not config.balanced:
        return losses.mean()
    counts = torch.bincount(targets)
    return (losses / counts[targets]).sum() / (counts > 0).sum()


def image_loss(logits: Tensor, found: Agreement, config: RefinementConfig) -> Tensor | None:
    """Equation 2 with Psi over a whole window, class logits (1, labels, *patch): g times the mean log-likelihood."""
    if config.objective != "likelihood" or config.likelihood != "image":
        return None
    rows = logits[0].flatten(1).T.float()
    return found.g * -functional.cross_entropy(rows, rows.detach().argmax(dim=1), reduction="none").mean()


@dataclass(frozen=True, eq=False)
class Anchor:
    """The pretrained prediction of a window, held where nothing was drawn (distillation)."""

    log_probabilities: Tensor  # float32 (labels, *patch)
    weights: Tensor  # float32 (*patch), how much each pixel counts: 0 or above, at most 1 in sum

    @classmethod
    def of(
        cls,
        logits: Tensor,
        positions: Tensor,
        targets: Tensor,
        decisive: Tensor,
        known_labels: int,
        config: RefinementConfig,
    ) -> Anchor:
        """Hold a prediction where the network was sure of it.

        Args:
            logits: (1, labels, *patch), the pretrained class logits.
            positions: (n, ndim) int64, the scribbled pixels of the patch.
            targets: (n,) int64, their labels.
            decisive: (n,) bool, those that were drawn and not grown; they tell how far a label is to be trusted.
            known_labels: Number of the network's own labels: a prediction of an added one holds nothing.
            config: From which confidence, and how far from scribbles, pixels are held.
        """
        log_probabilities = logits[0].detach().float().log_softmax(dim=0)
        confidence, labels = log_probabilities.max(dim=0)
        held = (confidence.exp() >= config.anchor_confidence) & (labels < known_labels)
        if len(positions):
            unmarked = np.ones(tuple(labels.shape), dtype=bool)
            unmarked[tuple(positions.cpu().numpy().T)] = False
            far = distance_transform_edt(unmarked) > config.anchor_distance
            held &= torch.from_numpy(np.asarray(far)).to(held.device)
        count = len(log_probabilities)
        # Every label counts the same, or the background would be all that is held.
        pixels = torch.bincount(labels[held], minlength=count).float()
        shares = 1.0 / (pixels.clamp_min(1.0) * (pixels > 0).sum().clamp_min(1))
        # Labels that scribbles found wrong count less, beginning as if `anchor_trust` pixels had been right.
        predicted = labels[tuple(positions[decisive].T)]
        right = torch.bincount(predicted[predicted == targets[decisive]], minlength=count) + config.anchor_trust
        shares = shares * (right / (torch.bincount(predicted, minlength=count) + config.anchor_trust))
        return cls(log_probabilities, held * shares[labels])

    def divergence(self, logits: Tensor) -> Tensor:
        """Weighted mean Kullback-Leibler divergence of class logits (1, labels, *patch) from the held prediction."""
        now = logits[0].float().log_softmax(dim=0)
        distance = (self.log_probabilities.exp() * (self.log_probabilities - now)).sum(dim=0)
        return (distance * self.weights).sum()


# Predicts the scribbled pixels with some weights: their agreement, and a function that adds the gradient of the loss,
# with the constraint times a penalty, to the weights' `grad`.
Evaluate = Callable[[Weights], tuple[Agreement, Callable[[float], None]]]


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where a refinement ended."""

    weights: Weights  # of the refined layers
    g_history: tuple[float, ...]  # before the first update, and after each one
    stopped: str  # "satisfied", "iterations", "stalled" or "not finite"


def minimise(
    evaluate: Evaluate,
    pretrained: Weights,
    config: RefinementConfig,
    *,
    start: Weights | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Optimum:
    """Run algorithm 1.

    It begins with the weights `start`, by default the pretrained ones, which the result stays close to; it copies both.
    `on_iteration` is called with the number of updates so far and g, `cancelled` before each iteration.

    Returns:
        The refined weights. Where a gradient or g is not finite, those with the least g so far.

    Raises:
        CancelledError: `cancelled` returned True.
    """
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in (start or pretrained).items()}
    optimiser = _optimiser(list(weights.values()), config)
    history: list[float] = []
    best, least = _copied(weights), math.inf
    penalty = 1.0
    while True:
        if cancelled is not None and cancelled():
            raise CancelledError("The refinement was cancelled; the result is as it was before.")
        found, add_gradient = evaluate(weights)
        if not math.isfinite(found.g):
            stopped = "not finite"
            break
        history.append(found.g)
        if on_iteration is not None:
            on_iteration(len(history) - 1, found.g)
        if found.g <= least:
            best, least = _copied(weights), found.g
        if found.g == 0 and (len(history) == 1 or history.count(0.0) > config.settle):
            stopped = "satisfied"
            break
        if len(history) > config.iterations:
            stopped = "iterations"
            break
        if least > 0 and 0 < config.patience <= len(history) - 1 - history.index(least):
            stopped = "stalled"
            break
        optimiser.zero_grad(set_to_none=True)
        add_gradient(penalty)
        _add_regulariser(weights, pretrained, config.alpha)
        if not all(tensor.grad is None or bool(torch.isfinite(tensor.grad).all()) for tensor in weights.values()):
            stopped = "not finite"
            break
        optimiser.step()
        penalty *= config.penalty_growth
    if least == 0:
        return Optimum(best, tuple(history), "satisfied")
    return Optimum(best if config.keep_best or stopped == "not finite" else _copied(weights), tuple(history), stopped)


def _copied(weights: Weights) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _optimiser(tensors: list[Tensor], config: RefinementConfig) -> torch.optim.Optimizer:
    if config.optimiser == "adam":
        return torch.optim.Adam(tensors, lr=config.learning_rate)
    momentum = _MOMENTUM if config.optimiser == "momentum" else 0.0
    return torch.optim.SGD(tensors, lr=config.learning_rate, momentum=momentum)


def _add_regulariser(weights: Weights, pretrained: Weights, alpha: float) -> None:
    """Add alpha (W - W_l) / |W - W_l| to the gradient; nothing where they are equal, a subgradient of the norm."""
    if alpha == 0:
        return
    with torch.no_grad():
        differences = {name: weights[name] - pretrained[name] for name in weights}
        norm = torch.sqrt(sum((entry.square().sum() for entry in differences.values()), torch.zeros(())))
        if norm == 0:
            return
        for name, difference in differences.items():
            gradient = alpha * difference / norm
            held = weights[name].grad
            weights[name].grad = gradient if held is None else held + gradient
