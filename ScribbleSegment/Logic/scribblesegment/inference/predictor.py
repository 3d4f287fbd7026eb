"""From an image and prompts to logits: the one door to the interactive networks.

`Predictor.set_image` and `set_context` take what predictions are about; `predict` is the hot path that runs after every
stroke. A network sees the whole slice first, then, in a zoom pass at finer pixels, the part around prompts and
prediction.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scribblesegment.context.context_set import ContextSet, same_entries
from scribblesegment.data import validation
from scribblesegment.data.geometry import Box2D
from scribblesegment.data.masks import bounding_box, changed_bbox, logits_to_mask
from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid, crop_prompts, focus_view
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import CancelledError, ConfigError, PromptError
from scribblesegment.inference.devices import (
    ExecutionPlan,
    compute,
    prepare,
    resolve_device,
    run,
    torch_problem,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scribblesegment.weights.checkpoints import NetworkDescription

FloatArray = NDArray[np.float32]

# Logits outside of a region that has no earlier prediction: background, beyond doubt but finite.
_OUTSIDE_LOGIT = -20.0

# From fewer entries UniverSeg's prediction is worse than none to begin with (MultiverSeg, section 5.4 and figure 15).
_LEAST_CONTEXT = 5

# Slices of more pixels are worked on where the structure may be: their image is normalised as it is read, and cells
# below this logit (a probability of 2 %) are not resampled: all their pixels get the mean of them.
_LARGE_PIXELS, _SURELY_OUTSIDE_LOGIT = 1 << 22, -4.0

# Where cells of the whole slice are so many pixels wide, prompts no larger than so many cells are looked at closely
# first; what is found there must differ by so many standard deviations from its surroundings.
_COARSE, _SMALL_CELLS, _EDGE = 2.5, 3.0, 1.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """Result of one `Predictor.predict`."""

    logits: FloatArray  # (H, W), unthresholded, on the slice's own pixels; calibrated by the network's temperature
    grid_logits: FloatArray  # (size, size), those of the first pass on the network's grid
    # Half-open ((row_start, row_stop), (column_start, column_stop)): where the mask at threshold 0.5 differs from the
    # previous prediction's (from an empty mask before the first); None if nowhere.
    changed_bbox: Box2D | None
    focus: Box2D | None = None  # the region of the zoom pass, if there was one

    def probabilities(self) -> FloatArray:
        """Give the probability of each pixel, float32 (H, W) in [0, 1]."""
        return np.asarray(expit(self.logits), np.float32)

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Give the pixels whose probability exceeds a threshold in (0, 1), bool (H, W)."""
        return logits_to_mask(self.logits, threshold)


class Network:
    """A network on its device, run in the fastest way, and what has to be known to use it.

    `Predictor` calls the four methods alone: a network of another kind, such as one that encodes an image once and each
    entry of a context by itself, comes with methods of its own.
    """

    # Side of a cell in pixels, at least, in the first pass over a slice without a context; half of it in a zoom pass.
    least_cell = 0.0

    def __init__(
        self,
        module: Any,
        *,
        capabilities: Sequence[str] = ("scribbles", "clicks", "boxes"),
        size: int = 128,
        focus_size: int = 0,
        temperature: float = 1.0,
        device: str = "auto",
        plan: ExecutionPlan | None = None,
        name: str = "",
    ) -> None:
        """Bring a module to a device.

        Args:
            module: Maps (B, 5, H, W) to logits (B, 1, H, W); channels as in `scribblesegment.models.encoding`.
            capabilities: Prompts it understands; "context" for an `InContextNetwork`.
            size: Side of its grid in pixels.
            focus_size: Side of the largest grid of a zoom pass, at least `size`; 0 for none, as for networks that were
                not trained to take one.
            temperature: What its logits are divided by, so that probabilities mean something (Guo et al. 2017).
                Predictions, and what is fed back, are calibrated logits.
            device: "auto" or a torch device name.
            plan: How to run it; the usual way when not given.
            name: What it is called.

        Raises:
            ConfigError: The focus size is neither 0 nor at least `size`, or the temperature not positive and finite.
            DeviceError: The device cannot run a network.
        """
        if focus_size != 0 and focus_size < size:
            raise ConfigError(f"focus_size is 0 or at least the size of the grid, {size}; got {focus_size}.")
        if not 0.0 < temperature < math.inf:
            raise ConfigError(f"temperature is a positive finite number, got {temperature}.")
        self.capabilities = frozenset(capabilities)
        self.size, self.focus_size, self.temperature, self.name = size, focus_size, temperature, name
        self._make_ready(module, device, plan)

    def _make_ready(self, module: Any, device: str, plan: ExecutionPlan | None) -> None:
        """Bring the module to its device."""
        self.module = module.eval()
        self.plan = plan or ExecutionPlan.usual(resolve_device(device))
        self._prepared: Any = prepare(self.module, self.plan)

    @classmethod
    def described(
        cls,
        module: Any,
        description: NetworkDescription,
        *,
        device: str = "auto",
        plan: ExecutionPlan | None = None,
        name: str = "",
    ) -> Network:
        """Get a module of `weights.checkpoints.load_network` ready as the description in its file says.

        `name` is what it is called if its description does not say.
        """
        kind: Callable[..., Network] = cls
        if description.architecture == "scribbleprompt_sam":
            from scribblesegment.inference.sam import SamNetwork

            kind = SamNetwork
        elif description.architecture == "ridge_unet":
            from scribblesegment.inference.ridge_network import RidgeNetwork

            kind = RidgeNetwork
        return kind(
            module,
            capabilities=description.capabilities,
            size=description.size,
            focus_size=description.focus_size,
            temperature=description.temperature,
            device=device,
            plan=plan,
            name=description.name or name,
        )

    def encode_image(self, image: FloatArray) -> Any:
        """Compute what depends on the image alone, (size, size) on a grid: here, nothing."""
        import torch

        return torch.from_numpy(image)[None, None]

    def encode_context(self, context: ContextSet) -> Any:
        """Compute what depends on the entries of a context alone."""
        import torch

        images, masks = (torch.from_numpy(array)[None] for array in context.to_grid(self.size))  # (1, S, 1, size, size)
        return compute(self._prepared.encode_context, self.plan, images, masks)

    def match_context(self, features: Any, entries: Any) -> Any:
        """Compute the maps by which a context speaks of an image; None for a network that takes the entries as such."""
        if not hasattr(self._prepared, "context_maps"):
            return None
        return compute(lambda image: self._prepared.context_maps(image, entries), self.plan, features)

    def crop_context(self, maps: Any, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Any:
        """Give the maps of a part of the image, from start to stop in fractions of its sides, on a grid of `size`."""
        from scribblesegment.models.context_unet import crop_maps

        cropped: torch.Tensor = crop_maps(maps, rows, columns, size)
        return cropped

    def predict(self, features: Any, prompts: Prompts, context: Any = None) -> FloatArray:
        """Compute calibrated logits (size, size) from an encoded image and prompts on its grid.

        `context` are encoded entries, or maps of the part of the slice that the grid shows.
        """
        import torch

        from scribblesegment.models.encoding import encode_batch

        previous = None
        if prompts.mask_input is not None:
            previous = torch.from_numpy(prompts.mask_input * np.float32(self.temperature))[None, None]
        encoded = encode_batch(features, [prompts], previous)
        logits = run(self._prepared, encoded, self.plan, *(() if context is None else (context,)))[0, 0].numpy()
        return np.asarray(logits / np.float32(self.temperature), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Image:
    """The image that predictions are for."""

    array: NDArray[Any]  # (H, W), normalised unless there is a range
    spacing_mm: tuple[float, float]
    intensity_range: IntensityRange | None = None  # by which parts of a large image are normalised when they are read

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]


class _Segmenter:
    """One network with the current image, and with the context if it takes one; both are encoded when first needed."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._image: _Image
        self._whole: NetworkGrid
        self._features: Any = None
        self._context: ContextSet | None = None
        self._entries: Any = None
        self._maps: Any = None
        self._cancelled: Callable[[], bool] | None = None

    def set_image(self, image: _Image) -> None:
        self._image, self._features, self._maps = image, None, None
        self._whole = self._laid_out()

    def set_context(self, context: ContextSet | None) -> None:
        self._context, self._entries, self._maps = context, None, None

    @property
    def _least_cell(self) -> float:
        return self.network.least_cell if self._context is None else 0.0

    def _laid_out(self) -> NetworkGrid:
        image, size = self._image, self.network.size
        return NetworkGrid(image.shape, image.spacing_mm, size, least_cell=self._least_cell)

    def _fit_grid(self) -> None:
        """Lay out the slice anew if a context came or went since; features are lost only where that changes cells."""
        if self._whole.least_cell != self._least_cell:
            former, self._whole = self._whole, self._laid_out()
            if self._whole.mm_per_cell != former.mm_per_cell:
                self._features = None

    def encode(self) -> None:
        self._fit_grid()
        self._whole_features()
        self._context_in(self._whole)

    def segment(self, prompts: Prompts, region: Box2D | None, cancelled: Callable[[], bool] | None = None) -> _Found:
        """Segment the slice, or a region of it, unless it is cancelled between two parts of the work."""
        self._cancelled = cancelled
        try:
            return self._segment(prompts, region)
        finally:
            self._cancelled = None  # it may hold on to much

    def _segment(self, prompts: Prompts, region: Box2D | None) -> _Found:
        self._fit_grid()
        whole = self._whole
        view = whole if region is None else NetworkGrid(whole.shape, whole.spacing_mm, whole.size, region)
        grid_logits = self._pass(view, prompts)
        if region is not None:
            before = prompts.mask_input
            logits = np.full(whole.shape, _OUTSIDE_LOGIT, np.float32) if before is None else np.array(before)
            logits[view.slices] = view.logits_from_grid(grid_logits)
            return _Found(logits, grid_logits, ((0, whole.shape[0]), (0, whole.shape[1])))
        found = self._on_pixels(grid_logits)
        zoom = None
        if self.network.focus_size:
            tiny = self._near_prompts(prompts, found)
            if tiny is not None:
                return tiny
            mask = np.zeros(whole.shape, bool)
            mask[found.slices] = found.logits[found.slices] > 0.0
            zoom = self._focus(mask, prompts)
        if zoom is None:
            return found
        seen = prompts.replaced(mask_input=found.logits.view())
        closer = self._look(zoom, seen)
        if _goes_on(closer > 0.0, zoom.region, whole.shape):
            # A straight edge where the part ends would be nobody's structure.
            mask[zoom.slices] |= closer > 0.0
            zoom = self._focus(mask, prompts)
            if zoom is None:
                return found
            closer = self._look(zoom, seen)
        found.logits[zoom.slices] = closer
        return _Found(found.logits, grid_logits, _around(found.inside, zoom.region), zoom.region)

    def _focus(self, mask: NDArray[np.bool_], prompts: Prompts, cell_mm: float | None = None) -> NetworkGrid | None:
        """Where to look more closely than with cells of a size, as a rule those of the whole; see `focus_view`."""
        whole = self._whole
        return focus_view(
            mask,
            prompts,
            spacing_mm=whole.spacing_mm,
            first_cell_mm=cell_mm or whole.mm_per_cell,
            size=whole.size,
            max_size=self.network.focus_size,
            least_cell=whole.least_cell / 2,
        )

    def _near_prompts(self, prompts: Prompts, found: _Found) -> _Found | None:
        """Look closely at small prompts first: a structure about as small is a blob, or lost, in cells of the whole.

        None where what is there, or was before, goes on beyond the part that was looked at, or has no edge there: then
        it may be a part of something larger.
        """
        whole, box = self._whole, bounding_box(prompts.positive_pixels())
        if box is None:
            return None
        sides_mm = [(stop - start) * mm for (start, stop), mm in zip(box, whole.spacing_mm, strict=True)]
        if max(sides_mm) > _SMALL_CELLS * whole.mm_per_cell or whole.mm_per_cell < _COARSE * min(whole.spacing_mm):
            return None
        mask = np.zeros(whole.shape, bool)
        zoom = self._focus(mask, prompts)
        if zoom is None or not _lies_within(prompts.mask_input, zoom.region):
            return None
        closer = self._look(zoom, prompts)
        piece = closer > 0.0
        if piece[[0, -1]].any() or piece[:, [0, -1]].any() or not _has_edge(piece, self._pixels(zoom)):
            return None
        logits, inside = found.logits, found.logits[found.slices]
        inside[inside > 0.0] = _SURELY_OUTSIDE_LOGIT
        logits[zoom.slices] = closer
        mask[zoom.slices] = piece
        region, finest = zoom.region, self._focus(mask, prompts, zoom.mm_per_cell)
        if finest is not None:
            logits[finest.slices] = self._look(finest, prompts.replaced(mask_input=logits.view()))
            region = _around(region, finest.region)  # its margin may reach beyond
        return _Found(logits, found.grid_logits, region, region)

    def _pixels(self, view: NetworkGrid) -> FloatArray:
        """The normalised pixels (h, w) of a part of the slice."""
        part, intensities = self._image.array[view.slices], self._image.intensity_range
        return np.asarray(part if intensities is None else intensities.normalize(part), np.float32)

    def _on_pixels(self, grid_logits: FloatArray) -> _Found:
        """Bring the logits of the first pass to the slice's pixels."""
        whole = self._whole
        everywhere = ((0, whole.shape[0]), (0, whole.shape[1]))
        is_outside = grid_logits < _SURELY_OUTSIDE_LOGIT
        inside = everywhere
        if math.prod(whole.shape) > _LARGE_PIXELS and np.isfinite(grid_logits).all():
            inside = whole.pixels_of_cells(~is_outside)
        if inside == everywhere:
            return _Found(whole.logits_from_grid(grid_logits), grid_logits, everywhere)
        found = _Found(np.empty(whole.shape, np.float32), grid_logits, inside)
        found.logits.fill(grid_logits[whole.content][is_outside[whole.content]].mean())
        if found.logits[found.slices].size:
            found.logits[found.slices] = whole.logits_from_grid(grid_logits, inside)
        return found

    def _pass(self, view: NetworkGrid, prompts: Prompts) -> FloatArray:
        features = self._whole_features() if view is self._whole else self._encoded(view)
        context = self._context_in(view)
        self._stop_if_cancelled()
        return self.network.predict(features, view.prompts_to_grid(prompts), context)

    def _look(self, view: NetworkGrid, prompts: Prompts) -> FloatArray:
        """The logits of a part of the slice on its own pixels, (h, w)."""
        return view.logits_from_grid(self._pass(view, prompts))

    def _stop_if_cancelled(self) -> None:
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("The prediction was cancelled.")

    def _encoded(self, view: NetworkGrid) -> Any:
        self._stop_if_cancelled()
        return self.network.encode_image(view.image_to_grid(self._image.array, self._image.intensity_range))

    def _whole_features(self) -> Any:
        if self._features is None:
            self._features = self._encoded(self._whole)
        return self._features

    def _context_in(self, view: NetworkGrid) -> Any:
        """What the network takes as context for a pass over a part of the slice."""
        if self._context is None:
            return None
        if self._entries is None:
            self._entries = self.network.encode_context(self._context)
        if self._maps is None:
            features = self._whole_features()
            self._stop_if_cancelled()
            self._maps = self.network.match_context(features, self._entries)
        if self._maps is None:
            return self._entries
        if view is self._whole:
            return self._maps
        corners = view.from_grid_coords([[-0.5, -0.5], [view.size - 0.5, view.size - 0.5]])
        (top, left), (bottom, right) = ((self._whole.to_grid_coords(corners) + 0.5) / self._whole.size).tolist()
        return self.network.crop_context(self._maps, (top, bottom), (left, right), view.size)


@dataclass(frozen=True, eq=False)
class _Found:
    """What a network predicts."""

    logits: FloatArray  # (H, W)
    grid_logits: FloatArray  # (size, size)
    inside: Box2D  # outside of it all pixels are background
    focus: Box2D | None = None

    @property
    def slices(self) -> tuple[slice, slice]:
        (top, bottom), (left, right) = self.inside
        return slice(top, bottom), slice(left, right)


def _goes_on(mask: NDArray[np.bool_], region: Box2D, shape: tuple[int, int]) -> bool:
    """Whether a mask on a part of the slice reaches an end of the part that is none of the slice."""
    ends = (mask[0], mask[-1]), (mask[:, 0], mask[:, -1])
    return any(
        bool((start > 0 and first.any()) or (stop < length and last.any()))
        for (start, stop), (first, last), length in zip(region, ends, shape, strict=True)
    )


def _around(first: Box2D, second: Box2D) -> Box2D:
    """Return the box around two boxes, the first of which may be empty."""
    if first[0][0] == first[0][1]:
        return second
    rows, columns = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(first, second, strict=True))
    return rows, columns


def _lies_within(logits: FloatArray | None, region: Box2D) -> bool:
    """Whether the mask of earlier logits, if there are any, ends inside a region."""
    box = None if logits is None else bounding_box(logits > 0.0)
    return box is None or all(
        first < start and stop < last for (start, stop), (first, last) in zip(box, region, strict=True)
    )


def _has_edge(mask: NDArray[np.bool_], image: FloatArray) -> bool:
    """Whether the pixels of a mask differ from those around it by more than they differ among themselves."""
    from scipy import ndimage

    around = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask)
    inside, outside = image[mask], image[around]
    if not inside.size or not outside.size:
        return False
    spread = math.sqrt((float(inside.var()) + float(outside.var())) / 2)
    return abs(float(inside.mean()) - float(outside.mean())) > _EDGE * spread


class _Work:
    """What one thread has given a predictor: image and context, and what was predicted from them."""

    def __init__(self, network: Network, *, takes_context: bool) -> None:
        self.own = _Segmenter(network)
        self.in_context = self.own if takes_context else None
        self.image: _Image | None = None
        self.context: ContextSet | None = None
        self.previous_mask: NDArray[np.bool_] | None = None
        self.image_token: Hashable = None

    def set_image(self, image: _Image) -> None:
        self.own.set_image(image)
        if self.in_context is not None and self.in_context is not self.own:
            self.in_context.set_image(image)
        self.image, self.previous_mask = image, None

    def set_context(self, context: ContextSet | None, load: Callable[[], Network]) -> None:
        self.context = None
        if self.in_context is not None:
            self.in_context.set_context(None)
        if context is None or len(context) == 0:
            return
        if self.in_context is None:
            self.in_context = _Segmenter(load())
            if self.image is not None:
                self.in_context.set_image(self.image)
        self.in_context.set_context(context)
        self.context = context


class Predictor:
    """Segments images from prompts, from a context, or from both.

    Several threads may share a predictor: each predicts for the image and the context that it has set itself, and one
    that has set neither for the newest. One prediction runs at a time.
    """

    def __init__(
        self,
        network: Network,
        context_network: Network | Callable[[], Network] | None = None,
        *,
        context_first: bool = False,
        least_context: int = 1,
    ) -> None:
        """Take networks that were given nothing yet.

        Args:
            network: Predicts from prompts; from contexts as well, if they are among its capabilities.
            context_network: Predicts where there is a context, if `network` takes none; or what loads it, called when
                there is a context for the first time.
            context_first: `network` corrects what `context_network` predicts from the context alone, as in SP+UVS
                (MultiverSeg, section 5.4), instead of both predicting side by side.
            least_context: A context of fewer entries counts as none.
        """
        self._context_first, self.least_context = context_first, max(1, least_context)
        self._network, self._context_network = network, context_network
        self._lock = threading.RLock()
        self._of_thread = threading.local()
        self._newest = self._new_work()

    @property
    def image_token(self) -> Hashable:
        """For who shares the predictor with others: what stands for the image that this thread has set, if it has.

        None after each `set_image`.
        """
        work: _Work | None = getattr(self._of_thread, "work", None)
        return None if work is None else work.image_token

    @image_token.setter
    def image_token(self, token: Hashable) -> None:
        with self._lock:
            self._own_work().image_token = token

    def _own_work(self) -> _Work:
        """What this thread works on; it begins with the image and the context that were set last."""
        work: _Work | None = getattr(self._of_thread, "work", None)
        if work is None:
            newest, work = self._newest, self._new_work()
            if newest.image is not None:
                work.set_image(newest.image)
            work.set_context(newest.context, self._load_context_network)
            self._of_thread.work = work
        self._newest = work
        return work

    def _given(self, purpose: str) -> tuple[_Work, _Image]:
        """What this thread has given, or if nothing what was given last, and its image."""
        work: _Work = getattr(self._of_thread, "work", self._newest)
        if work.image is None:
            raise PromptError(f"No image was set; call set_image before {purpose}.")
        return work, work.image

    def _new_work(self) -> _Work:
        return _Work(self._network, takes_context="context" in self._network.capabilities and not self._context_first)

    @property
    def network(self) -> nn.Module:
        """The network for prompts, with float32 parameters; what refinement adapts."""
        return self._network.module

    @property
    def name(self) -> str:
        """What the network for prompts is called."""
        return self._network.name

    @property
    def plan(self) -> ExecutionPlan:
        """How the network for prompts is run."""
        return self._network.plan

    @property
    def size(self) -> int:
        """Side of the grid of the network for prompts."""
        return self._network.size

    @property
    def focus_size(self) -> int:
        """Side of the largest grid of its zoom pass; 0 for none."""
        return self._network.focus_size

    @property
    def temperature(self) -> float:
        """What its logits are divided by."""
        return self._network.temperature

    @property
    def capabilities(self) -> frozenset[str]:
        """Prompts that are understood, and "context" where contexts are."""
        kinds = self._network.capabilities - ({"context"} if self._context_first else frozenset())
        return kinds | ({"context"} if self._context_network is not None else frozenset())

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Take the image that the next predictions are for.

        Args:
            image: (H, W), any numeric type; NaN and infinite values are allowed. Do not change one of more than four
                million pixels until the next is set: it is not copied.
            spacing_mm: Distance of rows and of columns in millimetres.
            intensity_range: The volume's range, so that neighbouring slices agree; estimated from the image if absent.

        Raises:
            ImageError: The image is not 2D, empty, or not numeric.
            GeometryError: The spacing is not positive and finite.
        """
        array = validation.image_array(image, ndim=(2,))
        row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
        intensities = intensity_range or IntensityRange.estimate(array)
        if array.size > _LARGE_PIXELS:
            taken = _Image(array, (row_mm, column_mm), intensities)
        else:
            taken = _Image(intensities.normalize(array), (row_mm, column_mm))
        with self._lock:
            work = self._own_work()
            work.set_image(taken)
            work.image_token = None

    def set_context(self, context: ContextSet | None) -> None:
        """Take the segmented images that the next predictions are to be like; None or too small a set for none.

        A set with the same entries as before is not encoded again.

        Raises:
            ConfigError: No network takes a context.
            WeightsError: The network for contexts cannot be loaded. The context is then none.
        """
        with self._lock:
            work = self._own_work()
            if context is not None and len(context) < self.least_context:
                context = None
            if not same_entries(context, work.context):
                work.set_context(context, self._load_context_network)

    def encode(self) -> None:
        """Compute now what all predictions from this image and context share, so that the first is as fast as others.

        Raises:
            PromptError: No image was set.
        """
        with self._lock:
            work, _ = self._given("encode")
            work.own.encode()
            if work.context is not None and work.in_context is not None:
                work.in_context.encode()

    def predict(
        self,
        prompts: Prompts,
        *,
        region: Box2D | None = None,
        newest: bool | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Segment the current image.

        Args:
            prompts: On the image's own pixels; `mask_input` are the logits of the previous prediction.
            region: Half-open ((row_start, row_stop), (column_start, column_stop)): segment only this part, at finer
                pixels. Outside of it the logits of `prompts.mask_input` stay, or background where there are none.
            newest: Whether the prompts that were added since `mask_input` was predicted mark the object: then no logit
                falls below it, and with False none rises above it, so that a correction changes nothing that it does
                not ask for. None for both kinds, boxes, or without `mask_input`.
            cancelled: Asked several times whether to give up.

        Raises:
            CancelledError: It was given up; image and context stay set.
            PromptError: No image was set, the prompts are for another shape, of a kind that the network does not
                understand, or, without a context and previous logits, empty or only negative.
            GeometryError: The region is empty or reaches outside the image.
        """
        with self._lock:
            return self._predict(prompts, region, newest, cancelled)

    def _predict(
        self,
        prompts: Prompts,
        region: Box2D | None,
        newest: bool | None,
        cancelled: Callable[[], bool] | None,
    ) -> Prediction:
        work, image = self._given("predict")
        shape, former = image.shape, prompts.mask_input
        if prompts.shape != shape:
            raise PromptError(
                f"The prompts are for an image of shape {prompts.shape}, the current one has {shape}. Draw them on "
                "this image, or call set_image with the other one."
            )
        if region is not None:
            NetworkGrid(shape, region=region)  # refuses one outside of the image
        prompts_inside = prompts if region is None else crop_prompts(prompts, region)
        segmenters = _chosen(work, prompts_inside, context_first=self._context_first)
        for segmenter in segmenters:
            _check_kinds(segmenter.network, prompts_inside)
        in_context = work.in_context if self._context_first and work.context is not None else None
        if in_context is not None and in_context not in segmenters and prompts.mask_input is None:
            prompts = prompts.with_mask_input(in_context.segment(Prompts.empty(shape), region, cancelled).logits)
        found, *other = [segmenter.segment(prompts, region, cancelled) for segmenter in segmenters]
        if other:
            found = _Found(
                np.asarray((found.logits + other[0].logits) / 2, np.float32),
                np.asarray((found.grid_logits + other[0].grid_logits) / 2, np.float32),
                _around(found.inside, other[0].inside),
                found.focus or other[0].focus,
            )
        if newest is not None and former is not None:
            (np.maximum if newest else np.minimum)(found.logits, former, out=found.logits)
            found = replace(found, inside=((0, shape[0]), (0, shape[1])))
        before, mask = work.previous_mask, np.zeros(shape, bool)
        mask[found.slices] = found.logits[found.slices] > 0.0
        work.previous_mask = mask
        return Prediction(found.logits, found.grid_logits, changed_bbox(before, mask), found.focus)

    def _load_context_network(self) -> Network:
        if self._context_network is None:
            raise ConfigError(
                f"The network {self.name or 'in use'} takes no context set, only "
                f"{', '.join(sorted(self.capabilities))}. Use a model that does: see list_weights()."
            )
        if not isinstance(self._context_network, Network):
            self._context_network = self._context_network()
        return self._context_network

    def predict_torch(
        self,
        images: torch.Tensor,
        *,
        scribbles: torch.Tensor | None = None,
        point_coords: Sequence[torch.Tensor] | None = None,
        point_labels: Sequence[torch.Tensor] | None = None,
        boxes: Sequence[torch.Tensor] | None = None,
        mask_input: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the network for prompts in float32 on tensors, with gradients; for training and refinement.

        Args:
            images: (B, 1, H, W) in [0, 1], on the network's grid; sides divisible by its downsampling.
            scribbles: (B, 2, H, W) in [0, 1]: positive, negative.
            point_coords: B tensors (N, 2) of (row, column).
            point_labels: B tensors (N,): 1 foreground, 0 background.
            boxes: B tensors (M, 2, 2): start and stop (exclusive) as (row, column).
            mask_input: (B, 1, H, W) logits of the previous prediction.

        Returns:
            (B, 1, H, W) logits, differentiable in the images and in `network`'s parameters.
        """
        from scribblesegment.models.encoding import encode_prompts

        encoded = encode_prompts(
            images,
            scribbles=scribbles,
            point_coords=point_coords,
            point_labels=point_labels,
            boxes=boxes,
            mask_input=mask_input,
        )
        logits: torch.Tensor = self.network(encoded)
        return logits


def _chosen(work: _Work, prompts: Prompts, *, context_first: bool) -> list[_Segmenter]:
    """Who predicts: the one rule of two networks behind one predictor (docs/decisions/0004 and 0009).

    Without a context the network for prompts; from a context alone the network for contexts. Where there are prompts as
    well the mean of their logits counts: the one has seen what the structure looks like elsewhere, the other does as it
    is asked, also where the context is of little help. With `context_first` the network for prompts starts from the
    other one's prediction instead.
    """
    says_where = prompts.has_positive or prompts.mask_input is not None
    if work.context is None or work.in_context is None:
        if prompts.is_empty and not says_where:
            raise PromptError("There are no prompts here. Draw a stroke, click, or drag a box on the structure.")
        if not says_where:
            raise PromptError(
                "Only background is marked, so nothing says where the structure is. Add a stroke or click."
            )
        return [work.own]
    if context_first:
        return [work.in_context if prompts.is_empty else work.own]
    if work.in_context is work.own or prompts.is_empty or not says_where:
        return [work.in_context]
    return [work.own, work.in_context]


def _check_kinds(network: Network, prompts: Prompts) -> None:
    used = {
        "scribbles": bool(prompts.painted_scribbles.any()),
        "clicks": len(prompts.point_coords) > 0,
        "boxes": len(prompts.boxes) > 0,
    }
    unknown = [kind for kind, is_used in used.items() if is_used and kind not in network.capabilities]
    if unknown:
        raise PromptError(
            f"The network {network.name or 'in use'} does not understand {', '.join(unknown)}, only "
            f"{', '.join(sorted(network.capabilities))}. Use those, or another model."
        )


def read_network(path: Path) -> tuple[Any, NetworkDescription]:
    """Read what `Network.described` takes: a module, or where PyTorch is missing the parameters for NumPy.

    Raises:
        WeightsError: The file is missing, damaged or unsafe.
        MissingPackageError: It holds a network that needs PyTorch, which is missing.
    """
    from scribblesegment.weights.checkpoints import load_arrays, load_network

    return load_network(path) if torch_problem() is None else load_arrays(path)


def load_predictor(
    name: str | os.PathLike[str] = "default",
    *,
    device: str = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Predictor:
    """Load a network and get it ready.

    If the registry names another network that segments in context beside it, that one is loaded, and run in the same
    way, when the predictor is given a context for the first time.

    Args:
        name: A name of `list_weights()`, "default" (without PyTorch a network that runs by NumPy alone), or the path of
            a weights file. Two of them joined by "+": the first corrects what the second predicts from the context
            alone, as SP+UVS (MultiverSeg, section 5.4).
        device: "auto" or a torch device name.
        weights_dir: Where downloaded weights are kept.
        progress: Called with how much of a download is done, in [0, 1], and with what is downloaded. Without it nothing
            is downloaded: `fetch_weights` does so, and `list_weights` has the licences.

    Raises:
        WeightsError: The weights are unknown, missing, damaged, or unsafe.
        ConfigError: The network behind a "+" takes no context set.
        DeviceError: The device cannot run a network.
    """
    from scribblesegment.weights.registry import default_weights, find_weights, is_weights_path, weights_file

    def load(name: str | os.PathLike[str]) -> Network:
        path = weights_file(name, weights_dir=weights_dir, progress=progress)
        return Network.described(*read_network(path), device=device, name=path.stem)

    if str(name) == "default":
        name = default_weights(torch=torch_problem() is None)
    interactive, plus, in_context = str(name).partition("+")
    if plus and not Path(name).exists():
        network, context_network = load(interactive), load(in_context)
        if "context" not in context_network.capabilities:
            raise ConfigError(f"{in_context} takes no context set, so it cannot stand behind the + of {name}.")
        least = 1 if "scribbles" in context_network.capabilities else _LEAST_CONTEXT
        return Predictor(network, context_network, context_first=True, least_context=least)
    network = load(name)
    partner = "" if is_weights_path(name) else find_weights(str(name), weights_dir).in_context
    return Predictor(network, (lambda: load(partner)) if partner else None)
