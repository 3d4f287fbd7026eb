"""From an image and prompts to logits: the one door to the interactive network.

`Predictor.set_image` does what depends on the image alone; `predict` is the hot path that runs after every stroke.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment import checks
from scribblesegment.devices import ExecutionPlan, choose_plan, prepare, resolve_device, run
from scribblesegment.exceptions import GeometryError, PromptError
from scribblesegment.postprocessing import changed_bbox, logits_to_mask
from scribblesegment.preprocessing import IntensityRange, SliceGrid
from scribblesegment.prompts import Prompts

if TYPE_CHECKING:
    import torch
    from torch import nn

FloatArray = NDArray[np.float32]
Region = tuple[tuple[int, int], tuple[int, int]]

# Logits outside of a region that has no earlier prediction: background, beyond doubt but finite.
_OUTSIDE_LOGIT = -20.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """Result of one `Predictor.predict`.

    Attributes:
        logits: float32 (H, W), unthresholded, on the slice's own pixels.
        grid_logits: float32 (size, size), as they left the network.
        changed_bbox: ((row_start, row_stop), (column_start, column_stop)), half-open: where the mask at threshold 0.5
            differs from the previous prediction's (from an empty mask before the first); None if nowhere.
    """

    logits: FloatArray
    grid_logits: FloatArray
    changed_bbox: Region | None

    def probabilities(self) -> FloatArray:
        """Give the probability of each pixel, float32 (H, W) in [0, 1]."""
        # Beyond +-80 the exponential overflows float32, and the result is 0 or 1 anyway.
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(self.logits, -80.0, 80.0))), dtype=np.float32)

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Give the pixels whose probability exceeds a threshold in (0, 1), bool (H, W)."""
        return logits_to_mask(self.logits, threshold)


@dataclass(frozen=True, eq=False)
class _Window:
    """A part of the current slice on the network's grid."""

    region: Region
    grid: SliceGrid
    image: FloatArray  # (size, size) in [0, 1]


class Predictor:
    """Runs an interactive network on one image at a time.

    Attributes:
        network: The network with float32 parameters; what refinement adapts.
        size: Side of the network's grid in pixels.
        plan: How the network is run here, chosen by measuring.
        name: What the network is called.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        capabilities: Sequence[str] = ("scribbles", "clicks", "boxes"),
        size: int = 128,
        device: str = "auto",
        plan: ExecutionPlan | None = None,
        name: str = "",
    ) -> None:
        """Bring a network to a device and find the fastest way to run it there.

        Args:
            network: Maps (B, 5, H, W) to logits (B, 1, H, W); channels as in `scribblesegment.models.encoding`.
            capabilities: Prompts it understands.
            size: Side of its grid in pixels.
            device: "auto" or a torch device name.
            plan: How to run it; measured when not given.
            name: What it is called.

        Raises:
            DeviceError: If the device cannot run a network.
        """
        import torch

        from scribblesegment.models.encoding import CHANNELS

        self.network = network.eval()
        self.size = size
        self.name = name
        self._capabilities = frozenset(capabilities)
        self.plan = plan or choose_plan(
            self.network, torch.zeros((1, CHANNELS, size, size)), device=resolve_device(device)
        )
        self._prepared = prepare(self.network, self.plan)
        self._image: FloatArray | None = None
        self._spacing_mm = (1.0, 1.0)
        self._whole: _Window | None = None
        self._previous_mask: NDArray[np.bool_] | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """Prompts the network understands."""
        return self._capabilities

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
        array = checks.image_array(image, ndim=(2,))
        shape = (int(array.shape[0]), int(array.shape[1]))
        grid = SliceGrid(shape, spacing_mm, self.size)
        normalized = (intensity_range or IntensityRange.estimate(array)).normalize(array)
        self._image, self._spacing_mm = normalized, spacing_mm
        self._whole = _Window(((0, shape[0]), (0, shape[1])), grid, grid.image_to_grid(normalized))
        self._previous_mask = None

    def predict(self, prompts: Prompts, *, region: Region | None = None) -> Prediction:
        """Segment the current image.

        Args:
            prompts: On the image's own pixels; `mask_input` are the logits of the previous prediction.
            region: ((row_start, row_stop), (column_start, column_stop)), half-open: segment only this part, at finer
                pixels. Outside of it the logits of `prompts.mask_input` stay, or background where there are none.

        Returns:
            The prediction.

        Raises:
            PromptError: If no image was set, the prompts are for another shape, empty, only negative, or of a kind
                that the network does not understand.
            GeometryError: If the region is empty or reaches outside the image.
        """
        if self._whole is None or self._image is None:
            raise PromptError("No image was set; call set_image before predict.")
        if prompts.shape != self._image.shape:
            raise PromptError(
                f"The prompts are for an image of shape {prompts.shape}, the current one has {self._image.shape}. "
                "Draw them on this image, or call set_image with the other one."
            )
        window = self._whole if region is None else self._window(self._image, region)
        cropped = _crop(prompts, window.region)
        self._check(cropped)
        grid_logits = self._run(window, cropped)
        inside = window.grid.logits_from_grid(grid_logits)
        logits = inside if region is None else _paste(inside, window.region, prompts)
        mask = logits > 0.0
        changed = changed_bbox(self._previous_mask, mask)
        self._previous_mask = mask
        return Prediction(logits, grid_logits, changed)

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
        if prompts.is_empty and prompts.mask_input is None:
            raise PromptError("There are no prompts here. Draw a stroke, click, or drag a box on the structure.")
        if not prompts.has_positive and prompts.mask_input is None:
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

    def _window(self, image: FloatArray, region: Region) -> _Window:
        (top, bottom), (left, right) = region
        height, width = image.shape
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise GeometryError(
                f"The region {region} is empty or not inside the image of {height} x {width} pixels; give half-open "
                "ranges of rows and columns inside it."
            )
        grid = SliceGrid((bottom - top, right - left), self._spacing_mm, self.size)
        return _Window(region, grid, grid.image_to_grid(image[top:bottom, left:right]))

    def _run(self, window: _Window, prompts: Prompts) -> FloatArray:
        """Put prompts on the window's grid and run the network; returns (size, size) logits."""
        import torch

        from scribblesegment.models.encoding import encode_prompts

        grid = window.grid
        logits = None if prompts.mask_input is None else _logits_to_grid(grid, prompts.mask_input)
        encoded = encode_prompts(
            torch.from_numpy(window.image)[None, None],
            scribbles=torch.from_numpy(grid.scribbles_to_grid(prompts.scribbles))[None],
            point_coords=[torch.from_numpy(grid.points_to_grid(prompts.point_coords))],
            point_labels=[torch.from_numpy(np.array(prompts.point_labels))],
            boxes=[torch.from_numpy(grid.boxes_to_grid(prompts.boxes))],
            mask_input=None if logits is None else torch.from_numpy(logits)[None, None],
        )
        return np.asarray(run(self._prepared, encoded, self.plan)[0, 0].numpy(), dtype=np.float32)


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
        A predictor.

    Raises:
        WeightsError: If the weights are unknown, missing, damaged, or unsafe.
        DeviceError: If the device cannot run a network.
    """
    from scribblesegment.weights.checkpoints import load_network
    from scribblesegment.weights.manager import fetch_weights

    is_path = isinstance(name, os.PathLike) or Path(name).suffix in (".safetensors", ".pt", ".pth")
    path = Path(name) if is_path else fetch_weights(str(name), weights_dir=weights_dir, progress=progress)
    network, description = load_network(path)
    return Predictor(
        network,
        capabilities=description.capabilities,
        size=description.size,
        device=device,
        name=description.name or path.stem,
    )


def _crop(prompts: Prompts, region: Region) -> Prompts:
    """Bring prompts to the pixels of a region; those outside of it are dropped, boxes are cut."""
    (top, bottom), (left, right) = region
    if (bottom - top, right - left) == prompts.shape:
        return prompts
    start, stop = np.array([top, left]), np.array([bottom, right])
    inside = ((prompts.point_coords >= start) & (prompts.point_coords < stop)).all(axis=1)
    boxes = np.clip(prompts.boxes, start, stop) - start
    boxes = boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)]
    return Prompts(
        scribbles=prompts.scribbles[:, top:bottom, left:right],
        point_coords=prompts.point_coords[inside] - start,
        point_labels=prompts.point_labels[inside],
        boxes=boxes,
        mask_input=None if prompts.mask_input is None else prompts.mask_input[top:bottom, left:right],
    )


def _logits_to_grid(grid: SliceGrid, logits: FloatArray) -> FloatArray:
    """Bring logits to the grid; around the image they are background, as the network itself predicts there."""
    content = grid.logits_to_grid(logits)
    padded = np.full_like(content, min(float(logits.min()), 0.0))
    rows, columns = grid.content
    padded[rows, columns] = content[rows, columns]
    return padded


def _paste(inside: FloatArray, region: Region, prompts: Prompts) -> FloatArray:
    logits = (
        np.full(prompts.shape, _OUTSIDE_LOGIT, dtype=np.float32)
        if prompts.mask_input is None
        else np.array(prompts.mask_input)
    )
    (top, bottom), (left, right) = region
    logits[top:bottom, left:right] = inside
    return logits
