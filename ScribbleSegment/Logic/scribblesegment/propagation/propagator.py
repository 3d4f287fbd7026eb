"""From a few accepted slices to the rest of a volume, slice by slice along one of its axes.

Slices are taken outward from the accepted ones in both directions. Each is predicted from a context of segmented slices
and from what its nearest known neighbours hand on (`scribblesegment.propagation.neighbours`). Between two accepted
slices two fronts meet halfway, and every slice there is predicted once, with both sides as neighbours; beyond the
outermost ones a front goes on until the structure ends (`scribblesegment.propagation.stretches`).

A correction is one more accepted slice. Given the earlier result, a new run predicts again only what lies between the
correction and the accepted slices on both sides of it, or the end: every other slice lies between accepted slices that
did not change. (The correction is also one more context entry, which could change the others a little; they are kept.)
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scribblesegment import checks
from scribblesegment.exceptions import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation.definitions import (
    AnnotatedSegment,
    Mask,
    Propagation,
    PropagationConfig,
)
from scribblesegment.propagation.run import PropagationRun, SlicePredictor
from scribblesegment.propagation.segment import SegmentState
from scribblesegment.volume import Volume

if TYPE_CHECKING:
    from scribblesegment.context import ContextSet

_ONLY = 1  # the label of a segment that is propagated alone


class Propagator:
    """Propagates accepted slices through volumes.

    A predictor that takes no context sets works too: it is given strokes through the expected shape and around it,
    besides the neighbour's logits (`PropagationConfig.strokes`).

    The predictor is left with the image and context of the last slice. Whoever shares it sets their own again.
    """

    def __init__(self, predictor: SlicePredictor, *, config: PropagationConfig | None = None) -> None:
        """Use a predictor, with the default settings if none are given."""
        self.predictor = predictor
        self.config = config or PropagationConfig()

    def run(
        self,
        volume: Volume,
        annotated: Mapping[int, Mask],
        axis: int | str,
        *,
        label_name: str = "",
        context: ContextSet | None = None,
        previous: Propagation | None = None,
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
        keep_logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Propagation:
        """Propagate one segment to the end.

        Args:
            volume: The image.
            annotated: bool (H, W), the accepted masks by slice index; an empty one says that the structure is absent
                there, and ends the propagation.
            axis: Axis of the array, 0, 1, 2 or "k", "j", "i".
            label_name: What the structure is called.
            context: Segmented images of the same structure from elsewhere, for example other patients.
            previous: An earlier result for the same volume and axis; what it has is kept where a change of the accepted
                slices cannot reach, and goes on where it was cancelled. Range and protection should be the same.
            index_range: Half-open range of slices that may be segmented; all by default.
            protected: bool (K, J, I), voxels that are not segmented: other segments, or what is masked.
            source: Name of the volume, as in the entries of `context`; needed if these may show slices of it.
            keep_logits: Whether the slices of the result have their logits, 4 bytes a pixel.
            progress: Told the part done and a text with the speed after each slice.
            cancelled: Asked before each slice whether to stop; what is done is kept.

        Raises:
            PromptError: No accepted slice shows the structure.
            GeometryError: An unknown axis, a slice or range outside the volume, or a shape that does not fit.
            ImageError: An accepted mask or the protection is no mask.
            ConfigError: Context for a network that takes none, or an earlier result of something else.
        """
        run = self.iterate_segments(
            volume,
            {_ONLY: AnnotatedSegment(annotated, label_name, context, previous)},
            axis,
            index_range=index_range,
            protected=protected,
            source=source,
            keep_logits=keep_logits,
            progress=progress,
            cancelled=cancelled,
        )
        return run.finish()[_ONLY]

    def iterate(
        self,
        volume: Volume,
        annotated: Mapping[int, Mask],
        axis: int | str,
        *,
        label_name: str = "",
        context: ContextSet | None = None,
        previous: Propagation | None = None,
        **options: Any,
    ) -> PropagationRun:
        """Propagate one segment, slice by slice; as `run`, with its further options.

        Returns:
            An iterator of slices, whose `result` may be asked for at any time. To hand in a correction, leave off and
            start again with the mask added to `annotated` and the result as `previous`.
        """
        segments = {_ONLY: AnnotatedSegment(annotated, label_name, context, previous)}
        return self.iterate_segments(volume, segments, axis, **options)

    def iterate_segments(
        self,
        volume: Volume,
        segments: Mapping[int, AnnotatedSegment],
        axis: int | str,
        *,
        index_range: tuple[int, int] | None = None,
        protected: Mask | None = None,
        source: str = "",
        keep_logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> PropagationRun:
        """Propagate several segments in one pass, slice by slice.

        Segments whose fronts come to a slice at the same time share its image. Where two claim a pixel, the larger
        logit decides, also if they come to the slice at different times: a slice may then be given again, without the
        pixels it lost. Accepted slices, and those kept from earlier results, keep their pixels.

        Args:
            volume: The image.
            segments: By label, from 1; their order does not matter.
            axis: Axis of the array, 0, 1, 2 or "k", "j", "i".
            index_range: See `run`.
            protected: See `run`.
            source: See `run`.
            keep_logits: See `run`.
            progress: See `run`.
            cancelled: See `run`.

        Raises:
            ScribbleSegmentError: As `run`. Also PromptError without any segment.
        """
        first = volume.slice(axis, 0)
        length, shape = volume.shape[first.axis], (int(first.image.shape[0]), int(first.image.shape[1]))
        if not segments:
            raise PromptError("There is no segment to propagate. Give one at least, with an accepted slice.")
        if "context" not in self.predictor.capabilities and any(one.context for one in segments.values()):
            raise ConfigError(
                "The network in use takes no context sets, but one was given. Choose a network that segments in "
                "context, or leave the context out."
            )
        checked_range = _checked_range(index_range, length)
        states = [
            SegmentState(
                label,
                segments[label],
                axis=first.axis,
                axis_length=length,
                slice_shape=shape,
                index_range=checked_range,
                config=self.config,
                keep_logits=keep_logits,
            )
            for label in sorted(segments)
        ]
        return PropagationRun(
            self.predictor,
            volume,
            first.axis,
            states,
            {label: segment.context for label, segment in segments.items()},
            config=self.config,
            protected=_checked_protection(protected, volume, first.axis),
            source=source or f"volume {uuid.uuid4().hex}",
            progress=progress,
            cancelled=cancelled,
        )


def _checked_range(index_range: tuple[int, int] | None, length: int) -> tuple[int, int]:
    if index_range is None:
        return 0, length
    try:
        start, stop = (operator.index(bound) for bound in index_range)
    except (TypeError, ValueError) as cause:
        raise GeometryError(
            f"The range of slices is {index_range!r}; give two whole numbers, start and stop."
        ) from cause
    if not 0 <= start < stop <= length:
        raise GeometryError(
            f"The range of slices from {start} to {stop} (excluded) is empty or outside the volume; choose from 0 to "
            f"{length}."
        )
    return start, stop


def _checked_protection(protected: Mask | None, volume: Volume, axis: int) -> Mask | None:
    """Bring the slices of protected voxels to the front, without copying."""
    if protected is None:
        return None
    array = checks.image_array(protected, ndim=(3,), name="protected")
    if array.dtype != np.bool_:
        raise ImageError(f"protected holds {array.dtype} values, expected bool: (labels > 0).")
    checks.same_shape(array.shape, volume.shape, name="protected", reference="the volume")
    return np.moveaxis(array, axis, 0)
