"""Segments beside the one being drawn, as negative prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scribblesegment import checks
from scribblesegment.exceptions import PromptError
from scribblesegment.prompts import Prompts

# Negative strokes stay this far from a neighbour's edge, in pixels: the network was trained with strokes, and takes a
# whole segment marked as background for a verdict on the edge as well, which is where the neighbour may be wrong.
_MARGIN_PIXELS = 3.0


def inner_lines(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark lines deep inside a mask, as a user would draw them through it.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W), the ridge of the distance to the edge where that exceeds three pixels; empty for thin objects.
    """
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ridge: NDArray[np.bool_] = (depth > _MARGIN_PIXELS) & (depth >= ndimage.maximum_filter(depth, size=3))
    return ridge


def with_neighbours(prompts: Prompts, neighbours: NDArray[np.bool_]) -> Prompts:
    """Add negative strokes inside neighbouring segments, except where the user drew the object.

    Args:
        prompts: For an image (H, W).
        neighbours: bool (H, W), union of the neighbouring segments.

    Returns:
        The prompts with the strokes added.

    Raises:
        PromptError: The shapes differ.
    """
    checks.same_shape(neighbours.shape, prompts.shape, name="neighbours", error=PromptError)
    scribbles = np.array(prompts.scribbles)
    scribbles[1] = np.maximum(scribbles[1], inner_lines(neighbours) & (scribbles[0] == 0))
    return replace(prompts, scribbles=scribbles)
