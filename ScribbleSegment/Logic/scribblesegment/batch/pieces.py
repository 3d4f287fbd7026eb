"""Connected pieces of a structure: which of them are believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet

Mask = NDArray[np.bool_]

# A structure is taken for scattered if more than this part of the context's masks show it so.
_SOME = 0.25


def is_scattered(context: ContextSet, part: float) -> bool:
    """Whether a structure has small pieces beside large ones, as lesions and vessels have.

    Args:
        context: Its context set.
        part: Of the pixels of the largest piece that the others of one mask have at least, if it is not scattered.
    """
    from scipy import ndimage

    shown = [entry.mask for entry in context if entry.mask.any()]
    scattered = 0
    for mask in shown:
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        scattered += bool(sizes.min() < part * sizes.max())
    return scattered > _SOME * len(shown)


def without_lesser_pieces(mask: Mask, *, bridge: int, part: float) -> Mask:
    """Leave out the connected pieces of a mask that are small beside the largest one.

    Args:
        mask: bool (slices, H, W). Pieces connect through sides of pixels, and from slice to slice.
        bridge: So many slices in a row without the structure do not divide a piece.
        part: Of the voxels of the largest piece that another one must have.

    Returns:
        bool (slices, H, W).
    """
    from scipy import ndimage

    if not mask.any():
        return mask
    # Closed along the axis, what lies before an empty slice touches what lies behind it.
    line = np.ones((bridge + 1, 1, 1), bool)
    padded = np.pad(mask, ((bridge, bridge), (0, 0), (0, 0)))
    joined = ndimage.binary_closing(padded, line)[bridge : bridge + len(mask)]
    pieces, _ = ndimage.label(joined)
    sizes = np.bincount(pieces[mask])  # without the pixels that only join
    return np.asarray(mask & (sizes >= part * sizes.max())[pieces])
