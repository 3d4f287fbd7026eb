"""One network and one image: the prediction, and its refinement by scribbles, as often as the user likes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from scribblesegment.data import validation
from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.errors import CancelledError, ConfigError, GeometryError, ImageError, NetworkError, PromptError
from scribblesegment.inference.devices import best_thread_count, computes_bfloat16, limited_threads
from scribblesegment.refinement.lagrangian import (
    Agreement,
    Anchor,
    Optimum,
    RefinementConfig,
    agreement,
    constraint_loss,
    minimise,
)
from scribblesegment.refinement.network_graph import Features, SplitNetwork, Weights, memory_errors, prepare_network
from scribblesegment.refinement.new_labels import require_labels, samples_at_head, with_new_labels
from scribblesegment.refinement.outputs import Output, log_likelihood
from scribblesegment.refinement.tiling import Tiling


class FeatureCache:
    """Computes features when they are first asked for, and keeps them up to a size.

    Windows with scribbles are asked for in every iteration, the others once a round: where not all fit, the former
    stay.
    """

    def __init__(self, compute: Callable[[int], Features], limit_bytes: int) -> None:
        """Take the function that computes a window's features, and the most that may be kept."""
        self._compute = compute
        self._limit = limit_bytes
        self._held: dict[int, Features] = {}
        self._preferred: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Size of what is kept."""
        return sum(map(_size, self._held.values()))

    def prefer(self, windows: Iterable[int]) -> None:
        """Name the windows that others give way to."""
        self._preferred = frozenset(windows)

    def get(self, window: int) -> Features:
        """Give a window's features."""
        if window in self._held:
            return self._held[window]
        features = self._compute(window)
        excess = self.nbytes + _size(features) - self._limit
        if excess > 0 and window in self._preferred:
            for other in [held for held in self._held if held not in self._preferred]:
                if excess <= 0:
                    break
                excess -= _size(self._held.pop(other))
        if excess <= 0:
            self._held[window] = features
        return features


def _size(features: Features) -> int:
    return sum(tensor.nbytes for tensor in features)


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


FloatArray = NDArray[np.float32]

Progress = Callable[[float, str], None]

Cancelled = Callable[[], bool]


# Features of windows are kept for the next iteration and round up to this size; those beyond are computed again.
_CACHE_BYTES = 2 << 30


# Pixels without a scribble, in each window, that a new label is fitted to.
_UNMARKED_SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class RefinementResult:
    """What a refinement came to.

    Attributes:
        logits: float32 (labels, *spatial), class logits of the whole image with the refined weights.
        labels: int16 (*spatial), the likeliest label of every pixel; 0 is the background.
        violations: bool (*spatial), scribbled pixels whose label is not the one asked for.
        g_history: The constraint loss before the first update, and after each one.
        stopped: Why it ended: "satisfied", "iterations", "stalled" or "not finite".
        layers: Names of the refined layers.
        weights: Their weights, by name.
        seconds: How long it took, the final prediction included.
        notes: What the user should know, as sentences.
    """

    logits: FloatArray
    labels: NDArray[np.int16]
    violations: NDArray[np.bool_]
    g_history: tuple[float, ...]
    stopped: str
    layers: tuple[str, ...]
    weights: Weights = field(repr=False)
    seconds: float
    notes: tuple[str, ...]

    @property
    def iterations(self) -> int:
        """Number of updates of the weights."""
        return len(self.g_history) - 1

    @property
    def satisfied(self) -> bool:
        """Whether the result follows every scribble."""
        return not self.violations.any()


class Refiner:
    """Refines a network for one image.

    What lies before the refined layers is computed once; rounds of scribbles share it. Every refinement begins with the
    pretrained weights, and the network that was given is never changed.

    Attributes:
        config: How it refines.
        tiling: How the network sees the image.
        layers: Names of all the network's layers, in the order in which they run.
        label_count: Number of the network's labels, the background included.
        notes: What the user should know about the network, as sentences.
    """

    def __init__(
        self,
        network: nn.Module,
        image: Tensor | NDArray[Any],
        *,
        config: RefinementConfig | None = None,
        tiling: Tiling | None = None,
        output: Output | None = None,
        device: str = "cpu",
    ) -> None:
        """Take a network and an image.

        Args:
            network: Maps (1, C, *patch) to logits (1, K, *patch). Every part of it must be differentiable behind the
                refined layers.
            image: float32 (C, H, W) or (C, D, H, W), normalised as the network expects it.
            config: How to refine; the defaults of `RefinementConfig`.
            tiling: How the network sees the image; all of it at once if not given.
            output: What the network's output means.
            device: A torch device name.

        Raises:
            ImageError: No image, or NaN or infinite values.
            GeometryError: The tiling is for an image of another shape.
            NetworkError: The network cannot run on the image, or not be refined.
            DeviceError: Out of memory.
        """
        values = _checked_image(image)
        self.config = config or RefinementConfig()
        self.tiling = tiling or Tiling.whole(tuple(values.shape[1:]))
        if self.tiling.shape != tuple(values.shape[1:]):
            raise GeometryError(
                f"The tiling is for an image of {self.tiling.shape}, the image has {tuple(values.shape[1:])}."
            )
        self._device = device
        self._padded = self.tiling.padded(values)
        example = self._window(0)
        self._network, self._output, self.label_count, self.notes = prepare_network(
            network, example, output or Output()
        )
        self.layers = tuple(layer.name for layer in self._network.layers)
        self._split = self._network.split(self.config.layers)
        self._features = FeatureCache(lambda index: self._split.features(self._window(index)), _CACHE_BYTES)

    def infer(self, *, progress: Progress | None = None, cancelled: Cancelled | None = None) -> FloatArray:
        """Predict the image with the pretrained weights: float32 class logits (labels, *spatial).

        Raises:
            CancelledError: `cancelled` said so.
            DeviceError: Out of memory.
        """
        with memory_errors(self._device):
            return self._whole_image(self._split.pretrained, self.label_count, progress, cancelled)

    def refine(
        self,
        scribbles: LabelScribbles,
        *,
        grown: LabelScribbles | None = None,
        new_labels: bool = False,
        on_iteration: Callable[[int, float], None] | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> RefinementResult:
        """Refine the network until its prediction follows the scribbles, and predict the image with it.

        Args:
            scribbles: Of the image's shape; all that were drawn so far, not only the newest.
            grown: The scribbles with the pixels that region growing added to them. These are learnt from, but whether
                the result follows them decides nothing: to make them constraints, pass them as `scribbles`.
            new_labels: Whether labels that the network lacks are added to it.
            on_iteration: Told the number of updates so far and g; g = 0 is the aim.
            progress: Told the fraction done and what is being done.
            cancelled: Asked in every iteration and for every window.

        Raises:
            PromptError: No scribbles, of another shape, or of labels that the network lacks.
            NetworkError: A label cannot be added to this network.
            CancelledError: `cancelled` said so.
            DeviceError: Out of memory.
        """
        began = time.perf_counter()
        self._check_scribbles(scribbles, new_labels)
        marks = scribbles if grown is None else self._joined(scribbles, grown)
        positions = np.argwhere(marks.marked)
        index = tuple(positions.T)
        asked = Asked(
            torch.from_numpy(marks.labels[index].astype(np.int64)).to(self._device),
            torch.from_numpy(scribbles.marked[index]).to(self._device),
        )
        with memory_errors(self._device), limited_threads(self._thread_count):
            pieces = self._pieces(positions)
            start, labels = self._split.pretrained, max(self.label_count, int(asked.labels.max()) + 1)
            if labels > self.label_count:
                start = self._with_new_labels(pieces, asked.labels, labels)
            optimum = self._minimised(pieces, asked, start, on_iteration, cancelled)
            logits = self._whole_image(optimum.weights, labels, progress, cancelled)
        predicted = np.asarray(logits.argmax(axis=0), dtype=np.int16)
        return RefinementResult(
            logits=logits,
            labels=predicted,
            violations=scribbles.marked & (predicted != scribbles.labels),
            g_history=optimum.g_history,
            stopped=optimum.stopped,
            layers=tuple(layer.name for layer in self._split.layers),
            weights=optimum.weights,
            seconds=time.perf_counter() - began,
            notes=self.notes,
        )

    def _minimised(
        self,
        pieces: list[Piece],
        asked: Asked,
        start: Weights,
        on_iteration: Callable[[int, float], None] | None,
        cancelled: Cancelled | None,
    ) -> Optimum:
        def posed(config: RefinementConfig) -> ScribbledPieces:
            return ScribbledPieces(
                self._split, pieces, asked, self._output, config, start=start, known_labels=self.label_count
            )

        def run(config: RefinementConfig, weights: Weights, before: tuple[float, ...]) -> Optimum:
            optimum = minimise(
                posed(config),
                start,
                config,
                start=weights,
                on_iteration=None if on_iteration is None else lambda count, g: on_iteration(count + len(before), g),
                cancelled=cancelled,
            )
            if optimum.stopped == "cancelled":
                raise CancelledError("The refinement was cancelled; the result is as it was before.")
            return replace(optimum, g_history=before + optimum.g_history)

        config = replace(self.config, precision=self._precision(pieces[0]))
        optimum = run(config, start, ())
        if config.precision == "float32" or optimum.stopped != "satisfied":
            return optimum
        # What holds in bfloat16 need not hold in float32, in which the result is computed: there it is finished.
        exact = replace(config, precision="float32", settle=0)
        with torch.no_grad():
            found, _ = posed(exact).evaluate(optimum.weights)
        left = config.iterations - optimum.iterations
        if found.g == 0:
            return optimum
        if left < 1:
            return replace(optimum, g_history=(*optimum.g_history[:-1], found.g), stopped="iterations")
        return run(replace(exact, iterations=left), optimum.weights, optimum.g_history[:-1])

    def _precision(self, piece: Piece) -> str:
        """Decide in which number format iterations run."""
        wanted = self.config.precision
        if wanted == "auto":
            wanted = "bfloat16" if computes_bfloat16(self._device) else "float32"
        return wanted if wanted == "float32" or runs_in_bfloat16(self._split, piece.features()) else "float32"

    def _with_new_labels(self, pieces: list[Piece], asked: Tensor, labels: int) -> Weights:
        """Enlarge the last convolution until the network has so many labels."""
        head = self._split.head
        patch = tuple(side for axis, side in enumerate(self.tiling.patch_size) if axis != self.tiling.slice_axis)
        rows, raws, wanted = [], [], []
        for piece in pieces:
            drawn = torch.randint(
                0, int(np.prod(patch)), (_UNMARKED_SAMPLES,), generator=torch.Generator().manual_seed(0)
            )
            unmarked = torch.stack(torch.unravel_index(drawn, patch), dim=1).to(self._device)
            at = torch.cat([piece.positions, unmarked])
            row, raw = samples_at_head(head, self._split.pretrained, piece.features(), at, patch)
            rows.append(row)
            raws.append(raw)
            wanted.append(torch.cat([asked[piece.rows], asked.new_full((len(unmarked),), -1)]))
        samples = (torch.cat(rows), torch.cat(raws), torch.cat(wanted))
        enlarged = with_new_labels(head, self._split.pretrained, *samples, self._output, self.label_count)
        with torch.no_grad():
            require_labels(self._split, enlarged, pieces[0].features(), self._output, labels)
        return enlarged

    def _check_scribbles(self, scribbles: LabelScribbles, new_labels: bool) -> None:
        validation.same_shape(scribbles.labels.shape, self.tiling.shape, name="scribbles", error=PromptError)
        if scribbles.is_empty:
            raise PromptError("There are no scribbles. Mark at least one pixel with the label that it should have.")
        lacking = [label for label in scribbles.values() if label >= self.label_count]
        if lacking and not new_labels:
            raise PromptError(
                f"The scribbles ask for labels {', '.join(map(str, lacking))}, the network knows 0 to "
                f"{self.label_count - 1}. Allow new labels, or draw with the network's."
            )
        if lacking and lacking != list(range(self.label_count, self.label_count + len(lacking))):
            raise PromptError(
                f"The new labels are {', '.join(map(str, lacking))}; number them from {self.label_count} on, without "
                "gaps."
            )

    @staticmethod
    def _joined(scribbles: LabelScribbles, grown: LabelScribbles) -> LabelScribbles:
        """Put scribbles over what grew from them, and leave out what grew to labels that nobody drew."""
        validation.same_shape(grown.shape, scribbles.shape, name="grown", reference="the scribbles", error=PromptError)
        kept = np.where(np.isin(grown.labels, scribbles.values()), grown.labels, UNMARKED)
        return LabelScribbles.from_labels(np.where(scribbles.marked, scribbles.labels, kept))

    @functools.cached_property
    def _thread_count(self) -> int | None:
        """Threads that are worth it beside what else runs here; None for torch's own number."""
        if torch.device(self._device).type != "cpu" or torch.get_num_threads() == 1:
            return None
        return best_thread_count(lambda: self._class_logits(self._split.pretrained, 0))

    @functools.cached_property
    def _window_weights(self) -> Tensor:
        return self.tiling.weights()

    def _pieces(self, positions: NDArray[np.int64]) -> list[Piece]:
        """Find what every window sees of the scribbled pixels, (n, ndim)."""
        weights = self._window_weights.numpy()
        offset = np.asarray(self.tiling.offset)
        seen = []
        total = np.zeros(len(positions), dtype=np.float64)
        for index, rows in self.tiling.touched(positions):
            starts = np.array([part.start for part in self.tiling.windows[index]])
            local = positions[rows] + offset - starts
            share = weights[tuple(local.T)]
            total[rows] += share
            seen.append((index, rows, local, share))
        self._features.prefer(index for index, *_ in seen)
        kept = [axis for axis in range(positions.shape[1]) if axis != self.tiling.slice_axis]
        return [
            Piece(
                functools.partial(self._features.get, index),
                torch.from_numpy(local[:, kept]).to(self._device),
                torch.from_numpy(rows).to(self._device),
                torch.from_numpy((share / total[rows]).astype(np.float32)).to(self._device),
            )
            for index, rows, local, share in seen
        ]

    def _window(self, index: int) -> Tensor:
        return self.tiling.cut(self._padded, index).to(self._device)

    def _class_logits(self, weights: Weights, index: int) -> Tensor:
        with torch.no_grad():
            return self._output.class_logits(self._split.run(weights, self._features.get(index))).float()

    def _whole_image(
        self, weights: Weights, labels: int, progress: Progress | None, cancelled: Cancelled | None
    ) -> FloatArray:
        """Predict every window and blend them."""
        count = len(self.tiling.windows)
        share = self._window_weights
        blended, total = torch.zeros((labels, *self.tiling.padded_shape)), torch.zeros(self.tiling.padded_shape)
        for index, window in enumerate(self.tiling.windows):
            if cancelled is not None and cancelled():
                raise CancelledError("The prediction was cancelled; the result is as it was before.")
            part = self.tiling.placed(self._class_logits(weights, index)).cpu()
            blended[(slice(None), *window)] += part * share
            total[window] += share
            if progress is not None:
                progress((index + 1) / count, "Predicting")
        return np.ascontiguousarray(self.tiling.cropped(blended / total).numpy(), dtype=np.float32)


def refine(
    network: nn.Module,
    image: Tensor | NDArray[Any],
    scribbles: LabelScribbles | ArrayLike,
    *,
    config: RefinementConfig | None = None,
    tiling: Tiling | None = None,
    output: Output | None = None,
    device: str = "cpu",
    grown: LabelScribbles | None = None,
    new_labels: bool = False,
    on_iteration: Callable[[int, float], None] | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    **options: Any,
) -> RefinementResult:
    """Correct a network's prediction of an image by scribbles; see `Refiner`, which also keeps what rounds share.

    Args:
        network: See `Refiner`.
        image: See `Refiner`.
        scribbles: What was drawn, or an array of labels with -1 where nothing was.
        config: How to refine.
        tiling: See `Refiner`.
        output: See `Refiner`.
        device: See `Refiner`.
        grown: See `Refiner.refine`.
        new_labels: See `Refiner.refine`.
        on_iteration: See `Refiner.refine`.
        progress: See `Refiner.refine`.
        cancelled: See `Refiner.refine`.
        **options: Fields of `RefinementConfig` that replace those of `config`, as `layers=4`.

    Raises:
        ConfigError: There is no such option, or its value is refused.
        ScribbleSegmentError: See `Refiner` and `Refiner.refine`.
    """
    known = {entry.name for entry in fields(RefinementConfig)}
    if not set(options) <= known:
        unknown = ", ".join(sorted(set(options) - known))
        raise ConfigError(f"refine has no option {unknown}; those of RefinementConfig are {', '.join(sorted(known))}.")
    chosen = replace(config or RefinementConfig(), **options)
    marks = scribbles if isinstance(scribbles, LabelScribbles) else LabelScribbles.from_labels(scribbles)
    refiner = Refiner(network, image, config=chosen, tiling=tiling, output=output, device=device)
    return refiner.refine(
        marks,
        grown=grown,
        new_labels=new_labels,
        on_iteration=on_iteration,
        progress=progress,
        cancelled=cancelled,
    )


def _checked_image(image: Tensor | NDArray[Any]) -> Tensor:
    values = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ImageError(
            f"The network's input has shape {tuple(values.shape)}; give (channels, H, W) or (channels, D, H, W)."
        )
    values = values.detach().to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ImageError("The network's input holds NaN or infinite values. Normalise the image first.")
    return values
