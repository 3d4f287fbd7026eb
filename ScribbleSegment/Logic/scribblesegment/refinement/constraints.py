"""The constraints of an image: what its scribbles ask of the refined layers, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.lagrangian import (
    Agreement,
    Anchor,
    RefinementConfig,
    agreement,
    constraint_loss,
    image_loss,
)
from scribblesegment.refinement.network_graph import Features, SplitNetwork, Weights
from scribblesegment.refinement.outputs import Output

# Pretrained predictions of windows with scribbles are kept up to this size, for one refinement.
_ANCHOR_BYTES = 1 << 30


class FeatureCache:
    """Computes tensors of windows when they are first needed, and keeps them up to a size.

    Windows with scribbles are needed in every iteration, the others once a round: where not all fit, the former stay.
    """

    def __init__(self, compute: Callable[[int], Features], limit_bytes: int) -> None:
        self._compute = compute
        self._limit = limit_bytes
        self._kept: dict[int, Features] = {}
        self._preferred: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Size of what is kept."""
        return sum(map(_size, self._kept.values()))

    def prefer(self, windows: Iterable[int]) -> None:
        """Name the windows that others give way to."""
        self._preferred = frozenset(windows)

    def get(self, window: int) -> Features:
        """Give a window's tensors."""
        if window in self._kept:
            return self._kept[window]
        features = self._compute(window)
        excess = self.nbytes + _size(features) - self._limit
        if excess > 0 and window in self._preferred:
            for other in [kept for kept in self._kept if kept not in self._preferred]:
                if excess <= 0:
                    break
                excess -= _size(self._kept.pop(other))
        if excess <= 0:
            self._kept[window] = features
        return features


def _size(features: Features) -> int:
    return sum(tensor.nbytes for tensor in features)


@dataclass(frozen=True, eq=False)
class ScribbleTargets:
    """The labels that the scribbled pixels of an image should have."""

    labels: Tensor  # (n,) int64
    # (n,) bool: those that were drawn, which must be followed. The others were grown from them: they count in the loss
    # only, because some of them are wrong.
    decisive: Tensor


@dataclass(frozen=True, eq=False)
class WindowScribbles:
    """A window and the scribbled pixels in it."""

    features: Callable[[], Features]  # what the refined layers need of the window
    positions: Tensor  # (n, ndim) int64, the pixels' places in the network's output
    rows: Tensor  # (n,) int64, which of the image's scribbled pixels they are
    shares: Tensor  # (n,) float32, the weight of the window's prediction at each; over all windows they sum to 1


class ScribbleConstraints:
    """The constraints of an image: scribbled pixels whose class logits are blended from the windows that see them.

    The memory of an iteration is that of one window: of several, each is run twice, first for its prediction, and
    again, once all are known, for its part of the gradient.
    """

    def __init__(
        self,
        network: SplitNetwork,
        windows: Sequence[WindowScribbles],
        targets: ScribbleTargets,
        output: Output,
        config: RefinementConfig,
        *,
        start: Weights,
        known_labels: int,
    ) -> None:
        """Take every window that sees a scribbled pixel.

        The number format of `config` is decided (not "auto"). The prediction with the weights `start` is held where
        nothing was drawn; `known_labels` is the number of labels that the network was trained for.
        """
        self._network = network
        self._windows = tuple(windows)
        self._targets = targets
        self._output = output
        self._config = config
        self._start, self._known_labels = start, known_labels
        self._anchors = FeatureCache(self._anchor_of, _ANCHOR_BYTES)
        if len(self._windows) == 1:
            # One window's features are converted once; those of many are converted as they come.
            (window,) = self._windows
            features = self._converted(window.features())
            self._windows = (replace(window, features=lambda: features),)

    def evaluate(self, weights: Weights) -> tuple[Agreement, Callable[[float], None]]:
        """Predict the scribbled pixels; see `lagrangian.Evaluate`."""
        only = self._class_logits(weights, self._windows[0]) if len(self._windows) == 1 else None
        with torch.no_grad():
            parts = []
            for window in self._windows:
                logits = self._class_logits(weights, window) if only is None else only
                parts.append(_under(logits, window) * window.shares[:, None])
            blended = parts[0].new_zeros((len(self._targets.labels), parts[0].shape[1]))
            for window, part in zip(self._windows, parts, strict=True):
                blended.index_add_(0, window.rows, part)
        found = agreement(blended, self._targets.labels, self._targets.decisive)

        def add_gradient(penalty: float) -> None:
            leaf = blended.requires_grad_()
            constraint = constraint_loss(leaf, self._targets.labels, found, self._config)
            gradient = None if constraint is None else torch.autograd.grad(penalty * constraint, leaf)[0]
            for number, window in enumerate(self._windows):
                logits = self._class_logits(weights, window) if only is None else only
                loss = self._window_loss(number, logits, found, penalty)
                if gradient is not None:
                    # The sum of gradient times logits has, for its gradient, that of the blended prediction's loss.
                    scaled = gradient[window.rows] * window.shares[:, None]
                    loss = loss + (_under(logits, window) * scaled).sum()
                loss.backward()

        return found, add_gradient

    def _window_loss(self, number: int, logits: Tensor, found: Agreement, penalty: float) -> Tensor:
        """A window's part of the losses that are no matter of its scribbled pixels alone; means over the windows."""
        loss = logits.new_zeros(())
        image = image_loss(logits, found, self._config)
        if image is not None:
            loss = loss + penalty * image
        if self._config.anchor > 0:
            loss = loss + self._config.anchor * Anchor(*self._anchors.get(number)).divergence(logits)
        return loss / len(self._windows)

    def _anchor_of(self, number: int) -> Features:
        """Compute the two tensors of a window's anchor; they do not change from one iteration to the next."""
        window = self._windows[number]
        with torch.no_grad():
            pretrained = self._class_logits(self._start, window)
        targets = self._targets.labels[window.rows], self._targets.decisive[window.rows]
        anchor = Anchor.of(pretrained, window.positions, *targets, self._known_labels, self._config)
        return anchor.log_probabilities, anchor.weights

    def _class_logits(self, weights: Weights, window: WindowScribbles) -> Tensor:
        features = self._converted(window.features())
        if self._config.precision == "bfloat16":
            weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
        values = self._network.run(weights, features).float()
        trainable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in weights.values())
        if trainable and not values.requires_grad:
            raise NetworkError(
                "The network's output has no gradient with respect to the refined layers: something behind them, such "
                "as a threshold, cannot be differentiated. Take the logits before it."
            )
        return self._output.class_logits(values)

    def _converted(self, features: Features) -> Features:
        return in_bfloat16(features) if self._config.precision == "bfloat16" else features


def _under(logits: Tensor, window: WindowScribbles) -> Tensor:
    """The scribbled pixels' class logits, (n, labels), of (1, labels, *patch)."""
    return logits[(0, slice(None), *window.positions.T)].T


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
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tuple(
        tensor.bfloat16().contiguous(memory_format=formats.get(tensor.ndim, torch.contiguous_format))
        if tensor.is_floating_point()
        else tensor
        for tensor in features
    )
