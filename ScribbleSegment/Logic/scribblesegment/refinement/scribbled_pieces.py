"""The scribbled pixels of an image, as the windows that see them predict them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.anchor import Anchor
from scribblesegment.refinement.feature_cache import FeatureCache
from scribblesegment.refinement.lagrangian import Agreement, RefinementConfig, agreement, constraint_loss
from scribblesegment.refinement.outputs import Output, log_likelihood
from scribblesegment.refinement.split_network import Features, SplitNetwork, Weights

# Pretrained predictions of windows are kept up to this size; those beyond are computed again in every iteration.
_ANCHOR_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Piece:
    """A window and the scribbled pixels in it.

    Attributes:
        features: Gives what the refined layers need of the window.
        positions: (n, ndim) int64, the pixels' places in the network's output.
        rows: (n,) int64, which of the image's scribbled pixels they are.
        shares: (n,) float32, what the window's prediction counts at each of them; over all windows they sum to 1.
    """

    features: Callable[[], Features]
    positions: Tensor
    rows: Tensor
    shares: Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """What the scribbles ask for.

    Attributes:
        labels: (n,) int64, of the scribbled pixels.
        decisive: (n,) bool: those that were drawn, which must be followed. The others were grown from them: they count
            in the loss only, because some of them are wrong.
    """

    labels: Tensor
    decisive: Tensor


class ScribbledPieces:
    """The constraints of an image: scribbled pixels whose class logits are blended from the windows that see them.

    The memory of an iteration is that of one window: with several, each is run twice, first for its prediction, and
    again, once all are known, for its part of the gradient.
    """

    def __init__(
        self,
        network: SplitNetwork,
        pieces: Sequence[Piece],
        asked: Asked,
        output: Output,
        config: RefinementConfig,
        *,
        start: Weights,
        known_labels: int,
    ) -> None:
        """Take the pieces.

        Args:
            network: The split network.
            pieces: Every window that sees a scribbled pixel.
            asked: What the scribbles ask for.
            output: How the network's channels are labels.
            config: How the constraint is posed.
            start: Weights whose prediction is held where nothing was drawn.
            known_labels: Number of the labels that the network was trained for.
        """
        self._network = network
        self._pieces = tuple(pieces)
        self._asked = asked
        self._output = output
        self._config = config
        self._start, self._known_labels = start, known_labels
        self._anchors = FeatureCache(self._anchor_of, _ANCHOR_BYTES)
        if len(self._pieces) == 1:
            # One window's features are needed in every iteration as they are; those of many are converted as they come.
            (piece,) = self._pieces
            features = self._converted(piece.features())
            self._pieces = (replace(piece, features=lambda: features),)

    def evaluate(self, weights: Weights) -> tuple[Agreement, Callable[[float], None]]:
        """Predict the scribbled pixels; see `lagrangian.Problem`."""
        if len(self._pieces) == 1:
            return self._evaluate_one(weights, self._pieces[0])
        parts = []
        for piece in self._pieces:
            with torch.no_grad():
                parts.append(self._rows(self._class_logits(weights, piece), piece) * piece.shares[:, None])
        blended = parts[0].new_zeros((len(self._asked.labels), parts[0].shape[1]))
        for piece, part in zip(self._pieces, parts, strict=True):
            blended.index_add_(0, piece.rows, part)
        found = agreement(blended, self._asked.labels, self._asked.decisive)
        return found, functools.partial(self._add_gradient_of_all, weights, blended, found)

    def _evaluate_one(self, weights: Weights, piece: Piece) -> tuple[Agreement, Callable[[float], None]]:
        logits = self._class_logits(weights, piece)
        rows = self._rows(logits, piece)
        found = agreement(rows, self._asked.labels, self._asked.decisive)

        def add_gradient(factor: float) -> None:
            if self._takes_whole_image:
                loss = found.g * _mean_likelihood(logits)
            else:
                loss = constraint_loss(rows, self._asked.labels, found, self._config)
            (factor * loss + self._held(0, logits)).backward()

        return found, add_gradient

    def _add_gradient_of_all(self, weights: Weights, blended: Tensor, found: Agreement, factor: float) -> None:
        count = len(self._pieces)
        leaf = blended.detach().requires_grad_()
        if not self._takes_whole_image:
            (factor * constraint_loss(leaf, self._asked.labels, found, self._config)).backward()
        for number, piece in enumerate(self._pieces):
            logits = self._class_logits(weights, piece)
            loss = self._held(number, logits) / count
            if leaf.grad is None:
                loss = loss + factor * found.g / count * _mean_likelihood(logits)
            else:
                # The sum of gradient times logits has, for its gradient, that of the blended prediction's loss.
                gradient = leaf.grad[piece.rows] * piece.shares[:, None]
                loss = loss + (self._rows(logits, piece) * gradient).sum()
            loss.backward()

    @property
    def _takes_whole_image(self) -> bool:
        return self._config.objective == "likelihood" and self._config.likelihood == "image"

    def _held(self, number: int, logits: Tensor) -> Tensor:
        """Give a piece's weighted divergence from the pretrained prediction where nothing was drawn."""
        if self._config.anchor == 0:
            return logits.new_zeros(())
        return self._config.anchor * Anchor(*self._anchors.get(number)).divergence(logits)

    def _anchor_of(self, number: int) -> Features:
        """Compute the two tensors of a piece's anchor; they do not change from one iteration to the next."""
        piece = self._pieces[number]
        with torch.no_grad():
            pretrained = self._class_logits(self._start, piece)
        asked = self._asked.labels[piece.rows], self._asked.decisive[piece.rows]
        anchor = Anchor.of(pretrained, piece.positions, *asked, self._known_labels, self._config)
        return anchor.log_probabilities, anchor.weights

    def _class_logits(self, weights: Weights, piece: Piece) -> Tensor:
        features = self._converted(piece.features())
        if self._config.precision == "bfloat16":
            weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
        values = self._network.run(weights, features).float()
        if torch.is_grad_enabled() and not values.requires_grad and any(map(_requires_grad, weights.values())):
            raise NetworkError(
                "The network's output has no gradient with respect to the refined layers: something behind them, such "
                "as a threshold, cannot be differentiated. Take the logits before it."
            )
        return self._output.class_logits(values)

    def _converted(self, features: Features) -> Features:
        return in_bfloat16(features) if self._config.precision == "bfloat16" else features

    @staticmethod
    def _rows(logits: Tensor, piece: Piece) -> Tensor:
        """Take the scribbled pixels' class logits, (n, labels)."""
        return logits[(0, slice(None), *piece.positions.T)].T


def _requires_grad(tensor: Tensor) -> bool:
    return tensor.requires_grad


def runs_in_bfloat16(network: SplitNetwork, features: Features) -> bool:
    """Try whether the refined layers compute in bfloat16; constants of the network in float32 may forbid it."""
    weights = {name: tensor.bfloat16() for name, tensor in network.pretrained.items()}
    try:
        with torch.no_grad():
            return bool(torch.isfinite(network.run(weights, in_bfloat16(features))).all())
    except RuntimeError:
        return False


def in_bfloat16(features: Features) -> Features:
    """Convert features, with the channels last: with both, convolutions are several times as fast."""
    return tuple(_channels_last(tensor.bfloat16()) if tensor.is_floating_point() else tensor for tensor in features)


def _channels_last(tensor: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats.get(tensor.ndim, torch.contiguous_format))


def _mean_likelihood(logits: Tensor) -> Tensor:
    """Psi over the whole image: the mean log-likelihood of the prediction, (1, labels, *spatial) to a number."""
    rows = logits[0].flatten(1).T.float()
    return log_likelihood(rows, rows.detach().argmax(dim=1)).mean()
