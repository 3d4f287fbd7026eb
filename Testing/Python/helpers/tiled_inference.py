"""A network run over an image as its tiling says, in the plainest way."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scribblesegment.refinement.adapters import NetworkAdapter, PreparedImage


def tiled_logits(network: NetworkAdapter, prepared: PreparedImage) -> NDArray[np.float32]:
    """Class logits (labels, *grid) of a prepared image."""
    tiling = prepared.tiling
    padded = tiling.padded(prepared.tensor)
    weights = tiling.weights().double()
    total = torch.zeros(padded.shape[1:], dtype=torch.float64)
    summed: torch.Tensor | None = None
    with torch.no_grad():
        for number, window in enumerate(tiling.windows):
            values = network.output.tensor(network.module(tiling.cut(padded, number)))
            logits = network.output.resolved(values).class_logits(values)
            placed = tiling.placed(logits).double() * weights
            if summed is None:
                summed = torch.zeros((len(placed), *padded.shape[1:]), dtype=torch.float64)
            summed[(slice(None), *window)] += placed
            total[window] += weights
    assert summed is not None
    return tiling.cropped(summed / total).float().numpy()
