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

from scribblesegment.data import validation
from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.errors import CancelledError, ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.inference.devices import best_thread_count, computes_bfloat16, limited_threads
from scribblesegment.refinement.constraints import (
    FeatureCache,
    ScribbleConstraints,
    ScribbleTargets,
    WindowScribbles,
    runs_in_bfloat16,
)
from scribblesegment.refinement.lagrangian import Optimum, RefinementConfig, minimise
from scribblesegment.refinement.network_graph import Weights, memory_errors, prepare_network
from scribblesegment.refinement.new_labels import require_labels, samples_at_head, with_new_labels
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

Progress = Callable[[float, str], None]  # fraction done, and what is being done

Cancelled = Callable[[], bool]

# Features of windows are kept for the next iteration and round up to this size; those beyond are computed again.
_CACHE_BYTES = 2 << 30

# Pixels without a scribble, in each window, that a new label is fitted to.
_UNMARKED_SAMPLES = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class Refined:
    """What a refinement came to, on the network's grid or on the image."""

    labels: NDArray[np.int16]  # (*spatial), the likeliest label of every pixel; 0 is the background
    violations: NDArray[np.bool_]  # (*spatial), scribbled pixels that have another label
    g_history: tuple[float, ...]  # the constraint loss before the first update, and after each one
    stopped: str  # "satisfied", "iterations", "stalled" or "not finite"
    seconds: float  # the final prediction included
    notes: tuple[str, ...]  # what the user should know, as sentences

    @property
    def iterations(self) -> int:
        """Number of updates of the weights."""
        return len(self.g_history) - 1

    @property
    def satisfied(self) -> bool:
        """Whether the result follows every scribble."""
        return not self.violations.any()


@dataclass(frozen=True, eq=False, kw_only=True)
class RefinementResult(Refined):
    """What the refinement of a network came to for its own input."""

    logits: NDArray[np.float32]  # (labels, *spatial), class logits of the whole image with the refined weights
    layers: tuple[str, ...]  # names of the refined layers
    weights: Weights = field(repr=False)  # their weights, by name


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
        prepared = prepare_network(network, self._window(0), output or Output())
        self._network, self._output, self.label_count, self.notes = prepared
        self.layers = tuple(layer.name for layer in self._network.layers)
        self._split = self._network.split(self.config.layers)
        self._features = FeatureCache(lambda index: self._split.features(self._window(index)), _CACHE_BYTES)

    def infer(self, *, progress: Progress | None = None, cancelled: Cancelled | None = None) -> NDArray[np.float32]:
        """Predict the image with the pretrained weights: float32 class logits (labels, *spatial).

        Raises:
            CancelledError: `cancelled` returned True.
            DeviceError: Out of memory.
        """
        with memory_errors(self._device):
            return self._predicted_image(self._split.pretrained, self.label_count, progress, cancelled)

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
            on_iteration: Called with the number of updates so far and g; g = 0 is the aim.
            progress: Called with the fraction done and what is being done.
            cancelled: Called in every iteration and for every window; True ends it.

        Raises:
            PromptError: No scribbles, of another shape, or of labels that the network lacks.
            NetworkError: A label cannot be added to this network.
            CancelledError: `cancelled` returned True.
            DeviceError: Out of memory.
        """
        began = time.perf_counter()
        self._check_scribbles(scribbles, new_labels)
        marks = scribbles.labels
        if grown is not None:
            validation.same_shape(
                grown.shape, scribbles.shape, name="grown", reference="the scribbles", error=PromptError
            )
            # Scribbles lie over what grew from them; what grew to labels that nobody drew is left out.
            kept = np.where(np.isin(grown.labels, scribbles.values()), grown.labels, UNMARKED)
            marks = np.where(scribbles.marked, scribbles.labels, kept)
        positions = np.argwhere(marks != UNMARKED)
        index = tuple(positions.T)
        targets = ScribbleTargets(
            torch.from_numpy(marks[index].astype(np.int64)).to(self._device),
            torch.from_numpy(scribbles.marked[index]).to(self._device),
        )
        with memory_errors(self._device), limited_threads(self._thread_count):
            windows = self._windows_with(positions)
            start, labels = self._split.pretrained, max(self.label_count, int(targets.labels.max()) + 1)
            if labels > self.label_count:
                start = self._with_new_labels(windows, targets.labels, labels)
            optimum = self._minimised(windows, targets, start, on_iteration, cancelled)
            logits = self._predicted_image(optimum.weights, labels, progress, cancelled)
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
        windows: list[WindowScribbles],
        targets: ScribbleTargets,
        start: Weights,
        on_iteration: Callable[[int, float], None] | None,
        cancelled: Cancelled | None,
    ) -> Optimum:
        def posed(config: RefinementConfig) -> ScribbleConstraints:
            return ScribbleConstraints(
                self._split, windows, targets, self._output, config, start=start, known_labels=self.label_count
            )

        config = replace(self.config, precision=self._precision(windows[0]))
        optimum = minimise(posed(config).evaluate, start, config, on_iteration=on_iteration, cancelled=cancelled)
        if config.precision == "float32" or optimum.stopped != "satisfied":
            return optimum
        # What holds in bfloat16 need not hold in float32, in which the result is computed: there it is finished.
        exact = posed(replace(config, precision="float32"))
        with torch.no_grad():
            found, _ = exact.evaluate(optimum.weights)
        if found.g == 0:
            return optimum
        before = optimum.g_history[:-1]
        left = config.iterations - len(before)
        if left < 1:
            return replace(optimum, g_history=(*before, found.g), stopped="iterations")

        def counted(count: int, g: float) -> None:
            if on_iteration is not None:
                on_iteration(count + len(before), g)

        rest = replace(config, precision="float32", settle=0, iterations=left)
        finished = minimise(
            exact.evaluate, start, rest, start=optimum.weights, on_iteration=counted, cancelled=cancelled
        )
        return replace(finished, g_history=before + finished.g_history)

    def _precision(self, window: WindowScribbles) -> str:
        """Decide in which number format iterations run."""
        wanted = self.config.precision
        if wanted == "auto":
            wanted = "bfloat16" if computes_bfloat16(self._device) else "float32"
        return wanted if wanted == "float32" or runs_in_bfloat16(self._split, window.features()) else "float32"

    def _with_new_labels(self, windows: list[WindowScribbles], targets: Tensor, labels: int) -> Weights:
        """Enlarge the last convolution until the network has so many labels."""
        head = self._split.head
        patch = self.tiling.network_patch
        rows, raws, wanted = [], [], []
        for window in windows:
            drawn = torch.randint(
                0, int(np.prod(patch)), (_UNMARKED_SAMPLES,), generator=torch.Generator().manual_seed(0)
            )
            unmarked = torch.stack(torch.unravel_index(drawn, patch), dim=1).to(self._device)
            at = torch.cat([window.positions, unmarked])
            row, raw = samples_at_head(head, self._split.pretrained, window.features(), at, patch)
            rows.append(row)
            raws.append(raw)
            wanted.append(torch.cat([targets[window.rows], targets.new_full((len(unmarked),), UNMARKED)]))
        samples = torch.cat(rows), torch.cat(raws), torch.cat(wanted)
        enlarged = with_new_labels(head, self._split.pretrained, *samples, self._output, self.label_count)
        require_labels(self._split, enlarged, windows[0].features(), self._output, labels)
        return enlarged

    def _check_scribbles(self, scribbles: LabelScribbles, new_labels: bool) -> None:
        validation.same_shape(scribbles.shape, self.tiling.shape, name="scribbles", error=PromptError)
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

    @functools.cached_property
    def _thread_count(self) -> int | None:
        """Threads that are worth it beside what else runs here; None for torch's own number."""
        if torch.device(self._device).type != "cpu" or torch.get_num_threads() == 1:
            return None
        return best_thread_count(lambda: self._class_logits(self._split.pretrained, 0))

    @functools.cached_property
    def _window_weights(self) -> Tensor:
        return self.tiling.weights()

    def _windows_with(self, positions: NDArray[np.int64]) -> list[WindowScribbles]:
        """Find what every window sees of the scribbled pixels, (n, ndim)."""
        weights = self._window_weights.numpy()
        seen = [(index, rows, local, weights[tuple(local.T)]) for index, rows, local in self.tiling.touched(positions)]
        total = np.zeros(len(positions), dtype=np.float64)
        for _, rows, _, share in seen:
            total[rows] += share
        self._features.prefer(index for index, *_ in seen)
        kept = [axis for axis in range(positions.shape[1]) if axis != self.tiling.slice_axis]
        return [
            WindowScribbles(
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

    def _predicted_image(
        self, weights: Weights, labels: int, progress: Progress | None, cancelled: Cancelled | None
    ) -> NDArray[np.float32]:
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
    """Correct a network's prediction of an image by scribbles, once; `Refiner` keeps what several rounds share.

    `scribbles` may be an array of labels with -1 where nothing was drawn, and `options` are fields of
    `RefinementConfig` that replace those of `config`, as `layers=4`. All other arguments, and the errors, are those of
    `Refiner` and `Refiner.refine`; an unknown option is a ConfigError.
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
