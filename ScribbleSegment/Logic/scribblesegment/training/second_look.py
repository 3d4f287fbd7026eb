"""Second looks at finer pixels during training, so that the network knows what `Predictor` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scribblesegment.data.preprocessing import Box2D, NetworkGrid, focus_view
from scribblesegment.data.prompts import Prompts
from scribblesegment.training.samples import FINE, Batch

# A second look shows at least this fraction of the fine image's side.
_SMALLEST = 0.25

# Predictions of many cells are looked at on a larger grid, of which a training step can only afford a part.
_PART = 0.5

# How far the region is moved, as a fraction of its side: people do not draw where the rule expects it.
_JITTER = 0.05


@dataclass(frozen=True)
class SecondLook:
    """Parts of samples at finer pixels.

    Attributes:
        batch: The parts, with the prompts that fall into them.
        logits: (B, 1, size, size), the first look's logits there.
        regions: Of each sample's fine image, the part.
        side: Pixels a side of the fine images.
    """

    batch: Batch
    logits: Tensor
    regions: list[Box2D]
    side: int


def second_look(batch: Batch, logits: Tensor, generators: Sequence[np.random.Generator]) -> SecondLook:
    """Show parts of the samples at finer pixels, with the first logits.

    Args:
        batch: Samples with their prompts on the network's grid.
        logits: (B, 1, size, size), predicted from them.
        generators: One for each sample.

    Returns:
        The parts.
    """
    size = logits.shape[-1]
    first = logits.detach().float().cpu().numpy()[:, 0]
    images, masks, prompts, previous, regions = [], [], [], [], []
    fine_images, fine_masks = batch.fine_images.cpu().numpy()[:, 0], batch.fine_masks.cpu().numpy()[:, 0]
    for index, rng in enumerate(generators):
        on_fine = enlarge_prompts(batch.prompts[index].with_mask_input(first[index]))
        regions.append(_region(on_fine, size, rng))
        view = NetworkGrid(fine_images.shape[1:], size=size, region=regions[-1])
        seen = view.prompts_to_grid(on_fine)
        images.append(view.image_to_grid(fine_images[index]))
        masks.append(view.image_to_grid(fine_masks[index]) > 0.5)
        prompts.append(seen)
        previous.append(np.asarray(seen.mask_input))
    device = batch.images.device
    part = replace(
        batch,
        images=torch.from_numpy(np.stack(images))[:, None].to(device),
        masks=torch.from_numpy(np.stack(masks).astype(np.float32))[:, None].to(device),
        prompts=prompts,
    )
    return SecondLook(part, torch.from_numpy(np.stack(previous))[:, None].to(device), regions, fine_images.shape[-1])


def enlarge_prompts(prompts: Prompts) -> Prompts:
    """Bring prompts and logits of the grid (S, S) to the fine image's pixels (2 S, 2 S)."""
    logits = prompts.mask_input
    height, width = prompts.shape
    return Prompts(
        scribbles=np.kron(prompts.scribbles, np.ones((1, FINE, FINE), np.float32)),
        point_coords=prompts.point_coords * FINE,
        point_labels=prompts.point_labels,
        boxes=prompts.boxes * FINE,
        mask_input=None
        if logits is None
        else NetworkGrid((height * FINE, width * FINE), size=height).logits_from_grid(logits),
    )


def _region(prompts: Prompts, size: int, rng: np.random.Generator) -> Box2D:
    """Choose a square of the fine image: what prediction would look at, or a part of it where that is large."""
    logits = prompts.mask_input
    mask = np.zeros(prompts.shape, bool) if logits is None else logits > 0
    full = len(mask)
    view = focus_view(mask, prompts, spacing_mm=(1.0, 1.0), first_cell_mm=float(FINE), size=size, max_size=full)
    (top, bottom), (left, right) = ((0, full), (0, full)) if view is None else view.region
    side = min(full, max(bottom - top, right - left, round(_SMALLEST * full)))
    center = np.array([top + bottom, left + right]) / 2
    if side > _PART * full * 1.25:
        side = round(full * rng.uniform(0.8 * _PART, 1.2 * _PART))
        center = _somewhere(mask, prompts, rng)
    center = center + rng.uniform(-_JITTER, _JITTER, size=2) * side
    start_row, start_column = (int(np.clip(round(value - side / 2), 0, full - side)) for value in center)
    return (start_row, start_row + side), (start_column, start_column + side)


def _somewhere(mask: NDArray[np.bool_], prompts: Prompts, rng: np.random.Generator) -> NDArray[np.float64]:
    marked = np.argwhere(mask | (prompts.scribbles[0] > 0))
    if len(marked) == 0:
        return rng.uniform(0.25, 0.75, size=2) * mask.shape
    spread = 0.15 * len(mask)
    return np.asarray(marked[int(rng.integers(len(marked)))] + rng.uniform(-spread, spread, size=2))
