"""How well a mask agrees with the reference: overlap (Dice), and distance and agreement of the outlines.

An outline pixel is a pixel of the mask that shares a side with a pixel outside of it; beyond the image's edge
everything is outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

from scribblesegment.data import validation
from scribblesegment.errors import GeometryError, ImageError

_BoolArray = NDArray[np.bool_]

# Of the surface Dice: one pixel of a picture whose pixels are taken for 1 x 1 mm.
TOLERANCE_MM = 1.0

# A distance of exactly the tolerance counts, also where its square root was rounded up.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Agreement:
    """All metrics of one mask.

    Attributes:
        dice: In [0, 1].
        hausdorff95_mm: Millimetres, 0 or above.
        surface_dice: In [0, 1].
    """

    dice: float
    hausdorff95_mm: float
    surface_dice: float


def agreement(
    mask: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float], *, tolerance_mm: float = TOLERANCE_MM
) -> Agreement:
    """Give all metrics, measuring the distances between the outlines once.

    Arguments and errors as in `dice`, `hausdorff95` and `surface_dice`.
    """
    distances = _outline_distances(mask, reference, spacing_mm)
    return Agreement(
        dice(mask, reference),
        _hausdorff95(distances, mask.shape, spacing_mm),
        _surface_dice(distances, tolerance_mm),
    )


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
    percentile is that of all of these distances together, both ways pooled, interpolated linearly.

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
    return _hausdorff95(_outline_distances(mask, reference, spacing_mm), mask.shape, spacing_mm)


def surface_dice(
    mask: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float], *, tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Give the share of both outlines that lies within a tolerance of the other one.

    Outlines are counted in pixels, both together; in the source they are measured in millimetres of length. Two empty
    masks agree entirely and score 1; when only one of them is empty the score is 0.

    Args:
        mask: (H, W) or (K, J, I), bool or integers 0 and 1.
        reference: The same shape.
        spacing_mm: Distance of pixel centres along each axis of the array, in millimetres.
        tolerance_mm: Distance of outline pixels' centres that still counts as agreement.

    Returns:
        A value in [0, 1].

    Raises:
        ImageError: If one of them is no mask.
        GeometryError: If the shapes differ, the spacing is not one positive finite number for each axis, or the
            tolerance is negative or not finite.

    References:
        Nikolov et al. 2018, Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
        radiotherapy. arXiv:1809.04430, section "Surface DSC".
    """
    return _surface_dice(_outline_distances(mask, reference, spacing_mm), tolerance_mm)


def _hausdorff95(distances: _Distances, shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    if distances.ours.size and distances.theirs.size:
        return float(np.percentile(np.concatenate([distances.ours, distances.theirs]), 95))
    if distances.ours.size == distances.theirs.size:
        return 0.0
    return float(np.linalg.norm([(side - 1) * mm for side, mm in zip(shape, spacing_mm, strict=True)]))


def _surface_dice(distances: _Distances, tolerance_mm: float) -> float:
    if not 0 <= tolerance_mm < np.inf:
        raise GeometryError(f"tolerance_mm is {tolerance_mm}; it must be finite and at least 0 millimetres.")
    pooled = np.concatenate([distances.ours, distances.theirs])
    within = pooled <= tolerance_mm * (1 + _ROUNDING)
    return float(np.mean(within)) if pooled.size else 1.0


@dataclass(frozen=True, eq=False)
class _Distances:
    """From each outline pixel to the nearest of the other outline, in mm; infinite where the other mask is empty."""

    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]


def _outline_distances(mask: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float]) -> _Distances:
    first, second = _pair(mask, reference)
    spacing = validation.spacing_mm(spacing_mm, first.ndim)
    # Both outlines lie in the box around the masks, which is much smaller than most images.
    box = find_objects((first | second).astype(np.uint8))
    outlines = [_outline(part[box[0]] if box else part) for part in (first, second)]
    if not outlines[0].any() or not outlines[1].any():
        return _Distances(*(np.full(int(outline.sum()), np.inf) for outline in outlines))
    to_first, to_second = (distance_transform_edt(~outline, sampling=spacing) for outline in outlines)
    return _Distances(to_second[outlines[0]], to_first[outlines[1]])


def _pair(mask: NDArray[Any], reference: NDArray[Any]) -> tuple[_BoolArray, _BoolArray]:
    first, second = _mask(mask, "mask"), _mask(reference, "reference")
    validation.same_shape(first.shape, second.shape, name="mask", reference="the reference", error=GeometryError)
    return first, second


def _mask(value: NDArray[Any], name: str) -> _BoolArray:
    array = validation.image_array(value, name=name)
    # Logits and probabilities would pass for masks without complaint, and score nonsense.
    if array.dtype.kind == "f" or (array.dtype.kind != "b" and not np.isin(array, (0, 1)).all()):
        seen = f"{array.dtype} values from {array.min()} to {array.max()}"
        raise ImageError(f"{name} holds {seen}, expected a mask: bool, or integers 0 and 1. Compare with a threshold.")
    return array.astype(bool)


def _outline(mask: _BoolArray) -> _BoolArray:
    return mask & np.asarray(~binary_erosion(mask, border_value=0))
