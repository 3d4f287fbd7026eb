"""How well a mask agrees with the reference: overlap (Dice) and distance of the outlines (95 % Hausdorff distance)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from scribblesegment import checks
from scribblesegment.exceptions import GeometryError, ImageError

_BoolArray = NDArray[np.bool_]


def dice(mask: NDArray[Any], reference: NDArray[Any]) -> float:
    """Give the Dice coefficient, twice the overlap over the sum of both areas.

    Two empty masks agree entirely and score 1; when only one of them is empty the score is 0.

    Args:
        mask: (H, W) or (K, J, I), bool or integers 0 and 1.
        reference: The same shape.

    Returns:
        A value in [0, 1].

    Raises:
        ImageError: If one of them is no mask.
        GeometryError: If the shapes differ.

    References:
        Dice 1945, Measures of the amount of ecologic association between species. Ecology 26:297.
    """
    first, second = _pair(mask, reference)
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def hausdorff95(mask: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Give the 95th percentile of the distances between two outlines.

    From every outline pixel of either mask the distance to the nearest outline pixel of the other is taken; the
    percentile is that of all of these distances together, both ways pooled, interpolated linearly. An outline pixel is
    a pixel of the mask that shares a side with a pixel outside of it; beyond the image's edge everything is outside.

    Two empty masks agree: 0. When only one is empty there is no outline to measure to, and the largest distance within
    the image, between the centres of opposite corners, stands for it: a failure then costs the mean what it should,
    where leaving it out would reward it.

    Args:
        mask: (H, W) or (K, J, I), bool or integers 0 and 1.
        reference: The same shape.
        spacing_mm: Distance of pixel centres along each axis of the array, in millimetres.

    Returns:
        Millimetres, 0 or above.

    Raises:
        ImageError: If one of them is no mask.
        GeometryError: If the shapes differ, or the spacing is not one positive finite number for each axis.

    References:
        Huttenlocher et al. 1993, Comparing images using the Hausdorff distance. IEEE TPAMI 15:850.
    """
    first, second = _pair(mask, reference)
    spacing = checks.spacing_mm(spacing_mm, first.ndim)
    if not first.any() and not second.any():
        return 0.0
    if not first.any() or not second.any():
        return float(np.linalg.norm([(side - 1) * mm for side, mm in zip(first.shape, spacing, strict=True)]))
    outlines = [_outline(part) for part in (first, second)]
    to_first, to_second = (distance_transform_edt(~outline, sampling=spacing) for outline in outlines)
    pooled = np.concatenate([to_second[outlines[0]], to_first[outlines[1]]])
    return float(np.percentile(pooled, 95))


def _pair(mask: NDArray[Any], reference: NDArray[Any]) -> tuple[_BoolArray, _BoolArray]:
    first, second = _mask(mask, "mask"), _mask(reference, "reference")
    checks.same_shape(first.shape, second.shape, name="mask", reference="the reference", error=GeometryError)
    return first, second


def _mask(value: NDArray[Any], name: str) -> _BoolArray:
    array = checks.image_array(value, name=name)
    # Logits and probabilities would pass for masks without complaint, and score nonsense.
    if array.dtype.kind == "f" or (array.dtype.kind != "b" and not np.isin(array, (0, 1)).all()):
        seen = f"{array.dtype} values from {array.min()} to {array.max()}"
        raise ImageError(f"{name} holds {seen}, expected a mask: bool, or integers 0 and 1. Compare with a threshold.")
    return array.astype(bool)


def _outline(mask: _BoolArray) -> _BoolArray:
    return mask & np.asarray(~binary_erosion(mask, border_value=0))
