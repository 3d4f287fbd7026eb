"""From logits to masks, and the clean-up of masks that users ask for.

All functions return new arrays. Thresholds are probabilities; they are turned into logits once, so no sigmoid is
computed. A pixel belongs to the object when its probability *exceeds* the threshold: a logit of 0, which also fills
padding, is background at the default of 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError

Mask = NDArray[np.bool_]


def probability_to_logit(threshold: float) -> float:
    """Returns the logit of a probability.

    Args:
        threshold: Probability strictly between 0 and 1.

    Raises:
        ConfigError: Not strictly between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"The threshold is {threshold}; give a probability strictly between 0 and 1, not a logit.")
    return math.log(threshold) - math.log1p(-threshold)


def logits_to_mask(logits: ArrayLike, threshold: float = 0.5) -> Mask:
    """Marks where the probability exceeds the threshold.

    Args:
        logits: Unthresholded network output of any shape. NaN counts as background.
        threshold: Probability strictly between 0 and 1.

    Returns:
        bool, of the shape of `logits`.

    Raises:
        ConfigError: The threshold is not strictly between 0 and 1.
        ImageError: The logits are not real numbers.
    """
    limit = probability_to_logit(threshold)
    return np.asarray(validation.numeric_array(logits, name="logits") > limit)


def resolve_labels(logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Combines the logits of several labels into one label map: the most probable label wins.

    Args:
        logits: (L, H, W), or (L, K, J, I): one map of logits per label, L from 1 to 65535. NaN counts as background.
        threshold: Probability strictly between 0 and 1 that a label must exceed.

    Returns:
        (H, W) or (K, J, I): l + 1 where ``logits[l]`` is the largest and exceeds the threshold (of equal logits the
        lowest label's), 0 elsewhere. uint8 for up to 255 labels, else uint16.

    Raises:
        ConfigError: The threshold is not strictly between 0 and 1.
        GeometryError: No label, more than 65535, or not one map per label.
        ImageError: The logits are not real numbers.
    """
    limit = probability_to_logit(threshold)
    values = validation.numeric_array(logits, name="logits")
    if values.ndim not in (3, 4) or not 1 <= values.shape[0] <= np.iinfo(np.uint16).max:
        raise GeometryError(
            f"The logits have shape {values.shape}; give (L, H, W) or (L, K, J, I), with 1 to 65535 labels."
        )
    dtype = np.uint8 if values.shape[0] <= np.iinfo(np.uint8).max else np.uint16
    best = values[0]
    winner: NDArray[Any] = np.asarray(best > limit).astype(dtype)
    # Label by label rather than argmax: comparisons with NaN are false, where argmax would prefer NaN.
    best = np.where(winner > 0, best, limit)
    for label, candidate in enumerate(values[1:], start=2):
        better = candidate > best
        winner[better] = label
        best = np.where(better, candidate, best)
    return winner


def expected_dice(probabilities: NDArray[np.floating[Any]], mask: NDArray[np.bool_]) -> float:
    """Say what Dice coefficient to expect of a mask if each pixel belongs to the structure with its probability.

    Args:
        probabilities: (H, W) in [0, 1], calibrated.
        mask: bool (H, W).

    Returns:
        A value in [0, 1]; 0 for an empty mask.
    """
    area = int(mask.sum())
    return 2.0 * float(probabilities[mask].sum()) / (float(probabilities.sum()) + area) if area else 0.0


def changed_bbox(before: ArrayLike | None, after: ArrayLike) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Finds the box around all pixels that differ between two masks of a slice.

    Args:
        before: (H, W), bool or integers (nonzero is object), or None for an empty mask.
        after: (H, W), bool or integers.

    Returns:
        ((row_start, row_stop), (column_start, column_stop)), half-open; None when nothing differs.

    Raises:
        GeometryError: The shapes differ.
        ImageError: Not a mask of a slice.
    """
    changed = _mask(after, ndim=(2,))
    if before is not None:
        old = _mask(before, ndim=(2,))
        validation.same_shape(changed.shape, old.shape, name="The new mask", reference="the mask before")
        changed = changed ^ old
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if rows.size == 0:
        return None
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def fill_holes(mask: ArrayLike) -> Mask:
    """Fills background that is enclosed by the object.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Background connects through pixel sides (voxel faces), so a
            contour that is closed diagonally encloses its inside.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ImageError: Not a mask.
    """
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(_mask(mask)), bool)


def keep_largest(mask: ArrayLike) -> Mask:
    """Keeps the largest connected piece; of equally large ones the first in memory order.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ImageError: Not a mask.
    """
    pieces, sizes = _pieces(_mask(mask))
    if len(sizes) == 1:
        return np.zeros(pieces.shape, bool)
    return np.asarray(pieces == 1 + int(np.argmax(sizes[1:])))


def remove_small_islands(mask: ArrayLike, min_size: int) -> Mask:
    """Removes connected pieces of fewer than `min_size` pixels.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.
        min_size: Smallest number of pixels that stays; 0 and 1 keep everything.

    Returns:
        bool, of the shape of `mask`.

    Raises:
        ConfigError: `min_size` is negative.
        ImageError: Not a mask.
    """
    if not min_size >= 0:
        raise ConfigError(f"The smallest island has {min_size} pixels; give a number of pixels from 0.")
    pieces, sizes = _pieces(_mask(mask))
    keep = sizes >= min_size
    keep[0] = False
    return np.asarray(keep[pieces])


def keep_touched(mask: ArrayLike, prompts_mask: ArrayLike) -> Mask:
    """Keeps the connected pieces that the user's positive prompts touch.

    Args:
        mask: (H, W) or (K, J, I), bool or integers. Pieces connect through sides and corners.
        prompts_mask: Of the same shape, bool or integers: nonzero where something positive was drawn or clicked.

    Returns:
        bool, of the shape of `mask`; empty when no prompt lies on the mask.

    Raises:
        GeometryError: The shapes differ.
        ImageError: Not masks.
    """
    objects, touched = _mask(mask), _mask(prompts_mask)
    validation.same_shape(touched.shape, objects.shape, name="The mask of prompts", reference="the mask")
    pieces, sizes = _pieces(objects)
    keep = np.zeros(len(sizes), bool)
    keep[pieces[touched]] = True
    keep[0] = False
    return np.asarray(keep[pieces])


def drop_small_components(mask: Mask, *, gap: int, part: float) -> Mask:
    """Drops components, connected in three dimensions, that are small beside the largest one.

    Args:
        mask: bool (slices, H, W). Components connect through sides of pixels, and from slice to slice.
        gap: So many empty slices in a row do not divide a component.
        part: Of the voxels of the largest component that another one must have, in [0, 1].
    """
    from scipy import ndimage

    if not mask.any():
        return mask
    # Closed along the axis, what lies before an empty slice touches what lies behind it.
    padded = np.pad(mask, ((gap, gap), (0, 0), (0, 0)))
    joined = ndimage.binary_closing(padded, np.ones((gap + 1, 1, 1), bool))[gap : gap + len(mask)]
    components, _ = ndimage.label(joined)
    sizes = np.bincount(components[mask])  # without the pixels that only join
    return np.asarray(mask & (sizes >= part * sizes.max())[components])


def _mask(value: ArrayLike, ndim: Sequence[int] = (2, 3)) -> Mask:
    array = validation.image_array(value, ndim=ndim, name="mask")
    if array.dtype.kind == "f":
        raise ImageError(f"The mask holds {array.dtype} values; threshold logits with logits_to_mask first.")
    return array if array.dtype == np.bool_ else array != 0


def _pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Numbers the connected pieces from 1, and counts the pixels of each (at position 0, of the background)."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return pieces, np.bincount(pieces.ravel(), minlength=1)


@dataclass(frozen=True)
class CleanUp:
    """What happens between logits and mask. Every part can be changed without a new prediction.

    Attributes:
        threshold: Probability, strictly between 0 and 1, that a pixel of the object exceeds.
        fill_holes: Whether background that the object encloses becomes object.
        smallest_island_mm2: Connected pieces with less area are removed; 0 keeps all.
        keep_touched: Whether only pieces stay that something positive was drawn on, or that were there before.

    Raises:
        ConfigError: A threshold or an area out of range.
    """

    threshold: float = 0.5
    fill_holes: bool = False
    smallest_island_mm2: float = 0.0
    keep_touched: bool = True

    def __post_init__(self) -> None:
        probability_to_logit(self.threshold)
        if not self.smallest_island_mm2 >= 0:
            raise ConfigError(f"The smallest island has {self.smallest_island_mm2} mm²; give an area from 0.")

    def mask(
        self,
        logits: NDArray[np.floating[Any]],
        *,
        anchors: NDArray[np.bool_],
        spacing_mm: tuple[float, float],
    ) -> NDArray[np.bool_]:
        """Turn logits into a mask.

        Args:
            logits: (H, W), unthresholded.
            anchors: bool (H, W): what `keep_touched` keeps the pieces under, that is positive prompts and earlier
                content of the segment.
            spacing_mm: Distance of rows and of columns in millimetres.

        Returns:
            bool (H, W).

        Raises:
            GeometryError: The shapes differ.
        """
        mask = logits_to_mask(logits, self.threshold)
        if self.keep_touched:
            mask = keep_touched(mask, anchors)
        if self.fill_holes:
            mask = fill_holes(mask)
        if self.smallest_island_mm2 > 0:
            mask = remove_small_islands(mask, int(np.ceil(self.smallest_island_mm2 / (spacing_mm[0] * spacing_mm[1]))))
        return mask


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
    validation.same_shape(neighbours.shape, prompts.shape, name="neighbours", error=PromptError)
    scribbles = np.array(prompts.scribbles)
    scribbles[1] = np.maximum(scribbles[1], inner_lines(neighbours) & (scribbles[0] == 0))
    return replace(prompts, scribbles=scribbles)


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
    row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
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
        array = validation.image_array(mask, ndim=(2,), name=f"mask of slice {index}")
        if array.dtype != np.bool_:
            raise ImageError(f"The mask of slice {index} holds {array.dtype} values, expected bool: (mask > 0).")
        shape = shape or array.shape
        validation.same_shape(
            array.shape, shape, name=f"mask of slice {index}", reference="the first mask", error=GeometryError
        )
