"""Prompts as network channels (ScribblePrompt, appendix B.2).

Channel 0 image, 1 boxes, 2 positive clicks and scribbles, 3 negative clicks and scribbles, 4 logits of the previous
prediction (zeros before the first). Inference time therefore does not grow with the number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scribblesegment.data.prompts import Prompts

IMAGE, BOX, POSITIVE, NEGATIVE, PREVIOUS_LOGITS = range(5)
CHANNELS = 5


def encode_prompts(
    image: Tensor,
    *,
    scribbles: Tensor | None = None,
    point_coords: Sequence[Tensor] | Tensor | None = None,
    point_labels: Sequence[Tensor] | Tensor | None = None,
    boxes: Sequence[Tensor] | Tensor | None = None,
    mask_input: Tensor | None = None,
) -> Tensor:
    """Stack a batch of images and prompts into the network's input, (B, 5, H, W) of the image's dtype and device.

    Args:
        image: (B, 1, H, W), intensities in [0, 1].
        scribbles: (B, 2, H, W) in [0, 1]: positive, negative.
        point_coords: B tensors (N, 2) of (row, column), inside the image.
        point_labels: B tensors (N,): 1 foreground, 0 background.
        boxes: B tensors (M, 2, 2): start and stop (exclusive) as (row, column).
        mask_input: (B, 1, H, W) logits of the previous prediction.
    """
    batch, _, height, width = image.shape
    encoded = torch.zeros((batch, CHANNELS, height, width), dtype=image.dtype, device=image.device)
    encoded[:, IMAGE] = image[:, 0]
    if scribbles is not None:
        encoded[:, POSITIVE : NEGATIVE + 1] = scribbles
    if mask_input is not None:
        encoded[:, PREVIOUS_LOGITS] = mask_input[:, 0]
    for index in range(batch):
        if point_coords is not None and point_labels is not None:
            coords, labels = point_coords[index].long(), point_labels[index]
            channels = torch.where(labels.bool(), POSITIVE, NEGATIVE)
            encoded[index, channels, coords[:, 0], coords[:, 1]] = 1.0
        if boxes is not None:
            for (top, left), (bottom, right) in boxes[index].tolist():
                encoded[index, BOX, int(top) : int(bottom), int(left) : int(right)] = 1.0
    return encoded


def encode_batch(images: Tensor, prompts: Sequence[Prompts], previous_logits: Tensor | None) -> Tensor:
    """Build the network's input (B, 5, H, W) from images (B, 1, H, W) and prompts on their grid.

    The prompts' own `mask_input` is not read; previous logits are (B, 1, H, W) as the network gave them, or None.
    """
    device = images.device

    def moved(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device)  # a copy: arrays of prompts are read-only

    return encode_prompts(
        images,
        scribbles=torch.from_numpy(np.stack([entry.scribbles for entry in prompts])).to(device),
        point_coords=[moved(entry.point_coords) for entry in prompts],
        point_labels=[moved(entry.point_labels) for entry in prompts],
        boxes=[torch.from_numpy(np.array(entry.boxes)) for entry in prompts],
        mask_input=previous_logits,
    )
