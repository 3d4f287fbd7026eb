"""`scribblesegment propagate`: from a few annotated slices of a volume to the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.cli.files import (
    check_outputs,
    intensities_of,
    listed,
    listed_slices,
    load_predictor,
    named_segments,
    open_context,
    progress_bar,
    read_image,
    write_result,
)
from scribblesegment.cli.labelled_prompts import LabelledPrompts, Strokes
from scribblesegment.cli.options import (
    AXES,
    Argument,
    Device,
    DisplayWindow,
    Model,
    Output,
    Series,
    Threshold,
    read_axis,
    read_range,
)
from scribblesegment.cli.pictures import SliceDisplay
from scribblesegment.cli.segment import predict_slices
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import ContextError, PromptError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.inference.predictor import Predictor
    from scribblesegment.propagation import Propagation, PropagationRun, VoxelPrompts

_START = "where to start, one of these"

# The axis that slices were annotated along must be this much more likely than the next one.
_CLEARLY = 2.0


def propagate(
    image: Annotated[Path, Argument("VOLUME", ".nrrd, .nii.gz, .mha, ... or a DICOM folder")],
    *,
    output: Output,
    annotated: Annotated[
        Path | None, Argument("--annotated SEG", "segmentation of some slices, on the same grid", group=_START)
    ] = None,
    scribbles: Annotated[
        Path | None,
        Argument("--scribbles LABELMAP", "strokes: the slices they lie in are segmented first", group=_START),
    ] = None,
    axis: Annotated[
        int | None,
        Argument(
            "--axis AXIS",
            "k, j or i: axis the annotated slices lie along. Default: the one along which few slices have labels, or "
            "as segment chooses it for strokes",
            read=read_axis,
        ),
    ] = None,
    index_range: Annotated[
        tuple[int, int] | None,
        Argument("--range FIRST-LAST", "segment only these slices, both included: 20-90", read=read_range),
    ] = None,
    complete: Annotated[
        bool,
        Argument(
            "--complete", "every annotated slice shows all segments: where one is missing it is absent, and ends there"
        ),
    ] = False,
    contexts: Annotated[
        tuple[str, ...],
        Argument(
            "--context FILE_OR_TASK",
            "segmented images from elsewhere: a context set's file or folder, or the name of a task; may be given "
            "again, each set for the segment of its name",
        ),
    ] = (),
    series: Series = None,
    window: DisplayWindow = None,
    model: Model = "default",
    threshold: Threshold = 0.5,
    crossing: Annotated[
        bool, Argument("--no-crossing", "strokes count only in slices they were painted in, not in those they cross")
    ] = True,
    device: Device = "auto",
    load: Callable[..., Any] = load_predictor,
) -> None:
    """Segment the rest of a volume from a few annotated slices, or from strokes.

    The annotation is a label map or segmentation on the image's grid in which some slices along one axis are segmented,
    one segment or several. From there slices are segmented outward in both directions until the structure ends.
    Annotated slices stay as they are; names and colours of segments are kept. Strokes are painted as for segment, in
    any view: the slices they were painted in are segmented, and stand for annotated ones; in slices that they cross
    they are prompts. What is done when Ctrl-C is pressed is written.

    Examples:
      scribblesegment propagate ct.nii.gz --annotated few.seg.nrrd -o all.seg.nrrd
      scribblesegment propagate mri_folder --annotated few.seg.nrrd -o all.seg.nrrd --axis i --range 20-90
      scribblesegment propagate ct.nii.gz --annotated few.seg.nrrd -o all.seg.nrrd --context Liver
      scribblesegment propagate ct.nii.gz --scribbles strokes.seg.nrrd -o all.seg.nrrd
    """
    from scribblesegment.io import read_labelmap
    from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, PropagationRun, VoxelPrompts

    config = PropagationConfig(threshold=threshold)
    source = annotated or scribbles
    if source is None or (annotated is not None and scribbles is not None):
        raise PromptError("Give what to start from: either --annotated or --scribbles.")
    check_outputs(output, None, (image, source))
    volume = read_image(image, output, series)
    labelmap = read_labelmap(source, grid=volume)
    segments = named_segments(labelmap.labels_present(), labelmap.segments)
    if not segments:
        remedy = (
            "stroke. Paint at least one pixel of the object" if source is scribbles else "annotated slice. Segment one"
        )
        raise PromptError(f"{source} holds no {remedy}.")
    intensity_range, predictor = intensities_of(volume, window), None
    prompts: dict[int, VoxelPrompts] = {}
    if scribbles is not None:
        predictor, strokes = load(model, device=device), Strokes.of(labelmap)
        labelmap, axis = _segment_strokes(predictor, volume, labelmap, strokes, axis, intensity_range, threshold)
        if crossing:
            kji = strokes.voxels.astype(np.int64)
            prompts = {one.label: VoxelPrompts(kji, strokes.labels == one.label) for one in segments}
    axis = annotated_axis(labelmap) if axis is None else axis
    masks = annotated_slices(labelmap, axis, segments, complete=complete)
    context = contexts_by_label([open_context(one) for one in contexts], segments)
    indices = sorted({index for of_segment in masks.values() for index in of_segment})
    plane = SliceDisplay.radiological(volume.ijk_to_ras, axis).plane
    print(f"annotated: {listed_slices(axis, indices)} ({plane})")
    run = PropagationRun(
        predictor or load(model, device=device),
        volume,
        {
            one.label: AnnotatedSegment(
                masks[one.label], one.name, context.get(one.label), prompts=prompts.get(one.label)
            )
            for one in segments
        },
        axis,
        config=config,
        index_range=index_range,
        source=image.name,
        intensity_range=intensity_range,
    )
    labels = np.array(labelmap.array)
    interrupted = _run_into(labels, run, axis)
    if interrupted and not run.made:
        raise KeyboardInterrupt
    write_result(output, LabelVolume(labels, volume.ijk_to_ras, labelmap.segments), image, series)
    for segment in segments:
        print(f"  {segment.label}  {segment.name}: {_summary(run.result()[segment.label], AXES[axis])}")
    print(f"{run.made} slices predicted, {run.slices_per_second:.1f} slices per second")
    print(f"wrote {output}" + (", with what was done until the interruption" if interrupted else ""))
    if interrupted:
        raise KeyboardInterrupt


def _segment_strokes(
    predictor: Predictor,
    volume: Volume,
    labelmap: LabelVolume,
    strokes: Strokes,
    axis: int | None,
    intensity_range: IntensityRange,
    threshold: float,
) -> tuple[LabelVolume, int]:
    """Segment the slices that strokes were painted in; also returns the axis they are slices of."""
    drawn = LabelledPrompts(strokes, (), None)
    likely, held = drawn.find_slices(None if axis is None else (axis, None))
    labels_there = np.unique(strokes.labels).tolist()
    painted = {
        one: {label: strokes.painted_in(one, label) for label in labels_there}
        for one in ((likely, *({0, 1, 2} - {likely})) if axis is None else (axis,))
    }
    axis = next((one for one, of_labels in painted.items() if all(of_labels.values())), likely)
    # Where nothing of a label was painted in one slice, all that it crosses are segmented.
    chosen = {label: found or set(held) for label, found in painted[axis].items()}
    indices = sorted(set().union(*chosen.values()) & set(drawn.find_slices((axis, None))[1]))
    images, prompts = [volume.slice(axis, n) for n in indices], [drawn.in_slice(axis, n) for n in indices]
    results = predict_slices(predictor, images, prompts, intensity_range, threshold, all_pieces=False)
    labels = np.zeros_like(labelmap.array)
    for index, result in zip(indices, results, strict=True):
        answered = [label for label in labels_there if index in chosen[label]]
        np.moveaxis(labels, axis, 0)[index] = np.where(np.isin(result, answered), result, 0)
    return LabelVolume(labels, labelmap.ijk_to_ras, labelmap.segments), axis


def _run_into(labels: NDArray[Any], run: PropagationRun, axis: int) -> bool:
    """Do a run and put what it finds into a label map; returns whether Ctrl-C ended it."""
    planes = np.moveaxis(labels, axis, 0)
    with progress_bar(run.remaining, "propagating", "slice") as bar:
        try:
            for piece in run:
                planes[piece.index][piece.mask] = piece.label
                bar.total = run.made + run.remaining  # a structure that ends leaves less to do
                bar.update(run.made - bar.n)
        except KeyboardInterrupt:
            return True
    return False


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
    found = [np.flatnonzero(slices) for slices in held]
    score = [
        # Along an axis of one voxel there is nowhere to go.
        len(indices) ** 2 / (indices[-1] + 1 - indices[0]) if side > 1 else math.inf
        for indices, side in zip(found, labelmap.shape, strict=True)
    ]
    best, second, _ = np.argsort(score, kind="stable").tolist()
    if score[best] * _CLEARLY > score[second]:
        raise PromptError(
            "The axis along which slices were annotated cannot be told: with labels are "
            + ", ".join(listed_slices(axis, found[axis].tolist()) for axis in range(3))
            + ". Give --axis k, j or i."
        )
    return int(best)


def annotated_slices(
    labelmap: Volume, axis: int, segments: Sequence[Segment], *, complete: bool
) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """Cut the annotated masks out of a label map: for each label, bool (H, W) by slice index.

    If slices are `complete`, a segment that an annotated slice does not show is absent there, otherwise unknown.
    """
    found: dict[int, dict[int, NDArray[np.bool_]]] = {segment.label: {} for segment in segments}
    for index, plane in enumerate(np.moveaxis(labelmap.array, axis, 0)):
        present = set(np.unique(plane).tolist()) if plane.any() else set()
        for label, masks in found.items():
            if label in present or (complete and present):
                masks[index] = np.asarray(plane == label)
    return found


def contexts_by_label(contexts: Sequence[ContextSet], segments: Sequence[Segment]) -> dict[int, ContextSet]:
    """Find the segment that each context set is for, by its name; a single segment takes any set.

    Raises:
        ContextError: A set that fits none or several segments, or two for one segment.
    """
    found: dict[int, ContextSet] = {}
    for context in contexts:
        wanted = context.label_name.casefold()
        fitting = [one for one in segments if one.name.strip().casefold() == wanted]
        if not fitting and len(segments) == 1:
            fitting = list(segments)
        if len(fitting) != 1:
            names = ", ".join(repr(one.name) for one in segments)
            raise ContextError(
                f"The context set is for {context.label_name!r}, but {len(fitting)} segments have that name; there are "
                f"{names}. Name one of them as the set is named."
            )
        if fitting[0].label in found:
            raise ContextError(f"Two context sets are for the segment {fitting[0].name!r}. Give one.")
        found[fitting[0].label] = context
    return found


def _summary(result: Propagation, axis: str) -> str:
    if not result.slices:
        return "no slice propagated"
    confidence = {index: piece.confidence for index, piece in result.slices.items()}
    worst = min(confidence, key=lambda index: confidence[index])
    mean = sum(confidence.values()) / len(confidence)
    ends = [
        f"{'after' if end.direction > 0 else 'before'} {axis}:{end.index} {end.reason.value}" for end in result.stopped
    ]
    parts = [
        f"{len(confidence)} slices {axis}:{listed(confidence)}",
        f"confidence {mean:.2f}, least {confidence[worst]:.2f} at {axis}:{worst}",
        *ends,
        f"next slice worth correcting: {'none' if result.next_slice is None else f'{axis}:{result.next_slice}'}",
    ]
    return "; ".join(parts)
