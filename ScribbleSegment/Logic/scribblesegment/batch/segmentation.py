"""One image, segmented from context sets.

A first look predicts every slice by itself. What it found is cleaned of small pieces, slices that can be trusted are
accepted (`scribblesegment.batch.acceptance`), and propagation makes the others anew from these. A picture, or any other
image of one slice, is predicted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.batch.acceptance import AcceptanceConfig, choose_accepted
from scribblesegment.batch.first_look import FirstLook
from scribblesegment.batch.pieces import is_scattered
from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ContextError
from scribblesegment.inference.predictor import Predictor
from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, Propagator


@dataclass(frozen=True)
class BatchConfig:
    """How images are segmented.

    Attributes:
        propagation: How slices are carried on; its threshold and context limit hold for the first look as well.
        acceptance: Which slices of the first look are carried on.
    """

    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    acceptance: AcceptanceConfig = field(default_factory=AcceptanceConfig)


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """What became of an image.

    Attributes:
        axis: Axis of the array its slices were taken along.
        labels: uint8 or uint16 (K, J, I): 1 for the first structure, 2 for the second, and so on.
        confidence: For each structure, in [0, 1] by ascending index, of the slices in which it was found.
    """

    axis: int
    labels: NDArray[Any]
    confidence: tuple[Mapping[int, float], ...]


def context_axis(contexts: Sequence[ContextSet]) -> int | None:
    """Tell the axis of the array most entries were cut along; None if they are no slices of volumes.

    Raises:
        ContextError: The sets were made along different axes.
    """
    axes = {}
    for context in contexts:
        counts = Counter(entry.axis for entry in context if entry.axis is not None)
        if counts:
            axes[context.label_name] = min(counts, key=lambda axis: (-counts[axis], axis))
    if len(set(axes.values())) > 1:
        told = ", ".join(f"{name!r} along {'kji'[axis]}" for name, axis in axes.items())
        raise ContextError(f"The context sets were made along different axes: {told}. Give --axis k, j or i.")
    return next(iter(axes.values()), None)


def image_axis(volume: Volume, preferred: int | None) -> int:
    """Choose the axis slices are taken along.

    Args:
        volume: The image.
        preferred: The axis to take if the image has several slices along each; None for the one with the largest
            spacing (of equal ones the first), along which volumes are usually cut.
    """
    flat = [axis for axis in range(3) if volume.shape[axis] == 1]
    if flat:
        return flat[0]
    if preferred is not None:
        return preferred
    spacing = volume.spacing_kji_mm
    largest = max(spacing)
    return next(axis for axis in range(3) if spacing[axis] >= largest * (1 - 1e-6))  # headers round


def segment_image(
    predictor: Predictor,
    volume: Volume,
    contexts: Sequence[ContextSet],
    axis: int,
    config: BatchConfig,
) -> SegmentedImage:
    """Segment one structure for each context set.

    Structures do not overlap: of several that claim a pixel, the larger logit decides.

    Args:
        predictor: Segments in context.
        volume: The image.
        contexts: Of each structure; one at least, none of them empty.
        axis: Axis of the array the slices lie along.
        config: Settings.
    """
    first = FirstLook(
        predictor,
        volume,
        axis,
        contexts,
        context_limit=config.propagation.context_limit,
        threshold=config.propagation.threshold,
    )
    labels = np.zeros(volume.shape, np.uint8 if len(contexts) <= np.iinfo(np.uint8).max else np.uint16)
    planes = np.moveaxis(labels, axis, 0)
    confidence: list[dict[int, float]] = [{} for _ in contexts]
    annotated = {}
    is_volume = len(planes) > 1
    for number, context in enumerate(contexts):
        accepted = {0: True}
        if is_volume:
            rule = config.acceptance
            if not is_scattered(context, rule.lesser_piece):
                first.drop_lesser_pieces(number, bridge=rule.bridge, part=rule.lesser_piece)
            accepted = choose_accepted(first.looks(number), rule)
        masks = {index: first.mask(number, index) for index in accepted}
        for index, is_shown in accepted.items():
            if is_shown and masks[index].any():
                planes[index][masks[index]] = number + 1
                confidence[number][index] = first.confidence(number, index)
        if accepted and is_volume:
            annotated[number + 1] = AnnotatedSegment(masks, context.label_name, context)
    if annotated:
        run = Propagator(predictor, config=config.propagation).iterate_segments(volume, annotated, axis)
        for label, result in run.finish().items():
            for index, found in result.slices.items():
                mask = found.mask
                if mask.any():  # it may have lost all pixels to another structure
                    planes[index][mask] = label
                    confidence[label - 1][index] = found.confidence
    return SegmentedImage(axis, labels, tuple(dict(sorted(one.items())) for one in confidence))
