"""The job behind `scribblesegment propagate`: from a few annotated slices of a volume to the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.commands.job_files import (
    check_format_holds,
    check_labelmap_target,
    check_same_grid,
    listed,
    listed_slices,
    show_download,
)
from scribblesegment.commands.labelled_prompts import AXES
from scribblesegment.commands.slice_display import SliceDisplay
from scribblesegment.commands.terminal_bar import terminal_bar
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import PromptError
from scribblesegment.inference.predictor import Predictor
from scribblesegment.io import read_labelmap, read_volume, write_labelmap
from scribblesegment.io.segmentation import default_segment
from scribblesegment.propagation import (
    AnnotatedSegment,
    Propagation,
    PropagationConfig,
    PropagationRun,
    Propagator,
)

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet

# The axis that slices were annotated along must be this much more likely than the next one.
_CLEARLY = 2.0


class LoadSlicePredictor(Protocol):
    """What loads a network: `scribblesegment.load_predictor`, or a stand-in for it."""

    def __call__(self, name: str, *, device: str, progress: Callable[[float, str], None]) -> Predictor:
        """Load the network `name` on `device`, telling `progress` of a download."""


@dataclass(frozen=True)
class PropagateRequest:
    """What the user asked for.

    Attributes:
        image: File or DICOM folder to segment.
        annotated: Label map or segmentation with some annotated slices.
        output: Label map or segmentation to write, in the format of its extension.
        axis: Axis of the array the slices lie along (0 = K, 1 = J, 2 = I); None finds it.
        index_range: First slice to segment and one past the last; None for all.
        complete: Whether a segment that is missing in an annotated slice is absent there.
        contexts: Files, folders or tasks of context sets.
        model: Name or path of the network.
        threshold: Probability in (0, 1) from which a pixel belongs to a segment.
        device: "auto" or a torch device name.
    """

    image: Path
    annotated: Path
    output: Path
    axis: int | None = None
    index_range: tuple[int, int] | None = None
    complete: bool = False
    contexts: tuple[str, ...] = ()
    model: str = "default"
    threshold: float = 0.5
    device: str = "auto"


def propagate(request: PropagateRequest, *, load: LoadSlicePredictor, say: Callable[[str], None]) -> None:
    """Propagate annotated slices through a volume and write the result.

    Args:
        request: What to do.
        load: Loads the network.
        say: Told, line by line, what was done.

    Raises:
        ScribbleSegmentError: Whatever is wrong with files, annotation, context or network; the output is then not
            touched.
        KeyboardInterrupt: The user interrupted. What was done until then has been written, if anything was.
    """
    config = PropagationConfig(threshold=request.threshold)
    check_labelmap_target(request.output, (request.image, request.annotated))
    labelmap = read_labelmap(request.annotated)
    volume = read_volume(request.image)
    check_format_holds(request.output, volume)
    check_same_grid(request.annotated, labelmap, request.image, volume, what="annotation")
    if not labelmap.array.any():
        raise PromptError(
            f"{request.annotated} holds no annotated slice. Segment at least one slice of the image first."
        )
    axis = annotated_axis(labelmap) if request.axis is None else request.axis
    segments = _segments(labelmap)
    annotated = annotated_slices(labelmap, axis, segments, complete=request.complete)
    contexts = _contexts(request.contexts, segments)
    _say_what_is_given(say, volume, axis, annotated)
    predictor = load(request.model, device=request.device, progress=show_download)
    run = Propagator(predictor, config=config).iterate_segments(
        volume,
        {one.label: AnnotatedSegment(annotated[one.label], one.name, contexts.get(one.label)) for one in segments},
        axis,
        index_range=request.index_range,
        source=request.image.name,
    )
    labels, interrupted = _collect(run, labelmap, axis)
    if interrupted and not run.made:
        raise KeyboardInterrupt
    write_labelmap(request.output, LabelVolume(labels, volume.ijk_to_ras, labelmap.segments))
    _tell(run, axis, segments, say)
    say(f"wrote {request.output}" + (", with what was done until the interruption" if interrupted else ""))
    if interrupted:
        raise KeyboardInterrupt


def annotated_axis(labelmap: Volume) -> int:
    """Find the axis that some slices of a label map were annotated along.

    Along that axis few slices hold labels, with gaps between them; along the others all do across the structure. The
    axis with the smallest ``count ** 2 / extent`` is taken: the number of slices with labels, times the part they make
    up between the first and the last of them.

    Raises:
        PromptError: No axis stands out.
    """
    held = [np.zeros(side, bool) for side in labelmap.shape]
    for index, plane in enumerate(labelmap.array):  # plane by plane: a mask of the whole would need as much again
        marked = plane != 0
        held[0][index] = marked.any()
        held[1] |= marked.any(axis=1)
        held[2] |= marked.any(axis=0)
    score = []
    for slices, side in zip(held, labelmap.shape, strict=True):
        indices = np.flatnonzero(slices)
        # Along an axis of one voxel there is nowhere to go.
        score.append(len(indices) ** 2 / (indices[-1] + 1 - indices[0]) if side > 1 else math.inf)
    best, second, _ = sorted(range(3), key=lambda axis: score[axis])
    if score[best] * _CLEARLY > score[second]:
        raise PromptError(
            "It cannot be seen along which axis slices were annotated: with labels are "
            + ", ".join(listed_slices(axis, np.flatnonzero(held[axis]).tolist()) for axis in range(3))
            + ". Give --axis k, j or i."
        )
    return best


def annotated_slices(
    labelmap: Volume, axis: int, segments: Sequence[Segment], *, complete: bool
) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """Cut the accepted masks out of a label map.

    Args:
        labelmap: Labels of the annotated slices, 0 elsewhere.
        axis: Axis they lie along.
        segments: Whose masks are wanted.
        complete: Whether every annotated slice shows all segments, so that a missing one is absent there. Otherwise
            nothing is said about segments that do not occur in a slice.

    Returns:
        For each label, bool (H, W) masks by slice index.
    """
    found: dict[int, dict[int, NDArray[np.bool_]]] = {segment.label: {} for segment in segments}
    for index, plane in enumerate(np.moveaxis(labelmap.array, axis, 0)):
        present = set(np.unique(plane).tolist()) if plane.any() else set()
        for label, masks in found.items():
            if label in present or (complete and present):
                masks[index] = np.asarray(plane == label)
    return found


def _segments(labelmap: LabelVolume) -> list[Segment]:
    """Give the segments that occur, by label, with names and colours."""
    named = {segment.label: segment for segment in labelmap.segments}
    return [named.get(label) or default_segment(label) for label in labelmap.labels_present()]


def _contexts(chosen: Sequence[str], segments: Sequence[Segment]) -> dict[int, ContextSet]:
    if not chosen:
        return {}
    from scribblesegment.commands.context_choice import contexts_by_label, open_context

    return contexts_by_label([open_context(one) for one in chosen], segments)


def _collect(run: PropagationRun, labelmap: LabelVolume, axis: int) -> tuple[NDArray[Any], bool]:
    """Write slices into a copy of the label map as they come; returns it, and whether the user interrupted."""
    labels = np.array(labelmap.array)
    planes = np.moveaxis(labels, axis, 0)
    with terminal_bar(run.remaining, "propagating", "slice") as bar:
        try:
            for piece in run:
                planes[piece.index][piece.mask] = piece.label
                bar.total = run.made + run.remaining  # a structure that ends leaves less to do
                bar.update(run.made - bar.n)
        except KeyboardInterrupt:
            return labels, True
    return labels, False


def _say_what_is_given(
    say: Callable[[str], None], volume: Volume, axis: int, annotated: dict[int, dict[int, NDArray[np.bool_]]]
) -> None:
    indices = sorted({index for masks in annotated.values() for index in masks})
    plane = SliceDisplay.radiological(volume.ijk_to_ras, axis).plane
    say(f"annotated: {listed_slices(axis, indices)} ({plane})")


def _tell(run: PropagationRun, axis: int, segments: Sequence[Segment], say: Callable[[str], None]) -> None:
    for segment in segments:
        say(f"  {segment.label}  {segment.name}: {_summary(run.result()[segment.label], axis)}")
    say(f"{run.made} slices predicted, {run.slices_per_second:.1f} slices per second")


def _summary(result: Propagation, axis: int) -> str:
    name = AXES[axis]
    if not result.slices:
        return "no slice propagated"
    parts = [f"{len(result.slices)} slices {name}:{listed(list(result.slices))}"]
    confidence = {index: piece.confidence for index, piece in result.slices.items()}
    worst = min(confidence, key=lambda index: confidence[index])
    mean = sum(confidence.values()) / len(confidence)
    parts.append(f"confidence {mean:.2f}, least {confidence[worst]:.2f} at {name}:{worst}")
    parts += [f"{_direction(end.direction)} {name}:{end.index} {end.reason.value}" for end in result.stopped]
    proposal = "none" if result.next_slice is None else f"{name}:{result.next_slice}"
    parts.append(f"next slice worth correcting: {proposal}")
    return "; ".join(parts)


def _direction(direction: int) -> str:
    return "after" if direction > 0 else "before"
