"""From logits to masks, and the clean-up of masks that users ask for.

All functions return new arrays. Thresholds are probabilities; they are turned into logits once, so no sigmoid is
computed. A pixel belongs to the object when its probability *exceeds* the threshold: a logit of 0, which also fills
padding, is background at the default of 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scribblesegment.data import validation
from scribblesegment.data.geometry import Box2D
from scribblesegment.data.prompts import Prompts, box_of
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError

Mask = NDArray[np.bool_]

# Negative strokes stay this far from another segment's edge, in pixels: the network was trained with strokes, and takes
# a whole segment marked as background for a verdict on the edge as well, which is where the other may be wrong.
_MARGIN_PIXELS = 3.0


def probability_to_logit(threshold: float) -> float:
    """Return the logit of a probability; a ConfigError unless it is strictly between 0 and 1."""
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"The threshold is {threshold}; give a probability strictly between 0 and 1, not a logit.")
    return math.log(threshold) - math.log1p(-threshold)


def logits_to_mask(logits: ArrayLike, threshold: float = 0.5) -> Mask:
    """Mark where the probability exceeds a threshold, strictly between 0 and 1; NaN counts as background."""
    limit = probability_to_logit(threshold)
    return np.asarray(validation.numeric_array(logits, name="logits") > limit)


def resolve_labels(logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Combine the logits of several labels into one label map: the most probable label wins.

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
    """Expect a Dice coefficient of a mask (H, W) whose pixels belong to the structure with calibrated probabilities.

    0 for an empty mask.
    """
    area = int(mask.sum())
    return 2.0 * float(probabilities[mask].sum()) / (float(probabilities.sum()) + area) if area else 0.0


def bounding_box(mask: Mask) -> tuple[tuple[int, int], ...] | None:
    """Find the half-open range of marked pixels along each axis of a mask; None when nothing is marked."""
    box = box_of(mask)
    return None if box[0].stop == 0 else tuple((side.start, side.stop) for side in box)


def changed_bbox(before: Mask | None, after: Mask) -> Box2D | None:
    """Find the box around all pixels in which two masks (H, W) differ; None as `before` is an empty mask.

    Returns:
        Half-open ((row_start, row_stop), (column_start, column_stop)); None when nothing differs.
    """
    box = bounding_box(after if before is None else before ^ after)
    return None if box is None else (box[0], box[1])


def keep_touched(mask: ArrayLike, marks: ArrayLike) -> Mask:
    """Keep the connected components that marks lie on; pixels connect through sides and corners.

    Args:
        mask: (H, W) or (K, J, I), bool or integers.
        marks: Of the same shape: nonzero where something positive was drawn or clicked.

    Raises:
        GeometryError: The shapes differ.
        ImageError: Not masks.
    """
    objects, touched = _mask(mask), _mask(marks)
    validation.same_shape(touched.shape, objects.shape, name="The mask of prompts", reference="the mask")
    components, sizes = _components(objects)
    keep = np.zeros(len(sizes), bool)
    keep[components[touched]] = True
    keep[0] = False
    return np.asarray(keep[components])


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


def unpacked(packed: NDArray[np.uint8], shape: tuple[int, int]) -> Mask:
    """Make a mask (H, W) again of what `np.packbits` made of one, eight pixels a byte."""
    return np.unpackbits(packed, count=math.prod(shape)).reshape(shape).astype(bool)


def _mask(value: ArrayLike) -> Mask:
    array = validation.image_array(value, name="mask")
    if array.dtype.kind == "f":
        raise ImageError(f"The mask holds {array.dtype} values; threshold logits with logits_to_mask first.")
    return array if array.dtype == np.bool_ else array != 0


def _components(mask: Mask) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Number the connected components from 1, and count the pixels of each (at position 0, of the background)."""
    from scipy import ndimage

    components, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return components, np.bincount(components.ravel(), minlength=1)


@dataclass(frozen=True)
class CleanUp:
    """What happens between logits and mask. Every part can be changed without a new prediction.

    Raises:
        ConfigError: A threshold or an area out of range.
    """

    threshold: float = 0.5  # probability, strictly between 0 and 1, that a pixel of the object exceeds
    fill_holes: bool = False  # whether background that the object encloses becomes object
    smallest_island_mm2: Annotated[float, Range(0)] = 0.0  # connected components with less area are removed
    keep_touched: bool = True  # whether only components stay that anchors lie on

    def __post_init__(self) -> None:
        probability_to_logit(self.threshold)
        check_ranges(self)

    def mask(self, logits: NDArray[np.floating[Any]], *, anchors: Mask, spacing_mm: tuple[float, float]) -> Mask:
        """Turn logits (H, W) into a mask.

        Args:
            logits: Unthresholded.
            anchors: bool (H, W), under which `keep_touched` keeps the components: positive prompts and earlier content
                of the segment.
            spacing_mm: Distance of rows and of columns.

        Raises:
            GeometryError: The shapes differ.
        """
        mask = logits_to_mask(logits, self.threshold)
        if self.keep_touched:
            mask = keep_touched(mask, anchors)
        if self.fill_holes:
            from scipy import ndimage

            # Background connects through pixel sides, so a contour that is closed diagonally encloses its inside.
            mask = np.asarray(ndimage.binary_fill_holes(mask), bool)
        if self.smallest_island_mm2 > 0:
            components, sizes = _components(mask)
            keep = sizes >= math.ceil(self.smallest_island_mm2 / (spacing_mm[0] * spacing_mm[1]))
            keep[0] = False
            mask = np.asarray(keep[components])
        return mask


def inner_lines(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark lines deep inside a mask (H, W), as a user would draw them through it.

    They are the ridge of the distance to the edge where that exceeds three pixels; none for thin objects.
    """
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ridge: NDArray[np.bool_] = (depth > _MARGIN_PIXELS) & (depth >= ndimage.maximum_filter(depth, size=3))
    return ridge


def with_neighbours(prompts: Prompts, other_segments: Mask) -> Prompts:
    """Add negative strokes inside other segments, the union of them (H, W), except where the user drew the object.

    Raises:
        PromptError: The shapes differ.
    """
    validation.same_shape(other_segments.shape, prompts.shape, name="other_segments", error=PromptError)
    scribbles = np.array(prompts.scribbles)
    scribbles[1] = np.maximum(scribbles[1], inner_lines(other_segments) & (scribbles[0] == 0))
    return prompts.replaced(scribbles=scribbles)


def signed_distance(mask: Mask, spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Measure how far each pixel is from the other side of a mask's outline, float32 (H, W) in millimetres.

    That is the distance to the nearest pixel outside for pixels of the mask, the negative distance to the nearest pixel
    of the mask for others, and the image's diagonal where there is no such pixel. Beyond the edge of the image nothing
    is known: a mask that touches it has no outline there.
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
        bool (H, W) masks by ascending index, of the slices between two annotated ones; empty next to an annotated slice
        without the structure, since nothing says where it ends.

    Raises:
        GeometryError: Masks of different shapes, or a spacing that is not two positive numbers.
        ImageError: A mask that is not bool (H, W).
    """
    row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
    indices = sorted(annotated)
    for index in indices:
        name = f"mask of slice {index}"
        array = validation.image_array(annotated[index], ndim=(2,), name=name)
        if array.dtype != np.bool_:
            raise ImageError(f"The {name} holds {array.dtype} values, expected bool: (mask > 0).")
        shape = annotated[indices[0]].shape
        validation.same_shape(array.shape, shape, name=name, reference="the first mask")
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
