"""Which entries of a context set a network is given, when there are more than it takes.

Every image is described once by a short vector, so that the similarity of two images is a dot product. Entries are then
taken one at a time:

1. from the target's own volume and viewing axis the nearest slice on each side, and the target's own position, if they
   are there;
2. after that always the entry of the highest ``relevance - DIVERSITY * redundancy`` (maximal marginal relevance,
   Carbonell and Goldstein 1998, The use of MMR, diversity-based reranking. SIGIR). Relevance is the similarity to the
   target, raised for slices near it; redundancy is the similarity to the most similar entry taken so far.

Ties go to the entry that comes first in the set, so that the same set and target always give the same choice.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.preprocessing import NetworkGrid

FloatArray = NDArray[np.float32]

THUMBNAIL_SIDE = 16  # small enough that structures which lie a little apart still correlate
_BINS = 16

# Part of the similarity that comes from where things are (correlation of thumbnails); the rest comes from how bright
# they are (histograms), which stays the same when the structure is moved or turned.
_CORRELATION_PART = 0.7

# Chosen on training images. None of these numbers matters much: diversity from 0 to 0.6, nearness from 0 to 1 and a
# correlation part from 0.3 to 1 changed Dice by about one point, while all of them were 3 to 16 points above random
# choices.
DIVERSITY = 0.3
NEARNESS = 0.3

_HALF_DISTANCE = 4.0  # slices, at which nearness counts half


@lru_cache(maxsize=32)
def slice_grid(shape: tuple[int, int], spacing_mm: tuple[float, float], size: int) -> NetworkGrid:
    """Give the grid of a slice; entries of one volume share it, and with it the resampling matrices."""
    return NetworkGrid(shape, spacing_mm, size)


def image_descriptor(image: FloatArray, spacing_mm: tuple[float, float]) -> FloatArray:
    """Describe an image by a vector; dot products of such vectors are similarities.

    The first part is a thumbnail on the square grid of `NetworkGrid`, less its mean and of unit length: its dot product
    is the normalised cross-correlation. The second part is the square root of the histogram of the image's pixels: its
    dot product is the Bhattacharyya coefficient, the overlap of two histograms.

    Args:
        image: (H, W) in [0, 1], normalised with the intensity range of its volume.
        spacing_mm: distance of rows and of columns.

    Returns:
        float32 (D,). The similarity of an image to itself is 1, or the histograms' part for a constant image.
    """
    thumbnail = slice_grid(image.shape, spacing_mm, THUMBNAIL_SIDE).image_to_grid(image).ravel()
    thumbnail = thumbnail - thumbnail.mean()
    length = float(np.linalg.norm(thumbnail))
    if length > 1e-6:
        thumbnail /= length
    bins = np.minimum((image * _BINS).astype(np.intp), _BINS - 1)
    histogram = np.bincount(bins.ravel(), minlength=_BINS) / image.size
    parts = np.sqrt(_CORRELATION_PART) * thumbnail, np.sqrt((1 - _CORRELATION_PART) * histogram)
    return np.concatenate(parts).astype(np.float32)


def choose(descriptors: FloatArray, target: FloatArray, offsets: NDArray[np.float64], limit: int) -> list[int]:
    """Return at most `limit` places among the entries, best first; see the module's description.

    Args:
        descriptors: (N, D), of the entries.
        target: (D,), of the target.
        offsets: (N,) positions of the entries less that of the target, in slices, where both are slices of one volume
            along one axis; NaN for all others.
        limit: 0 or above.
    """
    near = np.where(np.isnan(offsets), 0.0, 1.0 / (1.0 + np.abs(offsets) / _HALF_DISTANCE))
    relevance = descriptors @ target + NEARNESS * near
    redundancy = np.zeros(len(descriptors))
    left = np.ones(len(descriptors), bool)
    chosen: list[int] = []
    first = _adjacent_slices(offsets)
    while len(chosen) < min(limit, len(descriptors)):
        if len(chosen) < len(first):
            best = first[len(chosen)]
        else:
            best = int(np.argmax(np.where(left, relevance - DIVERSITY * redundancy, -np.inf)))
        chosen.append(best)
        left[best] = False
        np.maximum(redundancy, descriptors @ descriptors[best], out=redundancy)
    return chosen


def _adjacent_slices(offsets: NDArray[np.float64]) -> list[int]:
    """Return the slice at the target's position and the nearest one before and behind it, nearest first."""
    found = []
    for side in (offsets == 0, offsets < 0, offsets > 0):  # NaN is on no side
        places = np.flatnonzero(side)
        if places.size:
            found.append(int(places[np.argmin(np.abs(offsets[places]))]))
    return sorted(found, key=lambda place: abs(offsets[place]))
