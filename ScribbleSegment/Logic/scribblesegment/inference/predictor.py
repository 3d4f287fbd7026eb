"""From an image and prompts to logits: the one door to the interactive network.

`Predictor.set_image` does what depends on the image alone; `predict` is the hot path that runs after every stroke. It
looks at the whole slice first, then again, at finer pixels, at the part around prompts and prediction.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data import validation
from scribblesegment.data.masks import changed_bbox, logits_to_mask
from scribblesegment.data.preprocessing import Box2D, IntensityRange, NetworkGrid, crop_prompts, focus_view
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, PromptError
from scribblesegment.inference.devices import ExecutionPlan, choose_plan, compute, prepare, resolve_device, run

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scribblesegment.models.context_unet import ContextUNet
    from scribblesegment.weights.checkpoints import NetworkDescription


class EncodedContext:
    """What the network makes of a context set."""

    def __init__(self, context: ContextSet, prepared: nn.Module, plan: ExecutionPlan, size: int) -> None:
        """Encode a set.

        Args:
            context: The set; not empty.
            prepared: An `InContextNetwork`, prepared for the plan.
            plan: How it is run.
            size: Side of its grid.
        """
        import torch

        self._network = cast("ContextUNet", prepared)
        self._plan = plan
        images, masks = (torch.from_numpy(array)[None] for array in context.to_grid(size))  # (1, S, 1, size, size)
        self._state = compute(self._network.encode_context, plan, images, masks)
        self._maps: torch.Tensor | None = None

    def set_image(self, on_grid: NDArray[np.float32]) -> None:
        """Match the set with a target, (size, size) as the first look sees it."""
        import torch

        if hasattr(self._network, "context_maps"):
            self._maps = compute(
                lambda image: self._network.context_maps(image, self._state),
                self._plan,
                torch.from_numpy(on_grid)[None, None],
            )

    def seen_in(self, view: NetworkGrid, whole: NetworkGrid) -> Any:
        """Give what the network takes as context for a look at a view of the slice."""
        from scribblesegment.models.context_unet import crop_maps

        if self._maps is None:
            return self._state
        if view is whole:
            return self._maps
        corners = np.array([[-0.5, -0.5], [view.size - 0.5, view.size - 0.5]])
        in_slice = view.grid.from_grid_coords(corners) + [start for start, _ in view.region]
        (top, left), (bottom, right) = (whole.grid.to_grid_coords(in_slice) + 0.5) / whole.size
        return crop_maps(self._maps, (float(top), float(bottom)), (float(left), float(right)), view.size)


FloatArray = NDArray[np.float32]


# Logits outside of a region that has no earlier prediction: background, beyond doubt but finite.
_OUTSIDE_LOGIT = -20.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """Result of one `Predictor.predict`.

    Attributes:
        logits: float32 (H, W), unthresholded, on the slice's own pixels; calibrated by the predictor's temperature.
        grid_logits: float32 (size, size), those of the first look on the network's grid.
        changed_bbox: ((row_start, row_stop), (column_start, column_stop)), half-open: where the mask at threshold 0.5
            differs from the previous prediction's (from an empty mask before the first); None if nowhere.
        focus: The region that was looked at a second time, or None.
    """

    logits: FloatArray
    grid_logits: FloatArray
    changed_bbox: Box2D | None
    focus: Box2D | None = None

    def probabilities(self) -> FloatArray:
        """Give the probability of each pixel, float32 (H, W) in [0, 1]."""
        # Beyond +-80 the exponential overflows float32, and the result is 0 or 1 anyway.
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(self.logits, -80.0, 80.0))), dtype=np.float32)

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Give the pixels whose probability exceeds a threshold in (0, 1), bool (H, W)."""
        return logits_to_mask(self.logits, threshold)


@dataclass(frozen=True, eq=False)
class _Slice:
    """The image that predictions are for."""

    image: FloatArray  # (H, W) in [0, 1]
    whole: NetworkGrid
    on_grid: FloatArray  # the image as the first look sees it


class Predictor:
    """Runs an interactive network on one image at a time.

    Attributes:
        network: The network with float32 parameters; what refinement adapts.
        size: Side of the network's grid in pixels.
        focus_size: Side of the largest grid of a second look; 0 for none.
        temperature: What the network's logits are divided by, so that probabilities mean something (Guo et al. 2017).
        plan: How the network is run here, chosen by measuring.
        name: What the network is called.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        capabilities: Sequence[str] = ("scribbles", "clicks", "boxes"),
        size: int = 128,
        focus_size: int = 0,
        temperature: float = 1.0,
        device: str = "auto",
        plan: ExecutionPlan | None = None,
        name: str = "",
    ) -> None:
        """Bring a network to a device and find the fastest way to run it there.

        Args:
            network: Maps (B, 5, H, W) to logits (B, 1, H, W); channels as in `scribblesegment.models.encoding`.
            capabilities: Prompts it understands.
            size: Side of its grid in pixels.
            focus_size: Side of the largest grid of a second look at finer pixels, at least `size`; 0 for none, as for
                networks that were not trained to take one.
            temperature: What its logits are divided by; predictions, and what is fed back, are calibrated logits.
            device: "auto" or a torch device name.
            plan: How to run it; measured when not given.
            name: What it is called.

        Raises:
            ConfigError: If the focus size is neither 0 nor at least `size`, or the temperature not positive and finite.
            DeviceError: If the device cannot run a network.
        """
        import torch

        from scribblesegment.models.encoding import CHANNELS

        if focus_size != 0 and focus_size < size:
            raise ConfigError(f"focus_size is 0 or at least the size of the grid, {size}; got {focus_size}.")
        if not 0.0 < temperature < math.inf:
            raise ConfigError(f"temperature is a positive finite number, got {temperature}.")
        self.network = network.eval()
        self.size = size
        self.focus_size = focus_size
        self.temperature = temperature
        self.name = name
        self._capabilities = frozenset(capabilities)
        self.plan = plan or choose_plan(
            self.network, torch.zeros((1, CHANNELS, size, size)), device=resolve_device(device)
        )
        self._prepared = prepare(self.network, self.plan)
        self._slice: _Slice | None = None
        self._context: EncodedContext | None = None
        self._previous_mask: NDArray[np.bool_] | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """Prompts the network understands."""
        return self._capabilities

    def set_context(self, context: ContextSet | None) -> None:
        """Take the segmented images that the next predictions are to be like; None or an empty set for none.

        Raises:
            ConfigError: If the network takes no context.
        """
        if context is None or len(context) == 0:
            self._context = None
            return
        if "context" not in self._capabilities:
            raise ConfigError(
                f"The network {self.name or 'in use'} takes no context set, only "
                f"{', '.join(sorted(self._capabilities))}. Use a model that does: see list_weights()."
            )
        self._context = EncodedContext(context, self._prepared, self.plan, self.size)
        if self._slice is not None:
            self._context.set_image(self._slice.on_grid)

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Take the image that the next predictions are for.

        Args:
            image: (H, W), any numeric type; NaN and infinite values are allowed.
            spacing_mm: Distance of rows and of columns in millimetres.
            intensity_range: The volume's range, so that neighbouring slices agree; estimated from the image if absent.

        Raises:
            ImageError: If the image is not 2D, empty, or not numeric.
            GeometryError: If the spacing is not positive and finite.
        """
        array = validation.image_array(image, ndim=(2,))
        shape = (int(array.shape[0]), int(array.shape[1]))
        whole = NetworkGrid(((0, shape[0]), (0, shape[1])), spacing_mm, self.size)
        normalized = (intensity_range or IntensityRange.estimate(array)).normalize(array)
        self._slice = _Slice(normalized, whole, whole.image_to_grid(normalized))
        self._previous_mask = None
        if self._context is not None:
            self._context.set_image(self._slice.on_grid)

    def predict(self, prompts: Prompts, *, region: Box2D | None = None) -> Prediction:
        """Segment the current image.

        Args:
            prompts: On the image's own pixels; `mask_input` are the logits of the previous prediction.
            region: ((row_start, row_stop), (column_start, column_stop)), half-open: segment only this part, at finer
                pixels. Outside of it the logits of `prompts.mask_input` stay, or background where there are none.

        Returns:
            The prediction.

        Raises:
            PromptError: If no image was set, the prompts are for another shape, of a kind that the network does not
                understand, or, without a context and previous logits, empty or only negative.
            GeometryError: If the region is empty or reaches outside the image.
        """
        current = self._slice
        if current is None:
            raise PromptError("No image was set; call set_image before predict.")
        if prompts.shape != current.image.shape:
            raise PromptError(
                f"The prompts are for an image of shape {prompts.shape}, the current one has {current.image.shape}. "
                "Draw them on this image, or call set_image with the other one."
            )
        view = current.whole if region is None else self._view(current, region)
        self._check(crop_prompts(prompts, view.region))
        grid_logits = self._look(current, view, prompts)
        logits = _paste(view.logits_from_grid(grid_logits), view.region, prompts.mask_input, prompts.shape)
        focus = None if region is not None else self._focus(current, prompts, logits)
        mask = logits > 0.0
        changed = changed_bbox(self._previous_mask, mask)
        self._previous_mask = mask
        return Prediction(logits, grid_logits, changed, focus)

    def _focus(self, current: _Slice, prompts: Prompts, logits: FloatArray) -> Box2D | None:
        """Look again at finer pixels, and write what is seen into the first logits."""
        if self.focus_size == 0:
            return None
        view = focus_view(
            logits > 0.0,
            prompts,
            spacing_mm=current.whole.spacing_mm,
            first_cell_mm=current.whole.grid.mm_per_cell,
            size=self.size,
            max_size=self.focus_size,
        )
        if view is None:
            return None
        logits[view.slices] = view.logits_from_grid(self._look(current, view, prompts.with_mask_input(logits)))
        return view.region

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
        """Run the network in float32 on tensors, with gradients; for training and refinement.

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

    def _check(self, prompts: Prompts) -> None:
        says_where = prompts.mask_input is not None or self._context is not None
        if prompts.is_empty and not says_where:
            raise PromptError("There are no prompts here. Draw a stroke, click, or drag a box on the structure.")
        if not prompts.has_positive and not says_where:
            raise PromptError(
                "All prompts are negative, so nothing says where the structure is. Add a positive stroke or click."
            )
        used = {
            "scribbles": bool(prompts.scribbles.any()),
            "clicks": len(prompts.point_coords) > 0,
            "boxes": len(prompts.boxes) > 0,
        }
        unknown = [kind for kind, is_used in used.items() if is_used and kind not in self._capabilities]
        if unknown:
            raise PromptError(
                f"The network {self.name or 'in use'} does not understand {', '.join(unknown)}, only "
                f"{', '.join(sorted(self._capabilities))}. Use those, or another model."
            )

    def _view(self, current: _Slice, region: Box2D) -> NetworkGrid:
        (top, bottom), (left, right) = region
        height, width = current.image.shape
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise GeometryError(
                f"The region {region} is empty or not inside the image of {height} x {width} pixels; give half-open "
                "ranges of rows and columns inside it."
            )
        return NetworkGrid(region, current.whole.spacing_mm, self.size)

    def _look(self, current: _Slice, view: NetworkGrid, prompts: Prompts) -> FloatArray:
        """Put image and prompts on a view's grid and run the network; returns (size, size) logits."""
        import torch

        from scribblesegment.models.encoding import encode_batch

        image = current.on_grid if view is current.whole else view.image_to_grid(current.image)
        seen = view.prompts_to_grid(prompts)
        previous = None
        if seen.mask_input is not None:
            previous = torch.from_numpy(seen.mask_input * np.float32(self.temperature))[None, None]
        encoded = encode_batch(torch.from_numpy(image)[None, None], [seen], previous)
        context = () if self._context is None else (self._context.seen_in(view, current.whole),)
        logits = run(self._prepared, encoded, self.plan, *context)[0, 0].numpy()
        return np.asarray(logits / np.float32(self.temperature), dtype=np.float32)


def load_predictor(
    name: str | os.PathLike[str] = "default",
    *,
    device: str = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Predictor:
    """Load a network and get it ready.

    Args:
        name: A name of `list_weights()`, "default", or the path of a weights file.
        device: "auto" or a torch device name.
        weights_dir: Where downloaded weights are kept.
        progress: Told of a download.

    Returns:
        A predictor. If the registry names another network that segments in context beside this one, it is loaded and
        joins when the predictor is given a context (`scribblesegment.inference.predictor`).

    Raises:
        WeightsError: If the weights are unknown, missing, damaged, or unsafe.
        DeviceError: If the device cannot run a network.
    """
    from scribblesegment.weights.checkpoints import load_network
    from scribblesegment.weights.registry import find_weights, is_weights_path, weights_file

    path = weights_file(name, weights_dir=weights_dir, progress=progress)
    network, description = load_network(path)
    partner = "" if is_weights_path(name) else find_weights(str(name), weights_dir).in_context

    def load_in_context(plan: ExecutionPlan) -> Predictor:
        partner_path = weights_file(partner, weights_dir=weights_dir, progress=progress)
        return described_predictor(*load_network(partner_path), plan=plan, name=partner_path.stem)

    return described_predictor(
        network, description, device=device, name=path.stem, load_in_context=load_in_context if partner else None
    )


def described_predictor(
    network: nn.Module,
    description: NetworkDescription,
    *,
    device: str = "auto",
    plan: ExecutionPlan | None = None,
    name: str = "",
    load_in_context: Callable[[ExecutionPlan], Predictor] | None = None,
) -> Predictor:
    """Get a network ready as the description in its file says.

    Args:
        network: From `weights.checkpoints.load_network`, as the description is.
        description: What it is and how it is used.
        device: "auto" or a torch device name.
        plan: How to run it; measured when not given.
        name: What it is called if its description does not say.
        load_in_context: Loads the predictor that joins it once there is a context, given how it is run; None for a
            network by itself.

    Raises:
        DeviceError: If the device cannot run a network.
    """
    make: Callable[..., Predictor] = Predictor
    if load_in_context is not None:
        make = functools.partial(PairedPredictor, load_in_context=load_in_context)
    return make(
        network,
        capabilities=description.capabilities,
        size=description.size,
        focus_size=description.focus_size,
        temperature=description.temperature,
        device=device,
        plan=plan,
        name=description.name or name,
    )


def _paste(inside: FloatArray, region: Box2D, before: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    """Put a region's logits into those of the whole slice; background where there are none."""
    if inside.shape == shape:
        return inside
    logits = np.full(shape, _OUTSIDE_LOGIT, dtype=np.float32) if before is None else np.array(before)
    (top, bottom), (left, right) = region
    logits[top:bottom, left:right] = inside
    return logits


class PairedPredictor(Predictor):
    """A predictor whose own network knows prompts only, with another one that knows contexts.

    Without a context it is the predictor of its own network. From a context alone the other network predicts. Where
    there are prompts as well, both predict and the mean of their logits counts: the other network has seen what the
    structure looks like elsewhere, and its own one does what it is told, also where the context is of little help.

    What it has of a `Predictor`, such as `network` and `plan`, is its own network's.
    """

    def __init__(
        self, network: nn.Module, *, load_in_context: Callable[[ExecutionPlan], Predictor], **options: Any
    ) -> None:
        """Get its own network ready.

        Args:
            network: Its own network.
            load_in_context: Loads the predictor of the other one, to be run as its own network is: to measure what is
                fastest takes seconds. Called when there is a context for the first time.
            options: As of `Predictor`.

        Raises:
            ScribbleSegmentError: As `Predictor`.
        """
        super().__init__(network, **options)
        self._load_in_context = load_in_context
        self._other: Predictor | None = None
        self._is_in_context = False
        self._give_image: Callable[[Predictor], None] | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """Prompts that its own network understands, and "context"."""
        return super().capabilities | {"context"}

    def set_context(self, context: ContextSet | None) -> None:
        """Take the segmented images that the next predictions are to be like; None or an empty set for none.

        Raises:
            ScribbleSegmentError: The other network cannot be loaded. The context is then none.
        """
        was_in_context, self._is_in_context = self._is_in_context, False
        if context is None or len(context) == 0:
            if self._other is not None:
                self._other.set_context(None)
            return
        if self._other is None:
            self._other = self._load_in_context(self.plan)
        if not was_in_context and self._give_image is not None:
            self._give_image(self._other)
        self._other.set_context(context)
        self._is_in_context = True

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Take the image that the next predictions are for; see `Predictor.set_image`."""

        def give(predictor: Predictor) -> None:
            predictor.set_image(image, spacing_mm=spacing_mm, intensity_range=intensity_range)

        super().set_image(image, spacing_mm=spacing_mm, intensity_range=intensity_range)
        self._give_image = give
        if self._is_in_context and self._other is not None:
            give(self._other)

    def predict(self, prompts: Prompts, *, region: Box2D | None = None) -> Prediction:
        """Segment the current image; see `Predictor.predict`."""
        if not self._is_in_context or self._other is None:
            return super().predict(prompts, region=region)
        before = self._previous_mask  # whichever network it came from
        in_context = self._other.predict(prompts, region=region)
        told = prompts if region is None else crop_prompts(prompts, region)
        if told.is_empty or not (told.has_positive or told.mask_input is not None):
            return self._told(in_context, before)  # nothing tells its own network where the structure is
        alone = super().predict(prompts, region=region)
        logits, grid_logits = (
            np.asarray((first + second) / 2, np.float32)
            for first, second in ((alone.logits, in_context.logits), (alone.grid_logits, in_context.grid_logits))
        )
        return self._told(Prediction(logits, grid_logits, None, alone.focus or in_context.focus), before)

    def _told(self, prediction: Prediction, before: NDArray[np.bool_] | None) -> Prediction:
        """Say what has changed since the last prediction, and remember this one."""
        self._previous_mask = prediction.mask()
        return replace(prediction, changed_bbox=changed_bbox(before, self._previous_mask))
