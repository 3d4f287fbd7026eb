"""Masks between annotated slices by interpolating their shapes, without looking at the image.

Each mask becomes a map of signed distances to its outline; these are interpolated linearly along the axis, and what is
positive is the structure (Raya and Udupa 1990, Shape-based interpolation of multidimensional objects. IEEE TMI 9:32).
This is what propagation is measured against. Slicer's *Fill between slices* answers the same question with
morphological interpolation instead (Zukic et al. 2016, ITK Morphological Contour Interpolation. Insight Journal).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scribblesegment import checks
from scribblesegment.exceptions import GeometryError, ImageError

Mask = NDArray[np.bool_]


def signed_distance(mask: Mask, spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Measure how far each pixel is from the other side of a mask's outline.

    Beyond the edge of the image nothing is known: a mask that touches it has no outline there.

    Args:
        mask: bool (H, W).
        spacing_mm: Distance of rows and of columns in millimetres.

    Returns:
        float32 (H, W) in millimetres: distance to the nearest pixel outside for pixels of the mask, the negative
        distance to the nearest pixel of the mask for others. Where there is no such pixel, the image's diagonal.
    """
    from scipy import ndimage

    if mask.all() or not mask.any():
        diagonal = math.hypot(*(side * mm for side, mm in zip(mask.shape, spacing_mm, strict=True)))
        return np.where(mask, diagonal, -diagonal).astype(np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return (inside - outside).astype(np.float32)


def interpolate_slices(
    annotated: Mapping[int, Mask],
    index_range: tuple[int, int] | None = None,
    *,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
) -> dict[int, Mask]:
    """Interpolate shapes linearly between annotated slices.

    Args:
        annotated: bool (H, W) masks by slice index; an empty one says that the structure is absent.
        index_range: Half-open range of slices to fill; all between the annotated ones by default.
        spacing_mm: Distance of rows and of columns in millimetres.

    Returns:
        bool (H, W) masks by ascending index, of the slices between two annotated ones. They are empty next to an
        annotated slice without the structure, since nothing says where it ends. Slices before the first and after the
        last annotated one are not among them.

    Raises:
        GeometryError: Masks of different shapes, or a spacing that is not two positive numbers.
        ImageError: A mask that is not bool (H, W).
    """
    row_mm, column_mm = checks.spacing_mm(spacing_mm, 2)
    _check_masks(annotated)
    indices = sorted(annotated)
    start, stop = index_range if index_range is not None else (indices[0], indices[-1]) if indices else (0, 0)
    filled: dict[int, Mask] = {}
    for lower, upper in pairwise(indices):
        wanted = range(max(lower + 1, start), min(upper, stop))
        if not wanted:
            continue
        first, last = annotated[lower], annotated[upper]
        if not first.any() or not last.any():
            filled.update({index: np.zeros(first.shape, bool) for index in wanted})
            continue
        below, above = (signed_distance(mask, (row_mm, column_mm)) for mask in (first, last))
        for index in wanted:
            part = (index - lower) / (upper - lower)
            filled[index] = (1 - part) * below + part * above > 0
    return filled


def _check_masks(annotated: Mapping[int, Mask]) -> None:
    shape: tuple[int, ...] | None = None
    for index, mask in annotated.items():
        array = checks.image_array(mask, ndim=(2,), name=f"mask of slice {index}")
        if array.dtype != np.bool_:
            raise ImageError(f"The mask of slice {index} holds {array.dtype} values, expected bool: (mask > 0).")
        shape = shape or array.shape
        checks.same_shape(
            array.shape, shape, name=f"mask of slice {index}", reference="the first mask", error=GeometryError
        )
