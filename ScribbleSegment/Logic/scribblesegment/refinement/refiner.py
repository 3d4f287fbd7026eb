"""One network and one image: the prediction, and its refinement by scribbles, as often as the user likes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from scribblesegment import checks
from scribblesegment.devices import best_thread_count, computes_bfloat16, limited_threads
from scribblesegment.exceptions import CancelledError, ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.label_scribbles import UNMARKED, LabelScribbles
from scribblesegment.refinement.feature_cache import FeatureCache
from scribblesegment.refinement.lagrangian import Optimum, RefinementConfig, minimise
from scribblesegment.refinement.new_labels import require_labels, samples_at_head, with_new_labels
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.prepared_network import memory_errors, prepare_network
from scribblesegment.refinement.scribbled_pieces import Asked, Piece, ScribbledPieces, runs_in_bfloat16
from scribblesegment.refinement.split_network import Weights
from scribblesegment.refinement.tiling import Tiling

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
        checks.same_shape(scribbles.labels.shape, self.tiling.shape, name="scribbles", error=PromptError)
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
        checks.same_shape(grown.shape, scribbles.shape, name="grown", reference="the scribbles", error=PromptError)
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
