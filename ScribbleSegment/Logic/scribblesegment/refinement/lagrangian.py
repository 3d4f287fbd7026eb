"""Refinement of a network's last layers until its prediction agrees with a user's scribbles.

Source: Sambaturu et al., "Efficient and Generic Interactive Segmentation Framework to Correct Mispredictions during
Clinical Evaluation of Medical Images", section 3, algorithm 1 and equation 2:

    min over W of  Psi(x, y, W) g(y, S) + alpha |W_l - W|      with y = argmax Psi(x, y, W)

y are the predicted labels, Psi their log-likelihood, and g the cross-entropy between the prediction and the scribbles
S, zero when every scribbled pixel is predicted as asked. Each iteration predicts y, then takes one step of gradient
descent with y and g held fixed:

    W <- W - eta (g dPsi/dW + alpha (W - W_l) / |W - W_l|)

Algorithm 1 prints the difference of weights the other way round, which would drive them apart; equation 2, and the text
("regularizing W to stay close to the original weights"), decide. What the paper leaves open is named in
`RefinementConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.refinement.network_graph import Weights
from scribblesegment.refinement.outputs import log_likelihood

OBJECTIVES = ("likelihood", "cross_entropy")

LIKELIHOODS = ("image", "scribbles")

OPTIMISERS = ("sgd", "momentum", "adam")

PRECISIONS = ("auto", "float32", "bfloat16")


_MOMENTUM = 0.9


@dataclass(frozen=True)
class RefinementConfig:
    """How a network is refined. `RefinementConfig.paper()` is algorithm 1 with nothing added.

    Attributes:
        layers: How many of the last layers are refined, or the names of layers or of modules that contain them.
        iterations: Most iterations, the paper's M (appendix A: 80 to 140).
        learning_rate: The paper's eta.
        alpha: Weight of the distance from the pretrained weights; 0 for none.
        objective: "likelihood": the likelihood of a prediction that violates scribbles is lowered (equation 2);
            "cross_entropy" (departure): that of the labels asked for is raised, on all scribbled pixels, as in
            fine-tuning, until they are all predicted.
        likelihood: Over which pixels Psi is the mean log-likelihood of the prediction: "image", all of them, or
            "scribbles", those that violate a scribble; the paper says neither. Not used by "cross_entropy".
        optimiser: "sgd", as the paper; departures: "momentum" (0.9) and "adam".
        balanced: Departure: whether each label's scribbles count the same, however many pixels they have.
        penalty_growth: Departure: by which factor the constraint weighs more in each iteration, 1 or above.
        anchor: Departure: weight of the divergence from the pretrained prediction where nothing was drawn; 0 for none
            (see `anchor`).
        anchor_confidence: Probability from which a pixel's pretrained label is held.
        anchor_distance: Pixels at most so far from a scribble are not held; in pixels of the network's grid.
        anchor_trust: After so many scribbled pixels that were wrongly predicted as a label, that label's pixels are
            held half as much.
        settle: Departure: how many iterations go on once g = 0. The step that satisfies the last scribble is as long as
            any other, and changes more than it needs to; what follows takes that back (see `anchor`).
        patience: Departure: stop when g has not fallen below its least value in so many iterations; 0 never does.
        keep_best: Departure: whether a refinement that ends with violations gives the weights with the least g, not
            the last ones.
        precision: In which number format iterations run: "float32", "bfloat16", or "auto", the latter where the
            device computes with it in hardware. The result is always computed, and whether it follows the scribbles is
            always decided, in float32.

    Raises:
        ConfigError: Unknown names or values out of range.
    """

    layers: int | tuple[str, ...] = 6
    iterations: int = 130
    learning_rate: float = 1e-2
    alpha: float = 0.0
    objective: str = "cross_entropy"
    likelihood: str = "scribbles"
    optimiser: str = "adam"
    balanced: bool = True
    penalty_growth: float = 1.03
    anchor: float = 10.0
    anchor_confidence: float = 0.9
    anchor_distance: float = 6.0
    anchor_trust: float = 100.0
    settle: int = 15
    patience: int = 0
    keep_best: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, int):
            object.__setattr__(self, "layers", tuple(self.layers))
        if (isinstance(self.layers, int) and self.layers < 1) or not self.layers:
            raise ConfigError(f"layers is a number of layers, 1 or above, or their names; got {self.layers!r}.")
        for name, choices in (
            ("objective", OBJECTIVES),
            ("likelihood", LIKELIHOODS),
            ("optimiser", OPTIMISERS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name, least, most in (
            ("iterations", 1, math.inf),
            ("settle", 0, math.inf),
            ("patience", 0, math.inf),
            ("alpha", 0.0, math.inf),
            ("penalty_growth", 1.0, math.inf),
            ("anchor", 0.0, math.inf),
            ("anchor_confidence", 0.0, 1.0),
            ("anchor_distance", 0.0, math.inf),
            ("anchor_trust", 1.0, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value <= most or value == math.inf:
                raise ConfigError(f"{name} is from {least} to {most} and finite, got {value}.")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is positive and finite, got {self.learning_rate}.")

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
    """How a prediction agrees with the scribbles.

    Attributes:
        g: Mean over the pixels that decide of the cross-entropy where another label is predicted; 0 if and only if
            every one is predicted as asked.
        wrong: (n,) bool, the pixels that are not.
        predicted: (n,) int64, their labels.
    """

    g: float
    wrong: Tensor
    predicted: Tensor


def agreement(logits: Tensor, asked: Tensor, decisive: Tensor | None = None) -> Agreement:
    """Compare class logits with the labels asked for.

    Args:
        logits: (n, labels), those of scribbled pixels.
        asked: (n,) int64.
        decisive: (n,) bool, the pixels that g is about; all if not given. Others were not drawn, but grown.
    """
    with torch.no_grad():
        values = logits.float()
        predicted = values.argmax(dim=1)
        wrong = predicted != asked
        losses = functional.cross_entropy(values, asked, reduction="none")
        # Where another label is as likely or likelier, the loss is at least log 2: g is zero only without violations.
        counted = losses * wrong
        g = float(counted.mean() if decisive is None else counted[decisive].mean())
    return Agreement(g, wrong, predicted)


def constraint_loss(logits: Tensor, asked: Tensor, found: Agreement, config: RefinementConfig) -> Tensor:
    """Give what gradient descent lowers on the scribbled pixels.

    Args:
        logits: (n, labels) class logits, with gradients.
        asked: (n,) int64.
        found: Their agreement; its g and labels are held fixed.
        config: With objective "likelihood", its Psi is taken over the violating pixels: the likelihood of the whole
            image is the caller's, who has the image.

    Returns:
        g Psi (equation 2), or the cross-entropy with the labels asked for.
    """
    values = logits.float()
    if config.objective == "likelihood":
        likelihoods = log_likelihood(values, found.predicted) * found.wrong
        return found.g * likelihoods.sum() / found.wrong.sum().clamp_min(1)
    losses = -log_likelihood(values, asked)
    if not config.balanced:
        return losses.mean()
    counts = torch.bincount(asked)
    return (losses / counts[asked]).sum() / (counts > 0).sum()


class Problem(Protocol):
    """What a refinement is about: an image's scribbled pixels, as functions of the refined weights."""

    def evaluate(self, weights: Weights) -> tuple[Agreement, Callable[[float], None]]:
        """Predict the scribbled pixels.

        Returns:
            Their agreement with the scribbles, and a function that adds the gradient of the constraint loss, times a
            factor, and of what else is to be small, to the weights' `grad`.
        """


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where a refinement ended.

    Attributes:
        weights: Of the refined layers.
        g_history: g before the first update, and after each one.
        stopped: "satisfied", "iterations", "stalled", "cancelled" or "not finite".
    """

    weights: Weights
    g_history: tuple[float, ...]
    stopped: str

    @property
    def iterations(self) -> int:
        """Number of updates."""
        return len(self.g_history) - 1


def minimise(
    problem: Problem,
    pretrained: Weights,
    config: RefinementConfig,
    *,
    start: Weights | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Optimum:
    """Run algorithm 1.

    Args:
        problem: Image and scribbles.
        pretrained: Weights that the result stays close to; they are copied, never written to.
        config: How.
        start: Weights to begin with; the pretrained ones if not given.
        on_iteration: Told the number of updates so far and g.
        cancelled: Asked before each iteration.

    Returns:
        The refined weights. Where a gradient or g is not finite, those with the least g so far.
    """
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in (start or pretrained).items()}
    optimiser = _optimiser(list(weights.values()), config)
    history: list[float] = []
    best, least = {name: tensor.detach().clone() for name, tensor in weights.items()}, math.inf
    penalty = 1.0

    def ended(stopped: str) -> Optimum:
        last = {name: tensor.detach() for name, tensor in weights.items()}
        if least == 0 and stopped != "cancelled":
            return Optimum(best, tuple(history), "satisfied")
        keeps_best = stopped == "not finite" or config.keep_best
        return Optimum(best if keeps_best else last, tuple(history), stopped)

    while True:
        if cancelled is not None and cancelled():
            return ended("cancelled")
        found, add_gradient = problem.evaluate(weights)
        if not math.isfinite(found.g):
            return ended("not finite")
        history.append(found.g)
        if on_iteration is not None:
            on_iteration(len(history) - 1, found.g)
        if found.g <= least:
            best, least = {name: tensor.detach().clone() for name, tensor in weights.items()}, found.g
        if found.g == 0 and (len(history) == 1 or history.count(0.0) > config.settle):
            return ended("satisfied")
        if len(history) > config.iterations:
            return ended("iterations")
        if least > 0 and 0 < config.patience <= len(history) - 1 - history.index(least):
            return ended("stalled")
        optimiser.zero_grad(set_to_none=True)
        add_gradient(penalty)
        _add_regulariser(weights, pretrained, config.alpha)
        if not all(tensor.grad is None or bool(torch.isfinite(tensor.grad).all()) for tensor in weights.values()):
            return ended("not finite")
        optimiser.step()
        penalty *= config.penalty_growth


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


@dataclass(frozen=True, eq=False)
class Anchor:
    """The pretrained prediction of a window, and how much each pixel of it counts.

    Attributes:
        log_probabilities: float32 (labels, *patch).
        weights: float32 (*patch), 0 or above, at most 1 in sum.
    """

    log_probabilities: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        logits: Tensor,
        positions: Tensor,
        asked: Tensor,
        decisive: Tensor,
        known_labels: int,
        config: RefinementConfig,
    ) -> Anchor:
        """Hold a prediction.

        Args:
            logits: (1, labels, *patch), the pretrained class logits.
            positions: (n, ndim) int64, the scribbled pixels of the patch.
            asked: (n,) int64, their labels.
            decisive: (n,) bool, those that were drawn and not grown; only they tell whether a label is to be trusted.
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
        # Every label counts the same, or the background would be all that is held.
        counts = torch.bincount(labels[held], minlength=len(log_probabilities)).float()
        shares = 1.0 / (counts.clamp_min(1.0) * (counts > 0).sum().clamp_min(1))
        at = tuple(positions[decisive].T)
        shares = shares * _trust(labels[at], asked[decisive], len(log_probabilities), config.anchor_trust)
        return cls(log_probabilities, held * shares[labels])

    def divergence(self, logits: Tensor) -> Tensor:
        """Give the weighted mean divergence of a prediction, (1, labels, *patch) class logits, from the held one."""
        now = logits[0].float().log_softmax(dim=0)
        distance = (self.log_probabilities.exp() * (self.log_probabilities - now)).sum(dim=0)
        return (distance * self.weights).sum()


def _trust(predicted: Tensor, asked: Tensor, labels: int, pixels: float) -> Tensor:
    """Tell from scribbled pixels, (n,) int64 each, how often every label is predicted rightly: (labels,) in (0, 1].

    It begins as if so many `pixels` of each label had been found right.
    """
    total = torch.bincount(predicted, minlength=labels) + pixels
    right = torch.bincount(predicted[predicted == asked], minlength=labels) + pixels
    return right / total
