"""One image, segmented from context sets.

Every slice is first predicted by itself, from the context sets alone. Small components are dropped from what was found,
slices that can be trusted are accepted, and propagation predicts the others again from these. A picture, or any other
image of one slice, is predicted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet, SliceContext, same_entries
from scribblesegment.data.masks import drop_small_components, resolve_labels, unpacked
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts, box_of
from scribblesegment.data.volume import SliceImage, Volume
from scribblesegment.errors import ContextError
from scribblesegment.inference.predictor import Predictor
from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, PropagationRun
from scribblesegment.propagation.confidence import confidence_of, overlap_of
from scribblesegment.propagation.prior import ShapePrior

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]

# A connected component with less than this part of the largest one's voxels is dropped, unless the context shows that
# the structure has such components: in more than this part of the context's masks.
_LESSER_PIECE, _SCATTERED_MASKS = 0.25, 0.25

# So many slices in a row without the structure divide neither a component nor a span.
_BRIDGE = 1

# Slices of a span are accepted only if one of them is trusted at least this much.
_LEAST_TRUST = 0.35


@dataclass(frozen=True)
class BatchConfig:
    """How images are segmented."""

    # Threshold and context limit hold for slices predicted by themselves as well.
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    window: tuple[float, float] | None = None  # intensities mapped to 0 and 1; None to estimate them from each image


class SegmentedImage(NamedTuple):
    """What was found in an image."""

    labels: NDArray[Any]  # uint8 or uint16 (K, J, I): 1 for the first structure, 2 for the second, and so on
    confidence: tuple[Mapping[int, float], ...]  # by structure and ascending index, of slices in which it was found


def context_axis(contexts: Sequence[ContextSet]) -> int | None:
    """The axis of the array most entries were cut along; None if they are no slices of volumes.

    Raises:
        ContextError: The sets were made along different axes.
    """
    axes = {}
    for context in contexts:
        counts = Counter(entry.axis for entry in context if entry.axis is not None)
        if counts:
            axes[context.label_name] = min(counts, key=lambda axis: (-counts[axis], axis))
    if len(set(axes.values())) > 1:
        listed = ", ".join(f"{name!r} along {'kji'[axis]}" for name, axis in axes.items())
        raise ContextError(f"The context sets were made along different axes: {listed}. Give --axis k, j or i.")
    return next(iter(axes.values()), None)


def image_axis(volume: Volume, preferred: int | None) -> int:
    """Choose the axis slices are taken along.

    An axis of one slice comes first, then the preferred one, then the one with the largest spacing (of equal ones the
    first), along which volumes are usually cut.
    """
    flat = [axis for axis in range(3) if volume.shape[axis] == 1]
    if flat:
        return flat[0]
    if preferred is not None:
        return preferred
    spacing = volume.spacing_kji_mm
    return next(axis for axis in range(3) if spacing[axis] >= max(spacing) * (1 - 1e-6))  # headers round


def segment_image(
    predictor: Predictor, volume: Volume, contexts: Sequence[ContextSet], axis: int, config: BatchConfig
) -> SegmentedImage:
    """Segment one structure for each context set (none of them empty), slice by slice along an axis of the array.

    Structures do not overlap: of several that claim a pixel, the larger logit decides.
    """
    intensities = IntensityRange(*config.window) if config.window else IntensityRange.estimate(volume.array)
    predicted = ContextPrediction(predictor, volume, axis, contexts, config.propagation, intensities)
    labels = np.zeros(volume.shape, np.uint8 if len(contexts) <= np.iinfo(np.uint8).max else np.uint16)
    planes = np.moveaxis(labels, axis, 0)
    confidence: list[dict[int, float]] = [{} for _ in contexts]
    annotated = {}
    is_volume = len(planes) > 1
    for number, context in enumerate(contexts):
        accepted = {0: True}
        if is_volume:
            if not _is_scattered(context):
                predicted.clean_up(number)
            areas, sure = predicted.areas[number], predicted.confidence[number]
            accepted = choose_accepted(areas, sure, predicted.overlaps(number))
        masks = {index: predicted.mask(number, index) for index in accepted}
        for index, is_present in accepted.items():
            if is_present and masks[index].any():
                planes[index][masks[index]] = number + 1
                confidence[number][index] = predicted.confidence[number][index]
        if accepted and is_volume:
            annotated[number + 1] = AnnotatedSegment(masks, context.label_name, context)
    if annotated:
        run = PropagationRun(predictor, volume, annotated, axis, config=config.propagation, intensity_range=intensities)
        for label, result in run.finish().items():
            for index, found in result.slices.items():
                mask = found.mask
                if mask.any():  # it may have lost all pixels to another structure
                    planes[index][mask] = label
                    confidence[label - 1][index] = found.confidence
    return SegmentedImage(labels, tuple(dict(sorted(one.items())) for one in confidence))


def _is_scattered(context: ContextSet) -> bool:
    """Whether a structure has components much smaller than the largest one, as lesions and vessels have."""
    from scipy import ndimage

    masks = [entry.mask for entry in context if entry.mask.any()]
    sizes = [np.bincount(ndimage.label(mask)[0].ravel())[1:] for mask in masks]
    return sum(bool(one.min() < _LESSER_PIECE * one.max()) for one in sizes) > _SCATTERED_MASKS * len(masks)


class ContextPrediction:
    """Every slice of a volume predicted by itself, from the context sets alone."""

    areas: list[list[int]]  # by structure and slice, pixels of the mask
    confidence: list[list[float]]  # by structure and slice, the expected Dice coefficient in [0, 1]; 0 without a mask

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        axis: int,
        contexts: Sequence[ContextSet],
        config: PropagationConfig,
        intensities: IntensityRange,
    ) -> None:
        """Predict all slices; of structures that claim the same pixel, the larger logit decides."""
        self.areas, self.confidence = [[] for _ in contexts], [[] for _ in contexts]
        # Packed, eight pixels a byte, and None where empty: the masks of a whole volume take a lot of memory.
        self._packed: list[list[NDArray[np.uint8] | None]] = [[] for _ in contexts]
        height, width = (side for other, side in enumerate(volume.shape) if other != axis)
        self._shape = (height, width)
        self._predictor, self._config = predictor, config
        self._active: ContextSet | None = None
        predictor.set_context(None)  # what an earlier image left there would be encoded for this one
        choices = [SliceContext(context) for context in contexts]
        for index in range(volume.shape[axis]):
            self._predict(volume.slice(axis, index), choices, intensities)

    def mask(self, structure: int, index: int) -> Mask:
        """The mask of a structure in a slice, a new array bool (H, W)."""
        packed = self._packed[structure][index]
        return np.zeros(self._shape, bool) if packed is None else unpacked(packed, self._shape)

    def overlaps(self, structure: int) -> list[float]:
        """Dice coefficients of each slice's mask and the next one's; 0 where one of them is empty."""
        areas, found = self.areas[structure], []
        mask = self.mask(structure, 0)
        for index in range(1, len(areas)):
            before, mask = mask, self.mask(structure, index)
            found.append(overlap_of(before, mask) if areas[index - 1] and areas[index] else 0.0)
        return found

    def clean_up(self, structure: int) -> None:
        """Drop components, connected in three dimensions, that are small beside the structure's largest one."""
        areas = self.areas[structure]
        present = [index for index, area in enumerate(areas) if area]
        if not present:
            return
        # Only the box around the structure is unpacked.
        union = np.zeros(self._shape, bool)
        for index in present:
            union |= self.mask(structure, index)
        box, first = box_of(union), present[0]
        masks = np.stack([self.mask(structure, index)[box] for index in range(first, present[-1] + 1)])
        kept = drop_small_components(masks, gap=_BRIDGE, part=_LESSER_PIECE)
        for index in present:
            area = int(kept[index - first].sum())
            if area < areas[index]:
                mask = np.zeros(self._shape, bool)
                mask[box] = kept[index - first]
                areas[index], self._packed[structure][index] = area, np.packbits(mask) if area else None
                self.confidence[structure][index] *= bool(area)

    def _predict(self, piece: SliceImage, choices: Sequence[SliceContext], intensities: IntensityRange) -> None:
        image, limit = intensities.normalize(piece.image), self._config.context_limit
        chosen = [choice.chosen(image, spacing_mm=piece.spacing_mm, limit=limit) for choice in choices]
        if not same_entries(chosen[0], self._active):
            self._set_context(None)  # else a context that is about to be replaced would be encoded for the new image
        self._predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=intensities)
        logits = np.empty((len(chosen), *self._shape), np.float32)
        for structure, context in enumerate(chosen):
            if not same_entries(context, self._active):
                self._set_context(context)
            logits[structure] = self._predictor.predict(Prompts.empty(self._shape)).logits
        labels = resolve_labels(logits, self._config.threshold)
        for structure, found in enumerate(logits):
            mask = labels == structure + 1
            area = int(mask.sum())
            self.areas[structure].append(area)
            self._packed[structure].append(np.packbits(mask) if area else None)
            self.confidence[structure].append(own_confidence(found, mask) if area else 0.0)

    def _set_context(self, context: ContextSet | None) -> None:
        self._predictor.set_context(context)
        self._active = context


def own_confidence(logits: NDArray[np.float32], mask: Mask) -> float:
    """The expected Dice coefficient of a mask (not empty) by its calibrated logits alone, without adjacent slices."""
    whole = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    as_expected = ShapePrior(whole, np.where(mask, np.float32(1), np.float32(-1)), mask, 0.0, logits)
    return confidence_of(logits, mask, as_expected, consistency=0.0)


def choose_accepted(areas: Sequence[int], confidence: Sequence[float], overlaps: Sequence[float]) -> dict[int, bool]:
    """Choose the slices that are accepted; propagation predicts the others again, to wherever the structure then ends.

    A slice's trust is its confidence, halved where the adjacent slices show nothing of the same shape. Consecutive
    slices that show the structure are a span; those of it are accepted that are trusted as much as usual, and between
    two spans one slice as not showing the structure, which keeps propagation from going on there.

    Args:
        areas: Of the masks in all slices along the axis, in order; 0 without the structure.
        confidence: Of the same slices, in [0, 1].
        overlaps: Dice coefficients of each mask and the next one; one less.

    Returns:
        By ascending index whether the accepted slice shows the structure; empty if nothing is trusted.
    """
    is_present = np.asarray(areas, int) > 0
    # Adjacent slices confirm a shape that was predicted independently; at the ends of the volume there is only one.
    beside = np.concatenate([overlaps[:1], overlaps, overlaps[-1:]]) if len(overlaps) else np.ones(2)
    trust = np.where(is_present, confidence, 0.0) * (0.5 + 0.5 * (beside[:-1] + beside[1:]) / 2)
    trusted = [span for span in _spans(is_present) if trust[span].max() >= _LEAST_TRUST]
    accepted: dict[int, bool] = {}
    for span in trusted:
        usual = np.median(trust[span])
        accepted.update({index: True for index in span if trust[index] >= usual})
        if span is not trusted[-1]:
            accepted[span[-1] + 1] = False
    return accepted


def _spans(is_present: Mask) -> list[list[int]]:
    """Slices that show the structure, span by span, with few others between those of one."""
    found: list[list[int]] = []
    for index in np.flatnonzero(is_present).tolist():
        if found and index - found[-1][-1] - 1 <= _BRIDGE:
            found[-1].append(index)
        else:
            found.append([index])
    return found
